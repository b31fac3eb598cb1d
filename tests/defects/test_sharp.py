"""Cosmic rays and hot pixels are found; stars, galaxies and noise are kept."""

import numpy as np
import pytest

from fastdiff.defects.inspect import inspect_frame
from tests.defects.scenes import SIZE, gaussians, moffats, photons, spread

SKIES = (1.0, 40.0, 1000.0)


def scene(rng, fwhm, sky, profile, n=90):
    """Sources of S/N 5 to 1000 and galaxies: their places, and a function of the FWHM."""
    x, y = spread(rng, n, 8)
    snr, area = 10 ** rng.uniform(np.log10(5), 3, n), 4 * np.pi * (fwhm / 2.3548) ** 2
    flux = snr * (snr + np.sqrt(snr**2 + 4 * area * sky)) / 2
    gx, gy = spread(rng, 12, 20)
    galaxies, width = 10 ** rng.uniform(3.5, 4.8, 12), rng.uniform(4, 12, 12)

    def made(width_of_psf):
        stars = profile(x, y, flux, width_of_psf)
        return sky + stars + gaussians(gx, gy, galaxies, np.hypot(width, width_of_psf))

    return (x, y), made


def tracks(rng, n, sigma, wide):
    """Tracks of 1 to 30 pixels, of 50 to 2000 sigma a pixel."""
    made = []
    for _ in range(n):
        (x, y), angle = spread(rng, 1, 14)[:, 0], rng.uniform(0, np.pi)
        height = sigma * 10 ** rng.uniform(1.7, 3.3)
        image = np.zeros((SIZE, SIZE))
        for s in np.arange(0, rng.integers(1, 30), 0.1):
            px, py = x + s * np.cos(angle), y + s * np.sin(angle)
            if not (0 <= px < SIZE - 1 and 0 <= py < SIZE - 1):
                break
            i, j = int(px), int(py)
            if wide:  # light shared by the nearest four pixels
                u, v = px - i, py - j
                image[j : j + 2, i : i + 2] += 0.1 * height * np.outer([1 - v, v], [1 - u, u])
            elif not image[j, i]:
                image[j, i] = height * rng.uniform(0.3, 1)
        made.append(image)
    return made


def found_in(ref, sci):
    frames = [inspect_frame(image.astype(np.float32), None) for image in (ref, sci)]
    common = frames[0].in_common(frames[1])
    masks = []
    for frame, which in zip(frames, (common.ref, common.sci), strict=True):
        mask = np.zeros((SIZE, SIZE), bool)
        mask.ravel()[frame.sharp(which).places] = True
        masks.append(mask)
    return masks


@pytest.mark.parametrize("fwhm", [2.0, 3.0, 4.0])
def test_sources_are_kept(fwhm):
    """Fewer than one in 500 touched, of 2 x 12 x 90 at each width."""
    touched = 0
    for seed in range(12):
        rng = np.random.default_rng(1000 + seed)
        sky, profile = SKIES[seed % 3], (gaussians, moffats)[seed % 2]
        (x, y), made = scene(rng, fwhm, sky, profile)
        masks = found_in(photons(rng, made(1.2 * fwhm)), photons(rng, made(fwhm)))
        for mask in masks:
            for px, py in zip(x.round().astype(int), y.round().astype(int), strict=True):
                touched += mask[max(0, py - 2) : py + 3, max(0, px - 2) : px + 3].any()
    assert touched <= 2 * 12 * 90 / 500


@pytest.mark.parametrize("fwhm", [2.0, 3.0, 4.0])
@pytest.mark.parametrize("wide", [False, True])
def test_tracks_are_found(fwhm, wide):
    """Fewer than one in 20 left, a quarter of its light, of those that noise does not hide.

    Of tracks whose light two pixels share, which a PSF of 2 pixels hardly beats, one in 15.
    """
    left = n = 0
    for seed in range(3):
        rng = np.random.default_rng(2000 + seed)
        sky = SKIES[seed]
        _, made = scene(rng, fwhm, sky, gaussians, n=60)
        truth = made(fwhm)
        rays = tracks(rng, 30, np.sqrt(sky), wide)
        _, mask = found_in(photons(rng, made(1.2 * fwhm)), photons(rng, truth) + sum(rays))
        for ray in rays:
            if (ray > 10 * np.sqrt(truth)).any():
                n += 1
                left += ray[~mask].sum() > 0.25 * ray.sum()
    assert n > 50
    assert left <= n / (15 if wide else 20)


def test_hot_pixels_and_small_blocks():
    rng = np.random.default_rng(3)
    _, made = scene(rng, 3.0, 100.0, gaussians)
    ref, sci = photons(rng, made(3.0)), photons(rng, made(4.0))
    hot = np.zeros((SIZE, SIZE), bool)
    y, x = rng.integers(5, SIZE - 8, (2, 40))
    for k, (j, i) in enumerate(zip(y, x, strict=True)):
        hot[j : j + 1 + k % 3, i : i + 1 + k % 2] = True
    sci[hot] += 3000
    mask = found_in(ref, sci)[1]
    assert (hot & ~mask).sum() <= 0.05 * hot.sum()
    assert (mask & ~hot).sum() <= 0.2 * hot.sum()


def test_a_star_that_only_one_frame_shows_is_kept():
    rng = np.random.default_rng(4)
    _, made = scene(rng, 2.5, 100.0, gaussians)
    x, y = spread(rng, 40)
    new = gaussians(x, y, 10 ** rng.uniform(3, 5, 40), 2.5)
    ref, sci = photons(rng, made(3.5)), photons(rng, made(2.5) + new)
    assert found_in(ref, sci)[1].sum() <= 1


def test_a_narrow_star_in_a_field_of_galaxies_is_kept():
    rng = np.random.default_rng(5)
    x, y = spread(rng, 40)
    galaxies = gaussians(x, y, 10 ** rng.uniform(4, 5, 40), rng.uniform(5, 9, 40))
    new = gaussians([128.2], [131.4], [2e4], 2.2)
    ref, sci = photons(rng, 100 + galaxies), photons(rng, 100 + galaxies + new)
    masks = found_in(ref, sci)
    assert masks[1][126:137, 123:134].sum() == 0


def test_nothing_is_told_of_a_psf_of_less_than_two_pixels():
    rng = np.random.default_rng(6)
    _, made = scene(rng, 1.4, 100.0, gaussians)
    frames = [inspect_frame(photons(rng, made(w)), None) for w in (1.4, 1.5)]
    common = frames[0].in_common(frames[1])
    sharp = frames[0].sharp(common.ref)
    assert not sharp.sampled
    assert not len(sharp.places)


def test_dead_columns_do_not_make_stars_sharp():
    rng = np.random.default_rng(7)
    _, made = scene(rng, 3.0, 100.0, gaussians)
    ref, sci = photons(rng, made(3.0)), photons(rng, made(4.0))
    ref[:, 7::16], sci[:, 9::16] = np.nan, np.nan
    bad = [~np.isfinite(image) for image in (ref, sci)]
    frames = [inspect_frame(image, mask) for image, mask in zip((ref, sci), bad, strict=True)]
    common = frames[0].in_common(frames[1])
    assert len(frames[0].sharp(common.ref).places) + len(frames[1].sharp(common.sci).places) <= 2
