"""Frames to normalised tiles, and network outputs on tiles back to frames.

Notation: a frame pair is ``ref`` and ``sci``, (ny, nx), on one pixel grid. For each tile of
h x w pixels

    sky_r, sigma_r, sky_s, sigma_s   sky and noise of its good pixels (`measure`)
    a                                photometric scale of the frame (`blocks`)
    sigma_d = sqrt(sigma_s^2 + a^2 sigma_r^2)
    channel 0 = a (ref - sky_r) / sigma_d
    channel 1 = (sci - sky_s) / sigma_d

A pixel that is bad in one image takes the other image's channel, so that it shows no change;
bad in both, or outside of the frame, it is 0 in both. Back to counts of sci:

    image = sum over tiles of  weight * output * sigma_d,      sum of weights = 1

sigma_d = 0 is replaced by 1. Bad pixels are those of `pixels`; where tiles lie and how they are
blended is said in `plan`.

Arrays of CuPy are worked on where they lie, on its current stream; what is small (places, stats,
scale, weights, sigma_d) may come as NumPy's.

Cost: `cut_tiles` and `stitch_tiles` read and write each pixel once and run near the speed of
memory.
"""

from __future__ import annotations

import math

import numpy as np

from .. import jit
from ..declare import kernel
from .blocks import photometric_scale
from .measure import SIGMA_REF, SIGMA_SCI, SKY_REF, SKY_SCI, measure_tiles
from .pixels import Pixels, is_bad, row_index
from .plan import COLUMN, FRAME, ROW, TILE, places_of

f32 = np.float32

_CHANNEL_LIMIT = f32(1e9)  # far beyond any star; keeps float32 channels finite


# ---------------------------------------------------------------- items


@jit.item
def sigma_difference(sigma_r, sigma_s, scale):
    """Noise of sci - a ref per pixel; 1 where both images are constant."""
    variance = sigma_s * sigma_s + scale * scale * sigma_r * sigma_r
    if variance < 1e-60:
        return 1.0
    return math.sqrt(variance)


@jit.item
def clamp(value):
    """A channel within +- `_CHANNEL_LIMIT`."""
    value = f32(value)
    value = value if value < _CHANNEL_LIMIT else _CHANNEL_LIMIT
    return value if value > -_CHANNEL_LIMIT else -_CHANNEL_LIMIT


@jit.item
def channels(ref, sci, ref_bad, sci_bad, sky_r, sky_s, gain_r, gain_s):
    """Both channels of one pixel."""
    channel_r = clamp((ref - sky_r) * gain_r)
    channel_s = clamp((sci - sky_s) * gain_s)
    out_r = (f32(0) if sci_bad else channel_s) if ref_bad else channel_r
    out_s = (f32(0) if ref_bad else channel_r) if sci_bad else channel_s
    return out_r, out_s


@jit.item
def blended(output, weight_y, weight_x, sigma_d):
    """What one tile adds to one pixel, in counts of sci."""
    return output * (weight_y * weight_x) * sigma_d


# ---------------------------------------------------------------- kernels


@kernel(
    over="m, h, w",
    refs="float32|float64 (n_refs, ny, nx)",
    scis="float32|float64 (n, ny, nx)",
    bad_refs="bool (n_bad_refs, bad_ref_rows, nx)",
    bad_scis="bool (n_bad_scis, bad_sci_rows, nx)",
    places="int64 (m, 4)",
    stats="float64 (n, n_tiles, 4)",
    scale="float32 (n)",
    out="out float32 (m, 2, h, w)",
)
def cut(j, y_out, first, last, refs, scis, bad_refs, bad_scis, places, stats, scale, out):
    """Both channels of a row of a tile."""
    frame, tile, y, x0 = (
        places[j, FRAME],
        places[j, TILE],
        places[j, ROW] + y_out,
        places[j, COLUMN],
    )
    out_r, out_s = out[j, 0, y_out], out[j, 1, y_out]
    end = first
    if y < scis.shape[1]:
        end = max(first, min(last, scis.shape[2] - x0))
        row_r, row_s = refs[row_index(refs, frame, y)][x0:], scis[row_index(scis, frame, y)][x0:]
        mask_r, mask_s = (
            bad_refs[row_index(bad_refs, frame, y)][x0:],
            bad_scis[row_index(bad_scis, frame, y)][x0:],
        )
        own, a = stats[frame, tile], float(scale[frame])
        gain = 1.0 / sigma_difference(own[SIGMA_REF], own[SIGMA_SCI], a)
        sky_r, gain_r = refs.dtype.type(own[SKY_REF]), refs.dtype.type(a * gain)
        sky_s, gain_s = scis.dtype.type(own[SKY_SCI]), scis.dtype.type(gain)
        for x in range(first, end):
            ref, sci = row_r[x], row_s[x]
            out_r[x], out_s[x] = channels(
                ref, sci, is_bad(ref, mask_r[x]), is_bad(sci, mask_s[x]),
                sky_r, sky_s, gain_r, gain_s,
            )  # fmt: skip
    for x in range(end, last):
        out_r[x], out_s[x] = f32(0), f32(0)


@kernel(
    over="n, ny, nx",
    refs="float32|float64 (n_refs, ny, nx)",
    scis="float32|float64 (n, ny, nx)",
    bad_refs="bool (n_bad_refs, bad_ref_rows, nx)",
    bad_scis="bool (n_bad_scis, bad_sci_rows, nx)",
    image="out float32 (n, ny, nx)",
)
def blank(frame, y, first, last, refs, scis, bad_refs, bad_scis, image):
    """0, and NaN where a pixel of ref or sci is bad."""
    row_r, row_s = refs[row_index(refs, frame, y)], scis[row_index(scis, frame, y)]
    mask_r, mask_s = (
        bad_refs[row_index(bad_refs, frame, y)],
        bad_scis[row_index(bad_scis, frame, y)],
    )
    out = image[frame, y]
    for x in range(first, last):
        bad = is_bad(row_r[x], mask_r[x]) | is_bad(row_s[x], mask_s[x])
        out[x] = f32(math.nan) if bad else f32(0)


@kernel(
    over="n, ny, nx",
    outputs="float32 (m, 1, h, w)",
    places="int64 (m, 4)",
    weights_y="float32 (n_tiles, h)",
    weights_x="float32 (n_tiles, w)",
    sigma_d="float32 (n, n_tiles)",
    image="inout float32 (n, ny, nx)",
)
def stitch(frame, y, first, last, outputs, places, weights_y, weights_x, sigma_d, image):
    """Tiles add to a row in their order, whatever the threads."""
    h, w = outputs.shape[2], outputs.shape[3]
    for j in range(places.shape[0]):
        tile, y_tile = places[j, TILE], y - places[j, ROW]
        if places[j, FRAME] != frame or y_tile < 0 or y_tile >= h:
            continue
        weight_y = weights_y[tile, y_tile]
        if weight_y == 0.0:
            continue
        x0, sigma = places[j, COLUMN], sigma_d[frame, tile]
        begin = max(first - x0, 0)
        row = image[frame, y, x0 + begin :]
        output, weight_x = outputs[j, 0, y_tile, begin:], weights_x[tile, begin:]
        for x in range(min(last - x0, w) - begin):
            row[x] += blended(output[x], weight_y, weight_x[x], sigma)


# ---------------------------------------------------------------- entry points


def tile_noise(stats: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Noise of sci - a ref in each tile: sigma_d, float32 (n, n_tiles), counts of sci, never 0."""
    a = scale.astype(np.float64)[:, None]
    variance = stats[:, :, SIGMA_SCI] ** 2 + (a * stats[:, :, SIGMA_REF]) ** 2
    return np.sqrt(np.where(variance < 1e-60, 1.0, variance)).astype(np.float32)


def cut_tiles(
    pixels: Pixels | tuple[np.ndarray | None, ...],
    places: np.ndarray,
    shape: tuple[int, int],
    stats: np.ndarray,
    scale: np.ndarray,
    threads: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Normalised tiles.

    Parameters
    ----------
    pixels, threads
        As of `measure.measure_tiles`.
    places : ndarray of int64, (m, 4)
        Of the tiles wanted, as of `plan.places_of`.
    shape : tuple of int
        (h, w) of every tile.
    stats, scale
        As of `measure.measure_tiles`, `blocks.photometric_scale`.
    out : ndarray of float32, (m, 2, h, w), optional
        Where the tiles go.

    Returns
    -------
    ndarray of float32, (m, 2, h, w)
        Channel 0 = ref, channel 1 = sci, in units of sigma_d. Always finite.
    """
    pixels = Pixels(*pixels).with_masks()
    scis = pixels.scis
    if out is None:
        out = np.empty_like(scis, np.float32, order="C", shape=(len(places), 2, *shape))
    places, stats, scale = (np.asarray(each, like=scis) for each in (places, stats, scale))
    cut(*pixels, places, stats, scale, out, threads=threads)
    return out


def blank_image(
    pixels: Pixels | tuple[np.ndarray | None, ...], image: np.ndarray, threads: int | None = None
) -> np.ndarray:
    """Prepare `image`, float32 (n, ny, nx), for `stitch_tiles`: 0, and NaN where ref or sci is bad.

    Adding to NaN leaves NaN: so a bad pixel stays one, however many tiles cover it.
    """
    blank(*Pixels(*pixels).with_masks(), image, threads=threads)
    return image


def stitch_tiles(
    outputs: np.ndarray,
    places: np.ndarray,
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
    places : ndarray of int64, (m, 4)
        As of `cut_tiles`, in the memory of the CPU.
    weights : tuple of ndarray
        As of `plan.blend_weights`.
    sigma_d : ndarray of float32, (n, n_tiles)
        As of `tile_noise`.
    image : ndarray of float32, (n, ny, nx)
        Prepared by `blank_image`; changed in place.

    Returns
    -------
    image : ndarray
    """
    if len(places):
        first, last = int(places[:, FRAME].min()), int(places[:, FRAME].max()) + 1
        own = places - np.array([first, 0, 0, 0])  # of the frames from `first` on
        own, *weights, sigma_d = (
            np.asarray(each, like=image) for each in (own, *weights, sigma_d[first:last])
        )
        stitch(outputs, own, *weights, sigma_d, image[first:last], threads=threads)
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
    refs, scis, bad_refs, bad_scis
        As of `pixels.Pixels`. The sides need not be multiples of anything; nothing is padded.
    threads : int, optional
        CPU threads; all cores by default.

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
    pixels, shape = Pixels(refs, scis, bad_refs, bad_scis).with_masks(), scis.shape[1:]
    origins = np.zeros((1, 2), np.int64)
    stats = measure_tiles(pixels, origins, shape, threads)
    scale, _ = photometric_scale(pixels, origins, shape, stats, threads)
    frames = np.arange(len(scis))
    places = places_of(frames, np.zeros_like(frames), origins)
    pairs = cut_tiles(pixels, places, shape, stats, scale, threads)
    return pairs, tile_noise(stats, scale)[:, 0], scale
