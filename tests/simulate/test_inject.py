"""Sources added to real images: their flux, place and width."""

import numpy as np
import pytest

from fastdiff.simulate.inject import measure_fwhm, point_source


@pytest.mark.parametrize("beta", [None, 3.5])
def test_point_sources_have_unit_flux_and_their_place(beta):
    image = point_source((61, 71), 36.3, 28.6, 3.0, beta)
    y, x = np.indices(image.shape)
    assert image.sum() == pytest.approx(1, abs=0.01)
    assert (image * x).sum() / image.sum() == pytest.approx(36.3, abs=0.02)
    assert (image * y).sum() / image.sum() == pytest.approx(28.6, abs=0.02)


@pytest.mark.parametrize("fwhm", [2.5, 4.0])
def test_width_of_stars_is_measured_beside_missing_pixels(fwhm, rng):
    image = rng.normal(100, 3, (80, 80))
    for k in range(6):
        image += 30000 * point_source(image.shape, 10.2 + 11 * k, 68.6 - 11 * k, fwhm)
    image[:5] = np.nan
    assert measure_fwhm(image) == pytest.approx(fwhm, rel=0.1)
    assert measure_fwhm(np.zeros((20, 20)), default=3.0) == 3.0
