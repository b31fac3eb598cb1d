"""Fluxes of point sources at every pixel of a difference, with their errors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.core.stats import nonnegative
from fastdiff.kernels.image import convolve as blocks

from .apply import MatchedPair
from .grid import BlockGrid
from .spectrum import SIDE, SourceFilter, noise_spectrum, source_filter

__all__ = ["find_filter", "point_sources", "systematic_error"]

_SAMPLES = 200_000  # pixels that tell what is left of the sources
_BRIGHT = 3.0  # times the error of a flux, of light that may leave something
_LEAST_OF_BIN = 50  # pixels
_QUANTILE, _SIGMAS_OF_QUANTILE = 0.9, 1.6449  # two-sided, of a Gaussian


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
        To be filled; NaN where the pixel itself is bad.
    threads : int
    """
    taps, psf, core = filter_.taps, filter_.psf, filter_.core
    good = np.isfinite(image) & np.isfinite(variance)
    signal = _correlated(np.where(good, image, 0), taps, threads)
    r = len(psf) // 2
    noise = blocks.with_border(np.where(good, variance, 0), r)
    bad = blocks.with_border(~good, r, 1.0)
    profile = blocks.padded_kernels((core * psf)[None, ::-1, ::-1])
    square = blocks.padded_kernels(core[None, ::-1, ::-1])
    whole = np.float32((core * psf).sum())
    # The taps beyond the profile see sky, whose variance is that around the source.
    excess = np.float32(filter_.excess * (taps**2).sum() / (core**2).sum())
    own = np.float32(photons * filter_.own)
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
        area = np.where(good[band], area, np.nan)
        flux[band] = signal[band] / area
        brightened = np.maximum(np.where(good[band], flux[band], 0), 0)
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
    pair: MatchedPair, image: Any, flux: Any, flux_variance: Any, filter_: SourceFilter
) -> tuple[Any, float]:
    """Error of the fluxes from what the kernel leaves of the sources that both images have.

    Residuals of stars grow with their light, photon noise with its root. Where a source of light L
    is within the width of a PSF, the variance of the fluxes is

        V + photons L + (part L)^2,

    V what `point_sources` says. Both are found from the spread of the fluxes in bins of L, by
    quantiles that transients do not reach; photons are 0 where a variance tells them.

    Returns
    -------
    error : array of float32, (ny, nx)
        ``part L``, in counts. The photons are added to `flux_variance`.
    part : float
        Relative error of the fluxes of bright sources.
    """
    xp = arrays.namespace(image)
    light = _light_of_both(pair, image)
    seen = _correlated(light, filter_.taps, pair.threads)
    seen /= np.float32((filter_.core * filter_.psf).sum())
    radius = _half_width(filter_.psf)
    seen = arrays.scipy_of(seen, "ndimage").maximum_filter(xp.abs(seen), 2 * radius + 1)
    seen *= seen > np.float32(_BRIGHT) * xp.sqrt(flux_variance)  # less is noise
    index = _some(xp, flux)
    sample, variance, bright = (
        arrays.on_host(plane.ravel()[index]).astype(np.float64)
        for plane in (flux, flux_variance, seen)
    )
    photons, square = _excess(sample, variance, bright, pair.measured)
    if photons:
        flux_variance += np.float32(photons) * seen
    part = float(np.sqrt(square))
    return seen * np.float32(part), part


def _light_of_both(pair: MatchedPair, image: Any) -> Any:
    """Light of the sources that both images have, in counts of the science image."""
    light = pair.target.data
    if pair.kernel.convolved == "sci":
        light = light / np.float32(pair.kernel.sum(*pair.middle))
        return light + np.where(image < 0, image, 0)
    return light - np.where(image > 0, image, 0)


def _half_width(psf: NDArray[np.float64]) -> int:
    """Half of the full width at half maximum, from the area above it, in whole pixels."""
    return max(1, round(float(np.sqrt((psf > psf.max() / 2).sum() / np.pi))))


def _some(xp: Any, flux: Any) -> Any:
    """Indices of good pixels, about `_SAMPLES` of them spread over the frame."""
    index = xp.flatnonzero(xp.isfinite(flux))
    step = max(1, len(index) // _SAMPLES)
    while np.gcd(step, flux.shape[1]) > 1:
        step += 1
    return index[::step]


def _excess(
    sample: NDArray[np.float64], variance: NDArray[np.float64], light: NDArray[np.float64],
    photons_too: bool,
) -> tuple[float, float]:  # fmt: skip
    """(b, c), 0 or more, of the variance of the sample, variance + b light + c light^2."""
    bright = np.flatnonzero(light)
    if len(bright) < 2 * _LEAST_OF_BIN:
        return 0.0, 0.0
    order = bright[np.argsort(light[bright])]
    rows, values = [], []
    for part in np.array_split(order, np.clip(len(order) // _LEAST_OF_BIN, 2, 30)):
        spread = float(np.quantile(np.abs(sample[part]), _QUANTILE)) / _SIGMAS_OF_QUANTILE
        base, level = np.median(variance[part]), np.median(light[part])
        weight = np.sqrt(len(part)) / max(spread**2, base)
        rows.append([weight * level, weight * level**2])
        values.append(weight * (spread**2 - base))
    design = np.array(rows)
    design[:, 0] *= photons_too
    norm = np.maximum(np.linalg.norm(design, axis=0), 1e-300)
    found = nonnegative(design / norm, np.array(values)) / norm
    return float(found[0]) * photons_too, float(found[1])
