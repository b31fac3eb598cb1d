"""Many pairs of images in, difference images out: one call for every method."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdiff.core import arrays
from fastdiff.core.progress import reporting
from fastdiff.core.threads import check_threads
from fastdiff.core.version import version
from fastdiff.matching.frames import Frames

from .condition import condition
from .inputs import open_batch
from .registry import subtract_of
from .result import LISTS, MAPS, Difference
from .targets import Targets

__all__ = ["Difference", "subtract_batch"]


def subtract_batch(
    refs: ArrayLike,
    scis: ArrayLike,
    *,
    method: str = "transinet",
    ref_masks: ArrayLike | None = None,
    sci_masks: ArrayLike | None = None,
    ref_variances: ArrayLike | None = None,
    sci_variances: ArrayLike | None = None,
    out: Any = None,
    threads: int | None = None,
    progress: bool | Callable[[int, int], Any] = False,
    **options: Any,
) -> Difference:
    """Subtract reference images from science images.

    Parameters
    ----------
    refs, scis : array_like, (n, ny, nx) or (ny, nx)
        Reference and science images in counts on one pixel grid, at least 32 x 32 pixels.
        One reference, (ny, nx) or (1, ny, nx), may serve many science images. NaN and
        infinity mark bad pixels. Integers (uint16 counts too) and any byte order are taken.
        CuPy arrays are taken too, and the work on pixels stays on the GPU. The search for stars
        and for what is wrong with the frames (Notes) sees one copy in the memory of the CPU;
        the network ("transinet")
        runs on the back end of its model, to which tiles are copied where that is the CPU.
    method : {"transinet", "psf-match", "zogy"}
        "transinet": a network that paints what changed, without noise [1]_.
        "psf-match": the sharper image convolved with the kernel that matches its PSF to that
        of the other [2]_, [3]_. "zogy": proper subtraction [4]_.
    ref_masks, sci_masks : array_like of bool, optional
        True at bad pixels; (ny, nx) is for all images.
    ref_variances, sci_variances : array_like, optional
        Variance per pixel in counts squared; (ny, nx) is for all images. Pixels whose
        variance is not finite, or 0 where others are positive, are masked. The science variance
        gives ``.noise``; TransiNet measures the noise that it normalises by from the images
        themselves.
    out : array or Difference, optional
        Where the result goes: a float32 or float64 array for the image, or a whole Difference
        of an earlier call with the same shape.
    threads : int, optional
        CPU threads; all cores by default.
    progress : bool or callable, optional
        True shows a bar; a callable is called with (done, total), counted in tiles.
    **options
        saturation : None, "auto" or number
            Pixels at or above it are masked and remembered as saturated. "auto" (default):
            65535 in uint16 images. In any case but None a plateau in the histogram of the
            brightest pixels, at the flat tops of stars, is taken for saturation too.
        cosmic_rays : bool
            Mask cosmic rays and hot pixels in both images: what is sharper than the PSF that
            the sources of both show. Not where the PSF is less than 2 pixels wide, noted.
        model : str, path or Model
            Network of "transinet": a name, an ONNX file or what `load_model` gave; by default
            "transinet-lite".
        backend : str
            As in `load_model`.
        symmetry : None, "cyclic" or "dihedral"
            Average the network over the 4 quarter turns, or also over their mirror images:
            4 or 8 times the cost.
        gain : float
            Electrons per count (zogy: or a pair, of ref and sci). Adds the Poisson noise of what
            stands above the sky to the estimated noise; not used where variances came.
        scale : number or array_like, (n,)
            Flux of an unchanged source in `scis` over its flux in `refs`, where it is known,
            ``10 ** (0.4 (zero point of sci - zero point of ref))``. Measured by default; not
            an option of psf-match, whose kernel has it.
        tile : int
            Side of the tiles, in pixels; for the network a multiple of its stride.
        measure : bool
            "transinet": also match the PSFs as "psf-match" does, for the maps by which
            `find_transients` measures what the network found. True by default; half of the time.
        ref_psfs, sci_psfs : array_like
            PSFs where they are known, (k, k) or (n, k, k), of sum 1 and odd side k.

        Those of the classical methods are described by
        `fastdiff.difference.psfmatch.method.subtract` (`basis`, `kernel_order`,
        `background_order`, `convolve`, ...) and `fastdiff.difference.zogy.method.subtract`
        (`ref_psfs`, `sci_psfs`, `astrometric_noise`, ...).

    Returns
    -------
    Difference
        Of the type of array that came; (ny, nx) if `scis` was (ny, nx). An empty batch gives
        an empty one. An image without a good pixel is NaN and masked all over; the difference
        of a constant science image is 0; ``.meta["notes"]`` tells.

    Raises
    ------
    TypeError
        If images are complex, boolean or no numbers, if `out` has another dtype, or an option
        is unknown to the method.
    ValueError
        If shapes do not fit, images are too small, a variance is negative, or `method` or
        the value of an option is unknown.

    Notes
    -----
    What nobody says of the frames is measured before any method sees them (`fastdiff.defects`),
    and told in ``.meta``, with notes that say what to do:

    - "missing", (n, 2): pixels of ref and of sci that were masked because they repeat one value
      exactly along 8 pixels or more: zeros, sentinels, blocks, the corners of rotated frames.
    - "saturation", (n, 2): levels of the plateaus that were found; NaN for none.
    - "cosmic_rays", (n, 2): pixels that were masked for being sharper than the PSF.
    - "shift", (n, 2): whole pixels (dx, dy), up to 10, by which the reference was rolled, as the
      sources of both show; a UserWarning above 1.
    - "units": powers of two by which ref and sci were multiplied for the work, 1 where the noise
      of a pixel is between 0.001 and a million. All results are in the units that came.

    Where nothing is found nothing is copied or changed.

    Cost: about 40 CPU ms for a pair of 1024 x 1024 pixels, and that of the method: for
    TransiNet that of the network on tiles that overlap by 32 pixels. Memory: the results and a
    few tiles per thread.

    References
    ----------
    .. [1] Sedaghat & Mahabal 2018, MNRAS 476, 5365.
    .. [2] Alard & Lupton 1998, ApJ 503, 325; Alard 2000, A&AS 144, 363.
    .. [3] Bramich 2008, MNRAS 386, L77; Becker et al. 2012, MNRAS 425, 1341.
    .. [4] Zackay, Ofek & Gal-Yam 2016, ApJ 830, 27.
    """
    begun = time.perf_counter()
    subtract = subtract_of(method)
    saturation = options.pop("saturation", "auto")
    cosmic_rays = _switch("cosmic_rays", options.pop("cosmic_rays", True))
    _check_options(method, subtract, options)
    threads = check_threads(threads)
    device = arrays.check_same_device(
        scis=scis,
        refs=refs,
        ref_masks=ref_masks,
        sci_masks=sci_masks,
        ref_variances=ref_variances,
        sci_variances=sci_variances,
    )
    if device != "cpu":
        _check_gpu(device, out)
        threads = 1  # whose stream is the caller's
    batch = open_batch(
        method, refs, scis, saturation=saturation, masks=(ref_masks, sci_masks),
        variances=(ref_variances, sci_variances),
    )  # fmt: skip
    targets = Targets(out, batch.shape, batch.scis, (batch.refs.data, batch.scis.data))
    batch, found = condition(
        batch, saturation=saturation is not None, cosmic_rays=cosmic_rays, threads=threads
    )
    frames = batch.frames(targets, threads)
    meta: dict[str, Any] = {
        "method": method,
        "version": version(),
        "threads": threads,
        "notes": frames.notes,
        "saturated": batch.saturated_positions(),
        "seconds": {},
    } | found.tell(frames)
    with reporting(progress) as frames.progress:
        if batch.shape[0]:
            meta |= subtract(frames, **found.units.applied(options))
    _finish(frames, targets.work[2], noisy=not meta.get("noise_free", True))
    found.units.undo(frames, meta)
    result = targets.result()
    _add_extras(result, frames, batch.scis)
    meta["seconds"]["total"] = time.perf_counter() - begun
    result.meta.clear()
    result.meta.update(meta)
    return result


def _check_options(method: str, subtract: Callable[..., Any], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(subtract).parameters.values()
    known = sorted(
        ["cosmic_rays", "saturation", *(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)]
    )
    for name in options:
        if name not in known:
            raise TypeError(
                f"subtract_batch has no option {name!r} for method {method!r}; its options are "
                + ", ".join(known)
            )


def _check_gpu(device: str, out: Any) -> None:
    if out is not None:
        raise TypeError(f"`out` is not taken for images on a GPU, {device}: use what is returned")
    arrays.check_current_device(device)


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be True or False")
    return bool(value)


def _finish(frames: Frames, mask: NDArray[np.bool_], noisy: bool) -> None:
    """Noise from the variances unless the method gave its own; the mask, and NaN under it."""
    if frames.sci_variances is not None and not noisy:
        variance = np.broadcast_to(frames.sci_variances, frames.noise.shape)
        np.sqrt(variance, out=frames.noise, casting="same_kind")
        np.copyto(frames.noise, np.nan, where=np.isinf(frames.noise))
    xp = arrays.namespace(mask)
    xp.isfinite(frames.image, out=mask)
    xp.logical_not(mask, out=mask)
    xp.copyto(frames.image, np.nan, where=mask)


def _add_extras(result: Difference, frames: Frames, scis: arrays.Images) -> None:
    """Maps and lists that only some methods fill."""
    for name in (*MAPS, *LISTS):
        extra = frames.extras.get(name)
        if name in MAPS and extra is not None:
            extra = scis.like(extra)
        elif extra is not None and scis.single:
            extra = extra[0]
        setattr(result, name, extra)
