"""CPM difference imaging: against direct fits, what it keeps of events, and bad input."""

from types import SimpleNamespace

import numpy as np
import pytest

from fastdiff.core import arrays
from fastdiff.cubes import gpu as cpm_batched
from fastdiff.cubes import plan as cpm_plan
from fastdiff.cubes import tile as cpm_tile
from fastdiff.cubes.cpm import cpm_subtract
from tests import pretend_cupy
from tests.cubes.reference import cpm as reference
from tests.kernels.cube.reference import ridge as fits

NOISE = 1e-3


def field(shape=(24, 26), n=160, seed=3, n_stars=60, fwhm=2.2, amplitude=0.0):
    """(cube, what the variable star adds, its (y, x)): stars that wander over the pixels."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    y, x = rng.uniform(-4, ny + 4, n_stars), rng.uniform(-4, nx + 4, n_stars)
    flux = 10 ** rng.uniform(-1, 1, n_stars)
    y[0], x[0], flux[0] = ny / 2, nx / 2, 3.0
    dy, dx = rng.uniform(-0.3, 0.3, (2, n))
    s = fwhm / 2.3548
    row = np.exp(-0.5 * ((np.arange(ny)[:, None] - y - dy[:, None, None]) / s) ** 2)
    column = np.exp(-0.5 * ((np.arange(nx)[:, None] - x - dx[:, None, None]) / s) ** 2)
    cube = np.einsum("tys,txs,s->tyx", row, column, flux)
    signal = amplitude * flux[0] * np.sin(2 * np.pi * np.arange(n) / 23.0)
    added = signal[:, None, None] * row[:, :, None, 0] * column[:, None, :, 0]
    flat = rng.normal(1, 0.01, shape)
    cube = (cube + added) * flat + rng.normal(0, NOISE, cube.shape)
    return cube, added, (ny // 2, nx // 2)


RULE = {"exclusion": (3, 5.0), "n_predictors": 60}


@pytest.fixture(scope="module")
def quiet():
    return field()[0]


FOLDS = [(16 * i, 16 * (i + 1), 16 * i, 16 * (i + 1)) for i in range(10)]


@pytest.mark.parametrize(
    ("holdout", "blocks"),
    [
        (None, ()),
        (10, FOLDS),
        (("window", 6), [(max(t - 6, 0), min(t + 7, 160), t, t + 1) for t in range(160)]),
    ],
)
def test_equal_to_fits_without_shortcuts(quiet, holdout, blocks):
    result = cpm_subtract(quiet, holdout=holdout, ridge=1e-3, **RULE)
    assert result.ridge == 1e-3
    for y, x in [(12, 13), (0, 0), (23, 4)]:
        expected, places = reference.predict(quiet, y, x, 1e-3, blocks)
        np.testing.assert_allclose(
            result.prediction[:, y, x], expected, atol=1e-7 * np.abs(quiet[:, y, x]).max()
        )
        assert result.n_predictors[y, x] == len(places)
    np.testing.assert_allclose(result.image + result.prediction, quiet, atol=1e-12)
    np.testing.assert_allclose(result.rms, np.sqrt((result.image**2).mean(0)))
    assert not result.mask.any()


SMALL = {"exclusion": (2, 3.0), "n_predictors": 30}
SMALL_RULE = {"rows": 2, "distance": 3.0, "n_predictors": 30}
SMALL_FOLDS = [(18 * i, 18 * (i + 1), 18 * i, 18 * (i + 1)) for i in range(5)]


@pytest.fixture(scope="module")
def small():
    """16 x 18 pixels of which some are bad at some epochs, and one at all."""
    cube = field((16, 18), n=90, n_stars=30)[0]
    cube[30:40, 5, 5] = np.nan
    cube[:50, 12, 3] = np.nan
    cube[0, 3, 2], cube[-1, 3, 3] = np.inf, np.nan
    cube[:, 8, 8] = np.nan
    return cube


@pytest.mark.parametrize("change", ["", "weights", "variance", "order"])
def test_whole_cube_equals_a_solve_for_each_pixel(small, change):
    """All pixels, with bad ones, weights, variances and polynomials."""
    options, rule = {}, dict(SMALL_RULE)
    if change == "weights":
        options["weights"] = np.where(np.arange(90) % 11 == 7, 0.0, 1.0 + np.arange(90) % 3)
        options["mask"] = np.zeros(small.shape, bool)
        options["mask"][20, 10:12] = True
    elif change == "variance":
        options["variance"] = np.random.default_rng(1).uniform(0.5, 3, small.shape)
    elif change == "order":
        rule["order"] = 2
    expected = reference.subtract(small, 1e-3, SMALL_FOLDS, **options, **rule)
    order = rule.get("order", 0)
    made = cpm_subtract(small, holdout=5, ridge=1e-3, time_order=order, **SMALL, **options)
    scale = small[np.isfinite(small)].max()
    np.testing.assert_allclose(made.image, expected, atol=1e-7 * scale)


@pytest.mark.parametrize("n", [25, 90])
@pytest.mark.parametrize("holdout", [None, 5, ("window", 4)])
@pytest.mark.parametrize("order", [0, 2])
def test_every_way_to_solve_is_the_same(small, monkeypatch, n, holdout, order):
    """Of predictors, of epochs, shared by neighbours or not: costs differ, results do not."""
    cube = small[:n]
    weights = np.where(np.arange(n) % 11 == 7, 0.0, 1.0 + np.arange(n) % 3)
    options = SMALL | {"weights": weights, "holdout": holdout, "ridge": 1e-3, "time_order": order}
    images = []
    for few, share in [(False, False), (True, False), (False, True), (True, True)]:
        monkeypatch.setattr(cpm_tile.CubeTile, "few_epochs", few)
        monkeypatch.setattr(cpm_tile, "_SHARED", 0.0 if share else np.inf)
        images.append(cpm_subtract(cube, **options).image)
    for image in images[1:]:
        np.testing.assert_allclose(image, images[0], atol=1e-9 * cube[np.isfinite(cube)].max())


def test_few_epochs(quiet):
    """Fewer than predictors: the fit is exact, stable, and predicts."""
    cube = quiet[:40]
    folds = [(8 * i, 8 * (i + 1), 8 * i, 8 * (i + 1)) for i in range(5)]
    for strength in (1e-3, 1e-6):
        result = cpm_subtract(cube, holdout=5, ridge=strength, **RULE)
        expected, _ = reference.predict(cube, 12, 13, strength, folds)
        np.testing.assert_allclose(result.prediction[:, 12, 13], expected, atol=1e-7)
    assert np.median(result.rms) < 0.1 * np.median(cube.std(0))


def test_polynomials_of_time_are_not_penalised(quiet):
    """A trend of a pixel of its own is predicted, whatever the penalty."""
    cube = quiet.copy()
    t = np.linspace(-1, 1, len(cube))
    cube[:, 12, 13] += 5 * t + 3 * t**2
    result = cpm_subtract(cube, time_order=2, ridge=0.5, **RULE)
    expected, _ = reference.predict(cube, 12, 13, 0.5, FOLDS, order=2)
    np.testing.assert_allclose(result.prediction[:, 12, 13], expected, atol=1e-7)
    assert result.rms[12, 13] < 0.3 * cpm_subtract(cube, ridge=0.5, **RULE).rms[12, 13]


def test_an_event_survives_the_hold_out_only():
    """Section 3.2: the light curve of a variable star; a fit that sees it fits it away."""
    cube, added, (y, x) = field(n=300, amplitude=0.05)
    rule = RULE | {"n_predictors": 100}
    truth = added[:, y - 1 : y + 2, x - 1 : x + 2].sum((1, 2))
    kept = {}
    for holdout in (None, 10):
        result = cpm_subtract(cube, holdout=holdout, **rule)
        flux = result.light_curve(y, x, 3, fit="pixels")["flux"]
        kept[holdout] = (flux - flux.mean()) @ truth / (truth @ truth)
        brightest = np.unravel_index(np.argmax(result.variability), result.variability.shape)
        assert np.hypot(brightest[0] - y, brightest[1] - x) <= 1.5
    assert kept[10] == pytest.approx(1, abs=0.05)
    assert kept[None] < kept[10] - 0.05


@pytest.mark.parametrize("how", ["gcv", "loo", "cv"])
@pytest.mark.parametrize("per", ["image", "pixel"])
def test_chosen_ridge_predicts_as_well_as_any(quiet, how, per):
    result = cpm_subtract(quiet, ridge=how, ridge_per=per, **RULE)
    assert (result.ridge.shape == (24, 26)) if per == "pixel" else (result.ridge > 0)
    others = [np.median(cpm_subtract(quiet, ridge=10.0**k, **RULE).rms) for k in range(-6, 3)]
    assert np.median(result.rms) < 1.05 * min(others)


def test_freedom_leverage_and_coefficients(quiet):
    result = cpm_subtract(quiet, ridge=1e-2, coefficients=True, leverage=True, **RULE)
    places, values = result.coefficients[12, 13]
    _, by_rule = reference.predict(quiet, 12, 13, 1e-2)
    assert sorted(map(tuple, places)) == sorted(map(tuple, by_rule))
    design = np.concatenate([quiet[:, places[:, 0], places[:, 1]].T, np.ones((1, len(quiet)))])
    penalties = np.r_[np.full(60, 1e-2), 0]
    expected = fits.coefficients(design, quiet[:, 12, 13], np.ones(160), penalties)
    np.testing.assert_allclose(values, expected[:-1], atol=1e-6)
    hat = fits.hat(design, np.ones(160), penalties)
    assert result.freedom[12, 13] == pytest.approx(np.trace(hat))
    np.testing.assert_allclose(result.leverage[:, 12, 13], np.diag(hat), rtol=1e-5)


def test_tiles_change_nothing(quiet, monkeypatch):
    whole = cpm_subtract(quiet, ridge=1e-3, **RULE)
    monkeypatch.setattr(cpm_plan, "_WHOLE", 10)
    monkeypatch.setattr(cpm_plan, "_TILE", 7)
    tiles = cpm_subtract(quiet, ridge=1e-3, **RULE)
    np.testing.assert_array_equal(tiles.n_predictors, whole.n_predictors)
    # at corners, where predictors lie beyond the halo, others of the same number are taken
    close = np.abs(tiles.image - whole.image).max(0) < 1e-7
    assert close[6:-6, 6:-6].all()
    assert np.median(tiles.rms) == pytest.approx(np.median(whole.rms), rel=0.02)


def test_strength_of_tiles_comes_from_all_of_the_cube(quiet, monkeypatch):
    """Also where the first tile has next to no light, which asks for next to no penalty."""
    cube = quiet.copy()
    cube[:, :8, :8] = np.random.default_rng(0).normal(0, 1e-6, (160, 8, 8))
    whole = cpm_subtract(cube, **RULE)
    monkeypatch.setattr(cpm_plan, "_WHOLE", 10)
    monkeypatch.setattr(cpm_plan, "_TILE", 7)
    tiles = cpm_subtract(cube, **RULE)
    assert 0.03 < tiles.ridge / whole.ridge < 30
    assert np.median(tiles.rms) < 1.03 * np.median(whole.rms)


@pytest.mark.parametrize("rule", ["brightness", "cosine", "random"])
def test_other_predictors(quiet, rule):
    result = cpm_subtract(quiet, predictors=rule, coefficients=True, ridge=1e-3, **RULE)
    y, x = 12, 13
    places, _ = result.coefficients[y, x]
    dy, dx = np.abs(places - (y, x)).T
    assert (dy > 3).all()
    assert (dx > 3).all()
    assert len(np.unique(places, axis=0)) == 60
    rows, columns = np.mgrid[:24, :26]
    allowed = (abs(rows - y) > 3) & (abs(columns - x) > 3)
    allowed &= (rows - y) ** 2 + (columns - x) ** 2 >= 25
    chosen = np.zeros((24, 26), bool)
    chosen[tuple(places.T)] = True
    if rule == "brightness":
        distance = np.abs(quiet.mean(0) - quiet[:, y, x].mean())
        assert distance[chosen].max() <= distance[allowed & ~chosen].min()
    elif rule == "cosine":
        unit = quiet / np.linalg.norm(quiet, axis=0)
        cosine = np.einsum("tyx,t->yx", unit, unit[:, y, x])
        assert cosine[chosen].min() >= cosine[allowed & ~chosen].max() - 1e-12
    else:
        again = cpm_subtract(quiet, predictors=rule, ridge=1e-3, **RULE)
        np.testing.assert_array_equal(again.image, result.image)
        other = cpm_subtract(quiet, predictors=rule, ridge=1e-3, seed=1, **RULE)
        assert (other.image != result.image).any()


# -------------------------------------------------------------------- bad pixels and weights


def test_bad_pixels_stay_where_they_are(quiet):
    """They are masked; what they predict and their own fit do without them."""
    cube = quiet.copy()
    cube[30:40, 5, 5] = np.nan
    cube[:, 8, 8] = np.nan
    mask = np.zeros(cube.shape, bool)
    mask[70, 12, 13] = True
    cube[70, 12, 13] += 1e6
    result = cpm_subtract(cube, mask=mask, ridge=1e-3, **RULE)
    np.testing.assert_array_equal(result.mask, np.isnan(cube) | mask)
    assert np.isnan(result.image[result.mask]).all()
    assert np.isnan(result.rms[8, 8])
    assert result.n_predictors[8, 8] == 0
    usable = np.ones((24, 26), bool)
    usable[8, 8] = False
    weights = np.ones(160)
    weights[70] = 0
    filled = np.where(np.isnan(cube), 0, cube)
    filled[30:40, 5, 5] = np.interp(np.arange(30, 40), [29, 40], cube[[29, 40], 5, 5])
    expected, _ = reference.predict(filled, 12, 13, 1e-3, FOLDS, weights, usable)
    np.testing.assert_allclose(np.delete(result.prediction[:, 12, 13], 70),
                               np.delete(expected, 70), atol=1e-7)  # fmt: skip
    untouched = cpm_subtract(quiet, ridge=1e-3, **RULE)
    assert np.nanmedian(np.abs(result.rms / untouched.rms - 1)) < 0.02


def test_epochs_without_weight_are_predicted(quiet):
    weights = np.ones(160)
    weights[40:60] = 0
    cube = quiet.copy()
    cube[40:60] += np.random.default_rng(0).normal(0, 5, (20, 24, 26))
    result = cpm_subtract(cube, weights=weights, ridge=1e-3, **RULE)
    expected, _ = reference.predict(cube, 12, 13, 1e-3, FOLDS, weights)
    np.testing.assert_allclose(result.prediction[:, 12, 13], expected, atol=1e-6)
    masked = cpm_subtract(cube, mask=weights == 0, ridge=1e-3, **RULE)
    assert masked.mask[40:60].all()
    np.testing.assert_allclose(masked.image[:40], result.image[:40], atol=1e-9)


def test_variances_weigh_each_pixel_by_itself(quiet):
    variance = np.random.default_rng(1).uniform(0.5, 3, quiet.shape) * NOISE**2
    result = cpm_subtract(quiet, variance=variance, ridge=1e3, **RULE)
    expected, _ = reference.predict(quiet, 12, 13, 1e3, FOLDS, 1 / variance[:, 12, 13])
    np.testing.assert_allclose(result.prediction[:, 12, 13], expected, atol=1e-7)
    chosen = cpm_subtract(quiet, variance=variance, **RULE)
    assert np.median(chosen.rms) < 1.05 * np.median(result.rms)
    np.testing.assert_allclose(chosen.expected_rms, np.sqrt(variance.mean(0)))
    # In-sample noise is a little less, the prediction's own a little more.
    assert np.median(chosen.rms / chosen.expected_rms) == pytest.approx(1, abs=0.35)
    assert cpm_subtract(quiet, ridge=1e-3, **RULE).expected_rms is None
    # photon noise alone: the deviations are those of a unit normal, sqrt(2 / pi)
    assert np.median(chosen.variability) == pytest.approx(0.8, abs=0.35)


def test_variables_are_left_out_as_predictors():
    cube, _, (y, x) = field(amplitude=0.3)
    given = np.zeros(cube.shape[1:], bool)
    given[y, x] = True
    result = cpm_subtract(cube, exclude=given, coefficients=True, ridge=1e-3, **RULE)
    assert result.n_predictors[y, x] > 0  # it is predicted itself
    assert not any(((places == (y, x)).all(1)).any() for places, _ in result.coefficients.values())
    twice = cpm_subtract(cube, exclude_variable=9, ridge=1e-3, **RULE)
    assert twice.meta["excluded"].sum() == 9
    assert twice.meta["excluded"][y, x]
    once = cpm_subtract(cube, ridge=1e-3, **RULE)
    assert np.median(twice.rms) < np.median(once.rms)


def test_fields_too_small_for_the_rule():
    """The paper's rule leaves no predictor in 10 x 11 pixels: it is lowered, and says so."""
    cube = field((10, 11), n=200)[0]
    result = cpm_subtract(cube)
    rows, distance = result.meta["exclusion"]
    assert rows < 10
    assert distance < 16
    assert (result.n_predictors > 0).all()
    assert np.median(result.rms) < 0.3 * np.median(cube.std(0))


@pytest.mark.parametrize("change", ["constant", "duplicates", "few epochs"])
@pytest.mark.parametrize("strength", [0, "gcv"])
def test_singular_designs_have_finite_answers(quiet, change, strength):
    cube = quiet.copy()
    if change == "constant":
        cube[:, :, 5:12] = 7.0
    elif change == "duplicates":
        cube[1::2] = cube[::2]
    else:
        cube = cube[:25]
    result = cpm_subtract(cube, ridge=strength, holdout=5, **RULE)
    assert np.isfinite(result.image).all()
    assert result.rms.max() < 3 * cube.std(0).max()


@pytest.mark.parametrize("dtype", ["f4", ">f4", ">f8", "i4", "u2"])
def test_dtypes(quiet, dtype):
    cube = (1e4 * (quiet + 1)).astype(dtype)
    cube.flags.writeable = False
    result = cpm_subtract(cube, ridge=1.0, **RULE)
    expected = cpm_subtract(cube.astype(float), ridge=1.0, **RULE)
    np.testing.assert_allclose(result.image, expected.image, atol=0.05)


@pytest.mark.parametrize("dtype", ["f8", ">f8", ">f4"])
def test_a_memory_map(quiet, tmp_path, dtype):
    np.save(tmp_path / "cube.npy", quiet.astype(dtype))
    mapped = np.load(tmp_path / "cube.npy", mmap_mode="r")
    assert mapped.dtype == dtype
    result = cpm_subtract(mapped, ridge=1e-3, **RULE)
    assert np.shares_memory(result._cube, mapped)  # which need not fit into the memory
    native = quiet.astype(dtype).astype(dtype[-2:])
    np.testing.assert_array_equal(result.image, cpm_subtract(native, ridge=1e-3, **RULE).image)


@pytest.mark.parametrize("strength", ["gcv", 1e-3])
def test_interrupted_work_goes_on(quiet, tmp_path, monkeypatch, strength):
    monkeypatch.setattr(cpm_plan, "_WHOLE", 10)
    monkeypatch.setattr(cpm_plan, "_TILE", 8)
    options = RULE | {"ridge": strength}
    expected = cpm_subtract(quiet, **options)
    path = tmp_path / "done.npz"
    out = np.lib.format.open_memmap(tmp_path / "image.npy", "w+", np.float64, quiet.shape)

    def stop(done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cpm_subtract(quiet, out=out, checkpoint=path, progress=stop, **options)
    assert path.is_file()
    del out
    out = np.lib.format.open_memmap(tmp_path / "image.npy", "r+")
    with pytest.raises(ValueError, match="is of another cube or of other options"):
        cpm_subtract(quiet, out=out, checkpoint=path, **(options | {"holdout": 5}))
    for other in ({"weights": np.arange(160.0)}, {"mask": quiet[0] > 1}, {"exclude": quiet[0] > 1}):
        with pytest.raises(ValueError, match="is of another cube or of other options"):
            cpm_subtract(quiet, out=out, checkpoint=path, **options, **other)
    with pytest.raises(ValueError, match="is of another cube or of other options"):
        cpm_subtract(quiet + 1, out=out, checkpoint=path, **options)
    told = []
    monkeypatch.setattr(cpm_tile.CubeTile, "fit", spy(told))
    result = cpm_subtract(quiet, out=out, checkpoint=path, **options)
    assert len(told) < 12 * 0.6  # of 3 x 4 tiles
    np.testing.assert_array_equal(result.image, expected.image)
    np.testing.assert_array_equal(result.rms, expected.rms)
    np.testing.assert_array_equal(result.n_predictors, expected.n_predictors)
    assert result.ridge == expected.ridge
    assert [p.name for p in tmp_path.iterdir()] == ["image.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "image.npy"), expected.image)


def spy(told):
    fit = cpm_tile.CubeTile.fit
    return lambda *args: told.append(args) or fit(*args)


def test_broken_checkpoints_and_wrong_outputs(quiet, tmp_path):
    path = tmp_path / "done.npz"
    path.write_bytes(b"torn")
    out = np.lib.format.open_memmap(tmp_path / "image.npy", "w+", np.float32, quiet.shape)
    with pytest.raises(ValueError, match=r"cannot be read .* remove it to begin again"):
        cpm_subtract(quiet, out=out, checkpoint=path, **RULE)
    with pytest.raises(ValueError, match="a checkpoint needs a memory map `out`"):
        cpm_subtract(quiet, checkpoint=path, **RULE)
    with pytest.raises(ValueError, match=r"`out` has shape \(3, 3\).*must be floats of shape"):
        cpm_subtract(quiet, out=np.zeros((3, 3)), **RULE)
    fixed = np.zeros(quiet.shape)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="`out` is read-only"):
        cpm_subtract(quiet, out=fixed, **RULE)
    mine = np.zeros(quiet.shape, np.float32)
    assert cpm_subtract(quiet, out=mine, ridge=1e-3, **RULE).image is mine


def test_threads_change_nothing_and_progress_is_told(quiet):
    told = []
    one = cpm_subtract(quiet, ridge=1e-3, threads=1, progress=lambda *a: told.append(a), **RULE)
    two = cpm_subtract(quiet, ridge=1e-3, threads=2, **RULE)
    np.testing.assert_array_equal(one.image, two.image)
    assert told[-1] == (24 * 26, 24 * 26)
    assert np.asarray(one) is not None
    assert repr(one).startswith("<CPMResult of 160 epochs of 24 x 26 pixels, median rms")


def test_light_curve(quiet):
    result = cpm_subtract(quiet, ridge=1e-3, **RULE)
    table = result.light_curve(5, 6, 5, fit="pixels")
    np.testing.assert_allclose(table["flux"], result.image[:, 3:8, 4:9].sum((1, 2)))
    np.testing.assert_allclose(table["raw"], quiet[:, 3:8, 4:9].sum((1, 2)))
    corner = result.light_curve(0, 0, 3, fit="pixels")
    np.testing.assert_allclose(corner["flux"], result.image[:, :2, :2].sum((1, 2)))
    with pytest.raises(ValueError, match="aperture is 2; it must be an odd number"):
        result.light_curve(5, 6, 2)
    with pytest.raises(ValueError, match=r"\(y, x\) is \(24, 6\); the cube has 24 x 26 pixels"):
        result.light_curve(24, 6)


def test_variables_are_peaks_of_the_map():
    cube, _, (y, x) = field(amplitude=0.05)
    result = cpm_subtract(cube, **RULE)
    table = result.variables()
    assert np.hypot(table["y"][0] - y, table["x"][0] - x) < 2
    assert (np.diff(table["variability"]) <= 0).all()
    assert (table["excess"] > 5).all()
    apart = np.hypot(table["y"][:, None] - table["y"], table["x"][:, None] - table["x"])
    assert apart[np.triu_indices(len(table), 1)].min(initial=9) > 2
    assert len(result.variables(1e6)) == 0


def test_no_good_pixel():
    result = cpm_subtract(np.full((20, 12, 12), np.nan))
    assert result.mask.all()
    assert np.isnan(result.rms).all()
    assert not result.n_predictors.any()
    assert len(result.variables()) == 0


def test_empty_cubes():
    for shape in [(0, 5, 5), (17, 0, 5), (0, 0, 0)]:
        result = cpm_subtract(np.zeros(shape))
        assert result.image.shape == shape


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"predictors": "best"}, ValueError, "predictors is 'best'; it must be one of 'nearest'"),
        ({"n_predictors": 0}, ValueError, "n_predictors is 0; it must be at least 1"),
        ({"n_predictors": 5.0}, TypeError, "n_predictors is a float"),
        ({"holdout": 1}, ValueError, "holdout is 1; it must be at least 2"),
        ({"holdout": 161}, ValueError, "holdout is 161 folds; `cube` has only 160 epochs"),
        ({"holdout": ("window", 160)}, ValueError, "leaves no epoch to fit outside of epochs 0"),
        (
            {"weights": np.arange(160) < 16},
            ValueError,
            "leaves no epoch to fit outside of epochs 0",
        ),
        ({"holdout": ("days", 3)}, ValueError, "it must be folds"),
        ({"ridge": -1}, ValueError, "ridge is -1; it must be 0 or more"),
        ({"ridge": "best"}, ValueError, "ridge is 'best'; it must be one of 'gcv'"),
        ({"ridge": None}, TypeError, "ridge is a NoneType"),
        ({"ridge_per": "row"}, ValueError, "ridge_per is 'row'"),
        ({"time_order": 9}, ValueError, "time_order is 9; it must be 0 to 5"),
        ({"exclusion": 5}, TypeError, "exclusion is 5; it must be \\(rows, distance\\)"),
        ({"exclusion": (40, 50)}, ValueError, "no pixel has a predictor"),
        ({"exclude": np.zeros((3, 3))}, ValueError, r"`exclude` has shape \(3, 3\)"),
        ({"exclude": np.ones((24, 26))}, ValueError, "no pixel has a predictor"),
        ({"exclude_variable": -2}, ValueError, "exclude_variable is -2"),
        ({"mask": np.zeros(3, bool)}, ValueError, r"`mask` has shape \(3,\); it must be"),
        ({"mask": np.ones(160, bool)}, ValueError, "0 epochs have a weight"),
        ({"weights": np.ones(3)}, ValueError, r"`weights` has shape \(3,\); it must be \(160,\)"),
        ({"weights": np.zeros(160)}, ValueError, "0 epochs have a weight"),
        ({"weights": -np.ones(160)}, ValueError, "`weights` has values that are negative"),
        ({"variance": np.ones((3, 3))}, ValueError, "`variance` has shape"),
        ({"variance": -1.0}, ValueError, "`variance` has negative values"),
    ],
)
def test_wrong_options(quiet, options, error, text):
    with pytest.raises(error, match=text):
        cpm_subtract(quiet, **({"n_predictors": 60} | options))


@pytest.mark.parametrize(
    ("cube", "error", "text"),
    [
        (np.ones((5, 5)), ValueError, r"`cube` has shape \(5, 5\)"),
        (np.ones((1, 5, 5)), ValueError, "`cube` has 1 epoch; at least 2 are needed"),
        (np.ones((20, 20, 900)), ValueError, "looks like \\(ny, nx, n_epochs\\)"),
        (np.ones((9, 5, 5), bool), ValueError, "dtype bool"),
        (np.ones((9, 5, 5), complex), TypeError, "`cube`"),
        ("cube", TypeError, "`cube`"),
    ],
)
def test_wrong_cubes(cube, error, text):
    with pytest.raises(error, match=text):
        cpm_subtract(cube)


# ------------------------------------------------------------------------------- on a GPU


IDLE = np.where(np.arange(90) % 11 == 7, 0.0, 1.0 + np.arange(90) % 3)


def both(monkeypatch, cube, **options):
    """(what the CPU makes, what the pretended GPU makes, the shapes that came back from there)"""
    cupy = pretend_cupy.install(monkeypatch)
    expected = cpm_subtract(cube, **options)
    for name in {"mask", "variance"} & options.keys():
        options[name] = cupy.asarray(options[name])
    pretend_cupy.copies.clear()
    made = cpm_subtract(cupy.asarray(cube), **options)
    copies = list(pretend_cupy.copies)
    assert isinstance(made.image, pretend_cupy.ndarray)
    return expected, made, copies


@pytest.mark.parametrize(
    ("options", "n"),
    [
        ({}, 90),
        ({}, 25),
        ({"holdout": None, "ridge": 1e-3}, 90),
        ({"holdout": None, "ridge": 1e-3}, 25),
        ({"holdout": ("window", 4), "ridge": 1e-3}, 90),
        ({"holdout": ("window", 4), "ridge": 1e-3}, 25),
        ({"weights": IDLE, "ridge": 1e-3, "time_order": 2}, 90),
        ({"weights": IDLE[-25:], "ridge": 1e-3, "time_order": 2}, 25),
        ({"weights": IDLE, "ridge": 1e-3, "holdout": ("window", 4)}, 90),
        ({"ridge": "gcv", "ridge_per": "pixel", "holdout": None}, 90),
        ({"ridge": "loo", "holdout": 3}, 90),
        ({"ridge": "loo", "holdout": 3}, 25),
        ({"ridge": "cv", "ridge_per": "pixel", "holdout": 3}, 90),
        ({"predictors": "brightness", "ridge": 1e-3}, 90),
        ({"predictors": "cosine", "ridge": 1e-3}, 90),
        ({"predictors": "random", "ridge": 1e-3}, 90),
        ({"exclude_variable": 3, "ridge": 1e-3, "holdout": None}, 90),
    ],
)
def test_a_gpu_makes_the_same(small, monkeypatch, options, n):
    """Also with fewer epochs than predictors."""
    cube = small[-n:]
    expected, made, copies = both(monkeypatch, cube, **(SMALL | options))
    scale = cube[np.isfinite(cube)].max()
    np.testing.assert_allclose(made.image.get(), expected.image, atol=1e-8 * scale)
    np.testing.assert_allclose(made.prediction.get(), expected.prediction, atol=1e-8 * scale)
    np.testing.assert_array_equal(made.mask.get(), expected.mask)
    np.testing.assert_array_equal(np.asarray(made), made.image.get())
    np.testing.assert_allclose(made.rms, expected.rms, rtol=1e-5)
    np.testing.assert_allclose(made.variability, expected.variability, rtol=1e-5)
    np.testing.assert_array_equal(made.n_predictors, expected.n_predictors)
    np.testing.assert_allclose(made.ridge, expected.ridge, rtol=1e-9)
    flux, flux_of_cpu = made.light_curve(8, 9)["flux"], expected.light_curve(8, 9)["flux"]
    np.testing.assert_allclose(flux, flux_of_cpu, atol=1e-7 * scale)
    # Maps, never epochs of them, and what chooses the running means: a pixel and its predictors.
    assert max(np.prod(shape) for shape in copies) <= max(16 * 18, 33 * n)


def test_least_penalty_on_a_gpu(small, monkeypatch):
    """Where rounding errors are seen: a normal matrix with a condition of some 1e13."""
    expected, made, _ = both(monkeypatch, small, ridge=0, **SMALL)
    scale = small[np.isfinite(small)].max()
    np.testing.assert_allclose(made.image.get(), expected.image, atol=1e-6 * scale)


def test_singular_matrices_on_a_gpu(small, monkeypatch):
    """cuSOLVER factors them without a word: strengths with which it does are never chosen."""
    cube = np.nan_to_num(small, posinf=0.0)
    cube[:, :, 1::2] = cube[:, :, ::2]  # every predictor twice
    monkeypatch.setattr(cpm_tile, "_LEAST_PENALTY", 0.0)
    monkeypatch.setattr(cpm_tile, "PENALTIES", np.array([0.0, 1e-30, 1e-3]))
    cupy = pretend_cupy.install(monkeypatch)
    for holdout in (None, ("window", 2)):
        options = SMALL | {"holdout": holdout}
        with pytest.raises(ValueError, match=r"ridge is 0\.0; .* singular to rounding on a GPU"):
            cpm_subtract(cupy.asarray(cube), ridge=0, **options)
        made = cpm_subtract(cupy.asarray(cube), **options)
        assert made.ridge > 0
        assert np.isfinite(made.rms).all()


@pytest.mark.parametrize("n", [90, 25])
@pytest.mark.parametrize("holdout", [None, 5])
def test_a_gpu_makes_the_same_leverages_and_coefficients(small, monkeypatch, n, holdout):
    for leverage in (True, False):
        expected, made, _ = both(
            monkeypatch, small[-n:], ridge=1e-3, coefficients=True, leverage=leverage,
            holdout=holdout, **SMALL,
        )  # fmt: skip
        assert made.coefficients.keys() == expected.coefficients.keys()
        for place, (pixels, values) in expected.coefficients.items():
            np.testing.assert_array_equal(made.coefficients[place][0], pixels)
            np.testing.assert_allclose(
                made.coefficients[place][1], values, atol=1e-7 * np.abs(values).max()
            )
        if leverage:
            np.testing.assert_allclose(made.freedom, expected.freedom, rtol=1e-8)
            np.testing.assert_allclose(made.leverage.get(), expected.leverage, atol=1e-6)


@pytest.mark.parametrize("n", [90, 25])
@pytest.mark.parametrize("ridge", ["gcv", 10.0])
def test_a_gpu_takes_masks_and_variances(small, monkeypatch, n, ridge):
    rng = np.random.default_rng(5)
    cube = small[-n:]
    mask, variance = rng.random(cube.shape) < 0.01, rng.uniform(0.5, 3, cube.shape)
    for options in ({"mask": mask}, {"variance": variance}, {"mask": mask[:, 0, 0]},
                    {"mask": mask.any(0), "variance": variance[0]}):  # fmt: skip
        expected, made, _ = both(monkeypatch, cube, ridge=ridge, **SMALL, **options)
        scale = cube[np.isfinite(cube)].max()
        np.testing.assert_allclose(made.image.get(), expected.image, atol=1e-8 * scale)
        np.testing.assert_allclose(made.variability, expected.variability, rtol=1e-5)


def test_a_gpu_works_in_tiles_and_in_parts(small, monkeypatch):
    monkeypatch.setattr(cpm_plan, "_WHOLE", 10)
    monkeypatch.setattr(cpm_plan, "_TILE", 9)
    whole = both(monkeypatch, small, ridge=1e-3, **SMALL)[1]
    monkeypatch.setattr(cpm_batched, "_BYTES", 2e6)
    expected, made, _ = both(monkeypatch, small, ridge=1e-3, **SMALL)
    np.testing.assert_allclose(made.image.get(), expected.image, atol=1e-8)
    np.testing.assert_array_equal(made.image.get(), whole.image.get())


@pytest.mark.parametrize("dtype", ["f4", "u2"])
def test_dtypes_on_a_gpu(small, monkeypatch, dtype):
    cube = (1e3 * (np.nan_to_num(small, posinf=0.0) + 1)).astype(dtype)
    expected, made, _ = both(monkeypatch, cube, ridge=1.0, holdout=None, **SMALL)
    assert made.image.dtype == expected.image.dtype == np.float32
    np.testing.assert_allclose(made.image.get(), expected.image, atol=1e-3)


def test_mixed_devices_and_outputs_on_a_gpu(small, monkeypatch):
    cupy = pretend_cupy.install(monkeypatch)
    cube = cupy.asarray(small)
    with pytest.raises(TypeError, match="`mask` is on cpu and `cube` on cuda:0; all arrays must"):
        cpm_subtract(cube, mask=np.zeros((16, 18), bool))
    with pytest.raises(TypeError, match="`variance` is on cuda:0 and `cube` on cpu"):
        cpm_subtract(small, variance=cube)
    with pytest.raises(TypeError, match="`out` is not taken for a cube on a GPU, cuda:0"):
        cpm_subtract(cube, out=np.empty(small.shape), **SMALL)
    with pytest.raises(ValueError, match=r"`cube` has shape \(16, 18\)"):
        cpm_subtract(cube[0])
    cupy.cuda.Device = lambda: SimpleNamespace(id=1)
    with pytest.raises(TypeError, match=r"on cuda:0, and cuda:1 is the current .*Device\(0\)"):
        cpm_subtract(cube, **SMALL)


def test_tensors_on_a_gpu_are_refused(monkeypatch):
    monkeypatch.setattr(arrays, "device_of", lambda x: "cuda:0")
    monkeypatch.setattr(arrays, "open_array", lambda x, name: (x, None, "torch", "cuda:0"))
    with pytest.raises(
        TypeError, match=r"`cube` is a tensor on cuda:0; .*`cupy.asarray\(tensor\)`"
    ):
        cpm_subtract(np.ones((9, 5, 5)))
