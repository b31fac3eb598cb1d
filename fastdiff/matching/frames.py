"""What a method works on: the checked images of a batch, and where its results go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays

__all__ = ["Frames"]


@dataclasses.dataclass
class Frames:
    """What a method works on: checked NumPy arrays (CuPy on a GPU), C order, native byte order.

    Attributes
    ----------
    refs : ndarray of float32 or float64, (n, ny, nx) or (1, ny, nx)
    scis : ndarray of float32 or float64, (n, ny, nx)
    bad_refs, bad_scis : ndarray of bool, (n, ny, nx) or (1, ny, nx), or None
        Masked, saturated or without variance; pixels that are not finite are bad as well.
    ref_variances, sci_variances : ndarray, (n, ny, nx) or (1, ny, nx), or None
    image, noise : ndarray of float32, (n, ny, nx)
        To be filled: `image` NaN at bad pixels; `noise` of the difference where it has noise,
        else of sci, and then only if `sci_variances` is None.
    threads : int
    progress : callable
        To be called with (done, total).
    notes : dict
        Image index -> what was unusual.
    extras : dict
        Further attributes of the `Difference`: arrays (n, ny, nx) or lists of n objects.
    copies : tuple, optional
        `refs`, `scis`, `bad_refs` and `bad_scis` in the memory of the CPU, where they are on a
        GPU and were copied already.
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
    extras: dict[str, Any] = dataclasses.field(default_factory=dict)
    copies: tuple[NDArray[Any] | None, ...] | None = None

    def note(self, image: int, text: str) -> None:
        """Remember what is unusual about one image."""
        self.notes.setdefault(int(image), []).append(text)

    def on_host(self) -> Frames:
        """Frames whose images and masks are in the memory of the CPU: these, if they are."""
        if arrays.namespace(self.scis) is np:
            return self
        names = "refs", "scis", "bad_refs", "bad_scis"
        copies = self.copies
        if copies is None:
            planes = [getattr(self, name) for name in names]
            copies = tuple(None if v is None else arrays.on_host(v) for v in planes)
        there: dict[str, Any] = dict(zip(names, copies, strict=True))
        return dataclasses.replace(self, **there)
