"""Cosmic rays and hot pixels: what is sharper than the PSF.

Light comes through the PSF: on any line through a pixel the mean of the two neighbours is at
least rho times the pixel, rho = exp(-d^2 / (2 sigma^2)) for a Gaussian PSF and neighbours at
distance d. A pixel is sharp where on one of the four lines

    (value - 3 sigma_v) * 0.6 rho  >  mean of the neighbours + 3 sigma_mean

(the photometric pipelines of SDSS and LSST ask the same with other constants). rho is measured on
the tops of sources that both frames of a pair show, which no cosmic ray is; the variance of what
stands above the sky by differences of neighbours. Then neighbours of sharp pixels are tried again,
with what is known to be sharp left out: so are tracks found that are two pixels wide.

Source: R. Lupton in the SDSS photometric pipeline; `meas.algorithms.findCosmicRays` of LSST. van
Dokkum 2001 (PASP 113, 1420) asks the same of a Laplacian on a finer grid, at 50 times the cost.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from .shift import Tops
from .sky import NEIGHBOURS, Bright

__all__ = ["Sharpness", "find_sharp", "measure_sharpness"]

_PART = 0.6  # of rho that the neighbours of a sharp pixel are below
_BRIGHT = 6.0  # sigma, least value of a sharp pixel
_SURE = 3.0  # sigmas of the pixel, and of the mean
_FAINT = 12.0  # sigma: pixels between this and 5 tell the noise of photons
_SAMPLED = 0.5, 0.25  # rho of a PSF of 2 pixels FWHM, along axes and diagonals
_BROADEST = 0.7, 0.4  # the most that is asked of a pixel: sources may all be galaxies
_ENOUGH = 8  # sources that tell the PSF
_SNR = 20.0  # of their tops
_SHARPEST = 0.15  # quantile: galaxies and blends are broader than the PSF
_ONE_SIDE = 3.0  # the neighbour that is left counts so often: it may be down the flank of a star
_ROUNDS = 3  # in which a track grows


@dataclasses.dataclass(frozen=True)
class Sharpness:
    """rho of a frame along axes and diagonals, and whether enough sources showed it."""

    axes: float
    diagonals: float
    known: bool

    @property
    def sampled(self) -> bool:
        """Whether the PSF is wide enough that a single pixel is no star: FWHM of 2 pixels."""
        return self.axes > 0.95 * _SAMPLED[0]


def measure_sharpness(tops: Tops, common: NDArray[np.int64]) -> Sharpness:
    """Sharpness of the PSF by tops of sources that another frame shows too."""
    some = common[tops.snr[common] > _SNR]
    if len(some) < _ENOUGH:
        return Sharpness(*_SAMPLED, known=False)
    axes, diagonals = (
        min(most, float(np.quantile(ratio[some], _SHARPEST)))
        for ratio, most in zip((tops.axes, tops.diagonals), _BROADEST, strict=True)
    )
    return Sharpness(axes, diagonals, known=True)


def find_sharp(data: NDArray[np.floating], bright: Bright, psf: Sharpness) -> NDArray[np.int64]:
    """Places in the frame, in reading order, of pixels that are sharper than the PSF.

    None where the PSF itself is less than 2 pixels wide.
    """
    if not psf.sampled:
        return np.empty(0, np.int64)
    rho = _PART * np.array([psf.axes] * 2 + [psf.diagonals] * 2)
    photons = _photons(bright)
    variance = (bright.noise**2).astype(bright.value.dtype)
    some = np.flatnonzero(bright.value > _BRIGHT * bright.noise)
    value, variance = bright.value[some], variance[some]
    sure = value - _SURE * np.sqrt(variance + photons * value)
    sharp = np.zeros(len(some), bool)
    for k in range(4):
        mean = 0.5 * (bright.around[2 * k, some] + bright.around[2 * k + 1, some])
        error = np.sqrt(0.5 * (variance + photons * np.maximum(mean, 0)))
        # False beside a bad pixel, of which nothing is known.
        sharp |= sure * rho[k] > mean + _SURE * error
    found = bright.index[some[sharp]]
    if not len(found):
        return found
    return _grown(data, bright, found, rho)


def _photons(bright: Bright) -> float:
    """Variance that a count above the sky adds, by the differences between neighbours.

    The mask (1, -2, 1; -2, 4, -2; 1, -2, 1) takes off what is smooth and leaves 36 times the
    variance (Immerkaer 1996, CVIU 64, 300). What it leaves of stars makes the result too high, if
    anything, and a low quantile less so.
    """
    faint = bright.value < _FAINT * bright.noise
    value, around = bright.value[faint], bright.around[:, faint]
    rest = (4 * value - 2 * around[:4].sum(0) + around[4:].sum(0)) / bright.noise[faint]
    known = np.isfinite(rest)
    if known.sum() < 100:
        return 0.0
    # 30 % of the squares of normal numbers are below 0.1485.
    excess = float(np.quantile(rest[known] ** 2, 0.3)) / (36 * 0.1485) - 1
    return max(excess, 0.0) * float(np.median(bright.noise[faint] ** 2) / np.median(value))


def _grown(
    data: NDArray[np.floating], bright: Bright, found: NDArray[np.int64], rho: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Sharp pixels with those beside them that are sharp once the others are left out."""
    nx = data.shape[1]
    steps = np.array([dy * nx + dx for dy, dx in NEIGHBOURS])
    known = np.zeros(data.size, bool)
    known[found] = True
    last = found
    for _ in range(_ROUNDS):
        beside = np.unique(last[:, None] + steps)
        place = np.searchsorted(bright.index, beside)
        place = np.minimum(place, len(bright.index) - 1)
        place = place[(bright.index[place] == beside) & ~known[beside]]
        around, out = bright.around[:, place], known[bright.index[place] + steps[:, None]]
        sharp = np.zeros(len(place), bool)
        for k in range(4):
            first, second = around[2 * k], around[2 * k + 1]
            no_first, no_second = out[2 * k], out[2 * k + 1]
            mean = np.where(no_first, _ONE_SIDE * second, 0.5 * (first + second))
            mean = np.where(no_second, _ONE_SIDE * first, mean)
            mean = np.where(no_first & no_second, 0, mean)
            sharp |= bright.value[place] * rho[k] > mean + bright.noise[place]
        last = bright.index[place[sharp]]
        if not len(last):
            break
        known[last] = True
    return np.flatnonzero(known)
