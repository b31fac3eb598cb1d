"""The kernel that is found: arithmetic, and quality of what it leaves."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import fastdiff
from tests.difference.psfmatch.pairs import (
    INNER,
    SCALE,
    SIDE,
    SKIES,
    Pair,
    aperture,
    inner,
    spread,
    stars,
    subtract,
)
from tests.difference.psfmatch.reference import psfmatch as reference


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
        d = subtract(pair.ref, sci, fit=fit, cosmic_rays=False)
        pull = np.asarray(d.image) / d.noise
        assert spread(pull[pair.cores() & ~hit]) == pytest.approx(1, abs=0.15)
        assert d.meta["scale"] == pytest.approx(SCALE, rel=0.02)
