"""Squared residuals and degrees of freedom without a prediction: those of the fit."""

import numpy as np
import pytest

from fastdiff.kernels.cube import ridge
from fastdiff.kernels.cube.fits import Fits
from tests.kernels.cube.problems import N_EPOCHS, penalties, problem
from tests.kernels.cube.reference import ridge as reference


def test_scores_are_those_of_the_fit(rng):
    series, targets, lists, counts = problem(rng, 25)
    roots = rng.uniform(0.5, 2, N_EPOCHS)
    weighted = series * roots
    tried = np.array([1e-4, 0.1, 30.0])
    square, freedom = np.empty((2, len(targets), 3))
    fits = Fits(series, targets, lists, counts, 2, tried)
    ridge.score_penalties(fits, weighted @ weighted.T, square, freedom, threads=1)
    for i, target in enumerate(targets):
        x, y = series[lists[i, : counts[i]]], series[target]
        for j, strength in enumerate(tried):
            penalty = penalties(counts[i], strength=strength)
            hat = reference.hat(x, roots**2, penalty)
            rest = roots * y - hat @ (roots * y)
            assert square[i, j] == pytest.approx(rest @ rest, rel=1e-6)
            assert freedom[i, j] == pytest.approx(np.trace(hat), rel=1e-8)
