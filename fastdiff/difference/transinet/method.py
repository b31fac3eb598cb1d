"""The network method: normalise, cut tiles, run, stitch, back to counts.

Sedaghat & Mahabal 2018 (MNRAS 476, 5365): a convolutional network looks at reference and
science image and paints only what changed, so that neither PSF matching nor an artefact filter
is needed. Here it sees tiles in units of their own noise (`fastdiff.kernels.image.tile`), so
that one network serves any detector, sky level and photometric scale, and beside them what two
fitted kernels leave of the difference (`fastdiff.kernels.image.match`): that is arithmetic, not
worth learning.

For images on a GPU all work on pixels is done there; the network runs on the back end of its model,
which may be the CPU (`run_network`).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdiff.core.clock import Clock
from fastdiff.core.options import whole_number
from fastdiff.core.progress import silent
from fastdiff.difference.options import check_scale
from fastdiff.difference.psfmatch import method as psfmatch
from fastdiff.kernels.image.blocks import photometric_scale
from fastdiff.kernels.image.measure import SIGMA_REF, SIGMA_SCI, measure_tiles
from fastdiff.kernels.image.pixels import Pixels
from fastdiff.kernels.image.plan import plan_tiles
from fastdiff.kernels.image.tile import blank_image
from fastdiff.matching.frames import Frames

from .network import SYMMETRIES, SymmetryGroup, load_network
from .noise import estimate_noise
from .tiles import TransinetTiles, run_tiles

if TYPE_CHECKING:
    import os

    from fastdiff.models.model import Model

__all__ = ["subtract"]

_OVERLAP = 32  # pixels that neighbouring tiles share


def subtract(
    frames: Frames,
    *,
    model: str | os.PathLike[str] | Model = "transinet-lite",
    backend: str = "auto",
    symmetry: SymmetryGroup = None,
    gain: float | None = None,
    scale: float | ArrayLike | None = None,
    tile: int = 256,
    measure: bool = True,
    ref_psfs: ArrayLike | None = None,
    sci_psfs: ArrayLike | None = None,
) -> dict[str, Any]:
    """Fill ``frames.image`` and ``frames.noise``; see `fastdiff.subtract_batch`.

    Parameters
    ----------
    frames : Frames
    model : str, path or Model
        A name, an ONNX file, or what `fastdiff.load_model` gave.
    backend : str
        As of `fastdiff.load_model`.
    symmetry : None, "cyclic" or "dihedral"
        Average the network over quarter turns, and over their mirror images.
    gain : float, optional
        Electrons per count: adds the photon noise of sources to ``frames.noise``.
    scale : float or array_like (n,), optional
        Flux in sci over flux in ref; measured by default.
    tile : int
        Largest side of the tiles in pixels.
    measure : bool
        Also match the PSFs as "psf-match" does and fill its maps of point sources, by which
        `fastdiff.find_transients` then measures what the network found: a network is good at
        saying where, arithmetic at saying how much. Without them half of the time is saved, and
        fluxes are sums of what the network painted.
    ref_psfs, sci_psfs : array_like, optional
        For the measurement, as of "psf-match".

    Returns
    -------
    dict
        What the method adds to ``Difference.meta``.
    """
    if symmetry not in SYMMETRIES:
        raise ValueError(f"symmetry is {symmetry!r}; it must be None, 'cyclic' or 'dihedral'")
    if gain is not None and not gain > 0:
        raise ValueError(f"gain is {gain}; it must be positive (electrons per count), or None")
    tile = whole_number("tile", tile, unit="pixels")
    network = load_network(model, backend)
    _, ny, nx = frames.scis.shape
    clock = Clock()
    stride = int(network.metadata.get("fastdiff.stride", 16))
    origins, shape = plan_tiles(ny, nx, tile, min(_OVERLAP, tile // 4), stride)
    pixels = Pixels(frames.refs, frames.scis, frames.bad_refs, frames.bad_scis).with_masks()
    stats = measure_tiles(pixels, origins, shape, frames.threads)
    clock.stop("measure")
    if scale is None:
        scales, n_used = photometric_scale(pixels, origins, shape, stats, frames.threads)
    else:
        scales = check_scale(scale, len(frames.scis))
        n_used = np.full(len(scales), -1)
    clock.stop("scale")
    tiles = TransinetTiles(frames, pixels, origins, shape, stats, scales)
    blank_image(pixels, frames.image, frames.threads)
    todo = _informative(frames, stats)
    run_tiles(tiles, network, symmetry, todo)
    clock.stop("network")
    sky, noise = estimate_noise(tiles, gain)
    clock.stop("noise")
    if measure:
        matched = _measure(frames, ref_psfs, sci_psfs)
        clock.stop("measurement")
    for i in todo[n_used[todo] == 0]:
        frames.note(i, "no source bright enough to measure the photometric scale: 1 assumed")
    return {
        "model": network.name,
        "backend": network.backend,
        "pixel_threshold": float(network.metadata.get("fastdiff.pixel_threshold", 0.5)),
        "noise_free": True,
        "symmetry": symmetry,
        "scale": scales,
        "scale_boxes": n_used,
        "sky": sky,
        "sky_noise": noise,
        "tile": shape,
        "n_tiles": len(origins),
        "seconds": clock.seconds,
    } | (matched if measure else {})


def _measure(
    frames: Frames, ref_psfs: ArrayLike | None, sci_psfs: ArrayLike | None
) -> dict[str, Any]:
    """Maps of point sources of the PSF-matched difference, in ``frames.extras``."""
    matched = dataclasses.replace(
        frames,
        image=np.empty_like(frames.image),
        noise=np.empty_like(frames.noise),
        notes={},
        progress=silent,
    )
    meta = psfmatch.subtract(matched, ref_psfs=ref_psfs, sci_psfs=sci_psfs)
    for i, notes in matched.notes.items():
        for text in notes:
            if not text.startswith("no difference"):  # for reasons that are noted already
                frames.note(i, text)
    return {name: meta[name] for name in ("convolved", "fwhm", "stamps")}


def _informative(frames: Frames, stats: NDArray[np.float64]) -> NDArray[np.int64]:
    """Frames that the network must see; the others are left at 0, and noted."""
    todo = []
    no_noise_ref, no_noise_sci = (
        np.logical_not(stats[:, :, column].any(1)) for column in (SIGMA_REF, SIGMA_SCI)
    )
    for i in range(len(frames.scis)):
        if no_noise_sci[i] or no_noise_ref[i]:
            if np.isnan(frames.image[i]).all():
                frames.note(i, "no pixel is good in both images")
                continue
            good = ~np.isnan(frames.image[i])
            ref = frames.refs[min(i, len(frames.refs) - 1)][good]
            if ref.min() == ref.max():
                frames.note(i, "the reference is constant")
            sci = frames.scis[i][good]
            if sci.min() == sci.max():
                frames.note(i, "the science image is constant: its difference is set to 0")
                continue
        todo.append(i)
    return np.array(todo, dtype=np.int64)
