"""kernels/image/match.py against its twin, and what matching promises."""

import numpy as np
import pytest

import fastdiff
from fastdiff.kernels.image import match, tile
from tests.kernels.image.reference import match as reference


def stars(shape, places, fluxes, fwhm):
    """Gaussian stars, sampled at the pixels' centres."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    sigma = fwhm / 2.3548
    image = np.zeros(shape)
    for (cy, cx), flux in zip(places, fluxes, strict=True):
        image += (
            flux
            / (2 * np.pi * sigma**2)
            * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * sigma**2))
        )
    return image


def star_pair(rng, shape, fwhm, n_stars=8, noise=0.7):
    """(2, ny, nx): the same stars with two PSFs, and noise of unit variance in the difference."""
    places = rng.uniform(4, np.array(shape) - 4, (n_stars, 2))
    fluxes = 10 ** rng.uniform(2, 4, n_stars)
    pair = np.stack([stars(shape, places, fluxes, width) for width in fwhm])
    return (pair + noise * rng.normal(size=pair.shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(64, 64), (48, 80), (33, 47), (16, 16), (9, 9), (8, 30), (2, 3)])
@pytest.mark.parametrize("fwhm", [(2.5, 4.0), (5.0, 2.0)])
def test_kernel_agrees_with_reference(rng, shape, fwhm):
    pairs = np.stack([star_pair(rng, (max(shape[0], 9), max(shape[1], 9)), fwhm) for _ in range(3)])
    pairs = np.ascontiguousarray(pairs[:, :, : shape[0], : shape[1]])
    made = match.match_psfs(pairs, threads=2)
    np.testing.assert_array_equal(made[:, :2], pairs)
    for pair, got in zip(pairs, made, strict=True):
        expected = reference.match(*pair)
        brightest = np.abs(pair).max()
        np.testing.assert_allclose(got[2:], expected, atol=2e-3 + 5e-5 * brightest)


def test_agrees_on_simulated_pairs():
    made = fastdiff.simulate.pairs(8, (64, 64), seed=3)
    pairs, _, _ = tile.normalise_pairs(made.ref, made.sci, made.ref_mask, made.sci_mask)
    for pair, got in zip(pairs, match.match_psfs(pairs), strict=True):
        expected = np.stack(reference.match(*pair))
        signal = np.abs(pair).max(0)
        assert (np.abs(got[2:] - expected) < 0.01 * (1 + 0.03 * signal)).all()


@pytest.mark.parametrize(("fwhm", "matched"), [((2.5, 4.5), 0), ((4.5, 2.5), 1)])
def test_what_is_left_of_stars_is_noise(rng, fwhm, matched):
    """In the difference whose kernel broadens, star cores are as quiet as the sky."""
    places = rng.uniform(10, 118, (30, 2))
    fluxes = 10 ** rng.uniform(2.5, 3.5, 30)
    pair = np.stack([stars((128, 128), places, fluxes, width) for width in fwhm])
    pair = (pair + rng.normal(0, 0.5**0.5, pair.shape)).astype(np.float32)
    left = match.match_psfs(pair[None])[0, 2 + matched]
    near = np.zeros((128, 128), bool)
    for cy, cx in np.round(places).astype(int):
        near[cy - 2 : cy + 3, cx - 2 : cx + 3] = True
    plain = (pair[1] - pair[0])[near].std()
    assert left[near].std() < 1.6
    assert plain > 10 * left[near].std()


def test_transients_stay(rng):
    """A source in sci alone keeps its flux in sci - K * ref, among stars that drive the fit."""
    pair = star_pair(rng, (96, 96), (3.0, 4.0), n_stars=20)
    new = stars((96, 96), [(47.3, 50.8)], [2000.0], 4.0)
    before = match.match_psfs(pair[None])[0, 2]
    pair[1] += new.astype(np.float32)
    change = match.match_psfs(pair[None])[0, 2] - before
    support = new > 1
    assert change[support].sum() == pytest.approx(new[support].sum(), rel=0.03)


def test_empty_sky_is_never_noisier(rng):
    """Of noise alone the fit may only leave out some of the image that is convolved."""
    pair = rng.normal(0, 0.5**0.5, (4, 2, 64, 64)).astype(np.float32)
    made = match.match_psfs(pair)
    plain = pair[:, 1] - pair[:, 0]
    for channel, image, sign in ((2, pair[:, 1], 1), (3, pair[:, 0], -1)):
        assert 0.65 < made[:, channel].std() < plain.std()
        # the image that is not convolved is in the difference as it was
        slope = (sign * made[:, channel] * image).mean() / (image**2).mean()
        assert slope == pytest.approx(1, abs=0.05)


def test_extremes_stay_finite():
    pairs = np.zeros((4, 2, 32, 32), np.float32)
    pairs[1, 0] = 1e6  # constant images
    pairs[2, :, 10, 10] = 1e6  # single pixels
    pairs[3, 1, ::2] = -1e6
    made = match.match_psfs(pairs)
    assert np.isfinite(made).all()
    np.testing.assert_array_equal(made[0], 0)
    assert match.match_psfs(pairs[:0]).shape == (0, 4, 32, 32)


def test_same_bits_whatever_the_batch_and_the_threads(rng):
    pairs = np.stack([star_pair(rng, (40, 40), (3.0, 4.0)) for _ in range(5)])
    whole = match.match_psfs(pairs, threads=3)
    np.testing.assert_array_equal(whole, match.match_psfs(pairs, threads=1))
    np.testing.assert_array_equal(whole[3:4], match.match_psfs(pairs[3:4]))


# -------------------------------------------------------------------------------- GPU


@pytest.mark.parametrize("at_a_time", [1, 3 * 2 * 40 * 44 * 40, match.AT_A_TIME])
def test_arrays_of_a_gpu_give_the_same(rng, monkeypatch, cupy, at_a_time):
    """However many pairs go through a GPU at a time."""
    pairs = np.stack([star_pair(rng, (40, 44), (2.0, 3.0)) for _ in range(5)])
    expected = match.match_psfs(pairs)
    monkeypatch.setattr(match, "AT_A_TIME", at_a_time)
    made = match.match_psfs(cupy.asarray(pairs))
    assert isinstance(made, cupy.ndarray)
    np.testing.assert_array_equal(made.get()[:, :2], pairs)
    np.testing.assert_allclose(made.get(), expected, atol=1e-3 + 5e-5 * np.abs(pairs).max())
