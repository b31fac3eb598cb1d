"""Series of pixels before they are fitted: single wild values, running means, and their scatter.

All take NumPy or CuPy arrays with a last axis of epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.core.stats import SIGMA_PER_MAD, mad_sigma

__all__ = ["find_spikes", "keep_unexplained", "point_scatter", "running_mean"]

SPIKE = 6.0  # robust standard deviations by which a value stands out on both sides
_PREDICTORS = 32  # that say whether a value is wild
_WILD = 4.0  # robust standard deviations at which a step is an event
_ALONE = 0.04  # part of the series that rays may hit at an epoch
_COMMON = 0.1  # part of the series that stand out where an epoch is wild
_ROWS = 512  # of a step, so that what is between stays small


def running_mean(series: Any, counted: Any, width: int) -> Any:
    """Means of the counted epochs no further than ``width // 2`` from each epoch.

    Parameters
    ----------
    series : array of float64, (n, n_epochs)
    counted : array of bool, (n_epochs,)
    width : int
        Odd; 1 gives the series back.

    Returns
    -------
    array, (n, n_epochs)
        An epoch without a counted one near keeps its value.
    """
    if width <= 1:
        return series
    xp = arrays.namespace(series)
    n, half = series.shape[-1], width // 2
    epoch = xp.arange(n)
    first, stop = xp.maximum(epoch - half, 0), xp.minimum(epoch + half + 1, n)
    number = xp.zeros(n + 1)
    number[1:] = xp.cumsum(counted)
    number = number[stop] - number[first]
    total = xp.zeros((*series.shape[:-1], n + 1))
    total[..., 1:] = xp.cumsum(xp.where(counted, series, 0.0), axis=-1)
    mean = (total[..., stop] - total[..., first]) / xp.maximum(number, 1)
    return xp.where(number > 0, mean, series)


def find_spikes(series: Any, good: Any) -> tuple[Any, Any]:
    """Wild values of single pixels, as cosmic rays leave them, and epochs that are wild.

    A value of one or two epochs stands out where it is further from both sides, the medians of
    three epochs before and after, than 6 robust standard deviations of the series (those of the
    mean of both differences). A step, as of a telescope that moves, stands out on one side only.
    At an epoch at which many series stand out, by 3 already, it was no ray that hit them: what
    they do together is what predicts.

    Parameters
    ----------
    series : array of float64, (n, n_epochs)
    good : array of bool, (n, n_epochs)
        Values that may be wild.

    Returns
    -------
    spikes : array of bool, (n, n_epochs)
        Wild values of single pixels.
    common : array of bool, (n_epochs,)
        Epochs at which more than a tenth of the series stand out.
    """
    xp = arrays.namespace(series)
    n, n_epochs = series.shape
    spikes, n_weak = xp.zeros(series.shape, bool), xp.zeros(n_epochs)
    if n_epochs < 7:
        return spikes, n_weak > 0
    for first in range(0, n, _ROWS):
        rows = np.s_[first : first + _ROWS]
        values, middle = series[rows], series[rows, 3:-3]
        side = _median_of_three(values)
        before, after = middle - side[:, :-4], middle - side[:, 4:]
        sigma = SIGMA_PER_MAD * xp.median(xp.abs(before + after), axis=1)[:, None] / 2
        height = xp.where(before * after > 0, xp.minimum(xp.abs(before), xp.abs(after)), 0.0)
        there = good[rows, 3:-3] & (sigma > 0)
        spikes[rows, 3:-3] = there & (height > SPIKE * sigma)
        n_weak[3:-3] += (there & (height > SPIKE / 2 * sigma)).sum(0)
    common = spikes.sum(0) > max(_COMMON * n, 3)
    return spikes & (n_weak <= max(_ALONE * n, 2)), common


def keep_unexplained(
    series: Any, spikes: Any, counted: NDArray[np.bool_], predictors: Callable[[int], Any]
) -> None:
    """Leave only those spikes that other series do not explain, and put what they predict there.

    A star that jumps over a pixel stands out too, but other stars jump with it.

    Parameters
    ----------
    series : array of float64, (n, n_epochs)
        Changed in place at the spikes that stay.
    spikes : array of bool, (n, n_epochs)
        Changed in place.
    counted : (n_epochs,)
        Epochs with a weight.
    predictors : callable
        Rows of the series that may predict a row; some of them are taken.
    """
    xp = arrays.namespace(series)
    n_most = min(_PREDICTORS, int(counted.sum()) // 4)
    hit = arrays.on_host(spikes.any(1))
    for row in np.flatnonzero(hit):
        rows = np.asarray(predictors(int(row)))
        unhit = rows[~hit[rows]]
        rows = unhit if 2 * len(unhit) > len(rows) else rows
        rows = rows[:: -(-len(rows) // max(n_most, 1))] if len(rows) else rows
        own = arrays.on_host(spikes[row])
        y = arrays.on_host(series[row])
        predicted = _predicted(arrays.on_host(series[xp.asarray(rows)]), y, counted & ~own)
        rest = y - predicted
        sigma = float(mad_sigma(rest[counted & ~own]))
        sides = np.interp(np.flatnonzero(own), np.flatnonzero(~own), y[~own])
        stays = np.abs(rest[own]) > np.maximum(SPIKE * sigma, np.abs(y[own] - sides) / 2)
        y[own] = np.where(stays, predicted[own], y[own])
        own[own] = stays
        series[row], spikes[row] = xp.asarray(y), xp.asarray(own)


def _predicted(
    x: NDArray[np.float64], y: NDArray[np.float64], seen: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Ridge regression with a small penalty, by the epochs that are seen."""
    x = x - x[:, seen].mean(1, keepdims=True)
    some = x[:, seen]
    gram = some @ some.T
    gram += (1e-6 * np.trace(gram) / max(len(gram), 1) + 1e-300) * np.eye(len(gram))
    level = y[seen].mean()
    predicted: NDArray[np.float64] = level + np.linalg.solve(gram, some @ (y[seen] - level)) @ x
    return predicted


def _median_of_three(values: Any) -> Any:
    """(n, n_epochs - 2): medians of each epoch and the two that follow."""
    xp = arrays.namespace(values)
    a, b, c = values[:, :-2], values[:, 1:-1], values[:, 2:]
    return xp.maximum(xp.minimum(a, b), xp.minimum(xp.maximum(a, b), c))


def point_scatter(values: NDArray[np.float64]) -> float:
    """Standard deviation of the noise from one value to the next; NaN for fewer than 3 values.

    Of the steps, which have twice its variance, those within 4 robust standard deviations count.
    Missing values (NaN) are left out.
    """
    steps = np.diff(values[np.isfinite(values)])
    if len(steps) < 2:
        return float("nan")
    steps = steps - np.median(steps)
    wild = np.abs(steps) > _WILD * max(float(mad_sigma(steps, 0.0)), 1e-300)
    return float(np.sqrt(np.mean(steps[~wild] ** 2) / 2)) if not wild.all() else float("nan")
