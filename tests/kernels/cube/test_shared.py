"""Fits of neighbours that share a factor: against fits of their own."""

import numpy as np
import pytest

from fastdiff.kernels.cube import ridge
from fastdiff.kernels.cube.fits import Fits
from tests.kernels.cube.problems import N_EPOCHS, neighbours, penalties
from tests.kernels.cube.reference import ridge as reference


@pytest.mark.parametrize("k", [3, 12, 40, 52])
@pytest.mark.parametrize("n", [1, 2, 5, 16, 17, 23])
def test_runs_that_share_a_factor_are_fits_of_their_own(rng, k, n):
    series, targets, lists, counts = neighbours(rng, n, k)
    weights = rng.uniform(0.5, 2, N_EPOCHS)
    weighted = series * np.sqrt(weights)
    prediction, coefficients = np.full((n, N_EPOCHS), np.nan), np.zeros(lists.shape)
    fits = Fits(series, targets, lists, counts, 2, 0.3)
    ridge.fit_shared(fits, weighted @ weighted.T, 3, 58, prediction, coefficients, threads=1)
    assert np.isnan(prediction[:, :3]).all()
    assert np.isnan(prediction[:, 58:]).all()
    for i, target in enumerate(targets):
        x, y = series[lists[i, : counts[i]]], series[target]
        fitted = reference.coefficients(x, y, weights, penalties(counts[i]))
        scale = np.abs(fitted).max()
        np.testing.assert_allclose(coefficients[i, : counts[i]], fitted, atol=1e-9 * scale)
        expected = (fitted @ x)[3:58]
        np.testing.assert_allclose(prediction[i, 3:58], expected, atol=1e-9 * np.abs(y).max())


def test_same_bits_whatever_the_threads(rng):
    series, targets, lists, counts = neighbours(rng, 40, 20, n_series=160)
    fits = Fits(series, targets, lists, counts, 2, 0.3)
    made = np.empty((2, 40, N_EPOCHS))
    for threads, prediction in zip((1, 3), made, strict=True):
        none = np.empty((0, lists.shape[1]))
        ridge.fit_shared(fits, series @ series.T, 0, N_EPOCHS, prediction, none, threads=threads)
    np.testing.assert_array_equal(*made)
