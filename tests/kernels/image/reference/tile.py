"""Slow, readable twin of `fastdiff.kernels.image.tile`, in NumPy and float64."""

import math

import numpy as np

BLOCK = 4


def good_pixels(image, bad=None):
    good = np.isfinite(image) & (np.abs(np.nan_to_num(image)) <= 1e30)
    return good if bad is None else good & ~bad


def padded(image, y, x, h, w, fill):
    """The h x w pixels from (y, x) on; `fill` outside of the image."""
    part = image[y : y + h, x : x + w]
    out = np.full((h, w), fill, dtype=part.dtype)
    out[: part.shape[0], : part.shape[1]] = part
    return out


def samples_of(tile, good, max_samples=4096):
    """Good pixels on the lattice: every k-th in reading order, k without a factor of the width."""
    step = max(1, math.ceil(tile.size / max_samples))
    while math.gcd(step, tile.shape[1]) > 1:
        step += 1
    return tile.ravel()[::step][good.ravel()[::step]].astype(np.float64)


def quantile(values, fraction):
    """Quantile of sorted values, equal values spread evenly over half the gap on either side."""
    rank = fraction * len(values)
    value = values[min(int(rank), len(values) - 1)]
    same = np.flatnonzero(values == value)
    below = values[max(same[0] - 1, 0)]
    above = values[min(same[-1] + 1, len(values) - 1)]
    return value + (above - below) / 2 * ((rank - same[0]) / len(same) - 0.5)


def sky_and_sigma(samples):
    kept = np.sort(samples)
    n = len(kept)
    sky = sigma = 0.0
    if n == 0:
        return sky, sigma
    for _ in range(10):
        ties = np.count_nonzero(kept == kept[len(kept) // 2])
        if ties > len(kept) / 4:
            centre, spread = kept.mean(), 0.0 if np.ptp(kept) == 0 else kept.std()
        else:
            centre = quantile(kept, 0.5)
            spread = centre - quantile(kept, 0.158655)
        if spread <= 0:
            if n - len(kept) > n / 100:
                break
            return centre, 0.0
        sky, sigma = centre, spread
        inside = kept[np.abs(kept - sky) <= 3 * sigma]
        if len(inside) == len(kept) or len(inside) < 2:
            break
        kept = inside
    return sky, sigma


def measure(image, bad, origins, shape):
    """(n_tiles, 2): sky and sigma of the tiles of one frame."""
    good = good_pixels(image, bad)
    rows, counts = [], []
    for y, x in origins:
        samples = samples_of(padded(image, y, x, *shape, 0), padded(good, y, x, *shape, False))
        rows.append(sky_and_sigma(samples))
        counts.append(len(samples))
    out, counts = np.array(rows), np.array(counts)
    if len(origins) > 1:
        few = counts < 64
        flat = few | (out[:, 1] == 0)
        sky, sigma = out[~few, 0], out[~flat, 1]
        if len(sky):
            out[few, 0] = np.median(sky)
        if len(sigma):
            out[flat, 1] = np.median(sigma)
    return out


def blocks(ref, sci, ref_bad, sci_bad, sky_r, sky_s):
    """Sums of ref and sci above the sky and number of pixels, good ones, in 4 x 4 blocks."""
    good = good_pixels(ref, ref_bad) & good_pixels(sci, sci_bad)
    ny, nx = (n // BLOCK for n in ref.shape)

    def sums(values):
        cut = values[: ny * BLOCK, : nx * BLOCK]
        return cut.reshape(ny, BLOCK, nx, BLOCK).sum(axis=(1, 3))

    r = sums(np.where(good, np.nan_to_num(ref.astype(float)) - sky_r, 0))
    s = sums(np.where(good, np.nan_to_num(sci.astype(float)) - sky_s, 0))
    return np.stack([r, s, sums(good.astype(float))])


def normalise(ref, sci, ref_bad, sci_bad, sky_r, sigma_r, sky_s, sigma_s, a):
    """Both channels of one tile (2, h, w) and its sigma_d."""
    sigma_d = math.sqrt(sigma_s**2 + (a * sigma_r) ** 2) or 1.0
    good_r, good_s = good_pixels(ref, ref_bad), good_pixels(sci, sci_bad)
    channel_r = np.where(good_r, a * (np.nan_to_num(ref.astype(float)) - sky_r) / sigma_d, 0)
    channel_s = np.where(good_s, (np.nan_to_num(sci.astype(float)) - sky_s) / sigma_d, 0)
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
