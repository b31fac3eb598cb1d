"""The methods of `subtract_batch`: the only place that names them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["METHODS", "subtract_of"]

# Method -> the module whose `subtract(frames, **options)` fills `frames.image` and, where no
# variances came, `frames.noise`, and returns what it adds to `Difference.meta`.
METHODS = {
    "transinet": "fastdiff.difference.transinet.method",
    "psf-match": "fastdiff.difference.psfmatch.method",
    "zogy": "fastdiff.difference.zogy.method",
}


def subtract_of(method: str) -> Callable[..., dict[str, Any]]:
    """Function that fills `Frames` by a method; it is imported on first use.

    Raises
    ------
    ValueError
        If there is no such method.
    """
    if method not in METHODS:
        known = ", ".join(repr(name) for name in METHODS)
        raise ValueError(f"method is {method!r}; known methods are {known}")
    subtract: Callable[..., dict[str, Any]] = importlib.import_module(METHODS[method]).subtract
    return subtract
