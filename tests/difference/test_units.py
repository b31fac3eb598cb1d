"""Scales by powers of two."""

import numpy as np
import pytest

from fastdiff.difference.units import UnitScales, scaled, units_of


@pytest.mark.parametrize("noise", [(1.0, 1.0), (0.01, 300.0), (0.0, 5.0), (0.0, 0.0)])
def test_counts_are_left_alone(noise):
    assert units_of(*noise) == UnitScales()
    options = {"scale": 2.0, "gain": 3}
    assert UnitScales().applied(options) == options


@pytest.mark.parametrize("unit", [1e-30, 1e-20, 1e-6, 1e9, 1e15])
def test_noise_comes_near_one(unit):
    units = units_of(3 * unit, 5 * unit)
    assert units.ref == units.sci
    assert 0.25 < 5 * unit * units.factors[1] < 4
    apart = units_of(3 * unit, 5.0)
    assert 0.25 < 3 * unit * apart.factors[0] < 4
    lone = units_of(0.0, 5 * unit)
    assert 0.25 < 5 * unit * lone.factors[1] < 4


def test_options_in_other_units():
    units = UnitScales(ref=3, sci=5)
    made = units.applied({"scale": [2.0, 4.0], "gain": (8, 64), "tile": 7})
    np.testing.assert_array_equal(made["scale"], [8, 16])
    np.testing.assert_array_equal(made["gain"], [1, 2])
    assert made["tile"] == 7
    assert units.applied({"gain": 64})["gain"] == 2


def test_variances_are_scaled_twice_without_overflow():
    plane = np.float32([1e-38, 3e-38])
    np.testing.assert_allclose(scaled(plane, 66, 2), plane.astype("f8") * 2.0**132, rtol=1e-6)
    assert scaled(plane, 0) is plane
