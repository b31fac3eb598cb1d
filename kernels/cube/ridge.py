r"""Ridge regressions of many series, each on its own subset of the same series.

Target y is predicted from k series x_1 ... x_k by the coefficients that minimise

    sum_n w_n (y_n - sum_j a_j x_jn)^2 + sum_j ridge_j a_j^2,

    (X W X^T + diag(ridge)) a = X W y.

With weights that all targets share, X W X^T is a part of one Gram matrix of all series, and targets
beside each other have most of their predictors in common. `subsets` solves a run of such systems as
a tree: what all of the run share is eliminated once (a partial Cholesky factor), both halves of the
run go on from the Schur complement, and so on to the single target. For runs of 16 pixels with the
400 closest pixels as predictors this takes a quarter of the operations of a factor each. A fit that
does not see some epochs is the same with another Gram matrix (`shared_cpu`).

What a fit would predict for epochs that it does not see also follows from the factor of the whole
(`single_cpu`). With Z = W^1/2 X^T L^-T (one row an epoch), H = Z Z^T and the residuals
e = W^1/2 (y - X^T a), the residuals of a fit without the block B of epochs are

    e'_B = (I - H_BB)^-1 e_B,

exactly: no second fit is made. Blocks that overlap, as windows about each epoch do, are subsets of
one matrix again. The trace of H is the number of degrees of freedom.

With fewer epochs than predictors the same is had from a matrix of epochs (`dual_cpu`),

    Q = (K + ridge I)^-1 where K = W^1/2 X^T X W^1/2,
    e = ridge Q W^1/2 y,    a = X W^1/2 Q W^1/2 y,    e'_B = Q_BB^-1 (Q W^1/2 y)_B,

for K restricted to what is orthogonal to the series without a penalty.

Shapes: series (n_series, n_epochs) float64, without their mean where there is a constant to fit;
gram (n_series, n_series) float64 = (series w) series^T, symmetric; targets (n,) int64, rows of
`series`; predictors (n, k_max) int32, rows of `series`, of which the first counts[i] count, in
ascending order, the last `n_free` without a penalty; roots (n_epochs,) float64, square
roots of the shared weights; own (m, n_epochs) float64, square roots of weights of their own; which
(n,) int64, a row of `own` or -1; blocks (n_blocks, 4) int64: without epochs first <= n < stop,
predict epochs from <= n < to (inside of them); runs (n_runs, 4) int64: blocks begin <= b < end that
overlap, which lie in epochs low <= n < high.

Cost a target, in operations: k^3 / 3 for the factor, k^2 n_epochs for Z, and for every block of b
epochs b^2 k + b^3 / 3 (windows: each pair of epochs once, and less than b^3 / 30); with weights of
its own k^2 times the epochs that differ more. Dual: n_epochs^2 k + n_epochs^3.

Source: Wang et al. 2017 (arXiv 1710.02428), eqs. 2 and 3; the identity of blocks is that of
Cook & Weisberg 1982 (Residuals and Influence in Regression), section 3.4.
"""

from __future__ import annotations

import math

import numpy as np

from .. import jit
from ..jit import cuda
from ..linalg.factor import (
    dot,
    dots,
    eliminate,
    factorise,
    pad,
    solve_back,
    solve_forward,
    solve_rows,
)

DEPTH = 4
RUN = 2**DEPTH
"""Systems that are solved as one tree."""

_EPOCHS = 32  # of all predictors of a run, which stay in the second cache


# ---------------------------------------------------------------- items


@jit.item
def transpose(series, index, k, first, last, out):
    """``out[t - first, a] = series[index[a], t]`` for a < k and first <= t < last."""
    for a in range(k):
        row = series[index[a]]
        for t in range(first, last):
            out[t - first, a] = row[t]


@jit.item
def gather(gram, predictors, k, target, matrix, right):
    """The predictors' part of the Gram matrix, its lower half, and of the target's row."""
    wanted = gram[target]
    for i in range(k):
        source, row = gram[predictors[i]], matrix[i]
        for j in range(i + 1):
            row[j] = source[predictors[j]]
        right[i] = wanted[predictors[i]]


@jit.item
def union(lists, counts, seen, out):
    """All that is in some list, ascending, into `out`; how many. `seen` becomes how often."""
    seen[:] = 0
    for i in range(len(lists)):
        for a in range(counts[i]):
            seen[lists[i, a]] += 1
    n = 0
    for p in range(len(seen)):
        if seen[p] > 0:
            out[n] = p
            n += 1
    return n


@jit.item
def level(stack, number, size):
    """Square matrix of one level of the tree."""
    return stack[number, : size * size].reshape((size, size))


@jit.item
def subsets(base, rights, lists, counts, ridge, n_penalised, depth, stack, solution):
    """Solve ``(base[S, S] + ridge) x = base[S, right]`` for up to 2^depth subsets S.

    The ridge is that of rows below `n_penalised`. `stack` (depth + 1, m) is scratch: m is the
    square of a multiple of 8, larger by 16 or more than all subsets together and 2^depth.

    A node of the tree is a matrix of rows [eliminated, others, right-hand sides]. They come from
    those of the node above it, and all that is left to do for its subsets is in the last two.
    """
    n_base, n_lists = len(base), len(lists)
    seen = np.zeros(n_base, np.int64)
    right, full, out = np.zeros(n_base + 16), np.zeros(n_base), np.zeros((8, 2))
    # Level 0 is `base`, level d has nodes of 2^(depth + 1 - d) subsets: the row above of each of
    # their rows, and its name, which is its row of `base`.
    place, name = np.zeros((2, depth + 2, n_base + 2**depth + 16), np.int64)
    n_gone, n_rest, begins, sizes = np.zeros((4, depth + 2), np.int64)
    n_rest[0] = union(lists, counts, seen, name[0])
    for i in range(n_lists):
        for d in range(1, depth + 2):
            span = 2 ** (depth + 1 - d)
            if i % span > 0:
                continue
            members = min(i + span, n_lists) - i
            first, left = n_gone[d - 1], n_rest[d - 1]
            names = name[d - 1, first : first + left]
            for a in range(left):
                seen[names[a]] = 0
            for m in range(i, i + members):
                for a in range(counts[m]):
                    seen[lists[m, a]] += 1
            n = 0
            for a in range(left):
                n += seen[names[a]] == members
            if d <= depth:
                n = n // 8 * 8  # what is left over stays for the nodes below
            gone, rest = 0, n
            for a in range(left):
                p = names[a]
                row = first + a if d > 1 else p
                if seen[p] == members and gone < n:
                    place[d, gone], name[d, gone] = row, p
                    gone += 1
                elif seen[p] > 0:
                    place[d, rest], name[d, rest] = row, p
                    rest += 1
            n_gone[d], n_rest[d], begins[d] = n, rest - n, i
            for m in range(members):
                row = first + left + i - begins[d - 1] + m if d > 1 else rights[i + m]
                place[d, rest + m] = row
            rows = rest + members
            sizes[d] = (rows + 7) // 8 * 8 + 8
            source = level(stack, d - 2, sizes[d - 1]) if d > 1 else base
            matrix = level(stack, d - 1, sizes[d])
            if d <= depth:
                for a in range(rows, sizes[d]):
                    place[d, a] = place[d, 0]
                for a in range(sizes[d] - 8):
                    row_of, above = matrix[a], source[place[d, a]]
                    for b in range(a // 8 * 8 + 8):
                        row_of[b] = above[place[d, b]]
            else:
                gather(source, place[d], n, place[d, n], matrix, right)
            if d == 1:
                for a in range(rest):
                    if name[d, a] < n_penalised:
                        matrix[a, a] += ridge
            if d <= depth:
                eliminate(matrix, n, rows, rest, out)
            else:
                n_padded = (n + 7) // 8 * 8
                pad(matrix, right, n, n_padded)
                factorise(matrix, n_padded, out)
                solve_forward(matrix, right, n_padded)
                solve_back(matrix, right, n_padded)
                for a in range(n):
                    full[name[d, a]] = right[a]
        # What was eliminated above, from the last level to the first.
        for d in range(depth, 0, -1):
            matrix, n = level(stack, d - 1, sizes[d]), n_gone[d]
            known = matrix[n + n_rest[d] + i - begins[d]]
            for t in range(n):
                right[t] = known[t]
            for a in range(n, n + n_rest[d]):
                value, row_of = full[name[d, a]], matrix[a]
                if value != 0.0:
                    for t in range(np.uintp(n)):
                        right[t] -= value * row_of[t]
            solve_back(matrix, right, n)
            for a in range(n):
                full[name[d, a]] = right[a]
        for a in range(counts[i]):
            solution[i, a] = full[lists[i, a]]
            full[lists[i, a]] = 0.0


@jit.item
def bridge(values, bad):
    """Put a straight line between the good values around them into the bad ones.

    Before the first good value and after the last one, these; nothing changes where none is good.
    """
    last = -1
    for t in range(len(values)):
        if bad[t]:
            continue
        if last < 0:
            last = t
            for s in range(t):
                values[s] = values[t]
        slope = (values[t] - values[last]) / max(t - last, 1)
        for s in range(last + 1, t):
            values[s] = slope * (s - last) + values[last]
        last = t
    if last >= 0:
        for s in range(last + 1, len(values)):
            values[s] = values[last]


@jit.item
def leave_out(base, row, low, blocks, longest, target, root, stack, predicted):
    """Predictions of a run of blocks: the target less what (base_BB)^-1 base_B,row leaves of it.

    Row 0 of `base` is epoch `low`.
    """
    n = len(blocks)
    rights, counts = np.full(n, row), np.zeros(n, np.int64)
    lists, missed = np.zeros((n, longest), np.int32), np.zeros((n, longest))
    depth = 0
    while 2**depth < n:
        depth += 1
    for b in range(n):
        counts[b] = blocks[b, 1] - blocks[b, 0]
        for a in range(counts[b]):
            lists[b, a] = blocks[b, 0] - low + a
    subsets(base, rights, lists, counts, 0.0, 0, depth, stack, missed)
    for b in range(n):
        for t in range(blocks[b, 2], blocks[b, 3]):
            if root[t] > 0.0:
                predicted[t] = target[t] - missed[b, t - blocks[b, 0]] / root[t]


# ---------------------------------------------------------------- CPU


@jit.cpu_loop
def shared_cpu(
    start, stop, series, gram, targets, predictors, counts, n_free, ridge, begin, end, prediction,
    coefficients,
):  # fmt: skip
    """Item: `RUN` targets, best neighbours, that share the weights of `gram` and the ridge.

    `prediction` (n, n_epochs) is filled for begin <= n < end; `coefficients` (n, k_max) may be
    empty.
    """
    n_series, k_max = len(series), predictors.shape[1]
    seen, every = np.zeros((2, n_series), np.int64)
    most = 0
    for item in range(start, stop):
        first, last = item * RUN, min(item * RUN + RUN, len(targets))
        most = max(most, union(predictors[first:last], counts[first:last], seen, every))
    size = (most + RUN + 7) // 8 * 8 + 16
    stack = np.empty((DEPTH + 1, size * size))
    values, dense = np.zeros((RUN, k_max)), np.zeros((RUN, size))
    rows, out = np.zeros((_EPOCHS, size)), np.zeros((8, 2))
    for item in range(start, stop):
        first, last = item * RUN, min(item * RUN + RUN, len(targets))
        lists, lengths = predictors[first:last], counts[first:last]
        subsets(
            gram, targets[first:last], lists, lengths, ridge, n_series - n_free, DEPTH, stack,
            values,
        )  # fmt: skip
        # All predictors of the run, for all of its targets: 0 where a target does without.
        m = union(lists, lengths, seen, every)
        for a in range(m):
            seen[every[a]] = a
        dense[:] = 0.0
        for i in range(last - first):
            for a in range(lengths[i]):
                dense[i, seen[lists[i, a]]] = values[i, a]
                if len(coefficients):
                    coefficients[first + i, a] = values[i, a]
        for t in range(begin, end, _EPOCHS):
            until = min(t + _EPOCHS, end)
            transpose(series, every, m, t, until, rows)
            for r in range(0, until - t, 8):
                for i in range(0, last - first, 2):
                    dots(rows[r:], dense[i:], m, out)
                    for a in range(min(8, until - t - r)):
                        prediction[first + i, t + r + a] = out[a, 0]
                        if first + i + 1 < last:
                            prediction[first + i + 1, t + r + a] = out[a, 1]


@jit.cpu_loop
def single_cpu(
    start, stop, series, gram, targets, predictors, counts, n_free, ridge, roots, own, which,
    blocks, runs, prediction, freedom, leverage, coefficients,
):  # fmt: skip
    """Item: one target, with `ridge` (n,) of its own, and weights of its own where it has some.

    `prediction` (n, n_epochs) is that of the blocks, and of the whole fit at epochs in no block
    or without weight. Without blocks, and with an empty `leverage`, Z is not made and `freedom`
    (n,) is not written; `leverage` (n, n_epochs) and `coefficients` (n, k_max) may be empty.
    Where there is a Gram matrix, own weights are those of all or 0; without, `gram` is empty.
    """
    n_epochs, k_max = series.shape[1], predictors.shape[1]
    size = (k_max + 7) // 8 * 8
    rows = (n_epochs + 7) // 8 * 8 + 8
    matrix = np.zeros((size + 8, size))
    right, known, out = np.zeros(size), np.zeros(size), np.zeros((8, 2))
    residual, index = np.zeros(rows), np.zeros(size, np.int64)
    with_z = len(blocks) > 0 or len(leverage) > 0
    z = np.zeros((rows if with_z else 8, size))
    longest, widest = 0, 0
    for b in range(len(blocks)):
        longest = max(longest, blocks[b, 1] - blocks[b, 0])
    for b in range(len(runs)):
        widest = max(widest, runs[b, 3] - runs[b, 2])
    side = (widest + RUN + 7) // 8 * 8 + 16
    inner, stack = np.zeros((side, side)), np.empty((DEPTH + 1, side * side))
    weighted = np.zeros((size + 8 if len(own) else 0, n_epochs))
    lost = np.zeros(n_epochs, np.int64)
    for i in range(start, stop):
        k, target = counts[i], targets[i]
        n = (k + 7) // 8 * 8
        root, y = roots, series[target]
        index[:k], index[k:] = predictors[i, :k], 0
        if which[i] >= 0:
            root = own[which[i]]
        n_lost = 0
        for t in range(n_epochs):
            if root[t] != roots[t]:
                lost[n_lost] = t
                n_lost += 1
        sign = -1.0
        if len(gram) and n_lost <= n_epochs // 2:
            gather(gram, index, k, target, matrix, right)
        else:
            sign, n_lost = 1.0, n_epochs
            for t in range(n_epochs):
                lost[t] = t
            matrix[:], right[:] = 0.0, 0.0
        if n_lost > 0:
            for t in range(n_lost):
                # What is lost had the shared weights.
                residual[t] = y[lost[t]] * (root if sign > 0.0 else roots)[lost[t]]
            for a in range(k):
                for t in range(n_lost):
                    scale = (root if sign > 0.0 else roots)[lost[t]]
                    weighted[a, t] = series[index[a], lost[t]] * scale
                right[a] += sign * dot(weighted[a], residual, n_lost)
            for a in range(k, n + 8):
                weighted[a] = 0.0
            for a in range(0, n, 8):
                for b in range(0, a + 8, 2):
                    dots(weighted[a:], weighted[b:], n_lost, out)
                    for r in range(8):
                        matrix[a + r, b] += sign * out[r, 0]
                        matrix[a + r, b + 1] += sign * out[r, 1]
        pad(matrix, right, k, n)
        for a in range(k - n_free):
            matrix[a, a] += ridge[i]
        factorise(matrix, n, out)
        solve_forward(matrix, right, n)
        known[:] = right
        solve_back(matrix, right, n)
        predicted = prediction[i]
        if len(coefficients):
            for a in range(k):
                coefficients[i, a] = right[a]
        if not with_z:
            for first in range(0, n_epochs, 8):
                last = min(first + 8, n_epochs)
                transpose(series, index, k, first, last, z)
                for t in range(first, last):
                    predicted[t] = dot(z[t - first], right, k)
            continue
        freedom[i] = 0.0
        for first in range(0, n_epochs, 8):
            last = min(first + 8, n_epochs)
            transpose(series, index, k, first, last, z[first:])
            for t in range(first, first + 8):
                scale = root[t] if t < n_epochs and root[t] > 0.0 else 1.0
                for a in range(k if t < n_epochs else 0):
                    z[t, a] *= scale
                for a in range(k if t < n_epochs else 0, n):
                    z[t, a] = 0.0
            solve_rows(z[first:], matrix, n, out)
            for t in range(first, last):
                value = dot(z[t], known, n)
                if root[t] > 0.0:
                    predicted[t] = value / root[t]
                    residual[t] = y[t] * root[t] - value
                else:
                    predicted[t], residual[t] = value, 0.0
                    for a in range(n):
                        z[t, a] = 0.0
                part = dot(z[t], z[t], n)
                freedom[i] += part
                if len(leverage):
                    leverage[i, t] = part
        # I - H of the epochs of one run of blocks after the other, of which only what is new.
        low, high = 0, 0
        for b in range(len(runs)):
            begin, m = runs[b, 2], runs[b, 3] - runs[b, 2]
            shift, old = begin - low, max(high - begin, 0)
            for r in range(old):
                for c in range(old):
                    inner[r, c] = inner[r + shift, c + shift]
            low, high = begin, runs[b, 3]
            for r in range(old, m, 8):
                for c in range(0, min(r + 8, m), 2):
                    dots(z[low + r :], z[low + c :], n, out)
                    for a in range(8):
                        for d in range(2):
                            value = (1.0 if r + a == c + d else 0.0) - out[a, d]
                            inner[r + a, c + d] = value
                            inner[c + d, r + a] = value
            for t in range(m):
                inner[m, t] = residual[low + t]
            leave_out(
                inner, m, low, blocks[runs[b, 0] : runs[b, 1]], longest, y, root, stack, predicted
            )


@jit.cpu_loop
def dual_cpu(
    start, stop, series, targets, predictors, counts, n_free, ridge, roots, own, which, blocks,
    runs, prediction, freedom, leverage, coefficients,
):  # fmt: skip
    """Item: one target, as in `single_cpu`, by a matrix of epochs; `ridge` is positive.

    `freedom` (n,) is always written; `coefficients` are those of the series with a penalty.
    """
    n_epochs, k_max = series.shape[1], predictors.shape[1]
    n = (n_epochs + 7) // 8 * 8
    wide = (k_max + 7) // 8 * 8
    x, inverse = np.zeros((n + 8, wide)), np.zeros((n + 8, n))
    matrix = np.zeros((n + 8, n + 8))
    basis, bare = np.zeros((2, n_free, n_epochs))
    weighted, rest, out = np.zeros(n), np.zeros(n), np.zeros((8, 2))
    product, values = np.zeros(n_epochs), np.zeros(wide)
    longest, widest = 0, 0
    for b in range(len(blocks)):
        longest = max(longest, blocks[b, 1] - blocks[b, 0])
    for b in range(len(runs)):
        widest = max(widest, runs[b, 3] - runs[b, 2])
    side = (widest + RUN + 7) // 8 * 8 + 16
    stack = np.empty((DEPTH + 1, side * side))
    for i in range(start, stop):
        k, target = counts[i] - n_free, targets[i]
        root, y = roots, series[target]
        if which[i] >= 0:
            root = own[which[i]]
        for a in range(k):
            row = series[predictors[i, a]]
            for t in range(n_epochs):
                x[t, a] = row[t] * root[t]
        x[:, k:] = 0.0
        trace = 0.0
        for r in range(0, n, 8):
            for c in range(0, r + 8, 2):
                dots(x[r:], x[c:], k, out)
                for a in range(8):
                    for d in range(2):
                        matrix[r + a, c + d] = matrix[c + d, r + a] = out[a, d]
        for t in range(n_epochs):
            trace += matrix[t, t]
            weighted[t] = y[t] * root[t]
        scale = trace / n_epochs
        # What has no penalty is split off: it keeps an eigenvalue, `scale`, of its own.
        for f in range(n_free):
            row = series[predictors[i, k + f]]
            for t in range(n_epochs):
                bare[f, t], basis[f, t] = row[t], row[t] * root[t]
            before = math.sqrt(dot(basis[f], basis[f], n_epochs))
            for _ in range(2):
                for g in range(f):
                    part = dot(basis[f], basis[g], n_epochs)
                    for t in range(n_epochs):
                        basis[f, t] -= part * basis[g, t]
                        bare[f, t] -= part * bare[g, t]
            norm = math.sqrt(dot(basis[f], basis[f], n_epochs))
            inverse_norm = 1.0 / norm if norm > 1e-9 * before else 0.0
            for t in range(n_epochs):
                basis[f, t] *= inverse_norm
                bare[f, t] *= inverse_norm
            for t in range(n_epochs):
                product[t] = dot(matrix[t], basis[f], n_epochs)
            middle = dot(product, basis[f], n_epochs) + scale
            for t in range(n_epochs):
                for s in range(n_epochs):
                    matrix[t, s] += (
                        middle * basis[f, t] * basis[f, s]
                        - product[t] * basis[f, s] - basis[f, t] * product[s]
                    )  # fmt: skip
        for t in range(n_epochs):
            matrix[t, t] += ridge[i]
        pad(matrix, rest, n_epochs, n)
        factorise(matrix, n, out)
        for r in range(0, n, 8):
            inverse[r : r + 8] = 0.0
            for a in range(8):
                inverse[r + a, r + a] = 1.0
            solve_rows(inverse[r:, r:], matrix[r:, r:], n - r, out)
        for r in range(0, n, 8):
            for c in range(0, r + 8, 2):
                dots(inverse[r:, r:], inverse[c:, r:], n - r, out)
                for a in range(8):
                    for d in range(2):
                        matrix[r + a, c + d] = matrix[c + d, r + a] = out[a, d]
        for f in range(n_free):
            for t in range(n_epochs):
                part = basis[f, t] / (scale + ridge[i])
                for s in range(n_epochs):
                    matrix[t, s] -= part * basis[f, s]
        for t in range(n_epochs):
            rest[t] = dot(matrix[t], weighted, n_epochs)
        values[:] = 0.0
        for t in range(n_epochs):
            part, row = rest[t], x[t]
            for a in range(np.uintp(k)):
                values[a] += part * row[a]
        if len(coefficients):
            for a in range(k):
                coefficients[i, a] = values[a]
        predicted = prediction[i]
        for t in range(n_epochs):
            product[t] = weighted[t] - dot(x[t], values, k)
            if root[t] > 0.0:
                predicted[t] = y[t] - ridge[i] * rest[t] / root[t]
            else:
                predicted[t] = 0.0
                for a in range(k):
                    predicted[t] += values[a] * series[predictors[i, a], t]
        for f in range(n_free):
            part = dot(product, basis[f], n_epochs)
            for t in range(n_epochs):
                if root[t] == 0.0:
                    predicted[t] += part * bare[f, t]
        freedom[i] = 0.0
        for t in range(n_epochs):
            part = 1.0 - ridge[i] * matrix[t, t] if root[t] > 0.0 else 0.0
            freedom[i] += part
            if len(leverage):
                leverage[i, t] = part
        for t in range(n_epochs):
            matrix[n, t] = rest[t]
        for b in range(len(runs)):
            leave_out(
                matrix, n, 0, blocks[runs[b, 0] : runs[b, 1]], longest, y, root, stack, predicted
            )


@jit.cpu_loop
def scores_cpu(
    start, stop, gram, targets, predictors, counts, n_free, ridges, square, freedom
):  # fmt: skip
    """Item: one target. Sum of weighted squared residuals and degrees of freedom, (n, n_ridges).

    The residuals follow from y^T W y = gram[target, target], the degrees of freedom are
    k - ridge tr(A^-1), A^-1 = L^-T L^-1, over the coefficients with a penalty.
    """
    k_max = predictors.shape[1]
    size = (k_max + 7) // 8 * 8
    matrix, inverse = np.zeros((size + 8, size)), np.zeros((8, size))
    right, wanted, out = np.zeros(size), np.zeros(size), np.zeros((8, 2))
    for i in range(start, stop):
        k, target = counts[i], targets[i]
        n = (k + 7) // 8 * 8
        for r in range(len(ridges)):
            gather(gram, predictors[i], k, target, matrix, right)
            pad(matrix, right, k, n)
            wanted[:] = right
            for a in range(k - n_free):
                matrix[a, a] += ridges[r]
            factorise(matrix, n, out)
            solve_forward(matrix, right, n)
            solve_back(matrix, right, n)
            penalised = dot(right, right, k - n_free)
            square[i, r] = gram[target, target] - dot(right, wanted, k) - ridges[r] * penalised
            trace = 0.0
            for first in range(0, k - n_free, 8):
                # Rows of L^-T, which begin at the diagonal.
                inverse[:] = 0.0
                for a in range(8):
                    if first + a < k - n_free:
                        inverse[a, a] = 1.0
                solve_rows(inverse, matrix[first:, first:], n - first, out)
                for a in range(8):
                    trace += dot(inverse[a], inverse[a], n - first)
            freedom[i, r] = k - ridges[r] * trace


@jit.cpu_loop
def bridge_cpu(start, stop, rows, series, bad):
    """Item: one of the `rows` of `series` that have bad epochs."""
    for i in range(start, stop):
        bridge(series[rows[i]], bad[rows[i]])


# ---------------------------------------------------------------- CUDA


@jit.cuda_kernel
def gather_cuda(gram, targets, predictors, counts, n_free, ridge, matrix, right):
    """One thread an entry of `matrix` (n, size, size); batched libraries factor and solve.

    Padded as on the CPU, both halves filled, the penalty on the diagonal.
    """
    item = cuda.grid(1)
    size = matrix.shape[1]
    if item >= matrix.shape[0] * size * size:
        return
    i, a, b = item // (size * size), (item // size) % size, item % size
    k = counts[i]
    value = 1.0 if a == b else 0.0
    if a < k and b < k:
        value = gram[predictors[i, a], predictors[i, b]]
        if a == b and a < k - n_free:
            value += ridge[i]
    matrix[i, a, b] = value
    if b == 0:
        right[i, a] = gram[predictors[i, a], targets[i]] if a < k else 0.0


@jit.cuda_kernel
def forward_cuda(factor, columns):
    """One thread a column of `columns` (n, size, m), which becomes L^-1 of it.

    The factors are (n, size, size). Threads beside each other read the same of their factor, and
    neighbouring entries of a row of columns.
    """
    item = cuda.grid(1)
    n, size, m = columns.shape
    if item < n * m:
        solve_forward(factor[item // m], columns[item // m, :, item % m], size)


@jit.cuda_kernel
def predict_cuda(series, predictors, counts, coefficients, prediction):
    """One thread an entry of `prediction` (n, m), of the first m epochs of `series`."""
    item = cuda.grid(1)
    n, m = prediction.shape
    if item >= n * m:
        return
    i, t = item // m, item % m
    total = 0.0
    for a in range(counts[i]):
        total += coefficients[i, a] * series[predictors[i, a], t]
    prediction[i, t] = total


@jit.cuda_kernel
def bridge_cuda(rows, series, bad):
    """One thread a row that has bad epochs."""
    item = cuda.grid(1)
    if item < rows.shape[0]:
        bridge(series[rows[item]], bad[rows[item]])


# ------------------------------------------------------------------- entry points
#
# Arrays are those of the loops above, in their order; what is filled comes last.


def bridge_series(rows, series, bad, threads: int | None = None) -> None:
    """Fill bad points of rows of `series` from what lies before and after them, in place."""
    if jit.on_cpu(series):
        jit.run(bridge_cpu, len(rows), threads, rows, series, bad)
    else:
        jit.launch(bridge_cuda, len(rows), rows, series, bad)


def fit_shared(series, gram, targets, *rest: object, threads: int | None = None) -> None:
    """Fits that neighbours share: arguments of `shared_cpu`; only in the memory of the CPU."""
    jit.run(shared_cpu, -(-len(targets) // RUN), threads, series, gram, targets, *rest)


def fit_single(series, gram, targets, *rest: object, threads: int | None = None) -> None:
    """A matrix of predictors for each target: arguments of `single_cpu`; on the CPU only."""
    jit.run(single_cpu, len(targets), threads, series, gram, targets, *rest)


def fit_dual(series, targets, *rest: object, threads: int | None = None) -> None:
    """A matrix of epochs for each target: arguments of `dual_cpu`; on the CPU only."""
    jit.run(dual_cpu, len(targets), threads, series, targets, *rest)


def score_penalties(gram, targets, *rest: object, threads: int | None = None) -> None:
    """Squared residuals and freedom for a series of penalties: arguments of `scores_cpu`."""
    jit.run(scores_cpu, len(targets), threads, gram, targets, *rest)


def gather_systems(gram, targets, lists, counts, n_free, ridge, matrix, right) -> None:
    """Fill the normal equations (n, k, k) and (n, k) of targets, on a GPU."""
    n_items = len(lists) * lists.shape[1] ** 2
    jit.launch(gather_cuda, n_items, gram, targets, lists, counts, n_free, ridge, matrix, right)


def solve_forward_columns(factor, columns) -> None:
    """Replace columns (n, k, m) by L^-1 columns for factors L (n, k, k), on a GPU."""
    jit.launch(forward_cuda, len(columns) * columns.shape[2], factor, columns)


def predict_targets(series, lists, counts, coefficients, out) -> None:
    """Fill `out` (n, n_epochs) with the sums of the predictors, on a GPU."""
    jit.launch(predict_cuda, out.shape[0] * out.shape[1], series, lists, counts, coefficients, out)
