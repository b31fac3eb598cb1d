"""defects/lines.py: bad columns and rows are found, and nothing that the sky makes."""

import numpy as np
import pytest

from fastdiff.defects.lines import find_lines
from tests.difference.known_sources import moffat_image

NOISE = 5.0


def sky(rng, shape=(512, 500)):
    return rng.normal(200, NOISE, shape).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("off", [20, -20, 3000])
def test_a_column_or_row_from_its_trap_on(rng, axis, off):
    image = sky(rng, (512, 512))
    view = image if axis == 0 else image.T
    view[150:, 123] += off
    mask = find_lines(image, None, NOISE)
    found = mask if axis == 0 else mask.T
    assert found[192:, 123].all()
    assert found[:, 123].sum() <= 512 - 100
    assert not np.delete(found, 123, axis=1).any()


def test_nothing_is_found_in_sky_with_stars_and_galaxies(rng):
    places = rng.uniform(0, 500, (60, 2))
    stars = moffat_image(places, 10 ** rng.uniform(4, 6.5, 60), np.full(60, 3.5), side=512)
    galaxies = moffat_image(places[::-1] + 20, np.full(60, 1e5), rng.uniform(5, 30, 60), side=512)
    for light in (0, stars, galaxies):
        image = rng.poisson(200 + light * np.ones((512, 512))).astype(np.float32)
        assert find_lines(image, None, 200**0.5) is None


def test_the_way_of_reading_is_no_defect(rng):
    """Offsets of all rows, and steps between amplifiers, are left to the background."""
    image = sky(rng)
    assert find_lines(image + rng.normal(0, 20, (512, 1)), None, NOISE) is None
    image[:, 250:] += 30
    assert find_lines(image, None, NOISE) is None


def test_masked_lines_and_small_frames(rng):
    image = sky(rng)
    image[:, 100] = np.nan
    bad = np.zeros(image.shape, bool)
    bad[:, 200], image[:, 200] = True, 1e6
    assert find_lines(image, bad, NOISE) is None
    assert find_lines(sky(rng, (64, 64)), None, NOISE) is None
