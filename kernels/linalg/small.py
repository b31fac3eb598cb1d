r"""Symmetric positive systems of few unknowns, A x = b, each solved by one thread in place.

By Cholesky's factor A = L L^T, then L y = b and L^T x = y. A pivot below 1e-300 counts as this:
a system that is singular to rounding gives large numbers, no NaN.

There are two orders of the same operations. `solve` goes by columns and subtracts products one by
one. `solve_by_rows` makes each entry at once from a sum of products along rows, which lie in order
in the memory: compilers vectorise these sums, which pays from some ten unknowns on. The two round
differently. For hundreds of unknowns there is `factor`.

Shapes: matrix (n, n) float64, of which the lower half is read and becomes L; right (n,) float64,
which becomes x.

Cost in operations: n^3 / 3 + 2 n^2.

Source: Golub & Van Loan 2013 (Matrix Computations), sections 3.1 and 4.2.
"""

from __future__ import annotations

import math

import numpy as np

from .. import jit

_LEAST_PIVOT = 1e-300


@jit.item
def solve(matrix, right):
    """Solve a system of about five unknowns in place, column by column."""
    n = right.shape[0]
    for j in range(n):
        for k in range(j):
            matrix[j, j] -= matrix[j, k] * matrix[j, k]
        matrix[j, j] = math.sqrt(max(matrix[j, j], _LEAST_PIVOT))
        for i in range(j + 1, n):
            for k in range(j):
                matrix[i, j] -= matrix[i, k] * matrix[j, k]
            matrix[i, j] /= matrix[j, j]
    for i in range(n):
        for k in range(i):
            right[i] -= matrix[i, k] * right[k]
        right[i] /= matrix[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            right[i] -= matrix[k, i] * right[k]
        right[i] /= matrix[i, i]


@jit.item
def solve_by_rows(matrix, right):
    """Solve a system of tens of unknowns in place, row by row."""
    n = right.shape[0]
    for i in range(n):
        for j in range(i + 1):
            total = 0.0
            for k in range(np.uintp(j)):
                total += matrix[i, k] * matrix[j, k]
            if j < i:
                matrix[i, j] = (matrix[i, j] - total) / matrix[j, j]
            else:
                matrix[i, i] = math.sqrt(max(matrix[i, i] - total, _LEAST_PIVOT))
                total = 0.0
                for k in range(np.uintp(i)):
                    total += matrix[i, k] * right[k]
                right[i] = (right[i] - total) / matrix[i, i]
    for i in range(n - 1, -1, -1):
        right[i] /= matrix[i, i]
        for k in range(np.uintp(i)):
            right[k] -= matrix[i, k] * right[i]
