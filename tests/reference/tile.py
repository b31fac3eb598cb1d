"""Slow, readable twin of `fastdiff.kernels.tile`, in NumPy and float64."""

import math

import numpy as np

BLOCK = 4
MIN_SNR = 10.0
MAX_WEIGHT = 100.0
MIN_WIDE = 8


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


def window(plane, by, bx, radius):
    return plane[
        max(by - radius, 0) : by + radius + 1, max(bx - radius, 0) : bx + radius + 1
    ].sum()


def flux_ratios(ref, sci, ref_bad, sci_bad, sky_r, sky_s, sigma_r, sigma_s, radius):
    """(sci/ref, weight) of each box; sky and sigma are given for each pixel."""
    good = good_pixels(ref, ref_bad) & good_pixels(sci, sci_bad)
    ny, nx = (n // BLOCK for n in ref.shape)

    def blocks(values):
        cut = values[: ny * BLOCK, : nx * BLOCK]
        return cut.reshape(ny, BLOCK, nx, BLOCK).sum(axis=(1, 3))

    r = blocks(np.where(good, np.nan_to_num(ref.astype(float)) - sky_r, 0))
    s = blocks(np.where(good, np.nan_to_num(sci.astype(float)) - sky_s, 0))
    n = blocks(good.astype(float))
    found = []
    for by in range(ny):
        for bx in range(nx):
            noise = sigma_r[by * BLOCK, bx * BLOCK] or sigma_s[by * BLOCK, bx * BLOCK] or 1.0
            core = window(r, by, bx, 1)
            if 9 * r[by, bx] < max(core, MIN_SNR * BLOCK * noise):
                continue
            box_r, box_s, box_n = (window(plane, by, bx, radius) for plane in (r, s, n))
            side = (2 * radius + 1) * BLOCK
            ring_r, ring_s, ring_n = (
                window(plane, by, bx, radius + 2) - box
                for plane, box in ((r, box_r), (s, box_s), (n, box_n))
            )
            if box_n < side * side / 2 or core < 0.7 * box_r or ring_n < 0.8 * box_n:
                continue
            signal_r = box_r - ring_r * box_n / ring_n
            signal_s = box_s - ring_s * box_n / ring_n
            snr = signal_r / (noise * math.sqrt(box_n + box_n**2 / ring_n))
            if snr >= MIN_SNR:
                found.append((signal_s / signal_r, min(snr, MAX_WEIGHT)))
    return found


def weighted_median(found):
    if not found:
        return 1.0
    ratios, weights = np.array(sorted(found)).T
    below = np.cumsum(weights)
    middle = np.searchsorted(below, below[-1] / 2)
    return float(np.clip(ratios[middle], 1e-3, 1e3))


def photometric_scale(*frame):
    found = flux_ratios(*frame, radius=2)
    if len(found) < MIN_WIDE:
        found = flux_ratios(*frame, radius=1)
    return weighted_median(found), len(found)


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
