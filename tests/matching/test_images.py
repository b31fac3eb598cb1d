"""One image of a pair above its sky."""

import numpy as np
import pytest

from fastdiff import subtract_batch
from fastdiff.core.progress import silent
from fastdiff.matching import images
from fastdiff.matching.frames import Frames
from fastdiff.matching.images import NoFit, load_image, middles, windows
from tests.difference.psfmatch.pairs import Pair


def frames_of(ref, sci, bad=None, variance=None):
    image = np.empty(sci.shape, np.float32)
    return Frames(
        ref, sci, None, bad, None, variance, image, image.copy(), threads=1, progress=silent
    )


def test_sky_is_taken_off_and_bad_pixels_are_filled(rng):
    sci = rng.normal(500, 3, (1, 64, 64)).astype(np.float32)
    sci[0, 10, 10] = np.nan
    bad = np.zeros(sci.shape, bool)
    bad[0, 20, 30] = True
    sci[0, 20, 30] = 1e9
    frames = frames_of(sci, sci, bad)
    image = load_image("sci", frames, frames, 0, np.array([[500.0, 3.0]]), None, 1)
    assert (image.sky, image.sigma, image.floor) == (500, 3, 0.25 * 9)
    assert np.argwhere(image.bad).tolist() == [[10, 10], [20, 30]]
    assert np.isfinite(image.data).all() and np.abs(image.data).max() < 20
    assert np.isnan(image.fwhm)  # there is no star


def test_variances_that_came_give_the_noise(rng):
    sci = rng.normal(0, 2, (1, 64, 64)).astype(np.float32)
    variance = np.full(sci.shape, 4.0)
    frames = frames_of(sci, sci, variance=variance)
    image = load_image("sci", frames, frames, 0, np.array([[0.0, 7.0]]), None, 1)
    assert image.sigma == 2
    assert load_image("ref", frames, frames, 0, np.array([[0.0, 7.0]]), None, 1).sigma == 7


def test_an_image_without_a_good_pixel_is_no_fit():
    sci = np.full((1, 64, 64), np.nan, np.float32)
    frames = frames_of(sci, sci)
    with pytest.raises(NoFit, match="no pixel is good"):
        load_image("sci", frames, frames, 0, np.array([[0.0, 1.0]]), None, 1)


def test_windows_and_their_middles():
    plane = np.arange(60.0).reshape(6, 10)
    origins = np.array([[0, 0], [2, 5]])
    parts = windows(plane, origins, (3, 4))
    np.testing.assert_array_equal(parts[1], plane[2:5, 5:9])
    x, y = middles(origins, (3, 4))
    assert (x.tolist(), y.tolist()) == ([1.5, 6.5], [1, 3])


def test_a_psf_that_the_stars_cannot_tell_has_their_width(monkeypatch):
    """Stars that are all bad pixels leave their width, and no error."""
    pair = Pair(side=96, n_stars=20, n_new=0)

    def nothing(*_arguments, **_options):
        raise ValueError("the stars of `image` add up to nothing: give the PSF")

    monkeypatch.setattr(images, "measure_psf", nothing)
    for convolve in ("ref", "sci"):
        d = subtract_batch(pair.ref, pair.sci, method="psf-match", convolve=convolve)
        assert np.isfinite(d.significance).mean() > 0.5
        assert d.psf.sum() == pytest.approx(1)
