"""Fits with a matrix of predictors for each target: weights of its own, leverage, blocks of epochs.

`kernels/cube/ridge.py` has the formulas. The normal matrix is a part of the Gram matrix of all
series, less the share of the epochs that the target alone does not see; where these are more than
half, or there is no Gram matrix, it is made from the epochs that the target sees.

Cost a target, in operations: k^3 / 3 for the factor, k^2 n_epochs for Z, k^2 for each epoch that
differs, and for every block of b epochs b^2 k + b^3 / 3 (windows: each pair of epochs once, and
less than b^3 / 30).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import jit
from ..linalg.factor import dot, dots, factorise, pad, solve_back, solve_forward, solve_rows
from .fits import HIGH, LOW
from .shared import transpose
from .tree import DEPTH, blocks_of, extent, gather, leave_out


class Target(NamedTuple):
    """Scratch of a target; `size` is k_max up to a multiple of 8, `n_rows` n_epochs likewise."""

    index: Any
    """(size,) int64, its predictors"""
    lost: Any
    """(n_epochs,) int64, epochs that have another weight than the shared one"""
    weighted: Any
    """(size + 8, n_epochs), series of the predictors at these epochs; empty without own weights"""
    matrix: Any
    """(size + 8, size), the normal matrix, then its factor L"""
    right: Any
    """(size,), the right-hand side, then the coefficients"""
    known: Any
    """(size,), L^-1 of the right-hand side"""
    z: Any
    """(n_rows, size), weighted series of the predictors times L^-T; (8, size) if not wanted"""
    residual: Any
    """(n_rows,), weighted residuals"""
    out: Any
    """(8, 2), what `dots` gives"""


@jit.item
def make_target(n_epochs, k_max, with_own, with_z):
    """The scratch."""
    size = (k_max + 7) // 8 * 8
    n_rows = (n_epochs + 7) // 8 * 8 + 8
    return Target(
        np.zeros(size, np.int64),
        np.zeros(n_epochs, np.int64),
        np.zeros((size + 8 if with_own else 0, n_epochs)),
        np.zeros((size + 8, size)),
        np.zeros(size),
        np.zeros(size),
        np.zeros((n_rows if with_z else 8, size)),
        np.zeros(n_rows),
        np.zeros((8, 2)),
    )


@jit.item
def find_lost(root, roots, lost):
    """Write the epochs where the target has a weight of its own; how many."""
    n_lost = 0
    for t in range(len(roots)):
        if root[t] != roots[t]:
            lost[n_lost] = t
            n_lost += 1
    return n_lost


@jit.item
def add_epochs(series, y, root, n_lost, sign, k, target):
    """Add `sign` times the share of some epochs to the normal matrix and the right-hand side."""
    weighted, residual, lost = target.weighted, target.residual, target.lost
    matrix, right, out = target.matrix, target.right, target.out
    n = (k + 7) // 8 * 8
    for t in range(n_lost):
        residual[t] = y[lost[t]] * root[lost[t]]
    for a in range(k):
        for t in range(n_lost):
            weighted[a, t] = series[target.index[a], lost[t]] * root[lost[t]]
        right[a] += sign * dot(weighted[a], residual, n_lost)
    for a in range(k, n + 8):
        weighted[a] = 0.0
    for a in range(0, n, 8):
        for b in range(0, a + 8, 2):
            dots(weighted[a:], weighted[b:], n_lost, out)
            for r in range(8):
                matrix[a + r, b] += sign * out[r, 0]
                matrix[a + r, b + 1] += sign * out[r, 1]


@jit.item
def normal_equations(fits, i, gram, root, roots, target):
    """Fill matrix and right-hand side of the i-th target, without the penalty."""
    k, y = fits.counts[i], fits.series[fits.targets[i]]
    n_epochs = len(roots)
    n_lost = find_lost(root, roots, target.lost)
    if len(gram) and n_lost <= n_epochs // 2:
        gather(gram, target.index, k, fits.targets[i], target.matrix, target.right)
        if n_lost > 0:
            # What is lost had the shared weights.
            add_epochs(fits.series, y, roots, n_lost, -1.0, k, target)
    else:
        for t in range(n_epochs):
            target.lost[t] = t
        target.matrix[:], target.right[:] = 0.0, 0.0
        add_epochs(fits.series, y, root, n_epochs, 1.0, k, target)


@jit.item
def solve_target(k, n_free, penalty, target):
    """From the normal equations to the coefficients."""
    matrix, right = target.matrix, target.right
    n = (k + 7) // 8 * 8
    pad(matrix, right, k, n)
    for a in range(k - n_free):
        matrix[a, a] += penalty
    factorise(matrix, n, target.out)
    solve_forward(matrix, right, n)
    target.known[:] = right
    solve_back(matrix, right, n)


@jit.item
def predict_all(series, k, target, predicted):
    """Predict every epoch by the whole fit."""
    n_epochs = len(predicted)
    for first in range(0, n_epochs, 8):
        stop = min(first + 8, n_epochs)
        transpose(series, target.index, k, first, stop, target.z)
        for t in range(first, stop):
            predicted[t] = dot(target.z[t - first], target.right, k)


@jit.item
def fill_z(series, k, first, root, target):
    """Eight rows of Z; those of epochs without weight as if they had the weight 1."""
    z, n_epochs = target.z, len(root)
    n = (k + 7) // 8 * 8
    transpose(series, target.index, k, first, min(first + 8, n_epochs), z[first:])
    for t in range(first, first + 8):
        scale = root[t] if t < n_epochs and root[t] > 0.0 else 1.0
        for a in range(k if t < n_epochs else 0):
            z[t, a] *= scale
        for a in range(k if t < n_epochs else 0, n):
            z[t, a] = 0.0
    solve_rows(z[first:], target.matrix, n, target.out)


@jit.item
def predict_with_leverage(series, y, k, root, target, predicted, leverage):
    """Predict every epoch by the whole fit, and keep Z and the residuals; degrees of freedom.

    `leverage` may be empty.
    """
    z, residual, n_epochs = target.z, target.residual, len(predicted)
    n = (k + 7) // 8 * 8
    freedom = 0.0
    for first in range(0, n_epochs, 8):
        fill_z(series, k, first, root, target)
        for t in range(first, min(first + 8, n_epochs)):
            value = dot(z[t], target.known, n)
            if root[t] > 0.0:
                predicted[t] = value / root[t]
                residual[t] = y[t] * root[t] - value
            else:
                predicted[t], residual[t] = value, 0.0
                for a in range(n):
                    z[t, a] = 0.0
            part = dot(z[t], z[t], n)
            freedom += part
            if len(leverage):
                leverage[t] = part
    return freedom


@jit.item
def hat_rest(z, n, low, old, m, inner, out):
    """I - H of epochs low <= t < low + m, of which the first `old` are there already."""
    for r in range(old, m, 8):
        for c in range(0, min(r + 8, m), 2):
            dots(z[low + r :], z[low + c :], n, out)
            for a in range(8):
                for d in range(2):
                    value = (1.0 if r + a == c + d else 0.0) - out[a, d]
                    inner[r + a, c + d] = value
                    inner[c + d, r + a] = value


@jit.item
def predict_left_out(left_out, longest, y, k, root, target, inner, stack, predicted):
    """Predict the blocks by fits that do not see them, one run after the other.

    Runs overlap: of I - H only what is new is made.
    """
    n = (k + 7) // 8 * 8
    low, high = 0, 0
    for run in left_out.runs:
        begin, m = run[LOW], run[HIGH] - run[LOW]
        shift, old = begin - low, max(high - begin, 0)
        for r in range(old):
            for c in range(old):
                inner[r, c] = inner[r + shift, c + shift]
        low, high = begin, run[HIGH]
        hat_rest(target.z, n, low, old, m, inner, target.out)
        for t in range(m):
            inner[m, t] = target.residual[low + t]
        leave_out(inner, m, low, blocks_of(left_out, run), longest, y, root, stack, predicted)


@jit.cpu_loop
def single_cpu(start, stop, fits, gram, weights, left_out, fitted):
    """Item: one target."""
    series, n_epochs = fits.series, fits.series.shape[1]
    with_z = len(left_out.blocks) > 0 or len(fitted.leverage) > 0
    target = make_target(n_epochs, fits.lists.shape[1], len(weights.own) > 0, with_z)
    longest, side = extent(left_out)
    inner, stack = np.zeros((side, side)), np.empty((DEPTH + 1, side * side))
    for i in range(start, stop):
        k, y = fits.counts[i], series[fits.targets[i]]
        target.index[:k], target.index[k:] = fits.lists[i, :k], 0
        root = weights.roots
        if weights.which[i] >= 0:
            root = weights.own[weights.which[i]]
        normal_equations(fits, i, gram, root, weights.roots, target)
        solve_target(k, fits.n_free, fits.penalty[i], target)
        if len(fitted.coefficients):
            fitted.coefficients[i, :k] = target.right[:k]
        predicted = fitted.prediction[i]
        if not with_z:
            predict_all(series, k, target, predicted)
            continue
        leverage = fitted.leverage[i] if len(fitted.leverage) else predicted[:0]
        fitted.freedom[i] = predict_with_leverage(series, y, k, root, target, predicted, leverage)
        predict_left_out(left_out, longest, y, k, root, target, inner, stack, predicted)
