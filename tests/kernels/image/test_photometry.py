"""The photometric scale: the kernel against its reference, and against known truths."""

import numpy as np
import pytest

import fastdiff
from fastdiff.kernels.image import photometry, tile
from tests.kernels.image.reference import photometry as reference


@pytest.mark.parametrize("shape", [(17, 20), (33, 40)])
def test_kernel_agrees_with_reference(rng, shape):
    blocks = rng.normal(0, 4, (6, 3, *shape)).astype(np.float32)
    sources = np.zeros((6, *shape))
    sources[:, rng.integers(2, 15, 8), rng.integers(2, 18, 8)] = rng.uniform(100, 9000, 8)
    blocks[:, 0] += sources
    blocks[:, 1] += 0.7 * np.roll(sources, 1, axis=2) + 0.3 * sources
    blocks[:, 2] = rng.integers(0, 17, (6, *shape))
    sigma = rng.uniform(0.8, 1.2, (6, 2, *shape)).astype(np.float32)
    scale, n_used = photometry.measure_scale(blocks, sigma)
    for i in range(6):
        expected, n_expected = reference.fit_scale(blocks[i], *sigma[i])
        assert n_used[i] == n_expected > 0
        assert scale[i] == pytest.approx(expected, rel=1e-3)


def test_scale_of_simulated_stars_in_other_seeing():
    """Seeing 2-9 px that changes by up to 2.2 between the images, 0.25 px shifts, transients."""
    made = fastdiff.simulate.pairs(
        120, (96, 96), seed=5, star_density=(5.0, 25.0), p_missing=0.0, fwhm_sci=(2.0, 9.0),
        fwhm_ref=(2.0, 9.0),
    )  # fmt: skip
    _, sigma_d, scale = tile.normalise_pairs(made.ref, made.sci, made.ref_mask, made.sci_mask)
    assert np.isfinite(sigma_d).all()
    error = np.abs(np.log(scale / made.scale))
    assert np.median(error) < 0.03
    assert np.percentile(error, 75) < 0.12


def test_no_source_in_ref_is_no_scale(rng):
    blocks = rng.normal(0, 4, (3, 3, 16, 16)).astype(np.float32)
    blocks[:, 1, 8, 8] = 1e5  # a new source alone
    blocks[:, 2] = 16
    scale, n_used = photometry.measure_scale(blocks, np.ones((3, 2, 16, 16), np.float32))
    np.testing.assert_array_equal(scale, 1)
    np.testing.assert_array_equal(n_used, 0)


@pytest.mark.parametrize("size", [0, 1, 2])
def test_frames_of_hardly_a_block(size):
    scale, n_used = photometry.measure_scale(
        np.ones((2, 3, size, size), np.float32), np.ones((2, 2, size, size), np.float32)
    )
    assert (scale == 1).all()
    assert (n_used == 0).all()
