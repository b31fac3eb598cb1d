"""Stars of a frame.

Sources are found with `sep`, SExtractor's algorithms in C (Bertin & Arnouts 1996, A&AS 117, 393;
Barbary 2016, JOSS 1, 58). Each is measured by its adaptive moments. The stars are those around the
most common width and shape of the bright sources.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdiff.core.stats import FWHM_PER_SIGMA, mad_sigma

from .moments import LEAST_FWHM, adaptive_moments, cut_stamps

__all__ = ["Stars", "find_stars", "fwhm_of"]

_MAX_CANDIDATES = 3000  # sources that are measured, the brightest
_NEIGHBOUR = 3.0  # FWHM; an isolated star has no neighbour within them ...
_FAINT_NEIGHBOUR = 0.03  # ... of more than this part of its flux
_COMMON_WIDTH, _COMMON_PART = 0.12, 0.25  # of log(FWHM); of the most sources in such a range
_SCATTER = 0.03  # of the widths of stars over a frame, at least
_ROUNDNESS = 0.1  # of the shapes of stars over a frame, at least


class Stars(NamedTuple):
    """Stars of one frame: isolated ones first, each kind by falling flux.

    Attributes
    ----------
    x, y : ndarray of float64
        Centres, 0-based pixels.
    flux : ndarray of float64
        Counts, under a Gaussian that fits the core: exact for a Gaussian PSF, for others a
        fixed part of the flux.
    peak : ndarray of float64
        Counts of the brightest pixel above the sky.
    fwhm : ndarray of float64
        Full width at half maximum, pixels, geometric mean of both axes.
    ellipticity : ndarray of float64
        1 - minor axis / major axis.
    snr : ndarray of float64
        Flux over its noise from the sky.
    isolated : ndarray of bool
        No neighbour of more than 3 % of the flux within 3 FWHM.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]
    peak: NDArray[np.float64]
    fwhm: NDArray[np.float64]
    ellipticity: NDArray[np.float64]
    snr: NDArray[np.float64]
    isolated: NDArray[np.bool_]

    def take(self, index: Any) -> Stars:
        """The stars of an index array, a boolean array or a slice."""
        return Stars(*(column[index] for column in self))


def fwhm_of(stars: Stars) -> float:
    """Median full width at half maximum in pixels; NaN without a star."""
    return float(np.median(stars.fwhm)) if len(stars.fwhm) else float("nan")


def find_stars(
    image: NDArray[Any],
    bad: NDArray[np.bool_] | None = None,
    *,
    sky: float | NDArray[Any] | None = None,
    sigma: float | NDArray[Any] | None = None,
    threshold: float = 10.0,
    max_stars: int = 500,
    edge: int = 8,
) -> Stars:
    """Stars that are neither saturated nor touched by bad pixels, spread over the frame.

    Parameters
    ----------
    image : ndarray, (ny, nx)
        Counts; pixels that are not finite are bad.
    bad : ndarray of bool, (ny, nx), optional
        True at bad and at saturated pixels.
    sky, sigma : float or ndarray (ny, nx), optional
        Level and noise of the sky in counts. By default measured on a mesh of 64 pixels.
    threshold : float
        Least S/N of a star.
    max_stars : int
        With more of them the brightest of every part of the frame are taken.
    edge : int
        Pixels between a star and the edge of the frame, at least.

    Returns
    -------
    Stars
        Without an entry if there is no star.

    Notes
    -----
    Cost: about 40 CPU ms for 1024 x 1024 pixels with 400 stars. Galaxies whose width and
    shape are those of stars are taken for stars.
    """
    data, blank, rms = _above_sky(image, bad, sky, sigma)
    none = Stars._make([*np.empty((7, 0)), np.empty(0, bool)])
    if rms is None:
        return none
    found = _extract(data, blank, rms)
    if len(found) == 0:
        return none
    all_x, all_y, all_flux = found["x"], found["y"], found["flux"]
    found = found[np.argsort(-found["flux"])[:_MAX_CANDIDATES]]
    narrow = np.sqrt(np.maximum(found["a"] * found["b"], 0.25))
    # Bright sources show the width; sep's second moments miss the wings of faint ones.
    width = float(np.clip(_mode(narrow[: max(20, len(narrow) // 2)]), 0.6, 12.0))
    half = int(np.ceil(3.5 * width)) + 2
    inside = _inside(found["x"], found["y"], data.shape, max(edge, 1))
    found = found[inside]
    if len(found) == 0:
        return none
    stamps, (y0, x0) = cut_stamps(data, found["x"], found["y"], half)
    dirty = cut_stamps(blank, found["x"], found["y"], half)[0].any((1, 2))
    # A saturated star that nobody flagged has a flat top.
    flat = (stamps == stamps.max((1, 2), keepdims=True)).sum((1, 2)) > 2
    flux, dx, dy, (cxx, cxy, cyy) = adaptive_moments(stamps, width)
    x, y = x0 + half + dx, y0 + half + dy
    root = np.sqrt(np.maximum(cxx * cyy - cxy**2, 0.0))
    fwhm = FWHM_PER_SIGMA * np.sqrt(root)
    noise = rms if np.ndim(rms) == 0 else rms[found["ypeak"], found["xpeak"]]
    snr = flux / (noise * np.sqrt(4 * np.pi * np.maximum(root, 1e-9)))
    shift = np.hypot(x - found["x"], y - found["y"])
    good = (flux > 0) & (snr >= threshold) & (fwhm > LEAST_FWHM) & ~dirty & ~flat
    good &= (shift < width) & _inside(x, y, data.shape, edge)
    if not good.any():
        return none

    e1, e2 = (cxx - cyy) / (cxx + cyy), 2 * cxy / (cxx + cyy)
    with np.errstate(invalid="ignore", divide="ignore"):
        good = _point_like(good, fwhm, e1, e2, snr)
    e = np.minimum(np.hypot(e1, e2), 1.0)
    stars = Stars(
        x, y, flux, stamps.max((1, 2)).astype(np.float64), fwhm,
        1 - np.sqrt((1 - e) / (1 + e)), snr, np.ones(len(x), bool),
    ).take(good)  # fmt: skip
    alone = _isolated(stars, all_x, all_y, all_flux)
    stars = stars._replace(isolated=alone)
    return stars.take(_spread(stars, data.shape, max_stars))


def _above_sky(
    image: NDArray[Any], bad: NDArray[np.bool_] | None, sky: Any, sigma: Any
) -> tuple[NDArray[np.float32], NDArray[np.bool_], Any]:
    """Image less its sky, 0 at bad pixels; where these are; noise, None if there is no signal."""
    import sep

    blank = np.ascontiguousarray(~np.isfinite(image))
    if bad is not None:
        blank |= bad
    data = np.array(image, dtype=np.float32, order="C")
    good = ~blank
    if not good.any():
        return data, blank, None
    if blank.any():
        np.copyto(data, np.float32(np.mean(image[good])), where=blank)
    if sky is None or sigma is None:
        background = sep.Background(data, mask=blank if blank.any() else None)
        sigma = background.globalrms if sigma is None else sigma
        sky = background.back() if sky is None else sky
    data -= np.asarray(sky, dtype=np.float32)
    np.copyto(data, 0, where=blank)
    peak = float(data.max())
    if np.ndim(sigma) == 0:
        # Images without noise: sources end where they are faint beside the brightest.
        sigma = max(float(sigma), 1e-5 * peak)
    else:
        sigma = np.ascontiguousarray(sigma, dtype=np.float32)
        usual = float(np.nanmedian(sigma))
        sigma = np.where(np.isfinite(sigma) & (sigma > 0), sigma, max(usual, 1e-5 * peak))
    return data, blank, sigma if peak > 0 and np.isfinite(peak) else None


def _extract(data: NDArray[np.float32], blank: NDArray[np.bool_], sigma: Any) -> NDArray[Any]:
    """Table of `sep` of what is above 3 sigma; higher where there is too much of it."""
    import sep

    for threshold in (3.0, 6.0, 15.0, 40.0):
        try:
            table: NDArray[Any] = sep.extract(
                data, threshold, err=sigma, mask=blank, minarea=5, filter_kernel=None,
                deblend_nthresh=8,
            )  # fmt: skip
            return table
        except Exception as error:
            # sep raises bare exceptions when its buffer of pixels or of blends is full.
            if not any(word in str(error) for word in ("buffer", "overflow")):
                raise
    return np.empty(0, [("x", "f8")])


def _inside(
    x: NDArray[Any], y: NDArray[Any], shape: tuple[int, ...], edge: float
) -> NDArray[np.bool_]:
    ny, nx = shape
    return (x >= edge) & (x <= nx - 1 - edge) & (y >= edge) & (y <= ny - 1 - edge)


def _mode(values: NDArray[Any]) -> float:
    """Half-sample mode: the densest half of the densest half, and so on."""
    values = np.sort(values)
    while len(values) > 3:
        n = (len(values) + 1) // 2
        begin = int(np.argmin(values[n - 1 :] - values[: len(values) - n + 1]))
        values = values[begin : begin + n]
    return float(np.mean(values))


def _narrow_mode(size: NDArray[np.float64]) -> float:
    """Middle of the narrowest sizes that are common: of a quarter of those of the mode, and 3."""
    size = np.sort(size)
    count = np.searchsorted(size, size + _COMMON_WIDTH, side="right") - np.arange(len(size))
    common = np.flatnonzero(count >= max(3, _COMMON_PART * count.max(initial=0)))
    if not len(common):
        return _mode(size)
    return _mode(size[common[0] : common[0] + count[common[0]]])


def _point_like(
    good: NDArray[np.bool_], fwhm: Any, e1: Any, e2: Any, snr: Any
) -> NDArray[np.bool_]:
    """Which sources have the width and the shape of the narrowest common kind, within the errors.

    Nothing in the sky is narrower than a star: where galaxies are the many, a few stars are still
    the narrowest sources of which several have one width.
    """
    size, error = np.log(fwhm), 1.5 / snr
    # Few bright stars tell the width better than many faint sources.
    bright = good & (snr >= np.sort(snr[good])[::-1][min(good.sum() - 1, 100)])
    centre = _narrow_mode(size[bright])
    kept: NDArray[np.bool_] = good & (abs(size - centre) < 0.3)
    for _ in range(3):
        chosen = bright & kept if (bright & kept).sum() >= 5 else kept
        if not chosen.any():
            return kept
        centre = np.median(size[chosen])
        scatter = max(_SCATTER, float(mad_sigma(size[chosen], centre)))
        kept = good & (abs(size - centre) < 3 * np.hypot(min(scatter, 0.08), error))
    shape = [np.median(each[chosen]) for each in (e1, e2)]
    limit = np.hypot(_ROUNDNESS, 3 * error)
    kept &= np.hypot(e1 - shape[0], e2 - shape[1]) < limit
    return kept


def _isolated(stars: Stars, x: Any, y: Any, flux: Any) -> NDArray[np.bool_]:
    """Stars without a source of `_FAINT_NEIGHBOUR` of their flux nearby."""
    from scipy.spatial import cKDTree

    if not len(stars.x):
        return np.ones(0, bool)
    reach = _NEIGHBOUR * fwhm_of(stars)
    pairs = cKDTree(np.column_stack([stars.x, stars.y])).query_ball_point(
        np.column_stack([x, y]), reach
    )
    neighbour = np.repeat(np.arange(len(x)), [len(each) for each in pairs])
    star = np.concatenate([np.array(each, np.int64) for each in pairs])
    # A source nearer than half a FWHM is the star itself.
    distance = np.hypot(x[neighbour] - stars.x[star], y[neighbour] - stars.y[star])
    other = (distance > reach / _NEIGHBOUR / 2) & (
        flux[neighbour] > _FAINT_NEIGHBOUR * stars.flux[star]
    )
    alone = np.ones(len(stars.x), bool)
    alone[star[other]] = False
    return alone


def _spread(stars: Stars, shape: tuple[int, ...], max_stars: int) -> NDArray[np.int64]:
    """Indices of at most `max_stars` stars: the best of every part of the frame, then sorted."""
    order = np.lexsort((-stars.flux, ~stars.isolated))
    if len(order) <= max_stars:
        return order
    cells = max(1, int(np.sqrt(max_stars / 4)))
    row = (stars.y[order] / shape[0] * cells).astype(np.int64)
    column = (stars.x[order] / shape[1] * cells).astype(np.int64)
    cell = row * cells + column
    by_cell = np.argsort(cell, kind="stable")
    first = np.searchsorted(cell[by_cell], cell[by_cell])
    rank = np.empty(len(order), np.int64)
    rank[by_cell] = np.arange(len(order)) - first
    chosen = np.sort(np.lexsort((np.arange(len(order)), rank))[:max_stars])
    return order[chosen]
