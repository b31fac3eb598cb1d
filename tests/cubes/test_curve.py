"""Light curves of apertures: against direct fits, on noise, with gaps, events and wild values."""

import warnings

import numpy as np
import pytest

from fastdiff import simulate
from fastdiff.cubes import series
from fastdiff.cubes.cpm import cpm_subtract
from fastdiff.cubes.series import point_scatter
from tests.cubes.fast_cadence import PLACE, fast_cadence
from tests.kernels.cube.reference import ridge

RULE = {"exclusion": (2, 4.0), "n_predictors": 40}


@pytest.fixture(scope="module")
def fast():
    """A star of 11 x 11 pixels at a fast cadence: photon noise, and a slow drift over pixels."""
    return fast_cadence(5000, seed=1)


@pytest.fixture(scope="module")
def moving():
    """Stars that jump at every epoch, as the paper has them."""
    return simulate.cubes(300, (20, 21), seed=2, noise=1e-3)


def quiet(function, *args, **options):
    """The result of a call that warns of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return function(*args, **options)


@pytest.mark.parametrize("holdout", [None, 5])
@pytest.mark.parametrize("smooth", [1, 3])
def test_equal_to_a_direct_fit_of_the_sum(moving, holdout, smooth):
    cube = moving.cube
    y, x = 9, 10
    result = cpm_subtract(cube, holdout=holdout, ridge=1e-2, smooth=smooth, **RULE)
    flux = result.light_curve(y, x, 3)["flux"]
    rows, columns = np.indices((20, 21))
    away_y = np.abs(rows[..., None] - np.arange(y - 1, y + 2)).min(-1)
    away_x = np.abs(columns[..., None] - np.arange(x - 1, x + 2)).min(-1)
    allowed = (away_y > 2) & (away_x > 2) & (np.hypot(away_y, away_x) >= 4)
    places = np.argwhere(allowed)
    places = places[np.argsort(((places - (y, x)) ** 2).sum(1), kind="stable")][:40]
    chosen = cube[:, places[:, 0], places[:, 1]]
    means = [chosen[max(t - smooth // 2, 0) : t + smooth // 2 + 1].mean(0) for t in range(300)]
    wanted = cube[:, 8:11, 9:12].sum((1, 2))
    design = np.array(means).T
    design -= design.mean(1, keepdims=True)
    folds = [(60 * i, 60 * i + 60, 60 * i, 60 * i + 60) for i in range(5)]
    predicted = ridge.predict(
        design, wanted - wanted.mean(), np.ones(300), np.full(40, 1e-2), folds if holdout else ()
    )
    np.testing.assert_allclose(flux, wanted - wanted.mean() - predicted, atol=1e-7 * wanted.mean())


def test_noise_is_not_added_where_it_dominates(fast):
    """The default, by what was measured: no noisier than the raw curve, and closer to the truth."""
    result = cpm_subtract(fast.cube)
    table = quiet(result.light_curve, *PLACE, 3)
    assert table.meta["scatter"] < 1.02 * table.meta["scatter_raw"]
    assert table.meta["smooth"] > 1
    left, raw = (np.asarray(table[name]) - np.median(table[name]) for name in ("flux", "raw"))
    expected = np.sqrt(fast.variance[:, 4:7, 4:7].sum((1, 2)).mean())
    assert np.std(left) < 1.1 * expected < 0.5 * np.std(raw)
    with pytest.warns(UserWarning, match="the corrected curve scatters more than the raw"):
        plain = cpm_subtract(fast.cube, smooth=1).light_curve(*PLACE, 3, fit="pixels")
    assert plain.meta["scatter"] > 1.3 * plain.meta["scatter_raw"]
    assert "scatters" in plain.meta["notes"][0]


def test_nothing_is_corrected_where_nothing_is_common():
    rng = np.random.default_rng(0)
    cube = 100 + rng.normal(0, 1, (1200, 11, 11))
    table = quiet(cpm_subtract(cube).light_curve, 5, 5, 3)
    assert table.meta["ridge"] == np.inf
    raw = cube[:, 4:7, 4:7].sum((1, 2))
    np.testing.assert_allclose(table["flux"], raw - raw.mean(), atol=1e-9)
    np.testing.assert_allclose(table["flux_err"], 3, rtol=0.1)


def test_errors_are_the_scatter_about_the_truth(fast, moving):
    """Pulls of the difference against what is known to vary, of single epochs and of means."""
    table = cpm_subtract(fast.cube).light_curve(*PLACE, 3)
    rest = np.asarray(table["flux"] - np.median(table["flux"]))
    assert 0.95 < np.std(rest / table["flux_err"]) < 1.15
    table = cpm_subtract(fast.cube).light_curve(*PLACE, 3, bin=100)
    rest = np.asarray(table["flux"] - np.median(table["flux"]))
    steps = np.diff(rest) / np.sqrt(2)  # what is slower than a row is not in its error
    assert 0.8 < np.std(steps / table["flux_err"][1:]) < 1.25
    pulls = []
    result = cpm_subtract(moving.cube, **RULE)
    for y, x in [(5, 5), (10, 10), (14, 5), (14, 15), (16, 10)]:  # which do not vary
        table = result.light_curve(y, x, 3)
        truth = moving.signal[:, y - 1 : y + 2, x - 1 : x + 2].sum((1, 2))
        rest = table["flux"] - (truth - truth.mean())
        pulls.append(np.asarray((rest - rest.mean()) / table["flux_err"]))
    assert 0.95 < np.std(pulls) < 1.15


def test_variances_give_errors_their_shape():
    """Predictors are shared by the pixels of an aperture: their noise is in its error."""
    rng = np.random.default_rng(4)
    common = rng.normal(0, 1, 800)
    variance = np.where(np.arange(800) < 400, 0.01, 0.04)[:, None, None] * np.ones((9, 9))
    cube = common[:, None, None] * np.ones((9, 9)) + rng.normal(0, 1, (800, 9, 9)) * variance**0.5
    result = cpm_subtract(cube, variance=variance, ridge=1e-3, n_predictors=4, exclusion=(-1, 3))
    table = result.light_curve(4, 4, 3)
    pulls = np.asarray(table["flux"] / table["flux_err"])
    for half in (pulls[:400], pulls[400:]):
        assert 0.9 < np.std(half) < 1.15
    # Nine pixels of their own noise, and nine times the noise of the mean of four.
    assert np.mean(table["flux_err"][:400]) == pytest.approx(0.1 * np.sqrt(9 + 81 / 4), rel=0.1)
    assert table.meta["error_scale"] == pytest.approx(1, abs=0.1)


def test_an_event_is_kept(moving):
    """A star that varies, where what is common dominates: the same as of the image."""
    row = moving.events[0]
    y, x = round(row["y"]), round(row["x"])
    flux = cpm_subtract(moving.cube, **RULE).light_curve(y, x, 3)["flux"]
    truth = moving.signal[:, y - 1 : y + 2, x - 1 : x + 2].sum((1, 2), dtype=float)
    truth -= truth.mean()
    assert flux @ truth / (truth @ truth) == pytest.approx(1, abs=0.03)


def test_slow_events_are_protected(fast):
    """A bump of half of the time, fitted away in part, and kept when fits do not see it."""
    t = np.arange(5000)
    bump = 0.03 * np.exp(-0.5 * ((t - 2200) / 700) ** 2)
    shape = fast.star / fast.star.sum()
    total = np.median(fast.cube[:, 4:7, 4:7].sum((1, 2)))
    cube = fast.cube + bump[:, None, None] * total * shape
    truth = bump * total * shape[4:7, 4:7].sum()
    truth -= truth.mean()
    kept = {}
    for protect in (0, 501):
        with_it, without = (
            np.asarray(cpm_subtract(each).light_curve(*PLACE, 3, protect=protect)["flux"])
            for each in (cube, fast.cube)
        )
        kept[protect] = (with_it - without) @ truth / (truth @ truth)
    assert kept[501] == pytest.approx(1, abs=0.12)
    assert kept[0] < kept[501] - 0.1


@pytest.mark.parametrize("fit", ["aperture", "pixels"])
def test_epochs_without_any_pixel_are_nan(moving, fit):
    cube = moving.cube.copy()
    cube[40, 8:11, 9:12] = np.nan
    cube[50, 8, 9] = np.nan
    cube[:, 8, 10] = np.nan
    mask = np.zeros(len(cube), bool)
    mask[60:63] = True
    result = cpm_subtract(cube, mask=mask, ridge=1e-3, **RULE)
    table = result.light_curve(9, 10, 3, fit=fit)
    none = np.zeros(300, bool)
    none[[40, 60, 61, 62]] = True
    for name in ("flux", "flux_err", "raw"):
        np.testing.assert_array_equal(np.isnan(table[name]), none)
    assert table["n_bad"][[40, 50, 51, 60]].tolist() == [9, 2, 1, 9]
    assert (table["flux_err"][~none] > 0).all()
    assert abs(table["flux"][50]) < 20 * table["flux_err"][50]
    means = result.light_curve(9, 10, 3, fit=fit, bin=3)
    assert np.isnan(means["flux"][20])
    assert means["n_epochs"][[13, 20, 21]].tolist() == [2, 0, 3]
    assert np.isfinite(means["flux_err"][13])


@pytest.mark.parametrize("fit", ["aperture", "pixels"])
def test_an_aperture_without_a_value_is_nan(moving, fit):
    cube = moving.cube.copy()
    cube[:, :5, :5] = np.nan
    table = cpm_subtract(cube, ridge=1e-3, **RULE).light_curve(2, 2, 3, fit=fit)
    for name in ("flux", "flux_err", "raw"):
        assert np.isnan(table[name]).all()
    assert (table["n_bad"] == 9).all()


def test_rays_and_wild_epochs_neither_bend_nor_ring(moving, monkeypatch):
    """What hits predictors, the star and whole epochs changes the curve at those epochs alone."""
    clean = cpm_subtract(moving.cube, **RULE)
    expected = np.asarray(clean.light_curve(9, 10, 3)["flux"])
    rng = np.random.default_rng(3)
    cube = moving.cube.copy()
    when = rng.choice(np.r_[5:140, 160:190, 210:290], 20, replace=False)
    hit = rng.integers(0, 7, 20), rng.integers(0, 21, 20)
    cube[when, *hit] += rng.uniform(3, 30, 20)
    cube[150, 9, 10] += 20
    cube[200] += rng.normal(0, 5, cube.shape[1:])
    result = cpm_subtract(cube, **RULE)
    quiet_epochs = np.ones(300, bool)
    quiet_epochs[[*when, 150, 200]] = False
    change = np.abs(result.image - clean.image) / clean.rms
    assert np.median(change[quiet_epochs]) < 0.1
    assert np.quantile(change[quiet_epochs], 0.99) < 1.5
    assert np.median(change[when]) < 1
    assert result.image[150, 9, 10] == pytest.approx(20, rel=0.05)
    assert result.meta["n_common"] == 1
    assert 18 <= result.meta["n_spikes"] <= 22
    flux = np.asarray(result.light_curve(9, 10, 3)["flux"])
    change = np.abs(flux - expected) / point_scatter(expected)
    assert np.median(change[quiet_epochs]) < 0.1
    assert np.median(change[when]) < 3
    assert flux[150] - expected[150] == pytest.approx(20, rel=0.05)
    monkeypatch.setattr(series, "SPIKE", np.inf)
    bent = np.abs(cpm_subtract(cube, **RULE).image - clean.image) / clean.rms
    assert np.quantile(bent[quiet_epochs], 0.99) > 4


def test_wrong_arguments(moving):
    result = cpm_subtract(moving.cube, ridge=1e-3, **RULE)
    with pytest.raises(ValueError, match="fit is 'sum'; it must be one of 'aperture', 'pixels'"):
        result.light_curve(5, 5, fit="sum")
    with pytest.raises(ValueError, match="protect is for fit='aperture'"):
        result.light_curve(5, 5, fit="pixels", protect=10)
    with pytest.raises(ValueError, match="bin is 0; it must be at least 1"):
        result.light_curve(5, 5, bin=0)
    with pytest.raises(ValueError, match="smooth is 4; it must be an odd number of epochs"):
        cpm_subtract(moving.cube, smooth=4)
    with pytest.raises(ValueError, match="smooth is 'best'"):
        cpm_subtract(moving.cube, smooth="best")


@pytest.mark.parametrize("rule", ["brightness", "cosine", "random"])
def test_other_predictors_of_an_aperture(moving, rule):
    table = cpm_subtract(moving.cube, predictors=rule, **RULE).light_curve(9, 10, 3)
    assert table.meta["n_predictors"] == 40
    assert table.meta["scatter"] < 0.3 * table.meta["scatter_raw"]


def test_a_window_about_each_epoch(moving):
    folds, window = (
        cpm_subtract(moving.cube, holdout=how, **RULE).light_curve(9, 10, 3)["flux"]
        for how in (10, ("window", 15))
    )
    assert np.std(window) == pytest.approx(np.std(folds), rel=0.1)


def test_fields_without_a_predictor_are_not_corrected():
    cube = 50 + np.random.default_rng(1).normal(0, 1, (400, 4, 6))
    table = cpm_subtract(cube).light_curve(2, 3, 5)
    assert table.meta["n_predictors"] == 0
    assert "no pixel predicts this aperture" in table.meta["notes"][0]
    np.testing.assert_allclose(table["flux"], table["raw"] - table["raw"].mean(), atol=1e-9)
