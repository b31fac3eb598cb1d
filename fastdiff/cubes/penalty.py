"""The penalty of a cube, where it is to be chosen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .options import CpmOptions
from .plan import middle_of, tiles_of
from .tile import PENALTIES, CubeTile

__all__ = ["choose_penalty", "sample_of"]

_SAMPLE = 48  # pixels that choose the penalty
_SAMPLE_TILES = 6  # of a cube of many tiles, in which they lie


def sample_of(options: CpmOptions) -> list[CubeTile]:
    """The one tile of a small cube, or small tiles spread over a large one."""
    cuts = list(tiles_of(options))
    if len(cuts) > 1:
        spread = np.linspace(0, len(cuts) - 1, min(len(cuts), _SAMPLE_TILES))
        cuts = [middle_of(options, *cuts[int(i)]) for i in np.round(spread)]
    return [CubeTile(options, *cut) for cut in cuts]


def choose_penalty(tiles: list[CubeTile], how: str) -> float | str:
    """Penalty with the least sum of the logarithms of the scores of pixels of some tiles."""
    n_each = -(-_SAMPLE // max(len(tiles), 1))
    sampled = []
    for tile in tiles:
        if n := len(tile.targets):
            chosen = np.unique(np.linspace(0, n - 1, n_each).astype(np.int64))
            sampled.append((tile, chosen))
    if not sampled:
        return how
    scale = float(np.mean([tile.scale for tile, _ in sampled]))

    def best(grid: NDArray[np.float64]) -> float:
        total = sum(tile.scores(how, chosen, grid * scale).sum(0) for tile, chosen in sampled)
        return float(grid[int(np.argmin(total))])

    return best(best(PENALTIES) * 10.0 ** (np.arange(-2, 3) / 3)) * scale
