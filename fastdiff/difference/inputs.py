"""The images, masks and variances of a batch, checked and on one dtype."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.core.arrays import Images
from fastdiff.core.progress import silent
from fastdiff.matching.frames import Frames

from .targets import Targets

__all__ = ["MIN_SIZE", "BatchInputs", "open_batch", "pair_of"]

MIN_SIZE = 32
"""Smallest side of an image, in pixels."""

_UINT16_FULL = 65535
_Plane = TypeVar("_Plane")


@dataclasses.dataclass(frozen=True)
class BatchInputs:
    """What came, through the door: of a pair of fields the first is of the references.

    Attributes
    ----------
    shape : tuple of int
        (n, ny, nx) of the science images.
    refs, scis : Images
    bad : pair of ndarray of bool, (n, ny, nx) or (1, ny, nx), or None
        Masked, saturated or without variance.
    variances : pair of ndarray, (n, ny, nx) or (1, ny, nx), or None
    saturated : pair of ndarray of bool, or None
    copies : tuple, optional
        Images and bad pixels in the memory of the CPU, as `Frames.copies`.
    """

    shape: tuple[int, int, int]
    refs: Images
    scis: Images
    bad: tuple[NDArray[np.bool_] | None, NDArray[np.bool_] | None]
    variances: tuple[NDArray[Any] | None, NDArray[Any] | None]
    saturated: tuple[NDArray[np.bool_] | None, NDArray[np.bool_] | None]
    copies: tuple[NDArray[Any] | None, ...] | None = None

    def frames(self, targets: Targets, threads: int) -> Frames:
        """What a method works on."""
        image, noise = targets.work[:2]
        return Frames(
            self.refs.data, self.scis.data, *self.bad, *self.variances, image, noise, threads,
            silent, copies=self.copies,
        )  # fmt: skip

    def saturated_positions(self) -> NDArray[np.int64]:
        """(m, 3) indices of pixels that are saturated in either image."""
        return _positions(_any(*self.saturated), self.shape)


def open_batch(
    method: str, refs: Any, scis: Any, *, saturation: Any, masks: tuple[Any, Any],
    variances: tuple[Any, Any],
) -> BatchInputs:  # fmt: skip
    """Let a batch through the door; what is wrong is an error that names the argument.

    Parameters are those of `fastdiff.subtract_batch`; of `masks` and `variances` the first is
    that of the references.
    """
    doors = arrays.as_images(refs, "refs"), arrays.as_images(scis, "scis")
    for name, door in zip(("refs", "scis"), doors, strict=True):
        if door.device != "cpu" and door.kind == "torch":
            raise TypeError(
                f"`{name}` is a CUDA tensor; method {method!r} takes CuPy arrays: pass "
                "`cupy.asarray(tensor)`, and make tensors of the results by `torch.as_tensor`"
            )
    shape = _check_shapes(*doors)
    if doors[0].data.dtype != doors[1].data.dtype:
        # One of each would be one more compile of every loop.
        doors = (
            arrays.as_images(refs, "refs", dtype=np.float64),
            arrays.as_images(scis, "scis", dtype=np.float64),
        )
    names = ("ref_variances", "sci_variances")
    planes = [_as_variances(x, name, shape) for x, name in zip(variances, names, strict=True)]
    full = [_saturated(door, saturation) for door in doors]
    names = ("ref_masks", "sci_masks")
    given = [_as_masks(x, name, shape) for x, name in zip(masks, names, strict=True)]
    xp = arrays.namespace(doors[1].data)
    bad = [
        _any(mask, door.mask, saturated, None if variance is None else ~xp.isfinite(variance))
        for mask, door, saturated, variance in zip(given, doors, full, planes, strict=True)
    ]
    return BatchInputs(shape, *doors, pair_of(bad), pair_of(planes), pair_of(full))


def pair_of(planes: Iterable[_Plane]) -> tuple[_Plane, _Plane]:
    """What there is of the references and of the science images, as a pair."""
    of_ref, of_sci = planes
    return of_ref, of_sci


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
