"""The background of a difference, and the noise that it shows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.core.stats import SIGMA_PER_MAD, nonnegative
from fastdiff.kernels.image.measure import MIN_SAMPLES
from fastdiff.kernels.image.plan import plan_tiles

from .basis import powers_up_to, terms_at
from .grid import BlockGrid, hats

__all__ = [
    "MEDIAN", "STAMPS_PER_TERM", "TAIL", "calibrate", "fit_background", "fit_bins", "fit_noise",
    "in_patch", "light_bins", "sampled", "some_pixels", "take_off_stripes", "variance_of_bins",
]  # fmt: skip

STAMPS_PER_TERM = 4  # that each term of a polynomial needs
MEDIAN, TAIL = (0.5, 0.6745), (0.8, 1.2816)
"""Quantiles of the modulus of a Gaussian variable, and how many sigmas they are."""
_LEAST_OF_BIN = 50  # pixels
_SAMPLES = 200_000  # pixels that tell the noise of a frame
_PATCH = 0.3  # of 5 x 5 pixels that are bad about one in a patch
_LEAST_LINES = 32  # that tell whether there are stripes
_LEAST_STRIPES = 0.85  # part of the variance of rows that noise of pixels does not make


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


def take_off_stripes(image: Any) -> None:
    """Take the levels of columns and rows off a difference, where they vary more than noise makes.

    Amplifiers leave steps and read-out leaves rows; the median of a row is hardly touched by
    sources. Levels are shrunk by what noise alone would make of them, so that nothing is done
    where there are no stripes.
    """
    xp = arrays.namespace(image)
    for axis in (0, 1):
        seen = image[::4] if axis == 0 else image[:, ::4]
        if not _stripes_of(arrays.on_host(seen), axis)[1] > _LEAST_STRIPES:
            continue
        levels, kept = _stripes_of(arrays.on_host(image), axis)
        levels = xp.asarray((kept * levels).astype(np.float32))
        image -= levels[None] if axis == 0 else levels[:, None]


def _stripes_of(image: NDArray[np.float32], axis: int) -> tuple[NDArray[np.float64], float]:
    """Levels of the columns (axis 0) or rows, and how much of their variance is no noise."""
    lines = np.ascontiguousarray(image.T) if axis == 0 else image
    good = np.isfinite(lines)
    n_good = good.sum(1)
    filled = lines if good.all() else np.where(good, lines, 0)
    levels = np.median(filled, axis=1)
    usable = 2 * n_good > lines.shape[1]
    if usable.sum() < _LEAST_LINES:
        return np.zeros(len(lines)), 0.0
    spread = SIGMA_PER_MAD * np.median(np.abs(filled[:: max(1, len(lines) // 64)]))
    expected = np.pi / 2 * spread**2 / np.median(n_good[usable])
    levels = np.where(usable, levels - np.median(levels[usable]), 0.0)
    variance = float(np.mean(np.minimum(levels[usable] ** 2, (10 * spread) ** 2)))
    return levels, max(0.0, 1 - expected / variance) if variance > 0 else 0.0


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


def in_patch(bad: Any) -> Any:
    """Where pixels lie in a patch of bad ones, or at its edge; a dead column is none."""
    share = arrays.scipy_of(bad, "ndimage").uniform_filter(bad.astype(np.float32), 5)
    return share > np.float32(_PATCH)


def some_pixels(image: Any) -> Any:
    """Flat indices of good pixels, about `_SAMPLES` of them spread over all columns."""
    xp = arrays.namespace(image)
    index = xp.flatnonzero(xp.isfinite(image))
    step = max(1, len(index) // _SAMPLES)
    while np.gcd(step, image.shape[1]) > 1:
        step += 1
    return index[::step]


def sampled(plane: Any, index: Any) -> NDArray[np.float64]:
    """Some pixels of a plane, in the memory of the CPU."""
    values: NDArray[np.float64] = arrays.on_host(plane.ravel()[index]).astype(np.float64)
    return values


def fit_noise(image: Any, variance: Any, light: Any) -> tuple[float, float]:
    """Factor of a variance, and variance per count of light, that a difference shows."""
    index = some_pixels(image)
    sample, base, level = (sampled(plane, index) for plane in (image, variance, light))
    dark = level <= 0
    bins = ([np.flatnonzero(dark)] if dark.sum() >= _LEAST_OF_BIN else []) + light_bins(level)
    if not bins:
        return 1.0, 0.0
    seen, base, level = variance_of_bins(bins, sample, base, level, *MEDIAN)
    if not base[0] > 0:
        return 1.0, 0.0
    of_sky, photons = 0.0, 0.0
    if len(bins) > 1:
        of_sky, photons = fit_bins(bins, seen, np.zeros_like(seen), base, level)
    return (float(of_sky), float(photons)) if of_sky > 0 else (float(seen[0] / base[0]), 0.0)


def light_bins(light: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Indices of pixels with light, in bins of as many by rising light; none of too few pixels."""
    bright = np.flatnonzero(light)
    if len(bright) < 2 * _LEAST_OF_BIN:
        return []
    order = bright[np.argsort(light[bright])]
    return np.array_split(order, int(np.clip(len(order) // _LEAST_OF_BIN, 2, 30)))


def variance_of_bins(
    bins: list[NDArray[np.int64]], sample: NDArray[np.float64], variance: NDArray[np.float64],
    light: NDArray[np.float64], quantile: float, sigmas: float,
) -> tuple[NDArray[np.float64], ...]:  # fmt: skip
    """Variance that is seen in each bin, that which is known, and the light."""
    seen = [np.quantile(np.abs(sample[part]), quantile) / sigmas for part in bins]
    base, level = ([np.median(each[part]) for part in bins] for each in (variance, light))
    return np.square(seen), np.array(base), np.array(level)


def fit_bins(
    bins: list[NDArray[np.int64]], spread2: NDArray[Any], base: NDArray[Any], *terms: Any
) -> NDArray[np.float64]:
    """Factors, 0 or more, of terms that make what is seen above what is known."""
    # A variance that is seen has an error of its own size. The model tells that size better than
    # what is seen: bins where little is seen by chance would rule.
    error, found = np.maximum(spread2, base), np.zeros(len(terms))
    for _ in range(4):
        known = error > 0  # images without noise have none
        if not known.any():
            break
        weight = np.sqrt([len(part) for part in bins])[known] / error[known]
        design = np.stack(terms, axis=1)[known] * weight[:, None]
        norm = np.maximum(np.linalg.norm(design, axis=0), 1e-300)
        found = nonnegative(design / norm, weight * (spread2 - base)[known]) / norm
        error = base + np.stack(terms, axis=1) @ found
    return found
