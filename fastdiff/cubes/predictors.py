"""Which pixels predict a pixel of a cube: the paper's rule, section 2, and others."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays

from .exclusion import steps
from .options import CpmOptions

__all__ = ["choose"]


class SeriesOfTile(Protocol):
    """What `choose` reads of a tile."""

    options: CpmOptions
    size: tuple[int, int]
    window: tuple[slice, slice]
    mean: Any
    series: Any
    xp: Any


def choose(
    tile: SeriesOfTile, targets: NDArray[np.int64], usable: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(n, wanted) pixels of the window of a tile and how many of them count."""
    options = tile.options
    offsets = steps(options.exclusion, tile.size)
    wanted = min(options.wanted, int(usable.sum()))
    lists = np.zeros((len(targets), max(wanted, 1)), np.int32)
    counts = np.zeros(len(targets), np.int64)
    if not wanted or not len(offsets):
        return lists, counts
    ny, nx = tile.size
    # The closest are mostly among a few times their number, in a corner of the field too.
    reaches = [6 * wanted, len(offsets)] if options.rule == "nearest" else [len(offsets)]
    if options.rule == "brightness":
        order = arrays.on_host(tile.mean)
    elif options.rule == "cosine":
        raw = tile.series[: len(tile.mean)] + tile.mean[:, None]
        raw /= tile.xp.maximum(tile.xp.sqrt((raw**2).sum(1, keepdims=True)), 1e-300)
    for i, target in enumerate(targets):
        y, x = divmod(int(target), tile.size[1])
        for reach in reaches:
            rows, columns = offsets[:reach, 0] + y, offsets[:reach, 1] + x
            inside = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
            allowed = rows[inside] * nx + columns[inside]
            allowed = allowed[usable[allowed]]
            if len(allowed) >= wanted:
                break
        if options.rule == "brightness":
            allowed = allowed[np.argsort(np.abs(order[allowed] - order[target]), kind="stable")]
        elif options.rule == "cosine":
            cosines = arrays.on_host(raw @ raw[int(target)])
            allowed = allowed[np.argsort(-cosines[allowed], kind="stable")]
        elif options.rule == "random":
            place = y + tile.window[0].start, x + tile.window[1].start
            rng = np.random.default_rng([options.seed, *place])
            allowed = rng.permutation(allowed)
        chosen = allowed[:wanted]
        lists[i, : len(chosen)], counts[i] = chosen, len(chosen)
    return lists, counts
