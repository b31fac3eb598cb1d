"""Pairs of the points of light curves, counted in cells of time and magnitude difference.

Points i < j of a curve (sorted by time) make one pair with dt = t[j] - t[i], dm = m[j] - m[i],
both differences rounded to float64 once. With ascending edges

    column = (number of dt_edges <= dt) - 1     (pairs outside the edges are left out)
    row    = number of dm_edges <= dm           (0 and n_dm_edges: below and above all edges)

(Mahabal et al. 2017, arXiv:1709.06257, section III). Every comparison is between exactly these
numbers, so that counts do not depend on the path taken:

- `count_short_cpu` looks at all pairs. Times and magnitudes are scaled to integers, whose
  differences are looked up in two tables, one of columns and one of rows. Entries within one step
  of an edge are marked `UNSURE` (2 % of the pairs): those pairs are compared in float64.
- `count_long_cpu` takes less than n^2. Points i are taken in the order of magnitude. From one to
  the next the rows of all points j, kept in the order of time, change in few places: each
  edge passes each point once. Histograms of the rows over blocks of neighbours make a run of
  neighbours (the points of one column) a sum of a few of them.
- `count_cuda` looks at all pairs and finds their cells by bisection: tables would have to be
  filled for each curve by one block.

Pairs that are spread by the errors of their magnitudes are in `dmdt_smooth`, normalisations in
`dmdt_norm`.

Shapes: time, mag (n_points,) float64, sorted by time within each curve, finite; offsets (n + 1,)
int64; dt_edges (n_columns + 1,), dm_edges (n_rows - 1,) float64, ascending; counts
(n, n_columns, n_rows) int64; n_columns n_rows <= `MAX_CELLS`.
Cost for the 23 x 24 cells of the paper: 15 operations a pair; in the long path about n^1.5; on a
GPU some 60 operations a pair.
`tests/kernels/curve/reference/dmdt.py` says the same in NumPy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import jit
from ..jit import cuda
from .curves import count_edges

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

CURVE, FIRST, LAST = range(3)
"""Columns of jobs: the curve, and the range of its points i whose pairs the job counts."""
SHARED_CELLS = 4096
"""Cells of the histogram in a CUDA block's shared memory; finer grids add to global memory."""
CUDA_THREADS = 256
"""Threads of a block, which takes a job of so many points i."""


# ---------------------------------------------------------------- all pairs, by tables


@jit.item
def active_edges(edges, low, high):
    """Range of the edges that divide the differences within [low, high].

    All these differences are at or above the edges before the range, and below those after it.
    """
    first, last = 0, edges.size
    while first < last and edges[first] <= low:
        first += 1
    while last > first and edges[last - 1] > high:
        last -= 1
    return first, last


@jit.item
def fill_table(table, edges, scale, offset, step):
    """Write the number of edges <= x, times `step`, for each integer D that stands for an x.

    D is within 1 of x scale + offset. Entries whose D is within 1 of an edge are marked `UNSURE`.
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


# ---------------------------------------------------------------- long curves, below n^2


@jit.item
def sum_run(counts, cell, rows, first, last):
    """Count the rows of a run of points, in the cells from `cell` on."""
    for j in range(index(first), index(last)):
        counts[index(cell) + index(rows[j])] += 1


@jit.item
def column_bounds(t, n_own, dt_edges):
    """The first point at or after each edge of time, counted from each of the first `n_own`."""
    n, n_edges = t.size, dt_edges.size
    bound = np.empty((n_own, n_edges), np.int32)
    for c in range(n_edges):
        j = 0
        for i in range(n_own):
            j = max(j, i + 1)
            while j < n and t[j] - t[i] < dt_edges[c]:
                j += 1
            bound[i, c] = j
    return bound


@jit.item
def rank_points(m, order, begin):
    """(place, magnitude) of the points of a job in the order of magnitude."""
    n = m.size
    place, ranked = np.empty(n, np.int32), np.empty(n)
    s = 0
    for p in range(order.size):
        if begin <= order[p] < begin + n:
            place[s] = order[p] - begin
            ranked[s] = m[place[s]]
            s += 1
    return place, ranked


@jit.item
def pass_points(s, place, ranked, dm_edges, active, passed, rows, blocks, shift):
    """Move the active edges to where they are for point s; points that they pass change rows."""
    n, p = ranked.size, 0
    for k in range(active[0], active[1]):
        p, edge = max(p, passed[k]), dm_edges[k]
        while p < n and ranked[p] - ranked[s] < edge:
            j = place[p]
            blocks[j >> shift, rows[j]] -= 1
            blocks[j >> shift, k] += 1
            rows[j] = k
            p += 1
        passed[k] = p


@jit.item
def sum_columns(bound, n_rows, rows, blocks, shift, some, sums):
    """Add up the rows of the points of each column, whole blocks and the points at both ends."""
    block, width = 1 << shift, blocks.shape[1]
    for c in range(bound.size - 1):
        a, b = bound[c], bound[c + 1]
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


@jit.cpu_loop
def count_long_cpu(start, stop, splits, time, mag, order, dt_edges, dm_edges, counts):
    """Item: the pairs of one curve whose earlier point is splits[item] to splits[item + 1] - 1.

    `order` sorts `mag`.
    """
    n_rows, n_edges = dm_edges.size + 1, dt_edges.size
    width = (n_rows + 7) // 8 * 8
    for item in range(start, stop):
        begin, end = splits[item], splits[item + 1]
        n_own, latest = end - begin, time[end - 1]
        while end < time.size and time[end] - latest < dt_edges[n_edges - 1]:
            end += 1
        n = end - begin
        bound = column_bounds(time[begin:end], n_own, dt_edges)
        place, ranked = rank_points(mag[begin:end], order, begin)
        span = ranked[n - 1] - ranked[0]
        active = active_edges(dm_edges, -span, span)
        passed = np.zeros(n_rows + 1, np.int64)  # points that each edge has passed

        shift = 4  # blocks of about sqrt(n / 5) points balance their number and their ends
        while 5 << (2 * shift + 1) < n:
            shift += 1
        rows = np.full(n, active[1], u16)
        blocks = np.zeros(((n >> shift) + 1, width), np.int32)
        for j in range(n):
            blocks[j >> shift, active[1]] += 1
        sums, some = np.zeros(n_edges * n_rows, np.int64), np.zeros(width, np.int32)
        for s in range(n):
            i = place[s]
            if i < n_own:
                pass_points(s, place, ranked, dm_edges, active, passed, rows, blocks, shift)
                sum_columns(bound[i], n_rows, rows, blocks, shift, some, sums)
        for c in range(n_edges - 1):
            for k in range(n_rows):
                counts[item, c, k] = sums[c * n_rows + k]


# ---------------------------------------------------------------- CUDA: a block a job


@jit.cuda_kernel
def count_cuda(jobs, time, mag, offsets, dt_edges, dm_edges, counts):
    """Block: one job, a thread for each of its points i; `counts` come as zeros."""
    cells = cuda.shared.array(SHARED_CELLS, np.int32)
    job, thread, n_threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    curve, first, last = jobs[job, CURVE], jobs[job, FIRST], jobs[job, LAST]
    n_columns, n_rows = counts.shape[1], counts.shape[2]
    n_cells = n_columns * n_rows
    fits = n_cells <= SHARED_CELLS
    if fits:
        for cell in range(thread, n_cells, n_threads):
            cells[cell] = 0
    cuda.syncthreads()
    for i in range(first + thread, last, n_threads):
        for j in range(i + 1, offsets[curve + 1]):
            column = count_edges(dt_edges, time[j] - time[i]) - 1
            if column == n_columns:
                break
            if column >= 0:
                row = count_edges(dm_edges, mag[j] - mag[i])
                if fits:
                    cuda.atomic.add(cells, column * n_rows + row, 1)
                else:
                    cuda.atomic.add(counts, (curve, column, row), 1)
    cuda.syncthreads()
    if fits:
        for cell in range(thread, n_cells, n_threads):
            if cells[cell] > 0:
                cuda.atomic.add(counts, (curve, cell // n_rows, cell % n_rows), cells[cell])


# ---------------------------------------------------------------- arrays in, arrays out


def pair_jobs(offsets: np.ndarray, n_own: Any) -> np.ndarray:
    """Jobs of `n_own` points i each (one number, or one for each curve), (n_jobs, 3) int64.

    An empty curve has one job without points.
    """
    n_points = np.diff(offsets)
    n_own = np.broadcast_to(n_own, n_points.shape)
    n_jobs = np.maximum(-(-n_points // n_own), 1)
    curve = np.repeat(np.arange(n_points.size), n_jobs)
    number = np.arange(curve.size) - (np.cumsum(n_jobs) - n_jobs)[curve]
    first = offsets[curve] + number * n_own[curve]
    last = np.minimum(first + n_own[curve], offsets[curve + 1])
    return np.stack((curve, first, last), axis=1)


def count_pairs(
    time: Any,
    mag: Any,
    offsets: np.ndarray,
    dt_edges: np.ndarray,
    dm_edges: np.ndarray,
    threads: int | None = None,
) -> Any:
    """Pairs in each cell, (n, n_columns, n_rows) int64, on the device of `time`.

    Shapes and edges are as at the top; offsets and edges lie in the memory of the CPU.
    """
    shape = offsets.size - 1, dt_edges.size - 1, dm_edges.size + 1
    if jit.on_cpu(time):
        counts = np.empty(shape, np.int64)
        edges = dt_edges, dm_edges
        jit.run(count_short_cpu, len(counts), threads, time, mag, offsets, *edges, counts)
        for curve in np.flatnonzero(np.diff(offsets) > LONG):
            own = slice(offsets[curve], offsets[curve + 1])
            counts[curve] = _count_long(time[own], mag[own], *edges, threads)
        return counts
    counts = np.zeros_like(time, np.int64, shape=shape)
    jobs, *given = (
        np.asarray(each, like=time)
        for each in (pair_jobs(offsets, CUDA_THREADS), offsets, dt_edges, dm_edges)
    )
    jit.launch_blocks(count_cuda, len(jobs), CUDA_THREADS, jobs, time, mag, *given, counts)
    return counts


def _count_long(
    time: np.ndarray,
    mag: np.ndarray,
    dt_edges: np.ndarray,
    dm_edges: np.ndarray,
    threads: int | None,
) -> np.ndarray:
    """Pairs of one long curve, (n_columns, n_rows)."""
    n_jobs = max(-(-time.size // LONG_JOB), 1 if threads == 1 else 4 * (threads or jit.cpu_count()))
    splits = np.linspace(0, time.size, n_jobs + 1).astype(np.int64)
    order = np.argsort(mag, kind="stable").astype(np.int32)
    parts = np.empty((n_jobs, dt_edges.size - 1, dm_edges.size + 1), np.int64)
    jit.run(count_long_cpu, n_jobs, threads, splits, time, mag, order, dt_edges, dm_edges, parts)
    return parts.sum(axis=0)
