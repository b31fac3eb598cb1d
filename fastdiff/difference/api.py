"""Many pairs of images in, difference images out: one call for every method."""

from __future__ import annotations

import functools
import inspect
import operator
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdiff.core import arrays
from fastdiff.core.progress import reporting, silent
from fastdiff.core.threads import check_threads
from fastdiff.core.version import version
from fastdiff.difference.registry import ON_GPU, subtract_of
from fastdiff.difference.result import LISTS, MAPS, Difference
from fastdiff.matching.frames import Frames

if TYPE_CHECKING:
    from fastdiff.core.arrays import Images

__all__ = ["MIN_SIZE", "Difference", "subtract_batch"]

MIN_SIZE = 32
"""Smallest side of an image, in pixels."""

_UINT16_FULL = 65535


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
        "psf-match" and "zogy" take CuPy arrays too: the work on pixels stays on the GPU; the
        search for stars, and with it sky and PSFs, sees one copy in the memory of the CPU.
    method : {"transinet", "psf-match", "zogy"}
        "transinet": a network that paints what changed, without noise [1]_.
        "psf-match": the sharper image convolved with the kernel that matches its PSF to that
        of the other [2]_, [3]_. "zogy": proper subtraction [4]_.
    ref_masks, sci_masks : array_like of bool, optional
        True at bad pixels; (ny, nx) is for all images.
    ref_variances, sci_variances : array_like, optional
        Variance per pixel in counts squared; (ny, nx) is for all images. Pixels whose
        variance is not finite are masked. The science variance gives ``.noise``; TransiNet
        measures the noise that it normalises by from the images themselves.
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
            65535 in uint16 images.
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
    Cost: that of the network on tiles that overlap by 32 pixels. Memory: the results and a
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
        _check_gpu(method, device, out)
        arrays.check_current_device(device)
        threads = 1  # whose stream is the caller's
    ref_door, sci_door = arrays.as_images(refs, "refs"), arrays.as_images(scis, "scis")
    for name, door in (("refs", ref_door), ("scis", sci_door)):
        if device != "cpu" and door.kind == "torch":
            raise TypeError(
                f"`{name}` is a CUDA tensor; method {method!r} takes CuPy arrays: pass "
                "`cupy.asarray(tensor)`, and make tensors of the results by `torch.as_tensor`"
            )
    xp = arrays.namespace(sci_door.data)
    shape = _check_shapes(ref_door, sci_door)
    if ref_door.data.dtype != sci_door.data.dtype:
        # One of each would be one more compile of every loop.
        ref_door = arrays.as_images(refs, "refs", dtype=np.float64)
        sci_door = arrays.as_images(scis, "scis", dtype=np.float64)
    variances = [
        _as_variances(ref_variances, "ref_variances", shape),
        _as_variances(sci_variances, "sci_variances", shape),
    ]
    full = [_saturated(door, saturation) for door in (ref_door, sci_door)]
    bad = [
        _any(mask, door.mask, saturated, None if variance is None else ~xp.isfinite(variance))
        for mask, door, saturated, variance in zip(
            (
                _as_masks(ref_masks, "ref_masks", shape),
                _as_masks(sci_masks, "sci_masks", shape),
            ),
            (ref_door, sci_door),
            full,
            variances,
            strict=True,
        )
    ]
    targets = _Targets(out, shape, sci_door, (ref_door.data, sci_door.data))
    frames = Frames(
        ref_door.data, sci_door.data, *bad, *variances, *targets.work[:2], threads, silent
    )
    meta: dict[str, Any] = {
        "method": method,
        "version": version(),
        "threads": threads,
        "notes": frames.notes,
        "saturated": _positions(_any(*full), shape),
        "seconds": {},
    }
    with reporting(progress) as frames.progress:
        if shape[0]:
            meta |= subtract(frames, **options)
    _finish(frames, targets.work[2], noisy=not meta.get("noise_free", True))
    result = targets.result()
    for name in (*MAPS, *LISTS):
        extra = frames.extras.get(name)
        if name in MAPS and extra is not None:
            xp.copyto(extra, np.nan, where=targets.work[2])
            extra = sci_door.like(extra)
        elif extra is not None and sci_door.single:
            extra = extra[0]
        setattr(result, name, extra)
    meta["seconds"]["total"] = time.perf_counter() - begun
    result.meta.clear()
    result.meta.update(meta)
    return result


def _check_options(method: str, subtract: Callable[..., Any], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(subtract).parameters.values()
    known = sorted(["saturation", *(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)])
    for name in options:
        if name not in known:
            raise TypeError(
                f"subtract_batch has no option {name!r} for method {method!r}; its options are "
                + ", ".join(known)
            )


def _check_gpu(method: str, device: str, out: Any) -> None:
    if method not in ON_GPU:
        raise TypeError(
            f"`scis` is on {device}; method {method!r} takes arrays in the memory of the CPU "
            "(its network may still run on a GPU): call `.cpu()` on a tensor, `.get()` on a "
            f"CuPy array; methods for a GPU are {', '.join(map(repr, ON_GPU))}"
        )
    if out is not None:
        raise TypeError(f"`out` is not taken for images on a GPU, {device}: use what is returned")


def _check_shapes(refs: Images, scis: Images) -> tuple[int, int, int]:
    """(n, ny, nx) of the science images, after a look at both."""
    n, ny, nx = scis.shape
    came = [door.shape[1:] if door.single else door.shape for door in (scis, refs)]
    if refs.shape[1:] != (ny, nx) or refs.shape[0] not in (1, n):
        raise ValueError(
            f"`scis` has shape {came[0]}; it must match `refs`, {came[1]} (one reference may "
            "serve many science images): cut or align them to one pixel grid"
        )
    if n and min(ny, nx) < MIN_SIZE:
        raise ValueError(
            f"`scis` has shape {came[0]}; images must be at least {MIN_SIZE} x {MIN_SIZE} pixels: "
            "cut larger ones"
        )
    return n, ny, nx


def _as_masks(mask: Any, name: str, shape: tuple[int, int, int]) -> NDArray[np.bool_] | None:
    """(n, ny, nx), or (1, ny, nx) where one serves all."""
    if mask is None:
        return None
    try:
        return arrays.as_masks(mask, name, (1, *shape[1:]))
    except ValueError:
        return arrays.as_masks(mask, name, shape)


def _as_variances(x: Any, name: str, shape: tuple[int, int, int]) -> NDArray[Any] | None:
    if x is None:
        return None
    door = arrays.as_images(x, name)
    if door.shape[1:] != shape[1:] or door.shape[0] not in (1, shape[0]):
        raise ValueError(
            f"`{name}` has shape {door.shape[1:] if door.single else door.shape}; it must be "
            f"{shape}, or {shape[1:]} for all images: cut it like the images"
        )
    variance: NDArray[Any] = door.data
    if door.mask is not None:
        variance = np.where(door.mask, np.nan, variance)
    if (variance < 0).any():
        n_negative = int((variance < 0).sum())
        raise ValueError(
            f"`{name}` is negative in {n_negative} of {variance.size} pixels (lowest "
            f"{float(variance[variance < 0].min()):.4g}); a variance is 0 or more: mark pixels "
            "without one as NaN"
        )
    return variance


def _saturated(door: Images, saturation: Any) -> NDArray[np.bool_] | None:
    """Where a pixel is saturated; None for nowhere."""
    if saturation is None:
        return None
    if isinstance(saturation, str):
        if saturation != "auto":
            raise ValueError(f"saturation is {saturation!r}; it must be None, 'auto' or a number")
        if door.dtype not in ("uint16", ">u2", "<u2"):
            return None
        saturation = _UINT16_FULL
    if not np.isscalar(saturation) or isinstance(saturation, complex):
        raise TypeError(
            f"saturation is a {type(saturation).__name__}; it must be None, 'auto' or a number"
        )
    full = door.data >= saturation
    return full if full.any() else None


def _any(*masks: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Union of the masks that are there."""
    there = [mask for mask in masks if mask is not None]
    return functools.reduce(operator.or_, there) if there else None


def _positions(saturated: NDArray[np.bool_] | None, shape: tuple[int, ...]) -> NDArray[np.int64]:
    if saturated is None:
        return np.empty((0, 3), np.int64)
    xp = arrays.namespace(saturated)
    return arrays.on_host(xp.argwhere(xp.broadcast_to(saturated, shape)))


class _Targets:
    """Where the results go: the caller's arrays where they can be worked in, else copied there."""

    def __init__(
        self, out: Any, shape: tuple[int, int, int], scis: Images, inputs: tuple[Any, ...]
    ):
        self.scis = scis
        self.difference = out if isinstance(out, Difference) else None
        if self.difference is not None:
            self.given = [out.image, out.noise, out.mask]
            names = ["out.image", "out.noise", "out.mask"]
        else:
            self.given, names = [out, None, None], ["out", "", ""]
        dtypes = [(np.float32, np.float64), (np.float32, np.float64), (np.bool_,)]
        wanted = shape[1:] if scis.single else shape
        xp = arrays.namespace(scis.data)
        self.views: list[NDArray[Any] | None] = []
        self.work: list[NDArray[Any]] = []
        for given, name, dtype in zip(self.given, names, dtypes, strict=True):
            view = None if given is None else _check_target(given, name, wanted, dtype)
            # A result over its own input would be read as input by the next tile.
            usable = (
                view is not None
                and view.dtype == dtype[0]
                and view.flags.c_contiguous
                and view.flags.aligned
                and not any(np.may_share_memory(view, each) for each in inputs)
            )
            self.views.append(view)
            self.work.append(view.reshape(shape) if usable else xp.empty(shape, dtype[0]))

    def result(self) -> Difference:
        """The difference, once `work` is filled."""
        results = []
        for given, view, work in zip(self.given, self.views, self.work, strict=True):
            if given is None:
                results.append(self.scis.like(work))
                continue
            if not np.may_share_memory(view, work):
                np.copyto(view, work.reshape(view.shape))
            results.append(given)
        return Difference(*results) if self.difference is None else self.difference


def _check_target(
    given: Any, name: str, shape: tuple[int, ...], dtypes: tuple[Any, ...]
) -> NDArray[Any]:
    """The caller's memory as a NumPy array."""
    if not hasattr(given, "shape") or arrays.device_of(given) != "cpu":
        raise TypeError(
            f"`{name}` is a {type(given).__name__}; it must be an array in the memory of the CPU "
            "or a Difference"
        )
    view = np.asarray(given)
    if view.dtype.newbyteorder("=") not in dtypes:
        known = " or ".join(np.dtype(each).name for each in dtypes)
        raise TypeError(f"`{name}` has dtype {view.dtype}; it must be {known}")
    if view.shape != shape:
        raise ValueError(f"`{name}` has shape {view.shape}; it must match `scis`, {shape}")
    if not view.flags.writeable:
        raise ValueError(f"`{name}` is read-only; it must be writeable: pass a copy")
    return view


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
