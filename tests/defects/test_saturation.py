"""Saturation that nobody told is found; bright stars and flat galaxies are kept."""

import numpy as np
import pytest

from fastdiff.defects.inspect import inspect_frame
from tests.defects.scenes import SIZE, field, gaussians, moffats, photons, spread

FULL = 30000.0


def saturated(seed, n=6, fwhm=3.5):
    """A frame with n stars beyond FULL, before and after it is clipped there."""
    image, rng = field(seed, fwhm)
    x, y = spread(rng, n, 30)
    image += photons(rng, gaussians(x, y, 10 ** rng.uniform(6.0, 6.7, n), fwhm))
    return image, rng


def check(found, image, level):
    assert found is not None
    assert found.level == pytest.approx(level, rel=0.02)
    above = image > 1.02 * level
    assert above.sum() > 20
    assert not (above & ~found.mask).any()
    # Nothing but a small growth.
    assert found.mask.sum() < 8 * (image > 0.95 * level).sum()


@pytest.mark.parametrize("n", [1, 2, 6])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16"])
def test_clipped_stars(n, dtype):
    image, _ = saturated(20 + n, n)
    clipped = np.minimum(image, FULL).astype(dtype).astype(np.float32)
    check(inspect_frame(clipped, None).saturation, image, FULL)


@pytest.mark.parametrize("spread_of_plateau", [10, 100, 400])
@pytest.mark.parametrize("n", [2, 6])
def test_a_plateau_with_noise(n, spread_of_plateau):
    image, rng = saturated(30 + n, n)
    noise = rng.normal(0, spread_of_plateau, image.shape)
    clipped = (np.minimum(image, FULL) + noise * (image > FULL)).astype(np.float32)
    check(inspect_frame(clipped, None).saturation, image, FULL)


def test_bleeding_columns_and_a_pedestal():
    image, rng = saturated(40)
    tops = np.argwhere((image > FULL) & (rng.random(image.shape) < 0.1))
    for y, x in tops[:6]:
        image[max(0, y - 40) : y + 40, x] = 1e6
    found = inspect_frame(np.minimum(image, FULL) + np.float32(5000), None)
    check(found.saturation, image + 5000, FULL + 5000)
    assert found.missing is None


def test_a_flat_field_spreads_the_plateau():
    image, _ = saturated(41)
    flat = 1 + 0.01 * np.sin(np.arange(SIZE) / 30)
    check(
        inspect_frame((np.minimum(image, FULL) * flat).astype("f4"), None).saturation, image, FULL
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fwhm", [1.5, 2.5, 4.0, 8.0])
def test_bright_stars_are_no_saturation(seed, fwhm):
    rng = np.random.default_rng(50 + seed)
    x, y = spread(rng, 40)
    scene = 100 + moffats(x, y, 10 ** rng.uniform(3, 6 + np.log10(fwhm), 40), fwhm)
    image = photons(rng, scene)
    for made in (
        image,
        np.minimum(image, 65000).astype("u2").astype("f4") if image.max() < 65000 else image,
        image * np.float32(0.37) + np.float32(3),
    ):
        assert inspect_frame(made, None).saturation is None


@pytest.mark.parametrize("shape", ["core", "box", "disc"])
def test_galaxies_with_flat_cores_are_no_saturation(shape):
    image, rng = field(60)
    yy, xx = np.mgrid[:SIZE, :SIZE]
    r = np.hypot(xx - 120.3, yy - 130.8)
    scene = {"core": 1 / (1 + (r / 12) ** 4), "box": np.exp(-((r / 10) ** 4)),
             "disc": 1 / (1 + np.exp((r - 20) / 3))}[shape]  # fmt: skip
    for height in (2000, 20000):
        made = image + photons(rng, height * scene)
        assert inspect_frame(made, None).saturation is None
        assert inspect_frame((made / 4).round(), None).saturation is None


@pytest.mark.parametrize("fwhm", [2.0, 3.5, 8.0])
@pytest.mark.parametrize("noisy", [False, True])
def test_stars_that_are_all_alike_are_no_saturation(fwhm, noisy):
    rng = np.random.default_rng(70)
    x, y = spread(rng, 25).round() + rng.choice([0, 0.5])
    scene = 100 + gaussians(x, y, np.full(25, 1e5), fwhm)
    image = photons(rng, scene) if noisy else (scene + rng.normal(0, 1, scene.shape)).astype("f4")
    assert inspect_frame(image, None).saturation is None
