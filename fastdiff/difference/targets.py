"""Where the results of a batch go."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.core.arrays import Images

from .result import Difference

__all__ = ["Targets"]


class Targets:
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
            if (
                view is not None
                and view.dtype == dtype[0]
                and view.flags.c_contiguous
                and view.flags.aligned
                and not any(np.may_share_memory(view, each) for each in inputs)
            ):
                work = view.reshape(shape)
            else:
                work = xp.empty(shape, dtype[0])
            self.views.append(view)
            self.work.append(work)

    def result(self) -> Difference:
        """The difference, once `work` is filled."""
        results = []
        for given, view, work in zip(self.given, self.views, self.work, strict=True):
            if view is None:
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
