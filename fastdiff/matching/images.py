"""One image of a pair, above its sky, with its stars and its PSF."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.kernels.image import convolve as blocks
from fastdiff.stars.find import Stars, find_stars, fwhm_of
from fastdiff.stars.moments import adaptive_moments
from fastdiff.stars.psf import measure_psf, moffat

from .frames import Frames

__all__ = [
    "ENOUGH_STARS", "SIGMA_OF_FWHM", "MatchedImage", "NoFit", "load_image", "middles", "windows",
]  # fmt: skip

ENOUGH_STARS = 8  # with fewer, all pixels are fitted
SIGMA_OF_FWHM = 1 / 2.3548  # of a Gaussian of FWHM 1
_MAX_STARS = 500  # that are looked at
_LIMIT = 1e30  # magnitudes above it are bad


class NoFit(Exception):
    """There is nothing to fit a kernel to; the text says why, and what to change."""


@dataclasses.dataclass
class MatchedImage:
    """One image of a pair, above its sky."""

    name: Literal["ref", "sci"]
    data: NDArray[np.float32]
    """(ny, nx); bad pixels are filled from around."""
    bad: NDArray[np.bool_]
    sky: float
    sigma: float
    """Noise of a pixel of the sky."""
    variance: NDArray[np.float32] | None
    """Finite; None where it is to be measured."""
    floor: float
    """Variance that no pixel is below in a fit, from the sky: one of 0 would rule it."""
    stars: Stars
    fwhm: float
    """Pixels; NaN where there are too few stars to be sure."""
    psf: NDArray[np.float64] | None
    """(k, k), where the caller knows it."""
    host: tuple[NDArray[np.float32], NDArray[np.bool_]]
    """Data and bad pixels in the memory of the CPU; what bad pixels have there means nothing."""

    def own_psf(self) -> NDArray[np.float64] | None:
        """PSF that came or that the stars show, sum 1, of odd size; None without a star.

        Where the stars are too few or too crowded to tell more, it is a profile of their width.
        """
        if self.psf is not None or not len(self.stars.x):
            return self.psf
        fwhm = fwhm_of(self.stars)
        size = 2 * int(np.ceil(2.5 * fwhm)) + 1
        try:
            return measure_psf(*self.host, self.stars, size=size, sky=0.0)
        except ValueError:
            return moffat(fwhm, size)


def load_image(
    name: Literal["ref", "sci"],
    frames: Frames,
    host: Frames,
    i: int,
    stats: NDArray[np.float64],
    psfs: NDArray[np.float64] | None,
    threads: int,
) -> MatchedImage:
    """One image of a pair, with what the frames and its stars tell of it.

    Parameters
    ----------
    name : {"ref", "sci"}
    frames : Frames
    host : Frames
        The same in the memory of the CPU.
    i : int
        Number of the pair.
    stats : ndarray, (n_tiles, 2)
        Sky and noise of its tiles.
    psfs : ndarray, (n or 1, k, k), or None
        PSFs that the caller knows.
    threads : int

    Raises
    ------
    NoFit
        If no pixel is good.
    """
    sky, sigma = np.median(stats, axis=0)
    floor = 0.25 * sigma**2
    data, bad = above_sky(name, frames, i, float(sky))
    seen = (data, bad) if host is frames else above_sky(name, host, i, float(sky))
    if seen[1].all():
        raise NoFit("no pixel is good in both images")
    stars = find_stars(*seen, max_stars=_MAX_STARS)
    if seen[1].any():
        np.copyto(data, 0, where=bad)
        blocks.fill_bad(data, bad, threads)
    variances = frames.ref_variances if name == "ref" else frames.sci_variances
    variance = None
    if variances is not None:
        variance = variances[min(i, len(variances) - 1)].astype(np.float32)
        usual = float(np.median(variance[~bad]))
        np.copyto(variance, usual, where=bad)
        sigma = np.sqrt(usual)
    psf, fwhm = None, float("nan")
    if psfs is not None:
        psf = psfs[min(i, len(psfs) - 1)]
        _, _, _, (xx, xy, yy) = adaptive_moments(psf[None], 1.5)
        fwhm = float((xx[0] * yy[0] - xy[0] ** 2) ** 0.25 / SIGMA_OF_FWHM)
    elif len(stars.x) >= ENOUGH_STARS:
        fwhm = fwhm_of(stars)
    return MatchedImage(
        name, data, bad, float(sky), float(sigma), variance, floor, stars, fwhm, psf, seen
    )


def above_sky(
    name: Literal["ref", "sci"], frames: Frames, i: int, sky: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Image i less its sky, and its bad pixels."""
    values, bads = (
        (frames.refs, frames.bad_refs) if name == "ref" else (frames.scis, frames.bad_scis)
    )
    data = values[min(i, len(values) - 1)]
    bad = ~(np.abs(data) < _LIMIT)
    if bads is not None:
        bad |= bads[min(i, len(bads) - 1)]
    with np.errstate(over="ignore"):
        data = np.subtract(data, sky, dtype=data.dtype).astype(np.float32, copy=False)
    return data, bad


def windows(plane: NDArray[Any], origins: NDArray[np.int64], side: tuple[int, int]) -> NDArray[Any]:
    """(n, h, w): a copy of the windows of a plane."""
    xp = arrays.namespace(plane)
    if xp is not np:
        # Indices of all pixels: CuPy might copy a view of all windows whole.
        rows, columns = (xp.asarray(origins[:, k, None] + np.arange(side[k])) for k in range(2))
        cut: NDArray[Any] = plane[rows[:, :, None], columns[:, None, :]]
    else:
        view = np.lib.stride_tricks.sliding_window_view(plane, side)
        cut = view[origins[:, 0], origins[:, 1]]
    return cut


def middles(
    origins: NDArray[np.int64], side: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns x and rows y of the middles of windows."""
    y, x = (origins + (np.array(side) - 1) / 2).T
    return x, y
