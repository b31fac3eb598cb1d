"""Proper image subtraction: Zackay, Ofek & Gal-Yam 2016 (ApJ 830, 27), equations by number.

Reference R and science image N see the sky T through their PSFs with white noise on top,
R = T * P_r + noise of σ_r and N = a T * P_n + noise of σ_n: `a` is the scale, fluxes are counts
of N. In Fourier space (hats)

    D̂ = (P̂_r N̂ - a P̂_n R̂) W,    W = sqrt((σ_n² + a² σ_r²) / (σ_n² |P̂_r|² + a² σ_r² |P̂_n|²))

is eq. 13 times what brings it to counts of N (F_n / F_D, eq. 15): its noise is white, of
variance σ_n² + a² σ_r², and a new source of flux F shows as F P_D, P̂_D = P̂_r P̂_n W (eq. 14),
of sum 1. Photometry with P_D at every pixel is the score image S in units of its own flux
(eqs. 17 and 41), F = (D correlated with P_D) / sum P_D², and

    S_corr = F / sqrt(V_F + V_ast)

(eq. 25): V_F is the variance of F, the noise of the sources included (eqs. 26-29), V_ast that
from errors of registration, σ_ast² |∇ F_R|², F_R the part of F that comes from R (eqs. 30-33).
Every variance is that of the images seen through the squares of the filters.

A frame is worked on in tiles that overlap, each with its own PSFs (`zogy_psfs`). Nothing but the
overlap is lost: the filters have no reach beyond it that could be seen.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdiff.core import arrays
from fastdiff.difference.options import check_psfs, check_scale
from fastdiff.kernels.image import tile as tile_kernel

from .psfs import psfs_of_tiles
from .stars import MIN_MATCHED, fit_scale, match_stars, nonnegative, registration_error, tile_of
from .tiles import (
    SIGNIFICANT,
    Filters,
    Image,
    Space,
    Tile,
    extra_variance,
    fast_length,
    local_sigma,
    prepare,
    signal_of,
    transfer,
    unknown_pixels,
)

if TYPE_CHECKING:
    from fastdiff.matching.frames import Frames

__all__ = ["subtract"]

_TILE = 512  # pixels; of frames whose PSF is measured
_TILE_OF_ONE_PSF = 1024  # transforms of this size stay near the cache
_QUIET = 0.1  # light over noise, of pixels that tell the noise of the sky
_MIN_SOURCES = 5  # that tell the photon noise of others: one may be variable
_SAMPLES = 200_000  # pixels that tell the noise of a frame


def subtract(
    frames: Frames,
    *,
    ref_psfs: ArrayLike | None = None,
    sci_psfs: ArrayLike | None = None,
    psf_size: int | None = None,
    tile: int | None = None,
    scale: ArrayLike | None = None,
    gain: float | tuple[float, float] | None = None,
    astrometric_noise: float | Literal["auto"] = "auto",
    calibrate: bool = True,
) -> dict[str, Any]:
    """Fill ``frames.image``, ``.noise`` and the maps of ZOGY; see `fastdiff.subtract_batch`.

    Parameters
    ----------
    frames : Frames
    ref_psfs, sci_psfs : array_like, optional
        PSFs of sum 1, centred on the middle pixel, of odd side k: (k, k), (n or 1, k, k), or
        (n or 1, n_tiles, k, k) with the tiles of a frame in rows. By default the sharper image's
        are measured from the stars of each tile, and the other's are these, convolved by the
        kernel that matches the images (as psf-match fits it). Where there is no star a round
        profile of 2.5 pixels FWHM is assumed, noted; where nothing tells a kernel, each
        image's stars tell its PSFs.
    psf_size : int, optional
        Side of the PSFs that are measured, odd; by default 6 FWHM.
    tile : int, optional
        Side of the tiles in pixels: the frame is cut into round(ny / tile) x round(nx / tile)
        equal parts, at least one. By default 512, or 1024 where an image has one given PSF.
    scale : float or array_like (n,), optional
        Flux in sci over flux in ref; measured by default.
    gain : float or (float, float), optional
        Electrons per count, of both images or of (ref, sci), for the noise of sources where an
        image has no variances.
    astrometric_noise : float or "auto"
        Error of the registration in pixels on each axis; "auto" measures it from the stars.
    calibrate : bool
        Fit the noise to the difference itself (default): its level to the sky, which takes
        correlated pixels into account, and what sources add beyond their expected noise, from
        photons that no `gain` told of or from PSFs that differ. False takes the noise of the
        sky, `gain` and the variances as they are.

    Returns
    -------
    dict
        What the method adds to ``Difference.meta``.

    Notes
    -----
    ``frames.image`` is D in counts of sci, normalised so that a new source of F counts sums up
    to F; ``frames.noise`` its standard deviation. ``frames.extras``: "significance" (S_corr),
    "flux" and "flux_err" (of a point source centred on the pixel), "psf" (P_D, of the middle
    tile).

    Bad pixels are filled from their neighbours. Masked is where they, or what lies beyond the
    edge, could change the difference or the flux by more than 1 sigma.
    """
    _, ny, nx = frames.scis.shape
    options = _Options(
        ref_psfs=check_psfs("ref_psfs", ref_psfs, frames.scis.shape),
        sci_psfs=check_psfs("sci_psfs", sci_psfs, frames.scis.shape),
        psf_size=_check_size(psf_size, min(ny, nx)),
        tiles=(),
        scale=None if scale is None else check_scale(scale, len(frames.scis)),
        gain=_check_gain(gain),
        astrometric_noise=_check_astrometric_noise(astrometric_noise),
        calibrate=bool(calibrate),
    )
    options.tiles = _plan(ny, nx, tile, options)
    xp = arrays.namespace(frames.image)
    for name in ("significance", "flux", "flux_err"):
        frames.extras[name] = xp.empty_like(frames.image)
    n = len(frames.scis)
    shared = None
    clock = _Clock()
    if len(frames.refs) == 1 and n > 1:
        shared = prepare(frames.refs, frames.bad_refs, frames.ref_variances, 0)
        if options.wants_stars:
            shared.find_stars()
    jobs = [_Job(frames, options, i, shared, clock) for i in range(n)]
    inside = frames.threads if n == 1 else 1
    done = 0
    for _ in _map(lambda job: job.run(inside), jobs, frames.threads if n > 1 else 1):
        done += len(options.tiles)
        frames.progress(done, n * len(options.tiles))
    failed = [job.error for job in jobs if job.error is not None]
    if failed and len(failed) == n:
        raise failed[0]
    for job in jobs:
        for text in job.notes:
            frames.note(job.i, text)
    frames.extras["psf"] = [job.psf for job in jobs]
    return {
        "pixel_threshold": 3.0,
        "noise_free": False,
        "scale": np.array([job.scale for job in jobs], np.float32),
        "scale_boxes": np.array([job.n_scale for job in jobs]),
        "sky": np.array([job.sky for job in jobs]),
        "sky_noise": np.array([job.sky_noise for job in jobs]),
        "astrometric_noise": np.array([job.astrometric_noise for job in jobs]),
        "noise_factor": np.array([job.noise_factor for job in jobs]),
        "n_stars": np.array([job.n_stars for job in jobs]),
        "tile": options.tiles[0].shape,
        "n_tiles": len(options.tiles),
        "seconds": clock.seconds,
    }


# ------------------------------------------------------------------------ what is asked for


@dataclasses.dataclass
class _Options:
    ref_psfs: NDArray[np.float64] | None  # (n or 1, n_tiles or 1, k, k)
    sci_psfs: NDArray[np.float64] | None
    psf_size: int | None
    tiles: Sequence[Tile]
    scale: NDArray[np.float64] | None  # (n,)
    gain: tuple[float, float] | None  # ref, sci
    astrometric_noise: float | None  # None: measured
    calibrate: bool

    @property
    def wants_stars(self) -> bool:
        given = self.ref_psfs is not None and self.sci_psfs is not None
        return not given or self.scale is None or self.astrometric_noise is None


def _check_size(size: Any, largest: int) -> int | None:
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
        raise TypeError(f"psf_size is a {type(size).__name__}; it must be a whole number")
    if size < 5 or size % 2 == 0 or size > largest:
        raise ValueError(
            f"psf_size is {size}; it must be odd, at least 5 and no more than the side of the "
            f"images, {largest}"
        )
    return int(size)


def _check_gain(gain: Any) -> tuple[float, float] | None:
    if gain is None:
        return None
    array = np.asarray(gain, dtype=np.float64)
    if array.shape not in ((), (2,)):
        raise ValueError(f"gain has shape {array.shape}; it must be a number or (ref, sci)")
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"gain is {gain}; it must be positive (electrons per count), or None")
    ref, sci = np.broadcast_to(array, (2,))
    return float(ref), float(sci)


def _check_astrometric_noise(value: Any) -> float | None:
    if isinstance(value, str):
        if value != "auto":
            raise ValueError(f"astrometric_noise is {value!r}; it must be 'auto' or pixels")
        return None
    if not (np.isfinite(value) and value >= 0):
        raise ValueError(f"astrometric_noise is {value}; it must be 0 pixels or more, or 'auto'")
    return float(value)


def _plan(ny: int, nx: int, tile: Any, options: _Options) -> Sequence[Tile]:
    given = [psfs for psfs in (options.ref_psfs, options.sci_psfs) if psfs is not None]
    if tile is None:
        one = len(given) == 2 and all(psfs.shape[1] == 1 for psfs in given)
        tile = _TILE_OF_ONE_PSF if one else _TILE
    elif isinstance(tile, bool) or not isinstance(tile, (int, np.integer)):
        raise TypeError(f"tile is a {type(tile).__name__}; it must be a whole number of pixels")
    elif tile < 32:
        raise ValueError(f"tile is {tile}; it must be at least 32 pixels")
    ys, xs = (np.linspace(0, n, max(1, round(n / tile)) + 1).astype(int).tolist() for n in (ny, nx))
    tiles = [
        Tile(y0, y1, x0, x1)
        for y0, y1 in itertools.pairwise(ys)
        for x0, x1 in itertools.pairwise(xs)
    ]
    for name, psfs in (("ref_psfs", options.ref_psfs), ("sci_psfs", options.sci_psfs)):
        if psfs is not None and psfs.shape[1] not in (1, len(tiles)):
            raise ValueError(
                f"`{name}` has PSFs for {psfs.shape[1]} tiles; {ny} x {nx} pixels with tile="
                f"{tile} have {len(ys) - 1} x {len(xs) - 1}: give one for each, or set `tile`"
            )
    return tiles


# ------------------------------------------------------------------------ one image


class _Job:
    """The difference of one pair."""

    def __init__(self, frames: Frames, options: _Options, i: int, ref: Image | None, clock: _Clock):
        self.frames, self.options, self.i, self.ref, self.clock = frames, options, i, ref, clock
        self.xp = arrays.namespace(frames.image)
        self.image, self.noise = frames.image[i], frames.noise[i]
        self.significance, self.flux, self.flux_err = (
            frames.extras[name][i] for name in ("significance", "flux", "flux_err")
        )
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
            self.ref = self.sci = self.pair = self.source = self.pixels = None

    def _subtract(self, threads: int) -> None:
        options, frames = self.options, self.frames
        with self.clock("background"):
            if self.ref is None:
                self.ref = prepare(frames.refs, frames.bad_refs, frames.ref_variances, self.i)
            self.sci = prepare(frames.scis, frames.bad_scis, frames.sci_variances, self.i)
        ref, sci = self.ref, self.sci
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
            shape = (2, *self.image.shape)
            self.source = self.xp.zeros(shape, np.float32) if options.calibrate else None
            self.pixels = ref.on(self.xp), sci.on(self.xp)
            work = list(zip(options.tiles, psfs, strict=True))
            results = list(_map(lambda each: self._tile(*each), work, threads))
            self.psf, self.photons = results[len(results) // 2]
        with self.clock("noise"):
            self._finish()

    def _give_up(self, value: float, note: str) -> None:
        """A difference that is `value` all over, without noise."""
        self.notes.append(note)
        self.image[:] = self.xp.where(self.blank, np.float32(np.nan), np.float32(value))
        self.noise[:] = self.significance[:] = self.flux[:] = self.flux_err[:] = np.nan
        if value == 0:
            self.significance[:] = self.flux[:] = self.image

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
            ny, nx = self.image.shape
            middle = (nx - 1) / 2, (ny - 1) / 2
            self.scale, self.n_scale = self.psfs.kernel.scale(*middle), self.psfs.n_stamps
            return
        pair = self.pair
        if len(pair.dx) >= MIN_MATCHED:
            self.scale, self.n_scale = fit_scale(self.ref, self.sci, pair, self.options.tiles, psfs)
        if not self.n_scale:
            self.scale, self.n_scale = self._scale_of_everything()
        if not self.n_scale:
            self.notes.append("no source bright enough to measure the photometric scale: 1 assumed")

    def _scale_of_everything(self) -> tuple[float, int]:
        """Scale from all that stands above the sky, for frames without stars."""
        ny, nx = self.image.shape
        origins, shape = tile_kernel.plan_tiles(ny, nx, 256, 32, 16)
        pixels = (self.ref.data[None], self.sci.data[None], self.ref.blank[None],
                  self.sci.blank[None])  # fmt: skip
        stats = tile_kernel.measure_tiles(*pixels, origins, shape, 1)
        scale, n = tile_kernel.photometric_scale(*pixels, origins, shape, stats, 1)
        return float(scale[0]), int(n[0])

    def _measure_registration(self) -> None:
        """Scatter of the stars' positions beyond their own errors, pixels on each axis."""
        self.n_stars = 0 if self.pair is None else len(self.pair.dx)
        if self.options.astrometric_noise is not None:
            self.astrometric_noise = self.options.astrometric_noise
            return
        pair = self.pair
        self.astrometric_noise = 0.0
        if len(pair.dx) < MIN_MATCHED:
            return
        delta = np.array([pair.dx, pair.dy])
        delta -= np.array(self.psfs.shifts)[tile_of(self.options.tiles, pair.sci)].T
        delta -= np.median(delta, axis=1, keepdims=True)
        error = np.hypot(*(np.sqrt(2) * s.fwhm / 2.3548 / s.snr for s in (pair.ref, pair.sci)))
        self.astrometric_noise = registration_error(delta, error, pair.sci.flux)

    # -------------------------------------------------------------- Fourier space

    def _tile(
        self, tile: Tile, psfs: tuple[NDArray[Any], NDArray[Any]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fill the maps of one tile; P_D, and the photon noise of a new source.

        The significance holds V_ast, the noises are variances until `_finish`.
        """
        (ref, sci), a, xp = self.pixels, self.scale, self.xp
        sigma_r, sigma_n = (local_sigma(image, tile) for image in (self.ref, self.sci))
        sigma_r = 0.0 if ref.constant else sigma_r
        reach = max(psf.shape[0] for psf in psfs)
        psfs = tuple(xp.asarray(psf) for psf in psfs)
        space = Space(tile, reach, xp)
        filters = Filters(*psfs, sigma_r, sigma_n, a, space.shape)
        small = Filters(*psfs, sigma_r, sigma_n, a, (fast_length(3 * reach),) * 2)
        energy = small.energy()
        match = filters.psf.conj() * np.float32(1 / energy)
        kernels = small.kernels(energy)
        white = sigma_n**2 + a**2 * sigma_r**2
        inside = tile.inside

        signal_r, signal_n = (signal_of(each, space) for each in (ref, sci))
        unknown = unknown_pixels(ref, sci, space)
        doubts = []
        if unknown is not None:
            # It may be wrong by all the light that either image has there.
            for signal, sigma, through in (
                (signal_n, sigma_n, filters.sci),
                (signal_r, sigma_r, filters.ref),
            ):
                light = xp.abs(signal)
                light[~unknown | (light < np.float32(SIGNIFICANT * sigma))] = 0
                if light.any():
                    doubts.append(space.forward(light) * through)
        light = signal_n.copy() if self.source is not None else None
        part_n = space.forward(signal_n) * filters.sci
        part_r = space.forward(signal_r) * filters.ref
        self.image[inside] = space.back(part_n - part_r)
        part_n *= match
        part_r *= match
        flux_n, flux_r = space.back_all(part_n), space.back_all(part_r)
        self.flux[inside] = (flux_n - flux_r)[space.window]
        self.significance[inside] = 0
        if self.astrometric_noise:
            slope2 = sum(slope**2 for slope in xp.gradient(flux_r))
            self.significance[inside] = slope2[space.window] * np.float32(self.astrometric_noise**2)
        if light is not None:
            # Of the sources that both images show, so that transients do not count. In units of
            # the noise: as a variance it is comparable with that of the sky.
            least = 4 * (white / energy) ** 0.5
            light *= np.float32(sigma_n)
            light[(flux_n < least) | (flux_r < flux_n / 2)] = 0
            light = space.forward(light)
            for source, kernel in zip(self.source, (kernels[0], kernels[2]), strict=True):
                source[inside] = space.back(light * transfer(kernel**2, space.shape))
                xp.maximum(source[inside], 0, out=source[inside])
        del flux_n, flux_r, part_n, part_r

        gain_r, gain_n = self.options.gain or (None, None)
        extras = (
            extra_variance(sci, space, sigma_n, gain_n),
            None if ref.constant else extra_variance(ref, space, sigma_r, gain_r),
        )
        extras = [None if each is None else space.forward(each) for each in extras]
        for variance, floor, through in (
            (self.noise, white, kernels[:2]),
            (self.flux_err, white / energy, kernels[2:]),
        ):
            variance[inside] = floor
            terms = [
                extra * transfer(kernel**2, space.shape)
                for extra, kernel in zip(extras, through, strict=True)
                if extra is not None
            ]
            if terms:
                variance[inside] += space.back(sum(terms))
                xp.maximum(variance[inside], 1e-3 * floor, out=variance[inside])

        for limit, through in ((white, np.float32(1)), (white / energy, match)):
            if doubts:
                reached = sum(xp.abs(space.back(doubt * through)) for doubt in doubts)
                limit = max(limit**0.5, 1e-5 * float(reached.max()))
                self.image[inside][reached > limit] = np.nan
        return small.difference_psf(reach), sigma_n * small.photons(kernels, psfs[1])

    # -------------------------------------------------------------- noise from the difference

    def _finish(self) -> None:
        """Levels, calibrated noise, and S_corr."""
        xp = self.xp
        xp.copyto(self.image, np.nan, where=self.blank)
        good = xp.isfinite(self.image)
        if not good.any():
            self.notes.append("no pixel is far enough from bad ones")
            self.noise[:] = self.significance[:] = self.flux[:] = self.flux_err[:] = np.nan
            return
        index = xp.flatnonzero(good)
        index = index[:: _step(len(index), self.image.shape[1])]

        def sampled(values: Any) -> NDArray[np.float64]:
            return arrays.on_host(values.ravel()[index]).astype(np.float64)

        registration = sampled(self.significance)
        tells_photons = (
            self.source is not None and self.options.gain is None and self.sci.variance is None
            and _count_regions(self.source[1] > _QUIET * self.flux_err) >= _MIN_SOURCES
        )  # fmt: skip
        maps = (self.image, self.noise, 0.0), (self.flux, self.flux_err, registration)
        for number, (values, variance, extra) in enumerate(maps):
            sample, known = sampled(values), sampled(variance)
            if self.source is None:
                values -= np.float32(np.median(sample))
                continue
            source = self.source[number]
            light = sampled(source)
            quiet = light < _QUIET * known
            quiet = quiet if np.count_nonzero(quiet) >= 100 else np.ones(len(index), bool)
            level = np.median(sample[quiet])
            values -= np.float32(level)
            sample -= level
            spread = 1.4826 * np.median(np.abs(sample[quiet]) / np.sqrt(known[quiet]))
            if spread == 0:  # nothing differs
                continue
            self.noise_factor[number] = spread
            variance *= np.float32(spread**2)
            linear, square = _excess(sample, known * spread**2 + extra, light)
            variance += source * (linear + square * source)
            if tells_photons:
                # New sources have photon noise like the others.
                new = xp.where(values > SIGNIFICANT * xp.sqrt(variance), values, np.float32(0))
                variance += np.float32(linear * self.photons[number]) * new
        self.significance += self.flux_err
        xp.sqrt(self.significance, out=self.significance)
        xp.divide(self.flux, self.significance, out=self.significance)
        xp.sqrt(self.noise, out=self.noise)
        xp.sqrt(self.flux_err, out=self.flux_err)
        self.noise[self.blank] = np.nan
        for map_ in (self.significance, self.flux, self.flux_err):
            map_[~good] = np.nan


def _count_regions(where: NDArray[np.bool_]) -> int:
    return int(arrays.scipy_of(where, "ndimage").label(where)[1])


def _step(n: int, nx: int) -> int:
    """Step through n pixels that keeps about `_SAMPLES`, without a factor of the width."""
    step = max(1, n // _SAMPLES)
    while np.gcd(step, nx) > 1:
        step += 1
    return step


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
        variance = (1.4826 * np.median(np.abs(sample[part]))) ** 2
        light, base = np.median(source[part]), np.median(known[part])
        weight = np.sqrt(len(part)) / max(variance, base)
        rows.append([weight * light, weight * light**2])
        values.append(weight * (variance - base))
    design = np.array(rows)
    norm = np.linalg.norm(design, axis=0)
    found = nonnegative(design / norm, np.array(values))
    return np.float32(found[0] / norm[0]), np.float32(found[1] / norm[1])


# ------------------------------------------------------------------------ time and threads


def _map(call: Callable[[Any], Any], items: Sequence[Any], threads: int) -> Iterable[Any]:
    """``call`` of every item, in their order, on threads."""
    if threads <= 1 or len(items) <= 1:
        yield from map(call, items)
        return
    with ThreadPoolExecutor(min(threads, len(items)), thread_name_prefix="fastdiff-zogy") as pool:
        yield from pool.map(call, items)


class _Clock:
    """Seconds of the stages, summed over the threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, stage: str) -> _Clock._Stage:
        return self._Stage(self.seconds, stage)

    class _Stage:
        def __init__(self, seconds: dict[str, float], stage: str):
            self.seconds, self.stage = seconds, stage

        def __enter__(self) -> None:
            self.begin = time.perf_counter()

        def __exit__(self, *_: Any) -> None:
            spent = time.perf_counter() - self.begin
            self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + spent
