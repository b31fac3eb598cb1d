"""Noise of a difference from the difference itself, and the significance with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.core.stats import SIGMA_PER_MAD, mad_sigma, nonnegative
from fastdiff.matching.noise import calibrate as scale_to_seen
from fastdiff.matching.noise import sampled, some_pixels, take_off_stripes
from fastdiff.matching.sources import point_sources, systematic_error
from fastdiff.matching.spectrum import SIDE, noise_spectrum, source_filter

from .tiles import SIGNIFICANT, ZogyTile

__all__ = ["Maps", "calibrate", "finish", "measure_again"]

_QUIET = 0.1  # light over noise, of pixels that tell the noise of the sky
_MIN_SOURCES = 5  # that tell the photon noise of others: one may be variable


class Maps(NamedTuple):
    """Maps of one difference, (ny, nx) each, which are filled and changed in place.

    Until `finish`, `noise` and `flux_err` are variances, and `significance` is the variance of
    the registration.
    """

    image: NDArray[np.float32]
    noise: NDArray[np.float32]
    significance: NDArray[np.float32]
    flux: NDArray[np.float32]
    flux_err: NDArray[np.float32]
    systematic: NDArray[np.float32]

    def blank_but_image(self) -> None:
        """Set everything but the image to NaN."""
        for map_ in self[1:]:
            map_[:] = np.nan


def calibrate(
    maps: Maps,
    source: NDArray[np.float32] | None,
    photons: NDArray[np.float64],
    photons_known: bool,
) -> NDArray[np.float64]:
    """Take the levels off image and flux, and scale their variances to what they show.

    Parameters
    ----------
    maps : Maps
    source : ndarray, (2, ny, nx), or None
        Light of the sources through the squares of the filters, of the image and of the flux;
        None leaves the variances as they are.
    photons : ndarray, (2,)
        Photon noise of a new source in both, in units of that of the sources.
    photons_known : bool
        Whether gain or variances tell the photon noise.

    Returns
    -------
    ndarray, (2,)
        Factors of the noise of the image and of the flux.
    """
    xp = arrays.namespace(maps.image)
    index = some_pixels(maps.image)
    registration = sampled(maps.significance, index)
    tells_photons = (
        source is not None and not photons_known
        and _count_regions(source[1] > _QUIET * maps.flux_err) >= _MIN_SOURCES
    )  # fmt: skip
    factors = np.ones(2)
    work: tuple[tuple[NDArray[np.float32], NDArray[np.float32], Any], ...] = (
        (maps.image, maps.noise, 0.0), (maps.flux, maps.flux_err, registration),
    )  # fmt: skip
    for number, (values, variance, extra) in enumerate(work):
        sample, known = sampled(values, index), sampled(variance, index)
        if source is None:
            values -= np.float32(np.median(sample))
            continue
        light = sampled(source[number], index)
        quiet = light < _QUIET * known
        quiet = quiet if np.count_nonzero(quiet) >= 100 else np.ones(len(index), bool)
        level = np.median(sample[quiet])
        values -= np.float32(level)
        sample -= level
        spread = SIGMA_PER_MAD * np.median(np.abs(sample[quiet]) / np.sqrt(known[quiet]))
        if spread == 0:  # nothing differs
            continue
        factors[number] = spread
        variance *= np.float32(spread**2)
        linear, square = _excess(sample, known * spread**2 + extra, light)
        variance += source[number] * (linear + square * source[number])
        if tells_photons:
            # New sources have photon noise like the others.
            new = xp.where(values > SIGNIFICANT * xp.sqrt(variance), values, np.float32(0))
            variance += np.float32(linear * photons[number]) * new
    return factors


def measure_again(
    maps: Maps, variance: Any, light: Any, tiles: Sequence[ZogyTile], psfs: list[Any],
    known: bool, threads: int,
) -> None:  # fmt: skip
    """Fluxes of point sources and their variances by the filter that suits the noise that is seen.

    The noise of D should be white, and P_D then is that filter; it is not where pixels are
    correlated, rows have offsets or the sky has structure (`fastdiff.matching.spectrum`).

    Parameters
    ----------
    maps : Maps
        `flux`, `flux_err` and `systematic` are filled, the latter two as variance and as error.
    variance : array, (ny, nx)
        Of D, of the sky and what variances and gain tell.
    light : array, (ny, nx)
        Of the sources that both images have, as D shows one of them.
    tiles, psfs
        P_D of each tile.
    known : bool
        Whether gain or variances tell the photon noise.
    threads : int
    """
    take_off_stripes(maps.image)
    ny, nx = maps.image.shape
    for tile, psf in zip(tiles, psfs, strict=True):
        y, x = max(tile.y0 - SIDE, 0), max(tile.x0 - SIDE, 0)
        around = np.s_[y : min(tile.y1 + SIDE, ny), x : min(tile.x1 + SIDE, nx)]
        inner = np.s_[tile.y0 - y : tile.y1 - y, tile.x0 - x : tile.x1 - x]
        image, own = maps.image[around], variance[around]
        side = max(SIDE, 2 * len(psf) + 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            pulls = image / np.sqrt(own)
        filter_ = source_filter(psf, noise_spectrum(pulls, np.ones((side, side // 2 + 1))))
        flux, flux_variance = np.empty_like(image), np.empty_like(image)
        point_sources(image, own, filter_, 0.0, flux, flux_variance, threads)
        scale_to_seen(flux, flux_variance, 1.0 if known else 0.0)
        error = systematic_error(
            light[around], flux, flux_variance, filter_, photons=not known, threads=threads
        )
        for map_, values in (
            (maps.flux, flux), (maps.flux_err, flux_variance), (maps.systematic, error)
        ):  # fmt: skip
            map_[tile.inside] = values[inner]
    maps.flux_err[:] += maps.systematic**2


def finish(maps: Maps, blank: NDArray[np.bool_]) -> None:
    """Variances to noises, and S_corr (eq. 25)."""
    xp = arrays.namespace(maps.image)
    significance = maps.significance
    significance += maps.flux_err
    xp.sqrt(significance, out=significance)
    xp.divide(maps.flux, significance, out=significance)
    xp.sqrt(maps.noise, out=maps.noise)
    xp.sqrt(maps.flux_err, out=maps.flux_err)
    maps.noise[blank] = np.nan


def _count_regions(where: NDArray[np.bool_]) -> int:
    return int(arrays.scipy_of(where, "ndimage").label(where)[1])


def _excess(
    sample: NDArray[Any], known: NDArray[Any], source: NDArray[Any]
) -> tuple[np.float32, np.float32]:
    """(b, c) >= 0 of the variance known + b source + c source², by bins of `source`.

    The first is the Poisson noise of the sources, the second the error of PSFs that differ.
    Robust in each bin, so that transients and variables do not count.
    """
    bright = source > _QUIET * known
    if bright.sum() < 50:
        return np.float32(0), np.float32(0)
    order = np.flatnonzero(bright)[np.argsort(source[bright])]
    rows, values = [], []
    for part in np.array_split(order, np.clip(len(order) // 30, 2, 30)):
        variance = mad_sigma(sample[part], 0) ** 2
        light, base = np.median(source[part]), np.median(known[part])
        weight = np.sqrt(len(part)) / max(variance, base)
        rows.append([weight * light, weight * light**2])
        values.append(weight * (variance - base))
    design = np.array(rows)
    norm = np.linalg.norm(design, axis=0)
    found = nonnegative(design / norm, np.array(values))
    return np.float32(found[0] / norm[0]), np.float32(found[1] / norm[1])
