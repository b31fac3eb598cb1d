"""kernels/curve/periodogram.py: powers and peaks; the table of cases has its declared kernels."""

import numpy as np
import pytest

from fastdiff.kernels.curve import nufft
from fastdiff.kernels.curve import periodogram as kernel
from tests.kernels.curve import inputs
from tests.kernels.curve.reference import periodogram as reference


@pytest.mark.parametrize("with_errors", [True, False])
def test_spectra_agree_with_direct_sums(rng, with_errors):
    curves = [inputs.periodic(rng, inputs.sawtooth, 0.7, n, 40) for n in (30, 8, 100, 50)]
    time, mag, magerr, offsets = inputs.flat(curves)
    n = np.array([100, 0, 13_000, 1])
    given = time, mag, magerr if with_errors else magerr[:0], offsets, n
    powers, starts = kernel.spectra(*given, threads=2)
    np.testing.assert_array_equal(starts, [0, 100, 100, 13_100, 13_101])
    for i in np.flatnonzero(n):
        t, m, e = (x[slice(*offsets[i : i + 2])] for x in (time, mag, magerr))
        frequency = np.arange(n[i]) / (nufft.OVERSAMPLING * t[-1])
        expected = reference.power(t, m, e if with_errors else None, frequency)
        made = powers[starts[i] : starts[i + 1]]
        error = np.abs(np.sqrt(made) - np.sqrt(expected)).max()
        assert error < 2e-3 * np.sqrt(max(expected.max(), 0.1))


def test_weights_have_unit_sum(rng):
    _, mag, magerr, _ = inputs.flat([inputs.periodic(rng, inputs.sinusoid, 0.7, 20, 40)])
    for errors in (magerr, magerr[:0], np.zeros(20)):
        weight, value = np.empty(15), np.empty(15)
        variance = kernel.prepare(mag, errors, 5, 20, weight, value)
        w = reference.weights(errors[5:] if errors.any() else None, 15)
        np.testing.assert_allclose(weight, w)
        y = mag[5:] - w @ mag[5:]
        np.testing.assert_allclose(value, w * y, atol=1e-14)
        assert variance == pytest.approx(w @ y**2)


def test_peaks_come_in_falling_order(rng):
    power = rng.uniform(0, 0.3, 400).astype(np.float32)
    for place, height in ((50, 0.9), (120, 0.6), (300, 0.8), (2, 0.95)):
        power[place - 1 : place + 2] = 0.8 * height, height, 0.8 * height
    places, heights = np.empty(3), np.empty(3, np.float32)
    found = kernel.highest_peaks(power, 4, 400, places, heights)  # 4 is the lowest that counts
    assert found == 3
    np.testing.assert_allclose(places, [50, 300, 120], atol=1e-4)
    np.testing.assert_allclose(heights, [0.9, 0.8, 0.6], rtol=1e-5)


def test_vertex_of_parabolas():
    for top in (-0.7, -0.2, 0.0, 0.4, 1.0):
        values = [5 - 3 * (x - top) ** 2 for x in (-1, 0, 1)]
        assert kernel.vertex(*values) == pytest.approx(top)
    assert kernel.vertex(0.0, 0.0, 0.0) == 0
    assert kernel.vertex(1.0, 0.0, 2.0) == 1
    assert kernel.vertex(2.0, 0.0, 1.0) == -1
