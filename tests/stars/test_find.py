"""Stars that are found, against those that were put in."""

import numpy as np
import pytest

from fastdiff.stars.find import find_stars, fwhm_of
from tests.stars.fields import FWHM, SIGMA, SKY, add


def nearest(stars, x, y):
    """Distance and index of the nearest of (x, y) to every star."""
    distance = np.hypot(stars.x[:, None] - x, stars.y[:, None] - y)
    return distance.min(1), distance.argmin(1)


def test_every_star_with_its_position_flux_and_width(field):
    image, x, y, flux = field
    stars = find_stars(image)
    distance, which = nearest(stars, x, y)
    assert sorted(which) == list(range(49))
    assert distance.max() < 0.15
    np.testing.assert_allclose(stars.flux, flux[which], rtol=0.06)
    assert fwhm_of(stars) == pytest.approx(FWHM, rel=0.02)
    assert np.abs(stars.fwhm / FWHM - 1).max() < 0.12
    assert stars.ellipticity.max() < 0.15
    assert stars.isolated.all()
    assert (np.diff(stars.flux) <= 0).all()
    # Of a Gaussian with the best of weights: flux / (sigma sqrt(4 pi) width).
    expected = flux[which] / (SIGMA * np.sqrt(4 * np.pi) * FWHM / 2.3548)
    np.testing.assert_allclose(stars.snr, expected, rtol=0.1)
    peak = [image[round(b) - 1 : round(b) + 2, round(a) - 1 : round(a) + 2].max() - SKY
            for a, b in zip(stars.x, stars.y, strict=True)]  # fmt: skip
    np.testing.assert_allclose(stars.peak, peak, atol=0.5 * SIGMA)


@pytest.mark.parametrize("convert", [np.float64, lambda a: a.astype(">f4"), np.asfortranarray])
def test_types_of_images(field, convert):
    want, got = find_stars(field[0]), find_stars(convert(field[0]))
    np.testing.assert_allclose(got.x, want.x, atol=1e-3)


def test_given_sky_and_noise(field):
    image, x, y, _ = field
    sky, sigma = np.full(image.shape, SKY), np.full(image.shape, SIGMA)
    for stars in (find_stars(image, sky=SKY, sigma=SIGMA), find_stars(image, sky=sky, sigma=sigma)):
        assert len(stars.x) == 49
        assert nearest(stars, x, y)[0].max() < 0.15


def test_galaxies_and_hot_pixels_are_no_stars(field, rng):
    image, x, y, _ = field
    image = image.copy()
    wide = [(40 + 35 * k, 37 + 33 * (k % 6)) for k in range(6)]
    for a, b in wide:
        add(image, a, b, 2e4, fwhm=6.0)
    hot = rng.integers(40, 200, (6, 2))
    image[hot[:, 0], hot[:, 1]] += 3000
    stars = find_stars(image)
    assert nearest(stars, x, y)[0].max() < 1.0
    assert len(stars.x) > 35


def test_saturated_and_damaged_stars_are_left_out(field):
    image, x, y, flux = field
    image = image.copy()
    bright = np.argsort(-flux)[:3]
    bad = np.zeros(image.shape, bool)
    for k in bright:
        a, b = round(x[k]), round(y[k])
        if k == bright[0]:
            bad[b, a] = True
        elif k == bright[1]:
            image[b + 1, a] = np.nan
        else:  # clipped, and not flagged
            box = image[b - 5 : b + 6, a - 5 : a + 6]
            np.minimum(box, SKY + 0.5 * (box.max() - SKY), out=box)
    found = nearest(find_stars(image, bad), x, y)[1]
    assert not set(bright) & set(found)
    assert len(found) == 46


def test_the_edge_is_kept_free(field):
    image, x, y, _ = field
    stars = find_stars(image, edge=30)
    assert stars.x.min() >= 30 and stars.x.max() <= 257
    assert stars.y.min() >= 30 and stars.y.max() <= 225
    inside = (x > 31) & (x < 256) & (y > 31) & (y < 224)
    assert len(stars.x) >= inside.sum()


def test_isolated_ones_come_first(field):
    image, x, y, flux = field
    image = image.copy()
    k = int(np.argmax(flux))
    add(image, x[k] + 7.0, y[k], 0.3 * flux[k])
    stars = find_stars(image)
    distance, _ = nearest(stars, x[k : k + 1], y[k : k + 1])
    crowded = distance < 9
    assert crowded.any() and not stars.isolated[crowded].any()
    assert stars.isolated[~crowded].all()
    assert (np.diff(stars.isolated.astype(int)) <= 0).all()


def test_few_are_spread_over_the_frame(field):
    image, *_ = field
    few = find_stars(image, max_stars=16)
    assert len(few.x) == 16
    quarter = (few.x > 144) * 2 + (few.y > 128)
    assert np.bincount(quarter, minlength=4).min() >= 2


@pytest.mark.parametrize("what", ["noise", "constant", "nan", "masked", "infinite", "empty_sky"])
def test_no_star_gives_none(what, rng):
    image = np.full((80, 90), SKY, np.float32)
    bad = None
    if what in ("noise", "masked"):
        image += SIGMA * rng.normal(size=image.shape).astype(np.float32)
    if what == "nan":
        image[:] = np.nan
    if what == "masked":
        bad = np.ones(image.shape, bool)
    if what == "infinite":
        image[:] = np.inf
    if what == "empty_sky":
        image[:] = 0
    stars = find_stars(image, bad)
    assert [len(column) for column in stars] == [0] * 8
    assert np.isnan(fwhm_of(stars))


def test_a_crowded_field_fills_no_buffer(rng):
    image = np.zeros((600, 600))
    image[rng.integers(0, 600, 40000), rng.integers(0, 600, 40000)] = 10 ** rng.uniform(3, 5, 40000)
    from scipy.ndimage import gaussian_filter

    stars = find_stars(gaussian_filter(image, 1.3) + rng.normal(size=image.shape), sky=0, sigma=1)
    assert len(stars.x) <= 500


def test_an_image_without_noise():
    image = np.full((120, 120), 7.0)
    for x in (30, 60, 90):
        add(image, x + 0.3, x, 1e4)
    stars = find_stars(image)
    assert len(stars.x) == 3
    assert fwhm_of(stars) == pytest.approx(FWHM, rel=0.01)
