"""kernels/image/measure.py against its twin, and against known noise."""

import numpy as np
import pytest

from fastdiff.kernels.image import measure, plan
from tests.kernels.image.fields import frames, measured, star_field
from tests.kernels.image.reference import measure as reference


def test_large_frame_samples_the_lattice(rng):
    """1000 x 700 in tiles of more than 4096 pixels: the same pixels are taken."""
    refs, scis, bad_refs, bad_scis = frames(rng, 1, (1000, 700))
    origins, shape = plan.plan_tiles(1000, 700)
    assert shape[0] * shape[1] > measure.MAX_SAMPLES
    stats = measure.measure_tiles((refs, scis, bad_refs, bad_scis), origins, shape)
    np.testing.assert_allclose(
        stats[0, :, measure.SKY_SCI :],
        reference.measure(scis[0], bad_scis[0], origins, shape),
        rtol=1e-6,
    )


def test_samples_spread_over_columns():
    for shape in ((256, 256), (272, 272), (496, 496), (64, 64), (720, 1088)):
        step = measure.sample_step(shape)
        taken = np.arange(0, shape[0] * shape[1], step)
        assert len(taken) <= measure.MAX_SAMPLES
        assert np.ptp(np.bincount(taken % shape[1], minlength=shape[1])) <= 1


@pytest.mark.parametrize("offset", [0.0, 1e4, -300.0])
def test_noise_of_gaussian(rng, offset):
    sky, sigma = measured(rng.normal(offset, 7, (64, 64)).astype(np.float32))
    assert sky == pytest.approx(offset, abs=5 * 7 * 1.25 / 64)
    assert sigma == pytest.approx(7, rel=0.08)


@pytest.mark.parametrize("true_sigma", [0.3, 0.5, 0.8, 1.5, 2.5, 6.0])
@pytest.mark.parametrize("phase", [0.0, 0.25, 0.5])
def test_noise_of_quantised_image(rng, true_sigma, phase):
    """The noise of rounded data is that of the data and of the rounding, 1/12 of a step squared."""
    image = np.rint(rng.normal(100 + phase, true_sigma, (64, 64))).astype(np.float32)
    sky, sigma = measured(image)
    assert sigma == pytest.approx(image.std(), rel=0.1)
    assert sky == pytest.approx(100 + phase, abs=0.15 * max(true_sigma, 1))


def test_sources_hardly_move_sky_and_noise(rng):
    ref, _ = star_field(rng, (128, 128), 10)
    sky, sigma = measured(ref)
    assert sky == pytest.approx(100, abs=1.5)
    assert sigma == pytest.approx(10, rel=0.08)


def test_float64_keeps_small_noise_on_a_large_sky(rng):
    _, sigma = measured(rng.normal(1e9, 1e-2, (64, 64)))
    assert sigma == pytest.approx(1e-2, rel=0.08)


def test_gradient_is_followed_by_tiles(rng):
    """On a slope of 1 sigma in 10 pixels each tile has the sky of its middle."""
    y = np.mgrid[:512, :512][0]
    image = (1000 + 0.5 * y + rng.normal(0, 5, (512, 512))).astype(np.float32)[None]
    origins, shape = plan.plan_tiles(512, 512, tile=128)
    sky = measure.measure_tiles((image, image), origins, shape)[0, :, measure.SKY_SCI]
    middle = 1000 + 0.5 * (origins[:, 0] + (shape[0] - 1) / 2)
    np.testing.assert_allclose(sky, middle, atol=2)


def test_hot_pixel_gives_a_constant_image_no_noise():
    image = np.zeros((64, 64), np.float32)
    image[3, 5] = 6e4
    np.testing.assert_array_equal(measured(image), [0, 0])


def test_few_good_pixels_take_the_noise_of_the_frame(rng):
    """The rim of a mosaic: 5 good pixels of a tile cannot tell the noise."""
    image = rng.normal(100, 10, (1, 256, 128)).astype(np.float32)
    image[:, :130] = np.nan
    image[0, 5, 5:10] = 1e4
    origins, shape = plan.plan_tiles(256, 128, tile=64, overlap=0)
    stats = measure.measure_tiles((image, image), origins, shape)[0]
    np.testing.assert_allclose(stats[:, measure.SKY_SCI], 100, atol=1)
    np.testing.assert_allclose(stats[:, measure.SIGMA_SCI], 10, rtol=0.1)
