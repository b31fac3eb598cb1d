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

A frame is worked on in tiles that overlap, each with its own PSFs (`psfs`). Nothing but the
overlap is lost: the filters have no reach beyond it that could be seen.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from fastdiff.core import arrays
from fastdiff.core.clock import Clock
from fastdiff.core.threads import ordered_map
from fastdiff.difference.options import check_psfs, check_scale
from fastdiff.matching.frames import Frames

from .options import ZogyOptions, check_astrometric_noise, check_gain, check_size, plan
from .pair import MAPS, ZogyPair
from .tiles import prepare

__all__ = ["subtract"]


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
        photons that no `gain` told of or from PSFs that differ; and measure fluxes by the filter
        that suits the spectrum of that noise (`zogy.noise.measure_again`), which is P_D where D is
        white. False takes the noise of the sky, `gain` and the variances as they are, and P_D.

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
    options = _check_options(
        frames, tile, ref_psfs=ref_psfs, sci_psfs=sci_psfs, psf_size=psf_size, scale=scale,
        gain=gain, astrometric_noise=astrometric_noise, calibrate=calibrate,
    )  # fmt: skip
    xp = arrays.namespace(frames.image)
    for name in MAPS:
        frames.extras[name] = xp.empty_like(frames.image)
    n = len(frames.scis)
    shared = None
    clock = Clock()
    if len(frames.refs) == 1 and n > 1:
        shared = prepare(frames.refs, frames.bad_refs, frames.ref_variances, 0)
        if options.wants_stars:
            shared.find_stars()
    pairs = [ZogyPair(frames, options, i, shared, clock) for i in range(n)]
    inside, across = (frames.threads, 1) if n == 1 else (1, min(frames.threads, n))
    done = 0
    for _ in ordered_map(lambda pair: pair.run(inside), pairs, across):
        done += len(options.tiles)
        frames.progress(done, n * len(options.tiles))
    failed = [pair.error for pair in pairs if pair.error is not None]
    if failed and len(failed) == n:
        raise failed[0]
    for pair in pairs:
        for text in pair.notes:
            frames.note(pair.i, text)
    frames.extras["psf"] = [pair.psf for pair in pairs]
    return _meta(pairs, options) | {"seconds": clock.seconds}


def _check_options(frames: Frames, tile: Any, **given: Any) -> ZogyOptions:
    n, ny, nx = frames.scis.shape
    psfs = {name: check_psfs(name, given[name], (n, ny, nx)) for name in ("ref_psfs", "sci_psfs")}
    size = check_size(given["psf_size"], min(ny, nx))
    scale = None if given["scale"] is None else check_scale(given["scale"], n)
    gain = check_gain(given["gain"])
    noise = check_astrometric_noise(given["astrometric_noise"])
    return ZogyOptions(
        **psfs, psf_size=size, tiles=plan(ny, nx, tile, psfs), scale=scale, gain=gain,
        astrometric_noise=noise, calibrate=bool(given["calibrate"]),
    )  # fmt: skip


def _meta(pairs: list[ZogyPair], options: ZogyOptions) -> dict[str, Any]:
    """What the method adds to ``Difference.meta``, one value a pair."""
    return {
        "pixel_threshold": 3.0,
        "noise_free": False,
        "scale": np.array([pair.scale for pair in pairs], np.float32),
        "scale_boxes": np.array([pair.n_scale for pair in pairs]),
        "sky": np.array([pair.sky for pair in pairs]),
        "sky_noise": np.array([pair.sky_noise for pair in pairs]),
        "astrometric_noise": np.array([pair.astrometric_noise for pair in pairs]),
        "noise_factor": np.array([pair.noise_factor for pair in pairs]),
        "n_stars": np.array([pair.n_stars for pair in pairs]),
        "tile": options.tiles[0].shape,
        "n_tiles": len(options.tiles),
    }
