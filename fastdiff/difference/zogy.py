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

A frame is worked on in tiles that overlap, each with its own PSFs. Nothing but the overlap is
lost: the filters have no reach beyond it that could be seen.
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

from fastdiff.kernels import tile as tile_kernel

from .options import check_psfs, check_scale
from .stars import (
    Stars,
    adaptive_moments,
    cut_stamps,
    find_stars,
    fwhm_of,
    measure_psf,
    shift_matrix,
)

if TYPE_CHECKING:
    from .batch import Frames

__all__ = ["subtract"]

_TILE = 512  # pixels; of frames whose PSF is measured
_TILE_OF_ONE_PSF = 1024  # transforms of this size stay near the cache
_STARS_OF_A_TILE = 100  # that are looked for
_STARS_OF_A_PSF = 25  # the nearest ones, where a tile has fewer
_PSF_FWHM = 3.0  # half the side of a measured PSF, in FWHM
_MIN_MATCHED = 3  # stars that tell scale and registration
_SCALE_STARS = 150  # at most, of the highest S/N
_SCALE_ERROR = 0.01  # of a star, beside its noise
_SIGNIFICANT = 5.0  # sigma: pixels below hold no source
_CLIPPED = 0.9866  # standard deviation of a Gaussian cut at 3 sigma, as sep does
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
        (n or 1, n_tiles, k, k) with the tiles of a frame in rows. By default measured from the
        stars of each tile.
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
    for name in ("significance", "flux", "flux_err"):
        frames.extras[name] = np.empty_like(frames.image)
    n = len(frames.scis)
    shared = None
    clock = _Clock()
    if len(frames.refs) == 1 and n > 1:
        shared = _prepare(frames.refs, frames.bad_refs, frames.ref_variances, 0)
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
    tiles: Sequence[_Tile]
    scale: NDArray[np.float64] | None  # (n,)
    gain: tuple[float, float] | None  # ref, sci
    astrometric_noise: float | None  # None: measured
    calibrate: bool

    @property
    def wants_stars(self) -> bool:
        given = self.ref_psfs is not None and self.sci_psfs is not None
        return not given or self.scale is None or self.astrometric_noise is None


@dataclasses.dataclass
class _Tile:
    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def inside(self) -> tuple[slice, slice]:
        return slice(self.y0, self.y1), slice(self.x0, self.x1)


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


def _plan(ny: int, nx: int, tile: Any, options: _Options) -> Sequence[_Tile]:
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
        _Tile(y0, y1, x0, x1)
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


@dataclasses.dataclass
class _Image:
    """An image above its sky, bad pixels filled."""

    data: NDArray[np.float32]
    blank: NDArray[np.bool_]
    variance: NDArray[Any] | None
    sky: float
    sigma: float
    stars: Stars | None = None

    @property
    def constant(self) -> bool:
        return not self.data.any()

    def find_stars(self) -> Stars:
        if self.stars is None:
            wanted = max(500, _STARS_OF_A_TILE * self.data.size // _TILE**2)
            self.stars = find_stars(
                self.data, self.blank, sky=0.0, sigma=self.sigma, max_stars=wanted
            )
        return self.stars


def _prepare(images: Any, bad: Any, variances: Any, i: int) -> _Image:
    """Image `i` of a batch, or the one that serves all."""
    import sep

    image, bad, variance = (
        None if stack is None else stack[min(i, len(stack) - 1)]
        for stack in (images, bad, variances)
    )
    data = np.array(image, dtype=np.float32)
    blank = ~(np.abs(data) <= 1e30)
    if bad is not None:
        blank |= bad
    if blank.all():
        return _Image(data, blank, variance, np.nan, np.nan)
    some = blank.any()
    if some:
        np.copyto(data, 0, where=blank)
    good = data[~blank] if some else data
    if good.min() == good.max():
        return _Image(np.zeros_like(data), blank, variance, float(good.flat[0]), 0.0)
    # In mesh cells of 64 pixels that have no good pixel sep interpolates.
    background = sep.Background(data, mask=blank if some else None)
    background.subfrom(data)
    sigma = float(background.globalrms) / _CLIPPED
    if variance is not None:
        inside = variance[~blank]
        sigma = float(np.sqrt(np.median(inside))) if len(inside) else sigma
    # An image without noise would make its filter singular.
    sigma = max(sigma, 1e-5 * float(np.abs(data).max()))
    if some:
        _fill(data, blank)
    return _Image(data, blank, variance, float(background.globalback), sigma)


def _fill(data: NDArray[np.float32], blank: NDArray[np.bool_]) -> None:
    """Give bad pixels the mean of the good ones around them, weights a Gaussian of 2 pixels."""
    from scipy.ndimage import gaussian_filter

    np.copyto(data, 0, where=blank)
    weight = gaussian_filter((~blank).astype(np.float32), 2.0, truncate=3.0)
    mean = gaussian_filter(data, 2.0, truncate=3.0) / np.maximum(weight, 1e-3)
    np.copyto(data, mean, where=blank)


class _Job:
    """The difference of one pair."""

    def __init__(
        self, frames: Frames, options: _Options, i: int, ref: _Image | None, clock: _Clock
    ):
        self.frames, self.options, self.i, self.ref, self.clock = frames, options, i, ref, clock
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
            self.ref = self.sci = self.pair = self.source = None

    def _subtract(self, threads: int) -> None:
        options, frames = self.options, self.frames
        with self.clock("background"):
            if self.ref is None:
                self.ref = _prepare(frames.refs, frames.bad_refs, frames.ref_variances, self.i)
            self.sci = _prepare(frames.scis, frames.bad_scis, frames.sci_variances, self.i)
        ref, sci = self.ref, self.sci
        self.sky, self.sky_noise = sci.sky, sci.sigma
        self.blank = ref.blank | sci.blank
        if self.blank.all():
            return self._give_up(np.nan, "no pixel is good in both images")
        if sci.constant:
            return self._give_up(0.0, "the science image is constant: its difference is set to 0")
        if ref.constant:
            self.notes.append("the reference is constant")
        with self.clock("stars"):
            self.pair = _match(ref, sci) if options.wants_stars else None
        try:
            with self.clock("psf"):
                psfs = self._psfs()
        except ValueError as error:
            self.error = ValueError(f"image {self.i}: {error}")
            return self._give_up(np.nan, str(error))
        with self.clock("scale"):
            self._measure_scale(psfs)
            self._measure_registration()
        with self.clock("transform"):
            # Light of the sources through the filters' squares, for the fit of their noise.
            shape = (2, *self.image.shape)
            self.source = np.zeros(shape, np.float32) if options.calibrate else None
            work = list(zip(options.tiles, psfs, strict=True))
            results = list(_map(lambda each: self._tile(*each), work, threads))
            self.psf, self.photons = results[len(results) // 2]
        with self.clock("noise"):
            self._finish()

    def _give_up(self, value: float, note: str) -> None:
        """A difference that is `value` all over, without noise."""
        self.notes.append(note)
        self.image[:] = np.where(self.blank, np.nan, value)
        self.noise[:] = self.significance[:] = self.flux[:] = self.flux_err[:] = np.nan
        if value == 0:
            self.significance[:] = self.flux[:] = self.image

    # -------------------------------------------------------------- PSFs, scale, registration

    def _psfs(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """(ref, sci) PSFs of every tile, that of ref moved by the offset of its stars."""
        options, n_tiles = self.options, len(self.options.tiles)
        sides = []
        for name, given in (("ref", options.ref_psfs), ("sci", options.sci_psfs)):
            if given is not None:
                of_image = given[min(self.i, len(given) - 1)]
                sides.append([of_image[min(t, len(of_image) - 1)] for t in range(n_tiles)])
            elif name == "ref" and self.ref.constant:
                sides.append(None)  # nothing is seen through it
            else:
                sides.append(self._measured(name))
        refs, scis = sides
        refs = scis if refs is None else refs
        self.shifts = self._shifts(refs, scis)
        refs = [_shift(psf, shift) for psf, shift in zip(refs, self.shifts, strict=True)]
        return list(zip(refs, scis, strict=True))

    def _measured(self, name: str) -> list[NDArray[np.float64]]:
        """PSF of every tile from the stars nearest to it."""
        image: _Image = getattr(self, name)
        both = self.pair.ref if name == "ref" else self.pair.sci
        stars = both if len(both.x) >= _STARS_OF_A_PSF else image.find_stars()
        if not len(stars.x):
            raise ValueError(
                f"`{name}s` shows no star to measure its PSF from: give `{name}_psfs`, or use "
                "method='psf-match' or 'transinet'"
            )
        size = self.options.psf_size or self._psf_size()
        psfs = []
        for tile in self.options.tiles:
            near = _near(stars, tile)
            psfs.append(measure_psf(image.data, image.blank, stars.take(near), size=size, sky=0.0))
        return psfs

    def _psf_size(self) -> int:
        widths = [fwhm_of(image.find_stars()) for image in (self.ref, self.sci)]
        half = int(np.clip(np.ceil(_PSF_FWHM * np.nanmax(widths)), 6, 40))
        return 2 * min(half, (min(self.image.shape) - 1) // 2) + 1

    def _shifts(self, refs: Any, scis: Any) -> list[tuple[float, float]]:
        """(x, y) of a star in ref less that in sci, beyond what the PSFs' own centres tell."""
        pair = self.pair
        if pair is None or len(pair.dx) < _MIN_MATCHED:
            return [(0.0, 0.0)] * len(refs)
        shifts = []
        for tile, ref, sci in zip(self.options.tiles, refs, scis, strict=True):
            near = _near(pair.sci, tile)
            shift = []
            for delta in (pair.dx[near], pair.dy[near]):
                error = 1.25 * 1.4826 * np.median(abs(delta - np.median(delta))) / len(delta) ** 0.5
                shift.append(np.median(delta) if abs(np.median(delta)) > 3 * error else 0.0)
            own = _centre(ref) - _centre(sci)
            significant = any(shift)
            shifts.append(tuple(np.array(shift) - own) if significant else (0.0, 0.0))
        return shifts

    def _measure_scale(self, psfs: Any) -> None:
        if self.options.scale is not None:
            self.scale, self.n_scale = float(self.options.scale[self.i]), -1
            return
        if self.ref.constant:
            self.scale = 1.0
            return
        pair = self.pair
        if len(pair.dx) >= _MIN_MATCHED:
            self.scale, self.n_scale = _fit_scale(
                self.ref, self.sci, pair, self.options.tiles, psfs
            )
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
        if len(pair.dx) < _MIN_MATCHED:
            return
        delta = np.array([pair.dx, pair.dy])
        delta -= np.array(self.shifts)[_tile_of(self.options.tiles, pair.sci)].T
        delta -= np.median(delta, axis=1, keepdims=True)
        error = np.hypot(*(np.sqrt(2) * s.fwhm / 2.3548 / s.snr for s in (pair.ref, pair.sci)))
        self.astrometric_noise = _registration_error(delta, error, pair.sci.flux)

    # -------------------------------------------------------------- Fourier space

    def _tile(
        self, tile: _Tile, psfs: tuple[NDArray[Any], NDArray[Any]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fill the maps of one tile; P_D, and the photon noise of a new source.

        The significance holds V_ast, the noises are variances until `_finish`.
        """
        ref, sci, a = self.ref, self.sci, self.scale
        sigma_r, sigma_n = (_local_sigma(image, tile) for image in (ref, sci))
        sigma_r = 0.0 if ref.constant else sigma_r
        reach = max(psf.shape[0] for psf in psfs)
        space = _Space(tile, reach)
        filters = _Filters(*psfs, sigma_r, sigma_n, a, space.shape)
        small = _Filters(*psfs, sigma_r, sigma_n, a, (_fast_length(3 * reach),) * 2)
        energy = small.energy()
        match = np.conj(filters.psf) * np.float32(1 / energy)
        kernels = small.kernels(energy)
        white = sigma_n**2 + a**2 * sigma_r**2
        inside = tile.inside

        signal_r, signal_n = (_signal(each, space) for each in (ref, sci))
        unknown = _unknown(ref, sci, space)
        doubts = []
        if unknown is not None:
            # It may be wrong by all the light that either image has there.
            for signal, sigma, through in (
                (signal_n, sigma_n, filters.sci),
                (signal_r, sigma_r, filters.ref),
            ):
                light = np.abs(signal)
                light[~unknown | (light < np.float32(_SIGNIFICANT * sigma))] = 0
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
            slope2 = sum(slope**2 for slope in np.gradient(flux_r))
            self.significance[inside] = slope2[space.window] * np.float32(self.astrometric_noise**2)
        if light is not None:
            # Of the sources that both images show, so that transients do not count. In units of
            # the noise: as a variance it is comparable with that of the sky.
            least = 4 * (white / energy) ** 0.5
            light *= np.float32(sigma_n)
            light[(flux_n < least) | (flux_r < flux_n / 2)] = 0
            light = space.forward(light)
            for source, kernel in zip(self.source, (kernels[0], kernels[2]), strict=True):
                source[inside] = space.back(light * _transfer(kernel**2, space.shape))
                np.maximum(source[inside], 0, out=source[inside])
        del flux_n, flux_r, part_n, part_r

        gain_r, gain_n = self.options.gain or (None, None)
        extras = (
            _extra_variance(sci, space, sigma_n, gain_n),
            None if ref.constant else _extra_variance(ref, space, sigma_r, gain_r),
        )
        extras = [None if each is None else space.forward(each) for each in extras]
        for variance, floor, through in (
            (self.noise, white, kernels[:2]),
            (self.flux_err, white / energy, kernels[2:]),
        ):
            variance[inside] = floor
            terms = [
                extra * _transfer(kernel**2, space.shape)
                for extra, kernel in zip(extras, through, strict=True)
                if extra is not None
            ]
            if terms:
                variance[inside] += space.back(sum(terms))
                np.maximum(variance[inside], 1e-3 * floor, out=variance[inside])

        for limit, through in ((white, np.float32(1)), (white / energy, match)):
            if doubts:
                reached = sum(np.abs(space.back(doubt * through)) for doubt in doubts)
                limit = max(limit**0.5, 1e-5 * float(reached.max()))
                self.image[inside][reached > limit] = np.nan
        return small.difference_psf(reach), sigma_n * small.photons(kernels, psfs[1])

    # -------------------------------------------------------------- noise from the difference

    def _finish(self) -> None:
        """Levels, calibrated noise, and S_corr."""
        np.copyto(self.image, np.nan, where=self.blank)
        good = np.isfinite(self.image)
        if not good.any():
            self.notes.append("no pixel is far enough from bad ones")
            self.noise[:] = self.significance[:] = self.flux[:] = self.flux_err[:] = np.nan
            return
        index = np.flatnonzero(good)
        index = index[:: _step(len(index), self.image.shape[1])]
        registration = self.significance.ravel()[index]
        tells_photons = (
            self.source is not None and self.options.gain is None and self.sci.variance is None
            and _count_regions(self.source[1] > _QUIET * self.flux_err) >= _MIN_SOURCES
        )  # fmt: skip
        maps = (self.image, self.noise, 0.0), (self.flux, self.flux_err, registration)
        for number, (values, variance, extra) in enumerate(maps):
            sample, known = values.ravel()[index].astype(np.float64), variance.ravel()[index]
            if self.source is None:
                values -= np.float32(np.median(sample))
                continue
            source = self.source[number]
            light = source.ravel()[index]
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
                new = np.where(values > _SIGNIFICANT * np.sqrt(variance), values, np.float32(0))
                variance += np.float32(linear * self.photons[number]) * new
        self.significance += self.flux_err
        np.sqrt(self.significance, out=self.significance)
        np.divide(self.flux, self.significance, out=self.significance)
        np.sqrt(self.noise, out=self.noise)
        np.sqrt(self.flux_err, out=self.flux_err)
        self.noise[self.blank] = np.nan
        for map_ in (self.significance, self.flux, self.flux_err):
            map_[~good] = np.nan


def _count_regions(where: NDArray[np.bool_]) -> int:
    from scipy import ndimage

    return int(ndimage.label(where)[1])


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
    from scipy.optimize import nnls

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
    found, _ = nnls(design / norm, np.array(values))
    return np.float32(found[0] / norm[0]), np.float32(found[1] / norm[1])


# ------------------------------------------------------------------------ filters


def _transfer(kernel: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.complex64]:
    """Real transform on `shape` of a kernel whose middle pixel goes to the origin."""
    from scipy import fft

    half_y, half_x = kernel.shape[0] // 2, kernel.shape[1] // 2
    rows = fft.rfft(np.asarray(kernel, np.float32), n=shape[1], axis=1)
    rows *= np.exp(2j * np.pi * half_x / shape[1] * np.arange(rows.shape[1])).astype(np.complex64)
    padded = np.zeros((shape[0], rows.shape[1]), np.complex64)
    padded[: kernel.shape[0] - half_y] = rows[half_y:]
    padded[shape[0] - half_y :] = rows[:half_y]
    return fft.fft(padded, axis=0, overwrite_x=True)


class _Filters:
    """Transforms, on one shape, of what N and R go through, and of P_D."""

    def __init__(
        self, psf_r: Any, psf_n: Any, sigma_r: float, sigma_n: float, a: float,
        shape: tuple[int, ...],
    ):  # fmt: skip
        self.shape = shape
        ref, sci = _transfer(psf_r, shape), _transfer(psf_n, shape)
        # Relative to the white variance; the floor keeps 0 / 0 out, far below what is seen.
        white = sigma_n**2 + a**2 * sigma_r**2
        part = np.float32(sigma_n**2 / white)
        weight = part * (ref.real**2 + ref.imag**2)
        weight += (1 - part) * (sci.real**2 + sci.imag**2)
        weight += np.float32(1e-13)
        np.sqrt(weight, out=weight)
        np.reciprocal(weight, out=weight)
        self.psf = ref * sci
        self.psf *= weight
        ref *= weight
        sci *= weight * np.float32(a)
        self.sci, self.ref = ref, sci  # N goes through the PSF of R, and R through that of N

    def energy(self) -> float:
        """Sum of P_D²."""
        return float((self._real(self.psf) ** 2).sum())

    def kernels(self, energy: float) -> list[NDArray[np.float32]]:
        """Filters from N and R to D, then to the flux, middle pixel in the middle."""
        match = np.conj(self.psf) * np.float32(1 / energy)
        return [self._real(each) for each in
                (self.sci, self.ref, self.sci * match, self.ref * match)]  # fmt: skip

    def difference_psf(self, size: int) -> NDArray[np.float64]:
        """P_D in size x size pixels."""
        psf = self._real(self.psf).astype(np.float64)
        middle, half = psf.shape[0] // 2, size // 2
        psf = psf[middle - half : middle + half + 1, middle - half : middle + half + 1]
        return psf / psf.sum()

    def photons(self, kernels: Sequence[NDArray[Any]], psf: Any) -> NDArray[np.float64]:
        """Of a source in N, its light through the squared filters: to D, relative to the light
        of the pixel, and to the flux, relative to the flux.
        """
        through = _transfer(kernels[2] ** 2, self.shape) * _transfer(psf, self.shape)
        middle = self.shape[0] // 2
        return np.array([(kernels[0] ** 2).sum(), self._real(through)[middle, middle]])

    def _real(self, transform: NDArray[Any]) -> NDArray[np.float32]:
        from scipy import fft

        return np.fft.fftshift(fft.irfft2(transform, s=self.shape))


class _Space:
    """Fourier space of a tile that overlaps its neighbours by `reach` pixels."""

    def __init__(self, tile: _Tile, reach: int):
        self.shape = tuple(_fast_length(n + 2 * reach) for n in tile.shape)
        self.window = tuple(slice(reach, reach + n) for n in tile.shape)
        self.rows, self.columns = (
            np.arange(n) + begin - reach
            for n, begin in zip(self.shape, (tile.y0, tile.x0), strict=True)
        )

    def cut(self, image: NDArray[Any]) -> NDArray[Any]:
        """The tile and what surrounds it; mirrored beyond the frame."""
        ny, nx = image.shape
        rows, columns = _mirrored(self.rows, ny), _mirrored(self.columns, nx)
        return image.take(rows, axis=0).take(columns, axis=1)

    def beyond(self, image: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Which of these pixels are beyond the frame; None for nowhere."""
        rows, columns = (
            (index < 0) | (index >= n)
            for index, n in zip((self.rows, self.columns), image.shape, strict=True)
        )
        return rows[:, None] | columns if rows.any() or columns.any() else None

    def forward(self, image: NDArray[np.float32]) -> NDArray[np.complex64]:
        """Transform; the image may be lost."""
        from scipy import fft

        return fft.rfft2(image, overwrite_x=True)

    def back_all(self, transform: NDArray[np.complex64]) -> NDArray[np.float32]:
        """Image of the tile and what surrounds it; the transform may be lost."""
        from scipy import fft

        return fft.irfft2(transform, s=self.shape, overwrite_x=True)

    def back(self, transform: NDArray[np.complex64]) -> NDArray[np.float32]:
        """Image of the tile; the transform may be lost."""
        return self.back_all(transform)[self.window]


def _fast_length(n: int) -> int:
    from scipy import fft

    return fft.next_fast_len(n, real=True)


def _mirrored(index: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Indices mirrored at the edges of range(n)."""
    index = np.mod(index, 2 * n)
    return np.minimum(index, 2 * n - 1 - index)


def _local_sigma(image: _Image, tile: _Tile) -> float:
    if image.variance is None:
        return image.sigma
    part = image.variance[tile.inside][~image.blank[tile.inside]]
    sigma = float(np.sqrt(np.median(part))) if len(part) else image.sigma
    return sigma if sigma > 0 else image.sigma


def _extra_variance(
    image: _Image, space: _Space, sigma: float, gain: float | None
) -> NDArray[np.float32] | None:
    """Variance above sigma²; None where nothing is known of it."""
    if image.variance is not None:
        extra = space.cut(image.variance).astype(np.float32) - np.float32(sigma**2)
        return np.where(space.cut(image.blank) | ~np.isfinite(extra), np.float32(0), extra)
    if gain is not None:
        light = space.cut(image.data)
        return np.where(light > np.float32(3 * sigma), light / np.float32(gain), np.float32(0))
    return None


def _signal(image: _Image, space: _Space) -> NDArray[np.float32]:
    """The image; beyond the frame sources are mirrored, but not the noise: it would count twice."""
    signal, beyond = space.cut(image.data), space.beyond(image.data)
    if beyond is not None:
        np.copyto(
            signal, 0, where=beyond & (np.abs(signal) < np.float32(_SIGNIFICANT * image.sigma))
        )
    return signal


def _unknown(ref: _Image, sci: _Image, space: _Space) -> NDArray[np.bool_] | None:
    """Pixels that were filled in, or are beyond the frame; None for nowhere."""
    unknown = space.cut(ref.blank) | space.cut(sci.blank)
    beyond = space.beyond(ref.data)
    if beyond is not None:
        unknown |= beyond
    return unknown if unknown.any() else None


# ------------------------------------------------------------------------ stars of a pair


@dataclasses.dataclass
class _Pair:
    """Stars that both images show."""

    ref: Stars
    sci: Stars

    def __post_init__(self) -> None:
        self.dx, self.dy = self.ref.x - self.sci.x, self.ref.y - self.sci.y


def _match(ref: _Image, sci: _Image) -> _Pair:
    """Nearest neighbours within a FWHM."""
    from scipy.spatial import cKDTree

    a, b = ref.find_stars(), sci.find_stars()
    if not (len(a.x) and len(b.x)):
        return _Pair(a.take(slice(0)), b.take(slice(0)))
    reach = max(2.0, 0.7 * max(fwhm_of(a), fwhm_of(b)))
    distance, nearest = cKDTree(np.column_stack([a.x, a.y])).query(np.column_stack([b.x, b.y]))
    _, first = np.unique(np.where(distance < reach, nearest, -1), return_index=True)
    first = first[distance[first] < reach]
    first = first[np.lexsort((-b.flux[first], ~b.isolated[first]))]
    return _Pair(a.take(nearest[first]), b.take(first))


def _registration_error(delta: Any, error: Any, flux: Any) -> float:
    """Scatter of offsets (2, n) beyond the `error` from the sky and the stars' own noise.

    The latter falls with the flux: what is left for infinite flux is the registration's. By
    medians over groups of stars of like flux, so that a few moving or blended ones do not count.
    """
    from scipy.optimize import nnls

    order = np.argsort(flux)
    rows, values = [], []
    for part in np.array_split(order, np.clip(len(order) // 8, 1, 10)):
        scatter = (1.4826 * np.median(np.abs(delta[:, part]))) ** 2
        expected = np.median(error[part]) ** 2
        weight = np.sqrt(len(part)) / max(scatter, expected, 1e-12)
        rows.append([weight, weight * flux[order[-1]] / np.median(flux[part])])
        values.append(weight * (scatter - expected))
    design = np.array(rows) if len(rows) > 2 else np.array(rows)[:, :1]
    variance = nnls(design, np.array(values))[0][0]
    # A squared median of 2 n values has an error of 1.6 / sqrt(n): below twice that it is chance.
    chance = 1.6 * np.sqrt(np.linalg.pinv(design.T @ design)[0, 0])
    return float(np.sqrt(variance)) if variance > 2 * chance else 0.0


def _near(stars: Stars, tile: _Tile) -> NDArray[np.int64]:
    """Indices of the stars in and around the tile, or the nearest ones, in their own order."""
    (ny, nx), y, x = tile.shape, (tile.y0 + tile.y1 - 1) / 2, (tile.x0 + tile.x1 - 1) / 2
    distance = np.maximum(np.abs(stars.y - y) / ny, np.abs(stars.x - x) / nx)
    n = max(np.count_nonzero(distance < 0.6), min(_STARS_OF_A_PSF, len(distance)))
    return np.sort(np.argsort(distance, kind="stable")[:n])


def _tile_of(tiles: Sequence[_Tile], stars: Stars) -> NDArray[np.int64]:
    """Index of the tile that each star is in."""
    ys, xs = (sorted({getattr(t, name) for t in tiles}) for name in ("y0", "x0"))
    row, column = (
        np.maximum(np.searchsorted(begins, np.round(place), side="right") - 1, 0)
        for begins, place in ((ys, stars.y), (xs, stars.x))
    )
    return row * len(xs) + column


def _centre(psf: NDArray[np.float64]) -> NDArray[np.float64]:
    """(x, y) of a PSF from its middle pixel, as positions of stars are measured."""
    _, dx, dy, _ = adaptive_moments(psf[None], 1.5)
    return np.array([dx[0], dy[0]])


def _shift(psf: NDArray[np.float64], shift: tuple[float, float]) -> NDArray[np.float64]:
    """The PSF moved by `shift` (x, y)."""
    if not any(shift):
        return psf
    x, y = (shift_matrix(np.array([-each]), psf.shape[0])[0] for each in shift)
    padded = np.pad(psf, (x.shape[1] - x.shape[0]) // 2)
    moved = y @ padded @ x.T
    return moved / moved.sum()


def _fit_scale(
    ref: _Image, sci: _Image, pair: _Pair, tiles: Sequence[_Tile], psfs: Any
) -> tuple[float, int]:
    """Scale, and the stars that it rests on, of the images each seen through the other's PSF.

    There both have the same PSF: (N through P_r) = a (R through P_n) in the core of every star.
    """
    core = 2
    best = np.argsort(-np.minimum(pair.ref.snr, pair.sci.snr), kind="stable")[:_SCALE_STARS]
    x, y = pair.sci.x[best], pair.sci.y[best]
    which = _tile_of(tiles, pair.sci.take(best))
    slopes, errors = [], []
    for t in np.unique(which):
        seen, clean = [], True
        for image, psf in ((sci, psfs[t][0]), (ref, psfs[t][1])):
            half = psf.shape[0] // 2 + core
            stamps, _ = cut_stamps(image.data, x[which == t], y[which == t], half)
            dirty, _ = cut_stamps(image.blank, x[which == t], y[which == t], half)
            view = np.lib.stride_tricks.sliding_window_view(stamps, psf.shape, axis=(1, 2))
            seen.append(np.tensordot(view, psf[::-1, ::-1].astype(np.float32), axes=2))
            clean = clean & ~dirty.any((1, 2))
        n, r = (each[clean].reshape(np.count_nonzero(clean), -1) for each in seen)
        square = (r**2).sum(1)
        slope = (n * r).sum(1) / np.maximum(square, 1e-30)
        psf_r, psf_n = psfs[t]
        noise = sci.sigma**2 * (psf_r**2).sum() + slope**2 * ref.sigma**2 * (psf_n**2).sum()
        slopes.append(slope)
        errors.append(np.sqrt(noise / np.maximum(square / r.shape[1], 1e-30)))
    slope, error = np.concatenate(slopes), np.concatenate(errors)
    use = slope > 0
    if use.sum() < _MIN_MATCHED:
        return 1.0, 0
    scale = float(np.median(slope[use]))
    for _ in range(4):
        total = np.hypot(error, _SCALE_ERROR * scale)
        pull = (slope - scale) / total
        spread = max(1.0, 1.4826 * float(np.median(np.abs(pull[use]))))
        use = np.abs(pull) < 3 * spread
        if not use.any():
            return 1.0, 0
        scale = float(np.average(slope[use], weights=total[use] ** -2))
    return scale, int(use.sum())


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
