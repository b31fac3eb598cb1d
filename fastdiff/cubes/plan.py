"""Tiles of a large cube: the pixels that are predicted, and those that predict them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .exclusion import steps
from .options import CpmOptions

__all__ = ["Cut", "middle_of", "tiles_of"]

Cut = tuple[tuple[slice, slice], tuple[slice, slice]]
"""(window, inner): pixels that predict, and those of them that are predicted."""

_WHOLE = 8000  # series whose Gram matrix is made at once; with running means a pixel has two
_TILE = 32  # pixels, side of a tile of a larger cube


def tiles_of(options: CpmOptions) -> Iterator[Cut]:
    """Tiles that cover a cube; a small cube is one."""
    _, ny, nx = options.shape
    if not options.data.size:
        return
    if ny * nx <= (_WHOLE if options.width == 1 else _WHOLE // 2):
        yield (slice(0, ny), slice(0, nx)), (slice(0, ny), slice(0, nx))
        return
    offsets = steps(options.exclusion, (ny, nx))[: options.wanted]
    reach = int(np.abs(offsets).max()) if len(offsets) else 1
    for y in range(0, ny, _TILE):
        for x in range(0, nx, _TILE):
            cut = []
            for start, size in ((y, ny), (x, nx)):
                # At an edge the window moves inward: pixels there look one way only.
                length = min(size, _TILE + 2 * reach)
                first = min(max(start - reach, 0), size - length)
                inside = slice(start, min(start + _TILE, size))
                cut.append((slice(first, first + length), inside))
            yield _by_axis(cut)


def middle_of(options: CpmOptions, window: tuple[slice, slice], inner: tuple[slice, slice]) -> Cut:
    """A tile for 3 x 3 pixels in the middle of a tile, with as much around them."""
    cut = []
    for outside, inside, size in zip(window, inner, options.shape[1:], strict=True):
        start = (inside.start + inside.stop) // 2
        stop = min(start + 3, inside.stop)
        length = min(size, outside.stop - outside.start - _TILE + 3)
        first = min(max(start - length // 2, 0), size - length)
        cut.append((slice(first, first + length), slice(start, stop)))
    return _by_axis(cut)


def _by_axis(cut: list[tuple[slice, slice]]) -> Cut:
    (window_y, inner_y), (window_x, inner_x) = cut
    return (window_y, window_x), (inner_y, inner_x)
