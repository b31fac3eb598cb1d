"""What is measured of a region, and its flags."""

import numpy as np
import pytest

from fastdiff import find_transients
from fastdiff.detect.find import EDGE, MASKED, SATURATED
from tests.detect.images import difference, gaussian, optimal_error


@pytest.mark.parametrize("sigma", [0.8, 1.7, 3.0])
@pytest.mark.parametrize("snr", [5.5, 12, 300])
def test_position_flux_and_error_of_a_point_source(sigma, snr):
    noise = 4.0
    flux = snr * optimal_error(noise, sigma)
    image = gaussian((120, 100), 41.3, 66.8, flux, sigma)
    (row,) = find_transients(image, noise=noise)
    assert row["x"] == pytest.approx(41.3, abs=0.02)
    assert row["y"] == pytest.approx(66.8, abs=0.02)
    assert row["flux"] == pytest.approx(flux, rel=0.01)
    assert row["flux_err"] == pytest.approx(optimal_error(noise, sigma), rel=0.02)
    assert row["snr"] == pytest.approx(row["flux"] / row["flux_err"])
    assert row["snr"] == pytest.approx(snr, rel=0.02)
    assert row["fwhm"] == pytest.approx(2.3548 * sigma, rel=0.05)
    assert row["ellipticity"] < 0.03
    assert row["peak"] == pytest.approx(image.max())
    assert row["n_pixels"] == (image > 0.5 * noise).sum()
    assert row["flags"] == 0
    assert row["image"] == 0


def test_the_error_is_that_of_optimal_photometry():
    rng = np.random.default_rng(8)
    noise = rng.uniform(1, 6, (60, 60))
    profile = gaussian((60, 60), 30.2, 29.6, 1.0, 2.0)
    (row,) = find_transients(2000 * profile, noise=noise)
    # F = sum(p d) / sum(p^2), the estimate that the docstring's formula gives the error of.
    trials = (profile * noise * rng.normal(size=(4000, 60, 60))).sum((1, 2)) / (profile**2).sum()
    assert row["flux_err"] == pytest.approx(trials.std(), rel=0.05)


def test_shape_of_an_elongated_source():
    for theta in (-60, -20, 0, 35, 80):
        image = gaussian((90, 90), 45, 45, 3000, 3.0, ratio=0.5, theta=theta)
        (row,) = find_transients(image, noise=1.0)
        assert row["theta"] == pytest.approx(theta, abs=1)
        assert row["ellipticity"] == pytest.approx(0.5, abs=0.03)


def test_edge_flag():
    image = gaussian((60, 60), 30, 30, 500)
    assert find_transients(image, noise=1.0)["flags"].tolist() == [0]
    for x, y in ((1, 30), (30, 1), (58, 30), (30, 58)):
        (row,) = find_transients(gaussian((60, 60), x, y, 500), noise=1.0)
        assert row["flags"] == EDGE


def test_masked_and_saturated_pixels_nearby():
    image = gaussian((60, 60), 30, 30, 500)
    far, near = np.zeros(image.shape, bool), np.zeros(image.shape, bool)
    far[2, 2] = near[30, 34] = True
    assert find_transients(difference(image, mask=far))["flags"].tolist() == [0]
    assert find_transients(difference(image, mask=near))["flags"].tolist() == [MASKED]
    full = {"saturated": np.argwhere(near[None])}
    flags = find_transients(difference(image, mask=near, **full))["flags"]
    assert flags.tolist() == [MASKED | SATURATED]
    full = {"saturated": np.array([[1, 30, 34]])}
    two = difference(np.stack([image, image]), **full)
    assert find_transients(two)["flags"].tolist() == [0, SATURATED]


def test_masked_pixels_add_nothing_and_poison_nothing():
    image = gaussian((60, 60), 30, 30, 500)
    mask = np.zeros(image.shape, bool)
    mask[28, 27:30] = True
    (row,) = find_transients(difference(image, mask=mask))
    assert row["flux"] == pytest.approx(image[~mask].sum(), rel=0.01)
    assert all(np.isfinite(row[name]) for name in row.colnames)
    noise = np.where(mask, np.nan, 1.0)
    (row,) = find_transients(image, noise=noise)
    assert row["flux"] == pytest.approx(image[~mask].sum(), rel=0.01)
    assert row["flags"] == MASKED


def test_noisy_differences():
    rng = np.random.default_rng(6)
    truth = np.zeros((400, 400))
    places = [(x, y) for x in range(40, 400, 64) for y in range(40, 400, 64)]
    for x, y in places:
        truth[y - 20 : y + 21, x - 20 : x + 21] += gaussian((41, 41), 20, 20, 400, 1.5)
    image = truth + rng.normal(size=truth.shape)
    arguments = {"noise": 1.0, "pixel_threshold": 3.0, "noise_free": False}
    table = find_transients(image, **arguments)
    assert len(table) == len(places)
    pull = (table["flux"] - 400) / table["flux_err"]
    assert 0.7 < pull.std() < 1.3
    assert abs(pull.mean()) < 0.6
    assert len(find_transients(rng.normal(size=(500, 500)), **arguments)) == 0
    meta = {"pixel_threshold": 3.0, "noise_free": False}
    same = find_transients(difference(image, **meta))
    np.testing.assert_allclose(same["flux_err"], table["flux_err"])
