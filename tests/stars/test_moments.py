"""Stamps, adaptive moments and shifts."""

import numpy as np
import pytest

from fastdiff.stars.moments import LANCZOS, adaptive_moments, cut_stamps, shift_matrix


def gaussian(side, dx, dy, xx, xy, yy):
    y, x = np.mgrid[:side, :side] - side // 2.0
    inverse = np.linalg.inv([[xx, xy], [xy, yy]])
    u, v = x - dx, y - dy
    return np.exp(
        -0.5 * (inverse[0, 0] * u * u + 2 * inverse[0, 1] * u * v + inverse[1, 1] * v * v)
    )


def test_moments_of_a_gaussian_are_its_own():
    truth = [(0.3, -0.2, 4.0, 0.8, 3.0), (0.0, 0.0, 2.5, 0.0, 2.5), (-0.4, 0.45, 5.0, -1.5, 6.0)]
    stamps = np.array([1000 * gaussian(41, *each) for each in truth], np.float32)
    flux, dx, dy, (xx, xy, yy) = adaptive_moments(stamps, 1.8)
    for k, (x0, y0, *shape) in enumerate(truth):
        np.testing.assert_allclose([dx[k], dy[k]], [x0, y0], atol=2e-3)
        np.testing.assert_allclose([xx[k], xy[k], yy[k]], shape, atol=0.02)
        area = 2 * np.pi * np.sqrt(shape[0] * shape[2] - shape[1] ** 2)
        assert flux[k] == pytest.approx(1000 * area, rel=3e-3)


def test_no_flux_where_there_is_no_source():
    flux, *_ = adaptive_moments(np.zeros((1, 21, 21), np.float32), 1.5)
    assert np.isnan(flux[0])


def test_stamps_are_zero_outside_of_the_image():
    image = np.arange(1.0, 31.0).reshape(5, 6)
    stamps, (y0, x0) = cut_stamps(image, np.array([0.2, 3.0]), np.array([0.0, 2.4]), 2)
    assert (y0.tolist(), x0.tolist()) == ([-2, 0], [-2, 1])
    assert not stamps[0, :2].any() and not stamps[0, :, :2].any()
    np.testing.assert_array_equal(stamps[0, 2:, 2:], image[:3, :3])
    np.testing.assert_array_equal(stamps[1], image[:5, 1:6])


@pytest.mark.parametrize("shift", [0.0, 0.37, -0.5])
def test_shifts_move_smooth_curves(shift):
    size = 15
    x = np.arange(size + 2 * LANCZOS) - (size // 2 + LANCZOS)
    rows = shift_matrix(np.array([shift]), size)[0]
    moved = rows @ np.exp(-((x - shift) ** 2) / 8)
    np.testing.assert_allclose(moved, np.exp(-((np.arange(size) - size // 2) ** 2) / 8), atol=2e-3)
