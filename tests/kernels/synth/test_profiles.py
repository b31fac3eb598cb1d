"""Sums of Gaussians against the profiles that they stand for."""

import numpy as np
import pytest

from fastdiff.kernels.synth import profiles
from tests.kernels.synth.reference import synth as reference


@pytest.mark.parametrize("beta", profiles.MOFFAT_BETAS)
def test_moffat_mixture_is_a_moffat_profile(beta):
    r = np.linspace(0, 2.0, 200)  # in FWHM
    mixture = np.zeros_like(r)
    for weight, widen in profiles.moffat_mixture(beta, profiles.MOFFAT_TERMS).astype(float):
        s2 = widen / (8 * np.log(2))
        mixture += weight / (2 * np.pi * s2) * np.exp(-(r**2) / (2 * s2))
    exact = reference.moffat(r, 1.0, beta)
    assert mixture[0] == pytest.approx(exact[0], rel=1e-5)
    assert np.abs(mixture - exact).max() < 0.03 * exact[0]


@pytest.mark.parametrize(
    ("terms", "n", "reach"), [(profiles.EXPONENTIAL, 1, 3.0), (profiles.DE_VAUCOULEURS, 4, 3.5)]
)
def test_sersic_sums_are_sersic_profiles(terms, n, reach):
    r = np.geomspace(0.05, reach, 100)
    mixture = sum(w / (2 * np.pi * s**2) * np.exp(-(r**2) / (2 * s**2)) for w, s in terms)
    np.testing.assert_allclose(mixture, reference.sersic(r, n), rtol=0.1)
    assert sum(w for w, _ in terms) == pytest.approx(1, abs=1e-4)
