"""`light_curve_features` against its NumPy twin, light-curve and real curves."""

import numpy as np
import pytest

from fastdiff.kernels import jit
from fastdiff.lightcurves.curves import DROPPED, EMPTY
from fastdiff.lightcurves.features import CURVE_FEATURES, light_curve_features
from fastdiff.lightcurves.periods import PERIOD_FEATURES
from tests import pretend_cupy
from tests.kernels.curve.inputs import ragged
from tests.kernels.curve.reference import features as reference

LENGTHS = (300, 299, 100, 47, 30, 31, 20, 9, 3, 3, 2, 2, 1, 5000, 4001)


def check(table, time, mag, magerr):
    for i, (t, m) in enumerate(zip(time, mag, strict=True)):
        expected = reference.features(t - t[0], m, None if magerr is None else magerr[i])
        for name in CURVE_FEATURES:
            np.testing.assert_allclose(
                table[name][i], expected[name], rtol=1e-9, atol=1e-13, err_msg=f"{name}, {i}"
            )


@pytest.mark.parametrize("with_errors", [True, False])
def test_agrees_with_reference(rng, with_errors):
    time, mag, magerr = ragged(rng, LENGTHS)
    magerr = magerr if with_errors else None
    check(light_curve_features(time, mag, magerr=magerr), time, mag, magerr)


def test_agrees_with_reference_on_real_curves(data_folder):
    data = dict(np.load(data_folder / "crts" / "crts_train.npz", allow_pickle=True))
    time, mag, magerr = [], [], []
    for i in range(0, 5000, 50):
        part = slice(*data["offsets"][i : i + 2])
        order = np.argsort(data["t"][part], kind="stable")
        order = order[data["t"][part][order] > 50_000]
        time.append(data["t"][part][order])
        mag.append(data["mag"][part][order])
        magerr.append(data["magerr"][part][order].astype(float))
    check(light_curve_features(time, mag, magerr=magerr), time, mag, magerr)


def test_constant_curves():
    made = light_curve_features([np.arange(5.0)], [np.full(5, 15.0)], magerr=[np.ones(5)])
    for name in made.colnames:
        undefined = "ratio" in name or name in ("skew", "small_kurtosis")
        assert np.isnan(made[name][0]) == (undefined or "stetson" in name), name
    assert made["std"][0] == made["amplitude"][0] == made["linear_trend"][0] == 0


def test_what_light_curve_defines_too_is_equal(rng):
    peer = pytest.importorskip("light_curve")
    time, mag, magerr = ragged(rng, (300, 100, 57, 40))
    time[3] = np.sort(rng.uniform(0, 100, 40))  # it wants times that differ
    made = light_curve_features(time, mag, magerr=magerr)
    of_flux = {
        "median_absolute_deviation": peer.MedianAbsoluteDeviation(),
        "percent_difference_flux_percentile": peer.PercentDifferenceMagnitudePercentile(0.05),
    }
    for name, q in ((20, 0.4), (35, 0.325), (50, 0.25), (65, 0.175), (80, 0.1)):
        of_flux[f"flux_percentile_ratio_mid{name}"] = peer.MagnitudePercentageRatio(q, 0.05)
    of_mag = {
        "meanmag": peer.Mean(),
        "amplitude": peer.Amplitude(),
        "beyond1std": peer.BeyondNStd(1.0),
        "linear_trend": peer.LinearTrend(),
        "max_slope": peer.MaximumSlope(),
        "std": peer.StandardDeviation(),
        "stetson_k": peer.StetsonK(),
    }
    for i, (t, m, e) in enumerate(zip(time, mag, magerr, strict=True)):
        for theirs, y in ((of_mag, m), (of_flux, 10 ** (-0.4 * m))):
            for name, extractor in theirs.items():
                # times small enough for light-curve's float64 sums
                value = extractor(t - t[0], y, e)[0]
                # its percentages are float32: places between two values move a little
                rel = 1e-5 if "percent" in name else 1e-8
                assert made[name][i] == pytest.approx(value, rel=rel, abs=1e-13), name
        n = len(m)
        bias = np.sqrt(n * (n - 1)) / (n - 2)  # theirs is G_1
        assert made["skew"][i] * bias == pytest.approx(peer.Skew()(t, m, e)[0], rel=1e-8)
        excess = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (made["small_kurtosis"][i] - 3) + 6)
        assert excess == pytest.approx(peer.Kurtosis()(t, m, e)[0], rel=1e-8)  # theirs is G_2


def test_noise_has_the_expected_stetson_indices(rng):
    n = 20_000
    error = rng.uniform(0.05, 0.3, n)
    made = light_curve_features(np.arange(n), error * rng.normal(size=n), magerr=error)
    assert made["stetson_k"][0] == pytest.approx(np.sqrt(2 / np.pi), abs=0.01)
    signs = rng.normal(size=10**6) ** 2 - 1  # of delta^2 - 1 for a Gaussian
    expected = np.mean(np.sign(signs) * np.sqrt(np.abs(signs)))
    assert made["stetson_j"][0] == pytest.approx(expected, abs=0.02)


def test_input_of_any_kind_gives_the_same(rng):
    time, mag, magerr = ragged(rng, (40, 25))
    expected = light_curve_features(time, mag, magerr=magerr)
    offsets = np.array([0, 40, 65])
    shuffled = np.concatenate([rng.permutation(40), 40 + rng.permutation(25)])
    flat = [np.concatenate(x)[shuffled] for x in (time, mag, magerr)]
    made = light_curve_features(flat[0].astype(">f8"), flat[1], offsets, magerr=flat[2])
    for name in expected.colnames:
        np.testing.assert_allclose(made[name], expected[name], rtol=1e-10)
    single = light_curve_features(time[1], mag[1], magerr=magerr[1], threads=1)
    for name in expected.colnames:
        np.testing.assert_array_equal(single[name][0], expected[name][1])


def test_points_that_are_not_finite_are_left_out(rng):
    time, mag, magerr = (x[0] for x in ragged(rng, (50,)))
    expected = light_curve_features(time[1:], mag[1:], magerr=magerr[1:])
    mag[0] = np.nan
    made = light_curve_features([time, time[:0]], [mag, mag[:0]], magerr=[magerr, magerr[:0]])
    for name in CURVE_FEATURES:
        assert made[name][0] == pytest.approx(expected[name][0], rel=1e-9)
        assert np.isnan(made[name][1])
    assert made.meta["flags"][0] & DROPPED
    assert made.meta["flags"][1] & EMPTY


def test_choice_of_features(rng):
    time, mag, magerr = ragged(rng, (60, 60))
    every = light_curve_features(time, mag, magerr=magerr, features="all")
    assert every.colnames == [*CURVE_FEATURES, *PERIOD_FEATURES]
    assert light_curve_features(time, mag).colnames == list(CURVE_FEATURES)
    periodic = light_curve_features(time, mag, magerr=magerr, features="periodic")
    assert periodic.colnames == list(PERIOD_FEATURES)
    some = light_curve_features(time, mag, magerr=magerr, features=["period", "skew"])
    assert some.colnames == ["period", "skew"]
    for name in some.colnames:
        np.testing.assert_array_equal(some[name], every[name])
        assert some[name].description
    assert light_curve_features(time, mag, features="std").colnames == ["std"]
    with pytest.raises(ValueError, match="`features` has the unknown name 'sdt'; it must be of"):
        light_curve_features(time, mag, features=["sdt"])
    with pytest.raises(TypeError, match="`features` holds 3, a int"):
        light_curve_features(time, mag, features=[3])


def test_zero_errors_give_no_stetson_indices():
    made = light_curve_features(np.arange(4), [1.0, 2, 3, 5], magerr=[0.1, 0, 0.1, 0.1])
    assert np.isnan(made["stetson_j"][0]) and np.isnan(made["stetson_k"][0])
    assert np.isfinite(made["std"][0])


# -------------------------------------------------------------------------------- on a GPU


@pytest.mark.parametrize("kind", ["pretended", "real"])
@pytest.mark.parametrize("with_errors", [True, False])
def test_curves_of_a_gpu(kind, with_errors, rng, monkeypatch):
    """The table is that of the CPU and lies there."""
    if kind == "pretended":
        cupy = pretend_cupy.install(monkeypatch)
    elif jit.cuda_available():
        cupy = pytest.importorskip("cupy")
    else:
        pytest.skip("no CUDA device: the same is run on pretended arrays")
    time, mag, magerr = ragged(rng, (40, 29, 12, 7, 2, 1, 0))
    mag[0][3] = np.nan
    errors = magerr if with_errors else None
    expected = light_curve_features(time, mag, magerr=errors, features="all")
    time, mag, magerr = ([cupy.asarray(x) for x in each] for each in (time, mag, magerr))
    errors = magerr if with_errors else None
    made = light_curve_features(time, mag, magerr=errors, features="all")
    np.testing.assert_array_equal(made.meta["flags"], expected.meta["flags"])
    for name in expected.colnames:
        np.testing.assert_allclose(made[name], expected[name], 1e-6, 1e-10, err_msg=name)
