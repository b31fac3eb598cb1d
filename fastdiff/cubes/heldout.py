"""Ridge regression of one series over all penalties at once, held out by blocks of epochs.

Where `fastdiff.kernels.cube` fits many pixels with one penalty, this fits one series with many: the
normal matrix of each block is taken apart into its eigenvectors, after which a penalty costs a
product. Cost: k^2 n operations for n epochs and k predictors, and some 10 k^3 a block.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["PENALTIES", "PenaltyPath", "best", "follow"]

PENALTIES = np.append(10.0 ** np.arange(-10, 3.5, 0.5), np.inf)
"""Of the mean sum of squares of a predictor; the last one predicts nothing."""
_EPOCHS = 64  # of a product
_ALIKE = 1.002  # a mean square that is no worse for a larger penalty
_LEAST = 1e-13  # of that sum of squares: below, rounding errors make the coefficients


class PenaltyPath(NamedTuple):
    """What each penalty predicts."""

    penalties: NDArray[np.float64]
    """(n_penalties,)"""
    predictions: NDArray[np.float64]
    """(n_penalties, n_epochs)"""
    gains: NDArray[np.float64]
    """(n_penalties, k): mean squares of the coefficients over the blocks"""


def follow(
    predictors: NDArray[np.float64],
    wanted: NDArray[np.float64],
    roots: NDArray[np.float64],
    blocks: NDArray[np.int64],
    penalties: NDArray[np.float64] | None = None,
    shown: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> PenaltyPath:
    """Predict a series by others, each block of epochs by a fit that does not see it.

    Parameters
    ----------
    predictors : (k, n_epochs)
        Without what needs no penalty, as `wanted` is.
    wanted : (n_epochs,)
    roots : (n_epochs,)
        Square roots of the weights.
    blocks : (n_blocks, 4)
        Epochs first <= t < stop are left out, begin <= t < end predicted.
    penalties : (n_penalties,), optional
        In the square of the unit of the predictors; `PENALTIES` times their mean sum of squares.
    shown : ((k, n_epochs), (n_epochs,)), optional
        Predictors and series that the fits see instead, for the coefficients.
    """
    x, y = shown if shown is not None else (predictors, wanted)
    x, y = x * roots, y * roots
    squares = (x**2).sum(1)
    scale = float(squares[squares > 0].mean()) if (squares > 0).any() else 1.0
    if penalties is None:
        penalties = PENALTIES * scale
    strong = np.maximum(penalties, _LEAST * scale)[:, None]
    gram, right = _products(x, y)
    predictions = np.zeros((len(penalties), len(wanted)))
    gains = np.zeros((len(penalties), len(x)))
    for first, stop, begin, end in blocks:
        of_hidden, right_of_hidden = _products(x[:, first:stop], y[first:stop])
        values, vectors = np.linalg.eigh(gram - of_hidden)
        parts = vectors.T @ (right - right_of_hidden)
        coefficients = (parts / (np.maximum(values, 0.0) + strong)) @ vectors.T
        predictions[:, begin:end] = coefficients @ predictors[:, begin:end]
        gains += coefficients**2 / len(blocks)
    return PenaltyPath(penalties, predictions, gains)


def _products(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The products x x^T and x y, of few epochs at a time: many wake BLAS threads, which spin."""
    gram, right = np.zeros((len(x), len(x))), np.zeros(len(x))
    for first in range(0, len(y), _EPOCHS):
        some = x[:, first : first + _EPOCHS]
        gram += some @ some.T
        right += some @ y[first : first + _EPOCHS]
    return gram, right


def best(
    path: PenaltyPath, wanted: NDArray[np.float64], roots: NDArray[np.float64]
) -> tuple[int, float]:
    """The largest penalty that predicts as well as any, and its weighted mean square error."""
    square = (((wanted - path.predictions) * roots) ** 2).sum(1) / max((roots**2).sum(), 1e-300)
    alike = np.flatnonzero(square <= _ALIKE * square.min())
    chosen = int(alike[np.argmax(path.penalties[alike])])
    return chosen, float(square[chosen])
