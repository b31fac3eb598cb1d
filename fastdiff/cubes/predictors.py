"""Which pixels predict a pixel of a cube: the paper's rule, section 2, and others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays

from .exclusion import allowed_by, steps
from .options import CpmOptions

__all__ = ["choose", "ranked"]


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


def ranked(
    options: CpmOptions, ys: NDArray[np.int64], xs: NDArray[np.int64], centre: tuple[int, int],
    exclusion: tuple[int, float], read: Callable[[Any, Any], tuple[NDArray[np.float64], Any]],
) -> NDArray[np.int64]:  # fmt: skip
    """(n, 2) pixels (y, x) that may predict all of some pixels, the best by the rule first.

    `read` gives the series of pixels, which the rules "brightness" and "cosine" compare with that
    of the centre.
    """
    allowed = allowed_by(ys, xs, exclusion, options.shape[1:])
    places = np.argwhere(allowed & ~options.excluded)
    if options.rule == "random":
        return np.random.default_rng([options.seed, *centre]).permutation(places)
    key = ((places - np.array(centre)) ** 2).sum(1).astype(np.float64)
    if options.rule != "nearest" and len(places):
        series, own = read(*places.T)[0], read(*np.array(centre)[:, None])[0][0]
        if options.rule == "brightness":
            key = np.abs(series.mean(1) - own.mean())
        else:
            key = -(series @ own) / np.maximum(np.sqrt((series**2).sum(1)), 1e-300)
    return places[np.argsort(key, kind="stable")]
