"""Blocked factors of positive matrices: against NumPy."""

import numpy as np
import pytest

from fastdiff.kernels.linalg import factor
from fastdiff.kernels.linalg.factor import ROWS

OUT = np.empty((8, 2))


def positive(rng, n, padded=None):
    """A matrix of which the upper half is never read, and the whole of it."""
    columns = rng.normal(size=(n, 2 * n))
    whole = columns @ columns.T
    matrix = np.full((padded or n, padded or n), np.nan)
    matrix[:n, :n] = np.where(np.tri(n, dtype=bool), whole, np.nan)
    return matrix, whole


def test_dots_are_those_of_numpy(rng):
    a, b, out = rng.normal(size=(8, 13)), rng.normal(size=(2, 13)), np.empty((8, 2))
    factor.dots(a, b, 11, out)
    np.testing.assert_allclose(out, a[:, :11] @ b[:, :11].T)
    assert factor.dot(a[0], b[0], 11) == pytest.approx(a[0, :11] @ b[0, :11])
    factor.dots(a, b, 0, out)
    assert not out.any()


@pytest.mark.parametrize("n", [ROWS, 3 * ROWS])
def test_factor_is_that_of_numpy(rng, n):
    matrix, whole = positive(rng, n)
    factor.factorise(matrix, n, OUT)
    np.testing.assert_allclose(np.tril(matrix), np.linalg.cholesky(whole), rtol=1e-9)


def test_rows_and_columns_are_solved(rng):
    n = 2 * ROWS
    matrix, whole = positive(rng, n)
    factor.factorise(matrix, n, OUT)
    lower = np.linalg.cholesky(whole)
    rows = rng.normal(size=(8, n))
    expected = np.linalg.solve(lower, rows.T).T
    factor.solve_rows(rows, matrix, n, OUT)
    np.testing.assert_allclose(rows, expected, rtol=1e-8)
    right = rng.normal(size=n)
    expected = np.linalg.solve(lower, right)
    solution = np.linalg.solve(lower.T, expected)
    factor.solve_forward(matrix, right, n)
    np.testing.assert_allclose(right, expected, rtol=1e-8)
    factor.solve_back(matrix, right, n)
    np.testing.assert_allclose(right, solution, rtol=1e-8)


@pytest.mark.parametrize("k", [1, 7, 8, 11])
def test_padding_changes_no_solution(rng, k):
    n = (k + ROWS - 1) // ROWS * ROWS
    matrix, whole = positive(rng, k, padded=n)
    right = np.r_[rng.normal(size=k), np.full(n - k, np.nan)]
    expected = np.linalg.solve(whole, right[:k])
    factor.pad(matrix, right, k, n)
    factor.factorise(matrix, n, OUT)
    factor.solve_forward(matrix, right, n)
    factor.solve_back(matrix, right, n)
    np.testing.assert_allclose(right[:k], expected, rtol=1e-8)
    assert not right[k:].any()


def test_what_is_not_eliminated_becomes_its_schur_complement(rng):
    """Both halves of it, from where the factor goes on to that of the whole."""
    n, rows = ROWS, 3 * ROWS
    columns = rng.normal(size=(rows, 2 * rows))
    whole = columns @ columns.T
    matrix = whole.copy()
    factor.eliminate(matrix, n, rows, rows, OUT)
    inner = np.linalg.solve(whole[:n, :n], whole[:n, n:])
    np.testing.assert_allclose(matrix[n:, n:], whole[n:, n:] - whole[n:, :n] @ inner, rtol=1e-8)
    lower = np.linalg.cholesky(whole)
    np.testing.assert_allclose(matrix[n:, :n], lower[n:, :n], rtol=1e-8)
    factor.factorise(matrix[n:, n:], rows - n, OUT)
    np.testing.assert_allclose(np.tril(matrix), lower, rtol=1e-8, atol=1e-12)
