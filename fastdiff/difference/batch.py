"""Many pairs of images in, difference images out: one call for every method."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import fastdiff
from fastdiff import arrays
from fastdiff.models.model import check_threads

if TYPE_CHECKING:
    from fastdiff.arrays import Images

__all__ = ["MIN_SIZE", "Difference", "subtract_batch"]

MIN_SIZE = 32
"""Smallest side of an image, in pixels."""

# Method -> the module whose `subtract(frames, **options)` fills `frames.image` and, where no
# variances came, `frames.noise`, and returns what it adds to `Difference.meta`.
_METHODS = {"transinet": "fastdiff.difference.transinet"}

_UINT16_FULL = 65535
# Bands of about so many pixels bound the memory of whole-array checks.
_BAND_PIXELS = 2**22
# Values of `Difference.meta` with one entry an image.
_PER_IMAGE = ("scale", "scale_boxes", "sky", "sky_noise")


@dataclasses.dataclass
class Difference:
    """Difference images with their noise and masks.

    Attributes
    ----------
    image : array, (n, ny, nx) or (ny, nx), float32
        What changed, in counts of the science image: positive where it is brighter, negative
        where it is fainter than the reference. NaN at masked pixels and nowhere else.
    noise : array of the same shape, float32
        1 sigma per pixel of the science image, in counts. NaN where it is unknown: at pixels
        whose variance is missing, and all over an image without a good pixel.
    mask : array of the same shape, bool
        True at bad pixels: not finite, masked, saturated or without variance in either image.
    meta : dict
        "method", "version", "seconds" (wall time by stage), "notes" (image index -> what was
        unusual), "saturated" ((m, 3) indices of saturated pixels); for TransiNet also "model",
        "backend", "threads", "pixel_threshold", and one value an image of "scale" (flux in
        science over flux in reference; "scale_boxes" says on how many patches it rests, 0 is
        not measured), "sky" and "sky_noise" (medians, counts).

    Notes
    -----
    ``np.asarray(difference)`` is the image. ``difference[i]`` is the difference of one image,
    ``difference[a:b]`` that of several; nothing is copied.
    """

    image: Any
    noise: Any
    mask: Any
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image."""
        return tuple(self.image.shape)

    def __repr__(self) -> str:
        of = f" by {self.meta['method']}" if "method" in self.meta else ""
        return f"<Difference {self.shape}{of}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.image, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.image) if len(self.shape) == 3 else 1

    def __iter__(self) -> Iterator[Difference]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int | slice) -> Difference:
        if len(self.shape) == 2:
            if index in (0, -1):
                return self
            raise IndexError(f"index {index!r} into a difference of a single image; use [0]")
        if isinstance(index, slice):
            chosen = list(range(*index.indices(len(self))))
        else:
            chosen = [range(len(self))[index]]
        meta = dict(self.meta)
        for name in _PER_IMAGE:
            if name in meta:
                meta[name] = meta[name][chosen]
        place = {old: new for new, old in enumerate(chosen)}
        if "notes" in meta:
            meta["notes"] = {place[i]: v for i, v in meta["notes"].items() if i in place}
        if "saturated" in meta:
            kept = meta["saturated"][np.isin(meta["saturated"][:, 0], chosen)]
            meta["saturated"] = kept.copy()
            meta["saturated"][:, 0] = [place[i] for i in kept[:, 0]]
        return Difference(self.image[index], self.noise[index], self.mask[index], meta)


@dataclasses.dataclass
class Frames:
    """What a method works on: checked NumPy arrays, C order, native byte order.

    Attributes
    ----------
    refs : ndarray of float32 or float64, (n, ny, nx) or (1, ny, nx)
    scis : ndarray of float32 or float64, (n, ny, nx)
    bad_refs, bad_scis : ndarray of bool, (n, ny, nx) or (1, ny, nx), or None
        Masked, saturated or without variance; pixels that are not finite are bad as well.
    ref_variances, sci_variances : ndarray, (n, ny, nx) or (1, ny, nx), or None
    image, noise : ndarray of float32, (n, ny, nx)
        To be filled: `image` NaN at bad pixels; `noise` only if `sci_variances` is None.
    threads : int
    progress : callable
        To be called with (done, total).
    notes : dict
        Image index -> what was unusual.
    """

    refs: NDArray[Any]
    scis: NDArray[Any]
    bad_refs: NDArray[np.bool_] | None
    bad_scis: NDArray[np.bool_] | None
    ref_variances: NDArray[Any] | None
    sci_variances: NDArray[Any] | None
    image: NDArray[np.float32]
    noise: NDArray[np.float32]
    threads: int
    progress: Callable[[int, int], Any]
    notes: dict[int, list[str]] = dataclasses.field(default_factory=dict)

    def note(self, image: int, text: str) -> None:
        """Remember what is unusual about one image."""
        self.notes.setdefault(int(image), []).append(text)


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
    method : {"transinet"}
        "transinet": a network that paints what changed, without noise [1]_.
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
            Electrons per count. Adds the Poisson noise of what stands above the sky to the
            estimated noise; not used where `sci_variances` came.
        tile : int
            Side of the tiles, in pixels, a multiple of the network's stride.

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
    """
    begun = time.perf_counter()
    if method not in _METHODS:
        known = ", ".join(repr(name) for name in _METHODS)
        raise ValueError(f"method is {method!r}; known methods are {known}")
    subtract = importlib.import_module(_METHODS[method]).subtract
    saturation = options.pop("saturation", "auto")
    _check_options(method, subtract, options)
    threads = check_threads(threads)

    ref_door, sci_door = arrays.as_images(refs, "refs"), arrays.as_images(scis, "scis")
    shape = _check_shapes(ref_door, sci_door)
    masks = [
        arrays.as_masks(ref_masks, "ref_masks", shape),
        arrays.as_masks(sci_masks, "sci_masks", shape),
    ]
    variances = [
        _as_variances(ref_variances, "ref_variances", shape),
        _as_variances(sci_variances, "sci_variances", shape),
    ]
    bad, saturated = [], []
    for door, image, mask, variance in zip(
        (ref_door, sci_door), (refs, scis), masks, variances, strict=True
    ):
        full = _saturated(door, image, saturation)
        saturated.append(full)
        missing = None if variance is None else ~np.isfinite(variance)
        bad.append(_any([mask, door.mask, full, missing]))

    image, noise, result = _prepare_out(out, shape, sci_door, (ref_door.data, sci_door.data))
    frames = Frames(
        ref_door.data, sci_door.data, *bad, *variances, image, noise, threads, lambda *_: None
    )
    meta: dict[str, Any] = {
        "method": method,
        "version": fastdiff.__version__,
        "threads": threads,
        "notes": frames.notes,
        "saturated": _positions(saturated, shape),
    }
    with _progress(progress) as frames.progress:
        if shape[0]:
            meta.update(subtract(frames, **options))
    _finish(frames, result)
    result.meta.clear()
    result.meta.update(meta)
    result.meta.setdefault("seconds", {})["total"] = time.perf_counter() - begun
    return result
