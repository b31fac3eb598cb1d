"""matching/sources.py: fluxes at every pixel, their errors, and what matching leaves of stars."""

import numpy as np
import pytest

from fastdiff.matching import sources, spectrum
from fastdiff.stars.psf import moffat

PSF = moffat(3.5, 17)
FILTER = spectrum.source_filter(PSF, np.ones((64, 33)))


def measured(image, variance, photons=0.0):
    flux, error2 = (np.empty(image.shape, np.float32) for _ in range(2))
    sources.point_sources(image, variance, FILTER, photons, flux, error2, 1)
    return flux, error2


def put(image, y, x, flux):
    image[y - 8 : y + 9, x - 8 : x + 9] += flux * PSF


def test_fluxes_and_errors_of_point_sources(rng):
    image = 3 * rng.normal(size=(200, 220)).astype(np.float32)
    variance = np.full(image.shape, 9, np.float32)
    put(image, 60, 70, 900)
    put(image, 150, 20, -900)
    flux, error2 = measured(image, variance)
    expected = 9 / (PSF**2).sum()
    np.testing.assert_allclose(error2[20:-20, 20:-20], expected, rtol=1e-3)
    for (y, x), truth in (((60, 70), 900), ((150, 20), -900)):
        assert flux[y, x] == pytest.approx(truth, abs=3.5 * np.sqrt(expected))
    sky = np.delete(flux[20:-20, 20:-20], np.arange(30, 60), axis=0)
    assert np.median(np.abs(sky)) / 0.6745 == pytest.approx(np.sqrt(expected), rel=0.05)


def test_bad_pixels_hide_no_source(rng):
    image = np.zeros((100, 100), np.float32)
    put(image, 50, 50, 1000)
    image[:, 50], image[30:36, 10:30] = np.nan, np.nan
    flux, error2 = measured(image, np.ones_like(image))
    assert flux[50, 50] == pytest.approx(1000, rel=1e-4)  # on a dead column
    assert error2[50, 50] > error2[50, 80]
    assert np.isnan(flux[33, 20])  # in a patch
    assert np.isfinite(error2[np.isfinite(flux)]).all()


def test_new_sources_have_photons_of_their_own():
    image = np.zeros((100, 100), np.float32)
    put(image, 50, 50, 1000)
    _, without = measured(image, np.ones_like(image))
    _, error2 = measured(image, np.ones_like(image), photons=0.5)
    own = (PSF**3).sum() / (PSF**2).sum() ** 2
    assert (error2 - without)[50, 50] == pytest.approx(0.5 * own * 1000, rel=1e-3)


@pytest.mark.parametrize("photons", [False, True])
def test_what_is_left_of_stars(rng, photons):
    """Residuals of 5 % of stars' light are found, and photons where nothing tells them."""
    shape = (600, 600)
    light = np.zeros(shape, np.float32)
    image = rng.normal(size=shape)
    for y, x in rng.integers(20, 580, (400, 2)):
        star = 10 ** rng.uniform(2.5, 4.5)
        put(light, y, x, star)
        put(image, y, x, 0.05 * star * rng.normal())
    gain = 2.0
    if photons:
        image += np.sqrt(light / gain) * rng.normal(size=shape)
    image = image.astype(np.float32)
    flux, error2 = measured(image, np.ones_like(image))
    before = error2.copy()
    error = sources.systematic_error(light, flux, error2, FILTER, photons=photons, threads=1)
    bright = light > light.max() / 50
    part = np.median(error[bright] / (light[bright] / PSF.max()))
    assert 0.03 < part < 0.12
    total = np.sqrt(error2 + error**2)
    assert 0.6 < np.nanquantile(np.abs(flux / total)[bright], 0.68) < 2
    dark = light == 0
    assert np.median(error[dark]) < 0.01 * np.sqrt(np.nanmedian(error2))
    if not photons:
        np.testing.assert_array_equal(error2, before)


def test_nothing_is_left_of_stars_that_match(rng):
    light = np.zeros((300, 300), np.float32)
    for y, x in rng.integers(20, 280, (100, 2)):
        put(light, y, x, 1e4)
    image = rng.normal(size=light.shape).astype(np.float32)
    flux, error2 = measured(image, np.ones_like(image))
    error = sources.systematic_error(light, flux, error2, FILTER, photons=False, threads=1)
    assert error.max() < 0.5 * np.sqrt(np.nanmedian(error2))
