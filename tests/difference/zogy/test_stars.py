"""Stars of a pair: registration, and what they tell."""

import numpy as np
import pytest

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
