"""Shifts of whole pixels are found where there is one, and nowhere else."""

import numpy as np
import pytest

from fastdiff.defects.inspect import inspect_frame
from tests.defects.scenes import SIZE, gaussians, photons, spread


def common(ref, sci):
    return inspect_frame(ref, None).in_common(inspect_frame(sci, None))


def pair(seed, shift=(0.0, 0.0), n=60, fwhm=(3.0, 4.2), varying=False, galaxies=0):
    rng = np.random.default_rng(seed)
    x, y = spread(rng, n)
    flux = 10 ** rng.uniform(3, 5, n)
    other = 10 ** rng.uniform(3, 5, n) if varying else flux
    width = np.zeros(n)
    width[:galaxies] = rng.uniform(4, 10, galaxies)
    scenes = (
        gaussians(x, y, flux, np.hypot(fwhm[0], width)),
        gaussians(x + shift[0], y + shift[1], other, np.hypot(fwhm[1], width)),
    )
    return [photons(rng, 100 + scene) for scene in scenes]


@pytest.mark.parametrize(
    "shift", [(0.2, -0.3), (1.3, 0), (-4, 2.6), (9.8, -9.7), (0, -10), (6.5, 6.5)]
)
@pytest.mark.parametrize("n", [6, 60, 300])
def test_the_shift_of_stars(shift, n):
    found = common(*pair(1, shift, n))
    np.testing.assert_allclose(found.shift, shift, atol=0.25 if n < 10 else 0.15)
    whole = found.whole
    assert np.abs(np.array(whole) - shift).max() < 0.76
    if max(map(abs, shift)) < 0.7:
        assert whole == (0, 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "kind",
    [{"varying": True}, {"n": 3}, {"n": 40, "galaxies": 40}, {"fwhm": (2, 6)}, {"n": 1},
     {"n": 0}, {"n": 600, "varying": True}],
)  # fmt: skip
def test_no_shift_where_there_is_none(kind, seed):
    assert common(*pair(10 + seed, **kind)).whole == (0, 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [0, 2, 5, 30, 200])
def test_no_shift_between_fields_that_have_nothing_in_common(n, seed):
    ref, sci = (pair(100 + 2 * seed + k, n=n)[0] for k in range(2))
    assert common(ref, sci).whole == (0, 0)


@pytest.mark.parametrize("period", [7, 12, 20])
@pytest.mark.parametrize("both", [False, True])
def test_no_shift_of_fringes(period, both):
    ref, sci = pair(20, n=20)
    xx = np.arange(SIZE)
    fringes = 60 * np.sin(2 * np.pi * (xx[None] + 0.3 * xx[:, None]) / period)
    moved = 60 * np.sin(2 * np.pi * (xx[None] + 0.3 * xx[:, None] + 3) / period)
    assert common(ref + fringes * both, sci + moved).whole == (0, 0)


def test_a_grid_of_stars_alike_may_be_shifted_by_nothing():
    rng = np.random.default_rng(30)
    x, y = (a.ravel() for a in np.meshgrid(np.arange(10.5, 250, 8), np.arange(10.5, 250, 8)))
    ref, sci = (photons(rng, 100 + gaussians(x, y, np.full(len(x), 1e4), w)) for w in (2.5, 3))
    assert common(ref, sci).whole == (0, 0)


def test_cosmic_rays_do_not_hide_the_shift():
    ref, sci = pair(40, (3.2, -5))
    rng = np.random.default_rng(41)
    for image in (ref, sci):
        y, x = rng.integers(0, SIZE, (2, 400))
        image[y, x] += 10 ** rng.uniform(3, 5, 400)
    np.testing.assert_allclose(common(ref, sci).shift, (3.2, -5), atol=0.15)


def test_bad_frames_have_nothing_in_common():
    ref, sci = pair(50)
    assert (
        inspect_frame(np.full_like(ref, np.nan), None).in_common(inspect_frame(sci, None)) is None
    )
    assert common(np.full_like(ref, 7), sci) is None
