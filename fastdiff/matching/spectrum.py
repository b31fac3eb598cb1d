"""Spectrum of the noise of a difference, and the filter that measures point sources best in it.

In noise of power N(k) the flux of a source of the profile P is measured best by the sum of the
difference over the filter w, whose transform is P(k) / N(k) (the matched filter of North 1943;
Zackay & Ofek 2017, ApJ 836, 187, for images). N(k) is what the images' noise becomes in the
difference, and whatever else is there: rows of the read-out, fringes, steps between amplifiers, a
rest of the sky. All of it is measured on the difference itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays

__all__ = ["SIDE", "SourceFilter", "noise_spectrum", "source_filter"]

SIDE = 128
"""Pixels of a tile whose periodogram is taken, if the PSF is not larger."""

_MOST_TILES = 100  # more would hardly lower the noise of the spectrum
_SOURCE = 4.0  # sigma of 3 x 3 pixels that belong to a source
_LEAST_GOOD = 0.5  # of the pixels of a tile


class SourceFilter(NamedTuple):
    """Filter for point sources; its middle pixel is that of the source.

    Attributes
    ----------
    taps : ndarray of float64, (size, size)
        The filter w, of odd size: the flux is sum(w D) / sum(w P).
    psf : ndarray of float64, (k, k)
        The profile P, of sum 1.
    excess : float
        Variance of sum(w D) over what it would be for independent pixels of the same noise.
    own : float
        Variance of sum(w D) from the photons of a source of one count.
    """

    taps: NDArray[np.float64]
    psf: NDArray[np.float64]
    excess: float
    own: float

    @property
    def core(self) -> NDArray[np.float64]:
        """The taps where the profile is, (k, k)."""
        cut = (len(self.taps) - len(self.psf)) // 2
        return self.taps[cut : len(self.taps) - cut, cut : len(self.taps) - cut]


def noise_spectrum(pulls: NDArray[Any], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """Power of the noise of a difference.

    Parameters
    ----------
    pulls : ndarray, (ny, nx)
        The difference over the noise of its pixels; NaN where it is bad.
    expected : ndarray, (`side`, `side` // 2 + 1)
        The spectrum that the noise of the images would have, on the transform of tiles of `side`
        pixels.

    Returns
    -------
    ndarray of the shape of `expected`
        Of mean 1: the mean of the periodograms of tiles (Welch 1967), without what stands out as a
        source. Where its ratio r to `expected` is 1 within its error e, that is taken: r - 1 is
        multiplied by 1 - (2 e / (r - 1))^2 (James & Stein 1961, positive part).
    """
    side = len(expected)
    pulls = arrays.on_host(pulls)
    expected = expected / _mean_power(expected)
    seen = _without_sources(pulls)
    windows = _tiles(seen, side)
    if not len(windows):
        return expected
    hann = np.hanning(side + 2)[1:-1].astype(np.float32)
    total, n_tiles = np.zeros(expected.shape), 0
    for tile in windows:
        good = np.isfinite(tile)
        share = good.mean()
        if share < _LEAST_GOOD:
            continue
        values = np.where(good, tile, 0)
        total += np.abs(np.fft.rfft2(values * hann * hann[:, None])) ** 2 / share
        n_tiles += 1
    if not n_tiles:
        return expected
    measured = total / n_tiles / (hann**2).sum() ** 2
    level = _mean_power(measured)
    if not level > 0:
        return expected
    ratio = measured / expected
    ratio /= np.median(ratio)
    error = 1 / np.sqrt(max(n_tiles / 2.0, 1.0))  # tiles overlap by a half
    above = ratio - 1
    kept = np.maximum(1 - (2 * error / np.maximum(np.abs(above), 1e-9)) ** 2, 0)
    spectrum: NDArray[np.float64] = expected * (1 + kept * above)
    return spectrum / _mean_power(spectrum)


def source_filter(
    psf: NDArray[np.float64],
    spectrum: NDArray[np.float64],
    own: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> SourceFilter:
    """The best filter for a profile in noise of a spectrum, of the side of the spectrum less 1.

    `own` is the PSF of the science image and the kernel through which the difference shows it,
    where it does.
    """
    side = len(spectrum)
    size = side - 1
    transform = np.fft.rfft2(_middle_at_origin(psf, side))
    weight = transform / spectrum
    taps = np.roll(np.fft.irfft2(weight, (side, side)), (size // 2, size // 2), axis=(0, 1))
    taps = taps[:size, :size]
    again = np.abs(np.fft.rfft2(_middle_at_origin(taps, side))) ** 2
    excess = _mean_power(again * spectrum) / _mean_power(again)
    taps /= taps.max()
    seen, light = taps, psf
    if own is not None:
        light, kernel = own
        seen = np.fft.irfft2(
            np.fft.rfft2(_middle_at_origin(taps, side))
            * np.conj(np.fft.rfft2(_middle_at_origin(kernel, side))), (side, side),
        )  # fmt: skip
        seen = np.roll(seen, (size // 2, size // 2), axis=(0, 1))[:size, :size]
    cut = (size - len(light)) // 2
    seen = seen[cut : size - cut, cut : size - cut]
    return SourceFilter(taps, psf, float(excess), float((seen**2 * light).sum()))


def _middle_at_origin(kernel: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    padded = np.zeros((side, side))
    padded[: len(kernel), : len(kernel)] = kernel
    return np.roll(padded, (-(len(kernel) // 2), -(len(kernel) // 2)), axis=(0, 1))


def _mean_power(spectrum: NDArray[np.float64]) -> float:
    """Mean over all frequencies, of which half are kept."""
    twice = np.full(spectrum.shape[1], 2.0)
    twice[[0, -1]] = 1.0
    return float((spectrum * twice).mean() * spectrum.shape[1] / twice.sum())


def _without_sources(pulls: NDArray[Any]) -> NDArray[np.float32]:
    """Pulls with NaN at what stands out, and around it."""
    from scipy.ndimage import maximum_filter, uniform_filter

    values = np.where(np.isfinite(pulls), pulls, 0).astype(np.float32)
    mean = uniform_filter(values, 3, mode="constant")
    spread = 3 * np.float32(np.median(np.abs(mean[::4, ::4])) / 0.6745) + np.float32(1e-9)
    source = np.abs(mean) * 3 > _SOURCE * spread
    if source.any():
        source = maximum_filter(source, 7)
    return np.where(source | ~np.isfinite(pulls), np.float32(np.nan), values)


def _tiles(plane: NDArray[np.float32], side: int) -> list[NDArray[np.float32]]:
    """Tiles that overlap by a half, at most `_MOST_TILES` spread over the frame."""
    ny, nx = plane.shape
    if min(ny, nx) < side:
        return []
    corners = [
        (y, x)
        for y in np.linspace(0, ny - side, 2 * (ny // side) - 1).astype(int)
        for x in np.linspace(0, nx - side, 2 * (nx // side) - 1).astype(int)
    ]
    corners = corners[:: -(-len(corners) // _MOST_TILES)]
    return [plane[y : y + side, x : x + side] for y, x in corners]
