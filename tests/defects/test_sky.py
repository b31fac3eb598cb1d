"""The mesh of the sky, bright pixels and their neighbours."""

import numpy as np
from scipy import ndimage

from fastdiff.defects.sky import NEIGHBOURS, bright_pixels, grow, measure_sky
from tests.defects.scenes import SIZE, field


def test_sky_and_noise_follow_a_slope_and_leave_bad_pixels_out():
    rng = np.random.default_rng(1)
    level = 100 + np.linspace(0, 200, 300)[:, None] * np.ones(270)
    image = (level + rng.normal(0, 7, level.shape)).astype(np.float32)
    bad = rng.random(image.shape) < 0.2
    image[bad] = rng.choice([1e35, -5000, np.nan], bad.sum())
    sky = measure_sky(image, bad)
    y, x = (a.ravel() for a in np.mgrid[:300:7, :270:7])
    at, noise = sky.at(y, x)
    assert np.abs(at - level[y, x]).max() < 40  # half of a cell's slope, and the noise
    assert np.abs(np.median(noise) - 7) < 8  # the slope within a cell is in it
    assert measure_sky(image, np.ones_like(bad)) is None


def test_bright_pixels_are_those_above_five_sigma():
    image, _ = field(2)
    image[30, 40] = np.nan
    bad = np.zeros(image.shape, bool)
    bad[30, 40] = bad[100:120, 100:120] = True
    sky = measure_sky(image, bad)
    found = bright_pixels(image, bad, sky)
    yy, xx = np.mgrid[:SIZE, :SIZE]
    level, noise = (a.reshape(image.shape) for a in sky.at(yy.ravel(), xx.ravel()))
    inside = np.s_[1:-1, 1:-1]
    want = np.zeros(image.shape, bool)
    want[inside] = ((image > (level + 5 * noise).astype("f4")) & ~bad)[inside]
    np.testing.assert_array_equal(found.index, np.flatnonzero(want))
    np.testing.assert_array_equal(found.index, found.y * SIZE + found.x)
    for k, (dy, dx) in enumerate(NEIGHBOURS):
        near = np.where(bad, np.nan, image)[found.y + dy, found.x + dx]
        np.testing.assert_allclose(
            found.around[k], near - level[found.y, found.x], rtol=1e-5, atol=1e-3
        )


def test_growing_is_a_dilation_by_squares():
    mask = np.random.default_rng(3).random((40, 50)) < 0.02
    for steps in (1, 2):
        want = ndimage.binary_dilation(mask, np.ones((3, 3)), steps)
        np.testing.assert_array_equal(grow(mask, steps), want)
