"""Periods and periodograms against their twin, truth, astropy and real curves."""

import numpy as np
import pytest

from fastdiff.kernels.curve import harmonics, nufft
from fastdiff.lightcurves.curves import read_curves
from fastdiff.lightcurves.periods import period_features, periodograms
from tests.kernels.curve.inputs import eclipses, periodic, sawtooth, sinusoid
from tests.kernels.curve.reference import periodogram as reference


def batch(curves, magerr=True):
    time, mag, error = zip(*curves, strict=True)
    return read_curves(time, mag, None, error if magerr else None)


# -------------------------------------------------------------------------------- periodogram


@pytest.mark.parametrize(("n", "span"), [(8, 3), (50, 40), (300, 900), (2000, 30)])
@pytest.mark.parametrize("magerr", [True, False])
def test_powers_agree_with_direct_sums(rng, n, span, magerr):
    time = np.sort(rng.uniform(0, span, n))
    mag = 15 + sinusoid(time / 0.7) + rng.normal(0, 0.2, n)
    error = rng.uniform(0.01, 0.3, n)
    curves = read_curves(time, mag, None, error if magerr else None)
    [(frequency, power)] = periodograms(curves)
    some = slice(None, None, max(1, len(frequency) // 4000))
    expected = reference.power(curves.time, curves.mag, curves.magerr, frequency[some])
    error = np.abs(np.sqrt(power[some]) - np.sqrt(expected)).max()
    assert error < 2e-3 * np.sqrt(expected.max())


def test_agrees_with_astropy(rng):
    """Astropy's normalised periodogram without floating mean, where no phase is preferred."""
    from astropy.timeseries import LombScargle

    time = np.sort(rng.uniform(0, 200, 5000))
    mag = sinusoid(time / 1.234) + rng.normal(0, 0.1, 5000)
    [(frequency, power)] = periodograms(read_curves(time, mag))
    theirs = LombScargle(time - time[0], mag, fit_mean=False).power(frequency[20:])
    np.testing.assert_allclose(power[20:], theirs, atol=0.03)
    assert power[20:].argmax() == theirs.argmax()


def test_same_bits_whatever_the_batch_and_the_threads(rng):
    curves = [periodic(rng, sawtooth, 0.55, n, 300) for n in (80, 61, 120, 40, 99)]
    whole = period_features(batch(curves), threads=3)
    single = period_features(batch(curves[3:4]), threads=1)
    for name, values in period_features(batch(curves), threads=1).items():
        np.testing.assert_array_equal(whole[name], values)
        np.testing.assert_array_equal(whole[name][3:4], single[name])


# -------------------------------------------------------------------------------- fits


@pytest.mark.parametrize("n", [240, 2 * harmonics.CHUNK + 77])
def test_fits_agree_with_design_matrices(rng, n):
    time, mag, magerr = periodic(rng, sawtooth, 0.6137, n)
    curves = read_curves(time, mag, None, magerr)
    made = {name: float(values[0]) for name, values in period_features(curves).items()}
    order = int(made["harmonics"])

    def explained(factor, n_harmonics):
        frequency = factor / made["period"]
        return reference.fit(curves.time, curves.mag, curves.magerr, frequency, n_harmonics)

    solution, share = explained(1, order)
    assert made["explained"] == pytest.approx(share, abs=1e-3)  # the period is float32
    assert made["explained_sinusoid"] == pytest.approx(explained(1, 1)[1], abs=1e-3)
    assert made["explained_double"] == pytest.approx(explained(0.5, 8)[1], abs=1e-3)
    assert made["explained_half"] == pytest.approx(explained(2, 8)[1], abs=1e-3)
    series = reference.design(np.linspace(0, 1, 65)[:-1], 1, order) @ solution
    assert made["folded_amplitude"] == pytest.approx(np.ptp(series), rel=0.01)
    skew = np.mean((series - series.mean()) ** 3) / series.std() ** 3
    assert made["folded_skew"] == pytest.approx(skew, abs=0.03)
    solution, _ = explained(1, 4)
    amplitudes = [np.hypot(*solution[2 * h - 1 : 2 * h + 1]) for h in range(1, 5)]
    phases = [np.arctan2(-solution[2 * h], solution[2 * h - 1]) for h in range(1, 5)]
    for h in range(1, 5):
        assert made[f"harmonic_amplitude_{h}"] == pytest.approx(amplitudes[h - 1], rel=0.02)
        if h > 1:
            turn = made[f"phase_{h}1"] - (phases[h - 1] - h * phases[0])
            assert np.cos(turn) > 0.99
    for name, factor in (("roughness", 1), ("roughness_double", 2)):
        rough = reference.roughness(curves.time, curves.mag, 1 / made["period"] / factor)
        assert made[name] == pytest.approx(rough, rel=0.1)


def test_shapes_mean_what_they_say(rng):
    """Rise, minima and depths of curves without noise."""
    curves = [periodic(rng, shape, 0.7311, noise=1e-3) for shape in (sawtooth, sinusoid)]
    curves.append(periodic(rng, eclipses, 2.3217, 400, noise=1e-3))
    made = period_features(batch(curves))
    np.testing.assert_allclose(made["period"][:2], 0.7311, rtol=1e-5)
    assert made["rise_fraction"][0] == pytest.approx(1 / 6, abs=0.06)
    assert made["rise_fraction"][1] == pytest.approx(1 / 2, abs=0.03)
    assert made["harmonic_amplitude_1"][1] == pytest.approx(0.3, rel=0.01)
    assert made["folded_amplitude"][1] == pytest.approx(0.6, rel=0.03)
    assert made["roughness"][0] < 0.05
    ratio = made["period"][2] / 2.3217  # the eclipses differ: not half the orbital period
    assert ratio == pytest.approx(1, abs=1e-4)


# -------------------------------------------------------------------------------- truth


def test_peaks_between_frequencies_are_found_whole(rng):
    """Sinusoids without noise at, and between, the frequencies of the periodogram."""
    time = np.sort(rng.uniform(0, 100, 3000))
    time[[0, -1]] = 0, 100
    frequency = (500 + np.linspace(0, 1, 9)) / (nufft.OVERSAMPLING * 100)
    mag = [sinusoid(f * time) for f in frequency]
    made = period_features(read_curves([time] * len(mag), mag))
    np.testing.assert_allclose(100 / made["sinusoid_period"], 100 * frequency, atol=0.05)
    assert (made["sinusoid_power"] > 0.9).all()


def test_real_rr_lyrae_have_the_periods_of_templates(data_folder):
    """SDSS Stripe 82, 56 points in one band: Sesar et al. (2010) had five bands and templates."""
    from fastdiff.training import crts

    periods = crts.load_sdss_periods(data_folder)
    for band in "gri":
        d = crts.load_sdss_rrlyrae(data_folder, band)
        found = period_features(read_curves(d.time, d.mag, d.offsets, d.magerr))["period"]
        true = np.array([periods[number] for number in d.ids])
        right = np.abs(found / true - 1) < 0.01
        day = np.min([np.abs(np.abs(1 / true + k) * found - 1) for k in (-2, -1, 1, 2)], 0) < 0.01
        assert right.mean() > 0.88
        assert (right | day).mean() > 0.96


@pytest.mark.parametrize(
    ("shape", "low", "high", "multiples", "least"),
    [
        (sinusoid, 0.25, 0.45, (1,), 0.95),
        (sawtooth, 0.45, 0.9, (1,), 0.95),
        (sinusoid, 80, 400, (1,), 0.95),
        (eclipses, 0.5, 4, (1, 2), 0.85),
    ],
)
def test_finds_true_periods(rng, shape, low, high, multiples, least):
    truth = np.exp(rng.uniform(np.log(low), np.log(high), 40))
    curves = batch([periodic(rng, shape, period) for period in truth])
    for with_errors in (curves, read_curves(curves.time, curves.mag, curves.offsets)):
        found = period_features(with_errors)["period"]
        right = [np.abs(2000 / found - m * 2000 / truth) < 0.5 for m in multiples]
        assert np.any(right, axis=0).mean() >= least


def test_noise_is_not_significant(rng):
    curves = [periodic(rng, np.zeros_like, 1.0, 100, 50) for _ in range(100)]
    significance = period_features(batch(curves))["period_significance"]
    assert np.mean(significance > 1) < 0.2
    assert (significance < 4).all()
    real = period_features(batch([periodic(rng, sinusoid, 0.6, 100, 50)]))["period_significance"]
    assert real[0] > 10


def test_labelled_curves_have_the_periods_of_their_classes(data_folder):
    """CRTS: what Drake et al. (2014) say of their classes, though their periods are not here."""
    data = dict(np.load(data_folder / "crts" / "crts_train.npz", allow_pickle=True))
    ranges = {"RRab": (0.38, 1.0), "RRc": (0.2, 0.5), "LPV": (50, 800), "EW": (0.1, 0.6)}
    for label, (low, high) in ranges.items():
        chosen = np.flatnonzero(data["label"] == label)[::12]
        parts = [slice(*data["offsets"][i : i + 2]) for i in chosen]
        good = [data["t"][part] > 50_000 for part in parts]
        time, mag, error = (
            [data[name][part][keep] for part, keep in zip(parts, good, strict=True)]
            for name in ("t", "mag", "magerr")
        )
        period = period_features(read_curves(time, mag, None, error))["period"]
        assert np.mean((period > low) & (period < high)) > 0.75, label


# -------------------------------------------------------------------------------- bad input


def test_what_has_no_period_is_nan(rng):
    time = np.sort(rng.uniform(0, 50, 30))
    curves = read_curves(
        [[], [1.0], np.zeros(30), time, time[:5], time, [0.0, 1e-3] * 5],
        [[], [15.0], time, np.full(30, 15.0), time[:5], sinusoid(time / 3), np.arange(10.0)],
    )
    made = period_features(curves)
    for name, values in made.items():
        assert np.isnan(np.delete(values, 5)).all(), name
    assert made["period"][5] == pytest.approx(3, rel=1e-3)
    assert [len(frequency) for frequency, _ in periodograms(curves)][:3] == [0, 0, 0]
    empty = period_features(read_curves([], []))
    assert all(values.shape == (0,) for values in empty.values())


def test_few_points_and_zero_errors_stay_finite(rng):
    curves = [periodic(rng, sinusoid, 3.3, n, 100) for n in (6, 7, 12, 20)]
    curves = [(t, m, np.zeros_like(e)) for t, m, e in curves]
    made = period_features(batch(curves))
    assert np.isfinite(made["period"]).all()
    assert ((made["explained"] > 0) & (made["explained"] <= 1 + 1e-6)).all()


# -------------------------------------------------------------------------------- on a GPU


@pytest.mark.parametrize("magerr", [True, False])
def test_periodograms_on_a_gpu(cupy, rng, magerr):
    curves = [periodic(rng, sinusoid, 0.7, n, 60) for n in (50, 5, 0, 200)]
    time, mag, error = ([*each, each[0]] for each in zip(*curves, strict=True))
    mag[4] = np.full(50, 15.0)
    expected = periodograms(read_curves(time, mag, None, error if magerr else None))
    time, mag, error = ([cupy.asarray(x) for x in each] for each in (time, mag, error))
    made = periodograms(read_curves(time, mag, None, error if magerr else None))
    for (frequency, power), (other, wanted) in zip(made, expected, strict=True):
        assert isinstance(power, cupy.ndarray) and power.dtype == wanted.dtype
        np.testing.assert_array_equal(frequency, other)
        if len(wanted):
            error = np.abs(np.sqrt(power.get()) - np.sqrt(wanted)).max()
            assert error < 2e-3 * np.sqrt(wanted.max()) or np.isnan(wanted).all()
            assert np.isnan(power.get()).all() == np.isnan(wanted).all()


def test_periods_of_curves_on_a_gpu_are_found_on_the_cpu(cupy, rng):
    curves = batch([periodic(rng, sawtooth, 0.55, n, 300) for n in (80, 120)])
    there = read_curves(
        *map(cupy.asarray, (curves.time, curves.mag, curves.offsets, curves.magerr))
    )
    expected = period_features(curves)
    for name, values in period_features(there).items():
        np.testing.assert_array_equal(values, expected[name])
