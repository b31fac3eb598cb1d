"""Pairs of the points of light curves, spread by the errors of their magnitudes and counted.

As `dmdt`, but each pair is a Gaussian along dm of variance magerr[i]^2 + magerr[j]^2: rows get
differences of Phi((dm - edge) / sigma), by the error function or by a polynomial (`normal_cdf`).
A pair without error counts in its row.

Shapes: as in `dmdt`; magerr (n_points,) float64, finite, 0 or more; counts are float64.
Cost: all pairs are looked at, at some 20 operations for each edge within `TAIL` sigma of a pair;
on a GPU for each edge.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import jit
from ..jit import cuda
from .curves import count_edges
from .dmdt import (
    CUDA_THREADS,
    CURVE,
    FIRST,
    LAST,
    LONG,
    SHARED_CELLS,
    active_edges,
    index,
    inverse_or_zero,
    pair_jobs,
)

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
def spread(dm, variance, n, inverse, dm_edges, exact, above, beyond):
    """Add the shares of `n` pairs of one column above each edge that they come near to `above`.

    `beyond[k]` counts pairs that are above all edges before k. Arrays are padded to whole
    vectors; the padding is below all edges.
    """
    tail = EXACT_TAIL if exact else TAIL
    low, high = math.inf, -math.inf
    for q in range(n):
        sigma = math.sqrt(variance[q])
        inverse[q] = 1.0 / sigma
        low, high = min(low, dm[q] - tail * sigma), max(high, dm[q] + tail * sigma)
    k0, k1 = active_edges(dm_edges, low, high)
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
def smooth_cpu(start, stop, jobs, time, mag, magerr, offsets, dt_edges, dm_edges, exact, parts):
    """Item: one job, whose pairs are counted in a part of its own.

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
        first, last = index(jobs[item, FIRST]), index(jobs[item, LAST])
        end = index(offsets[jobs[item, CURVE] + 1])
        low, high = math.inf, -math.inf
        for j in range(first, end):
            low, high = min(low, mag[j]), max(high, mag[j])
        span = max(high - low, 0.0)
        scale = 0.5 * (DM_BINS - 1) * inverse_or_zero(span)
        begin = first
        for i in range(first, last):
            begin = max(begin, i + one)
            while begin < end and time[begin] - time[i] < dt_edges[0]:
                begin += one
            c = index(0)
            for j in range(begin, end):
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
                parts[item, c, k] = max(more - less, 0.0) + sharp[c, k]
                more = less
            parts[item, c, n_rows - one] = max(more, 0.0) + sharp[c, n_rows - one]


@jit.cuda_kernel
def smooth_cuda(jobs, time, mag, magerr, offsets, dt_edges, dm_edges, exact, counts):
    """Block: one job, a thread for each of its points i; `counts` come as zeros.

    A thread spreads each pair at once: buffers serve the vectors of a CPU.
    """
    cells = cuda.shared.array(SHARED_CELLS, np.float64)
    job, thread, n_threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    curve, first, last = jobs[job, CURVE], jobs[job, FIRST], jobs[job, LAST]
    n_columns, n_rows = counts.shape[1], counts.shape[2]
    n_cells = n_columns * n_rows
    fits = n_cells <= SHARED_CELLS
    if fits:
        for cell in range(thread, n_cells, n_threads):
            cells[cell] = 0.0
    cuda.syncthreads()
    for i in range(first + thread, last, n_threads):
        for j in range(i + 1, offsets[curve + 1]):
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
                    cuda.atomic.add(cells, column * n_rows + row, more - less)
                elif more > less:
                    cuda.atomic.add(counts, (curve, column, row), more - less)
                more = less
    cuda.syncthreads()
    if fits:
        for cell in range(thread, n_cells, n_threads):
            if cells[cell] > 0.0:
                cuda.atomic.add(counts, (curve, cell // n_rows, cell % n_rows), cells[cell])


def smooth_pairs(
    time: Any,
    mag: Any,
    magerr: Any,
    offsets: np.ndarray,
    dt_edges: np.ndarray,
    dm_edges: np.ndarray,
    exact: bool,
    threads: int | None = None,
) -> Any:
    """Pairs in each cell, (n, n_columns, n_rows) float64, each spread by the errors of its points.

    On the device of `time`; offsets and edges lie in the memory of the CPU.
    """
    cells = dt_edges.size - 1, dm_edges.size + 1
    n_points = np.diff(offsets)
    if jit.on_cpu(time):
        # A long curve makes several jobs of some LONG^2 pairs, whatever the number of threads.
        some = np.maximum(n_points, 1)
        jobs = pair_jobs(offsets, np.minimum(some, np.maximum(LONG * LONG // some, 1)))
        parts = np.empty((len(jobs), *cells))
        given = time, mag, magerr, offsets, dt_edges, dm_edges, exact
        jit.run(smooth_cpu, len(jobs), threads, jobs, *given, parts)
        if len(jobs) == n_points.size:
            return parts
        return np.add.reduceat(parts, np.flatnonzero(np.diff(jobs[:, CURVE], prepend=-1)), axis=0)
    counts = np.zeros_like(time, shape=(n_points.size, *cells))
    jobs, *given = (
        np.asarray(each, like=time)
        for each in (pair_jobs(offsets, CUDA_THREADS), offsets, dt_edges, dm_edges)
    )
    points = time, mag, magerr
    jit.launch_blocks(smooth_cuda, len(jobs), CUDA_THREADS, jobs, *points, *given, exact, counts)
    return counts
