"""Frames to normalised tiles, and network outputs on tiles back to frames.

Notation: a frame pair is ``ref`` and ``sci``, (ny, nx), on one pixel grid. For each tile of
h x w pixels

    sky_r, sigma_r, sky_s, sigma_s   clipped median and robust sigma of its good pixels
    a                                photometric scale of the frame, flux in sci / flux in ref
    sigma_d = sqrt(sigma_s^2 + a^2 sigma_r^2)
    channel 0 = a (ref - sky_r) / sigma_d
    channel 1 = (sci - sky_s) / sigma_d

A pixel that is bad in one image takes the other image's channel, so that it shows no change;
bad in both, or outside of the frame, it is 0 in both. Back to counts of sci:

    image = sum over tiles of  weight * output * sigma_d,      sum of weights = 1

Bad pixels are NaN, infinity, magnitudes above 1e30, and those marked in the `bad` arrays
(True = bad). Sky and noise: at most 4096 pixels of the tile on a skewed lattice are sorted;
median and lower sigma (median - 15.87th percentile: sources only lift the upper side) of a
slice that shrinks to median +- 3 sigma until it is stable. Ties are spread over their own
quantisation step; where one value holds a quarter of the slice (sigma below 1.6 steps), mean
and standard deviation of the slice stand in. A constant tile has sigma 0; sigma_d = 0 is
replaced by 1.

Photometric scale: `photometry`, from sums over blocks of 4 x 4 pixels that are made here.

Cost: `cut_tiles` and `stitch_tiles` read and write each pixel once and run near the speed of
memory; `measure_tiles` sorts 4096 values a tile.

Source: sigma clipping as in Da Costa (1992, ASP Conf. Ser. 23, 90); the weighted median of
flux ratios is the robust form of the photometric zero-point of difference imaging
(Alard & Lupton 1998, ApJ 503, 325).
"""

from __future__ import annotations

import math

import numpy as np

from .. import jit
from ..jit import cuda
from .photometry import BLOCK, measure_scale

MAX_SAMPLES = 4096
"""Pixels of a tile that are sorted for its sky and noise."""
MIN_SAMPLES = 64
"""A tile with fewer good samples takes the median sky and noise of the frame's other tiles."""

_LIMIT = 1e30  # magnitudes above it overflow in squares: treated as bad
_CHANNEL_LIMIT = np.float32(1e9)  # far beyond any star; keeps float32 channels finite


# ---------------------------------------------------------------------------- items


@jit.item
def _is_bad(value, masked):
    """Whether a pixel is unusable; written so that NaN fails the comparison."""
    return masked | (not (abs(value) <= _LIMIT))


@jit.item
def _mask(bad, frame, y, x):
    """Mask of a pixel; `bad` may be empty (no mask) or hold one mask for all frames."""
    return bad.shape[0] > 0 and bad[min(frame, bad.shape[0] - 1), y, x]


@jit.item
def _mask_row(bad, frame, y, no_mask):
    """Mask of a row; `no_mask` is a row of False. Loops over rows vectorise."""
    return bad[min(frame, bad.shape[0] - 1), y] if bad.shape[0] > 0 else no_mask


@jit.item
def _sample(value, masked, infinity):
    """A pixel for the sort: bad ones go to the end (`infinity` is of the type of `value`)."""
    return infinity if _is_bad(value, masked) else value


@jit.item
def _first_not_below(values, lo, hi, bound):
    """First index in [lo, hi) with values[index] >= bound (hi if none)."""
    while lo < hi:
        mid = (lo + hi) // 2
        if values[mid] < bound:
            lo = mid + 1
        else:
            hi = mid
    return lo


@jit.item
def _first_above(values, lo, hi, bound):
    """First index in [lo, hi) with values[index] > bound (hi if none)."""
    while lo < hi:
        mid = (lo + hi) // 2
        if values[mid] <= bound:
            lo = mid + 1
        else:
            hi = mid
    return lo


@jit.item
def _quantile(values, lo, hi, fraction):
    """Quantile of sorted values[lo:hi]; equal values are spread evenly over their step."""
    rank = fraction * (hi - lo) + lo
    value = float(values[min(int(rank), hi - 1)])
    first = _first_not_below(values, lo, hi, value)
    end = _first_above(values, lo, hi, value)
    below = float(values[max(first - 1, lo)])
    above = float(values[min(end, hi - 1)])
    # At an end of the slice one neighbour is the value itself: half a step is known.
    step = 0.5 * (above - below)
    return value + step * ((rank - first) / (end - first) - 0.5)


@jit.item
def _mean_and_std(values, lo, hi):
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
def _sky_and_sigma(values, n_values):
    """Clipped centre and sigma of sorted values[:n_values], those at +inf left out."""
    hi = _first_above(values, 0, n_values, _LIMIT)
    n_good = hi
    lo = 0
    sky = 0.0
    sigma = 0.0
    if n_good == 0:
        return sky, sigma, n_good
    for _ in range(10):
        middle = values[(lo + hi) // 2]
        ties = _first_above(values, lo, hi, middle) - _first_not_below(values, lo, hi, middle)
        coarse = 4 * ties > hi - lo
        if coarse:
            centre, spread = _mean_and_std(values, lo, hi)
        else:
            centre = _quantile(values, lo, hi, 0.5)
            spread = centre - _quantile(values, lo, hi, 0.158655)
        if spread <= 0.0:
            # Clipping took away all that varied. More than the tail of a distribution was
            # lost: these were levels of coarsely quantised noise, and the last spread holds.
            if 100 * (n_good - (hi - lo)) > n_good:
                break
            return centre, 0.0, n_good
        sky = centre
        sigma = spread
        new_lo = _first_not_below(values, lo, hi, centre - 3.0 * spread)
        new_hi = _first_above(values, lo, hi, centre + 3.0 * spread)
        if (new_lo == lo and new_hi == hi) or new_hi - new_lo < 2:
            break
        lo = new_lo
        hi = new_hi
    return sky, sigma, n_good


@jit.item
def _sigma_difference(sigma_r, sigma_s, scale):
    """Noise of sci - a ref per pixel; 1 where both images are constant."""
    variance = sigma_s * sigma_s + scale * scale * sigma_r * sigma_r
    if variance < 1e-60:
        return 1.0
    return math.sqrt(variance)


@jit.item
def _clamp(value):
    value = np.float32(value)
    value = value if value < _CHANNEL_LIMIT else _CHANNEL_LIMIT
    return value if value > -_CHANNEL_LIMIT else -_CHANNEL_LIMIT


@jit.item
def _channels(ref, sci, ref_bad, sci_bad, sky_r, sky_s, gain_r, gain_s):
    """Both channels of one pixel."""
    channel_r = _clamp((ref - sky_r) * gain_r)
    channel_s = _clamp((sci - sky_s) * gain_s)
    zero = np.float32(0.0)
    out_r = (zero if sci_bad else channel_s) if ref_bad else channel_r
    out_s = (zero if ref_bad else channel_r) if sci_bad else channel_s
    return out_r, out_s


@jit.item
def _good_pair(ref, sci, ref_bad, sci_bad, sky_r, sky_s):
    """What a pixel adds to the sums of its block: nothing unless it is good in both images."""
    zero = np.float32(0.0)
    bad = ref_bad | sci_bad
    return (
        zero if bad else np.float32(ref - sky_r),
        zero if bad else np.float32(sci - sky_s),
        zero if bad else np.float32(1.0),
    )


@jit.item
def _blended(output, weight_y, weight_x, sigma_d):
    """What one tile adds to one pixel, in counts of sci."""
    return output * (weight_y * weight_x) * sigma_d


# ------------------------------------------------------------------------------ CPU


@jit.cpu_loop
def collect_cpu(start, stop, frames, bad, origins, shape, step, samples):
    """Item: one tile of one frame; row `item - start` of `samples` takes its pixels."""
    n_tiles = origins.shape[0]
    ny, nx = frames.shape[1], frames.shape[2]
    no_mask = np.zeros(nx, np.bool_)
    infinity = samples.dtype.type(math.inf)
    for item in range(start, stop):
        frame = item // n_tiles
        y0, x0 = origins[item % n_tiles, 0], origins[item % n_tiles, 1]
        n_inside = min(shape[1], nx - x0)
        values = samples[item - start]
        values[:] = math.inf
        for y in range(min(shape[0], ny - y0)):
            row = frames[frame, y0 + y, x0:]
            mask = _mask_row(bad, frame, y0 + y, no_mask)[x0:]
            slot = -(-y * shape[1] // step)
            x = slot * step - y * shape[1]
            count = max(0, -(-(n_inside - x) // step))
            taken = values[slot : slot + count]
            if step == 1:  # said apart, because it vectorises
                for i in range(count):
                    taken[i] = _sample(row[i], mask[i], infinity)
            else:
                for i in range(count):
                    taken[i] = _sample(row[x], mask[x], infinity)
                    x += step


@jit.cpu_loop
def sky_cpu(start, stop, samples, sky):
    """Item: one row of sorted `samples`; sky[item] = (sky, sigma, number of good samples)."""
    for item in range(start, stop):
        centre, sigma, n_good = _sky_and_sigma(samples[item - start], samples.shape[1])
        sky[item, 0] = centre
        sky[item, 1] = sigma
        sky[item, 2] = n_good


@jit.cpu_loop
def blocks_cpu(start, stop, refs, scis, bad_refs, bad_scis, stats, tile_y, tile_x, first, blocks):
    """Item: one row of blocks of one frame; blocks[:, k] = sum ref, sum sci, pixels."""
    n_y, n_x = blocks.shape[2], blocks.shape[3]
    width = n_x * BLOCK
    no_mask = np.zeros(scis.shape[2], np.bool_)
    sky_r, sky_s = np.empty(width, refs.dtype), np.empty(width, scis.dtype)
    # Columns first, then across: additions of neighbouring columns vectorise.
    columns = np.empty((3, width), np.float32)
    column_r, column_s, column_n = columns[0], columns[1], columns[2]
    for item in range(start, stop):
        frame = first + item // n_y
        by = item % n_y
        for bx in range(n_x):
            tile = tile_y[by] + tile_x[bx]
            for x in range(bx * BLOCK, (bx + 1) * BLOCK):
                sky_r[x] = stats[frame, tile, 0]
                sky_s[x] = stats[frame, tile, 2]
        columns[:] = 0.0
        for y in range(by * BLOCK, (by + 1) * BLOCK):
            row_r = refs[min(frame, refs.shape[0] - 1), y]
            row_s = scis[frame, y]
            mask_r = _mask_row(bad_refs, frame, y, no_mask)
            mask_s = _mask_row(bad_scis, frame, y, no_mask)
            for x in range(width):
                ref, sci = row_r[x], row_s[x]
                add_r, add_s, add_n = _good_pair(
                    ref, sci, _is_bad(ref, mask_r[x]), _is_bad(sci, mask_s[x]), sky_r[x], sky_s[x]
                )
                column_r[x] += add_r
                column_s[x] += add_s
                column_n[x] += add_n
        for bx in range(n_x):
            for k in range(3):
                total = np.float32(0.0)
                for x in range(bx * BLOCK, (bx + 1) * BLOCK):
                    total += columns[k, x]
                blocks[frame - first, k, by, bx] = total


@jit.cpu_loop
def cut_cpu(start, stop, refs, scis, bad_refs, bad_scis, frames, tiles, origins, stats, scale, out):
    """Item: one row of one tile."""
    h, w = out.shape[2], out.shape[3]
    ny, nx = scis.shape[1], scis.shape[2]
    no_mask = np.zeros(nx, np.bool_)
    for item in range(start, stop):
        j = item // h
        y_out = item % h
        frame = frames[j]
        tile = tiles[j]
        y = origins[tile, 0] + y_out
        x0 = origins[tile, 1]
        out_r, out_s = out[j, 0, y_out], out[j, 1, y_out]
        n_inside = 0
        if y < ny:
            n_inside = min(w, nx - x0)
            row_r = refs[min(frame, refs.shape[0] - 1), y, x0:]
            row_s = scis[frame, y, x0:]
            mask_r = _mask_row(bad_refs, frame, y, no_mask)[x0:]
            mask_s = _mask_row(bad_scis, frame, y, no_mask)[x0:]
            a = float(scale[frame])
            gain = 1.0 / _sigma_difference(stats[frame, tile, 1], stats[frame, tile, 3], a)
            sky_r, gain_r = refs.dtype.type(stats[frame, tile, 0]), refs.dtype.type(a * gain)
            sky_s, gain_s = scis.dtype.type(stats[frame, tile, 2]), scis.dtype.type(gain)
            for x in range(n_inside):
                ref, sci = row_r[x], row_s[x]
                channel_r, channel_s = _channels(
                    ref, sci, _is_bad(ref, mask_r[x]), _is_bad(sci, mask_s[x]),
                    sky_r, sky_s, gain_r, gain_s,
                )  # fmt: skip
                out_r[x] = channel_r
                out_s[x] = channel_s
        out_r[n_inside:] = 0.0
        out_s[n_inside:] = 0.0


@jit.cpu_loop
def blank_cpu(start, stop, refs, scis, bad_refs, bad_scis, image):
    """Item: one row of one image: 0, and NaN where a pixel of ref or sci is bad."""
    ny, nx = image.shape[1], image.shape[2]
    no_mask = np.zeros(nx, np.bool_)
    for item in range(start, stop):
        frame = item // ny
        y = item % ny
        row_r = refs[min(frame, refs.shape[0] - 1), y]
        row_s = scis[frame, y]
        mask_r = _mask_row(bad_refs, frame, y, no_mask)
        mask_s = _mask_row(bad_scis, frame, y, no_mask)
        out = image[frame, y]
        for x in range(nx):
            bad = _is_bad(row_r[x], mask_r[x]) | _is_bad(row_s[x], mask_s[x])
            out[x] = np.float32(math.nan) if bad else np.float32(0.0)


@jit.cpu_loop
def stitch_cpu(
    start, stop, outputs, frames, tiles, origins, weights_y, weights_x, sigma_d, first, image
):
    """Item: one row of one image. Tiles add in their order, whatever the threads."""
    ny, nx = image.shape[1], image.shape[2]
    h, w = outputs.shape[2], outputs.shape[3]
    for item in range(start, stop):
        frame = first + item // ny
        y = item % ny
        for j in range(frames.shape[0]):
            tile = tiles[j]
            y_tile = y - origins[tile, 0]
            if frames[j] != frame or y_tile < 0 or y_tile >= h:
                continue
            weight_y = weights_y[tile, y_tile]
            if weight_y == 0.0:
                continue
            x0 = origins[tile, 1]
            sigma = sigma_d[frame, tile]
            row, output, weight_x = image[frame, y, x0:], outputs[j, 0, y_tile], weights_x[tile]
            for x in range(min(w, nx - x0)):
                row[x] += _blended(output[x], weight_y, weight_x[x], sigma)


# ----------------------------------------------------------------------------- CUDA


@jit.cuda_kernel
def measure_cuda(frames, bad, origins, shape, step, n_slots, sky):
    """Block: one tile of one frame; bitonic sort in shared memory, then one thread clips."""
    values = cuda.shared.array(MAX_SAMPLES, np.float64)
    n_tiles = origins.shape[0]
    item = cuda.blockIdx.x
    frame = item // n_tiles
    tile = item % n_tiles
    size = 1
    while size < n_slots:
        size *= 2
    for slot in range(cuda.threadIdx.x, size, cuda.blockDim.x):
        values[slot] = math.inf
        if slot < n_slots:
            y = origins[tile, 0] + slot * step // shape[1]
            x = origins[tile, 1] + slot * step % shape[1]
            if y < frames.shape[1] and x < frames.shape[2]:
                values[slot] = _sample(frames[frame, y, x], _mask(bad, frame, y, x), math.inf)
    cuda.syncthreads()
    run = 2
    while run <= size:
        gap = run // 2
        while gap > 0:
            for slot in range(cuda.threadIdx.x, size, cuda.blockDim.x):
                other = slot ^ gap
                if other > slot:
                    a = values[slot]
                    b = values[other]
                    if (a > b) == ((slot & run) == 0):
                        values[slot] = b
                        values[other] = a
            cuda.syncthreads()
            gap //= 2
        run *= 2
    if cuda.threadIdx.x == 0:
        centre, sigma, n_good = _sky_and_sigma(values, n_slots)
        sky[item, 0] = centre
        sky[item, 1] = sigma
        sky[item, 2] = n_good


@jit.cuda_kernel
def blocks_cuda(refs, scis, bad_refs, bad_scis, stats, tile_y, tile_x, blocks):
    """Thread: one block of one frame."""
    n_y, n_x = blocks.shape[2], blocks.shape[3]
    item = cuda.grid(1)
    if item < blocks.shape[0] * n_y * n_x:
        frame = item // (n_y * n_x)
        by = item // n_x % n_y
        bx = item % n_x
        tile = tile_y[by] + tile_x[bx]
        sum_r = np.float32(0.0)
        sum_s = np.float32(0.0)
        sum_n = np.float32(0.0)
        for x in range(bx * BLOCK, (bx + 1) * BLOCK):
            column_r = np.float32(0.0)
            column_s = np.float32(0.0)
            column_n = np.float32(0.0)
            for y in range(by * BLOCK, (by + 1) * BLOCK):
                ref = refs[min(frame, refs.shape[0] - 1), y, x]
                sci = scis[frame, y, x]
                add_r, add_s, add_n = _good_pair(
                    ref, sci,
                    _is_bad(ref, _mask(bad_refs, frame, y, x)),
                    _is_bad(sci, _mask(bad_scis, frame, y, x)),
                    refs.dtype.type(stats[frame, tile, 0]), scis.dtype.type(stats[frame, tile, 2]),
                )  # fmt: skip
                column_r += add_r
                column_s += add_s
                column_n += add_n
            sum_r += column_r
            sum_s += column_s
            sum_n += column_n
        blocks[frame, 0, by, bx] = sum_r
        blocks[frame, 1, by, bx] = sum_s
        blocks[frame, 2, by, bx] = sum_n


@jit.cuda_kernel
def cut_cuda(refs, scis, bad_refs, bad_scis, frames, tiles, origins, stats, scale, out):
    """Thread: one pixel of one tile."""
    h, w = out.shape[2], out.shape[3]
    item = cuda.grid(1)
    if item < out.shape[0] * h * w:
        j = item // (h * w)
        y_out = item // w % h
        x_out = item % w
        frame = frames[j]
        tile = tiles[j]
        y = origins[tile, 0] + y_out
        x = origins[tile, 1] + x_out
        out_r = np.float32(0.0)
        out_s = np.float32(0.0)
        if y < scis.shape[1] and x < scis.shape[2]:
            ref = refs[min(frame, refs.shape[0] - 1), y, x]
            sci = scis[frame, y, x]
            a = float(scale[frame])
            gain = 1.0 / _sigma_difference(stats[frame, tile, 1], stats[frame, tile, 3], a)
            out_r, out_s = _channels(
                ref, sci,
                _is_bad(ref, _mask(bad_refs, frame, y, x)),
                _is_bad(sci, _mask(bad_scis, frame, y, x)),
                refs.dtype.type(stats[frame, tile, 0]), scis.dtype.type(stats[frame, tile, 2]),
                refs.dtype.type(a * gain), scis.dtype.type(gain),
            )  # fmt: skip
        out[j, 0, y_out, x_out] = out_r
        out[j, 1, y_out, x_out] = out_s


@jit.cuda_kernel
def blank_cuda(refs, scis, bad_refs, bad_scis, image):
    """Thread: one pixel of one image."""
    ny, nx = image.shape[1], image.shape[2]
    item = cuda.grid(1)
    if item < image.shape[0] * ny * nx:
        frame = item // (ny * nx)
        y = item // nx % ny
        x = item % nx
        bad = _is_bad(
            refs[min(frame, refs.shape[0] - 1), y, x], _mask(bad_refs, frame, y, x)
        ) | _is_bad(scis[frame, y, x], _mask(bad_scis, frame, y, x))
        image[frame, y, x] = math.nan if bad else 0.0


@jit.cuda_kernel
def stitch_cuda(
    outputs, frames, tiles, origins, weights_y, weights_x, sigma_d, first, n_frames, image
):
    """Thread: one pixel of one image, so that no two threads add to the same place."""
    ny, nx = image.shape[1], image.shape[2]
    h, w = outputs.shape[2], outputs.shape[3]
    item = cuda.grid(1)
    if item < n_frames * ny * nx:
        frame = first + item // (ny * nx)
        y = item // nx % ny
        x = item % nx
        value = image[frame, y, x]
        for j in range(frames.shape[0]):
            tile = tiles[j]
            y_tile = y - origins[tile, 0]
            x_tile = x - origins[tile, 1]
            if frames[j] == frame and 0 <= y_tile < h and 0 <= x_tile < w:
                value += _blended(
                    outputs[j, 0, y_tile, x_tile],
                    weights_y[tile, y_tile], weights_x[tile, x_tile], sigma_d[frame, tile],
                )  # fmt: skip
        image[frame, y, x] = value


# ------------------------------------------------------------------- entry points (CPU)


def plan_tiles(
    ny: int, nx: int, tile: int = 256, overlap: int = 32, multiple: int = 16
) -> tuple[np.ndarray, tuple[int, int]]:
    """Where the tiles of a frame lie.

    All tiles have one shape, as small as the number of them allows, and are spread evenly
    from edge to edge. A side of up to ``tile + overlap`` pixels is one tile; only then can
    a tile reach beyond the frame (to the next multiple of `multiple`).

    Parameters
    ----------
    ny, nx : int
        Shape of the frame, pixels.
    tile : int
        Largest side of a tile where there are several, pixels; a multiple of `multiple`.
    overlap : int
        Least number of pixels that neighbours share.
    multiple : int
        The sides of a tile are multiples of it (the stride of the network).

    Returns
    -------
    origins : ndarray of int64, (n_tiles, 2)
        First row and column of each tile, row by row of tiles.
    shape : tuple of int
        (h, w) of every tile.

    Raises
    ------
    ValueError
        If a size is not positive, or `tile` is not a multiple of `multiple` above 2 `overlap`.

    Examples
    --------
    >>> origins, shape = plan_tiles(1000, 100, tile=256, overlap=32)
    >>> shape, len(origins)
    ((240, 112), 5)
    """
    if ny < 1 or nx < 1:
        raise ValueError(f"the frame has shape ({ny}, {nx}); each side must be at least 1 pixel")
    if multiple < 1 or overlap < 0 or tile % multiple or tile <= 2 * overlap:
        raise ValueError(
            f"`tile` is {tile} with `overlap` {overlap}; it must be a multiple of {multiple} "
            "and more than twice the overlap: raise `tile` or lower `overlap`"
        )
    (ys, h), (xs, w) = (_plan_axis(n, tile, overlap, multiple) for n in (ny, nx))
    grid = np.meshgrid(ys, xs, indexing="ij")
    return np.stack([axis.ravel() for axis in grid], axis=1), (h, w)


def _plan_axis(n: int, tile: int, overlap: int, multiple: int) -> tuple[np.ndarray, int]:
    """First pixels of the tiles along an axis of n pixels, and their length."""
    whole = -(-n // multiple) * multiple
    if whole <= tile + overlap:
        return np.zeros(1, np.int64), whole
    count = -(-(n - overlap) // (tile - overlap))
    length = -(-(n + (count - 1) * overlap) // count)
    length = -(-length // multiple) * multiple
    return np.arange(count, dtype=np.int64) * (n - length) // (count - 1), length


def blend_weights(origins: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the rows and of the columns of each tile; their products sum to 1 everywhere.

    In an overlap the weight falls linearly over the middle half: the outer quarter of a tile's
    share, where the network saw least around a pixel, does not count.

    Parameters
    ----------
    origins : ndarray of int, (n_tiles, 2)
        As of `plan_tiles`.
    shape : tuple of int
        (h, w) of every tile.

    Returns
    -------
    weights_y : ndarray of float32, (n_tiles, h)
    weights_x : ndarray of float32, (n_tiles, w)
    """
    return tuple(_blend_axis(origins[:, axis], shape[axis]) for axis in (0, 1))


def _blend_axis(origins: np.ndarray, length: int) -> np.ndarray:
    starts, tile_of = np.unique(origins, return_inverse=True)
    pixel = np.arange(length)
    weights = np.ones((len(starts), length))
    for i, (left, right) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        shared = left + length - right
        ramp = np.clip(((np.arange(shared) + 0.5) / shared - 0.25) * 2, 0, 1)
        weights[i, length - shared :] *= 1 - ramp
        weights[i + 1, :shared] *= ramp
    # Where three tiles meet (overlaps of more than half a tile) ramps alone do not sum to 1.
    total = np.zeros(starts[-1] + length)
    for start, row in zip(starts, weights, strict=True):
        total[start + pixel] += row
    for start, row in zip(starts, weights, strict=True):
        row /= total[start + pixel]
    return weights.astype(np.float32)[tile_of.ravel()]


def _bad(bad: np.ndarray | None) -> np.ndarray:
    """A mask for the compiled loops, empty where there is none."""
    return np.empty((0, 0, 0), np.bool_) if bad is None else bad


def sample_step(shape: tuple[int, int]) -> int:
    """Pixels (in reading order) between two samples of a tile.

    It has no common factor with the width, so that the samples spread over all columns.
    """
    step = max(1, -(-shape[0] * shape[1] // MAX_SAMPLES))
    while math.gcd(step, shape[1]) > 1:
        step += 1
    return step


def _measure_range(start, stop, frames, bad, origins, shape, step, sky):
    """Sky and noise of a range of tiles, in groups whose samples stay in the cache."""
    samples = np.empty((min(stop - start, 16), -(-shape[0] * shape[1] // step)), frames.dtype)
    for lo in range(start, stop, 16):
        hi = min(lo + 16, stop)
        group = samples[: hi - lo]
        collect_cpu(lo, hi, frames, bad, origins, shape, step, group)
        group.sort(axis=1)  # NumPy sorts with vector instructions, Numba does not
        sky_cpu(lo, hi, group, sky)


def _measure_frames(frames, bad, origins, shape, threads) -> np.ndarray:
    n_frames, n_tiles = len(frames), len(origins)
    sky = np.zeros((n_frames * n_tiles, 3))
    jit.run(
        _measure_range, len(sky), threads,
        frames, _bad(bad), origins, shape, sample_step(shape), sky,
    )  # fmt: skip
    return fill_unmeasured(sky.reshape(n_frames, n_tiles, 3))


def fill_unmeasured(sky: np.ndarray) -> np.ndarray:
    """Sky and sigma (n, n_tiles, 2) of `measure_cuda`'s or `sky_cpu`'s (n, n_tiles, 3).

    Tiles with fewer than `MIN_SAMPLES` good samples take the median of the frame's other
    tiles, constant tiles their sigma; without any such tile they stay as they are.
    """
    out = sky[:, :, :2].copy()
    if sky.shape[1] > 1:
        few = sky[:, :, 2] < MIN_SAMPLES
        flat = few | (sky[:, :, 1] == 0)
        for frame in np.flatnonzero(flat.any(axis=1)):
            for column, poor in enumerate((few[frame], flat[frame])):
                if not poor.all():
                    out[frame, poor, column] = np.median(sky[frame, ~poor, column])
    return out


def measure_tiles(
    refs: np.ndarray,
    scis: np.ndarray,
    bad_refs: np.ndarray | None,
    bad_scis: np.ndarray | None,
    origins: np.ndarray,
    shape: tuple[int, int],
    threads: int | None = None,
) -> np.ndarray:
    """Sky and noise of every tile.

    Parameters
    ----------
    refs, scis : ndarray of float32 or float64, (n, ny, nx), C order
        Counts. `refs` may be (1, ny, nx): one reference for all.
    bad_refs, bad_scis : ndarray of bool, or None
        True = bad; (n, ny, nx), or (1, ny, nx) for all.
    origins, shape
        As of `plan_tiles`.
    threads : int, optional
        CPU threads; all cores by default.

    Returns
    -------
    stats : ndarray of float64, (n, n_tiles, 4)
        sky_r, sigma_r, sky_s, sigma_s in counts of their image, always finite. Sigma is 0 for
        a constant tile, both are 0 where the whole frame is bad; `tile_noise` is never 0.
    """
    shape = (int(shape[0]), int(shape[1]))
    sky_s = _measure_frames(scis, bad_scis, origins, shape, threads)
    if bad_refs is not None and len(bad_refs) > len(refs):
        # One reference with a mask for each science image has a sky for each of them.
        parts = [_measure_frames(refs, bad[None], origins, shape, threads) for bad in bad_refs]
        sky_r = np.concatenate(parts)
    else:
        sky_r = _measure_frames(refs, bad_refs, origins, shape, threads)
    stats = np.empty((len(scis), len(origins), 4))
    stats[:, :, :2] = sky_r
    stats[:, :, 2:] = sky_s
    return stats


def photometric_scale(
    refs: np.ndarray,
    scis: np.ndarray,
    bad_refs: np.ndarray | None,
    bad_scis: np.ndarray | None,
    origins: np.ndarray,
    shape: tuple[int, int],
    stats: np.ndarray,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Flux of a source in sci over its flux in ref, per frame.

    Parameters
    ----------
    refs, scis, bad_refs, bad_scis, origins, shape, threads
        As of `measure_tiles`; `origins` from `plan_tiles`.
    stats : ndarray of float64, (n, n_tiles, 4)
        As of `measure_tiles`.

    Returns
    -------
    scale : ndarray of float32, (n,)
        Within `photometry.SCALE_LIMITS`; 1 where ref shows no source.
    n_used : ndarray of int64, (n,)
        Number of blocks that it rests on; 0 means not measured.
    """
    n, ny, nx = scis.shape
    scale = np.ones(n, np.float32)
    n_used = np.zeros(n, np.int64)
    n_y, n_x = ny // BLOCK, nx // BLOCK
    if n == 0 or n_y == 0 or n_x == 0:
        return scale, n_used
    tile_y, tile_x = block_tiles(ny, nx, origins, shape)
    bad_refs, bad_scis = _bad(bad_refs), _bad(bad_scis)
    group = max(1, 2**20 // (n_y * n_x))
    blocks = np.empty((min(group, n), 3, n_y, n_x), np.float32)
    for first in range(0, n, group):
        part = blocks[: min(group, n - first)]
        jit.run(
            blocks_cpu, len(part) * n_y, threads,
            refs, scis, bad_refs, bad_scis, stats, tile_y, tile_x, first, part,
        )  # fmt: skip
        own = stats[first : first + len(part)]
        sigma = own[:, tile_y[:, None] + tile_x, 1::2].transpose(0, 3, 1, 2).astype(np.float32)
        scale[first : first + len(part)], n_used[first : first + len(part)] = measure_scale(
            part, np.ascontiguousarray(sigma), threads
        )
    return scale, n_used


def block_tiles(
    ny: int, nx: int, origins: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """For block (by, bx) the tile with the nearest centre is ``tile_y[by] + tile_x[bx]``."""
    nearest = []
    for axis, n in enumerate((ny, nx)):
        starts = np.unique(origins[:, axis])
        centres = starts + shape[axis] / 2
        blocks = (np.arange(n // BLOCK) + 0.5) * BLOCK
        nearest.append(np.searchsorted((centres[1:] + centres[:-1]) / 2, blocks))
    n_columns = len(np.unique(origins[:, 1]))
    return nearest[0] * n_columns, nearest[1]


def tile_noise(stats: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Noise of sci - a ref in each tile: sigma_d, float32 (n, n_tiles), counts of sci, never 0."""
    a = scale.astype(np.float64)[:, None]
    variance = stats[:, :, 3] ** 2 + (a * stats[:, :, 1]) ** 2
    return np.sqrt(np.where(variance < 1e-60, 1.0, variance)).astype(np.float32)


def cut_tiles(
    refs: np.ndarray,
    scis: np.ndarray,
    bad_refs: np.ndarray | None,
    bad_scis: np.ndarray | None,
    frames: np.ndarray,
    tiles: np.ndarray,
    origins: np.ndarray,
    stats: np.ndarray,
    scale: np.ndarray,
    out: np.ndarray,
    threads: int | None = None,
) -> np.ndarray:
    """Write normalised tiles into `out`.

    Parameters
    ----------
    refs, scis, bad_refs, bad_scis, threads
        As of `measure_tiles`.
    frames, tiles : ndarray of int64, (m,)
        Frame and tile (row of `origins`) of each row of `out`.
    origins, stats, scale
        As of `plan_tiles`, `measure_tiles`, `photometric_scale`.
    out : ndarray of float32, (m, 2, h, w)
        Channel 0 = ref, channel 1 = sci, in units of sigma_d. Always finite.

    Returns
    -------
    out : ndarray
    """
    jit.run(
        cut_cpu, len(frames) * out.shape[2], threads,
        refs, scis, _bad(bad_refs), _bad(bad_scis), frames, tiles, origins, stats, scale, out,
    )  # fmt: skip
    return out


def blank_image(
    refs: np.ndarray,
    scis: np.ndarray,
    bad_refs: np.ndarray | None,
    bad_scis: np.ndarray | None,
    image: np.ndarray,
    threads: int | None = None,
) -> np.ndarray:
    """Prepare `image`, float32 (n, ny, nx), for `stitch_tiles`: 0, and NaN where ref or sci is bad.

    Adding to NaN leaves NaN: so a bad pixel stays one, however many tiles cover it.
    """
    jit.run(
        blank_cpu, image.shape[0] * image.shape[1], threads,
        refs, scis, _bad(bad_refs), _bad(bad_scis), image,
    )  # fmt: skip
    return image


def stitch_tiles(
    outputs: np.ndarray,
    frames: np.ndarray,
    tiles: np.ndarray,
    origins: np.ndarray,
    weights: tuple[np.ndarray, np.ndarray],
    sigma_d: np.ndarray,
    image: np.ndarray,
    threads: int | None = None,
) -> np.ndarray:
    """Add network outputs to the images, blended and in counts.

    Any part of the tiles may come in a call; with the tiles in one order the result is the
    same bit for bit, however they are grouped and whatever the number of threads.

    Parameters
    ----------
    outputs : ndarray of float32, (m, 1, h, w)
        In units of sigma_d.
    frames, tiles, origins
        As of `cut_tiles`.
    weights : tuple of ndarray
        As of `blend_weights`.
    sigma_d : ndarray of float32, (n, n_tiles)
        As of `tile_noise`.
    image : ndarray of float32, (n, ny, nx)
        Prepared by `blank_image`; changed in place.

    Returns
    -------
    image : ndarray
    """
    if len(frames):
        first, last = int(frames.min()), int(frames.max())
        jit.run(
            stitch_cpu, (last - first + 1) * image.shape[1], threads,
            outputs, frames, tiles, origins, *weights, sigma_d, first, image,
        )  # fmt: skip
    return image


def normalise_pairs(
    refs: np.ndarray,
    scis: np.ndarray,
    bad_refs: np.ndarray | None = None,
    bad_scis: np.ndarray | None = None,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalise whole frames, one tile each: what the networks are trained on.

    Parameters
    ----------
    refs, scis, bad_refs, bad_scis, threads
        As of `measure_tiles`. The sides need not be multiples of anything; nothing is padded.

    Returns
    -------
    pairs : ndarray of float32, (n, 2, ny, nx)
        Channel 0 = ref, channel 1 = sci, in units of sigma_d. Always finite.
    sigma_d : ndarray of float32, (n,)
        Counts of sci per unit of the channels.
    scale : ndarray of float32, (n,)
        Photometric scale.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> refs, scis = rng.normal(100, 5, (2, 3, 64, 64)).astype(np.float32)
    >>> pairs, sigma_d, scale = normalise_pairs(refs, scis)
    >>> pairs.shape, bool(abs(sigma_d.mean() - 50**0.5) < 0.3)
    ((3, 2, 64, 64), True)
    """
    n, ny, nx = scis.shape
    origins = np.zeros((1, 2), np.int64)
    stats = measure_tiles(refs, scis, bad_refs, bad_scis, origins, (ny, nx), threads)
    scale, _ = photometric_scale(refs, scis, bad_refs, bad_scis, origins, (ny, nx), stats, threads)
    pairs = np.empty((n, 2, ny, nx), np.float32)
    tiles = np.zeros(n, np.int64)
    cut_tiles(
        refs, scis, bad_refs, bad_scis, np.arange(n), tiles, origins, stats, scale, pairs, threads
    )
    return pairs, tile_noise(stats, scale)[:, 0], scale
