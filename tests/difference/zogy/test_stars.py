"""Stars of a pair: registration, and what they tell."""

import numpy as np
import pytest
from scipy import optimize

from fastdiff.difference.zogy import stars as zogy_stars
from tests.difference.zogy.pairs import (
    FWHM_R,
    FWHM_S,
    PSFS,
    SCALE,
    SKY_R,
    SKY_S,
    render,
    run,
)


def test_scatter_of_the_registration_is_measured():
    rng = np.random.default_rng(0)
    shape, n = (400, 400), 150
    x, y, flux = rng.uniform(10, 390, n), rng.uniform(10, 390, n), 10 ** rng.uniform(4, 5, n)
    dx, dy = rng.normal(0, 0.15, (2, n))
    ref = rng.poisson(SKY_R + render(shape, x + dx, y + dy, flux, FWHM_R)).astype(np.float32)
    sci = rng.poisson(SKY_S + render(shape, x, y, SCALE * flux, FWHM_S)).astype(np.float32)
    d = run(ref, sci, gain=1.0, **PSFS)
    assert d.meta["astrometric_noise"][0] == pytest.approx(0.15, rel=0.35)
    trusting = run(ref, sci, gain=1.0, **PSFS, astrometric_noise=0, calibrate=False)
    assert np.nanmax(np.abs(trusting.significance)) > 3 * np.nanmax(np.abs(d.significance))


@pytest.mark.parametrize("n", [1, 2])
def test_nonnegative_least_squares(rng, n):
    for _ in range(50):
        design, values = rng.normal(size=(6, n)), rng.normal(size=6)
        made = zogy_stars.nonnegative(design, values)
        np.testing.assert_allclose(made, optimize.nnls(design, values)[0], atol=1e-12)
