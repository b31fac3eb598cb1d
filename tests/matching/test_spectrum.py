"""matching/spectrum.py: the noise that a difference shows, and the filter that suits it."""

import numpy as np
import pytest

from fastdiff.matching import spectrum
from fastdiff.stars.psf import moffat

SIDE = 64
WHITE = np.ones((SIDE, SIDE // 2 + 1))


def smoothed(rng, shape, sigma):
    """Noise that a Gaussian of `sigma` pixels has smoothed, and its spectrum of mean 1."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.normal(size=shape), sigma, mode="wrap")
    k2 = 4 * np.pi**2 * (np.fft.fftfreq(SIDE)[:, None] ** 2 + np.fft.rfftfreq(SIDE)[None] ** 2)
    power = np.exp(-(sigma**2) * k2)
    return noise / noise.std(), power / spectrum._mean_power(power)


def test_white_noise_is_taken_as_expected(rng):
    made = spectrum.noise_spectrum(rng.normal(size=(512, 512)), WHITE)
    assert np.isclose(made, np.median(made)).mean() > 0.9
    np.testing.assert_allclose(made, 1, atol=0.5)


def test_the_spectrum_of_smooth_noise(rng):
    noise, truth = smoothed(rng, (1024, 1024), 1.0)
    made = spectrum.noise_spectrum(noise, WHITE)
    seen = truth > 0.1
    assert np.median(np.abs(made / truth - 1)[seen]) < 0.1
    # What is expected already is not fitted again.
    again = spectrum.noise_spectrum(noise, truth)
    assert np.median(np.abs(again / truth - 1)) < 0.01


def test_sources_and_bad_pixels_are_left_out(rng):
    noise = rng.normal(size=(512, 512))
    expected = spectrum.noise_spectrum(noise, WHITE)
    for y, x in rng.integers(20, 490, (60, 2)):
        noise[y - 3 : y + 4, x - 3 : x + 4] += 50 * moffat(3.0, 7) * 5
    noise[100:110, 200:260] = np.nan
    made = spectrum.noise_spectrum(noise, WHITE)
    np.testing.assert_allclose(made, expected, atol=0.6)
    assert abs(made[:3, :3].mean() - 1) < 0.3


def test_frames_that_are_too_small_have_the_expected_spectrum(rng):
    _, truth = smoothed(rng, (64, 64), 1.0)
    np.testing.assert_allclose(spectrum.noise_spectrum(rng.normal(size=(40, 40)), truth), truth)
    nothing = np.full((80, 80), np.nan)
    np.testing.assert_allclose(spectrum.noise_spectrum(nothing, truth), truth)


def test_the_filter_of_white_noise_is_the_psf():
    psf = moffat(3.0, 15)
    made = spectrum.source_filter(psf, WHITE)
    np.testing.assert_allclose(made.core, psf / psf.max(), atol=1e-9)
    assert made.excess == pytest.approx(1)
    # Photons of a source through its own profile: sum P^3 for taps P / max P.
    assert made.own == pytest.approx((psf**3).sum() / psf.max() ** 2)


def test_no_filter_measures_better(rng):
    """Errors of fluxes in smooth noise: those of the filter are the least, and as computed."""
    from scipy.signal import fftconvolve

    psf = moffat(4.0, 21)
    noise, truth = smoothed(rng, (1024, 1024), 1.2)
    white = rng.normal(size=noise.shape)
    both = 0.95 * noise + 0.3 * white
    power = 0.9025 * truth + 0.09
    made = spectrum.source_filter(psf, power)

    def error(taps):
        middle = (len(taps) - len(psf)) // 2
        core = taps[middle : len(taps) - middle, middle : len(taps) - middle]
        return fftconvolve(both, taps[::-1, ::-1], mode="valid").std() / (core * psf).sum()

    best = error(made.taps)
    predicted = np.sqrt(made.excess * (made.taps**2).sum()) / (made.core * psf).sum()
    assert best == pytest.approx(predicted, rel=0.05)
    assert best < 0.95 * error(psf)


def test_photons_seen_through_a_kernel():
    """Of a sharp source that the difference shows blurred, by brute force."""
    sharp, kernel = moffat(2.0, 15), moffat(3.0, 15)
    from scipy.signal import fftconvolve

    blurred = fftconvolve(sharp, kernel)
    blurred /= blurred.sum()
    made = spectrum.source_filter(blurred, WHITE, (sharp, kernel / kernel.sum()))
    seen = fftconvolve(made.taps, (kernel / kernel.sum())[::-1, ::-1], mode="same")
    cut = (len(seen) - 15) // 2
    brute = (seen[cut:-cut, cut:-cut] ** 2 * sharp).sum()
    assert made.own == pytest.approx(brute, rel=1e-3)
