"""Regions: connected, split, grown."""

import numpy as np
import pytest

from fastdiff import find_transients
from fastdiff.detect import find as detect
from fastdiff.detect.find import BLENDED, EDGE
from tests.detect.images import gaussian


def test_a_source_beside_one_that_vanished():
    image = gaussian((80, 80), 38, 40, 900) - gaussian((80, 80), 44, 40, 900)
    both = find_transients(image, noise=1.0, sign="both")
    assert len(both) == 2
    np.testing.assert_allclose(np.sort(both["x"]), [38, 44], atol=0.4)
    plus = find_transients(image, noise=1.0)
    assert plus["flux"][0] == pytest.approx(900, rel=0.15)


def test_a_batch_and_its_groups(monkeypatch):
    images = np.zeros((5, 50, 60))
    images[1] = gaussian((50, 60), 20, 30, 300)
    images[3] = gaussian((50, 60), 15, 20, 300) + gaussian((50, 60), 45, 25, 600)
    # Neighbours in memory, not on the sky.
    images[2] = gaussian((50, 60), 20, 49, 500)
    images[3] += gaussian((50, 60), 20, 0, 500)
    table = find_transients(images, noise=1.0)
    assert list(table["image"]) == [1, 2, 3, 3, 3]
    assert list(np.round(table["x"][[0, 1, 2]])) == [20, 20, 45]
    assert list(np.diff(table["snr"][2:]) < 0) == [True, True]
    monkeypatch.setattr(detect, "_GROUP_PIXELS", 1)
    one_by_one = find_transients(images, noise=1.0)
    for name in table.colnames:
        np.testing.assert_allclose(one_by_one[name], table[name], rtol=1e-9)
    noises = np.arange(1, 6)[:, None, None] * np.ones_like(images)
    scaled = find_transients(images * noises, noise=noises)
    np.testing.assert_allclose(scaled["snr"], table["snr"], rtol=1e-6)


def test_regions_touch_by_corners():
    image = np.zeros((40, 40))
    image[[10, 11, 12, 13], [10, 11, 12, 13]] = 50
    (row,) = find_transients(image, noise=1.0, min_pixels=4)
    assert row["n_pixels"] == 4
    assert row["theta"] == pytest.approx(45, abs=1)


def test_two_sources_in_one_region():
    for gap, fluxes in ((6.0, (900, 700)), (5.5, (5000, 5000)), (8.0, (4000, 900))):
        image = gaussian((80, 80), 36, 40, fluxes[0]) + gaussian((80, 80), 36 + gap, 41, fluxes[1])
        table = find_transients(image, noise=1.0)
        assert len(table) == 2
        assert (table["flags"] == BLENDED).all()
        np.testing.assert_allclose(table["flux"], fluxes, rtol=0.1)
        np.testing.assert_allclose(np.sort(table["x"]), [36, 36 + gap], atol=0.4)
        assert table["flux"].sum() == pytest.approx(sum(fluxes), rel=0.01)


def test_one_source_is_not_split_by_a_ripple():
    ripple = 0.02 * np.cos(2.2 * np.arange(80))
    image = gaussian((80, 80), 40, 40, 5000, 4.0) * (1 + ripple) + 0.1 * ripple[:, None]
    (row,) = find_transients(image, noise=1.0)
    assert row["flux"] == pytest.approx(5000, rel=0.03)


def test_a_source_that_fills_the_frame():
    (row,) = find_transients(np.full((40, 50), 3.0), noise=1.0)
    assert row["flux"] == pytest.approx(3.0 * 2000)
    assert row["flags"] == EDGE
    assert (row["x"], row["y"]) == pytest.approx((24.5, 19.5))
