"""What is measured over the pixels of each region, and the flags of candidates."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdiff.core.stats import FWHM_PER_SIGMA

__all__ = [
    "BLENDED", "EDGE", "FLAGS", "MASKED", "SATURATED", "UNMEASURED", "RegionPixels", "highest",
    "measure_regions",
]  # fmt: skip

EDGE = 1
"""Flag: the grown region touches the edge of the image, so that flux may be missing."""
MASKED = 2
"""Flag: masked pixels lie in or beside the region; their flux is missing."""
SATURATED = 4
"""Flag: saturated pixels lie in or beside the region."""
BLENDED = 8
"""Flag: the source was separated from another one in the same connected region."""
UNMEASURED = 16
"""Flag: flux, error and place are those of what the network painted, because the PSF-matched
difference is not good there, as near the edge; S/N is too high then."""
FLAGS = {
    "EDGE": EDGE, "MASKED": MASKED, "SATURATED": SATURATED, "BLENDED": BLENDED,
    "UNMEASURED": UNMEASURED,
}  # fmt: skip


class RegionPixels(NamedTuple):
    """Pixels of regions, flat: where they are, what they hold, and whose they are."""

    image: NDArray[np.int64]
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    value: NDArray[np.float64]
    """Positive in a source, whatever its sign in the image; 0 where it is bad."""
    noise: NDArray[np.float64]
    """1 sigma; 0 where it is bad."""
    bad: NDArray[np.bool_]
    saturated: NDArray[np.bool_]
    owner: NDArray[np.int32]
    """Number of the region, from 0."""


def measure_regions(
    pixels: RegionPixels, n_regions: int, *, factor: int, noise_free: bool
) -> dict[str, NDArray[Any]]:
    """Columns of the candidates from sums over the grown regions.

    Parameters
    ----------
    pixels : RegionPixels
    n_regions : int
    factor : int
        1 or -1: the sign of the sources in the image.
    noise_free : bool
        Whether the difference is an estimate without noise: see `find_transients`.
    """
    image, y, x, value, noise, bad, saturated, owner = pixels

    def total(weights: NDArray[Any]) -> NDArray[np.float64]:
        sums: NDArray[Any] = np.bincount(owner, weights, n_regions)
        return sums

    flux, square = total(value), total(value**2)
    if noise_free:
        flux_err = np.abs(flux) * np.sqrt(total((value * noise) ** 2)) / square
    else:
        flux_err = np.sqrt(total(noise**2))

    # Moments about the region's own corner: no cancellation in a large image.
    y0, x0 = _minimum(y, owner, n_regions), _minimum(x, owner, n_regions)
    weight = np.maximum(value, 0.0)
    dy, dx = y - y0[owner], x - x0[owner]
    norm = total(weight)
    my, mx = total(weight * dy) / norm, total(weight * dx) / norm
    # A pixel is a square, not a point: its own second moment of 1/12 is not added, so
    # that a sampled Gaussian gives back its sigma.
    syy = total(weight * dy**2) / norm - my**2
    sxx = total(weight * dx**2) / norm - mx**2
    sxy = total(weight * dy * dx) / norm - mx * my
    mean, half = (sxx + syy) / 2, np.hypot((sxx - syy) / 2, sxy)
    major, minor = mean + half, np.maximum(mean - half, 0.0)
    first = highest(np.ones(len(owner)), owner, n_regions)
    return {
        "image": image[first],
        "x": x0 + mx,
        "y": y0 + my,
        "flux": factor * flux,
        "flux_err": flux_err,
        "snr": factor * flux / flux_err,
        "flags": MASKED * (total(bad) > 0) + SATURATED * (total(saturated) > 0),
        "fwhm": FWHM_PER_SIGMA * np.sqrt(np.maximum(mean, 0.0)),
        "ellipticity": 1.0 - np.sqrt(minor / np.maximum(major, 1e-30)),
        "theta": np.degrees(np.arctan2(2 * sxy, sxx - syy) / 2),
    }


def _minimum(values: NDArray[Any], owner: NDArray[Any], n_regions: int) -> NDArray[Any]:
    result = np.full(n_regions, np.iinfo(np.int64).max)
    np.minimum.at(result, owner, values)
    return result


def highest(values: NDArray[Any], owner: NDArray[Any], n_regions: int) -> NDArray[np.int64]:
    """Index of the highest of `values` in each region."""
    order = np.lexsort((values, owner))
    return order[np.searchsorted(owner[order], np.arange(n_regions), side="right") - 1]
