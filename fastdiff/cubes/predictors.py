"""Which pixels predict a pixel of a cube: the paper's rule, section 2, and others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays

if TYPE_CHECKING:
    from .tile import Tile

EXCLUSION = (10, 16.0)  # section 2: rows and columns, and pixels of distance
_ENOUGH = 50  # predictors, or half of the pixels, that a small field must allow


def steps(exclusion: tuple[int, float], shape: tuple[int, int]) -> NDArray[np.int64]:
    """(n, 2) of (y, x): steps from a target to its possible predictors, the closest first."""
    rows, distance = exclusion
    ny, nx = shape
    dy, dx = np.mgrid[1 - ny : ny, 1 - nx : nx]
    square = dy**2 + dx**2
    allowed = (abs(dy) > rows) & (abs(dx) > rows) & (square >= distance**2) & (square > 0)
    found = np.stack([dy[allowed], dx[allowed]], axis=1)
    return found[np.argsort(square[allowed], kind="stable")].astype(np.int64)


def default_exclusion(wanted: int, shape: tuple[int, int]) -> tuple[int, float]:
    """The paper's, lowered for small fields: first the rows and columns, then the distance."""
    if 0 in shape:
        return EXCLUSION
    enough = min(wanted, _ENOUGH, shape[0] * shape[1] // 2)
    rows, distance = EXCLUSION
    while distance > 1 and _fewest(rows, distance, shape) < enough:
        # Pixels of the same rows and columns share more of what the detector does than of the star.
        if rows >= 0:
            rows -= 1
        else:
            distance = round(0.9 * distance, 1)
    return rows, distance


def _fewest(rows: int, distance: float, shape: tuple[int, int]) -> int:
    """Predictors of the pixel in the middle, which has the fewest."""
    (ny, nx), y, x = shape, shape[0] // 2, shape[1] // 2
    dy, dx = abs(np.arange(ny) - y)[:, None], abs(np.arange(nx) - x)[None]
    square = dy**2 + dx**2
    return int(((dy > rows) & (dx > rows) & (square >= distance**2) & (square > 0)).sum())


def choose(
    tile: Tile, targets: NDArray[np.int64], usable: NDArray[np.bool_]
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
