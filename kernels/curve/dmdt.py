"""Pairs of the points of light curves, counted in cells of time and magnitude difference.

Points i < j of a curve (sorted by time) make one pair with dt = t[j] - t[i], dm = m[j] - m[i],
both differences rounded to float64 once. With ascending edges

    column = (number of dt_edges <= dt) - 1     (pairs outside the edges are left out)
    row    = number of dm_edges <= dm           (0 and n_dm_edges: below and above all edges)

(Mahabal et al. 2017, arXiv:1709.06257, section III). Every comparison is between exactly these
numbers, so that counts do not depend on the path taken:

- `count_short_cpu`, all pairs. Times and magnitudes are scaled to integers, whose differences
  are looked up in two tables, one of columns and one of rows. Entries within one step of an
  edge are marked `UNSURE` (2 % of the pairs): those pairs are compared in float64.
- `count_long_cpu`, less than n^2. Points i are taken in the order of magnitude. From one to
  the next the rows of all points j, kept in the order of time, change in few places: each
  edge passes each point once. Histograms of the rows over blocks of neighbours make a run of
  neighbours (the points of one column) a sum of a few of them.
- `smooth_cpu`, all pairs, each spread along dm as a Gaussian of variance
  magerr[i]^2 + magerr[j]^2: rows get differences of Phi((dm - edge) / sigma), by the error
  function or by a polynomial (`normal_cdf`). A pair without error counts in its row.

Shapes: time, mag, magerr (n_points,) float64, sorted by time within each curve, finite;
offsets (n + 1,) int64; dt_edges (n_dt + 1,), dm_edges (n_rows - 1,) float64, ascending;
counts (n, n_dt, n_rows) int64, smoothed ones float64; n_dt n_rows <= `MAX_CELLS`.
Cost for the 23 x 24 cells of the paper, in operations: 15 a pair; in the long path about
n^1.5; smoothed some 20 for each edge within `TAIL` sigma of a pair.
"""

from __future__ import annotations

import math

import numpy as np

from .. import jit
from ..jit import cuda

u16, u32, index = np.uint16, np.uint32, np.uintp

MAX_CELLS = 1 << 14
"""Most cells, columns times rows, of a call."""
LONG = 2000
"""Curves of more points than this take the path below n^2."""
LONG_JOB = 16384
"""Most points i of a job there; its memory is `dt_edges.size` integers each."""
DT_LEVELS = 8192
"""Steps of the integers that stand for times; two bytes each, in the first-level cache."""
DM_LEVELS = 4096
"""The same for magnitudes; differences have either sign."""
UNSURE = index(MAX_CELLS)
"""Flag of a table's entry: an edge is within a step. The rest is the least that it can be."""
MARGIN = 1e-3  # of a step, far above what float64 rounds

TAIL = 5.2
"""Beyond this many sigma the fast normal distribution is 0 or 1."""
FAST_ERROR = 2e-7
"""Bound on the error of the fast normal distribution."""
EXACT_TAIL = 9.0  # Phi(-9) = 1e-19
# Chebyshev fit of (Phi(x) - 1/2) / x over |x| < TAIL, from x^26 to x^0.
_PHI = (
    -9.143838022218733e-19, 1.9445243637584324e-16, -1.8975664708503942e-14,
    1.131395775149981e-12, -4.6383815382561564e-11, 1.398474564146413e-09,
    -3.2470010171592856e-08, 6.011301630244024e-07, -9.101471748510584e-06,
    0.00011419489573909249, -0.0011844708226533816, 0.009969784986098925,
    -0.06648803395079912, 0.3989418438321925,
)  # fmt: skip

BUFFER = 64
"""Pairs of a column that are spread together."""
DM_BINS = 12
"""Buffers of a column: pairs of like dm come near to fewer edges."""
VECTOR = 16
"""They are padded to a multiple of this, so that no loop has a rest."""

PAPER, L2, BY_COLUMN, MAX = 0, 1, 2, 3
"""Normalisations: int(255 n / p + 0.99999), p pairs of the curve; n over the root of the sum of
n^2; n over the pairs of the column, at any dm; n over the greatest n."""

SHARED_CELLS = 4096
"""Cells of the histogram in a CUDA block's shared memory; finer grids add to global memory."""
CUDA_THREADS = 256


@jit.item
def count_edges(edges, x):
    """Number of edges <= x, by bisection."""
    low, high = 0, edges.size
    while low < high:
        middle = (low + high) // 2
        if edges[middle] <= x:
            low = middle + 1
        else:
            high = middle
    return low


@jit.item
def normal_cdf(x, exact):
    """Normal distribution function: by the error function, or within `FAST_ERROR` of it."""
    if exact:
        return 0.5 * math.erfc(-x * 0.7071067811865476)
    x = min(max(x, -TAIL), TAIL)
    square, value = x * x, 0.0
    for coefficient in _PHI:
        value = value * square + coefficient
    return 0.5 + x * value


@jit.item
def active_edges(edges, low, high):
    """(first, stop) of the edges that some differences within [low, high] are below, some not."""
    first, stop = 0, edges.size
    while first < stop and edges[first] <= low:
        first += 1
    while stop > first and edges[stop - 1] > high:
        stop -= 1
    return first, stop


@jit.item
def fill_table(table, edges, scale, offset, step):
    """Number of edges <= x, times `step`, for each integer D that x scale + offset stands for.

    D is within 1 of that; entries whose D is within 1 of an edge are marked `UNSURE`.
    """
    size, done = table.size, 0
    for k in range(edges.size):
        place = edges[k] * scale + offset
        low = min(int(math.ceil(place - 1.0 - MARGIN)), size)
        high = min(int(math.floor(place + 1.0 + MARGIN)) + 1, size)
        below = u16(k * step)
        for i in range(index(done), index(max(done, low))):
            table[i] = below
        done = max(done, low)
        for i in range(index(done), index(max(done, high))):
            table[i] = below | u16(UNSURE)
        done = max(done, high)
    all_edges = u16(edges.size * step)
    for i in range(index(done), index(size)):
        table[i] = all_edges


@jit.item
def resolve(entry, edges, step, x):
    """Number of edges <= x, times `step`, from an unsure entry of the table."""
    k = (entry & (UNSURE - index(1))) // step
    while k < index(edges.size) and edges[k] <= x:
        k += index(1)
    return k * step


@jit.item
def inverse_or_zero(x):
    """1 / x, or 0 where that is not finite."""
    return 1.0 / x if x > 1e-290 and x < 1e290 else 0.0


@jit.item
def sum_run(counts, cell, rows, start, stop):
    """Count the rows of a run of points, in the cells from `cell` on."""
    for j in range(index(start), index(stop)):
        counts[index(cell) + index(rows[j])] += 1


@jit.cpu_loop
def count_short_cpu(start, stop, time, mag, offsets, dt_edges, dm_edges, counts):
    """Item: one curve; those of more than `LONG` points are left out."""
    n_rows, n_columns = index(dm_edges.size + 1), index(dt_edges.size - 1)
    row_table, column_table = np.empty(2 * DM_LEVELS + 2, u16), np.empty(DT_LEVELS + 2, u16)
    level = np.empty(LONG, u32)  # of the magnitude in the upper half, of the time in the lower
    sums = np.empty(n_columns * n_rows, np.int64)
    one, half = index(1), index(0xFFFF)
    for curve in range(start, stop):
        first, n = offsets[curve], index(offsets[curve + 1] - offsets[curve])
        if n > index(LONG):
            continue
        sums[:] = 0
        if n > one:
            t, m = time[first : first + n], mag[first : first + n]
            low, high = m[0], m[0]
            for j in range(n):
                low, high = min(low, m[j]), max(high, m[j])
            span, length = high - low, t[n - one] - t[0]
            k0, k1 = active_edges(dm_edges, -span, span)
            c0, c1 = active_edges(dt_edges[1:], 0.0, length)
            row_edges, column_edges = dm_edges[k0:k1], dt_edges[1 + c0 : 1 + c1]
            m_scale, t_scale = (
                DM_LEVELS * inverse_or_zero(span),
                DT_LEVELS * inverse_or_zero(length),
            )
            fill_table(row_table, row_edges, m_scale, float(DM_LEVELS), 1)
            fill_table(column_table, column_edges, t_scale, 0.0, n_rows)
            for j in range(n):
                m_level = int((m[j] - low) * m_scale) if m_scale > 0.0 else 0
                t_level = int((t[j] - t[0]) * t_scale) if t_scale > 0.0 else 0
                level[j] = u32((m_level << 16) + t_level)
            cell = index(c0) * n_rows + index(k0)
            begin, end = one, one  # points within the first and the last edge of time
            for i in range(n - one):
                begin, end = max(begin, i + one), max(end, i + one)
                while begin < n and t[begin] - t[i] < dt_edges[0]:
                    begin += one
                while end < n and t[end] - t[i] < dt_edges[n_columns]:
                    end += one
                shift = u32(DM_LEVELS << 16) - level[i]
                for j in range(begin, end):
                    d = level[j] + shift
                    column, row = index(column_table[d & half]), index(row_table[d >> 16])
                    if column + row >= UNSURE:
                        if column >= UNSURE:
                            column = resolve(column, column_edges, n_rows, t[j] - t[i])
                        if row >= UNSURE:
                            row = resolve(row, row_edges, one, m[j] - m[i])
                    sums[cell + column + row] += 1
        for c in range(n_columns):
            for k in range(n_rows):
                counts[curve, c, k] = sums[c * n_rows + k]


@jit.cpu_loop
def count_long_cpu(start, stop, splits, time, mag, order, dt_edges, dm_edges, counts):
    """Item: the pairs of one curve whose earlier point is splits[item] or later, before the next.

    `order` sorts `mag`.
    """
    n_rows, n_edges = dm_edges.size + 1, dt_edges.size
    width = (n_rows + 7) // 8 * 8
    for item in range(start, stop):
        begin, end = splits[item], splits[item + 1]
        n_own, last = end - begin, time[end - 1]
        while end < time.size and time[end] - last < dt_edges[n_edges - 1]:
            end += 1
        t, m, n = time[begin:end], mag[begin:end], end - begin

        # the first point at or after each edge of time
        bound = np.empty((n_own, n_edges), np.int32)
        for c in range(n_edges):
            j = 0
            for i in range(n_own):
                j = max(j, i + 1)
                while j < n and t[j] - t[i] < dt_edges[c]:
                    j += 1
                bound[i, c] = j

        place, ranked = np.empty(n, np.int32), np.empty(n)
        s = 0
        for p in range(order.size):
            if begin <= order[p] < end:
                place[s] = order[p] - begin
                ranked[s] = m[place[s]]
                s += 1
        span = ranked[n - 1] - ranked[0]
        k0, k1 = active_edges(dm_edges, -span, span)
        passed = np.zeros(n_rows + 1, np.int64)  # points that each edge has passed

        shift = 4  # blocks of about sqrt(n / 5) points balance their number and their ends
        while 5 << (2 * shift + 1) < n:
            shift += 1
        block = 1 << shift
        rows = np.full(n, k1, u16)
        blocks = np.zeros(((n >> shift) + 1, width), np.int32)
        for j in range(n):
            blocks[j >> shift, k1] += 1
        sums, some = np.zeros(n_edges * n_rows, np.int64), np.zeros(width, np.int32)

        for s in range(n):
            i = place[s]
            if i >= n_own:
                continue
            p = 0
            for k in range(k0, k1):
                p, edge = max(p, passed[k]), dm_edges[k]
                while p < n and ranked[p] - ranked[s] < edge:
                    j = place[p]
                    blocks[j >> shift, rows[j]] -= 1
                    blocks[j >> shift, k] += 1
                    rows[j] = k
                    p += 1
                passed[k] = p
            for c in range(n_edges - 1):
                a, b = bound[i, c], bound[i, c + 1]
                head, tail = ((a + block - 1) >> shift), (b >> shift)
                if head >= tail:
                    sum_run(sums, c * n_rows, rows, a, b)
                    continue
                sum_run(sums, c * n_rows, rows, a, head << shift)
                sum_run(sums, c * n_rows, rows, tail << shift, b)
                some[:] = 0
                for w in range(index(head), index(tail)):
                    for g in range(index(0), index(width), index(8)):
                        for k in range(g, g + index(8)):
                            some[k] += blocks[w, k]
                for k in range(n_rows):
                    sums[c * n_rows + k] += some[k]
        for c in range(n_edges - 1):
            for k in range(n_rows):
                counts[item, c, k] = sums[c * n_rows + k]


@jit.item
def spread(dm, variance, n, inverse, dm_edges, exact, above, beyond):
    """Add `n` pairs of one column to `above`, their shares above each edge that they come near.

    `beyond[k]` counts pairs that are above all edges before k. Arrays are padded to whole
    vectors; the padding is below all edges.
    """
    tail = EXACT_TAIL if exact else TAIL
    low, high = math.inf, -math.inf
    for q in range(n):
        sigma = math.sqrt(variance[q])
        inverse[q] = 1.0 / sigma
        low, high = min(low, dm[q] - tail * sigma), max(high, dm[q] + tail * sigma)
    k0, k1 = 0, dm_edges.size
    while k0 < k1 and dm_edges[k0] <= low:
        k0 += 1
    while k1 > k0 and dm_edges[k1 - 1] > high:
        k1 -= 1
    beyond[k0] += n
    if exact:
        for k in range(k0, k1):
            for q in range(n):
                above[k] += normal_cdf((dm[q] - dm_edges[k]) * inverse[q], True)
        return
    padded = (n + index(VECTOR - 1)) // index(VECTOR) * index(VECTOR)
    for q in range(n, padded):
        dm[q], inverse[q] = -1e300, 1.0
    excess = float(padded - n) * normal_cdf(-TAIL, False)
    for k in range(k0, k1):
        share, edge = -excess, dm_edges[k]
        for q in range(padded):
            share += normal_cdf((dm[q] - edge) * inverse[q], False)
        above[k] += share


@jit.cpu_loop
def smooth_cpu(start, stop, first, last, end, time, mag, magerr, dt_edges, dm_edges, exact, counts):
    """Item: the pairs whose earlier point is first[item] to last[item] - 1, of the curve that
    ends at end[item].

    Pairs wait in buffers, by their column and roughly by dm, until there are enough of them
    to be spread together.
    """
    n_columns, n_rows = index(dt_edges.size - 1), index(dm_edges.size + 1)
    one, n_bins = index(1), index(DM_BINS)
    above, beyond = np.empty((n_columns, n_rows)), np.empty((n_columns, n_rows))
    sharp = np.empty((n_columns, n_rows))  # pairs without error, in each row
    waiting = np.zeros(n_columns * n_bins, np.int64)
    dms = np.empty((n_columns * n_bins, BUFFER))
    variances, inverse = np.empty((n_columns * n_bins, BUFFER)), np.empty(BUFFER)
    for item in range(start, stop):
        above[:], beyond[:], sharp[:] = 0.0, 0.0, 0.0
        low, high = math.inf, -math.inf
        for j in range(index(first[item]), index(end[item])):
            low, high = min(low, mag[j]), max(high, mag[j])
        span = max(high - low, 0.0)
        scale = 0.5 * (DM_BINS - 1) * inverse_or_zero(span)
        stop_j = index(end[item])
        begin = index(first[item])
        for i in range(index(first[item]), index(last[item])):
            begin = max(begin, i + one)
            while begin < stop_j and time[begin] - time[i] < dt_edges[0]:
                begin += one
            c = index(0)
            for j in range(begin, stop_j):
                dt, dm = time[j] - time[i], mag[j] - mag[i]
                while c < n_columns and dt >= dt_edges[c + one]:
                    c += one
                if c == n_columns:
                    break
                variance = magerr[i] * magerr[i] + magerr[j] * magerr[j]
                if variance == 0.0:
                    sharp[c, count_edges(dm_edges, dm)] += 1.0
                    continue
                b = c * n_bins + (index((dm + span) * scale) if scale > 0.0 else index(0))
                q = index(waiting[b])
                dms[b, q], variances[b, q] = dm, variance
                waiting[b] = q + one
                if q + one == index(BUFFER):
                    spread(
                        dms[b], variances[b], q + one, inverse, dm_edges, exact, above[c], beyond[c]
                    )
                    waiting[b] = 0
        for b in range(n_columns * n_bins):
            if waiting[b] > 0:
                c, n = b // n_bins, index(waiting[b])
                spread(dms[b], variances[b], n, inverse, dm_edges, exact, above[c], beyond[c])
                waiting[b] = 0
        for c in range(n_columns):
            whole = 0.0
            for k in range(n_rows):
                whole += beyond[c, k]
            more = whole
            for k in range(n_rows - one):
                whole -= beyond[c, k]
                less = whole + above[c, k]
                counts[item, c, k] = max(more - less, 0.0) + sharp[c, k]
                more = less
            counts[item, c, n_rows - one] = max(more, 0.0) + sharp[c, n_rows - one]


@jit.item
def norm_of(counts, n_pairs, column, norm):
    """What the pairs of a cell are divided by."""
    n_columns, n_rows = counts.shape
    total = 0.0
    if norm == PAPER:
        total = float(n_pairs)
    elif norm == BY_COLUMN:
        for k in range(n_rows):
            total += counts[column, k]
    else:
        for c in range(n_columns):
            for k in range(1, n_rows - 1):
                n = float(counts[c, k])
                total = max(total, n) if norm == MAX else total + n * n
        if norm == L2:
            total = math.sqrt(total)
    return total


@jit.cpu_loop
def normalise_cpu(start, stop, counts, n_pairs, norm, images):
    """Item: one curve."""
    n_columns, n_rows = counts.shape[1], counts.shape[2]
    for curve in range(start, stop):
        total = 0.0
        for c in range(n_columns):
            if c == 0 or norm == BY_COLUMN:
                total = norm_of(counts[curve], n_pairs[curve], c, norm)
            for k in range(1, n_rows - 1):
                n = counts[curve, c, k]
                if norm == PAPER:
                    value = 255.0 * n / total + 0.99999 if total > 0.0 else 0.0
                else:
                    value = n / total if total > 0.0 else 0.0
                images[curve, k - 1, c] = value


@jit.cuda_kernel
def count_cuda(time, mag, offsets, dt_edges, dm_edges, counts, n_parts):
    """Blocks curve * n_parts to curve * n_parts + n_parts - 1 add up one curve."""
    shared = cuda.shared.array(SHARED_CELLS, np.int32)
    thread, n_threads = cuda.threadIdx.x, cuda.blockDim.x
    curve, part = cuda.blockIdx.x // n_parts, cuda.blockIdx.x % n_parts
    n_columns, n_rows = counts.shape[1], counts.shape[2]
    n_cells = n_columns * n_rows
    fits = n_cells <= SHARED_CELLS
    if fits:
        for cell in range(thread, n_cells, n_threads):
            shared[cell] = 0
    cuda.syncthreads()
    stop = offsets[curve + 1]
    for i in range(offsets[curve] + part * n_threads + thread, stop, n_parts * n_threads):
        for j in range(i + 1, stop):
            column = count_edges(dt_edges, time[j] - time[i]) - 1
            if column == n_columns:
                break
            if column >= 0:
                row = count_edges(dm_edges, mag[j] - mag[i])
                if fits:
                    cuda.atomic.add(shared, column * n_rows + row, 1)
                else:
                    cuda.atomic.add(counts, (curve, column, row), 1)
    cuda.syncthreads()
    if fits:
        for cell in range(thread, n_cells, n_threads):
            if shared[cell] > 0:
                place = (curve, cell // n_rows, cell % n_rows)
                cuda.atomic.add(counts, place, shared[cell])


@jit.cuda_kernel
def smooth_cuda(time, mag, magerr, offsets, dt_edges, dm_edges, exact, counts, n_parts):
    """The same, spread by the errors."""
    shared = cuda.shared.array(SHARED_CELLS, np.float64)
    thread, n_threads = cuda.threadIdx.x, cuda.blockDim.x
    curve, part = cuda.blockIdx.x // n_parts, cuda.blockIdx.x % n_parts
    n_columns, n_rows = counts.shape[1], counts.shape[2]
    n_cells = n_columns * n_rows
    fits = n_cells <= SHARED_CELLS
    if fits:
        for cell in range(thread, n_cells, n_threads):
            shared[cell] = 0.0
    cuda.syncthreads()
    stop = offsets[curve + 1]
    for i in range(offsets[curve] + part * n_threads + thread, stop, n_parts * n_threads):
        for j in range(i + 1, stop):
            column = count_edges(dt_edges, time[j] - time[i]) - 1
            if column == n_columns:
                break
            if column < 0:
                continue
            dm = mag[j] - mag[i]
            variance = magerr[i] * magerr[i] + magerr[j] * magerr[j]
            sharp = count_edges(dm_edges, dm)
            more = 1.0
            for row in range(n_rows):
                less = 0.0
                if variance == 0.0:
                    less = 1.0 if row < sharp else 0.0
                elif row < n_rows - 1:
                    less = normal_cdf((dm - dm_edges[row]) / math.sqrt(variance), exact)
                if more > less and fits:
                    cuda.atomic.add(shared, column * n_rows + row, more - less)
                elif more > less:
                    cuda.atomic.add(counts, (curve, column, row), more - less)
                more = less
    cuda.syncthreads()
    if fits:
        for cell in range(thread, n_cells, n_threads):
            if shared[cell] > 0.0:
                place = (curve, cell // n_rows, cell % n_rows)
                cuda.atomic.add(counts, place, shared[cell])


def count_pairs(
    time: np.ndarray,
    mag: np.ndarray,
    offsets: np.ndarray,
    dt_edges: np.ndarray,
    dm_edges: np.ndarray,
    threads: int | None = None,
) -> np.ndarray:
    """Pairs in each cell, (n, n_dt, n_rows) int64; shapes and edges as at the top."""
    counts = np.empty((offsets.size - 1, dt_edges.size - 1, dm_edges.size + 1), np.int64)
    edges = dt_edges, dm_edges
    jit.run(count_short_cpu, len(counts), threads, time, mag, offsets, *edges, counts)
    for curve in np.flatnonzero(np.diff(offsets) > LONG):
        t, m = (x[offsets[curve] : offsets[curve + 1]] for x in (time, mag))
        n_jobs = max(
            -(-t.size // LONG_JOB), 1 if threads == 1 else 4 * (threads or jit.cpu_count())
        )
        splits = np.linspace(0, t.size, n_jobs + 1).astype(np.int64)
        order = np.argsort(m, kind="stable").astype(np.int32)
        parts = np.empty((n_jobs, *counts.shape[1:]), np.int64)
        jit.run(count_long_cpu, n_jobs, threads, splits, t, m, order, *edges, parts)
        parts.sum(axis=0, out=counts[curve])
    return counts


def smooth_pairs(
    time: np.ndarray,
    mag: np.ndarray,
    magerr: np.ndarray,
    offsets: np.ndarray,
    dt_edges: np.ndarray,
    dm_edges: np.ndarray,
    exact: bool,
    threads: int | None = None,
) -> np.ndarray:
    """Pairs in each cell, (n, n_dt, n_rows) float64, each spread by the errors of its points."""
    n_points = np.diff(offsets)
    # A long curve makes several jobs of some LONG^2 pairs, whatever the number of threads.
    n_own = np.minimum(
        np.maximum(n_points, 1), np.maximum(LONG * LONG // np.maximum(n_points, 1), 1)
    )
    n_jobs = np.maximum(-(-n_points // n_own), 1)
    starts = np.concatenate(([0], np.cumsum(n_jobs)[:-1]))
    curve = np.repeat(np.arange(n_points.size), n_jobs)
    first = offsets[curve] + (np.arange(curve.size) - starts[curve]) * n_own[curve]
    end = offsets[curve + 1]
    last = np.minimum(first + n_own[curve], end)
    parts = np.empty((curve.size, dt_edges.size - 1, dm_edges.size + 1))
    jit.run(
        smooth_cpu, curve.size, threads, first, last, end, time, mag, magerr, dt_edges, dm_edges,
        exact, parts,
    )  # fmt: skip
    if curve.size == n_points.size:
        return parts
    return np.add.reduceat(parts, starts, axis=0)


def normalise(
    counts: np.ndarray,
    n_pairs: np.ndarray,
    norm: int,
    images: np.ndarray,
    threads: int | None = None,
) -> None:
    """Fill images (n, n_rows - 2, n_dt), uint8 or float32, without the first and the last row."""
    jit.run(normalise_cpu, len(counts), threads, counts, n_pairs, norm, images)
