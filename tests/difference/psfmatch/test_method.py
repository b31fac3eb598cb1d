"""Method "psf-match": the difference by its own kernel, what it promises, and bad input."""

import threading

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import fastdiff
from fastdiff.kernels import jit
from tests import pretend_cupy
from tests.difference.psfmatch.reference import psfmatch as reference

SIDE = 200
SKIES = {"ref": 40.0, "sci": 100.0}  # electrons
SCALE = 0.9
INNER = np.s_[15:-15, 15:-15]


def stars(places, fluxes, fwhm, shape=(SIDE, SIDE), slope=0.0):
    """Gaussian stars; their width grows by `slope` from the left to the right edge."""
    image = np.zeros(shape)
    for (y, x), flux in zip(places, fluxes, strict=True):
        sigma = fwhm / 2.3548 * (1 + slope * (x / shape[1] - 0.5))
        column, row = (
            np.exp(-0.5 * ((np.arange(n) - c) / sigma) ** 2)
            for n, c in zip(shape, (y, x), strict=True)
        )
        image += flux / (2 * np.pi * sigma**2) * np.outer(column, row)
    return image


class Pair:
    """A pair with photon noise, what it is made of, and the transients in it."""

    def __init__(
        self, seed=1, n_stars=60, fwhm=(2.5, 3.6), slope=0.0, shift=0.0, side=SIDE, n_new=3,
        new_flux=4000.0, brightest=5.0,
    ):  # fmt: skip
        rng = np.random.default_rng(seed)
        shape = (side, side)
        self.places = rng.uniform(12, side - 12, (n_stars, 2))
        self.fluxes = 10 ** rng.uniform(3.3, brightest, n_stars)
        far = []
        while len(far) < n_new:
            place = rng.uniform(30, side - 30, 2)
            others = np.concatenate([self.places, far]) if far else self.places
            if np.hypot(*(others - place).T).min() > 9:
                far.append(place)
        self.new = np.reshape(far, (-1, 2))
        self.clean = stars(self.places, self.fluxes, fwhm[0], shape)
        self.static = SCALE * stars(self.places + shift, self.fluxes, fwhm[1], shape, slope)
        self.added = stars(self.new, np.full(n_new, new_flux), fwhm[1], shape, slope)
        self.ref_variance = self.clean + SKIES["ref"]
        self.sci_variance = self.static + self.added + SKIES["sci"]
        self.ref = rng.poisson(self.ref_variance).astype(np.float32)
        self.sci = rng.poisson(self.sci_variance).astype(np.float32)

    def subtract(self, **options):
        return subtract(self.ref, self.sci, **options)

    def sky(self):
        """Pixels of the inner frame without sources."""
        return inner((self.static < 0.3) & (self.added < 0.3))

    def cores(self):
        """Pixels of the inner frame in the light of stars, away from transients."""
        return inner((self.static > 30) & (self.added < 0.3))


def subtract(ref, sci, **options):
    return fastdiff.subtract_batch(ref, sci, method="psf-match", **options)


def inner(where):
    frame = np.zeros_like(where)
    frame[INNER] = where[INNER]
    return frame


def spread(values):
    """Robust standard deviation."""
    return 1.4826 * np.median(np.abs(values - np.median(values)))


def aperture(image, place, radius=9):
    """Sum within a radius."""
    y, x = np.indices(image.shape)
    return image[np.hypot(y - place[0], x - place[1]) < radius].sum()


@pytest.fixture(scope="module")
def pair():
    return Pair()


# -------------------------------------------------------------------- the arithmetic


@pytest.mark.parametrize("convolve", ["ref", "sci"])
@pytest.mark.parametrize("basis", ["gaussian", "delta"])
def test_difference_is_that_of_its_kernel(convolve, basis):
    """The difference is exact, its noise but for the steps of kernels squared in blocks."""
    made = Pair(fwhm=(2.5, 3.6) if convolve == "ref" else (3.6, 2.5), slope=0.1)
    d = made.subtract(
        basis=basis, ref_variances=made.ref_variance, sci_variances=made.sci_variance,
        scale_order=1,
    )  # fmt: skip
    assert d.kernel.convolved == convolve
    good = inner(~d.mask)
    expected = reference.difference(made.ref, made.sci, d.kernel)
    assert (np.abs(d.image - expected) < 0.01 * d.noise)[good].all()
    variance = reference.variance(made.ref_variance, made.sci_variance, d.kernel)
    np.testing.assert_allclose(d.noise[good], np.sqrt(variance[good]), rtol=0.03)


@pytest.mark.parametrize("fit", ["stars", "all"])
@pytest.mark.parametrize("basis", ["gaussian", "delta"])
def test_a_known_kernel_is_found(pair, basis, fit):
    """Without noise, and the science image the reference blurred: nothing is left."""
    sci = SCALE * gaussian_filter(pair.clean, 1.4, truncate=6) + 100
    d = subtract(pair.clean + 40, sci, basis=basis, fit=fit, regularisation=1e-9)
    assert d.meta["scale"] == pytest.approx(SCALE, rel=2e-3)
    left = np.abs(d.image - np.median(d.image[INNER]))[INNER]
    assert left.max() < 5e-3 * sci.max()
    assert d.kernel.convolved == "ref"
    y, x = np.indices(d.kernel(100, 50).shape)
    k = d.kernel(100, 50) / SCALE
    middle = (len(k) - 1) / 2
    # A pixel of a sampled Gaussian: no pixel integration, hence the width itself.
    assert (k * ((x - middle) ** 2)).sum() == pytest.approx(1.4**2, rel=0.05)
    assert (k * (y - middle)).sum() == pytest.approx(0, abs=0.01)


# -------------------------------------------------------------------- quality

CASES = {
    "reference sharper": {},
    "science sharper": {"fwhm": (3.6, 2.5)},
    "alike and shifted": {"fwhm": (3.0, 3.1), "shift": 0.4},
    "PSF varies by 10 %": {"slope": 0.1},
}


@pytest.mark.parametrize("case", CASES)
def test_stars_and_sky_are_as_quiet_as_the_noise(case):
    made = Pair(side=300, n_stars=140, **CASES[case])
    for variances in ({}, {"ref_variances": made.ref_variance, "sci_variances": made.sci_variance}):
        d = made.subtract(**variances)
        pull = np.asarray(d.image) / d.noise
        assert spread(pull[made.sky()]) == pytest.approx(1, abs=0.05)
        assert spread(pull[made.cores()]) == pytest.approx(1, abs=0.12)
        assert np.median(pull[made.sky()]) == pytest.approx(0, abs=0.06)
        assert d.meta["scale"] == pytest.approx(SCALE, rel=0.02)


def test_transients_keep_their_flux(pair):
    d = pair.subtract()
    for place in pair.new:
        y, x = np.indices(d.shape)
        near = np.hypot(y - place[0], x - place[1]) < 9
        error = float(np.sqrt((d.noise[near] ** 2).sum()))
        assert aperture(d.image, place) == pytest.approx(4000, abs=4 * error)


def test_what_fades_is_negative(pair):
    swapped = subtract(pair.sci, pair.ref)
    assert swapped.kernel.convolved == "sci"
    for place in pair.new:
        assert aperture(swapped.image, place) == pytest.approx(-4000 / SCALE, rel=0.25)


def test_variable_stars_are_left_out_of_the_fit(pair):
    """The brightest star doubles: all of its new flux is in the difference."""
    star = pair.fluxes.argmax()
    more = SCALE * pair.fluxes[star]
    sci = pair.sci + stars(pair.places[[star]], [more], 3.6)
    d = subtract(pair.ref, sci.astype(np.float32))
    assert aperture(d.image, pair.places[star], 12) == pytest.approx(more, rel=0.03)
    assert d.meta["scale"] == pytest.approx(SCALE, rel=0.01)


def test_a_scale_that_varies(pair):
    sky = pair.sci - SKIES["sci"]
    ramp = np.linspace(0.8, 1.2, SIDE)
    d = subtract(pair.ref, sky * ramp, scale_order=1)
    for x in (20, 180):
        assert d.kernel.scale(x, 100) == pytest.approx(SCALE * ramp[x], rel=0.03)
    constant = subtract(pair.ref, pair.sci)
    corners = constant.kernel.scale(np.array([0, 0, SIDE]), np.array([0, SIDE, SIDE]))
    np.testing.assert_allclose(corners, constant.kernel.scale(100, 100), rtol=1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_backgrounds_that_differ_are_taken_off(pair, order):
    v, u = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE), indexing="ij")
    slope = 300 * u - 200 * v if order == 1 else 300 * u * v + 100 * u
    d = subtract(pair.ref, (pair.sci + slope).astype(np.float32), background_order=order)
    pull = np.asarray(d.image) / np.median(d.noise[pair.sky()])
    for part in np.array_split(np.where(pair.sky(), pull, np.nan), 4, axis=1):
        assert np.nanmedian(part) == pytest.approx(0, abs=0.25)


def test_units_do_not_matter(pair):
    """Other gains and skies, even negative ones, change units only."""
    one = pair.subtract()
    two = subtract(pair.ref * 0.1 - 50, pair.sci * 30 + 1e4)
    assert two.meta["scale"] == pytest.approx(300 * one.meta["scale"], rel=1e-3)
    good = ~one.mask & ~two.mask
    assert (np.abs(two.image / 30 - one.image) < 0.2 * one.noise)[good].all()
    np.testing.assert_allclose(two.noise[good], 30 * one.noise[good], rtol=0.05)


def test_constant_kernel_where_it_is_asked_for(pair):
    d = pair.subtract(kernel_order=0)
    np.testing.assert_array_equal(d.kernel(0, 0), d.kernel(150, 90))


@pytest.mark.parametrize("convolve", ["ref", "sci"])
def test_direction(pair, convolve):
    assert pair.subtract().kernel.convolved == "ref"
    d = pair.subtract(convolve=convolve)
    assert d.kernel.convolved == convolve
    assert d.meta["convolved"] == [convolve]
    # Sharpening is no stable operation: the fit gives up some of the flux.
    assert d.meta["scale"] == pytest.approx(SCALE, rel=0.01 if convolve == "ref" else 0.1)


def test_galaxies_alone(rng):
    """Without a star, all pixels tell the kernel."""
    places = rng.uniform(20, SIDE - 20, (40, 2))
    truth = stars(places, np.full(40, 5e4), 9.0) + stars(places + 2, np.full(40, 2e4), 4.0)
    ref = rng.poisson(truth + 40).astype(np.float32)
    sci = rng.poisson(SCALE * gaussian_filter(truth, 1.3) + 100).astype(np.float32)
    for pair, convolved in (((ref, sci), "ref"), ((sci, ref), "sci")):
        d = subtract(*pair, fit="all")
        scale = SCALE if convolved == "ref" else 1 / SCALE
        assert d.kernel.convolved == convolved
        assert d.meta["scale"] == pytest.approx(scale, rel=0.02)
        pull = np.asarray(d.image) / d.noise
        assert spread(pull[INNER]) == pytest.approx(1, abs=0.1)


def faint_pair(rng, side=160):
    """Faint sources under the same PSF in both images, in noise that neighbouring pixels share."""
    places = rng.uniform(10, side - 10, (40, 2))
    truth = stars(places, rng.uniform(200, 800, 40), 6.0, (side, side))
    smooth = [gaussian_filter(rng.normal(0, 10, (side, side)), 0.8) for _ in range(2)]
    sigma = np.std(smooth)
    return *((truth + each).astype(np.float32) for each in smooth), sigma


def test_a_kernel_that_noise_makes_is_not_taken(rng):
    """It would smooth the noise of one image away, and its sources with it."""
    ref, sci, sigma = faint_pair(rng)
    variance = np.full(ref.shape, sigma**2)
    d = subtract(ref, sci, ref_variances=variance, sci_variances=variance)
    assert d.meta["notes"][0][0] == "no source bright enough to fit a kernel: a kernel of 1 assumed"
    assert d.meta["scale"] == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastdiff.matching.fit._Fit.leaves_more_than_identity", lambda *_: False)
        fitted = subtract(ref, sci, ref_variances=variance, sci_variances=variance)
    assert abs(fitted.meta["scale"][0] - 1) > 0.1


def test_correlated_noise_is_not_taken_for_sources(pair, rng):
    """The variances of resampled images say nothing of how their pixels correlate."""
    ref, sci = (gaussian_filter(each.astype(np.float64), 0.9) for each in (pair.ref, pair.sci))
    quiet = pair.sky()
    d = subtract(
        ref, sci, significance=True, ref_variances=np.full(ref.shape, np.var(ref[quiet])),
        sci_variances=np.full(sci.shape, np.var(sci[quiet])),
    )  # fmt: skip
    assert spread(d.significance[quiet]) == pytest.approx(1, abs=0.1)


def test_known_psfs_serve_where_no_star_does(rng):
    """Point sources among galaxies: the PSFs tell the widths and the profile of what is new."""
    places = rng.uniform(20, SIDE - 20, (40, 2))
    galaxies = stars(places, np.full(40, 5e4), 9.0) + stars(places + 2, np.full(40, 2e4), 6.0)
    new = stars([(100, 100)], [3000.0], 3.5)
    ref = rng.poisson(gaussian_filter(galaxies, 2.5 / 2.3548) + 40).astype(np.float32)
    sci = rng.poisson(gaussian_filter(galaxies, 3.5 / 2.3548) + new + 100).astype(np.float32)
    psfs = [stars([(10, 10)], [1.0], fwhm, (21, 21)) for fwhm in (2.5, 3.5)]
    psfs = [psf / psf.sum() for psf in psfs]
    d = subtract(ref, sci, fit="all", ref_psfs=psfs[0], sci_psfs=psfs[1])
    assert d.kernel.convolved == "ref"
    np.testing.assert_allclose(d.meta["fwhm"], [[2.5, 3.5]], rtol=0.02)
    np.testing.assert_allclose(d.psf, psfs[1], atol=1e-12)
    found = fastdiff.find_transients(d, threshold=6)
    assert len(found) == 1
    assert np.hypot(found["x"][0] - 100, found["y"][0] - 100) < 0.5
    assert found["flux"][0] == pytest.approx(3000, abs=4 * found["flux_err"][0])


def test_cosmic_rays_do_not_bend_the_kernel(pair, rng):
    sci = pair.sci.copy()
    y, x = rng.integers(0, SIDE, (2, 60))
    sci[y, x] += 5000
    hit = np.zeros(sci.shape, bool)
    hit[y, x] = True
    for fit in ("stars", "all"):
        d = subtract(pair.ref, sci, fit=fit)
        pull = np.asarray(d.image) / d.noise
        assert spread(pull[pair.cores() & ~hit]) == pytest.approx(1, abs=0.15)
        assert d.meta["scale"] == pytest.approx(SCALE, rel=0.02)


# -------------------------------------------------------------------- options


def test_decorrelation(pair):
    """Noise of neighbours is independent, fluxes are kept."""

    new = stars([[100, 100]], [2e5], 3.6)
    sky = pair.sky() & (new < 0.3)

    def correlation(d):
        pull = np.where(sky & ~d.mask, np.asarray(d.image) / d.noise, np.nan)
        return np.nanmean(pull[:, 1:] * pull[:, :-1])

    ref = pair.ref + np.random.default_rng(0).normal(0, 25, pair.ref.shape)
    sci = pair.sci + new
    plain, white = (subtract(ref, sci, decorrelate=each) for each in (False, True))
    assert correlation(plain) > 0.15
    assert correlation(white) == pytest.approx(0, abs=0.03)
    pull = np.asarray(white.image) / white.noise
    assert spread(pull[sky]) == pytest.approx(1, abs=0.08)
    assert aperture(white.image, (100, 100), 14) == pytest.approx(2e5, rel=0.02)


@pytest.mark.parametrize("decorrelate", [False, True])
def test_significance_of_point_sources(pair, decorrelate):
    d = pair.subtract(significance=True, decorrelate=decorrelate)
    # 20 000 pixels, as many as 700 independent ones
    assert d.significance[pair.sky()].std() == pytest.approx(1, abs=0.1)
    assert d.psf.shape[0] == d.psf.shape[1]
    assert d.psf.sum() == pytest.approx(1)
    y, x = np.round(pair.new).astype(int).T
    # A source half a pixel off the pixel's centre is fainter there by some per cent.
    np.testing.assert_allclose(d.flux[y, x], 4000, atol=4 * d.flux_err[y, x].max() + 200)
    np.testing.assert_allclose(d.significance, d.flux / d.flux_err, rtol=1e-5)
    found = fastdiff.find_transients(d, threshold=6, sign="positive")
    distance = np.hypot(found["x"][:, None] - pair.new[:, 1], found["y"][:, None] - pair.new[:, 0])
    assert sorted(distance.argmin(1)) == [0, 1, 2]
    assert distance.min(1).max() < 1


def test_kernel_in_a_fits_file(pair, tmp_path):
    from astropy.io import fits

    kernel = pair.subtract(kernel_order=1).kernel
    assert kernel(3, 4).shape == kernel.components.shape[1:]
    kernel.to_hdu().writeto(tmp_path / "kernel.fits")
    with fits.open(tmp_path / "kernel.fits") as hdus:
        header, planes = hdus["KERNEL"].header, hdus["KERNEL"].data
        u = 2 * 30 / (header["KNAXIS1"] - 1) - 1
        v = 2 * 170 / (header["KNAXIS2"] - 1) - 1
        made = sum(
            u ** header[f"PX{k}"] * v ** header[f"PY{k}"] * plane
            for k, plane in enumerate(planes, 1)
        )
        assert header["CONVOLVE"] == "ref"
        assert header["BACK1"] == kernel.background[0]
    np.testing.assert_allclose(made, kernel(30, 170), atol=1e-12)


def test_a_kernel_prints_in_a_line(pair):
    text = repr(pair.subtract(kernel_order=1, kernel_size=15).kernel)
    assert text.startswith("<MatchingKernel of ref: 15 x 15 pixels, order 1, sum 0.9")
    assert "\n" not in text


def test_kernel_size(pair):
    for basis in ("gaussian", "delta"):
        assert pair.subtract(kernel_size=9, basis=basis).kernel(0, 0).shape == (9, 9)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"basis": "wavelets"}, ValueError, "basis is 'wavelets'; it must be one of 'gaussian'"),
        ({"convolve": "both"}, ValueError, "convolve is 'both'"),
        ({"fit": "some"}, ValueError, "fit is 'some'"),
        ({"kernel_order": 4}, ValueError, "kernel_order is 4; it must be 0 to 3"),
        ({"background_order": -1}, ValueError, "background_order is -1"),
        ({"scale_order": 1.0}, TypeError, "scale_order is a float"),
        ({"kernel_size": 8}, ValueError, "kernel_size is 8; it must be an odd number"),
        ({"stamps": 0}, ValueError, "stamps is 0; it must be at least 1"),
        ({"max_iterations": True}, TypeError, "max_iterations is a bool"),
        ({"regularisation": -1}, ValueError, "regularisation is -1"),
        ({"degrees": 3}, TypeError, "no option 'degrees'"),
        ({"sci_psfs": np.eye(4) / 4}, ValueError, "`sci_psfs` is 4 x 4 pixels; the side must be"),
        ({"ref_psfs": np.full((1, 2, 3, 3), 1 / 9)}, ValueError, "takes one: give"),
    ],
)
def test_wrong_options(pair, options, error, text):
    with pytest.raises(error, match=text):
        pair.subtract(**options)


# -------------------------------------------------------------------- bad pixels, bad frames


def test_transforms_and_sums_agree(monkeypatch):
    """Wide kernels are applied by Fourier transforms, band by band."""
    made = Pair(fwhm=(2.5, 7.0), slope=0.1, side=300)
    options = {"ref_variances": made.ref_variance, "sci_variances": made.sci_variance}
    images = []
    for size in (10**9, 3):
        monkeypatch.setattr("fastdiff.matching.apply._FFT_SIZE", size)
        images.append(np.asarray(made.subtract(**options, kernel_size=37).image))
    np.testing.assert_array_equal(*(np.isnan(image) for image in images))
    # the sums are float32
    assert np.nanmax(np.abs(images[1] - images[0])) < 1e-5 * made.static.max()


def test_bad_pixels_stay_where_they_are(pair):
    """They are masked, and so is what the kernel takes from them; the rest does not change."""
    ref, sci = pair.ref.copy(), pair.sci.copy()
    y, x = np.argwhere(pair.sky())[::400].T
    ref[y[::2], x[::2]] = np.nan
    sci[y[1::2], x[1::2]] = np.inf
    before, after = pair.subtract(), subtract(ref, sci)
    assert after.mask[y, x].all()
    assert np.array_equal(np.isnan(after.image), after.mask)
    reach = before.kernel(0, 0).shape[0] // 2
    near = np.zeros(pair.ref.shape, bool)
    for v, u in zip(y[::2], x[::2], strict=True):
        near[max(v - reach, 0) : v + reach + 1, max(u - reach, 0) : u + reach + 1] = True
    near[y[1::2], x[1::2]] = True
    near = ~inner(~near)
    assert not after.mask[~near].any()
    alone = after.mask[y[1::2], x[1::2] + 1]  # a neighbour of a bad pixel of the science image
    assert alone.mean() < 0.2
    assert (np.abs(after.image - before.image) < 0.5 * before.noise)[~near].mean() > 0.999
    assert np.isfinite(after.noise[~after.mask]).all()


def test_saturated_stars(pair):
    """Their cores are masked and they are not fitted; around them there is no ring."""
    limit = 2500.0
    ref, sci = np.minimum(pair.ref, limit), np.minimum(pair.sci, limit)
    d = subtract(ref, sci, saturation=limit)
    assert d.mask[(ref >= limit) | (sci >= limit)].all()
    assert d.mask[INNER].mean() < 0.05
    assert d.meta["scale"] == pytest.approx(SCALE, rel=0.02)
    pull = np.asarray(d.image) / d.noise
    assert np.abs(pull[inner(~d.mask & (pair.added < 0.3))]).max() < 7


def test_borders_without_data(pair):
    ref, sci = pair.ref.copy(), pair.sci.copy()
    ref[:30], sci[:, -25:] = np.nan, np.nan
    d = subtract(ref, sci)
    assert d.mask[:30].all()
    assert d.mask[:, -25:].all()
    assert not d.mask[45:-15, 15:-30].any()
    assert d.meta["scale"] == pytest.approx(SCALE, rel=0.02)


@pytest.mark.parametrize("which", ["ref", "sci", "both"])
def test_no_good_pixel(pair, which):
    ref, sci = (np.stack([image, image]) for image in (pair.ref, pair.sci))
    if which != "sci":
        ref[0] = np.nan
    if which != "ref":
        sci[0] = np.nan
    d = subtract(ref, sci)
    assert d.mask[0].all()
    assert np.isnan(d.noise[0]).all()
    assert np.isnan(d.meta["scale"][0])
    assert d.kernel[0] is None
    assert d.meta["notes"] == {0: ["no difference: no pixel is good in both images"]}
    np.testing.assert_array_equal(d[1].image, pair.subtract().image)


def test_masks_without_a_pixel_in_common(pair):
    left = np.zeros(pair.ref.shape, bool)
    left[:, : SIDE // 2] = True
    d = pair.subtract(ref_masks=left, sci_masks=~left)
    assert d.mask.all()
    assert "no pixel is good in both" in d.meta["notes"][0][0]


@pytest.mark.parametrize("what", ["noise", "constant", "all saturated"])
def test_no_usable_star(pair, rng, what):
    ref, sci = pair.ref, pair.sci
    if what == "noise":
        ref, sci = rng.normal(100, 10, (2, 96, 96)).astype(np.float32)
    elif what == "constant":
        sci = np.full_like(sci, 3.0)
    saturation = 150 if what == "all saturated" else None
    d = subtract(ref, sci, saturation=saturation, fit="stars")
    assert d.mask.all()
    assert np.isnan(d.image).all()
    assert "no star to fit a kernel to" in d.meta["notes"][0][0]
    assert "fit='all'" in d.meta["notes"][0][0]


def test_nothing_in_common(rng):
    ref, sci = rng.normal(100, 10, (2, 96, 96)).astype(np.float32)
    d = subtract(ref, sci, fit="all")
    assert d.mask.all()
    assert "no source in common" in d.meta["notes"][0][0]


@pytest.mark.parametrize("constant", [False, True])
def test_where_nothing_shines_a_kernel_of_1_is_assumed(rng, constant):
    ref, sci = rng.normal(100, 10, (2, 96, 96)).astype(np.float32)
    if constant:
        sci[:] = 7
    d = subtract(ref, sci, significance=True)
    expected = sci - ref
    good = ~d.mask
    assert good.mean() > 0.95
    level = np.median((expected - d.image)[good])
    np.testing.assert_allclose(d.image[good] + level, expected[good], atol=1e-3)
    assert level == pytest.approx(np.median(expected), abs=0.5)
    assert np.median(d.noise[good]) == pytest.approx(10 if constant else 14.1, rel=0.05)
    assert d.meta["scale"] == 1
    assert d.meta["notes"][0] == [
        "no source bright enough to fit a kernel: a kernel of 1 assumed",
        "no star shows the PSF: one of 2.5 pixels FWHM is assumed, before the kernel; give "
        "`ref_psfs` or `sci_psfs`",
    ]
    significance = d.significance[np.isfinite(d.significance)]
    assert np.std(significance) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("n_stars", "order"), [(3, 0), (18, 1), (60, 2)])
def test_few_stars_lower_the_order(n_stars, order):
    d = Pair(n_stars=n_stars, n_new=0, brightest=4.5).subtract()
    powers = [i + j for i, j in d.kernel.powers]
    assert max(powers) == order
    notes = d.meta["notes"].get(0, [])
    assert bool(notes) == (order < 2)
    assert ("few stars: the kernel was fitted to all pixels" in notes) == (n_stars < 8)
    if notes:
        assert f"kernel_order {order}" in notes[-1]
    assert d.meta["scale"] == pytest.approx(SCALE, rel=0.05)


def test_kernel_larger_than_the_image(pair):
    d = subtract(pair.ref[:40, :40], pair.sci[:40, :40], kernel_size=51)
    assert d.mask.all()
    assert "kernel of 51 pixels is larger than the image: set kernel_size" in d.meta["notes"][0][0]


def test_zero_variance(pair):
    """A variance of 0 claims exact pixels: they do not rule the fit."""
    variance = pair.sci_variance.copy()
    variance[pair.sky() & (np.arange(SIDE) % 7 == 0)] = 0
    d = pair.subtract(ref_variances=pair.ref_variance, sci_variances=variance)
    assert d.meta["scale"] == pytest.approx(SCALE, rel=0.03)
    assert np.isfinite(d.noise[~d.mask]).all()
    nothing = np.zeros_like(variance)
    d = pair.subtract(ref_variances=nothing, sci_variances=nothing)
    assert d.meta["scale"] == pytest.approx(SCALE, rel=0.03)
    assert not d.noise[~d.mask].any()


def test_variance_of_one_image(pair):
    for given in ({"sci_variances": pair.sci_variance}, {"ref_variances": pair.ref_variance}):
        d = pair.subtract(**given)
        pull = np.asarray(d.image) / d.noise
        assert spread(pull[pair.sky()]) == pytest.approx(1, abs=0.06)
        assert spread(pull[pair.cores()]) == pytest.approx(1, abs=0.2)


# -------------------------------------------------------------------- batches


def test_threads_and_batches_change_nothing(pair):
    other = Pair(seed=2)
    refs, scis = np.stack([pair.ref, other.ref]), np.stack([pair.sci, other.sci])
    whole = subtract(refs, scis, threads=3, significance=True)
    for i, each in enumerate((pair, other)):
        alone = each.subtract(threads=1, significance=True)
        for name in ("image", "noise", "significance", "flux_err"):
            np.testing.assert_array_equal(getattr(whole[i], name), getattr(alone, name))
        np.testing.assert_array_equal(whole[i].kernel.components, alone.kernel.components)


def test_one_reference_for_many_science_images(pair):
    scis = np.stack([pair.sci, pair.sci * 2])
    one, many = subtract(pair.ref, scis), subtract(np.stack([pair.ref] * 2), scis)
    np.testing.assert_array_equal(one.image, many.image)
    np.testing.assert_allclose(one.meta["scale"], [SCALE, 2 * SCALE], rtol=0.02)


@pytest.mark.parametrize("dtype", ["float64", "uint16", ">f4"])
def test_dtypes(pair, dtype):
    expected = pair.subtract(saturation=None)
    made = subtract(pair.ref.astype(dtype), pair.sci.astype(dtype), saturation=None)
    good = ~expected.mask
    assert (np.abs(made.image - expected.image) < 0.01 * expected.noise)[good].all()


def test_inputs_are_left_as_they_were(pair):
    copies = pair.ref.copy(), pair.sci.copy()
    copies[0][5:9, 5:9] = np.nan
    before = [each.copy() for each in copies]
    subtract(*copies)
    for now, then in zip(copies, before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_meta(pair):
    meta = pair.subtract().meta
    assert meta["noise_free"] is False
    assert meta["pixel_threshold"] == 3
    np.testing.assert_allclose(meta["fwhm"], [[2.5, 3.6]], rtol=0.03)
    assert meta["stamps"][0] > 20
    assert meta["sky"] == pytest.approx(SKIES["sci"], abs=2)
    assert {"measure", "stars", "fit", "difference", "total"} <= set(meta["seconds"])


def test_empty_batch():
    empty = np.empty((0, 64, 64), np.float32)
    assert subtract(empty, empty).shape == (0, 64, 64)


# -------------------------------------------------------------------- on a GPU


@pytest.fixture(params=["pretended", "real"])
def cupy(request, monkeypatch):
    if request.param == "pretended":
        return pretend_cupy.install(monkeypatch)
    if not jit.cuda_available():
        pytest.skip("no CUDA device: the same is run on pretended arrays")
    return pytest.importorskip("cupy")


def on(cupy, value):
    """Frames, masks and variances of a GPU; options are what they are."""
    return cupy.asarray(value) if isinstance(value, np.ndarray) and value.ndim > 1 else value


def agree(made, expected, cupy):
    """All maps are CuPy's and those of the CPU, but for float32 sums in another order."""
    noise = np.nanmedian(expected.noise)
    units = {"image": noise, "noise": noise, "flux": np.nanmedian(expected.flux_err)}
    units |= {"flux_err": units["flux"], "significance": 1.0, "mask": 1.0}
    for name, unit in units.items():
        map_, wanted = getattr(made, name), np.asarray(getattr(expected, name))
        assert isinstance(map_, cupy.ndarray), name
        assert map_.dtype == wanted.dtype, name
        np.testing.assert_allclose(map_.get(), wanted, atol=0.02 * unit, rtol=2e-3, err_msg=name)


GPU_CASES = {
    "plain": {},
    "polynomials": {"convolve": "sci", "scale_order": 1, "background_order": 2},
    "variances": {"decorrelate": True},
    "bad pixels": {"saturation": 30_000.0},
    "all pixels": {"fit": "all"},
    "deltas": {"basis": "delta", "kernel_size": 9, "decorrelate": True},
    "transforms": {"kernel_size": 37},
}


@pytest.mark.parametrize("case", GPU_CASES)
def test_arrays_of_a_gpu_stay_there(case, cupy, rng):
    """What comes back to the CPU is what the docstring says."""
    options = GPU_CASES[case]
    pair = Pair(side=256, n_stars=80, n_new=1)
    ref, scis = pair.ref, pair.sci[None]
    if case == "plain":
        scis = np.stack([pair.sci, Pair(side=256, n_stars=80, n_new=2).sci])
    elif case == "variances":
        options = options | {"ref_variances": pair.ref_variance, "sci_variances": pair.sci_variance}
    elif case == "bad pixels":
        ref, scis = ref.copy(), scis.copy()
        ref[100:120, 30:50], scis[0, 200, 77] = np.nan, np.inf
        options = options | {"sci_masks": rng.random(ref.shape) < 1e-4, "ref_masks": ref > 20_000}
    expected = subtract(ref, scis, **options)
    there = {name: on(cupy, value) for name, value in options.items()}
    arrays = on(cupy, ref), on(cupy, scis)
    pretend_cupy.copies.clear()
    made = subtract(*arrays, **there)
    copies = list(pretend_cupy.copies)
    agree(made, expected, cupy)
    for name in ("notes", "convolved", "stamps"):
        np.testing.assert_equal(made.meta[name], expected.meta[name])
    for one, other in zip(made.kernel, expected.kernel, strict=True):
        assert isinstance(one.components, np.ndarray)
        near = np.abs(one.components - other.components).max()
        assert near < 2e-3 * np.abs(other.components).max()
    if isinstance(arrays[0], pretend_cupy.ndarray):
        masked = 2 if case in ("bad pixels", "variances") else 1
        frames = [shape for shape in copies if shape[-2:] == ref.shape]
        assert sum(np.prod(shape[:-2]) for shape in frames) == (1 + len(scis)) * masked + len(scis)
        calibrated = 2 if case == "variances" else 4
        assert copies.count((128, 128)) == calibrated * len(scis)
        equations = 3 * (3 if case == "all pixels" else 2)
        assert len(copies) <= 10 + len(scis) * (calibrated + equations + 6)


def test_where_nothing_shines_on_a_gpu(cupy, rng):
    """A kernel of 1, and nothing at all, as on the CPU; both in one batch."""
    ref, sci = rng.normal(100, 10, (2, 96, 96)).astype(np.float32)
    scis = np.stack([sci, np.full_like(sci, np.nan)])
    expected = subtract(ref, scis)
    made = subtract(cupy.asarray(ref), cupy.asarray(scis))
    np.testing.assert_allclose(made.image.get(), expected.image, atol=1e-3)
    np.testing.assert_allclose(made.noise.get(), expected.noise, rtol=1e-5)
    assert made.meta["notes"] == expected.meta["notes"]
    assert made.kernel[1] is None


def test_a_gpu_is_used_from_the_callers_thread(monkeypatch, rng):
    """The current device and stream of CuPy belong to a thread."""
    cupy = pretend_cupy.install(monkeypatch)
    launch, used = jit.CudaKernel.launch, set()

    def watched(*arguments, **options):
        used.add(threading.get_ident())
        launch(*arguments, **options)

    monkeypatch.setattr(jit.CudaKernel, "launch", watched)
    images = cupy.asarray(rng.normal(100, 10, (2, 64, 64)).astype(np.float32))
    subtract(images, images, threads=2)
    assert used == {threading.get_ident()}
