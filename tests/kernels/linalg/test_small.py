"""Systems of few unknowns: against NumPy."""

import numpy as np
import pytest

from fastdiff.kernels.linalg import small

SOLVERS = [small.solve, small.solve_by_rows]


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("n", [1, 2, 5, 14])
def test_solver_agrees_with_numpy(rng, solve, n):
    factor = rng.normal(size=(n, 9 + n))
    normal, right = factor @ factor.T, rng.normal(size=n)
    expected = np.linalg.solve(normal, right)
    solve(normal, right)
    np.testing.assert_allclose(right, expected, rtol=1e-9)


@pytest.mark.parametrize("solve", SOLVERS)
def test_only_the_lower_half_is_read(rng, solve):
    factor = rng.normal(size=(5, 9))
    normal, right = factor @ factor.T, rng.normal(size=5)
    expected = np.linalg.solve(normal, right)
    lower = np.linalg.cholesky(normal)
    normal[np.triu_indices(5, 1)] = np.nan
    solve(normal, right)
    np.testing.assert_allclose(right, expected, rtol=1e-9)
    np.testing.assert_allclose(np.tril(normal), lower, rtol=1e-9)


@pytest.mark.parametrize("solve", SOLVERS)
def test_singular_systems_give_finite_factors(solve):
    normal, right = np.zeros((3, 3)), np.zeros(3)
    solve(normal, right)
    assert np.isfinite(normal).all()
    assert not right.any()
