import numpy as np
import pytest

from fastdiff.simulate.inject import point_source
from fastdiff.stars.find import _without_noise, find_stars, fwhm_of, measure_psf, moffat

SKY, SIGMA, FWHM = 200.0, 5.0, 3.2


def add(image, x, y, flux, fwhm=FWHM, beta=None, half=20):
    """Add a point source, or a round galaxy as wide as `fwhm` says."""
    x0, y0 = int(x) - half, int(y) - half
    stamp = flux * point_source((2 * half + 1, 2 * half + 1), x - x0, y - y0, fwhm, beta)
    rows = slice(max(y0, 0), min(y0 + 2 * half + 1, image.shape[0]))
    columns = slice(max(x0, 0), min(x0 + 2 * half + 1, image.shape[1]))
    image[rows, columns] += stamp[rows.start - y0 : rows.stop - y0,
                                  columns.start - x0 : columns.stop - x0]  # fmt: skip


@pytest.fixture(scope="module")
def field():
    """(image, x, y, flux) of 49 stars, 30 pixels and more apart."""
    rng = np.random.default_rng(5)
    image = np.zeros((256, 288))
    y, x = (a.ravel() + rng.uniform(-3, 3, 49) for a in np.mgrid[20:240:7j, 20:268:7j])
    flux = 10 ** rng.uniform(3.5, 5, 49)
    for each in zip(x, y, flux, strict=True):
        add(image, *each)
    image = SKY + rng.poisson(image) + SIGMA * rng.normal(size=image.shape)
    return image.astype(np.float32), x, y, flux


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


# ------------------------------------------------------------------------ the PSF


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
