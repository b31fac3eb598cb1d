r"""Ridge regressions of many series, each on its own subset of the same series.

Target y is predicted from k series x_1 ... x_k by the coefficients that minimise

    sum_n w_n (y_n - sum_j a_j x_jn)^2 + sum_j ridge_j a_j^2,

    (X W X^T + diag(ridge)) a = X W y.

With weights that all targets share, X W X^T is a part of one Gram matrix of all series: it is
gathered, factored (L L^T, Cholesky) and solved, target by target. Targets with weights of their
own have their matrix made from the series.

What the fit would predict for epochs that it does not see follows from the same factor. With
Z = W^1/2 X^T L^-T (one row an epoch), H = Z Z^T and the residuals e = W^1/2 (y - X^T a), the
residuals of a fit without the block B of epochs are

    e'_B = (I - H_BB)^-1 e_B,

exactly: no second fit is made. The trace of H is the number of degrees of freedom.

Every sum of products is a tile of 8 x 2 scalar products of rows (`dots`): 16 sums stay in
registers, 10 loads serve 16 multiplications.

Shapes: series (n_series, n_epochs) float64, without their mean where there is a constant to fit;
gram (n_series, n_series) float64 = (series w) series^T; targets (n,) int64, rows of `series`;
predictors (n, k_max) int32, rows of `series`, of which the first counts[i] count, the last
`n_free` of those without a penalty; ridge (n,) float64; roots (n_epochs,) float64, square roots of
the shared weights; own (m, n_epochs) float64, square roots of weights of their own; which (n,)
int64, a row of `own` or -1; blocks (n_blocks, 4) int64: without epochs first <= n < stop, predict
epochs from <= n < to (inside of them).

Cost a target: k^3 / 3 operations for the factor, 2 k^2 n_epochs / 2 for Z, and for every block of b
epochs b^2 k + b^3 / 3; with weights of its own k^2 n_epochs more.

Source: Wang et al. 2017 (arXiv 1710.02428), eqs. 2 and 3; the identity of blocks is that of
Cook & Weisberg 1982 (Residuals and Influence in Regression), section 3.4.
"""

from __future__ import annotations

import math

import numpy as np

from . import jit
from .jit import cuda

ROWS = 8
"""Rows of a tile; matrices are padded to a multiple."""


def padded(n: int) -> int:
    """Least multiple of `ROWS` that holds n."""
    return -(-n // ROWS) * ROWS


# ---------------------------------------------------------------- items


@jit.item
def dots(a, b, n, out):
    """``out[r, c] = sum_t a[r, t] b[c, t]`` for 8 rows a and 2 rows b, t < n."""
    a0, a1, a2, a3, a4, a5, a6, a7 = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
    b0, b1 = b[0], b[1]
    s00 = s01 = s10 = s11 = s20 = s21 = s30 = s31 = 0.0
    s40 = s41 = s50 = s51 = s60 = s61 = s70 = s71 = 0.0
    for t in range(np.uintp(n)):
        u, v = b0[t], b1[t]
        s00 += a0[t] * u
        s01 += a0[t] * v
        s10 += a1[t] * u
        s11 += a1[t] * v
        s20 += a2[t] * u
        s21 += a2[t] * v
        s30 += a3[t] * u
        s31 += a3[t] * v
        s40 += a4[t] * u
        s41 += a4[t] * v
        s50 += a5[t] * u
        s51 += a5[t] * v
        s60 += a6[t] * u
        s61 += a6[t] * v
        s70 += a7[t] * u
        s71 += a7[t] * v
    out[0, 0], out[0, 1], out[1, 0], out[1, 1] = s00, s01, s10, s11
    out[2, 0], out[2, 1], out[3, 0], out[3, 1] = s20, s21, s30, s31
    out[4, 0], out[4, 1], out[5, 0], out[5, 1] = s40, s41, s50, s51
    out[6, 0], out[6, 1], out[7, 0], out[7, 1] = s60, s61, s70, s71


@jit.item
def dot(a, b, n):
    total = 0.0
    for t in range(np.uintp(n)):
        total += a[t] * b[t]
    return total


@jit.item
def solve_rows(rows, factor, n, out):
    """8 rows times L^-T in place, over the first n columns (even); `out` (8, 2) is scratch."""
    for j in range(0, n, 2):
        dots(rows, factor[j:], j, out)
        d0, d1, below = 1.0 / factor[j, j], 1.0 / factor[j + 1, j + 1], factor[j + 1, j]
        for r in range(8):
            value = (rows[r, j] - out[r, 0]) * d0
            rows[r, j] = value
            rows[r, j + 1] = (rows[r, j + 1] - out[r, 1] - value * below) * d1


@jit.item
def factorise(matrix, n, out):
    """Lower half of a positive matrix (n, n), n a multiple of 8, to L in place."""
    for i in range(0, n, 8):
        block = matrix[i:]
        solve_rows(block, matrix, i, out)
        for j in range(i, i + 8, 2):
            dots(block, matrix[j:], j, out)
            r = j - i
            first = math.sqrt(max(matrix[j, j] - out[r, 0], 1e-300))
            below = (matrix[j + 1, j] - out[r + 1, 0]) / first
            second = math.sqrt(max(matrix[j + 1, j + 1] - out[r + 1, 1] - below * below, 1e-300))
            matrix[j, j], matrix[j + 1, j], matrix[j + 1, j + 1] = first, below, second
            for r in range(j - i + 2, 8):
                value = (block[r, j] - out[r, 0]) / first
                block[r, j] = value
                block[r, j + 1] = (block[r, j + 1] - out[r, 1] - value * below) / second


@jit.item
def solve(factor, right, n):
    """(L L^T)^-1 right, in place."""
    for i in range(n):
        right[i] = (right[i] - dot(factor[i], right, i)) / factor[i, i]
    for i in range(n - 1, -1, -1):
        right[i] /= factor[i, i]
        value = right[i]
        row = factor[i]
        for t in range(np.uintp(i)):
            right[t] -= value * row[t]


@jit.item
def gather(gram, predictors, k, target, matrix, right):
    """The predictors' part of the Gram matrix, its lower half, and of the target's row."""
    for i in range(k):
        source, row = gram[predictors[i]], matrix[i]
        for j in range(i + 1):
            row[j] = source[predictors[j]]
        right[i] = source[target]


@jit.item
def pad(matrix, right, k, n):
    """Make rows and columns k <= i < n those of the identity, with 0 to the right."""
    for i in range(k, n):
        for j in range(i):
            matrix[i, j] = 0.0
        matrix[i, i] = 1.0
        right[i] = 0.0


# ---------------------------------------------------------------- CPU


@jit.cpu_loop
def ridge_cpu(
    start, stop, series, gram, targets, predictors, counts, n_free, ridge, roots, own, which,
    blocks, prediction, freedom, leverage, coefficients,
):  # fmt: skip
    """Item: one target.

    `prediction` (n, n_epochs) is that of the blocks, and of the whole fit at epochs in no block
    or without weight. Without blocks, and with an empty `leverage`, Z is not made and `freedom`
    is not written; `leverage` (n, n_epochs) and `coefficients` (n, k_max) may be empty.
    """
    n_epochs, k_max = series.shape[1], predictors.shape[1]
    size = (k_max + 7) // 8 * 8
    rows = (n_epochs + 7) // 8 * 8 + 8
    matrix = np.zeros((size + 8, size))
    right, residual, out = np.zeros(size), np.zeros(rows), np.zeros((8, 2))
    with_z = len(blocks) > 0 or len(leverage) > 0
    z = np.zeros((rows if with_z else 0, size))
    longest = 0
    for b in range(len(blocks)):
        longest = max(longest, blocks[b, 1] - blocks[b, 0])
    side = (longest + 7) // 8 * 8
    inner, missed = np.zeros((side + 8, side)), np.zeros(side)
    weighted = np.zeros((size + 8 if len(own) else 0, n_epochs))
    for i in range(start, stop):
        k, target = counts[i], targets[i]
        n = (k + 7) // 8 * 8
        index, root = predictors[i], roots
        if which[i] < 0:
            gather(gram, index, k, target, matrix, right)
        else:
            root = own[which[i]]
            for a in range(k):
                for t in range(n_epochs):
                    weighted[a, t] = series[index[a], t] * root[t]
            for a in range(k, n + 8):
                weighted[a] = 0.0
            for a in range(0, n, 8):
                for b in range(0, a + 8, 2):
                    dots(weighted[a:], weighted[b:], n_epochs, out)
                    for r in range(8):
                        matrix[a + r, b], matrix[a + r, b + 1] = out[r, 0], out[r, 1]
            for t in range(n_epochs):
                residual[t] = series[target, t] * root[t]
            for a in range(k):
                right[a] = dot(weighted[a], residual, n_epochs)
        pad(matrix, right, k, n)
        for a in range(k - n_free):
            matrix[a, a] += ridge[i]
        factorise(matrix, n, out)
        solve(matrix, right, n)
        predicted = prediction[i]
        for t in range(n_epochs):
            predicted[t] = 0.0
        for a in range(k):
            value, row = right[a], series[index[a]]
            for t in range(np.uintp(n_epochs)):
                predicted[t] += value * row[t]
        if len(coefficients):
            for a in range(k):
                coefficients[i, a] = right[a]
        if not with_z:
            continue
        freedom[i] = 0.0
        for first in range(0, n_epochs, 8):
            last = min(first + 8, n_epochs)
            for a in range(k):
                row = series[index[a]]
                for t in range(first, last):
                    z[t, a] = row[t] * root[t]
            for t in range(first, first + 8):
                for a in range(k if t < n_epochs else 0, n):
                    z[t, a] = 0.0
            solve_rows(z[first:], matrix, n, out)
            for t in range(first, last):
                part = dot(z[t], z[t], n)
                freedom[i] += part
                if len(leverage):
                    leverage[i, t] = part
        for t in range(n_epochs):
            residual[t] = (series[target, t] - predicted[t]) * root[t]
        for b in range(len(blocks)):
            begin, end = blocks[b, 0], blocks[b, 1]
            length = end - begin
            m = (length + 7) // 8 * 8
            for a in range(0, m, 8):
                for c in range(0, a + 8, 2):
                    dots(z[begin + a :], z[begin + c :], n, out)
                    for r in range(8):
                        inner[a + r, c], inner[a + r, c + 1] = -out[r, 0], -out[r, 1]
            for a in range(length):
                inner[a, a] += 1.0
                missed[a] = residual[begin + a]
            pad(inner, missed, length, m)
            factorise(inner, m, out)
            solve(inner, missed, m)
            for t in range(blocks[b, 2], blocks[b, 3]):
                if root[t] > 0.0:
                    predicted[t] = series[target, t] - missed[t - begin] / root[t]


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
            solve(matrix, right, n)
            penalised = dot(right, right, k - n_free)
            square[i, r] = gram[target, target] - dot(right, wanted, k) - ridges[r] * penalised
            trace = 0.0
            for first in range(0, k - n_free, 8):
                inverse[:] = 0.0
                for a in range(8):
                    if first + a < k - n_free:
                        inverse[a, first + a] = 1.0
                solve_rows(inverse, matrix, n, out)
                for a in range(8):
                    trace += dot(inverse[a], inverse[a], n)
            freedom[i, r] = k - ridges[r] * trace


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
