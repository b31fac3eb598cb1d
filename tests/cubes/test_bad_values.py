"""Variances of 0, NaN, infinity, constant pixels, gaps: no sum over nothing passes as a value."""

import numpy as np
import pytest

from fastdiff.cubes.cpm import cpm_subtract
from fastdiff.cubes.tile import CubeTile

RULE = {"exclusion": (1, 2.0), "n_predictors": 20, "ridge": 1e-2, "smooth": 1}


@pytest.fixture(scope="module")
def cube():
    rng = np.random.default_rng(5)
    drift = rng.normal(1, 0.05, (120, 1, 1))
    return drift * rng.uniform(50, 500, (9, 9)) + rng.normal(0, 0.1, (120, 9, 9))


def test_variances_that_say_nothing(cube):
    """Such epochs have no weight, and maps leave them out; a map of none of them is NaN."""
    variance = np.full(cube.shape, 0.01)
    variance[3, 4, 4], variance[5, 4, 4], variance[7, 4, 4] = 0, np.nan, np.inf
    variance[:, 2, 2] = np.inf
    variance[:, 2, 3] = np.nan
    result = cpm_subtract(cube, variance=variance, **RULE)
    assert np.isfinite(result.image[[3, 5, 7], 4, 4]).all()
    mask = np.zeros(cube.shape, bool)
    mask[[3, 5, 7], 4, 4] = True
    masked = cpm_subtract(cube, mask=mask, variance=np.full(cube.shape, 0.01), **RULE)
    there = ~mask[:, 4, 4]
    np.testing.assert_allclose(result.image[there, 4, 4], masked.image[there, 4, 4], atol=2e-3)
    # The variance of 0 is one: its mean with 117 others.
    expected = np.sqrt(0.01 * 117 / 118)
    assert result.expected_rms[4, 4] == pytest.approx(expected, rel=1e-6)
    assert masked.expected_rms[4, 4] == pytest.approx(0.1)
    assert np.isnan(result.expected_rms[2, 2:4]).all()
    assert np.isnan(result.variability[2, 3])
    finite = np.abs(result.image[there, 4, 4]).mean() / 0.1
    assert result.variability[4, 4] == pytest.approx(finite, rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_constant_pixels(cube, value):
    made = cube.copy()
    made[:, 4, 4] = value
    made[:, :, 0] = value
    result = cpm_subtract(made, **RULE)
    np.testing.assert_allclose(result.image[:, 4, 4], 0, atol=1e-9)
    assert np.isfinite(result.image).all()
    table = result.light_curve(4, 4, 1)
    np.testing.assert_allclose(table["flux"], 0, atol=1e-9)
    assert np.isfinite(cpm_subtract(made).light_curve(4, 4, 3)["flux"]).all()


def test_missing_stretches(cube):
    """A gap of days in all pixels: NaN there, and as good as ever elsewhere."""
    made = cube.copy()
    made[40:65] = np.nan
    result = cpm_subtract(made, exclusion=(1, 2.0), n_predictors=20)
    whole = cpm_subtract(cube, exclusion=(1, 2.0), n_predictors=20)
    assert result.mask[40:65].all()
    assert not result.mask[:40].any()
    assert np.median(result.rms) < 1.1 * np.median(whole.rms)
    table = result.light_curve(4, 4, 3)
    gap = np.zeros(120, bool)
    gap[40:65] = True
    np.testing.assert_array_equal(np.isnan(table["flux_err"]), gap)
    np.testing.assert_array_equal(np.isnan(table["flux"]), gap)


@pytest.mark.parametrize("options", [{}, {"variance": True}, {"weights": True}, {"gaps": True}])
def test_folds_of_long_cubes_are_exact(monkeypatch, options):
    """A fit a pixel and fold, and one with the hat matrix of the folds, are the same."""
    rng = np.random.default_rng(6)
    drift = rng.normal(1, 0.05, (400, 1, 1))
    made = drift * rng.uniform(50, 500, (7, 7)) + rng.normal(0, 0.1, (400, 7, 7))
    given = {"ridge_per": "pixel", "ridge": "gcv", "exclusion": (-1, 2.0), "n_predictors": 12}
    if "variance" in options:
        given["variance"] = rng.uniform(0.5, 2, made.shape)
    if "weights" in options:
        given["weights"] = np.where(np.arange(400) % 7 == 3, 0.0, 1.0)
    if "gaps" in options:
        made[rng.random(made.shape) < 0.02] = np.nan
    images = []
    for by_folds in (False, True):
        monkeypatch.setattr(CubeTile, "folds_cost_less", lambda self, blocks, by=by_folds: by)
        images.append(cpm_subtract(made, holdout=4, smooth=3, **given).image)
    np.testing.assert_allclose(images[1], images[0], atol=1e-8 * 500)
