"""The user's own images behind the pairs, and PSFs as images."""

import numpy as np
import pytest

import fastdiff
from fastdiff.simulate.backgrounds import psf_image
from tests.kernels.synth import scenes


def test_backgrounds_appear_convolved_in_both_images():
    image = np.zeros((200, 200), np.float32)
    image[::20, ::20] = 1e5
    quiet = scenes.PLAIN | {"star_density": (1e-9, 1e-8), "galaxy_density": (1e-9, 1e-8)}
    made = fastdiff.simulate.pairs(
        3,
        (64, 64),
        seed=1,
        **quiet,
        backgrounds=[image],
        p_central_galaxy=0.0,
        p_cluster=0.0,
        n_transients=(0.0, 1e-9),
        fwhm_ref=(2.0, 3.0),
        fwhm_sci=(2.0, 3.0),
        sky=(10.0, 10.0),
    )
    for ref, sci, scale in zip(made.ref, made.sci, made.scale, strict=True):
        a, b = (x - np.median(x) for x in (ref.astype(float), sci.astype(float)))
        assert a.max() > 50 * 1.4826 * np.median(np.abs(a))
        # 64^2 / 20^2 points of 1e5 electrons: the two images hold the same light
        assert b.sum() / (scale * a.sum()) == pytest.approx(1, abs=0.25)


def test_psf_image_sums_to_one_and_has_the_width_asked_for():
    made = scenes.drawn(8, 32, 32, **scenes.PLAIN, fwhm_ref=(3.0, 3.0), fwhm_sci=(3.0, 3.0))
    image = psf_image(made["psf"][0, 1])
    x = np.indices(image.shape)[1] - 20
    assert image.sum() == pytest.approx(1)
    assert (image * x**2).sum() == pytest.approx((3 / 2.35482) ** 2 + 1 / 12, rel=1e-3)
