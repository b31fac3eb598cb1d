"""kernels/image/blocks.py: the photometric scale of whole frames."""

import numpy as np
import pytest

from fastdiff.kernels.image import blocks
from fastdiff.kernels.image.measure import measure_tiles
from fastdiff.kernels.image.photometry import SCALE_LIMITS
from fastdiff.kernels.image.plan import plan_tiles
from fastdiff.kernels.image.tile import normalise_pairs
from tests.kernels.image.fields import frames, star_field
from tests.kernels.image.reference import blocks as reference
from tests.kernels.image.reference import photometry


@pytest.mark.parametrize("shape", [(63, 63), (200, 216)])
def test_scale_agrees_with_reference(rng, shape):
    refs, scis, bad_refs, bad_scis = frames(rng, 2, shape)
    origins, size = plan_tiles(*shape, tile=256)
    pixels = refs, scis, bad_refs, bad_scis
    stats = measure_tiles(pixels, origins, size)
    scale, n_used = blocks.photometric_scale(pixels, origins, size, stats)
    for f in range(2):
        sky_r, sigma_r, sky_s, sigma_s = stats[f, 0]
        sums = reference.sums(refs[f], scis[f], bad_refs[f], bad_scis[f], sky_r, sky_s)
        sigma = np.ones(sums.shape[1:])
        expected, n_expected = photometry.fit_scale(sums, sigma_r * sigma, sigma_s * sigma)
        assert n_used[f] == n_expected > 0
        assert scale[f] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("scale", [0.05, 0.8, 1.0, 20.0])
@pytest.mark.parametrize(
    ("fwhm", "shift", "transient"),
    [((2.5, 2.5), 0, 0), ((2, 4), 0, 0), ((4, 2), 0.5, 0), ((3, 6), 0, 0), ((2, 4), 0.5, 2.0)],
)
def test_scale_is_measured(rng, scale, fwhm, shift, transient):
    """Within 6 % with other seeing, misregistration and a transient brighter than its host."""
    ref, sci = star_field(rng, (256, 256), 60, scale, fwhm, shift, transient)
    origins, shape = plan_tiles(256, 256)
    frame = (ref[None], sci[None]), origins, shape
    measured_scale, n_used = blocks.photometric_scale(*frame, measure_tiles(*frame))
    assert measured_scale[0] == pytest.approx(scale, rel=0.06 if scale > 0.1 else 0.1)
    assert n_used[0] > 20


def test_scale_with_gradients_and_missing_pixels(rng):
    """Another slope of the sky in each image; a tenth of the pixels is missing."""
    ref, sci = star_field(rng, (256, 256), 60, 0.7)
    y, x = np.mgrid[:256, :256]
    ref += (0.5 * y).astype(np.float32)
    sci += (0.8 * x).astype(np.float32)
    ref[rng.random(ref.shape) < 0.05] = np.nan
    bad = rng.random((1, 256, 256)) < 0.05
    origins, shape = plan_tiles(256, 256)
    frame = (ref[None], sci[None], None, bad), origins, shape
    scale, _ = blocks.photometric_scale(*frame, measure_tiles(*frame))
    assert scale[0] == pytest.approx(0.7, rel=0.03)


def test_scale_without_sources_is_one(rng):
    refs, scis = rng.normal(1000, 10, (2, 5, 64, 64)).astype(np.float32)
    origins = np.zeros((1, 2), np.int64)
    frame = (refs, scis * 3), origins, (64, 64)
    scale, n_used = blocks.photometric_scale(*frame, measure_tiles(*frame))
    np.testing.assert_array_equal(scale, 1)
    np.testing.assert_array_equal(n_used, 0)


def test_sources_without_counterpart_tell_no_scale(rng):
    """Where science shows holes in place of stars, the scale is 1 and said to be unmeasured."""
    ref, _ = star_field(rng, (64, 64), 3)
    sci = (300 - 0.2 * (ref - 100)).astype(np.float32)
    origins = np.zeros((1, 2), np.int64)
    frame = (ref[None], sci[None]), origins, (64, 64)
    scale, n_used = blocks.photometric_scale(*frame, measure_tiles(*frame))
    assert (scale[0], n_used[0]) == (1, 0)


@pytest.mark.parametrize("scale", [1e-2, 1e2, 1e5])
def test_scale_of_other_units(rng, scale):
    ref, _ = star_field(rng, (64, 64), 5)
    _, _, measured_scale = normalise_pairs(ref[None], (scale * ref).astype(np.float32)[None])
    limit = SCALE_LIMITS[1]
    assert measured_scale[0] == pytest.approx(min(scale, limit), rel=2e-3)
