"""Sky and noise of tiles: clipped median and robust sigma of their good pixels.

At most `MAX_SAMPLES` pixels of a tile, on a skewed lattice, are sorted. Median and lower sigma
(median - 15.87th percentile, because sources lift the upper side only) are those of a slice that
shrinks to median +- 3 sigma until it is stable. Ties are spread over their own quantisation step;
where one value holds a quarter of the slice (sigma below 1.6 steps), mean and standard deviation
of the slice stand in. A constant tile has sigma 0.

Shapes: samples (m, n_slots), m tiles at a time; sky (m, 3) float64. Cost: a sort of 4096 values a
tile. The same steps run on the CPU, on threads, and on a GPU for arrays of CuPy; the statistics are
small and come in the memory of the CPU.

Source: sigma clipping as in Da Costa (1992, ASP Conf. Ser. 23, 90).
"""

from __future__ import annotations

import math

import numpy as np

from .. import jit
from ..declare import kernel
from .pixels import LIMIT, Pixels, is_bad, row_index

MAX_SAMPLES = 4096
"""Pixels of a tile that are sorted for its sky and noise."""
MIN_SAMPLES = 64
"""A tile with fewer good samples takes the median sky and noise of the frame's other tiles."""
SKY, SIGMA, N_GOOD = range(3)
"""Columns of what `clip` writes."""
SKY_REF, SIGMA_REF, SKY_SCI, SIGMA_SCI = range(4)
"""Columns of what `measure_tiles` returns."""

_TILES_AT_A_TIME = 16  # of which the samples stay in the cache of a core
_SAMPLES_AT_A_TIME = 1 << 24  # on a GPU


# ---------------------------------------------------------------- items


@jit.item
def sample(value, masked, infinity):
    """A pixel for the sort: bad ones go to the end (`infinity` is of the type of `value`)."""
    return infinity if is_bad(value, masked) else value


@jit.item
def first_not_below(values, lo, hi, bound):
    """First index in [lo, hi) with values[index] >= bound (hi if none)."""
    while lo < hi:
        mid = (lo + hi) // 2
        if values[mid] < bound:
            lo = mid + 1
        else:
            hi = mid
    return lo


@jit.item
def first_above(values, lo, hi, bound):
    """First index in [lo, hi) with values[index] > bound (hi if none)."""
    while lo < hi:
        mid = (lo + hi) // 2
        if values[mid] <= bound:
            lo = mid + 1
        else:
            hi = mid
    return lo


@jit.item
def quantile(values, lo, hi, fraction):
    """Quantile of sorted values[lo:hi]; equal values are spread evenly over their step."""
    rank = fraction * (hi - lo) + lo
    value = float(values[min(int(rank), hi - 1)])
    first = first_not_below(values, lo, hi, value)
    end = first_above(values, lo, hi, value)
    below = float(values[max(first - 1, lo)])
    above = float(values[min(end, hi - 1)])
    # At an end of the slice one neighbour is the value itself: half a step is known.
    step = 0.5 * (above - below)
    return value + step * ((rank - first) / (end - first) - 0.5)


@jit.item
def mean_and_std(values, lo, hi):
    """Mean and standard deviation of values[lo:hi]."""
    pivot = float(values[lo])
    total = 0.0
    for i in range(lo, hi):
        total += values[i] - pivot
    mean = total / (hi - lo)
    square = 0.0
    for i in range(lo, hi):
        deviation = (values[i] - pivot) - mean
        square += deviation * deviation
    return pivot + mean, math.sqrt(square / (hi - lo))


@jit.item
def sky_and_sigma(values, n_values):
    """Clipped centre and sigma of sorted values[:n_values], those at +inf left out."""
    hi = first_above(values, 0, n_values, LIMIT)
    n_good = hi
    lo = 0
    sky = 0.0
    sigma = 0.0
    if n_good == 0:
        return sky, sigma, n_good
    for _ in range(10):
        middle = values[(lo + hi) // 2]
        ties = first_above(values, lo, hi, middle) - first_not_below(values, lo, hi, middle)
        coarse = 4 * ties > hi - lo
        if coarse:
            centre, spread = mean_and_std(values, lo, hi)
        else:
            centre = quantile(values, lo, hi, 0.5)
            spread = centre - quantile(values, lo, hi, 0.158655)
        if spread <= 0.0:
            # Clipping took away all that varied. More than the tail of a distribution was
            # lost: these were levels of coarsely quantised noise, and the last spread holds.
            if 100 * (n_good - (hi - lo)) > n_good:
                break
            return centre, 0.0, n_good
        sky = centre
        sigma = spread
        new_lo = first_not_below(values, lo, hi, centre - 3.0 * spread)
        new_hi = first_above(values, lo, hi, centre + 3.0 * spread)
        if (new_lo == lo and new_hi == hi) or new_hi - new_lo < 2:
            break
        lo = new_lo
        hi = new_hi
    return sky, sigma, n_good


# ---------------------------------------------------------------- kernels


@kernel(
    over="m, n_slots",
    frames="float32|float64 (n, ny, nx)",
    bad="bool (n_masks, mask_rows, nx)",
    origins="int64 (n_tiles, 2)",
    number="int64",
    width="int64",
    step="int64",
    samples="out float32|float64 (m, n_slots)",
)
def collect(i, first, last, frames, bad, origins, number, width, step, samples):
    """Every `step`-th pixel of a tile in reading order; infinity for bad and missing ones.

    Tiles are counted through the batch; `number` is that of the first row of `samples`.
    """
    ny, nx = frames.shape[1], frames.shape[2]
    frame, tile = (number + i) // origins.shape[0], (number + i) % origins.shape[0]
    y0, x0 = origins[tile, 0], origins[tile, 1]
    infinity = samples.dtype.type(math.inf)
    slot, y = first, first * step // width
    x = first * step - y * width
    while slot < last:
        # The slots of one row of the tile, from its pixel x on.
        end = min(last, slot + (width - x + step - 1) // step)
        inside = 0
        if y0 + y < ny:
            inside = end - slot
            if x0 + width > nx:
                inside = max(0, min(inside, (nx - x0 - x + step - 1) // step))
            row = frames[row_index(frames, frame, y0 + y)][x0 + x :]
            mask = bad[row_index(bad, frame, y0 + y)][x0 + x :]
            taken = samples[i, slot:]
            if step == 1:  # said apart, because it vectorises
                for k in range(inside):
                    taken[k] = sample(row[k], mask[k], infinity)
            else:
                for k in range(inside):
                    taken[k] = sample(row[k * step], mask[k * step], infinity)
        for k in range(slot + inside, end):
            samples[i, k] = infinity
        x += (end - slot) * step - width
        slot, y = end, y + 1


@kernel(over="m", samples="float32|float64 (m, n_slots)", sky="out float64 (m, 3)")
def clip(i, samples, sky):
    """Sky, sigma and the number of good samples of sorted samples."""
    centre, sigma, n_good = sky_and_sigma(samples[i], samples.shape[1])
    sky[i, SKY] = centre
    sky[i, SIGMA] = sigma
    sky[i, N_GOOD] = n_good


# ---------------------------------------------------------------- entry points


def sample_step(shape: tuple[int, int]) -> int:
    """Pixels (in reading order) between two samples of a tile.

    It has no common factor with the width, so that the samples spread over all columns.
    """
    step = max(1, -(-shape[0] * shape[1] // MAX_SAMPLES))
    while math.gcd(step, shape[1]) > 1:
        step += 1
    return step


def _measure_range(
    start: int,
    stop: int,
    frames: np.ndarray,
    bad: np.ndarray,
    origins: np.ndarray,
    shape: tuple[int, int],
    at_a_time: int,
    sky: np.ndarray,
) -> None:
    """Sky and noise of a range of tiles, some at a time."""
    step = sample_step(shape)
    n_slots = -(-shape[0] * shape[1] // step)
    samples = np.empty_like(frames, order="C", shape=(min(stop - start, at_a_time), n_slots))
    for first in range(start, stop, at_a_time):
        last = min(first + at_a_time, stop)
        own = samples[: last - first]
        collect(frames, bad, origins, first, shape[1], step, own, threads=1)
        own.sort(axis=1)  # NumPy sorts with vector instructions, Numba does not
        clip(own, sky[first:last], threads=1)


def _measure_frames(
    frames: np.ndarray,
    bad: np.ndarray,
    origins: np.ndarray,
    shape: tuple[int, int],
    threads: int | None,
) -> np.ndarray:
    """Sky and sigma of the tiles of all frames, (n, n_tiles, 2), in the memory of the CPU."""
    # One reference with a mask for each science image has a sky for each of them.
    n, n_tiles = max(len(frames), len(bad)) if len(frames) else 0, len(origins)
    sky = np.empty_like(frames, np.float64, order="C", shape=(n * n_tiles, 3))
    arguments = frames, bad, np.asarray(origins, like=frames), shape
    if jit.on_cpu(frames):
        jit.run(_measure_range, len(sky), threads, *arguments, _TILES_AT_A_TIME, sky)
    else:
        at_a_time = max(1, _SAMPLES_AT_A_TIME // (shape[0] * shape[1]))
        _measure_range(0, len(sky), *arguments, at_a_time, sky)
    return fill_unmeasured(jit.to_host(sky).reshape(n, n_tiles, 3))


def fill_unmeasured(sky: np.ndarray) -> np.ndarray:
    """Sky and sigma (n, n_tiles, 2) of what `clip` writes for each frame, (n, n_tiles, 3).

    Tiles with fewer than `MIN_SAMPLES` good samples take the median of the frame's other tiles;
    they and constant tiles take the median sigma of those that have one. Where no tile of the
    frame can tell, they stay as they are.
    """
    out = sky[:, :, SKY : SIGMA + 1].copy()
    if sky.shape[1] > 1:
        few = sky[:, :, N_GOOD] < MIN_SAMPLES
        flat = few | (sky[:, :, SIGMA] == 0)
        for frame in np.flatnonzero(flat.any(axis=1)):
            for column, poor in ((SKY, few[frame]), (SIGMA, flat[frame])):
                if not poor.all():
                    out[frame, poor, column] = np.median(sky[frame, ~poor, column])
    return out


def measure_tiles(
    pixels: Pixels | tuple[np.ndarray | None, ...],
    origins: np.ndarray,
    shape: tuple[int, int],
    threads: int | None = None,
) -> np.ndarray:
    """Sky and noise of every tile.

    Parameters
    ----------
    pixels : Pixels
        Or a tuple of the same arrays.
    origins, shape
        As of `plan.plan_tiles`.
    threads : int, optional
        CPU threads; all cores by default.

    Returns
    -------
    stats : ndarray of float64, (n, n_tiles, 4)
        Columns `SKY_REF`, `SIGMA_REF`, `SKY_SCI`, `SIGMA_SCI`, in counts of their image, always
        finite, in the memory of the CPU. Sigma is 0 for a constant tile, both are 0 where the
        whole frame is bad; `tile.tile_noise` is never 0.
    """
    refs, scis, bad_refs, bad_scis = Pixels(*pixels).with_masks()
    shape = (int(shape[0]), int(shape[1]))
    stats = np.empty((len(scis), len(origins), 4))
    stats[:, :, SKY_REF : SIGMA_REF + 1] = _measure_frames(refs, bad_refs, origins, shape, threads)
    stats[:, :, SKY_SCI : SIGMA_SCI + 1] = _measure_frames(scis, bad_scis, origins, shape, threads)
    return stats
