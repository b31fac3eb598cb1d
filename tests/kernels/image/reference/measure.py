"""Slow, readable twin of `fastdiff.kernels.image.measure`, in NumPy and float64."""

import math

import numpy as np

from tests.kernels.image.reference.pixels import good_pixels, padded


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


def collect(frames, bad, origins, number, width, step, shape):
    """Samples of tiles, (tiles, samples), counted through the batch from `number` on.

    Bad pixels are infinite.
    """
    n, n_samples = shape
    rows = []
    for i in range(number, number + n):
        frame, (y, x) = i // len(origins), origins[i % len(origins)]
        image = frames[min(frame, len(frames) - 1)]
        good = good_pixels(image, np.broadcast_to(bad[min(frame, len(bad) - 1)], image.shape))
        height = n_samples * step // width + 1
        values = padded(np.where(good, image, np.inf), y, x, height, width, np.inf)
        rows.append(values.ravel()[::step][:n_samples])
    return rows


def clip(samples):
    """(sky, sigma, number of good samples) of sorted samples with infinities at their end."""
    good = [row[np.isfinite(row)].astype(float) for row in samples]
    return [(*sky_and_sigma(row), len(row)) for row in good]
