"""What changes: fluxes, places and magnitudes of transients and vanished stars."""

import numpy as np
import pytest

import fastdiff
from tests.kernels.synth import scenes


def test_relative_magnitudes_are_those_asked_for():
    """Eqs 23, 24: mag_rel = -2.5 log10((F_t + F_local) / F_local)."""
    wanted = -1.0
    quiet = scenes.PLAIN | {"star_density": (1e-9, 1e-8), "galaxy_density": (1e-9, 1e-8)}
    made = fastdiff.simulate.pairs(
        40,
        (64, 64),
        seed=4,
        **quiet,
        p_central_galaxy=0.0,
        amplitude_rule=1,
        amplitude=(wanted, wanted),
        n_transients=(1.0, 1.0),
        sky=(100.0, 100.0),
        gain=(1.0, 1.0),
        fwhm_ref=(3.0, 3.0),
        fwhm_sci=(3.0, 3.0),
        p_cluster=0.0,
    )
    flux = np.array(made.transients["flux"])
    local = 100.0 * 3.0**2  # an empty sky in a square of one FWHM
    np.testing.assert_allclose(-2.5 * np.log10((flux + local) / local), wanted, rtol=1e-4)


def test_vanished_sources_are_negative_in_the_truth_or_left_out():
    only = scenes.PLAIN | {"n_vanished": 2.0}
    made = fastdiff.simulate.pairs(12, (64, 64), seed=1, **only, n_transients=(0.0, 1e-9))
    gone = made.transients[made.transients["kind"] == "vanished"]
    assert len(gone) > 5
    assert (gone["flux"] < 0).all()
    assert made.truth.min() < 0 <= made.truth.max() + 1e-6


def test_truth_sums_to_the_flux_at_the_stated_place():
    made = fastdiff.simulate.pairs(
        24,
        (64, 64),
        seed=11,
        **scenes.PLAIN,
        n_transients=(1.0, 1.0),
        exact_number=1,
        p_near_galaxy=0.0,
        fwhm_sci=(2, 4),
    )
    table = made.transients
    assert len(table) == 24
    checked = 0
    for row in table:
        if not (16 < row["x"] < 48 and 16 < row["y"] < 48):
            continue
        truth = made.truth[row["image"]].astype(float)
        y, x = np.indices(truth.shape)
        assert truth.sum() == pytest.approx(row["flux"], rel=3e-3)
        assert (truth * x).sum() / truth.sum() == pytest.approx(row["x"], abs=0.02)
        assert (truth * y).sum() / truth.sum() == pytest.approx(row["y"], abs=0.02)
        checked += 1
    assert checked >= 4
