r"""Difference after the sharper image is convolved to the PSF of the other.

With R the sharper and T the broader image of a pair, the kernel K and the background b that
minimise

    sum over stamps of  (T - K * R - b)^2 / variance

make the difference, in counts of the science image

    D = S - K * R - b               if the reference is convolved (T = S),
    D = (K * S + b - R) / sum K     if the science image is (T is the reference).

K is a sum of basis functions (`matching_kernel`). Coefficients are polynomials of the place in the
frame (Alard 2000, A&AS 144, 363); one basis function carries the sum of the kernel and all others
have sum zero, so that the photometric scale is constant, or a polynomial of an order of its own.
`kernel_fit` finds them, `matched` makes the difference, its noise and the fluxes with them.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdiff.difference.options import check_psfs
from fastdiff.kernels.image import tile
from fastdiff.matching.apply import NoFit, calibrate, load
from fastdiff.matching.fit import STAMPS, Options, match
from fastdiff.matching.kernel import MAX_ORDER, MatchingKernel
from fastdiff.stars.find import ASSUMED_FWHM

if TYPE_CHECKING:
    from fastdiff.matching.frames import Frames

__all__ = ["MatchingKernel", "subtract"]


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
    comes without one has that of its sky, and for the photon noise of its stars a multiple of
    the matched signal is added, with which the residuals of the fitted stars are what they
    should be. Where no variance came at all the sum is scaled, tile by tile, to the noise that
    the difference shows. The errors of the map of fluxes are scaled to what the map shows in any
    case, but never below what the variances say: the noise of resampled images is correlated.

    A fit makes m (m + 1) / 2 sums over the pixels of each stamp, m the number of functions: 23 for
    Gaussians, size^2 + 1 for single pixels, which is 122 for a kernel of 11 x 11 and so 28 times
    the sums. Together with the rest, which does not depend on the basis, single pixels take about
    twice as long at 11 x 11 and six times as long at 15 x 15.

    Pixels of CuPy arrays are worked on where they lie, one pair after the other, and the maps are
    CuPy's; kernels and PSFs are NumPy's in any case. To the memory of the CPU come the images and
    their masks, once each, in which stars are looked for; the normal equations of the stamps; each
    difference, which tells its background; and every fourth pixel of it, of the map of fluxes and
    of the variances of both, which are scaled by them.
    """
    n, ny, nx = frames.scis.shape
    host = frames.on_host()
    options = _check_options(
        basis, kernel_order, background_order, scale_order, convolve, kernel_size, fit, stamps,
        regularisation, max_iterations, decorrelate, significance,
        _one_psf_each("ref_psfs", ref_psfs, frames.scis.shape),
        _one_psf_each("sci_psfs", sci_psfs, frames.scis.shape),
    )  # fmt: skip
    seconds = dict.fromkeys(("measure", "stars", "fit", "difference", "significance"), 0.0)
    begun = time.perf_counter()
    origins, shape = tile.plan_tiles(ny, nx)
    stats = tile.measure_tiles(
        host.refs, host.scis, host.bad_refs, host.bad_scis, origins, shape, frames.threads
    )
    seconds["measure"] = time.perf_counter() - begun
    across = max(1, min(frames.threads, n))
    maps = {}
    if significance:
        maps = {
            name: np.full_like(frames.image, np.nan)
            for name in ("significance", "flux", "flux_err")
        }

    def one(i: int) -> dict[str, Any]:
        own = {name: each[i] for name, each in maps.items()}
        threads = max(1, frames.threads // across)
        try:
            return _subtract_one(frames, host, i, stats[i], options, own, threads)
        except NoFit as reason:
            frames.note(i, f"no difference: {reason}")
            frames.image[i] = frames.noise[i] = np.nan
            return {}

    found = []
    with ThreadPoolExecutor(across, thread_name_prefix="fastdiff-psfmatch") as pool:
        # One after the other in this thread: the device and the stream of a GPU belong to it.
        for result in (pool.map if across > 1 else map)(one, range(n)):
            found.append(result)
            frames.progress(len(found), n)
            for name, value in result.get("seconds", {}).items():
                seconds[name] += float(value) / across
    frames.extras |= {**maps, "kernel": [each.get("kernel") for each in found]}
    if significance:
        frames.extras["psf"] = [each.get("psf", np.full((1, 1), np.nan)) for each in found]
    return {
        "convolved": [each["kernel"].convolved if each else None for each in found],
        "fwhm": np.array([each.get("fwhm", (np.nan, np.nan)) for each in found]),
        "stamps": np.array([each.get("stamps", 0) for each in found]),
        "scale": np.array([each.get("scale", np.nan) for each in found], np.float32),
        "sky": np.median(stats[:, :, 2], axis=1),
        "sky_noise": np.median(stats[:, :, 3], axis=1),
        "pixel_threshold": 3.0,
        "noise_free": False,
        "seconds": seconds,
    }


# ------------------------------------------------------------------------ one pair


def _subtract_one(
    frames: Frames,
    host: Frames,
    i: int,
    stats: NDArray[np.float64],
    options: Options,
    maps: dict[str, NDArray[np.float32]],
    threads: int,
) -> dict[str, Any]:
    """Image and noise of pair i in place; what is to be told about it."""
    times = [time.perf_counter()]
    ref = load("ref", frames, host, i, stats[:, :2], options.ref_psfs, threads)
    sci = load("sci", frames, host, i, stats[:, 2:], options.sci_psfs, threads)
    if (ref.bad | sci.bad).all():
        raise NoFit("no pixel is good in both images")
    times.append(time.perf_counter())
    pair, how = match(ref, sci, options, threads)
    if how == "none":
        frames.note(i, "no source bright enough to fit a kernel: a kernel of 1 assumed")
    elif how != options.fit and how == "all":
        frames.note(i, "few stars: the kernel was fitted to all pixels")
    if how != "none" and pair.order < options.kernel_order:
        frames.note(i, f"kernel_order {pair.order}: more needs more sources to fit")
    times.append(time.perf_counter())
    difference, noise = frames.image[i], frames.noise[i]
    pair.difference(difference, noise)
    if options.decorrelate:
        pair.decorrelate(difference, noise)
    if pair.measured:
        calibrate(difference, noise)
    times.append(time.perf_counter())
    result = {
        "kernel": pair.kernel,
        "scale": pair.kernel.scale(*pair.middle),
        "fwhm": (ref.fwhm, sci.fwhm),
        "stamps": pair.n_stamps,
    }
    if options.significance:
        try:
            result["psf"], assumed = pair.psf(options.decorrelate)
        except ValueError as reason:
            frames.note(i, f"no significance: {reason}")
        else:
            if assumed:
                frames.note(
                    i,
                    f"no star shows the PSF: one of {ASSUMED_FWHM} pixels FWHM is assumed, before "
                    "the kernel; give `ref_psfs` or `sci_psfs`",
                )
            flux, flux_err = maps["flux"], maps["flux_err"]
            pair.point_sources(
                difference, noise, result["psf"], options.decorrelate, flux, flux_err
            )
            # Variances that came say nothing of how the noise of resampled pixels correlates.
            calibrate(flux, flux_err, 0.0 if pair.measured else 1.0)
            np.sqrt(flux_err, out=flux_err)
            with np.errstate(divide="ignore", invalid="ignore"):
                np.divide(flux, flux_err, out=maps["significance"])
            np.copyto(maps["significance"], np.nan, where=~(flux_err > 0))
        times.append(time.perf_counter())
    np.sqrt(noise, out=noise)
    names = ("stars", "fit", "difference", "significance")
    result["seconds"] = dict(zip(names, np.diff(times), strict=False))
    return result


# ------------------------------------------------------------------------ what is asked for


def _check_options(*values: Any) -> Options:
    options = Options(*values)
    choices = {
        "basis": ("gaussian", "delta"),
        "convolve": ("auto", "ref", "sci"),
        "fit": ("auto", "stars", "all"),
    }
    for name, known in choices.items():
        value = getattr(options, name)
        if value not in known:
            raise ValueError(
                f"{name} is {value!r}; it must be one of {', '.join(map(repr, known))}"
            )
    for name in ("kernel_order", "background_order", "scale_order"):
        value = _whole(name, getattr(options, name))
        if not 0 <= value <= MAX_ORDER:
            raise ValueError(f"{name} is {value}; it must be 0 to {MAX_ORDER}")
    for name, least in (("stamps", 1), ("max_iterations", 0)):
        value = _whole(name, getattr(options, name))
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    size = options.kernel_size
    if size is not None and (_whole("kernel_size", size) < 3 or size % 2 == 0):
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


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be a whole number")
    return int(value)
