"""Stars of a frame, and the point-spread function (PSF) that they show.

Sources are found with `sep`, SExtractor's algorithms in C (Bertin & Arnouts 1996, A&AS 117, 393;
Barbary 2016, JOSS 1, 58). Each is measured with a Gaussian weight that takes the shape of the
source itself (adaptive moments: Bernstein & Jarvis 2002, AJ 123, 583): positions, widths and
shapes are then unbiased for a Gaussian, and hardly see neighbours or the error of the sky. The
stars are those around the most common width and shape of the bright sources. The PSF is the
sigma-clipped mean of their images, shifted onto one pixel grid.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stars", "find_stars", "fwhm_of", "measure_psf"]

_FWHM = 2 * np.sqrt(2 * np.log(2))  # FWHM of a Gaussian of width 1
_MAX_CANDIDATES = 3000  # sources that are measured, the brightest
_MAX_STACKED = 200  # stars that make a PSF: more would hardly lower its noise
_LEAST_FWHM = 1.0  # pixels; what is narrower is a hot pixel or a cosmic ray
_NEIGHBOUR = 3.0  # FWHM; an isolated star has no neighbour within them ...
_FAINT_NEIGHBOUR = 0.03  # ... of more than this part of its flux
_SCATTER = 0.03  # of the widths of stars over a frame, at least
_ROUNDNESS = 0.1  # of the shapes of stars over a frame, at least
_ON_ONE_THREAD = 1 << 18  # multiplications
_LANCZOS = 6  # half-width of the interpolation, pixels
_CLIP = 4.0  # sigma
_MOST_BEYOND_MOFFAT = 1.0  # a mean profile exceeds a Moffat profile by no larger part
_MOST_NEGATIVE = 0.1  # of the flux of a measured PSF
_MODEL_ERROR = 0.03  # of a star's profile, as part of the PSF: the PSF varies over the frame


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
    data, blank, sigma = _above_sky(image, bad, sky, sigma)
    none = Stars(*np.empty((7, 0)), isolated=np.empty(0, bool))
    if sigma is None:
        return none
    found = _extract(data, blank, sigma)
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
    fwhm = _FWHM * np.sqrt(root)
    noise = sigma if np.ndim(sigma) == 0 else sigma[found["ypeak"], found["xpeak"]]
    snr = flux / (noise * np.sqrt(4 * np.pi * np.maximum(root, 1e-9)))
    shift = np.hypot(x - found["x"], y - found["y"])
    good = (flux > 0) & (snr >= threshold) & (fwhm > _LEAST_FWHM) & ~dirty & ~flat
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
            return sep.extract(
                data, threshold, err=sigma, mask=blank, minarea=5, filter_kernel=None,
                deblend_nthresh=8,
            )  # fmt: skip
        except Exception as error:
            # sep raises bare exceptions when its buffer of pixels or of blends is full.
            if not any(word in str(error) for word in ("buffer", "overflow")):
                raise
    return np.empty(0, [("x", "f8")])


def _inside(x: Any, y: Any, shape: tuple[int, ...], edge: float) -> NDArray[np.bool_]:
    ny, nx = shape
    return (x >= edge) & (x <= nx - 1 - edge) & (y >= edge) & (y <= ny - 1 - edge)


def cut_stamps(
    image: NDArray[Any], x: NDArray[Any], y: NDArray[Any], half: int
) -> tuple[NDArray[Any], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Stamps of 2 half + 1 pixels about (x, y), 0 outside of the image, and where they begin."""
    y0 = np.round(y).astype(np.int64) - half
    x0 = np.round(x).astype(np.int64) - half
    rows, columns = (begin[:, None] + np.arange(2 * half + 1) for begin in (y0, x0))
    ny, nx = image.shape
    stamps = image[np.clip(rows, 0, ny - 1)[:, :, None], np.clip(columns, 0, nx - 1)[:, None, :]]
    outside = ((rows < 0) | (rows >= ny))[:, :, None] | ((columns < 0) | (columns >= nx))[:, None]
    stamps[outside] = 0
    return stamps, (y0, x0)


def adaptive_moments(
    stamps: NDArray[np.float32], width: float, passes: int = 12
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], tuple[NDArray[Any], ...]]:
    """(flux, dx, dy, (cxx, cxy, cyy)) of the Gaussian that each stamp's own weight is.

    A Gaussian of covariance C seen through a weight of covariance W has the moments
    Q = (1/C + 1/W)^-1, hence C = (1/Q - 1/W)^-1; this is iterated with W = C. Flux is NaN where
    that leads nowhere.
    """
    n, side = len(stamps), stamps.shape[1]
    grid = np.arange(side, dtype=np.float64) - side // 2
    y, x = (axis.ravel() for axis in np.meshgrid(grid, grid, indexing="ij"))
    moments = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    pixels = stamps.reshape(n, -1).astype(np.float64)
    dx, dy = np.zeros(n), np.zeros(n)
    cxx, cxy, cyy = np.full(n, width**2), np.zeros(n), np.full(n, width**2)
    flux = np.zeros(n)
    least, most = (_LEAST_FWHM / _FWHM / 2) ** 2, (side / 2) ** 2
    active = np.ones(n, bool)
    with np.errstate(all="ignore"):
        for _ in range(passes):
            a, b, c, u, v = (q[active] for q in (cxx, cxy, cyy, dx, dy))
            det = a * c - b * b
            # -1/2 (p - d)^T W^-1 (p - d) as a polynomial in the pixel's position p
            p, q, r = c / det, -b / det, a / det
            terms = np.stack(
                [p * u * u + 2 * q * u * v + r * v * v, -2 * (p * u + q * v), -2 * (q * u + r * v),
                 p, 2 * q, r], axis=1,
            )  # fmt: skip
            weighted = np.exp(-0.5 * _product(terms, moments.T)) * pixels[active]
            s, sx, sy, sxx, sxy, syy = _product(weighted, moments).T
            mx, my = sx / s, sy / s
            qxx, qxy, qyy = sxx / s - mx * mx, sxy / s - mx * my, syy / s - my * my
            det_q = qxx * qyy - qxy * qxy
            ixx, ixy, iyy = qyy / det_q - p, -qxy / det_q - q, qxx / det_q - r
            det_i = ixx * iyy - ixy * ixy
            new = np.stack([iyy / det_i, -ixy / det_i, ixx / det_i])
            # a weight as wide as the source sees half of a Gaussian's flux
            values = 2 * s
            moved = np.maximum(abs(mx - u), abs(my - v))
            # centres move twice as far: half of the offset is the weight's own
            u, v = u + 2 * (mx - u), v + 2 * (my - v)
            lost = ~((s > 0) & (det_q > 0) & (det_i > 0) & (ixx > 0))
            lost |= ~((new[0] > least) & (new[2] > least) & (new[0] < most) & (new[2] < most))
            lost |= ~(np.maximum(abs(u), abs(v)) < side / 2)
            values[lost] = np.nan
            change = np.abs(new - np.stack([a, b, c])).max(0) / np.sqrt(det)
            index = np.flatnonzero(active)
            flux[index] = values
            keep = index[~lost]
            dx[keep], dy[keep] = u[~lost], v[~lost]
            cxx[keep], cxy[keep], cyy[keep] = new[:, ~lost]
            active[index[lost | ((change < 1e-3) & (moved < 1e-3))]] = False
            if not active.any():
                break
    return flux, dx, dy, (cxx, cxy, cyy)


def _product(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """``a @ b``, so many rows at a time that OpenBLAS stays on this thread.

    It gains little by a second one here, which then waits for more work at full speed.
    """
    out = np.empty((len(a), b.shape[1]))
    step = max(1, _ON_ONE_THREAD // b.size)
    for first in range(0, len(a), step):
        np.matmul(a[first : first + step], b, out=out[first : first + step])
    return out


def _mode(values: NDArray[Any]) -> float:
    """Half-sample mode: the densest half of the densest half, and so on."""
    values = np.sort(values)
    while len(values) > 3:
        n = (len(values) + 1) // 2
        begin = int(np.argmin(values[n - 1 :] - values[: len(values) - n + 1]))
        values = values[begin : begin + n]
    return float(np.mean(values))


def _point_like(
    good: NDArray[np.bool_], fwhm: Any, e1: Any, e2: Any, snr: Any
) -> NDArray[np.bool_]:
    """Which sources have the most common width and shape, within the errors."""
    size, error = np.log(fwhm), 1.5 / snr
    # Few bright stars tell the width better than many faint sources.
    bright = good & (snr >= np.sort(snr[good])[::-1][min(good.sum() - 1, 100)])
    centre = _mode(size[bright])
    kept = good & (abs(size - centre) < 0.3)
    for _ in range(3):
        chosen = bright & kept if (bright & kept).sum() >= 5 else kept
        if not chosen.any():
            return kept
        centre = np.median(size[chosen])
        scatter = max(_SCATTER, 1.4826 * float(np.median(abs(size[chosen] - centre))))
        kept = good & (abs(size - centre) < 3 * np.hypot(min(scatter, 0.08), error))
    shape = [np.median(each[chosen]) for each in (e1, e2)]
    limit = np.hypot(_ROUNDNESS, 3 * error)
    return kept & (np.hypot(e1 - shape[0], e2 - shape[1]) < limit)


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


# ------------------------------------------------------------------------ the PSF


def measure_psf(
    image: NDArray[Any],
    bad: NDArray[np.bool_] | None,
    stars: Stars,
    *,
    size: int,
    sky: float | NDArray[Any] | None = None,
) -> NDArray[np.float64]:
    """PSF of a frame: a mean of its stars, as smooth as their noise demands, on the middle pixel.

    Parameters
    ----------
    image : ndarray, (ny, nx)
        Counts; pixels that are not finite are bad.
    bad : ndarray of bool, (ny, nx), or None
    stars : Stars
        Of `find_stars`; isolated ones are taken while there are a few.
    size : int
        Side of the result in pixels, odd.
    sky : float or ndarray (ny, nx), optional
        Level of the sky. What is left of it is fitted for every star in any case.

    Returns
    -------
    ndarray, (size, size), float64
        Of sum 1, not negative, and 0 beyond `size` / 2 from the middle.

    Raises
    ------
    ValueError
        If no star can be used, or `size` is not an odd number of at least 5.

    Notes
    -----
    Stars are shifted by Lanczos interpolation. A star enters with the weight of its flux against
    its noise and against 3 % of the PSF, so that no bright star rules; its flux and its sky are
    those of a linear fit of the PSF. Three passes; neighbours, cosmic rays and bad pixels are
    clipped at 4 sigma. What the mean leaves of an elliptical Moffat profile is kept as far as it
    is significant (see `_without_noise`): the wings of a few stars are mostly noise, which a
    division in Fourier space would turn into false sources. No PSF is negative: where more than a
    tenth of its flux would be, the stars are too few or too crowded to tell more than their width,
    and a round Moffat profile of that is returned.
    """
    if size < 5 or size % 2 == 0:
        raise ValueError(f"size is {size}; a PSF has an odd number of pixels a side, 5 or more")
    if stars.isolated.sum() >= 5:
        stars = stars.take(stars.isolated)
    stars = stars.take(slice(_MAX_STACKED))
    if not len(stars.x):
        raise ValueError(
            "`image` shows no star to measure a PSF from: give the PSF, or check that `bad` does "
            "not hide all stars"
        )
    half = size // 2
    n, side = len(stars.x), size + 2 * _LANCZOS
    where = stars.x, stars.y, side // 2
    values, (y0, x0) = cut_stamps(image, *where)
    rows, columns = (begin[:, None] + np.arange(side) for begin in (y0, x0))
    usable = ((rows >= 0) & (rows < image.shape[0]))[:, :, None] & np.isfinite(values)
    usable &= ((columns >= 0) & (columns < image.shape[1]))[:, None, :]
    if bad is not None:
        usable &= ~cut_stamps(bad, *where)[0]
    values = values.astype(np.float64)
    if sky is not None:
        values -= sky if np.ndim(sky) == 0 else cut_stamps(sky, *where)[0]
    grid = np.arange(size) - half
    radius = np.hypot(*np.meshgrid(grid, grid))
    ring = np.abs(radius - half) < 1.0
    rim = np.pad(ring, _LANCZOS)
    level = _median(values[:, rim].T, usable[:, rim].T)
    values -= level[:, None, None]
    values[~usable] = 0.0
    rows = shift_matrix(stars.y - (y0 + side // 2), size)
    columns = shift_matrix(stars.x - (x0 + side // 2), size)
    shifted = (rows @ values @ columns.transpose(0, 2, 1)).reshape(n, -1)
    # What a bad pixel touches is left out: its neighbours too.
    near = np.pad(~usable, ((0, 0), (1, 1), (1, 1)))
    near = near[:, :, :-2] | near[:, :, 1:-1] | near[:, :, 2:]
    near = near[:, :-2] | near[:, 1:-1] | near[:, 2:]
    good = ~near[:, _LANCZOS:-_LANCZOS, _LANCZOS:-_LANCZOS].reshape(n, -1)
    if not good.any():
        raise ValueError("all pixels of the stars of `image` are bad: give the PSF")
    # The noise of the sky, from the rim; the star's own enters by the error of the model.
    edge = ring.ravel()
    noise = 1.4826 * _median(np.abs(shifted[:, edge]).T, good[:, edge].T)
    noise[noise == 0] = np.median(noise)
    flux, offset = stars.flux.copy(), np.zeros(n)
    disc = (radius <= half).ravel()
    psf: NDArray[np.float64] | None = None
    for _ in range(3):
        relative = (shifted - offset[:, None]) / flux[:, None]
        if psf is None:
            psf = _median(relative, good)
        sky_error = noise / flux
        error = sky_error[:, None] ** 2 + (_MODEL_ERROR * psf) ** 2
        error += (1e-4 * psf.max()) ** 2
        weight = good / error
        if n > 2:
            weight[(relative - psf) ** 2 > _CLIP**2 * error] = 0
        total = weight.sum(0)
        psf = np.divide((weight * relative).sum(0), total, out=np.zeros_like(psf), where=total > 0)
        psf -= np.median(psf[edge])
        psf *= disc
        if not psf.sum() > 0:
            raise ValueError("the stars of `image` add up to nothing: give the PSF")
        psf /= psf.sum()
        flux, offset = _fit(shifted, (weight > 0) & disc, psf)
        usable_star = np.isfinite(flux) & (flux > 0)
        if not usable_star.all():
            if not usable_star.any():
                raise ValueError("the stars of `image` have too many bad pixels: give the PSF")
            shifted, good, noise = (each[usable_star] for each in (shifted, good, noise))
            flux, offset, n = flux[usable_star], offset[usable_star], int(usable_star.sum())
    share = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
    variance = np.where(total > 0, ((share * sky_error[:, None]) ** 2).sum(0), np.inf)
    psf = _without_noise(psf.reshape(size, size), variance.reshape(size, size))
    if psf[psf < 0].sum() < -_MOST_NEGATIVE:
        return moffat(fwhm_of(stars), size)
    psf = np.maximum(psf, 0)
    return psf / psf.sum()


ASSUMED_FWHM = 2.5
"""Pixels, of a PSF that no star shows."""


def moffat(fwhm: float, size: int, beta: float = 4.765) -> NDArray[np.float64]:
    """Round profile of sum 1 in size x size pixels; 0 beyond `size` / 2 from the middle.

    The default beta is that of turbulent air (Trujillo et al. 2001, MNRAS 328, 977).
    """
    half = size // 2
    grid = np.arange(-half, half + 1)
    square = grid[:, None] ** 2 + grid**2
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    psf = (1 + square / alpha**2) ** -beta * (square <= half**2)
    return psf / psf.sum()


def _without_noise(psf: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """A PSF shrunk towards an elliptical Moffat profile, ring by ring.

    In rings of 2 pixels, the residuals r of n pixels about their mean are multiplied by
    1 - (n - 1) / sum(r^2 / variance) (James & Stein 1961, positive part): nothing is left of noise,
    all of what is far above it. The mean profile stays as it was measured.
    """
    from scipy.optimize import least_squares

    half = len(psf) // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    radius = np.hypot(x, y)
    known = (radius <= half) & np.isfinite(variance)
    if known.sum() < 3 * 7:  # of a profile's parameters
        return psf
    u, v, data = x[known], y[known], psf[known]
    error = np.sqrt(variance[known] + (_MODEL_ERROR * data) ** 2 + (0.001 * psf.max()) ** 2)
    inner = known & (radius <= half / 2)
    second = abs(np.average(radius[inner] ** 2, weights=np.maximum(psf[inner], 0))) / 2
    start = np.array([1 / (6 * second), 0.0, 1 / (6 * second), 3.0, psf.max(), 0.0, 0.0])

    def profile(parameters: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Values, and their derivatives by the parameters."""
        a, b, c, beta, peak, x0, y0 = parameters
        du, dv = u - x0, v - y0
        q = np.maximum(1 + a * du * du + 2 * b * du * dv + c * dv * dv, 1e-3)
        shape = q**-beta
        slope = -beta * peak * shape / q
        return peak * shape, np.stack([
            slope * du * du, slope * 2 * du * dv, slope * dv * dv, -peak * shape * np.log(q), shape,
            -slope * 2 * (a * du + b * dv), -slope * 2 * (b * du + c * dv),
        ], axis=1)  # fmt: skip

    fit = least_squares(
        lambda p: (profile(p)[0] - data) / error,
        start,
        lambda p: profile(p)[1] / error[:, None],
        method="lm",
        max_nfev=30,
    )
    if not (np.isfinite(fit.x).all() and fit.x[3] > 1):  # a profile without end
        return psf
    model = np.zeros_like(psf)
    model[known] = profile(fit.x)[0]
    left = psf - model
    ring = (radius / 2).astype(np.int64)
    count = np.maximum(np.bincount(ring[known], minlength=ring.max() + 1), 1)
    mean = np.bincount(ring[known], left[known], len(count)) / count
    # Beyond that it is not the PSF but the stars' neighbours.
    most = _MOST_BEYOND_MOFFAT * np.bincount(ring[known], model[known], len(count)) / count
    mean = np.minimum(mean, most)
    left -= mean[ring]
    chi2 = np.bincount(ring[known], left[known] ** 2 / variance[known], len(count))
    kept = np.maximum(1 - (count - 1) / np.maximum(chi2, 1e-9), 0)
    result = np.where(radius <= half, model + mean[ring] + kept[ring] * left, 0.0)
    return result / result.sum()


def shift_matrix(shift: NDArray[Any], size: int) -> NDArray[np.float64]:
    """(n, size, size + 2 `_LANCZOS`): rows that interpolate at whole pixels + `shift`."""
    distance = np.arange(-_LANCZOS, _LANCZOS + 1) - shift[:, None]
    taps = np.sinc(distance) * np.sinc(distance / _LANCZOS) * (np.abs(distance) < _LANCZOS)
    taps /= taps.sum(1, keepdims=True)
    # Row i has them from column i on.
    padded = np.pad(taps, ((0, 0), (size - 1, size - 1)))
    side = size + 2 * _LANCZOS
    return np.lib.stride_tricks.sliding_window_view(padded, side, axis=1)[:, ::-1]


def _median(relative: NDArray[Any], good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Median over the stars of each pixel; 0 where all of them are bad."""
    values = np.sort(np.where(good, relative, np.inf), axis=0)
    count = good.sum(0)
    pixel = np.arange(relative.shape[1])
    low = values[np.maximum(count - 1, 0) // 2, pixel]
    high = values[np.minimum(count // 2, len(values) - 1), pixel]
    return np.where(count > 0, (low + high) / 2, 0.0)


def _fit(
    shifted: NDArray[Any], used: NDArray[np.bool_], psf: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Flux and sky of every star by least squares of flux * psf + sky over the pixels used."""
    count, sum_p, sum_pp = used.sum(1), used @ psf, used @ psf**2
    data = np.where(used, shifted, 0.0)
    sum_d, sum_dp = data.sum(1), data @ psf
    with np.errstate(invalid="ignore", divide="ignore"):
        det = count * sum_pp - sum_p**2
        flux = np.where(det > 0, (count * sum_dp - sum_p * sum_d) / det, np.nan)
        return flux, (sum_d - flux * sum_p) / count
