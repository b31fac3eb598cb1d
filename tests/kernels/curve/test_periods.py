"""kernels/curve/periods.py: what the peaks mean, from arrays to columns."""

import numpy as np
import pytest

from fastdiff.kernels.curve import periods as kernel
from fastdiff.kernels.curve.columns import PERIOD_FEATURES, PERIODIC
from tests.kernels.curve import inputs
from tests.kernels.curve.reference import periodogram as reference


def test_columns_of_a_sinusoid(rng):
    curves = [inputs.scattered(rng, n) for n in (100, 30, 100)]
    time, _, magerr, offsets = inputs.flat([(t / 75, m, e / 4) for t, m, e in curves])
    mag = inputs.sinusoid(time / 0.7) + rng.normal(0, magerr)
    mag[offsets[2] :] = 0
    given = time, mag, magerr, offsets, np.array([800, 0, 800]), 4
    made = kernel.find_periods(*given, threads=2)
    assert made.shape == (3, len(PERIOD_FEATURES)) and made.dtype == np.float32
    assert np.isnan(made[1:]).all()  # no frequencies; one magnitude
    assert made[0, PERIODIC.period] == pytest.approx(0.7, rel=1e-2)
    assert made[0, PERIODIC.harmonics] == 1
    assert made[0, PERIODIC.sinusoid_period] == pytest.approx(0.7, rel=2e-2)
    assert made[0, PERIODIC.folded_amplitude] == pytest.approx(0.6, rel=0.15)
    np.testing.assert_array_equal(kernel.find_periods(*given, threads=1), made)


def test_related_frequencies():
    for f, g, expected in ((1, 1, True), (1, 3, True), (6, 1, True), (2, 3, False), (1, 7, False)):
        assert kernel.related(float(f), float(g), 1e-3) == expected


@pytest.mark.parametrize("n", [3, 60])
def test_roughness_agrees_with_sorted_phases(rng, n):
    time, mag, _, _ = inputs.flat([inputs.periodic(rng, inputs.sawtooth, 0.7, n, 40)])
    row = np.empty(len(PERIODIC))
    kernel.folded_roughness(time, mag, 1 / 0.7, np.empty(n), row)
    for name, f in (("roughness", 1 / 0.7), ("roughness_double", 0.5 / 0.7)):
        expected = reference.roughness(time, mag, f)
        assert row[getattr(PERIODIC, name)] == pytest.approx(expected)
