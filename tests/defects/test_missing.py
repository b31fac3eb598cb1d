"""Missing pixels that nobody masked are found, and nothing else is."""

import numpy as np
import pytest
from scipy import ndimage

from fastdiff.defects.missing import find_missing
from tests.defects.scenes import SIZE, field, gaussians, photons, spread

YY, XX = np.mgrid[:SIZE, :SIZE]


def turned(angle):
    """Outside of a frame that was turned."""
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    u, v = XX - SIZE / 2, YY - SIZE / 2
    return np.maximum(abs(c * u + s * v), abs(c * v - s * u)) > 110


AREAS = {
    "rows": YY < 30,
    "columns": XX >= SIZE - 11,
    "frame": (np.minimum(XX, YY) < 12) | (np.maximum(XX, YY) > SIZE - 20),
    "corner": XX + YY < 60,
    "turned 45": turned(45),
    "turned 20": turned(20),
    "block": (abs(XX - 100) < 10) & (abs(YY - 90) < 4),
    "dead column": XX == 77,
    "comb": XX % 16 == 7,
    "most": XX > 60,
    "round": np.hypot(XX - 99, YY - 140) < 20,
}


@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("value", [0.0, -32768.0, -99.0, 65535.0, 1e30])
def test_areas_of_one_value(area, value):
    image, _ = field(1)
    where = AREAS[area]
    image[where] = value
    found = find_missing(image, None)
    assert found.values == (np.float32(value),)
    # Tips of a round or turned area may be too short.
    wrong = found.mask != where
    assert wrong.sum() <= (40 if area in ("round", "turned 20") else 8)
    assert not (found.mask & ~ndimage.binary_dilation(where)).any()


@pytest.mark.parametrize("area", ["rows", "corner", "most", "block"])
@pytest.mark.parametrize("whole", [False, True])
def test_zeros_in_the_middle_of_the_noise(area, whole):
    rng = np.random.default_rng(2)
    image = rng.normal(0, 5, (SIZE, SIZE)).astype(np.float32)
    image = image.round() if whole else image
    image[AREAS[area]] = 0
    found = find_missing(image, None)
    assert not (AREAS[area] & ~found.mask).any()
    # Zeros that noise put next to it.
    assert not (found.mask & ~AREAS[area] & (image != 0)).any()
    assert (found.mask & ~AREAS[area]).sum() < 50


def test_a_border_that_repeats_its_last_pixels():
    image, _ = field(3)
    image = np.pad(image[20:-20, :-25], ((20, 20), (0, 25)), mode="edge")
    found = find_missing(image, None)
    made = np.ones((SIZE, SIZE), bool)
    made[20:-20, :-25] = False
    assert (found.mask & made).sum() > 0.85 * made.sum()  # not all of it under stars
    assert (found.mask & ~made).sum() < 700  # the last pixels themselves belong to the runs


def test_several_values_at_once():
    image, _ = field(4)
    image[:20], image[100:120, 50:90], image[:, -9:] = 0, -32768, 1e30
    found = find_missing(image, None)
    assert set(found.values) == {0, -32768, np.float32(1e30)}
    assert found.mask.sum() == (image[:, :-9] == 0)[:20].sum() + 800 + 9 * SIZE


def test_edges_that_resampling_mixed_are_missing_too():
    image, _ = field(5)
    image[AREAS["turned 20"]] = 0
    smooth = ndimage.uniform_filter(image, 3)
    found = find_missing(smooth, None)
    mixed = ndimage.binary_dilation(AREAS["turned 20"], np.ones((3, 3)))
    assert (mixed & ~found.mask).sum() < 40


def test_what_is_masked_is_not_looked_at():
    image, _ = field(6)
    image[:30] = 0
    bad = YY < 30
    assert find_missing(image, bad) is None
    image[:30] = np.nan
    image[40:60, :100] = np.inf
    assert find_missing(image, None) is None


@pytest.mark.parametrize("step", [0.3, 1, 3, 10, 30])
@pytest.mark.parametrize("slope", [0, 40])
def test_coarse_numbers_are_no_missing_pixels(step, slope):
    """Noise of 3 counts in steps of 0.1 to 10 sigma, flat or on a slope."""
    rng = np.random.default_rng(7)
    x, y = spread(rng, 30)
    scene = 200 + slope * XX / SIZE + gaussians(x, y, 10 ** rng.uniform(3, 5, 30), 3)
    image = ((scene + rng.normal(0, 3, scene.shape)) / step).round().astype(np.float32)
    assert find_missing(image, None) is None
    if step == 30 and not slope:
        return  # nothing varies but stars: how far is 0 from 7 then?
    image[:40] = 0
    assert (find_missing(image, None).mask != (YY < 40)).sum() <= 3 * SIZE  # bands touch it


@pytest.mark.parametrize("sky", [0.01, 0.1, 0.5, 2, 8])
def test_a_sky_of_few_counts_is_no_missing_pixels(sky):
    rng = np.random.default_rng(8)
    x, y = spread(rng, 40)
    scene = sky + gaussians(x, y, 10 ** rng.uniform(1, 4, 40), 3)
    assert find_missing(photons(rng, scene), None) is None


def test_frames_without_noise_are_no_missing_pixels():
    rng = np.random.default_rng(9)
    x, y = spread(rng, 20)
    scene = gaussians(x, y, 10 ** rng.uniform(3, 5, 20), 3).astype(np.float32)
    for image in (scene, 300 + scene, (300 + scene).round(), np.full_like(scene, 7)):
        assert find_missing(image, None) is None
    assert find_missing(np.full_like(scene, np.nan), None) is None
    one = np.full_like(scene, 7)
    one[40, 50] = 100
    assert find_missing(one, None) is None


def test_flat_tops_of_stars_are_left_to_saturation():
    image, rng = field(10)
    x, y = spread(rng, 5, 30)
    image += photons(rng, gaussians(x, y, [3e6] * 5, 4))
    for px in x.astype(int):
        image[:, px] += np.float32(3e6) * (
            np.abs(np.arange(SIZE) - y[list(x.astype(int)).index(px)]) < 40
        )
    assert (image > 30000).sum() > 200
    assert find_missing(np.minimum(image, 30000), None) is None
