"""Slow, readable twin of `fastdiff.kernels.image.tile`, in NumPy and float64."""

import math

import numpy as np

from tests.kernels.image.reference.pixels import good_pixels, padded


def normalise(ref, sci, ref_bad, sci_bad, sky_r, sigma_r, sky_s, sigma_s, a):
    """Both channels of one tile (2, h, w) and its sigma_d."""
    sigma_d = math.sqrt(sigma_s**2 + (a * sigma_r) ** 2) or 1.0
    good_r, good_s = good_pixels(ref, ref_bad), good_pixels(sci, sci_bad)
    channel_r = np.where(good_r, a * (np.where(good_r, ref, 0.0) - sky_r) / sigma_d, 0)
    channel_s = np.where(good_s, (np.where(good_s, sci, 0.0) - sky_s) / sigma_d, 0)
    pair = np.stack(
        [np.where(good_r, channel_r, channel_s), np.where(good_s, channel_s, channel_r)]
    )
    return pair, sigma_d


def stitch(tiles, origins, ramps_y, ramps_x, shape):
    """Weighted mean of tiles at their places, without the weights having to sum to 1."""
    total, weight = np.zeros(shape), np.zeros(shape)
    for tile, (y, x), ramp_y, ramp_x in zip(tiles, origins, ramps_y, ramps_x, strict=True):
        h, w = min(len(ramp_y), shape[0] - y), min(len(ramp_x), shape[1] - x)
        blend = np.outer(ramp_y[:h], ramp_x[:w])
        total[y : y + h, x : x + w] += blend * tile[:h, :w]
        weight[y : y + h, x : x + w] += blend
    return total / weight


def _of_frame(frame, *planes):
    """Planes of a frame, where one may serve all frames and one row all rows."""
    shape = planes[1].shape[1:]
    return [np.broadcast_to(each[min(frame, len(each) - 1)], shape) for each in planes]


def cut(refs, scis, bad_refs, bad_scis, places, stats, scale, m, h, w):
    """Both channels of tiles of h x w pixels; a place is (frame, tile, first row, first column)."""
    made = []
    for frame, tile, y, x in places:
        planes = _of_frame(frame, refs, scis, bad_refs, bad_scis)
        parts = [
            padded(plane, y, x, h, w, fill)
            for plane, fill in zip(planes, (np.nan, np.nan, True, True), strict=True)
        ]
        made.append(normalise(*parts, *stats[frame, tile], float(scale[frame]))[0])
    return made


def blank(refs, scis, bad_refs, bad_scis):
    """0, and NaN where a pixel of ref or sci is bad."""
    images = []
    for frame in range(len(scis)):
        ref, sci, ref_bad, sci_bad = _of_frame(frame, refs, scis, bad_refs, bad_scis)
        good = good_pixels(ref, ref_bad) & good_pixels(sci, sci_bad)
        images.append(np.where(good, 0, np.nan))
    return images


def add_tiles(outputs, places, weights_y, weights_x, sigma_d, image):
    """The images and what tiles add to them; a weight of 0 adds nothing, whatever the output."""
    image = image.astype(float)
    for output, (frame, tile, y, x) in zip(outputs[:, 0], places, strict=True):
        h, w = (
            min(n, m - a) for n, m, a in zip(output.shape, image.shape[1:], (y, x), strict=True)
        )
        blend = np.outer(weights_y[tile], weights_x[tile])
        part = np.where(blend > 0, output, 0) * blend * sigma_d[frame, tile]
        image[frame, y : y + h, x : x + w] += part[:h, :w]
    return image
