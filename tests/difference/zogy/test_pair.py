"""The paper's equations: difference, noise, significance, fluxes."""

import numpy as np
import pytest
from scipy import ndimage, signal

from fastdiff.difference.zogy import tiles as zogy_tiles
from tests.difference.zogy.pairs import (
    FWHM_S,
    PSF_R,
    PSF_S,
    PSFS,
    SCALE,
    SKY_S,
    grid,
    make,
    render,
    robust,
    run,
)
from tests.difference.zogy.reference import zogy as reference


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
