"""Background of a difference, and its noise from the difference itself."""

import numpy as np
import pytest

from fastdiff.matching.basis import powers_up_to, terms_at
from fastdiff.matching.noise import calibrate, fit_background


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_polynomial_background_is_found_among_sources(order, rng):
    shape = (300, 260)
    y, x = np.mgrid[: shape[0], : shape[1]]
    truth = rng.normal(size=len(powers_up_to(order))) * 20
    image = terms_at(x, y, order, shape) @ truth + rng.normal(0, 2, shape)
    image[100:140, 90:130] += 5000
    image[:30] = np.nan
    found = fit_background(image.astype(np.float32), order)
    np.testing.assert_allclose(found, truth, atol=0.5)


def test_small_frames_lower_the_order_and_empty_ones_have_no_background():
    assert len(fit_background(np.full((20, 20), 3.0, np.float32), 2)) == 1
    assert fit_background(np.full((40, 40), np.nan, np.float32), 1).tolist() == [0.0]


def test_variance_is_scaled_to_what_the_difference_shows(rng):
    shape = (256, 2048)  # eight tiles
    sigma = np.where(np.arange(2048) < 1024, 2.0, 6.0)
    image = rng.normal(0, 1, shape).astype(np.float32) * sigma.astype(np.float32)
    variance = np.ones(shape, np.float32)
    calibrate(image, variance)
    assert np.sqrt(variance[:, :600]).mean() == pytest.approx(2, rel=0.03)
    assert np.sqrt(variance[:, -600:]).mean() == pytest.approx(6, rel=0.03)
    variance = np.full(shape, 100, np.float32)
    calibrate(image, variance, least=1.0)
    np.testing.assert_allclose(variance, 100, rtol=1e-4)


def test_nothing_is_scaled_where_nothing_is_known():
    variance = np.ones((64, 64), np.float32)
    calibrate(np.full((64, 64), np.nan, np.float32), variance)
    assert (variance == 1).all()
