"""Blocks of pixels that share one kernel, and interpolation between places of a frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays

__all__ = ["BAND", "BlockGrid", "hats"]

_BLOCK = (32, 128)  # pixels, the largest block that shares one squared kernel
BAND = 128  # rows of a frame that are worked on at a time


def hats(x: NDArray[Any], nodes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(len(x), len(nodes)): weights with which values at `nodes` make the values at `x`."""
    return np.stack([np.interp(x, nodes, unit) for unit in np.eye(len(nodes))], axis=1)


class BlockGrid:
    """Blocks that cover a frame, band by band of rows."""

    def __init__(self, shape: tuple[int, int]):
        self.shape = shape
        # Where a frame is small its kernel may change as much over fewer pixels.
        self.side = min(_BLOCK[0], max(8, shape[0] // 16)), min(_BLOCK[1], max(32, shape[1] // 8))

    def bands(self) -> Iterator[tuple[slice, NDArray[np.int64]]]:
        """Rows of a band and the origins of its blocks."""
        (ny, nx), (h, w) = self.shape, self.side
        for first in range(0, ny, BAND):
            band = slice(first, min(first + BAND, ny))
            axes = np.arange(band.start, band.stop, h), np.arange(0, nx, w)
            yield band, np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)

    def joined(
        self, parts: NDArray[Any], band: slice, which: NDArray[np.int64] | None = None
    ) -> NDArray[Any]:
        """The pixels of a band from its blocks, (n, h, w) or (n, 1, 1). Where only those blocks
        came that `which` lists, the others are 0.
        """
        (_, nx), (h, w) = self.shape, self.side
        n_x = -(-nx // w)
        n = n_x * -(-(band.stop - band.start) // h)
        if which is not None and len(which) < n:
            some, parts = parts, np.zeros_like(parts, shape=(n, h, w))
            parts[which] = some
        rows = np.broadcast_to(parts, (len(parts), h, w)).reshape(-1, n_x, h, w)
        plane = rows.transpose(0, 2, 1, 3).reshape(-1, n_x * w)
        return plane[: band.stop - band.start, :nx]

    def touched(
        self, bad: NDArray[np.float32], origins: NDArray[np.int64], r: int
    ) -> NDArray[np.int64]:
        """Blocks that a kernel reaches from bad pixels, in a plane with a border of r pixels.

        On a GPU all of them: to ask for each would take longer than to work on it.
        """
        if arrays.namespace(bad) is not np:
            return np.arange(len(origins))
        h, w = self.side
        return np.flatnonzero([bad[y : y + h + 2 * r, x : x + w + 2 * r].any() for y, x in origins])
