"""Running means of predictors: over how many epochs.

Where what all pixels have in common changes slowly, as the pointing and the scattered light of a
space telescope at a cadence of minutes, means over some epochs tell it with less noise. Where it is
new at every epoch, they tell nothing. That which predicts best what fits did not see is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays

from .heldout import best, follow
from .options import CpmOptions
from .series import running_mean

if TYPE_CHECKING:
    from .tile import CubeTile

__all__ = ["WIDTHS", "choose_width", "widths_for"]

WIDTHS = (1, 5, 31, 181)
_PIXELS = 8  # that choose
_FOLDS = 4
_PREDICTORS = 32  # of each of them: more wake the threads of a BLAS
_GAIN = 0.01  # mean logarithm of the mean square error that a longer mean must win


def widths_for(options: CpmOptions, n: int) -> tuple[int, ...]:
    """Widths that n epochs allow, or the one that was asked for."""
    if options.smooth != "auto":
        return (int(options.smooth),)
    return tuple(width for width in WIDTHS if width == 1 or 20 * width <= n)


def choose_width(options: CpmOptions, tiles: list[CubeTile]) -> int:
    """Epochs over which predictors are averaged, by some pixels of all brightnesses."""
    widths = widths_for(options, options.shape[0])
    n_each = -(-_PIXELS // max(len(tiles), 1))
    scores = [score for tile in tiles for score in _scores(tile, n_each, widths)]
    if len(widths) == 1 or not scores:
        return widths[0]
    mean = np.mean(scores, axis=0)
    return widths[int(np.argmin(mean + _GAIN * (np.arange(len(widths)) > 0)))]


def _scores(tile: CubeTile, n_each: int, widths: tuple[int, ...]) -> list[NDArray[np.float64]]:
    """Logarithms of the mean square error of each width, for some pixels."""
    roots = arrays.on_host(tile.roots)
    n, targets = len(roots), tile.targets
    if not len(targets):
        return []
    order = np.argsort(arrays.on_host(tile.mean[tile.xp.asarray(targets)]), kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, n_each).astype(np.int64))]
    edges = n * np.arange(_FOLDS + 1) // _FOLDS
    blocks = np.stack([edges[:-1], edges[1:], edges[:-1], edges[1:]], axis=1)
    scores = []
    for i in chosen:
        count = int(tile.counts[i]) - tile.n_free
        step = -(-count // max(min(_PREDICTORS, n // 4), 1))
        rows = np.append(targets[i], tile.lists[i, :count:step])
        every = arrays.on_host(tile.series[tile.xp.asarray(rows)])
        own = np.where(arrays.on_host(tile.bad[int(targets[i])]), 0.0, roots)
        score = []
        for width in widths:
            path = follow(running_mean(every[1:], roots > 0, width), every[0], own, blocks)
            score.append(np.log(max(best(path, every[0], own)[1], 1e-300)))
        scores.append(np.array(score))
    return scores
