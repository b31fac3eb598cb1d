"""Fluxes of point sources at every pixel of a difference, with their errors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.kernels.image import convolve as blocks

from .apply import MatchedPair
from .grid import BlockGrid
from .noise import (
    MEDIAN,
    TAIL,
    fit_bins,
    in_patch,
    light_bins,
    sampled,
    some_pixels,
    variance_of_bins,
)
from .spectrum import SIDE, SourceFilter, noise_spectrum, source_filter

__all__ = ["find_filter", "point_sources", "systematic_error"]

_LEAST_AREA = np.float32(0.75), np.float32(0.4)  # of the PSF on good pixels: in a patch, elsewhere
_BRIGHT = 6.0  # times the error of a flux, of light that is no noise
_REACHES = (1.0, 4.0)  # half widths of the PSF, to which a star leaves something: core and wings


def find_filter(
    pair: MatchedPair, image: Any, variance: Any, psf: NDArray[np.float64], decorrelated: bool
) -> SourceFilter:
    """The best filter for sources of a profile in the noise that the difference shows."""
    # Twice as wide as the profile at least: the filter reaches over the waves that it removes.
    side = max(SIDE, 2 * len(psf) + 2)
    xp = arrays.namespace(image)
    with np.errstate(divide="ignore", invalid="ignore"):
        pulls = image / xp.sqrt(variance)
    spectrum = noise_spectrum(pulls, pair.expected_spectrum(side, decorrelated))
    return source_filter(psf, spectrum, pair.light_of_sources())


def point_sources(
    image: Any, variance: Any, filter_: SourceFilter, photons: float, flux: Any,
    flux_variance: Any, threads: int,
) -> None:  # fmt: skip
    """Flux of a point source at each pixel, and its variance.

    Parameters
    ----------
    image, variance : array, (ny, nx)
        Difference and variance of its pixels; NaN where it is bad.
    filter_ : SourceFilter
    photons : float
        Variance per count of a new source, whose photons no variance knows of.
    flux, flux_variance : array of float32, (ny, nx)
        To be filled, at bad pixels too: a dead column does not hide a source. NaN where less
        than 0.4 of what the filter sees of a source is on good pixels, in a patch 0.75.
    threads : int
    """
    taps, psf, core = filter_.taps, filter_.psf, filter_.core
    good = np.isfinite(image) & np.isfinite(variance)
    signal = _correlated(np.where(good, image, 0), taps, threads)
    r = len(psf) // 2
    noise = blocks.with_border(np.where(good, variance, 0), r - r // 3)
    bad = blocks.with_border(~good, r, 1.0)
    profile = blocks.padded_kernels((core * psf)[None, ::-1, ::-1])
    # What the filter sees of the noise far from its middle counts as if it were that of the middle.
    cut = r // 3
    inner = core[cut : len(core) - cut, cut : len(core) - cut]
    square = blocks.padded_kernels(inner[None, ::-1, ::-1])
    whole = np.float32((core * psf).sum())
    excess = np.float32(filter_.excess * (taps**2).sum() / (inner**2).sum())
    own = np.float32(photons * filter_.own)
    some_bad = not bool(good.all())
    if some_bad:
        patches = in_patch(~good)
    grid = BlockGrid(image.shape)
    for band, origins in grid.bands():

        def convolved(
            plane: Any, kernel: NDArray[np.float32], mode: int, origins: NDArray[np.int64]
        ) -> Any:
            one = np.ones((len(origins), 1))
            return blocks.convolve_blocks(plane, kernel, one, origins, grid.side, mode, threads)

        error = grid.joined(convolved(noise, square, blocks.SQUARE, origins), band)
        touched = grid.touched(bad, origins, r)
        lost = convolved(bad, profile, blocks.PLAIN, origins[touched])
        # What of the filtered PSF is on good pixels.
        area = whole - grid.joined(lost, band, touched)
        least = np.where(patches[band], *_LEAST_AREA) if some_bad else min(_LEAST_AREA)
        area = np.where(area > whole * least, area, np.float32(np.nan))
        flux[band] = signal[band] / area
        brightened = np.where(flux[band] > 0, flux[band], 0)
        flux_variance[band] = (excess * error + own * brightened) / area**2


def _correlated(plane: Any, taps: NDArray[np.float64], threads: int) -> Any:
    """Sum over the taps about each pixel, by transforms."""
    xp, fft = arrays.namespace(plane), arrays.scipy_of(plane, "fft")
    workers = {"workers": threads} if xp is np else {}  # that a GPU does not have
    (ny, nx), r = plane.shape, len(taps) // 2
    shape = tuple(fft.next_fast_len(n + 2 * r, real=True) for n in (ny, nx))
    kernel = xp.asarray(taps[::-1, ::-1].astype(np.float32))
    product = fft.rfft2(plane.astype(np.float32), shape, **workers)
    product *= fft.rfft2(kernel, shape, **workers)
    return fft.irfft2(product, shape, **workers)[r : r + ny, r : r + nx]


def systematic_error(
    light: Any, flux: Any, flux_variance: Any, filter_: SourceFilter, *, photons: bool,
    threads: int,
) -> Any:  # fmt: skip
    """Error of the fluxes from what matching leaves of the sources that both images have.

    Residuals of stars grow with their light, photon noise with its root. Where a source of flux L
    is within the width of a PSF, the variance of the fluxes is

        V + photons L + (part L)^2,

    V what `point_sources` says, and there is a lesser part of what is some widths away. All are
    found from the spread of the fluxes in bins of L, by quantiles that transients do not reach.

    Parameters
    ----------
    light : array, (ny, nx)
        The sources that both images have, as the difference would show one of them.
    flux, flux_variance : array of float32, (ny, nx)
        Of `point_sources`. Photons are added to the variance: of that light, and of what is new.
    filter_ : SourceFilter
    photons : bool
        Whether to look for photons that no variance tells of.
    threads : int

    Returns
    -------
    array of float32, (ny, nx)
        ``part L``, in counts.
    """
    xp = arrays.namespace(flux)
    seen = _correlated(light, filter_.taps, threads)
    seen /= np.float32((filter_.core * filter_.psf).sum())
    least = np.float32(_BRIGHT) * xp.sqrt(flux_variance)  # less is noise
    seen *= seen > least
    index = some_pixels(flux)
    sample, variance = sampled(flux, index), sampled(flux_variance, index)
    if photons:
        b = _photons(sample, variance, sampled(seen, index))
        new = xp.where(flux > 0, flux, np.float32(0))
        flux_variance += np.float32(b) * xp.maximum(seen, new)
        variance = sampled(flux_variance, index)
    maximum_filter = arrays.scipy_of(seen, "ndimage").maximum_filter
    error, counted = xp.zeros_like(seen), np.zeros(len(sample), bool)
    for reach in _REACHES:
        near = maximum_filter(seen, 2 * round(reach * _half_width(filter_.psf)) + 1)
        beside = np.where(counted, 0, sampled(near, index))
        counted |= beside > 0
        near *= np.float32(_part(sample, variance, beside))
        xp.maximum(error, near, out=error)
    return error


def _half_width(psf: NDArray[np.float64]) -> int:
    """Half of the full width at half maximum, from the area above it, in whole pixels."""
    return max(1, round(float(np.sqrt((psf > psf.max() / 2).sum() / np.pi))))


def _photons(
    sample: NDArray[np.float64], variance: NDArray[np.float64], light: NDArray[np.float64]
) -> float:
    """b, 0 or more, of the variance of the sample, variance + b light + c light^2.

    By medians, because photons make Gaussian noise of all sources alike.
    """
    bins = light_bins(light)
    if not bins:
        return 0.0
    spread2, base, level = variance_of_bins(bins, sample, variance, light, *MEDIAN)
    return float(fit_bins(bins, spread2, base, level, level**2)[0])


def _part(
    sample: NDArray[np.float64], variance: NDArray[np.float64], light: NDArray[np.float64]
) -> float:
    """c, 0 or more, of the variance of the sample, variance + (c light)^2.

    By a high quantile, because matching leaves much of some sources and little of others.
    """
    bins = light_bins(light)
    if not bins:
        return 0.0
    spread2, base, level = variance_of_bins(bins, sample, variance, light, *TAIL)
    return float(np.sqrt(fit_bins(bins, spread2, base, level**2)[0]))
