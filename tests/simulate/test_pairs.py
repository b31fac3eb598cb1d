"""Simulated pairs: S/N, messages, empty batches and the device."""

import sys

import numpy as np
import pytest

import fastdiff
from tests import pretend_cupy
from tests.kernels.synth import scenes


def test_snr_is_that_of_a_matched_filter():
    """S/N over a flat sky: flux / sqrt(variance / sum(psf^2)), measured by many noise draws."""
    quiet = scenes.PLAIN | {"star_density": (1e-9, 1e-8), "galaxy_density": (1e-9, 1e-8)}
    made = fastdiff.simulate.pairs(
        60,
        (64, 64),
        seed=9,
        **quiet,
        p_central_galaxy=0.0,
        amplitude=(30.0, 30.0),
        n_transients=(1.0, 1.0),
        p_near_galaxy=0.0,
        p_cluster=0.0,
        sky=(500.0, 5000.0),
        fwhm_sci=(2.0, 4.0),
        n_exposures=(1000.0, 1000.0),
    )
    table = made.transients
    single = [i for i in range(60) if (table["image"] == i).sum() == 1]
    pulls = []
    for row in table[np.isin(table["image"], single)]:
        if not (12 < row["x"] < 52 and 12 < row["y"] < 52):
            continue
        truth = made.truth[row["image"]].astype(float)
        profile = truth / truth.sum()
        image = made.sci[row["image"]].astype(float)
        far = profile < 1e-6 * profile.max()
        measured = (profile * (image - image[far].mean())).sum() / (profile**2).sum()
        pulls.append((measured - row["flux"]) * row["snr"] / row["flux"])
    assert len(pulls) > 8
    # unit scatter, within five standard errors of a standard deviation
    assert np.std(pulls) == pytest.approx(1, abs=5 / np.sqrt(2 * len(pulls)))
    assert abs(np.mean(pulls)) < 5 / np.sqrt(len(pulls))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"preset": "hubble"}, ValueError, "`preset` is 'hubble'; it must be one of survey, paper"),
        ({"n": -1}, ValueError, "`n` is -1"),
        ({"shape": (8, 64)}, ValueError, r"`shape` is \(8, 64\); each side must be 16 to 16384"),
        ({"shape": 64}, ValueError, r"`shape` is 64; it must be two integers"),
        ({"seed": -3}, ValueError, "`seed` is -3"),
        ({"sky_level": 3}, TypeError, "unknown parameter sky_level"),
        ({"sky": (100.0, 10.0)}, ValueError, r"`sky` is \(100.0, 10.0\); low must not exceed high"),
        ({"sky": 10}, ValueError, r"`sky` is 10; it must be \(low, high\)"),
        ({"device": "gpu"}, ValueError, "device is 'gpu'; it must be one of 'cpu', 'cuda'"),
        ({"backgrounds": [np.zeros(4)]}, ValueError, "`backgrounds` must be one or more 2-D"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    n, shape = arguments.pop("n", 1), arguments.pop("shape", (64, 64))
    with pytest.raises(error, match=message):
        fastdiff.simulate.pairs(n, shape, **arguments)


def test_empty_batch():
    made = fastdiff.simulate.pairs(0, (64, 64))
    assert made.ref.shape == (0, 64, 64)
    assert len(made.transients) == 0


@pytest.mark.parametrize("backgrounds", [None, [np.full((40, 40), 300.0)]])
def test_pairs_made_on_a_gpu_are_those_of_the_cpu(monkeypatch, backgrounds):
    options = {"seed": 3, "p_missing": 0.5, "p_resampled": 0.5, "transient_density": 8.0}
    options["backgrounds"] = backgrounds
    expected = fastdiff.simulate.pairs(2, (32, 40), **options)
    pretend_cupy.install(monkeypatch)
    made = fastdiff.simulate.pairs(2, (32, 40), device="cuda", **options)
    # only what a background is convolved by has come to the CPU
    assert len(pretend_cupy.copies) == (0 if backgrounds is None else 2)
    for name in ("truth", "variance", "scale"):
        array = getattr(made, name)
        assert isinstance(array, pretend_cupy.ndarray)
        np.testing.assert_allclose(array.get(), getattr(expected, name), rtol=2e-3, atol=2e-2)
    for name in ("ref", "sci"):
        a, b = getattr(made, name).get(), getattr(expected, name)
        np.testing.assert_array_equal(getattr(made, f"{name}_mask").get(), np.isnan(b))
        # a Poisson count may round the other way in the last bit of its mean
        assert np.nanmean(np.abs(a - b) > 1e-3 * np.abs(b) + 1e-2) < 0.02
    table = made.transients
    assert len(table) == len(expected.transients) > 0
    assert list(table["kind"]) == list(expected.transients["kind"])
    for name in ("image", "x", "y", "flux", "snr"):
        np.testing.assert_allclose(table[name], expected.transients[name], rtol=1e-3)
    assert len(fastdiff.simulate.pairs(0, (32, 40), device="cuda").transients) == 0


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match="device is 'cuda', for which CuPy is needed"):
        fastdiff.simulate.pairs(1, device="cuda")
    cupy = pretend_cupy.install(monkeypatch)
    cupy.cuda.is_available = lambda: False
    with pytest.raises(RuntimeError, match="a GPU is needed, and CuPy finds none"):
        fastdiff.simulate.pairs(1, device="cuda")
