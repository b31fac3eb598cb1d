"""A scene's numbers: the photometric scale."""

import numpy as np
import pytest

import fastdiff
from tests.kernels.synth import scenes


def test_scale_is_the_ratio_of_an_unchanged_star():
    made = fastdiff.simulate.pairs(
        30,
        (64, 64),
        seed=2,
        **scenes.PLAIN,
        n_transients=(0.0, 1e-9),
        galaxy_density=(1e-9, 1e-8),
        star_density=(1.0, 1.01),
        star_snr=(2000.0, 3000.0),
        p_central_galaxy=0.0,
        p_cluster=0.0,
    )
    ratios = []
    for ref, sci, scale in zip(made.ref, made.sci, made.scale, strict=True):
        flux = [np.sum(a - np.median(a)) for a in (ref.astype(float), sci.astype(float))]
        if flux[0] > 0 and np.ptp(sci) > 100 * np.std(sci[:8]):
            ratios.append(flux[1] / flux[0] / scale)
    assert len(ratios) > 5
    assert np.median(ratios) == pytest.approx(1, abs=0.05)
