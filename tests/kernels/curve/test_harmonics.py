"""kernels/curve/harmonics.py: fits of all orders against design matrices of full size."""

import numpy as np
import pytest

from fastdiff.kernels.curve import harmonics as kernel
from tests.kernels.curve import inputs
from tests.kernels.curve.reference import periodogram as reference


def prepared(rng, n):
    time, mag, magerr, _ = inputs.flat([inputs.periodic(rng, inputs.sawtooth, 0.6137, n, 50)])
    weight = reference.weights(magerr, n)
    y = mag - weight @ mag
    single = (weight * y).astype(np.float32), weight.astype(np.float32)
    return kernel.Curve(time, *single, weight @ y**2), mag, magerr


def test_short_turns():
    for x in np.linspace(-0.5, 0.5, 41, dtype=np.float32):
        angle = 2 * np.pi * np.float64(x)
        np.testing.assert_allclose(kernel.short_turn(x), (np.cos(angle), np.sin(angle)), atol=5e-7)


@pytest.mark.parametrize("n_harmonics", [1, 3, 4])
def test_all_orders_agree_with_design_matrices(rng, n_harmonics):
    curve, mag, magerr = prepared(rng, 60)
    work, f = kernel.fit_for(), 1 / 0.6137
    kernel.fit(curve, f, n_harmonics, work)
    for h in range(1, n_harmonics + 1):
        solution, explained = reference.fit(curve.time, mag, magerr, f, h)
        made = np.empty(kernel.N_COEFFICIENTS)
        kernel.coefficients(work.factor, work.z, h, made)
        assert work.explained[h] == pytest.approx(explained, rel=1e-4)
        np.testing.assert_allclose(made[: 2 * h + 1], solution, atol=2e-4)


def test_points_beyond_one_chunk(rng, monkeypatch):
    curve, _, _ = prepared(rng, 60)
    whole, parts = kernel.fit_for(), kernel.fit_for()
    kernel.fit(curve, 1.7, 3, whole)
    monkeypatch.setattr(kernel, "CHUNK", 17)
    kernel.fit(curve, 1.7, 3, parts)
    np.testing.assert_allclose(parts.explained[:4], whole.explained[:4], rtol=1e-4)


def test_shape_of_a_series():
    """Faintest at phase 1/8, brightest at 1/2 and a second minimum half a turn from the first."""
    solution = np.array([0.0, 0.1, 0.2, -0.3, 0.25])
    shape = kernel.model_shape(solution, 2, np.empty(kernel.PHASES))
    phase = np.arange(kernel.PHASES) / kernel.PHASES
    series = reference.design(phase, 1, 2) @ solution
    faint, bright = series.argmax(), series.argmin()
    assert shape.amplitude == pytest.approx(np.ptp(series))
    assert shape.rise_fraction == ((bright - faint) % kernel.PHASES) / kernel.PHASES
    skew = np.mean((series - series.mean()) ** 3) / series.std() ** 3
    assert shape.skew == pytest.approx(skew)
    half = np.roll(series, -faint)[kernel.PHASES // 4 : 3 * kernel.PHASES // 4 + 1]
    assert shape.depth_ratio == pytest.approx((half.max() - series.min()) / np.ptp(series))
    assert shape.separation == (half.argmax() + kernel.PHASES // 4) / kernel.PHASES


def test_order_is_that_of_the_lowest_criterion():
    explained = np.array([0, 0.5, 0.9, 0.901, 0.9011])
    assert kernel.best_order(explained, 4, 100) == 2
    assert kernel.score_of(0.9, 2, 100) < kernel.score_of(0.901, 3, 100)
    assert kernel.n_harmonics_of(5) == 1 and kernel.n_harmonics_of(10_000) == kernel.HARMONICS
    assert kernel.most_believed(2.0) == 1 and kernel.most_believed(10.0) == 3
