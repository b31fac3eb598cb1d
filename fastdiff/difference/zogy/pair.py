"""The difference of one pair by ZOGY: PSFs, scale, registration, and Fourier space tile by tile."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.core.clock import Clock
from fastdiff.core.threads import ordered_map
from fastdiff.kernels.image.blocks import photometric_scale
from fastdiff.kernels.image.measure import measure_tiles
from fastdiff.kernels.image.plan import plan_tiles
from fastdiff.matching.frames import Frames

from .noise import Maps, calibrate, finish, measure_again
from .options import ZogyOptions
from .psfs import TilePSFs, psfs_of_tiles
from .stars import MIN_MATCHED, StarPair, fit_scale, match_stars, registration_error, tile_of
from .tiles import (
    SIGNIFICANT,
    Filters,
    Space,
    ZogyImage,
    ZogyTile,
    extra_variance,
    fast_length,
    local_sigma,
    prepare,
    signal_of,
    transfer,
    unknown_pixels,
)

__all__ = ["MAPS", "ZogyPair"]

MAPS = ("significance", "flux", "flux_err", "systematic")
"""Maps beside image and noise."""
_FWHM_PER_SIGMA = 2.3548


class ZogyPair:
    """The difference of one pair; `ref` is its reference where that serves others too."""

    ref: ZogyImage
    sci: ZogyImage
    pixels: tuple[ZogyImage, ZogyImage]
    """Both, where the work is done."""
    blank: NDArray[np.bool_]
    pair: StarPair | None
    """Stars of both images; None where nobody asks for them."""
    psfs: TilePSFs
    source: NDArray[np.float32] | None
    """(2, ny, nx): light of the sources, for the fit of their noise."""
    light: NDArray[np.float32] | None
    """(ny, nx): light of the sources that both images have, as the difference shows it."""
    photons: NDArray[np.float64]

    def __init__(
        self, frames: Frames, options: ZogyOptions, i: int, ref: ZogyImage | None, clock: Clock
    ):
        self.frames, self.options, self.i, self.clock = frames, options, i, clock
        self.shared = ref
        self.xp = arrays.namespace(frames.image)
        extras = (frames.extras[name][i] for name in MAPS)
        self.maps = Maps(frames.image[i], frames.noise[i], *extras)
        self.notes: list[str] = []
        self.error: ValueError | None = None
        self.scale = self.sky = self.sky_noise = self.astrometric_noise = np.nan
        self.n_scale = self.n_stars = 0
        self.noise_factor = np.ones(2)  # of the difference, of the flux
        self.psf: NDArray[np.float64] | None = None

    def run(self, threads: int) -> None:
        """Fill the maps, and forget the images: a batch holds many jobs."""
        try:
            self._subtract(threads)
        finally:
            for name in ("shared", "ref", "sci", "pair", "source", "pixels", "light"):
                vars(self).pop(name, None)

    def _subtract(self, threads: int) -> None:
        self.maps.systematic[:] = 0
        options, frames = self.options, self.frames
        with self.clock("background"):
            ref = self.shared
            if ref is None:
                ref = prepare(frames.refs, frames.bad_refs, frames.ref_variances, self.i)
            sci = prepare(frames.scis, frames.bad_scis, frames.sci_variances, self.i)
        self.ref, self.sci = ref, sci
        self.sky, self.sky_noise = sci.sky, sci.sigma
        self.blank = self.xp.asarray(ref.blank | sci.blank)
        if self.blank.all():
            return self._give_up(np.nan, "no pixel is good in both images")
        if sci.constant:
            return self._give_up(0.0, "the science image is constant: its difference is set to 0")
        if ref.constant:
            self.notes.append("the reference is constant")
        with self.clock("stars"):
            self.pair = match_stars(ref, sci) if options.wants_stars else None
        try:
            with self.clock("psf"):
                self.psfs = psfs_of_tiles(
                    ref, sci, self.pair, options.tiles,
                    {name: self._given(name) for name in ("ref", "sci")}, options.psf_size,
                )  # fmt: skip
                psfs = list(zip(self.psfs.ref, self.psfs.sci, strict=True))
                self.notes += self.psfs.notes
        except ValueError as error:
            self.error = ValueError(f"image {self.i}: {error}")
            return self._give_up(np.nan, str(error))
        with self.clock("scale"):
            self._measure_scale(psfs)
            self._measure_registration()
        with self.clock("transform"):
            # Light of the sources through the filters' squares, for the fit of their noise.
            shape = (2, *self.maps.image.shape)
            self.source = self.xp.zeros(shape, np.float32) if options.calibrate else None
            self.light = self.xp.zeros(shape[1:], np.float32) if options.calibrate else None
            self.pixels = ref.on(self.xp), sci.on(self.xp)
            work = list(zip(options.tiles, psfs, strict=True))
            results = list(
                ordered_map(lambda each: self._tile(*each), work, min(threads, len(work)))
            )
            self.psf, self.photons = results[len(results) // 2]
        with self.clock("noise"):
            self._finish([psf for psf, _ in results], threads)

    def _give_up(self, value: float, note: str) -> None:
        """A difference that is `value` all over, without noise."""
        self.notes.append(note)
        image = self.maps.image
        image[:] = self.xp.where(self.blank, np.float32(np.nan), np.float32(value))
        self.maps.blank_but_image()
        if value == 0:
            self.maps.significance[:] = self.maps.flux[:] = image

    # -------------------------------------------------------------- PSFs, scale, registration

    def _given(self, name: str) -> list[NDArray[np.float64]] | None:
        """PSF of every tile, as the caller knows it."""
        given = self.options.ref_psfs if name == "ref" else self.options.sci_psfs
        if given is None:
            return None
        of_image = given[min(self.i, len(given) - 1)]
        return [of_image[min(t, len(of_image) - 1)] for t in range(len(self.options.tiles))]

    def _measure_scale(self, psfs: Any) -> None:
        if self.options.scale is not None:
            self.scale, self.n_scale = float(self.options.scale[self.i]), -1
            return
        if self.ref.constant:
            self.scale = 1.0
            return
        if self.psfs.kernel is not None:
            ny, nx = self.maps.image.shape
            middle = (nx - 1) / 2, (ny - 1) / 2
            self.scale, self.n_scale = self.psfs.kernel.scale(*middle), self.psfs.n_stamps
            return
        pair = self.pair
        if pair is not None and len(pair.dx) >= MIN_MATCHED:
            self.scale, self.n_scale = fit_scale(self.ref, self.sci, pair, self.options.tiles, psfs)
        if not self.n_scale:
            self.scale, self.n_scale = self._scale_of_everything()
        if not self.n_scale:
            self.notes.append("no source bright enough to measure the photometric scale: 1 assumed")

    def _scale_of_everything(self) -> tuple[float, int]:
        """Scale from all that stands above the sky, for frames without stars."""
        ny, nx = self.maps.image.shape
        origins, shape = plan_tiles(ny, nx, 256, 32, 16)
        pixels = (self.ref.data[None], self.sci.data[None], self.ref.blank[None],
                  self.sci.blank[None])  # fmt: skip
        stats = measure_tiles(pixels, origins, shape, 1)
        scale, n = photometric_scale(pixels, origins, shape, stats, 1)
        return float(scale[0]), int(n[0])

    def _measure_registration(self) -> None:
        """Scatter of the stars' positions beyond their own errors, pixels on each axis."""
        self.n_stars = 0 if self.pair is None else len(self.pair.dx)
        if self.options.astrometric_noise is not None:
            self.astrometric_noise = self.options.astrometric_noise
            return
        pair = self.pair
        self.astrometric_noise = 0.0
        if pair is None or len(pair.dx) < MIN_MATCHED:
            return
        delta = np.array([pair.dx, pair.dy])
        delta -= np.array(self.psfs.shifts)[tile_of(self.options.tiles, pair.sci)].T
        delta -= np.median(delta, axis=1, keepdims=True)
        error = np.hypot(
            *(np.sqrt(2) * s.fwhm / _FWHM_PER_SIGMA / s.snr for s in (pair.ref, pair.sci))
        )
        self.astrometric_noise = registration_error(delta, error, pair.sci.flux)

    # -------------------------------------------------------------- Fourier space

    def _tile(
        self, tile: ZogyTile, psfs: tuple[NDArray[Any], NDArray[Any]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fill the maps of one tile; P_D, and the photon noise of a new source."""
        work = _TileWork(self, tile, psfs)
        doubts = work.doubts()
        work.fill_values()
        work.fill_variances(self.options.gain or (None, None))
        work.hide(doubts)
        return work.small.difference_psf(work.reach), work.photons()

    # -------------------------------------------------------------- noise

    def _finish(self, psfs: list[NDArray[np.float64]], threads: int) -> None:
        """Levels, calibrated noise, and S_corr."""
        maps, xp = self.maps, self.xp
        xp.copyto(maps.image, np.nan, where=self.blank)
        good = xp.isfinite(maps.image)
        if not good.any():
            self.notes.append("no pixel is far enough from bad ones")
            maps.blank_but_image()
            return
        known = self.options.gain is not None or self.sci.variance is not None
        variance = maps.noise.copy()
        self.noise_factor = calibrate(maps, self.source, self.photons, known)
        if self.options.calibrate:
            variance *= np.float32(self.noise_factor[0] ** 2)
            measure_again(maps, variance, self.light, self.options.tiles, psfs, known, threads)
        else:
            for map_ in (maps.significance, maps.flux, maps.flux_err):
                map_[~good] = np.nan
        finish(maps, self.blank)


class _TileWork:
    """Fourier space of one tile of a pair."""

    def __init__(self, pair: ZogyPair, tile: ZogyTile, psfs: tuple[NDArray[Any], NDArray[Any]]):
        xp, a = pair.xp, pair.scale
        self.pair, self.tile, self.xp, self.maps = pair, tile, xp, pair.maps
        self.ref, self.sci = pair.pixels
        self.sigma_r, self.sigma_n = (local_sigma(image, tile) for image in (pair.ref, pair.sci))
        self.sigma_r = 0.0 if self.ref.constant else self.sigma_r
        self.reach = max(psf.shape[0] for psf in psfs)
        psf_r, self.psf_n = (xp.asarray(psf) for psf in psfs)
        self.space = Space(tile, self.reach, xp)
        noises = self.sigma_r, self.sigma_n, a
        self.filters = Filters(psf_r, self.psf_n, *noises, self.space.shape)
        self.small = Filters(psf_r, self.psf_n, *noises, (fast_length(3 * self.reach),) * 2)
        self.energy = self.small.energy()
        self.match = self.filters.psf.conj() * np.float32(1 / self.energy)
        self.kernels = self.small.kernels(self.energy)
        self.white = self.sigma_n**2 + a**2 * self.sigma_r**2
        self.signal_r, self.signal_n = (
            signal_of(each, self.space) for each in (self.ref, self.sci)
        )

    def doubts(self) -> list[NDArray[Any]]:
        """Transforms of the light that bad pixels may hide, through the filters."""
        unknown, found = unknown_pixels(self.ref, self.sci, self.space), []
        if unknown is not None:
            # It may be wrong by all the light that either image has there.
            for signal, sigma, through in (
                (self.signal_n, self.sigma_n, self.filters.sci),
                (self.signal_r, self.sigma_r, self.filters.ref),
            ):
                light = self.xp.abs(signal)
                light[~unknown | (light < np.float32(SIGNIFICANT * sigma))] = 0
                if light.any():
                    found.append(self.space.forward(light) * through)
        return found

    def fill_values(self) -> None:
        """Difference, flux, variance of the registration, and light of the sources."""
        pair, maps, space, inside = self.pair, self.maps, self.space, self.tile.inside
        xp = self.xp
        source = pair.source
        light = None if source is None else self.signal_n.copy()
        part_n = space.forward(self.signal_n) * self.filters.sci
        part_r = space.forward(self.signal_r) * self.filters.ref
        maps.image[inside] = space.back(part_n - part_r)
        if pair.light is not None:
            both = xp.minimum(space.back(part_n.copy()), space.back(part_r.copy()))
            pair.light[inside] = both
        part_n *= self.match
        part_r *= self.match
        flux_n, flux_r = space.back_all(part_n), space.back_all(part_r)
        maps.flux[inside] = (flux_n - flux_r)[space.window]
        maps.significance[inside] = 0
        if pair.astrometric_noise:
            slope2: Any = sum(slope**2 for slope in self.xp.gradient(flux_r))
            error2 = np.float32(pair.astrometric_noise**2)
            maps.significance[inside] = slope2[space.window] * error2
        if source is not None and light is not None:
            # Of the sources that both images show, so that transients do not count. In units of
            # the noise: as a variance it is comparable with that of the sky.
            least = 4 * (self.white / self.energy) ** 0.5
            light *= np.float32(self.sigma_n)
            light[(flux_n < least) | (flux_r < flux_n / 2)] = 0
            through = space.forward(light)
            kernels = self.kernels[0], self.kernels[2]
            for seen, kernel in zip(source, kernels, strict=True):
                seen[inside] = space.back(through * transfer(kernel**2, space.shape))
                self.xp.maximum(seen[inside], 0, out=seen[inside])

    def fill_variances(self, gains: tuple[float | None, float | None]) -> None:
        """Variances of difference and flux: of the sky, and of the sources where it is known."""
        space, inside, (gain_r, gain_n) = self.space, self.tile.inside, gains
        known = (
            extra_variance(self.sci, space, self.sigma_n, gain_n),
            None if self.ref.constant else extra_variance(self.ref, space, self.sigma_r, gain_r),
        )
        extras = [None if each is None else space.forward(each) for each in known]
        for variance, floor, through in (
            (self.maps.noise, self.white, self.kernels[:2]),
            (self.maps.flux_err, self.white / self.energy, self.kernels[2:]),
        ):
            variance[inside] = floor
            terms = [
                extra * transfer(kernel**2, space.shape)
                for extra, kernel in zip(extras, through, strict=True)
                if extra is not None
            ]
            if terms:
                total: Any = sum(terms)
                variance[inside] += space.back(total)
                self.xp.maximum(variance[inside], 1e-3 * floor, out=variance[inside])

    def hide(self, doubts: list[NDArray[Any]]) -> None:
        """NaN where bad pixels may change difference or flux by more than 1 sigma."""
        if not doubts:
            return
        ways: tuple[tuple[float, Any], ...] = (
            (self.white, np.float32(1)),
            (self.white / self.energy, self.match),
        )
        for limit, through in ways:
            reached: Any = sum(self.xp.abs(self.space.back(doubt * through)) for doubt in doubts)
            limit = max(limit**0.5, 1e-5 * float(reached.max()))
            self.maps.image[self.tile.inside][reached > limit] = np.nan

    def photons(self) -> NDArray[np.float64]:
        """Photon noise of a new source in difference and flux, by that of the sources."""
        return self.sigma_n * self.small.photons(self.kernels, self.psf_n)
