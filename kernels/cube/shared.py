"""Fits of neighbours that share their weights: a tree of partial factors, and what it predicts.

`kernels/cube/ridge.py` has the formulas, `tree` the factors. Predictions of a run of targets are
products of matrices: one of the coefficients, with a row a target, and one of all predictors of the
run, with a row an epoch.

Cost a target, in operations: about k^3 / 12 for the factors, 2 k n_epochs for the prediction.
"""

from __future__ import annotations

import numpy as np

from .. import jit
from ..linalg.factor import dots
from .tree import DEPTH, RUN, subsets, union

_EPOCHS = 32  # of all predictors of a run, which stay in the second cache


@jit.item
def transpose(series, index, k, first, stop, out):
    """``out[t - first, a] = series[index[a], t]`` for a < k and first <= t < stop."""
    for a in range(k):
        row = series[index[a]]
        for t in range(first, stop):
            out[t - first, a] = row[t]


@jit.item
def most_predictors(lists, counts, begin, end, seen, every):
    """How many predictors the targets of any run from `begin` to `end` have together."""
    most = 0
    for run in range(begin, end):
        low, high = run * RUN, min(run * RUN + RUN, len(lists))
        most = max(most, union(lists[low:high], counts[low:high], seen, every))
    return most


@jit.item
def spread(values, lists, counts, seen, every, dense):
    """Coefficients with a column for each predictor of any target, 0 where one does without.

    Returns how many columns there are; `every` has their series.
    """
    m = union(lists, counts, seen, every)
    for a in range(m):
        seen[every[a]] = a
    dense[:] = 0.0
    for i in range(len(lists)):
        for a in range(counts[i]):
            dense[i, seen[lists[i, a]]] = values[i, a]
    return m


@jit.item
def multiply(rows, dense, m, n_epochs, out, prediction):
    """Predictions of up to `_EPOCHS` epochs: products of rows of series and of coefficients."""
    for r in range(0, n_epochs, 8):
        for i in range(0, len(prediction), 2):
            dots(rows[r:], dense[i:], m, out)
            for a in range(min(8, n_epochs - r)):
                prediction[i, r + a] = out[a, 0]
                if i + 1 < len(prediction):
                    prediction[i + 1, r + a] = out[a, 1]


@jit.cpu_loop
def shared_cpu(start, stop, fits, gram, first_epoch, stop_epoch, prediction, coefficients):
    """Item: a run of targets, best neighbours, that share the weights of `gram` and the penalty."""
    n_series, n, k_max = len(fits.series), len(fits.targets), fits.lists.shape[1]
    seen, every = np.zeros((2, n_series), np.int64)
    most = most_predictors(fits.lists, fits.counts, start, stop, seen, every)
    size = (most + RUN + 7) // 8 * 8 + 16
    stack = np.empty((DEPTH + 1, size * size))
    values, dense = np.zeros((RUN, k_max)), np.zeros((RUN, size))
    rows, out = np.zeros((_EPOCHS, size)), np.zeros((8, 2))
    for run in range(start, stop):
        low, high = run * RUN, min(run * RUN + RUN, n)
        lists, counts = fits.lists[low:high], fits.counts[low:high]
        subsets(
            gram, fits.targets[low:high], lists, counts, fits.penalty, n_series - fits.n_free,
            DEPTH, stack, values,
        )  # fmt: skip
        m = spread(values, lists, counts, seen, every, dense)
        if len(coefficients):
            for i in range(high - low):
                coefficients[low + i, : counts[i]] = values[i, : counts[i]]
        for first in range(first_epoch, stop_epoch, _EPOCHS):
            until = min(first + _EPOCHS, stop_epoch)
            transpose(fits.series, every, m, first, until, rows)
            multiply(rows, dense, m, until - first, out, prediction[low:high, first:until])
