"""Checks of the options that several methods share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays

__all__ = ["check_psfs", "check_scale"]


def check_scale(scale: Any, n: int) -> NDArray[np.float32]:
    """Photometric scales that the caller knows: one, or one an image."""
    scales = np.asarray(scale, np.float32)
    if scales.shape not in ((), (n,)):
        raise ValueError(
            f"scale has shape {scales.shape}; it must be a number or {n}, one an image"
        )
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise ValueError(
            f"scale is {scale!r}; it must be positive: flux of a source in `scis` over its flux "
            "in `refs`, 10 ** (0.4 (zero point of sci - zero point of ref))"
        )
    return np.broadcast_to(scales, (n,)).copy()


def check_psfs(name: str, psfs: Any, shape: tuple[int, int, int]) -> NDArray[np.float64] | None:
    """PSFs that the caller knows, for frames (n, ny, nx): (n or 1, n_tiles or 1, k, k), of sum 1.

    None stays None.
    """
    if psfs is None:
        return None
    try:
        if arrays.device_of(psfs) != "cpu":
            psfs = arrays.to_numpy(psfs, name, images=False)
        array = np.asarray(psfs, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"`{name}` is a {type(psfs).__name__}; it must be an array of numbers (k, k), "
            "(n, k, k) or (n, n_tiles, k, k)"
        ) from None
    n, ny, nx = shape
    if array.ndim not in (2, 3, 4) or array.shape[-1] != array.shape[-2]:
        raise ValueError(
            f"`{name}` has shape {array.shape}; it must be (k, k), (n, k, k) or (n, n_tiles, k, k)"
        )
    size = array.shape[-1]
    if size % 2 == 0 or size < 3:
        raise ValueError(
            f"`{name}` is {size} x {size} pixels; the side must be odd, so that there is a middle "
            "pixel: cut or resample it"
        )
    if size > min(ny, nx):
        raise ValueError(
            f"`{name}` is {size} x {size} pixels, larger than the images, {ny} x {nx}: cut it "
            "about its middle, and divide it by its sum"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` has pixels that are not finite: set them to 0")
    array = (
        array.reshape((1,) * (4 - array.ndim) + array.shape) if array.ndim != 3 else array[:, None]
    )
    if len(array) not in (1, n):
        raise ValueError(
            f"`{name}` has PSFs for {len(array)} images; `scis` has {n}: give one for each, or one "
            "for all"
        )
    sums = array.sum((2, 3), keepdims=True)
    worst = float(sums.flat[np.argmax(np.abs(sums - 1))])
    if abs(worst - 1) > 0.01:
        raise ValueError(f"`{name}` sums up to {worst:.4g}; a PSF has the sum 1: divide by its sum")
    normed: NDArray[np.float64] = array / sums
    return normed
