r"""Difference after the sharper image is convolved to the PSF of the other.

With R the sharper and T the broader image of a pair, the kernel K and the background b that
minimise

    sum over stamps of  (T - K * R - b)^2 / variance

make the difference, in counts of the science image

    D = S - K * R - b               if the reference is convolved (T = S),
    D = (K * S + b - R) / sum K     if the science image is (T is the reference).

K is a sum of basis functions (`fastdiff.matching.basis`). Coefficients are polynomials of the place
in the frame (Alard 2000, A&AS 144, 363); one basis function carries the sum of the kernel and all
others have sum zero, so that the photometric scale is constant, or a polynomial of an order of its
own.
`fastdiff.matching.fit` finds them; `fastdiff.matching.apply` makes the difference, its noise and
the fluxes with them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdiff.core.clock import Clock
from fastdiff.core.options import one_of, whole_number
from fastdiff.core.threads import ordered_map
from fastdiff.difference.options import check_psfs
from fastdiff.kernels.image.measure import SIGMA_SCI, SKY_SCI, measure_tiles
from fastdiff.kernels.image.plan import plan_tiles
from fastdiff.matching.apply import MatchedPair
from fastdiff.matching.basis import MAX_ORDER
from fastdiff.matching.fit import STAMPS, PsfMatchOptions, match
from fastdiff.matching.frames import Frames
from fastdiff.matching.images import NoFit, load_image
from fastdiff.matching.kernel import MatchingKernel
from fastdiff.matching.noise import calibrate
from fastdiff.matching.sources import find_filter, point_sources, systematic_error
from fastdiff.stars.psf import ASSUMED_FWHM

__all__ = ["MatchingKernel", "subtract"]

_SKY_TILE, _SKY_TILES = 64, 65  # pixels a side; about how many (odd: no column of tiles alone)
MAPS = ("significance", "flux", "flux_err", "systematic")
"""Of point sources at each pixel, where `significance` is asked for."""


def subtract(
    frames: Frames,
    *,
    basis: Literal["gaussian", "delta"] = "gaussian",
    kernel_order: int = 2,
    background_order: int = 1,
    scale_order: int = 0,
    convolve: Literal["auto", "ref", "sci"] = "auto",
    kernel_size: int | None = None,
    fit: Literal["auto", "stars", "all"] = "auto",
    stamps: int = STAMPS,
    regularisation: float = 1e-3,
    max_iterations: int = 5,
    decorrelate: bool = False,
    significance: bool = True,
    ref_psfs: ArrayLike | None = None,
    sci_psfs: ArrayLike | None = None,
) -> dict[str, Any]:
    r"""Fill ``frames.image`` and ``frames.noise``; see `fastdiff.subtract_batch`.

    Parameters
    ----------
    frames : Frames
    basis : {"gaussian", "delta"}
        Kernels of Gaussians times polynomials, or of single pixels.
    kernel_order, background_order, scale_order : int, 0 to 3
        Order of the polynomial in x and y that the shape of the kernel, the difference of the
        skies, and the photometric scale follow. Lowered, with a note, where there are fewer than
        4 stars (or other stamps with a source) for each of its terms.
    convolve : {"auto", "ref", "sci"}
        Image that is convolved; by default the one with the narrower stars.
    kernel_size : int, optional
        Side of the kernel in pixels, odd. By default from the widths of the stars, up to 15 for
        single pixels: their cost grows with the 4th to 6th power of it.
    fit : {"auto", "stars", "all"}
        Fit stamps about the stars of the reference, or all good pixels, which needs no stars
        (galaxies do) and costs more. By default stars where there are at least 8, else all
        pixels; where these show nothing that both images have, a kernel of 1 is assumed, noted.
    stamps : int
        Most stars that are fitted.
    regularisation : float
        Strength of the smoothness of kernels of single pixels, relative to the data.
    max_iterations : int
        How often stamps that do not fit are left out.
    decorrelate : bool
        Whiten the noise, which the convolution correlates.
    significance : bool
        Also make maps of the flux of a point source at each pixel, of its error, and of their
        ratio, the significance, in which `find_transients` then searches. Without them a third
        of the time is saved.
    ref_psfs, sci_psfs : array_like, optional
        PSFs of sum 1, centred on the middle pixel, of odd side k: (k, k) or (n, k, k). They tell
        which image is sharper, how wide the kernel has to be, and what a point source of the
        difference looks like; the kernel itself is fitted all the same. By default measured from
        the stars; where no star shows it, as in a field of galaxies, a round profile of 2.5
        pixels FWHM is assumed for the sharper image, noted.

    Returns
    -------
    dict
        What the method adds to ``Difference.meta``: "convolved" (names), "fwhm" ((n, 2): of ref
        and of sci, pixels), "stamps" ((n,): how many a kernel rests on), "scale", "sky" and
        "sky_noise" (of sci), "pixel_threshold", "noise_free", "seconds".

    Notes
    -----
    The noise is that of the difference, with the variance :math:`V_T + K^2 * V_R`. An image that
    comes without one has that of its sky. Where no variance came at all, the level of the noise and
    the photon noise of the sources are measured on the difference, and the level is scaled to it
    tile by tile. Fluxes of point sources are sums over the filter that suits the spectrum of the
    noise (`fastdiff.matching.spectrum`), and their errors have what matching leaves of other
    sources (`fastdiff.matching.sources`). They too are scaled to what the map shows, but never
    below what the variances say: the noise of resampled images is correlated.

    A fit makes m (m + 1) / 2 sums over the pixels of each stamp, m the number of functions: 23 for
    Gaussians, size^2 + 1 for single pixels, which is 122 for a kernel of 11 x 11 and so 28 times
    the sums. Together with the rest, which does not depend on the basis, single pixels take about
    twice as long at 11 x 11 and six times as long at 15 x 15.

    Pixels of CuPy arrays are worked on where they lie, one pair after the other, and the maps are
    CuPy's; kernels and PSFs are NumPy's in any case. To the memory of the CPU come the images and
    their masks, once each, in which stars are looked for; the normal equations of the stamps; each
    difference twice, which tells its background and the spectrum of its noise; and some pixels of
    it, of the map of fluxes and of the variances of both, which are scaled by them.
    """
    n, ny, nx = frames.scis.shape
    host = frames.on_host()
    options = _check_options(
        basis, kernel_order, background_order, scale_order, convolve, kernel_size, fit, stamps,
        regularisation, max_iterations, decorrelate, significance,
        _one_psf_each("ref_psfs", ref_psfs, frames.scis.shape),
        _one_psf_each("sci_psfs", sci_psfs, frames.scis.shape),
    )  # fmt: skip
    clock = Clock(("measure", "stars", "fit", "difference", "significance"))
    with clock("measure"):
        # Small ones, in which a gradient of the sky is no noise; some of them tell the median.
        origins, shape = plan_tiles(ny, nx, _SKY_TILE, 0)
        origins = origins[:: -(-len(origins) // _SKY_TILES)]
        pixels = host.refs, host.scis, host.bad_refs, host.bad_scis
        stats = measure_tiles(pixels, origins, shape, frames.threads)
    if significance:
        for name in MAPS:
            frames.extras[name] = np.full_like(frames.image, np.nan)
    across = max(1, min(frames.threads, n))

    def one(i: int) -> _Made | None:
        work = _Work(frames, host, i, max(1, frames.threads // across), clock)
        try:
            return _subtract_one(work, stats[i], options)
        except NoFit as reason:
            frames.note(i, f"no difference: {reason}")
            frames.image[i] = frames.noise[i] = np.nan
            return None

    found: list[_Made | None] = []
    # One after the other in this thread where there is one: the device and the stream of a GPU
    # belong to it.
    for result in ordered_map(one, range(n), across):
        found.append(result)
        frames.progress(len(found), n)
    frames.extras["kernel"] = [made and made.kernel for made in found]
    if significance:
        unknown = np.full((1, 1), np.nan)
        frames.extras["psf"] = [unknown if not made else made.psf for made in found]
    seconds = {k: v if k == "measure" else v / across for k, v in clock.seconds.items()}
    return _meta(found, stats) | {"seconds": seconds}


def _meta(found: list[_Made | None], stats: NDArray[np.float64]) -> dict[str, Any]:
    """What the method adds to ``Difference.meta``, one value a pair."""
    return {
        "convolved": [made.kernel.convolved if made else None for made in found],
        "fwhm": np.array([made.fwhm if made else (np.nan, np.nan) for made in found]),
        "stamps": np.array([made.n_stamps if made else 0 for made in found]),
        "scale": np.array([made.scale if made else np.nan for made in found], np.float32),
        "sky": np.median(stats[:, :, SKY_SCI], axis=1),
        "sky_noise": np.median(stats[:, :, SIGMA_SCI], axis=1),
        "pixel_threshold": 3.0,
        "noise_free": False,
    }


# ------------------------------------------------------------------------ one pair


class _Work(NamedTuple):
    """One pair of a batch: `host` are the frames in the memory of the CPU."""

    frames: Frames
    host: Frames
    i: int
    threads: int
    clock: Clock

    def note(self, text: str) -> None:
        """Remember what is unusual about the pair."""
        self.frames.note(self.i, text)


@dataclasses.dataclass
class _Made:
    """What is told about one pair; `psf` (k, k) is that of the difference."""

    kernel: MatchingKernel
    scale: float
    fwhm: tuple[float, float]
    n_stamps: int
    psf: NDArray[np.float64]


def _subtract_one(work: _Work, stats: NDArray[np.float64], options: PsfMatchOptions) -> _Made:
    """Image, noise and maps of a pair in place; what is to be told about it."""
    frames, host, i, threads, clock = work
    with clock("stars"):
        ref = load_image("ref", frames, host, i, stats[:, :SKY_SCI], options.ref_psfs, threads)
        sci = load_image("sci", frames, host, i, stats[:, SKY_SCI:], options.sci_psfs, threads)
        if (ref.bad | sci.bad).all():
            raise NoFit("no pixel is good in both images")
    with clock("fit"):
        pair, how = match(ref, sci, options, threads)
        if how == "none":
            work.note("no source bright enough to fit a kernel: a kernel of 1 assumed")
        elif how != options.fit and how == "all":
            work.note("few stars: the kernel was fitted to all pixels")
        if how != "none" and pair.order < options.kernel_order:
            work.note(f"kernel_order {pair.order}: more needs more sources to fit")
    image, noise = frames.image[i], frames.noise[i]
    with clock("difference"):
        pair.difference(image, noise)
        pair.add_photons(image, noise)
        if options.decorrelate:
            pair.decorrelate(image, noise)
        if pair.measured:
            calibrate(image, noise)
    scale = pair.kernel.scale(*pair.middle)
    made = _Made(pair.kernel, scale, (ref.fwhm, sci.fwhm), pair.n_stamps, np.full((1, 1), np.nan))
    if options.significance:
        with clock("significance"):
            _find_point_sources(work, pair, options, made)
    np.sqrt(noise, out=noise)
    return made


def _find_point_sources(
    work: _Work, pair: MatchedPair, options: PsfMatchOptions, made: _Made
) -> None:
    """Fill the maps of a pair: flux of a point source, its error, and their ratio."""
    made.psf, assumed = pair.psf(options.decorrelate)
    if assumed:
        work.note(
            f"no star shows the PSF: one of {ASSUMED_FWHM} pixels FWHM is assumed, before "
            "the kernel; give `ref_psfs` or `sci_psfs`"
        )
    frames, i = work.frames, work.i
    significance, flux, flux_err, systematic = (frames.extras[name][i] for name in MAPS)
    image, variance = frames.image[i], frames.noise[i]
    filter_ = find_filter(pair, image, variance, made.psf, options.decorrelate)
    point_sources(image, variance, filter_, pair.signal, flux, flux_err, work.threads)
    # Variances that came say nothing of how the noise of resampled pixels correlates.
    calibrate(flux, flux_err, 0.0 if pair.measured else 1.0)
    systematic[:] = systematic_error(
        pair.light_of_both(image), flux, flux_err, filter_,
        photons=pair.measured and not pair.signal, threads=work.threads,
    )  # fmt: skip
    flux_err += systematic**2
    np.sqrt(flux_err, out=flux_err)
    with np.errstate(divide="ignore", invalid="ignore"):
        np.divide(flux, flux_err, out=significance)
    np.copyto(significance, np.nan, where=~(flux_err > 0))


# ------------------------------------------------------------------------ what is asked for


def _check_options(*values: Any) -> PsfMatchOptions:
    options = PsfMatchOptions(*values)
    one_of("basis", options.basis, ("gaussian", "delta"))
    one_of("convolve", options.convolve, ("auto", "ref", "sci"))
    one_of("fit", options.fit, ("auto", "stars", "all"))
    for name in ("kernel_order", "background_order", "scale_order"):
        whole_number(name, getattr(options, name), 0, MAX_ORDER)
    whole_number("stamps", options.stamps, 1)
    whole_number("max_iterations", options.max_iterations, 0)
    size = options.kernel_size
    if size is not None and (whole_number("kernel_size", size) < 3 or size % 2 == 0):
        raise ValueError(f"kernel_size is {size}; it must be an odd number of pixels, 3 or more")
    if not options.regularisation >= 0:
        raise ValueError(f"regularisation is {options.regularisation}; it must be 0 or more")
    return options


def _one_psf_each(
    name: str, psfs: ArrayLike | None, shape: tuple[int, int, int]
) -> NDArray[np.float64] | None:
    """(n or 1, k, k)"""
    checked = check_psfs(name, psfs, shape)
    if checked is None:
        return None
    if checked.shape[1] != 1:
        raise ValueError(
            f"`{name}` has {checked.shape[1]} PSFs an image; method='psf-match' takes one: give "
            "(k, k) or (n, k, k)"
        )
    return checked[:, 0]
