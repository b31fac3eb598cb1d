"""Arguments of the fits of a cube, by name, and the columns of blocks and runs of epochs.

`kernels/cube/ridge.py` says what each array holds and what is done with them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

FIRST, STOP, FROM, TO = range(4)
"""Columns of a block: epochs first <= t < stop are left out, from <= t < to are predicted."""
BEGIN, END, LOW, HIGH = range(4)
"""Columns of a run: blocks begin <= b < end, which lie in epochs low <= t < high."""


class Fits(NamedTuple):
    """Targets, what predicts them, and their penalty."""

    series: Any
    """(n_series, n_epochs) float64"""
    targets: Any
    """(n,) int64, rows of the series"""
    lists: Any
    """(n, k_max) int32, the predictors of each target: rows of the series"""
    counts: Any
    """(n,) int64, how many predictors of each list count"""
    n_free: int
    """The last so many of them have no penalty."""
    penalty: Any
    """One float64 for all, (n,) for each, or (n_penalties,) to choose from"""

    def part(self, rows: slice) -> Fits:
        """Some of the targets, each of which has a penalty of its own."""
        lists = (each[rows] for each in (self.targets, self.lists, self.counts))
        return Fits(self.series, *lists, self.n_free, self.penalty[rows])


class Weights(NamedTuple):
    """Square roots of the weights of epochs: those that fits share, and those of single fits."""

    roots: Any
    """(n_epochs,) float64, shared"""
    own: Any
    """(m, n_epochs) float64"""
    which: Any
    """(n,) int64, the row of `own` of each target, or -1 for the shared weights"""


class LeftOut(NamedTuple):
    """Epochs that are predicted by fits that do not see them."""

    blocks: Any
    """(n_blocks, 4) int64, columns `FIRST`, `STOP`, `FROM`, `TO`"""
    runs: Any
    """(n_runs, 4) int64, columns `BEGIN`, `END`, `LOW`, `HIGH`"""


class Fitted(NamedTuple):
    """What fits give; arrays that are not wanted have no rows."""

    prediction: Any
    """(n, n_epochs) float64"""
    freedom: Any
    """(n,) float64, degrees of freedom"""
    leverage: Any
    """(n, n_epochs) float64, how much each epoch tells of itself; may be empty"""
    coefficients: Any
    """(n, k_max) float64, of the predictors; may be empty"""
