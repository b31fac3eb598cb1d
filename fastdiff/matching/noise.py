"""The background of a difference, and the noise that it shows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.core.stats import SIGMA_PER_MAD
from fastdiff.kernels.image.measure import MIN_SAMPLES
from fastdiff.kernels.image.plan import plan_tiles

from .basis import powers_up_to, terms_at
from .grid import BlockGrid, hats

__all__ = ["STAMPS_PER_TERM", "calibrate", "fit_background"]

STAMPS_PER_TERM = 4  # that each term of a polynomial needs


def fit_background(image: NDArray[np.float32], order: int) -> NDArray[np.float64]:
    """Polynomial through the medians of boxes, those that stand out left out."""
    image = arrays.on_host(image)
    ny, nx = image.shape
    h, w = (int(np.clip(n // 12, 16, 128)) for n in (ny, nx))
    x, y, medians = [], [], []
    for y0 in range(0, ny - h // 2, h):
        for x0 in range(0, nx - w // 2, w):
            values = image[y0 : y0 + h : 2, x0 : x0 + w : 2]
            good = values[np.isfinite(values)]
            if 2 * len(good) > values.size:
                x.append(x0 + (min(x0 + w, nx) - 1 - x0) / 2)
                y.append(y0 + (min(y0 + h, ny) - 1 - y0) / 2)
                medians.append(np.median(good))
    while order and len(medians) < STAMPS_PER_TERM * len(powers_up_to(order)):
        order -= 1
    if not medians:
        good = image[np.isfinite(image)]
        return np.array([float(np.median(good)) if len(good) else 0.0])
    terms = terms_at(np.array(x), np.array(y), order, (ny, nx))
    level = np.array(medians, np.float64)
    kept = np.ones(len(level), bool)
    coefficients: NDArray[Any]
    for _ in range(5):
        coefficients = np.linalg.lstsq(terms[kept], level[kept], rcond=None)[0]
        rest = np.abs(level - terms @ coefficients)
        fits = rest <= 3 * SIGMA_PER_MAD * np.median(rest[kept]) + 1e-30
        if (fits == kept).all() or 2 * fits.sum() < len(fits):
            break
        kept = fits
    return coefficients


def calibrate(
    image: NDArray[np.float32], variance: NDArray[np.float32], least: float = 0.0
) -> None:
    """Scale the variance to what a difference shows of it, tile by tile, linear between them.

    The pixels of images that were resampled are not independent, and the noise of the sky may
    change over a frame. No tile is scaled by less than `least`.
    """
    ny, nx = image.shape
    some = arrays.on_host(image[::2, ::2])
    good = np.isfinite(some)
    if not good.any():
        return
    # No division by zero where images have no noise.
    variance += np.float32(1e-6 * np.mean(some[good] ** 2, dtype=np.float64) + 1e-30)
    pulls = some / np.sqrt(arrays.on_host(variance[::2, ::2]))
    origins, (h, w) = plan_tiles(ny, nx)
    factors = np.full(len(origins), np.nan)
    for k, (y, x) in enumerate(origins // 2):
        part = np.s_[y : y + h // 2, x : x + w // 2]
        values = pulls[part][good[part]]
        if len(values) >= MIN_SAMPLES:
            # Between the quantiles of 1 sigma on either side: sources are taken off already.
            low, high = np.quantile(values, (0.158655, 0.841345))
            factors[k] = ((high - low) / 2) ** 2
    known = np.isfinite(factors)
    factors[~known] = np.median(factors[known]) if known.any() else 1.0
    factors = np.maximum(factors, least)
    ys, xs = (np.unique(origins[:, axis]) + (side - 1) / 2 for axis, side in ((0, h), (1, w)))
    along_x = factors.reshape(len(ys), len(xs)) @ hats(np.arange(nx), xs).T
    xp = arrays.namespace(variance)
    along_x, along_y = (xp.asarray(a, np.float32) for a in (along_x, hats(np.arange(ny), ys)))
    for band, _ in BlockGrid(image.shape).bands():
        variance[band] *= along_y[band] @ along_x
