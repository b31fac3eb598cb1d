"""The point-spread function (PSF) that the stars of a frame show.

It is the sigma-clipped mean of the images of stars, shifted onto one pixel grid, and as smooth as
their noise demands.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdiff.core.stats import SIGMA_PER_MAD

from .find import Stars, fwhm_of
from .moments import LANCZOS, cut_stamps, shift_matrix

__all__ = ["ASSUMED_FWHM", "measure_psf", "moffat"]

_MAX_STACKED = 200  # stars that make a PSF: more would hardly lower its noise
_CLIP = 4.0  # sigma
_MOST_BEYOND_MOFFAT = 1.0  # a mean profile exceeds a Moffat profile by no larger part
_MOST_NEGATIVE = 0.1  # of the flux of a measured PSF
_MODEL_ERROR = 0.03  # of a star's profile, as part of the PSF: the PSF varies over the frame


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
    stack = _stack(image, bad, stars, size, sky)
    if not stack.good.any():
        raise ValueError("all pixels of the stars of `image` are bad: give the PSF")
    psf, variance = _mean_psf(stack, stars.flux.copy(), size)
    psf = _without_noise(psf.reshape(size, size), variance.reshape(size, size))
    if psf[psf < 0].sum() < -_MOST_NEGATIVE:
        return moffat(fwhm_of(stars), size)
    return normed(np.maximum(psf, 0))


def normed(psf: NDArray[np.float64]) -> NDArray[np.float64]:
    """A PSF of sum 1."""
    of_sum_1: NDArray[np.float64] = psf / psf.sum()
    return of_sum_1


class _Stack(NamedTuple):
    """Stamps of stars on one pixel grid: a row each, of size x size pixels."""

    values: NDArray[np.float64]
    """(n, size * size), less the level of the rim."""
    good: NDArray[np.bool_]
    """Pixels that no bad one touches."""
    noise: NDArray[np.float64]
    """(n,): of a pixel of the sky, from the rim; of the star itself the model has an error."""

    def take(self, index: Any) -> _Stack:
        """Some of the stars."""
        return _Stack(*(column[index] for column in self))


def _distances(size: int) -> NDArray[np.float64]:
    """(size, size): pixels from the middle."""
    grid = np.arange(size) - size // 2
    return np.hypot(*np.meshgrid(grid, grid))


def _rim(size: int) -> NDArray[np.bool_]:
    """(size, size): a ring of pixels at the edge of a PSF."""
    return np.abs(_distances(size) - size // 2) < 1.0


def _stack(
    image: NDArray[Any], bad: NDArray[np.bool_] | None, stars: Stars, size: int, sky: Any
) -> _Stack:
    """Stars of an image, shifted onto the middle pixel."""
    n, side = len(stars.x), size + 2 * LANCZOS
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
    rim = np.pad(_rim(size), LANCZOS)
    level = _median(values[:, rim].T, usable[:, rim].T)
    values -= level[:, None, None]
    values[~usable] = 0.0
    along_y = shift_matrix(stars.y - (y0 + side // 2), size)
    along_x = shift_matrix(stars.x - (x0 + side // 2), size)
    shifted = (along_y @ values @ along_x.transpose(0, 2, 1)).reshape(n, -1)
    # What a bad pixel touches is left out: its neighbours too.
    near = np.pad(~usable, ((0, 0), (1, 1), (1, 1)))
    near = near[:, :, :-2] | near[:, :, 1:-1] | near[:, :, 2:]
    near = near[:, :-2] | near[:, 1:-1] | near[:, 2:]
    good = ~near[:, LANCZOS:-LANCZOS, LANCZOS:-LANCZOS].reshape(n, -1)
    edge = _rim(size).ravel()
    noise = SIGMA_PER_MAD * _median(np.abs(shifted[:, edge]).T, good[:, edge].T)
    noise[noise == 0] = np.median(noise)
    return _Stack(shifted, good, noise)


def _mean_psf(
    stack: _Stack, flux: NDArray[np.float64], size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Clipped and weighted mean of the stars in units of their flux, and its variance, flat."""
    offset, edge = np.zeros(len(flux)), _rim(size).ravel()
    disc = (_distances(size) <= size // 2).ravel()
    psf = _median(stack.values / flux[:, None], stack.good)
    for _ in range(3):
        relative = (stack.values - offset[:, None]) / flux[:, None]
        sky_error = stack.noise / flux
        error = sky_error[:, None] ** 2 + (_MODEL_ERROR * psf) ** 2
        error += (1e-4 * psf.max()) ** 2
        weight = stack.good / error
        if len(flux) > 2:
            weight[(relative - psf) ** 2 > _CLIP**2 * error] = 0
        total = weight.sum(0)
        psf = np.divide((weight * relative).sum(0), total, out=np.zeros_like(psf), where=total > 0)
        psf -= np.median(psf[edge])
        psf *= disc
        if not psf.sum() > 0:
            raise ValueError("the stars of `image` add up to nothing: give the PSF")
        psf /= psf.sum()
        flux, offset = _fit(stack.values, (weight > 0) & disc, psf)
        usable = np.isfinite(flux) & (flux > 0)
        if not usable.all():
            if not usable.any():
                raise ValueError("the stars of `image` have too many bad pixels: give the PSF")
            stack, flux, offset = stack.take(usable), flux[usable], offset[usable]
    share = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
    variance = np.where(total > 0, ((share * sky_error[:, None]) ** 2).sum(0), np.inf)
    return psf, variance


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
    return normed((1 + square / alpha**2) ** -beta * (square <= half**2))


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
    return normed(np.where(radius <= half, model + mean[ring] + kept[ring] * left, 0.0))


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
