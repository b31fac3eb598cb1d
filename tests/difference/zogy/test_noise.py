"""Noise from the difference itself."""

import numpy as np
import pytest
from scipy import ndimage

from tests.difference.zogy.pairs import (
    FWHM_R,
    FWHM_S,
    PSF_S,
    PSFS,
    SCALE,
    SKY_R,
    SKY_S,
    grid,
    make,
    render,
    robust,
    run,
)


def test_a_variable_star_does_not_hide_a_new_one():
    """In a small frame one star is not enough to tell what sources add to the noise."""
    shape, x, y = (64, 64), 20.0, 24.0
    rng = np.random.default_rng(5)
    ref = SKY_R + render(shape, [x], [y], [20_000], FWHM_R)
    sci = SKY_S + render(shape, [x, 45.0], [y, 40.0], [SCALE * 26_000, 6000], FWHM_S)
    ref, sci = (rng.poisson(each).astype(np.float32) for each in (ref, sci))
    d = run(ref, sci, **PSFS, scale=SCALE)
    expected = 6000 / np.sqrt(6000 + SKY_S / (PSF_S**2).sum())  # photons and the sky of sci
    assert d.significance[40, 45] > 0.7 * expected


def test_the_level_of_correlated_noise_is_measured():
    ref, sci, _ = make((400, 400), n_stars=60, seed=5)
    kernel = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
    ref = ndimage.convolve(ref, kernel).astype(np.float32)
    d = run(ref, sci, gain=1.0)
    assert robust(d.significance) == pytest.approx(1, abs=0.03)
    trusting = run(ref, sci, gain=1.0, calibrate=False)
    assert abs(robust(trusting.significance) - 1) > abs(robust(d.significance) - 1)
    assert (trusting.meta["noise_factor"] == 1).all()


def test_photon_noise_is_found_without_a_gain():
    new = grid((512, 512), 3, 1e4)
    ref, sci, _ = make((512, 512), n_stars=150, seed=6, transients=new)
    known, found = run(ref, sci, gain=1.0), run(ref, sci)
    x, y = np.transpose(new)[:2].astype(int)
    np.testing.assert_allclose(found.flux_err[y, x], known.flux_err[y, x], rtol=0.35)
    sky = [np.nanmedian(each.flux_err) for each in (found, known)]
    assert sky[0] == pytest.approx(sky[1], rel=0.02)
