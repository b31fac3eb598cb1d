"""Robust widths against Gaussians of known width."""

import numpy as np
import pytest
from scipy import optimize

from fastdiff.core.stats import FWHM_PER_SIGMA, mad_sigma, nonnegative


def test_width_of_a_gaussian_with_outliers(rng):
    values = rng.normal(7, 3, 100_001)
    assert mad_sigma(values) == pytest.approx(3, rel=0.02)
    values[:1000] = 1e6
    assert mad_sigma(values) == pytest.approx(3, rel=0.03)


def test_centre_and_axis_are_those_asked_for():
    values = np.array([[0.0, 1.0, 2.0], [0.0, 10.0, 20.0]])
    assert mad_sigma(values, axis=1) == pytest.approx([1.4826, 14.826])
    assert mad_sigma(values[0], centre=2.0) == 1.4826
    assert mad_sigma([2.0, 2.0]) == 0.0


def test_full_width_is_where_a_gaussian_has_half_its_height():
    half = FWHM_PER_SIGMA / 2
    assert np.exp(-(half**2) / 2) == pytest.approx(0.5, rel=1e-14)


@pytest.mark.parametrize("n", [1, 2])
def test_nonnegative_least_squares(rng, n):
    for _ in range(50):
        design, values = rng.normal(size=(6, n)), rng.normal(size=6)
        made = nonnegative(design, values)
        np.testing.assert_allclose(made, optimize.nnls(design, values)[0], atol=1e-12)
