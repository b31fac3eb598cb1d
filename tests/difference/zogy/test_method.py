import numpy as np
import pytest
from scipy import ndimage, optimize, signal

from fastdiff import subtract_batch
from fastdiff.difference.zogy import stars as zogy_stars
from fastdiff.difference.zogy import tiles as zogy_tiles
from fastdiff.simulate.inject import point_source
from tests import pretend_cupy
from tests.difference.zogy.reference import zogy as reference

SKY_R, SKY_S, SCALE = 200.0, 400.0, 0.8
FWHM_R, FWHM_S = 2.6, 3.8
PSF_R, PSF_S = (point_source((25, 25), 12, 12, fwhm) for fwhm in (FWHM_R, FWHM_S))
PSF_R, PSF_S = PSF_R / PSF_R.sum(), PSF_S / PSF_S.sum()
PSFS = {"ref_psfs": PSF_R, "sci_psfs": PSF_S}


def render(shape, x, y, flux, fwhm, half=18):
    image = np.zeros((shape[0] + 2 * half + 2, shape[1] + 2 * half + 2))
    for a, b, f in zip(x, y, flux, strict=True):
        i, j = int(a), int(b)
        stamp = point_source((2 * half + 1, 2 * half + 1), a - i + half, b - j + half, fwhm)
        image[j : j + 2 * half + 1, i : i + 2 * half + 1] += f * stamp
    return image[half : half + shape[0], half : half + shape[1]]


def make(
    shape=(256, 256), seed=0, n_stars=40, transients=(), shift=(0.0, 0.0), edge=6, poisson=True
):
    """(ref, sci, what sci is expected to be without its transients), gain 1.

    `transients` are (x, y, flux in counts of sci); `shift` (x, y) moves the stars of ref.
    """
    rng = np.random.default_rng(seed)
    x, y = (rng.uniform(edge, n - edge, n_stars) for n in shape[::-1])
    flux = 10 ** rng.uniform(3.3, 5.0, n_stars)
    ref = SKY_R + render(shape, x + shift[0], y + shift[1], flux, FWHM_R)
    model = SKY_S + render(shape, x, y, SCALE * flux, FWHM_S)
    sci = model + (render(shape, *np.transpose(transients), FWHM_S) if len(transients) else 0)
    ref, sci = (rng.poisson(np.maximum(each, 0)) if poisson else
                each + rng.normal(0, 15.0, shape) for each in (ref, sci))  # fmt: skip
    return ref.astype(np.float32), sci.astype(np.float32), model


def grid(shape, n, flux, edge=40):
    """n x n transients, centred on pixels."""
    y, x = (np.linspace(edge, side - edge, n).round() for side in shape)
    return [(a, b, flux) for b in y for a in x]


def run(ref, sci, **options):
    return subtract_batch(ref, sci, method="zogy", threads=1, **options)


def robust(values):
    values = values[np.isfinite(values)]
    return 1.4826 * np.median(np.abs(values - np.median(values)))


# ------------------------------------------------------------------- equations


@pytest.mark.parametrize("tile", [512, 64])
@pytest.mark.parametrize("astrometric_noise", [0.0, 0.3])
def test_against_the_reference(tile, astrometric_noise, rng):
    ref, sci, _ = make((192, 160), edge=30, n_stars=25)
    variances = {
        "ref_variances": np.maximum(ref, 1) * rng.uniform(0.8, 1.2, ref.shape).astype(np.float32),
        "sci_variances": np.maximum(sci, 1) * rng.uniform(0.8, 1.2, ref.shape).astype(np.float32),
    }
    d = run(ref, sci, **PSFS, **variances, scale=SCALE, tile=tile, calibrate=False,
            astrometric_noise=astrometric_noise)  # fmt: skip
    a, b = (zogy_tiles.prepare(image[None], None, variances[name][None], 0)
            for image, name in ((ref, "ref_variances"), (sci, "sci_variances")))  # fmt: skip
    pair = (a.data.astype(float), b.data.astype(float))
    model = (PSF_R, PSF_S, a.sigma, b.sigma, 1.0, SCALE)
    D, P_D, F_D, _ = reference.proper_subtraction(*pair, *model)
    S_corr, flux, flux_err = reference.corrected_score(
        *pair, variances["ref_variances"].astype(float),
        variances["sci_variances"].astype(float), *model, astrometric_noise,
    )  # fmt: skip
    inside = np.s_[25:-25, 25:-25]
    # Tiles have filters for their own noise.
    tolerance = {} if tile == 512 else {"rtol": 0.05}
    want = D * SCALE / F_D
    got = d.image + (np.median(want) - np.median(d.image))
    atol = (0.01 if tile == 512 else 0.3) * d.noise[inside].mean()
    np.testing.assert_allclose(got[inside], want[inside], atol=atol)
    np.testing.assert_allclose(
        d.flux_err[inside], SCALE * flux_err[inside], **({"rtol": 0.01} | tolerance)
    )
    got = d.flux + np.median(SCALE * flux - d.flux)
    np.testing.assert_allclose(
        got[inside] / d.flux_err[inside],
        (flux / flux_err)[inside],
        atol=0.02 if tile == 512 else 0.3,
    )
    offset = np.median(S_corr - d.significance)
    np.testing.assert_allclose(
        (d.significance + offset)[inside], S_corr[inside], atol=0.05 if tile == 512 else 0.4
    )
    if tile == 512:
        psf = np.roll(P_D, (12, 12), axis=(0, 1))[:25, :25]
        np.testing.assert_allclose(d.psf, psf / psf.sum(), atol=1e-4 * psf.max())


def test_noise_is_white_and_of_the_size_that_is_told():
    ref, sci, _ = make((512, 512), n_stars=0, poisson=False)
    d = run(ref, sci, **PSFS, scale=SCALE, calibrate=False)
    assert d.noise.mean() == pytest.approx(np.hypot(15, SCALE * 15), rel=0.01)
    assert (d.image / d.noise).std() == pytest.approx(1, abs=0.01)
    power = np.abs(np.fft.fft2(d.image / d.noise)) ** 2 / d.image.size
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(512), np.fft.fftfreq(512)))
    for low, high in ((0.05, 0.15), (0.15, 0.3), (0.3, 0.5)):
        assert power[(radius > low) & (radius < high)].mean() == pytest.approx(1, abs=0.05)
    assert d.significance.std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("options", [{}, {"gain": 1.0}, PSFS, PSFS | {"gain": (1.0, 1.0)}])
def test_significance_on_empty_sky_and_in_stars(options):
    ref, sci, model = make((512, 512), n_stars=150, seed=3)
    d = run(ref, sci, **options)
    bright = model > SKY_S + 3 * np.sqrt(SKY_S)
    empty = ~ndimage.binary_dilation(bright, iterations=8) & ~d.mask
    assert np.std(d.significance[empty]) == pytest.approx(1, abs=0.03)
    assert np.std((d.image / d.noise)[empty]) == pytest.approx(1, abs=0.02)
    assert robust(d.significance[bright]) == pytest.approx(1, abs=0.15)
    assert np.nanmax(np.abs(d.significance)) < 5.5
    assert d.meta["scale"][0] == pytest.approx(SCALE, rel=0.005)
    assert d.mask.mean() < 0.01


@pytest.mark.parametrize("options", [{}, PSFS])
def test_fluxes_come_back(options):
    shape = (512, 512)
    new = grid(shape, 5, 2e4) + [(x + 40, y, -4e3) for x, y, _ in grid(shape, 4, 0, edge=100)]
    ref, sci, _ = make(shape, n_stars=100, seed=1, transients=new)
    d = run(ref, sci, gain=1.0, **options)
    x, y, flux = (np.array(each) for each in np.transpose(new))
    x, y = x.astype(int), y.astype(int)
    pull = (d.flux[y, x] - flux) / d.flux_err[y, x]
    assert 0.6 < np.std(pull) < 1.5
    rising = flux > 0
    assert np.mean(d.flux[y, x][rising]) == pytest.approx(2e4, rel=0.01)
    assert (d.significance[y, x][rising] > 50).all()
    assert (d.significance[y, x][~rising] < -10).all()
    sums = [d.image[b - 12 : b + 13, a - 12 : a + 13].sum() for a, b in zip(x, y, strict=True)]
    assert np.median(np.array(sums)[rising]) == pytest.approx(2e4, rel=0.02)


def test_a_new_source_has_the_psf_of_the_difference():
    shape = (128, 128)
    ref, sci, _ = make(shape, n_stars=0)
    added = sci + 3e4 * render(shape, [64], [64], [1.0], FWHM_S).astype(np.float32)
    options = PSFS | {"scale": SCALE, "calibrate": False, "astrometric_noise": 0}
    seen = run(ref, added, **options).image - run(ref, sci, **options).image
    d = run(ref, added, **options)
    assert d.psf.shape == (25, 25) and d.psf.sum() == pytest.approx(1)
    seen = seen - np.median(seen)
    np.testing.assert_allclose(seen[52:77, 52:77] / seen.sum(), d.psf, atol=0.01 * d.psf.max())
    match = signal.fftconvolve(d.image, d.psf[::-1, ::-1], mode="same") / (d.psf**2).sum()
    got = d.flux[30:-30, 30:-30]
    np.testing.assert_allclose(got - np.median(got), (match - np.median(match))[30:-30, 30:-30],
                               atol=0.05 * d.flux_err.mean())  # fmt: skip


# ------------------------------------------------------------------- measured


def test_a_variable_star_does_not_hide_a_new_one():
    """In a small frame one star is not enough to tell what sources add to the noise."""
    shape, x, y = (64, 64), 20.0, 24.0
    rng = np.random.default_rng(5)
    ref = SKY_R + render(shape, [x], [y], [20_000], FWHM_R)
    sci = SKY_S + render(shape, [x, 45.0], [y, 40.0], [SCALE * 26_000, 6000], FWHM_S)
    ref, sci = (rng.poisson(each).astype(np.float32) for each in (ref, sci))
    d = run(ref, sci, **PSFS, scale=SCALE)
    expected = 6000 / np.sqrt(6000 + SKY_S / (PSF_S**2).sum())  # photons and the sky of sci
    assert d.significance[40, 45] > 0.7 * expected


def test_measured_psfs_and_registration():
    plain, shifted = (make((384, 384), n_stars=120, seed=2, shift=shift)[:2]
                      for shift in ((0, 0), (0.35, -0.2)))  # fmt: skip
    for ref, sci in (plain, shifted):
        d = run(ref, sci, gain=1.0)
        assert np.nanmax(np.abs(d.significance)) < 6
        assert d.meta["n_stars"][0] > 80
        given = run(ref, sci, gain=1.0, **PSFS)
        assert np.nanmax(np.abs(given.significance)) < 6


def test_scatter_of_the_registration_is_measured():
    rng = np.random.default_rng(0)
    shape, n = (400, 400), 150
    x, y, flux = rng.uniform(10, 390, n), rng.uniform(10, 390, n), 10 ** rng.uniform(4, 5, n)
    dx, dy = rng.normal(0, 0.15, (2, n))
    ref = rng.poisson(SKY_R + render(shape, x + dx, y + dy, flux, FWHM_R)).astype(np.float32)
    sci = rng.poisson(SKY_S + render(shape, x, y, SCALE * flux, FWHM_S)).astype(np.float32)
    d = run(ref, sci, gain=1.0, **PSFS)
    assert d.meta["astrometric_noise"][0] == pytest.approx(0.15, rel=0.35)
    trusting = run(ref, sci, gain=1.0, **PSFS, astrometric_noise=0, calibrate=False)
    assert np.nanmax(np.abs(trusting.significance)) > 3 * np.nanmax(np.abs(d.significance))


def test_a_psf_that_varies_over_the_frame_is_followed():
    rng = np.random.default_rng(4)
    shape, n = (512, 512), 150
    x, y, flux = rng.uniform(8, 504, n), rng.uniform(8, 504, n), 10 ** rng.uniform(4.7, 5.5, n)
    ref = np.full(shape, SKY_R)
    for a, b, f in zip(x, y, flux, strict=True):
        ref += render(shape, [a], [b], [f], FWHM_R * (0.94 + 0.12 * a / 512))  # 12 % wider
    sci = SKY_S + render(shape, x, y, SCALE * flux, FWHM_S)
    ref, sci = (rng.poisson(each).astype(np.float32) for each in (ref, sci))
    one, many = (run(ref, sci, gain=1.0, calibrate=False, tile=tile) for tile in (512, 128))
    assert one.meta["n_tiles"] == 1 and many.meta["n_tiles"] == 16
    assert np.nanmax(np.abs(many.significance)) < 0.75 * np.nanmax(np.abs(one.significance))


def test_the_level_of_correlated_noise_is_measured():
    ref, sci, _ = make((400, 400), n_stars=60, seed=5)
    kernel = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
    ref = ndimage.convolve(ref, kernel).astype(np.float32)
    d = run(ref, sci, gain=1.0)
    assert robust(d.significance) == pytest.approx(1, abs=0.03)
    trusting = run(ref, sci, gain=1.0, calibrate=False)
    assert abs(robust(trusting.significance) - 1) > abs(robust(d.significance) - 1)
    assert (trusting.meta["noise_factor"] == 1).all()


def test_photon_noise_is_found_without_a_gain():
    new = grid((512, 512), 3, 1e4)
    ref, sci, _ = make((512, 512), n_stars=150, seed=6, transients=new)
    known, found = run(ref, sci, gain=1.0), run(ref, sci)
    x, y = np.transpose(new)[:2].astype(int)
    np.testing.assert_allclose(found.flux_err[y, x], known.flux_err[y, x], rtol=0.35)
    sky = [np.nanmedian(each.flux_err) for each in (found, known)]
    assert sky[0] == pytest.approx(sky[1], rel=0.02)


# ------------------------------------------------------------------- bad pixels


def test_a_bad_pixel_of_the_sky_costs_itself_only():
    ref, sci, model = make(seed=7)
    light = ndimage.maximum_filter(model, 25)
    y, x = np.unravel_index(np.argmin(light[30:-30, 30:-30]), (196, 196))
    y, x = y + 30, x + 30
    clean = run(ref, sci, **PSFS, gain=1.0)
    sci[y, x] = np.nan
    d = run(ref, sci, **PSFS, gain=1.0)
    assert d.mask.sum() - clean.mask.sum() == 1 and d.mask[y, x]
    for values in (d.image, d.noise, d.significance, d.flux, d.flux_err):
        assert np.isnan(values[y, x]) and np.isfinite(values[~d.mask]).all()
    far = np.hypot(*(np.indices(sci.shape) - np.array([y, x])[:, None, None])) > 30
    np.testing.assert_allclose((d.image - clean.image)[far & ~d.mask], 0, atol=0.2)


@pytest.mark.parametrize("which", [0, 1])
def test_a_saturated_star_is_masked_and_leaves_no_source(which):
    images = list(make(seed=8, n_stars=40, edge=40)[:2])
    star = render((256, 256), [128], [120], [3e6], (FWHM_R, FWHM_S)[which])
    other = render((256, 256), [128], [120], [3e6], (FWHM_R, FWHM_S)[1 - which])
    images[which] += (star * (SCALE if which else 1)).astype(np.float32)
    images[1 - which] += (other * (1 if which else SCALE)).astype(np.float32)
    np.minimum(images[which], 20000, out=images[which])
    d = run(*images, **PSFS, gain=1.0, saturation=20000)
    assert d.mask[images[which] >= 20000].all()
    assert d.mask.mean() < 0.03
    significance = np.nan_to_num(d.significance)
    away = np.hypot(*(np.indices((256, 256)) - np.array([120, 128])[:, None, None])) > 20
    assert np.abs(significance[away]).max() < 5.5


def test_borders_without_data_and_masked_areas():
    ref, sci, _ = make((256, 300), seed=9, n_stars=60)
    ref[:20] = np.nan
    sci[:, -35:] = np.nan
    masks = np.zeros(sci.shape, bool)
    masks[100:140, 60:110] = True
    d = run(ref, sci, **PSFS, gain=1.0, sci_masks=masks)
    must = masks.copy()
    must[:20] = must[:, -35:] = True
    assert d.mask[must].all()
    assert d.mask[~ndimage.binary_dilation(must, iterations=13)].mean() < 0.02
    assert np.nanmax(np.abs(d.significance)) < 6.5
    measured = run(ref, sci, gain=1.0, sci_masks=masks)
    assert np.nanmax(np.abs(measured.significance)) < 6.5


def test_stars_on_the_edge_leave_no_source():
    ref, sci, _ = make(seed=10, n_stars=80, edge=-3)
    d = run(ref, sci, **PSFS, gain=1.0)
    assert np.nanmax(np.abs(d.significance)) < 6
    assert d.mask.mean() < 0.1


# ------------------------------------------------------------------- batches


def test_batches_threads_and_one_reference_for_many():
    ref, sci, _ = make(seed=11)
    scis = np.stack([sci, make(seed=12)[1], sci[::-1]])
    options = {"method": "zogy", **PSFS, "gain": 1.0}
    d = subtract_batch(ref, scis, threads=3, **options)
    assert d.shape == (3, 256, 256) and len(d.psf) == 3
    single = run(ref, sci, **PSFS, gain=1.0)
    for got, want in ((d[0].image, single.image), (d[0].significance, single.significance)):
        np.testing.assert_array_equal(got, want)
    again = subtract_batch(np.stack([ref] * 3), scis, threads=1, **options)
    np.testing.assert_array_equal(d.image, again.image)
    tiles = [run(ref, sci, gain=1.0, tile=64),
             subtract_batch(ref, sci, method="zogy", threads=2, gain=1.0, tile=64)]  # fmt: skip
    np.testing.assert_array_equal(tiles[0].significance, tiles[1].significance)


def test_psfs_of_images_and_of_tiles():
    ref, sci, _ = make(seed=13)
    single = run(ref, sci, **PSFS, scale=SCALE)
    both = np.stack([PSF_S, PSF_R])
    d = subtract_batch(np.stack([ref, ref]), np.stack([sci, ref]), method="zogy", threads=1,
                       ref_psfs=PSF_R[None], sci_psfs=both, scale=[SCALE, 1.0])  # fmt: skip
    np.testing.assert_array_equal(d[0].image, single.image)
    np.testing.assert_allclose(d[1].image, 0, atol=1e-2)
    per_tile = np.broadcast_to(PSF_S, (1, 4, 25, 25))
    got = run(ref, sci, ref_psfs=PSF_R, sci_psfs=per_tile, tile=128, scale=SCALE)
    want = run(ref, sci, **PSFS, tile=128, scale=SCALE)
    np.testing.assert_array_equal(got.image, want.image)


def test_different_sky_gain_and_negative_pixels():
    ref, sci, _ = make((384, 384), n_stars=80, seed=14)
    want = run(ref, sci, **PSFS)
    d = run(30 * (ref - 2000), sci - 500, **PSFS)
    assert d.meta["scale"][0] == pytest.approx(SCALE / 30, rel=0.005)
    assert d.meta["sky"][0] == pytest.approx(SKY_S - 500, abs=1)
    keep = ~(d.mask | want.mask)
    np.testing.assert_allclose(d.significance[keep], want.significance[keep], atol=0.15)


# ------------------------------------------------------------------- nothing to see


def test_images_without_information():
    ref, sci, _ = make((3, 128, 128)[1:], seed=15)
    scis = np.stack([sci, np.full_like(sci, np.nan), np.full_like(sci, 7)])
    d = subtract_batch(ref, scis, method="zogy", threads=1, **PSFS)
    assert d.mask[1].all() and np.isnan(d.significance[1]).all()
    assert (d.image[2] == 0).all() and not d.mask[2].any()
    assert "no pixel is good" in d.meta["notes"][1][0]
    assert "constant" in d.meta["notes"][2][0]
    assert d.mask[0].mean() < 0.02
    d = run(np.full_like(ref, 3), sci, **PSFS)
    assert "the reference is constant" in d.meta["notes"][0]
    assert np.corrcoef(d.image[~d.mask], sci[~d.mask])[0, 1] > 0.8


def test_zero_variance_and_no_noise():
    shape = (128, 128)
    x, y, flux = [40, 80, 60], [40, 50, 90], [1e4, 2e4, 3e4]
    ref, sci = (100 + render(shape, x, y, np.array(flux) * a, fwhm).astype(np.float32)
                for a, fwhm in ((1, FWHM_R), (SCALE, FWHM_S)))  # fmt: skip
    d = run(ref, sci, **PSFS)
    assert np.isfinite(d.image).all()
    assert np.abs(d.image).max() < 0.02 * sci.max()
    ref, sci, _ = make(shape, seed=16)
    zero = np.zeros(shape)
    d = run(ref, sci, **PSFS, ref_variances=zero, sci_variances=zero)
    assert np.isfinite(d.image[~d.mask]).all() and np.isfinite(d.significance[~d.mask]).all()


def test_no_star_to_measure_a_psf_from():
    """A profile is assumed, and said: what is new is found, with a wrong flux."""
    shape = (128, 128)
    ref, sci, _ = make(shape, n_stars=0, transients=[(64, 50, 5e3)])
    d = run(ref, sci)
    assert any("is assumed; give `ref_psfs`" in note for note in d.meta["notes"][0])
    y, x = np.unravel_index(np.nanargmax(d.significance), shape)
    assert np.hypot(y - 50, x - 64) < 2
    quiet = np.ones(shape, bool)
    quiet[38:63, 52:77] = False
    assert np.nanmax(np.abs(d.significance[quiet])) < 5
    d = run(ref, sci, **PSFS)
    assert d.meta["scale"][0] == 1 and "scale: 1 assumed" in d.meta["notes"][0][0]


@pytest.mark.parametrize("known", ["ref", "sci"])
def test_errors_of_the_sharper_psf_cancel(known):
    """The other PSF is that one through the matching kernel: no star is left of a wrong pair."""
    wrong = point_source((25, 25), 12, 12, fwhm=1.3 * FWHM_R)
    ref, sci, _ = make(seed=18)
    if known == "sci":
        ref, sci = sci, ref
    wrong, options = wrong / wrong.sum(), {"calibrate": False, "gain": 1.0}
    cores = (sci if known == "ref" else ref) > 1500

    def share_of_misfits(**psfs):
        d = run(ref, sci, **psfs, **options)
        pulls = np.abs(d.image / d.noise)[cores & ~d.mask]
        assert len(pulls) > 100
        return np.mean(pulls > 4)

    assert share_of_misfits(**{f"{known}_psfs": wrong}) < 0.01
    own = {"ref_psfs": PSF_R, "sci_psfs": PSF_S}
    if known == "sci":
        own = {"ref_psfs": PSF_S, "sci_psfs": PSF_R}
    assert share_of_misfits(**own | {f"{known}_psfs": wrong}) > 0.1


# ------------------------------------------------------------------- errors

even, huge = np.full((24, 24), 24.0**-2), np.full((301, 301), 301.0**-2)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"sci_psfs": 2 * PSF_S}, ValueError, "`sci_psfs` sums up to 2; .* divide by its sum"),
        ({"ref_psfs": even}, ValueError, "`ref_psfs` is 24 x 24 pixels; the side must be odd"),
        ({"ref_psfs": huge}, ValueError, "301 x 301 pixels, larger than the images, 256 x 256"),
        ({"ref_psfs": PSF_R[:23]}, ValueError, r"shape \(23, 25\); it must be"),
        ({"ref_psfs": PSF_R * np.nan}, ValueError, "not finite"),
        ({"ref_psfs": "gauss"}, TypeError, "`ref_psfs` is a str"),
        ({"ref_psfs": np.stack([PSF_R] * 3)}, ValueError, "PSFs for 3 images; `scis` has 1"),
        ({"ref_psfs": np.stack([PSF_R] * 3)[None]}, ValueError, "PSFs for 3 tiles"),
        ({"psf_size": 20}, ValueError, "psf_size is 20; it must be odd"),
        ({"psf_size": 501}, ValueError, "psf_size is 501"),
        ({"psf_size": 9.0}, TypeError, "psf_size is a float"),
        ({"tile": 8}, ValueError, "tile is 8; it must be at least 32"),
        ({"tile": "no"}, TypeError, "tile is a str"),
        ({"scale": -1}, ValueError, "scale is -1; it must be positive"),
        ({"scale": [1, 2]}, ValueError, r"scale has shape \(2,\)"),
        ({"gain": 0}, ValueError, "gain is 0; it must be positive"),
        ({"gain": (1, 2, 3)}, ValueError, r"gain has shape \(3,\)"),
        ({"astrometric_noise": -0.1}, ValueError, "astrometric_noise is -0.1"),
        ({"astrometric_noise": "some"}, ValueError, "astrometric_noise is 'some'"),
        ({"model": "x"}, TypeError, "no option 'model' for method 'zogy'"),
    ],
)  # fmt: skip
def test_errors(options, error, words):
    ref, sci, _ = make()
    with pytest.raises(error, match=words):
        run(ref, sci, **options)


@pytest.mark.parametrize("n", [1, 2])
def test_nonnegative_least_squares(rng, n):
    for _ in range(50):
        design, values = rng.normal(size=(6, n)), rng.normal(size=6)
        made = zogy_stars.nonnegative(design, values)
        np.testing.assert_allclose(made, optimize.nnls(design, values)[0], atol=1e-12)


# ------------------------------------------------------------------- on a GPU


@pytest.fixture
def cupy(monkeypatch):
    return pretend_cupy.install(monkeypatch)


@pytest.mark.parametrize("case", ["plain", "PSFs given", "bad pixels", "variances", "constant"])
def test_arrays_of_a_gpu_stay_there(case, cupy):
    """The maps are those of the CPU, and no more than the images and samples come back from it."""
    ref, sci, _ = make((160, 192), n_stars=25, transients=[(90, 70, 2e4)])
    options = PSFS | {"tile": 96} if case == "PSFs given" else {}
    if case == "bad pixels":
        ref[60:70, 30:50], sci[:, 100:103] = np.nan, 65535
        options["saturation"] = 60000
    elif case == "variances":
        options |= {"ref_variances": ref + 1, "sci_variances": sci + 1, "gain": 2.0}
    elif case == "constant":
        sci[:] = 7
    scis = np.stack([sci, sci[::-1, ::-1].copy()])
    expected = run(ref, scis, **options)
    there = {k: cupy.asarray(v) if k.endswith("variances") else v for k, v in options.items()}
    made = run(cupy.asarray(ref), cupy.asarray(scis), **there)
    # The images come back once, and what is known of their pixels; no map does.
    n_planes = sum(shape == ref.shape for shape in pretend_cupy.copies)
    assert n_planes <= (1 + len(scis)) * {"bad pixels": 2, "variances": 3}.get(case, 1)
    for name in ("image", "noise", "mask", "significance", "flux", "flux_err"):
        map_ = getattr(made, name)
        assert isinstance(map_, cupy.ndarray), name
        np.testing.assert_array_equal(map_.get(), getattr(expected, name), err_msg=name)
    np.testing.assert_array_equal(made.psf[0], expected.psf[0])
    np.testing.assert_array_equal(made.meta["saturated"], expected.meta["saturated"])
    np.testing.assert_array_equal(made.meta["scale"], expected.meta["scale"])
    assert made.meta["notes"] == expected.meta["notes"]
    np.testing.assert_array_equal(np.asarray(made[0]), expected[0].image)


def test_masks_on_a_gpu(cupy):
    ref, sci, _ = make((96, 96), n_stars=12)
    bad = np.zeros(ref.shape, bool)
    bad[40:45, 50] = True
    expected = run(ref, sci, ref_masks=bad)
    made = run(cupy.asarray(ref), cupy.asarray(sci), ref_masks=cupy.asarray(bad))
    np.testing.assert_array_equal(made.mask.get(), expected.mask)
    np.testing.assert_array_equal(made.image.get(), expected.image)


def test_psfs_on_a_gpu(cupy):
    ref, sci, _ = make((96, 96), n_stars=12)
    expected = run(ref, sci, **PSFS)
    made = run(*map(cupy.asarray, (ref, sci)), **{k: cupy.asarray(v) for k, v in PSFS.items()})
    np.testing.assert_array_equal(made.image.get(), expected.image)


def test_what_a_gpu_cannot_do_is_told(cupy):
    image = cupy.asarray(np.ones((64, 64), np.float32))
    with pytest.raises(TypeError, match=r"`refs` is on cpu.*move"):
        run(np.ones((64, 64)), image)
    with pytest.raises(TypeError, match="`out` is not taken for images on a GPU"):
        run(image, image, out=image)
    with pytest.raises(TypeError, match="methods for a GPU are 'psf-match', 'zogy'"):
        subtract_batch(image, image, method="transinet")
