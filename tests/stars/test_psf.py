"""PSFs that stars show, against the truth."""

import numpy as np
import pytest

from fastdiff.simulate.inject import point_source
from fastdiff.stars.find import find_stars
from fastdiff.stars.psf import _without_noise, measure_psf, moffat
from tests.stars.fields import FWHM, SKY, add


@pytest.mark.parametrize("beta", [None, 3.5])
def test_psf_against_the_truth(beta, rng):
    image = np.zeros((512, 512))
    y, x = (a.ravel() + rng.uniform(-3, 3, 64) for a in np.mgrid[35:480:8j, 35:480:8j])
    for a, b, flux in zip(x, y, 10 ** rng.uniform(4, 5.3, 64), strict=True):
        add(image, a, b, flux, beta=beta, half=30)
    image = rng.poisson(image + SKY).astype(np.float64)
    psf = measure_psf(image, None, find_stars(image), size=31)
    truth = point_source((31, 31), 15, 15, FWHM, beta)
    j, i = np.indices(psf.shape) - 15
    truth[np.hypot(i, j) > 15] = 0
    truth /= truth.sum()
    assert psf.sum() == pytest.approx(1)
    assert np.abs(psf - truth).max() < 0.01 * truth.max()
    assert np.hypot((psf * i).sum(), (psf * j).sum()) < 0.05
    wing = np.hypot(i, j) > 10
    assert np.abs(psf - truth)[wing].max() < 1e-3 * truth.max()


def test_psf_with_bad_pixels_neighbours_and_a_slope_of_the_sky(field, rng):
    image, *_ = field
    clean = measure_psf(image, None, find_stars(image), size=21)
    stars = find_stars(image)
    image = image + np.linspace(0, 200, image.shape[1], dtype=np.float32)
    bad = np.zeros(image.shape, bool)
    for k in range(0, 40, 4):
        x, y = round(stars.x[k]), round(stars.y[k])
        add(image, x + 8, y + 2, 0.3 * stars.flux[k])
        image[y - 7, x + 3] = np.nan
        image[y + 6, x - 4], bad[y + 6, x - 4] = 60000, True
        image[y - 5, x - 6] += 5000  # a cosmic ray
    psf = measure_psf(image, bad, stars, size=21)
    assert np.abs(psf - clean).max() < 0.02 * clean.max()


def test_psf_from_stars_at_the_edge(field):
    image, *_ = field
    stars = find_stars(image, edge=8)
    near = stars.take(np.minimum(stars.x, stars.y) < 25)
    psf = measure_psf(image, None, near, size=41)
    assert psf.shape == (41, 41) and np.isfinite(psf).all()
    assert psf.argmax() == 41 * 20 + 20


def test_psf_of_one_star(field):
    image, *_ = field
    psf = measure_psf(image, None, find_stars(image).take(slice(1)), size=15)
    truth = point_source((15, 15), 7, 7, FWHM)
    assert np.abs(psf - truth).max() < 0.03 * truth.max()


def true_psf(fwhm, beta, size=41):
    """A Moffat profile inside of a disc, of sum 1."""
    half = size // 2
    psf = point_source((size, size), half, half, fwhm, beta)
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    psf = np.where(np.hypot(x, y) <= half, psf, 0)
    return psf / psf.sum()


@pytest.mark.parametrize("fwhm", [2.5, 4.0, 6.0])
def test_noise_of_a_psf_is_taken_out(fwhm, rng):
    """No Moffat profile itself: of two of them, one wide."""
    truth = 0.8 * true_psf(fwhm, 4.0) + 0.2 * true_psf(1.6 * fwhm, 2.5)
    for noise in (1e-2, 1e-3, 1e-4):  # of a pixel, relative to the peak
        sigma = noise * truth.max()
        noisy = np.where(truth > 0, truth + sigma * rng.normal(size=truth.shape), 0)
        noisy /= noisy.sum()
        error = np.linalg.norm(_without_noise(noisy, np.full(truth.shape, sigma**2)) - truth)
        assert error < 0.7 * np.linalg.norm(noisy - truth)


def test_structure_of_a_psf_stays(rng):
    """Spikes far above the noise, which no profile with elliptical isophotes has."""
    psf = true_psf(3.0, 3.0)
    psf[20, 8:33] += 0.01 * psf.max()
    psf /= psf.sum()
    kept = _without_noise(psf, np.full(psf.shape, (1e-4 * psf.max()) ** 2))
    np.testing.assert_allclose(kept, psf, atol=3e-4 * psf.max())


def test_moffat():
    psf = moffat(5.0, 41)
    assert psf.sum() == pytest.approx(1)
    profile = psf[20, 20:] / psf[20, 20]
    assert np.interp(2.5, np.arange(21), profile) == pytest.approx(0.5, abs=0.03)
    gaussian = moffat(5.0, 41, beta=1e6)  # what it becomes for large beta
    np.testing.assert_allclose(
        gaussian[20, 20:] / gaussian[20, 20], 0.5 ** (np.arange(21) / 2.5) ** 2, atol=1e-5
    )


def test_psf_is_not_negative_among_neighbours(rng):
    """Stars of a crowd, of which each has others on its wings."""
    image = rng.normal(0, 3, (96, 96)).astype(np.float32)
    for x, y, flux in zip(
        *rng.uniform(10, 86, (2, 60)), 10 ** rng.uniform(2.5, 4.5, 60), strict=True
    ):
        add(image, x, y, flux)
    psf = measure_psf(image, None, find_stars(image, sky=0.0, sigma=3.0), size=31, sky=0.0)
    assert psf.min() >= 0
    assert psf.sum() == pytest.approx(1)
    y, x = np.indices(psf.shape) - 15
    inner = np.hypot(x, y) <= FWHM
    assert psf[inner].sum() > 0.6  # 0.94 of a Gaussian


def test_psf_errors(field):
    image, *_ = field
    stars = find_stars(image)
    with pytest.raises(ValueError, match="no star to measure a PSF from: give the PSF"):
        measure_psf(image, None, stars.take(slice(0)), size=15)
    with pytest.raises(ValueError, match="size is 16; a PSF has an odd number"):
        measure_psf(image, None, stars, size=16)
    with pytest.raises(ValueError, match="give the PSF"):
        measure_psf(image, np.ones(image.shape, bool), stars, size=15)
