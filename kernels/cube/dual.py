"""Fits with a matrix of epochs for each target: fewer epochs than predictors.

`kernels/cube/ridge.py` has the formulas. Series without a penalty are split off: the matrix K is
restricted to what is orthogonal to them, and they keep an eigenvalue of their own there, so that it
stays positive.

Cost a target, in operations: n_epochs^2 k + n_epochs^3, and less than b^3 / 3 for every block of b
epochs.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .. import jit
from ..linalg.factor import dot, dots, factorise, pad, solve_rows
from .tree import DEPTH, blocks_of, extent, leave_out


class Epochs(NamedTuple):
    """Scratch of a target; `size` is n_epochs up to a multiple of 8, `wide` is k_max likewise."""

    x: Any
    """(size + 8, wide), weighted series of the predictors, a row an epoch"""
    matrix: Any
    """(size + 8, size + 8), K, then Q"""
    inverse: Any
    """(size + 8, size), rows of L^-T"""
    basis: Any
    """(n_free, n_epochs), weighted series without a penalty, orthogonal and of norm 1"""
    bare: Any
    """(n_free, n_epochs), the same sums of the series without weights"""
    weighted: Any
    """(size,), the weighted target"""
    rest: Any
    """(size,), Q times the weighted target"""
    product: Any
    """(n_epochs,)"""
    values: Any
    """(wide,), coefficients of the series with a penalty"""
    out: Any
    """(8, 2), what `dots` gives"""


@jit.item
def make_epochs(n_epochs, k_max, n_free):
    """The scratch."""
    size, wide = (n_epochs + 7) // 8 * 8, (k_max + 7) // 8 * 8
    basis, bare = np.zeros((2, n_free, n_epochs))
    return Epochs(
        np.zeros((size + 8, wide)),
        np.zeros((size + 8, size + 8)),
        np.zeros((size + 8, size)),
        basis,
        bare,
        np.zeros(size),
        np.zeros(size),
        np.zeros(n_epochs),
        np.zeros(wide),
        np.zeros((8, 2)),
    )


@jit.item
def fill_gram(fits, i, k, root, epochs):
    """K of the i-th target, and the weighted series of its predictors."""
    x, matrix, out = epochs.x, epochs.matrix, epochs.out
    n_epochs = len(root)
    for a in range(k):
        row = fits.series[fits.lists[i, a]]
        for t in range(n_epochs):
            x[t, a] = row[t] * root[t]
    x[:, k:] = 0.0
    for r in range(0, (n_epochs + 7) // 8 * 8, 8):
        for c in range(0, r + 8, 2):
            dots(x[r:], x[c:], k, out)
            for a in range(8):
                for d in range(2):
                    matrix[r + a, c + d] = matrix[c + d, r + a] = out[a, d]


@jit.item
def weigh(y, root, weighted, matrix):
    """Weight the target, and return the trace of K."""
    trace = 0.0
    for t in range(len(root)):
        trace += matrix[t, t]
        weighted[t] = y[t] * root[t]
    return trace


@jit.item
def orthogonalise(row, f, root, epochs):
    """Make a series without a penalty the f-th vector of the basis; zeros if it depends on others.

    Twice, because rounding leaves something of the others.
    """
    basis, bare, n_epochs = epochs.basis, epochs.bare, len(root)
    for t in range(n_epochs):
        bare[f, t], basis[f, t] = row[t], row[t] * root[t]
    before = math.sqrt(dot(basis[f], basis[f], n_epochs))
    for _ in range(2):
        for g in range(f):
            part = dot(basis[f], basis[g], n_epochs)
            for t in range(n_epochs):
                basis[f, t] -= part * basis[g, t]
                bare[f, t] -= part * bare[g, t]
    norm = math.sqrt(dot(basis[f], basis[f], n_epochs))
    inverse_norm = 1.0 / norm if norm > 1e-9 * before else 0.0
    for t in range(n_epochs):
        basis[f, t] *= inverse_norm
        bare[f, t] *= inverse_norm


@jit.item
def split_off(basis, scale, product, matrix):
    """Make a vector of the basis an eigenvector of K, with the eigenvalue `scale`."""
    n_epochs = len(basis)
    for t in range(n_epochs):
        product[t] = dot(matrix[t], basis, n_epochs)
    middle = dot(product, basis, n_epochs) + scale
    for t in range(n_epochs):
        for s in range(n_epochs):
            matrix[t, s] += (
                middle * basis[t] * basis[s] - product[t] * basis[s] - basis[t] * product[s]
            )


@jit.item
def invert(n_epochs, scale, penalty, epochs):
    """From K to Q, which has nothing in the direction of the basis."""
    matrix, inverse, out = epochs.matrix, epochs.inverse, epochs.out
    n = (n_epochs + 7) // 8 * 8
    for t in range(n_epochs):
        matrix[t, t] += penalty
    pad(matrix, epochs.rest, n_epochs, n)
    factorise(matrix, n, out)
    for r in range(0, n, 8):
        inverse[r : r + 8] = 0.0
        for a in range(8):
            inverse[r + a, r + a] = 1.0
        solve_rows(inverse[r:, r:], matrix[r:, r:], n - r, out)
    for r in range(0, n, 8):
        for c in range(0, r + 8, 2):
            dots(inverse[r:, r:], inverse[c:, r:], n - r, out)
            for a in range(8):
                for d in range(2):
                    matrix[r + a, c + d] = matrix[c + d, r + a] = out[a, d]
    for basis in epochs.basis:
        for t in range(n_epochs):
            part = basis[t] / (scale + penalty)
            for s in range(n_epochs):
                matrix[t, s] -= part * basis[s]


@jit.item
def find_values(n_epochs, k, epochs):
    """Q times the weighted target, and the coefficients that follow."""
    x, rest, values = epochs.x, epochs.rest, epochs.values
    for t in range(n_epochs):
        rest[t] = dot(epochs.matrix[t], epochs.weighted, n_epochs)
    values[:] = 0.0
    for t in range(n_epochs):
        part, row = rest[t], x[t]
        for a in range(np.uintp(k)):
            values[a] += part * row[a]


@jit.item
def predict_all(fits, i, k, root, penalty, epochs, predicted):
    """Predict every epoch by the whole fit."""
    series, y = fits.series, fits.series[fits.targets[i]]
    product, values, n_epochs = epochs.product, epochs.values, len(root)
    for t in range(n_epochs):
        product[t] = epochs.weighted[t] - dot(epochs.x[t], values, k)
        if root[t] > 0.0:
            predicted[t] = y[t] - penalty * epochs.rest[t] / root[t]
        else:
            predicted[t] = 0.0
            for a in range(k):
                predicted[t] += values[a] * series[fits.lists[i, a], t]
    for f in range(len(epochs.basis)):
        part = dot(product, epochs.basis[f], n_epochs)
        for t in range(n_epochs):
            if root[t] == 0.0:
                predicted[t] += part * epochs.bare[f, t]


@jit.item
def find_leverage(matrix, root, penalty, i, fitted):
    """Degrees of freedom of the i-th target, and the leverage of each epoch where it is wanted."""
    fitted.freedom[i] = 0.0
    for t in range(len(root)):
        part = 1.0 - penalty * matrix[t, t] if root[t] > 0.0 else 0.0
        fitted.freedom[i] += part
        if len(fitted.leverage):
            fitted.leverage[i, t] = part


@jit.cpu_loop
def dual_cpu(start, stop, fits, weights, left_out, fitted):
    """Item: one target."""
    series, n_epochs, n_free = fits.series, fits.series.shape[1], fits.n_free
    epochs = make_epochs(n_epochs, fits.lists.shape[1], n_free)
    matrix, n = epochs.matrix, (n_epochs + 7) // 8 * 8
    longest, side = extent(left_out)
    stack = np.empty((DEPTH + 1, side * side))
    for i in range(start, stop):
        k, penalty, y = fits.counts[i] - n_free, fits.penalty[i], series[fits.targets[i]]
        root = weights.roots
        if weights.which[i] >= 0:
            root = weights.own[weights.which[i]]
        fill_gram(fits, i, k, root, epochs)
        scale = weigh(y, root, epochs.weighted, matrix) / n_epochs
        for f in range(n_free):
            orthogonalise(series[fits.lists[i, k + f]], f, root, epochs)
            split_off(epochs.basis[f], scale, epochs.product, matrix)
        invert(n_epochs, scale, penalty, epochs)
        find_values(n_epochs, k, epochs)
        if len(fitted.coefficients):
            fitted.coefficients[i, :k] = epochs.values[:k]
        predicted = fitted.prediction[i]
        predict_all(fits, i, k, root, penalty, epochs, predicted)
        find_leverage(matrix, root, penalty, i, fitted)
        for t in range(n_epochs):
            matrix[n, t] = epochs.rest[t]
        for run in left_out.runs:
            blocks = blocks_of(left_out, run)
            leave_out(matrix, n, 0, blocks, longest, y, root, stack, predicted)
