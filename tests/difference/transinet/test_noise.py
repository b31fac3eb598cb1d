"""Noise of "transinet" where no variance came."""

import numpy as np

from fastdiff import subtract_batch
from tests.difference.frames import make


def test_noise_from_variances(minus):
    ref, sci = make(n=2)
    variance = np.random.default_rng(0).uniform(1, 9, sci.shape)
    variance[0, 5, 5] = np.nan
    d = subtract_batch(ref, sci, model=minus, sci_variances=variance)
    np.testing.assert_allclose(d.noise, np.sqrt(variance), rtol=1e-6)
    np.testing.assert_array_equal(np.argwhere(d.mask), [[0, 5, 5]])
    d = subtract_batch(ref, sci, model=minus, sci_variances=variance[1])
    np.testing.assert_allclose(d.noise, np.sqrt(variance[[1, 1]]), rtol=1e-6)


def test_estimated_noise_follows_the_image(minus):
    rng = np.random.default_rng(4)
    sigma = np.linspace(2, 20, 640)
    ref = rng.normal(0, 1, (200, 640))
    sci = rng.normal(1000, sigma, (200, 640))
    d = subtract_batch(ref, sci, model=minus, tile=64)
    assert d.meta["n_tiles"] > 30
    np.testing.assert_allclose(d.noise[:, 32:-32].mean(0), sigma[32:-32], rtol=0.1)
    assert np.abs(np.diff(d.noise, axis=1)).max() < 0.5


def test_gain_adds_the_poisson_noise_of_the_sources(minus):
    ref, sci = make((64, 64), stars=2)
    sci[3, 3] = np.nan
    plain = subtract_batch(ref, sci, model=minus)
    d = subtract_batch(ref, sci, model=minus, gain=2.5)
    above = np.maximum(np.nan_to_num(sci) - d.meta["sky"][0], 0)
    np.testing.assert_allclose(d.noise, np.sqrt(plain.noise**2 + above / 2.5), rtol=1e-4)
    assert np.isfinite(d.noise).all()
