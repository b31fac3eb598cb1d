"""What kernels/photometry.py computes, with NumPy arrays of all blocks at once."""

import numpy as np
from scipy.ndimage import correlate1d

from fastdiff.kernels.image import photometry as k


def widen(blocks):
    """Sums over the surroundings along the row."""
    ones = np.ones(2 * k.SURROUNDINGS + 1)
    return correlate1d(blocks.astype(float), ones, axis=-1, mode="constant")


def smooth(blocks):
    """Ref and sci less their surroundings, share of good pixels, (3, n_y, n_x)."""
    taps = np.array([1, 4, 6, 4, 1]) / 16

    def blur(x):
        x = correlate1d(x.astype(float), taps, axis=0, mode="constant")
        return correlate1d(x, taps, axis=1, mode="constant")

    sums_r, sums_s, pixels = (blur(x) for x in blocks)
    share = pixels / k.BLOCK**2
    means = [sums_r / np.maximum(pixels, 1e-6), sums_s / np.maximum(pixels, 1e-6)]
    if min(share.shape) < k.SMALL_FRAME:
        return np.stack([*means, share])
    wide_r, wide_s, wide = (widen(widen(x).T).T for x in blocks)
    wide = np.maximum(wide, 1e-6)
    return np.stack([means[0] - wide_r / wide, means[1] - wide_s / wide, share])


def fit_scale(blocks, sigma_r, sigma_s):
    """(scale, number of blocks used); `sigma_r`, `sigma_s` per block, (n_y, n_x)."""
    return fit(smooth(blocks), sigma_r, sigma_s)


def fit(smoothed, sigma_r, sigma_s):
    """The same from what `smooth` returns."""
    r, s, share = smoothed
    floor_r, floor_s = (k.LEAST_NOISE * np.abs(x).mean() for x in (r, s))
    unit_r, unit_s = max(sigma_r.mean(), floor_r), max(sigma_s.mean(), floor_s)
    sigma_r, sigma_s = np.maximum(sigma_r, floor_r), np.maximum(sigma_s, floor_s)
    r, sigma_r, s, sigma_s = r / unit_r, sigma_r / unit_r, s / unit_s, sigma_s / unit_s
    noise = (70 / 256) / k.BLOCK  # root of the sum of the squares of the kernel's 5 x 5 taps
    error = np.sqrt(noise**2 / np.maximum(share, 1e-6) + k.SKY_ERROR**2)
    n_r, n_s = sigma_r * error, sigma_s * error
    c = (slice(1, -1), slice(1, -1))
    good = (share > k.MIN_SHARE)[c] & ((r > k.MIN_SNR * n_r) | (s > k.MIN_SNR * n_s))[c]
    seen = good & (r > k.MIN_SNR * n_r)[c]
    if seen.sum() < k.MIN_BLOCKS:
        return 1.0, 0
    across = (r[1:-1, 2:] + r[1:-1, :-2] - 2 * r[c]) + (r[2:, 1:-1] + r[:-2, 1:-1] - 2 * r[c])
    gx, gy = (r[1:-1, 2:] - r[1:-1, :-2]) / 2, (r[2:, 1:-1] - r[:-2, 1:-1]) / 2
    columns = np.stack([x[good] for x in (r[c], np.ones_like(gx), across, gx, gy)], 1)
    noise_r = n_r[c]
    y, n_r, n_s = s[c][good], n_r[c][good], n_s[c][good]
    ratio = np.clip(s[c][seen] / r[c][seen], *k.SCALE_LIMITS)
    weight = np.minimum(r[c][seen] / noise_r[seen], k.MAX_WEIGHT)
    edges = np.geomspace(*k.SCALE_LIMITS, k.BINS + 1)
    histogram, _ = np.histogram(ratio, edges, weights=weight)
    middle = np.searchsorted(np.cumsum(histogram), 0.5 * weight.sum())
    if middle == 0:
        return 1.0, 0
    prior = np.sqrt(edges[middle] * edges[middle + 1])
    scale, solution = prior, np.array([prior, 0, 0, 0, 0])
    for reach in k.REACHES:
        bright = k.SIGNAL_ERROR * np.maximum(scale * np.abs(columns[:, 0]), np.abs(y))
        variance = n_s**2 + (scale * n_r) ** 2 + bright**2
        weight = 1 / variance
        residual = y - columns @ solution
        weight = weight / (1 + residual**2 / (variance * reach**2))
        normal = columns.T @ (columns * weight[:, None])
        right = columns.T @ (y * weight)
        diagonal = np.diag(normal).copy()
        normal[np.diag_indices(5)] += np.array([0, *k.RIDGE]) * diagonal + 1e-30
        normal[0, 0] += 1 / (k.PRIOR_ERROR * prior) ** 2
        right[0] += prior / (k.PRIOR_ERROR * prior) ** 2
        solution = np.linalg.solve(normal, right)
        scale = np.clip(solution[0], prior / k.MAX_CHANGE, prior * k.MAX_CHANGE)
    return float(np.clip(scale * unit_s / unit_r, *k.SCALE_LIMITS)), int(good.sum())
