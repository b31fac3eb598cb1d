"""Fits of many pixels at a time on a GPU: what `fastdiff.kernels.cube` does pixel by pixel.

The formulas are those of its file `ridge`, over CuPy arrays with a first axis of pixels. Factors
come from batched Cholesky (`arrays.cholesky`, `arrays.solve_positive`), Gram matrices of single
pixels from batched matrix products, which cost a GPU next to nothing; what neighbours share is not
made use of.

Shapes: lists (n, k) int32, rows of `series` (n_series, n_epochs), of which the first counts[i]
count, the last `n_free` without a penalty; targets, counts (n,) int64 and penalty (n,) float64;
roots (n, n_epochs), square roots of the weights; blocks and runs, NumPy arrays, as in that file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.kernels.cube import batched
from fastdiff.kernels.cube.fits import Fits
from fastdiff.kernels.cube.tree import RUN

_BYTES = 2e9  # of matrices at a time


def shared(fits: Fits, gram: Any, prediction: Any, coefficients: Any) -> None:
    """Predict the epochs of the series by fits whose weights are those of `gram`.

    `prediction` (n, n_epochs) is filled, and `coefficients` (n, k), unless it is empty.
    """
    xp = arrays.namespace(fits.series)
    k = fits.lists.shape[1]
    for rows in _parts(len(fits.lists), 4 * k**2):
        some = fits.part(rows)
        matrix, right = xp.empty((len(some.lists), k, k)), xp.empty((len(some.lists), k))
        batched.gather_systems(gram, *some[1:], matrix, right)
        values = arrays.solve_positive(matrix, right)
        batched.predict_targets(some.series, some.lists, some.counts, values, prediction[rows])
        if len(coefficients):
            coefficients[rows] = values


def single(
    fits: Fits, roots: Any, blocks: NDArray[np.int64], runs: NDArray[np.int64], *,
    few_epochs: bool, leverage: bool,
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    """Prediction (n, n_epochs), freedom (n,), leverage (n, n_epochs) and coefficients (n, k).

    By matrices of epochs, for `few_epochs`, or of predictors. The prediction is that of the blocks,
    and of the whole fit at epochs in no block or without weight. Without blocks and `leverage`,
    matrices of predictors give no freedom (NaN) and an empty leverage, which cost most there.
    """
    xp = arrays.namespace(fits.series)
    n_epochs, k = fits.series.shape[1], fits.lists.shape[1]
    size = n_epochs if few_epochs else k
    widest = int((runs[:, 3] - runs[:, 2]).max(initial=0))
    longest = int((blocks[:, 1] - blocks[:, 0]).max(initial=0))
    each = 6 * k * n_epochs + 5 * size**2
    each += 3 * widest**2 + 4 * min(RUN, len(blocks)) * longest**2
    way = _by_epochs if few_epochs else _by_predictors
    made = [
        way(fits.part(rows), roots[rows], blocks, runs, leverage)
        for rows in _parts(len(fits.lists), each)
    ]
    return tuple(xp.concatenate(parts) for parts in zip(*made, strict=True))


def _parts(n: int, doubles: int) -> list[slice]:
    """Targets whose matrices, of so many numbers for each, fit into the memory."""
    step = max(1, int(_BYTES / (8 * doubles)))
    return [slice(first, min(first + step, n)) for first in range(0, n, step)]


def _forward(matrix: Any, columns: Any) -> Any:
    """L^-1 columns (n, k, m) for the Cholesky factors L of matrix (n, k, k), in place."""
    batched.solve_forward_columns(arrays.cholesky(matrix), columns)
    return columns


def _predict(fits: Fits, coefficients: Any) -> Any:
    """(n, n_epochs)"""
    shape = len(fits.lists), fits.series.shape[1]
    out = arrays.namespace(fits.series).empty(shape)
    batched.predict_targets(fits.series, fits.lists, fits.counts, coefficients, out)
    return out


def _by_predictors(
    fits: Fits, roots: Any, blocks: NDArray[np.int64], runs: NDArray[np.int64], leverage: bool
) -> tuple[Any, Any, Any, Any]:
    series, targets, lists, counts, n_free, penalty = fits
    xp = arrays.namespace(series)
    n, k = lists.shape
    n_epochs = series.shape[1]
    place = xp.arange(k)
    there, weighted = place < counts[:, None], roots > 0
    y = series[targets]
    # An epoch without weight is predicted like any other, and counts nothing.
    scale = xp.where(weighted, roots, 1.0)
    columns = xp.empty((n, k, n_epochs + 1))
    z, known = columns[:, :, :-1], columns[:, :, -1]
    z[...] = series[lists] * there[:, :, None] * scale[:, None]
    counted = z * weighted[:, None]
    matrix = counted @ counted.swapaxes(1, 2)
    right = (counted @ (y * roots)[:, :, None])[:, :, 0]
    penalised = xp.where(place < counts[:, None] - n_free, penalty[:, None], 0.0)
    matrix += xp.where(there, penalised, 1.0)[:, :, None] * xp.eye(k)
    values = arrays.solve_positive(matrix, right)
    if not len(blocks) and not leverage:
        prediction = _predict(fits._replace(counts=counts), values)
        return prediction, xp.full(n, np.nan), xp.empty((n, 0)), values
    known[...] = right
    _forward(matrix, columns)
    fitted = (z * known[:, :, None]).sum(1)
    prediction = fitted / scale
    rest = xp.where(weighted, y * roots - fitted, 0.0)
    z *= weighted[:, None]
    parts = (z**2).sum(1)
    for begin, end, low, high in runs:
        some = z[:, :, low:high]
        base = xp.eye(high - low) - some.swapaxes(1, 2) @ some
        _leave_out(base, rest[:, low:high], low, blocks[begin:end], y, roots, prediction)
    return prediction, parts.sum(1), parts, values


def _by_epochs(
    fits: Fits, roots: Any, blocks: NDArray[np.int64], runs: NDArray[np.int64], leverage: bool
) -> tuple[Any, Any, Any, Any]:
    series, targets, lists, counts, n_free, penalty = fits
    xp = arrays.namespace(series)
    n, k = lists.shape
    n_epochs = series.shape[1]
    counts = counts - n_free
    weighted = roots > 0
    y = series[targets]
    wanted = y * roots
    x = series[lists] * (xp.arange(k) < counts[:, None])[:, :, None] * roots[:, None]
    base = x.swapaxes(1, 2) @ x
    scale = (x**2).sum((1, 2))[:, None] / n_epochs
    # What has no penalty is split off: it keeps an eigenvalue, `scale`, of its own.
    basis: list[tuple[Any, Any]] = []
    for free in range(len(series) - n_free, len(series)):
        bare = xp.broadcast_to(series[free], (n, n_epochs))
        vector = bare * roots
        before = _norm(vector)
        for _ in range(2):
            for other, bare_other in basis:
                part = (vector * other).sum(1, keepdims=True)
                vector, bare = vector - part * other, bare - part * bare_other
        norm = _norm(vector)
        inverse = xp.where(norm > 1e-9 * before, 1 / xp.maximum(norm, 1e-300), 0.0)
        vector, bare = vector * inverse, bare * inverse
        basis.append((vector, bare))
        product = (base @ vector[:, :, None])[:, :, 0]
        middle = (product * vector).sum(1, keepdims=True) + scale
        product = middle * vector / 2 - product
        base += vector[:, :, None] * product[:, None] + product[:, :, None] * vector[:, None]
    base += penalty[:, None, None] * xp.eye(n_epochs)
    inverse = xp.zeros((n, n_epochs, n_epochs))
    inverse += xp.eye(n_epochs)
    _forward(base, inverse)
    base = inverse.swapaxes(1, 2) @ inverse
    for vector, _ in basis:
        base -= (vector / (scale + penalty[:, None]))[:, :, None] * vector[:, None]
    rest = (base @ wanted[:, :, None])[:, :, 0]
    values = (x @ rest[:, :, None])[:, :, 0]
    unexplained = wanted - (values[:, None] @ x)[:, 0]
    prediction = _predict(fits._replace(counts=counts), values)
    for vector, bare in basis:
        prediction += (unexplained * vector).sum(1, keepdims=True) * bare
    penalty = penalty[:, None]
    prediction = xp.where(weighted, y - penalty * rest / xp.where(weighted, roots, 1.0), prediction)
    epoch = xp.arange(n_epochs)
    parts = xp.where(weighted, 1.0 - penalty * base[:, epoch, epoch], 0.0)
    for begin, end, low, high in runs:
        some = base[:, low:high, low:high]
        _leave_out(some, rest[:, low:high], low, blocks[begin:end], y, roots, prediction)
    return prediction, parts.sum(1), parts, values


def _norm(rows: Any) -> Any:
    return arrays.namespace(rows).sqrt((rows**2).sum(1, keepdims=True))


def _leave_out(
    base: Any, rest: Any, low: int, blocks: NDArray[np.int64], y: Any, roots: Any, prediction: Any
) -> None:
    """Predict blocks: y less base_BB^-1 rest_B; row 0 of `base` is epoch `low`."""
    xp = arrays.namespace(base)
    first, stop, begin, end = blocks.T
    longest = int((stop - first).max())
    place = (first - low)[:, None] + np.arange(longest)
    there = place < (stop - low)[:, None]
    place, inside = xp.asarray(np.where(there, place, 0)), xp.asarray(there)
    both = inside[:, :, None] & inside[:, None]
    # Shorter blocks are filled up with rows of the identity.
    matrix = xp.where(both, base[:, place[:, :, None], place[:, None]], xp.eye(longest))
    right = xp.where(inside, rest[:, place], 0.0)
    missed = arrays.solve_positive(matrix.reshape(-1, longest, longest), right.reshape(-1, longest))
    missed = missed.reshape(right.shape)
    block = np.repeat(np.arange(len(blocks)), end - begin)
    epoch = np.concatenate([np.arange(*ends) for ends in blocks[:, 2:]])
    at = xp.asarray(epoch - first[block])
    block, epoch = xp.asarray(block), xp.asarray(epoch)
    root = roots[:, epoch]
    found = y[:, epoch] - missed[:, block, at] / xp.where(root > 0, root, 1.0)
    prediction[:, epoch] = xp.where(root > 0, found, prediction[:, epoch])
