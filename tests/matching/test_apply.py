"""Decorrelation, point sources, bad pixels and bad frames with a kernel."""

import numpy as np
import pytest

import fastdiff
from tests.difference.psfmatch.pairs import (
    INNER,
    SCALE,
    SIDE,
    Pair,
    aperture,
    inner,
    spread,
    stars,
    subtract,
)


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
