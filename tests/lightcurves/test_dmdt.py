"""dm-dt images: against the reference, light-curve, the paper's formulas, and by hand."""

import numpy as np
import pytest

from fastdiff.kernels.curve import dmdt as kernel
from fastdiff.lightcurves import dmdt
from fastdiff.lightcurves.curves import CONSTANT_TIME, DROPPED, EMPTY, FEW
from fastdiff.lightcurves.dmdt import GRIDS, NORMS, Grid, dmdt_images
from tests import pretend_cupy
from tests.kernels.curve.inputs import scattered
from tests.kernels.curve.reference import dmdt as reference

PAPER = GRIDS["mahabal2017"]


def expected_image(time, mag, grid=PAPER, norm="counts"):
    counts = reference.count(time, mag, grid.dm, grid.dt, grid.symmetric)
    return reference.normalise(counts, len(time), norm)


@pytest.mark.parametrize("kind", ["plain", "coarse", "constant", "wide", "tiny"])
@pytest.mark.parametrize("name", [*GRIDS, "own"])
def test_counts_equal_the_reference(rng, kind, name):
    grid = GRIDS.get(name) or Grid([-0.3, -0.1, -0.1, 0, 0.4], [0.5, 2, 2.5, 30])
    curves = [scattered(rng, n, kind) for n in (0, 1, 2, 3, 20, 90, 300)]
    made = dmdt_images(*zip(*[c[:2] for c in curves], strict=True), grid=grid, norm="counts")
    assert made.shape == (7, *grid.shape) and made.dtype == np.int64
    for image, (time, mag, _) in zip(made, curves, strict=True):
        np.testing.assert_array_equal(image, expected_image(time, mag, grid))


def test_long_curve_among_short_ones(rng):
    sizes = (30, kernel.LONG + 1, 0, kernel.LONG, 5)
    curves = [scattered(rng, n) for n in sizes]
    made = dmdt_images(*zip(*[c[:2] for c in curves], strict=True), norm="counts", threads=2)
    for image, (time, mag, _) in zip(made, curves, strict=True):
        np.testing.assert_array_equal(image, expected_image(time, mag))


def test_100000_points_in_bounded_memory(rng):
    time, mag = np.sort(rng.uniform(0, 3000, 100_000)), rng.normal(15, 0.5, 100_000)
    grid = Grid([-100, 100], [0, 1e6])
    assert dmdt_images(time, mag, grid=grid, norm="counts").item() == 100_000 * 99_999 // 2
    # the sum over rows is the number of pairs in each column
    made = dmdt_images(time, mag, norm="counts")[0].sum(axis=0)
    upto = [(np.searchsorted(time, time + edge) - np.arange(1e5) - 1).sum() for edge in PAPER.dt]
    np.testing.assert_allclose(made, np.diff(np.maximum(upto, 0)), atol=3)


# ---------------------------------------------------------------------- grids and edges


def test_paper_grid_is_that_of_the_paper():
    dm = [0, 0.1, 0.2, 0.3, 0.5, 1, 1.5, 2, 2.5, 3, 5, 8]
    assert PAPER.shape == (23, 24)
    np.testing.assert_array_equal(PAPER.dm[12:], dm)
    np.testing.assert_array_equal(PAPER.dm[11::-1], -np.array(dm))
    assert (PAPER.dt[0], PAPER.dt[1], PAPER.dt[5], PAPER.dt[24]) == (0, 1 / 145, 1 / 25, 4000)
    shapes = {name: grid.shape for name, grid in GRIDS.items()}
    assert shapes == {
        "mahabal2017": (23, 24), "new1": (31, 24), "new2": (31, 16), "new3": (23, 16),
        "ztf": (26, 26),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("dm", "row"),
    [(0.0, 11), (-0.0, 11), (5e-324, 12), (-5e-324, 10), (0.125, 13), (-0.125, 9), (0.5, 16),
     (-0.5, 6), (1.0, 17), (-1.0, 5), (np.nextafter(1, 0), 16), (np.nextafter(-1, 0), 6),
     (np.nextafter(8, 0), 22), (8.0, None), (-8.0, None), (np.nextafter(-8, 0), 0)],
)  # fmt: skip
def test_side_on_which_an_edge_of_the_paper_counts(dm, row):
    image = dmdt_images([0, 1], [0.0, dm], norm="counts")[0]
    assert image[:, 7].tolist() == [int(r == row) for r in range(23)]
    assert image.sum() == (row is not None)


@pytest.mark.parametrize(
    ("dm", "row"), [(-1, 0), (-0.5, 1), (0, 2), (np.nextafter(0, -1), 1), (1, None), (-1.1, None)]
)
def test_cells_of_a_plain_grid_are_half_open(dm, row):
    image = dmdt_images([0, 1], [0, dm], grid=Grid([-1, -0.5, 0, 1], [0, 2]), norm="counts")[0]
    assert image[:, 0].tolist() == [int(r == row) for r in range(3)]


@pytest.mark.parametrize(
    ("dt", "column"), [(0, None), (0.5, 0), (2, 1), (np.nextafter(2, 0), 0), (8, None), (9, None)]
)
def test_columns_are_half_open(dt, column):
    image = dmdt_images([0, dt], [0, 0], grid=Grid([-1, 1], [0.5, 2, 8]), norm="counts")[0]
    assert image[0].tolist() == [int(c == column) for c in range(2)]


def test_turned_upside_down(rng):
    time, mag, err = scattered(rng, 300, "coarse")
    for name in ("mahabal2017", "new1", "new2", "new3"):
        image, turned = (dmdt_images(time, m, grid=name, norm="counts") for m in (mag, -mag))
        # times are equal in places: the order there decides the sign, in both alike
        np.testing.assert_array_equal(turned, image[:, ::-1])
    smooth, turned = (dmdt_images(time, m, magerr=err, norm="counts") for m in (mag, -mag))
    np.testing.assert_allclose(turned, smooth[:, ::-1], atol=1e-3)


def test_equal_times_count_in_the_order_of_the_input():
    image = dmdt_images([5, 5, 5], [1.0, 1.15, 1.15], norm="counts")[0]
    assert image[13, 0] == 2 and image[11, 0] == 1 and image.sum() == 3


def test_grid_of_many_cells(rng):
    time, mag, _ = scattered(rng, 200)
    grid = Grid.linear(2, 300, 3000, 200)
    np.testing.assert_array_equal(
        dmdt_images(time, mag, grid=grid, norm="counts")[0], expected_image(time, mag, grid)
    )
    with pytest.raises(ValueError, match="rows; it may have"):
        dmdt_images(time, mag, grid=Grid.linear(2, 1 << 15, 1, 1))


@pytest.mark.parametrize(
    ("dm", "dt", "message"),
    [([0], [0, 1], "two or more"), ([1, 0], [0, 1], "from 1 to 0"), ([0, 1], [2, 1], "falls"),
     ([0, 0, 0, 1], [0, 1], "three times"), ([0, 1], [0, 0, 1], "twice"),
     ([0, 1], [-1, 1], "begins at -1"),
     ([0, np.nan], [0, 1], "must be finite"), ([0, 1], [0, np.inf], "must be finite")],
)  # fmt: skip
def test_bad_edges(dm, dt, message):
    with pytest.raises(ValueError, match=message):
        Grid(dm, dt)
    with pytest.raises(ValueError, match="not symmetric"):
        Grid([-1, 2], [0, 1], symmetric=True)


# ---------------------------------------------------------------------- normalisations


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["plain", "wide"])
def test_norms_equal_the_reference(rng, norm, kind):
    curves = [scattered(rng, n, kind) for n in (0, 1, 2, 40, 300)]
    made = dmdt_images(*zip(*[c[:2] for c in curves], strict=True), norm=norm)
    assert made.dtype == NORMS[norm]
    for image, (time, mag, _) in zip(made, curves, strict=True):
        expected = expected_image(time, mag, norm=norm)
        if np.issubdtype(made.dtype, np.integer):
            np.testing.assert_array_equal(image, expected)
        else:
            np.testing.assert_allclose(image, expected, rtol=1e-6)


def test_paper_norm_has_one_wherever_there_is_a_pair(rng):
    time, mag, _ = scattered(rng, 300)
    image, counts = (dmdt_images(time, mag, norm=n) for n in ("paper", "counts"))
    np.testing.assert_array_equal(image > 0, counts > 0)
    assert dmdt_images([0, 1], [0, 0]).max() == 255


# ---------------------------------------------------------------------- errors of magnitudes


@pytest.mark.parametrize(("smooth", "share"), [("exact", 1e-12), ("fast", 4e-7)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_spread_by_errors(rng, smooth, share, scale):
    for n in (2, 3, 30, 200):
        time, mag, err = scattered(rng, n)
        for grid in (PAPER, Grid([-0.3, 0, 0.4], [0.5, 2, 2.5, 30])):
            made = dmdt_images(
                time, mag, magerr=err * scale, grid=grid, norm="counts", smooth=smooth
            )[0]
            expected = reference.smooth(time, mag, err * scale, grid.dm, grid.dt)[1:-1]
            pairs = reference.count(time, mag, grid.dm, grid.dt).sum(axis=0)
            assert (np.abs(made - expected) <= share * pairs + 1e-11).all()


@pytest.mark.parametrize("smooth", ["exact", "fast"])
def test_without_error_a_pair_counts_in_its_cell(rng, smooth):
    time, mag, err = scattered(rng, 150, "coarse")
    counts = dmdt_images(time, mag, norm="counts")
    made = dmdt_images(time, mag, magerr=np.zeros(150), norm="counts", smooth=smooth)
    np.testing.assert_array_equal(made, counts)
    err[::2] = 0
    made = dmdt_images(time, mag, magerr=err, norm="counts", smooth=smooth)
    assert np.isfinite(made).all()
    np.testing.assert_allclose(made.sum(axis=1), counts.sum(axis=1), atol=1e-3)


def test_long_smoothed_curve_does_not_depend_on_threads(rng):
    time, mag, err = scattered(rng, kernel.LONG + 500)
    one, two = (
        dmdt_images(time, mag, magerr=err, norm="counts", threads=threads) for threads in (1, 2)
    )
    np.testing.assert_array_equal(one, two)
    expected = reference.smooth(time, mag, err, PAPER.dm, PAPER.dt)[1:-1]
    np.testing.assert_allclose(one[0], expected, atol=4e-7 * time.size**2 / 2)


# ---------------------------------------------------------------------- input


def test_flags():
    time, mag = [[0.0], [1, 1, 1], np.arange(20), []], [[1], [1, np.nan, 2], np.arange(20), []]
    images, flags = dmdt_images(time, mag, return_flags=True)
    expected = [FEW | EMPTY, FEW | DROPPED | CONSTANT_TIME, 0, FEW | EMPTY]
    np.testing.assert_array_equal(flags, expected)
    assert not images[0].any() and not images[3].any()


def test_unknown_names():
    with pytest.raises(ValueError, match=r"grid is 'crts'; known grids are 'mahabal2017'"):
        dmdt_images([0, 1], [0, 1], grid="crts")
    with pytest.raises(ValueError, match=r"norm is 'sum'; known normalisations"):
        dmdt_images([0, 1], [0, 1], norm="sum")
    with pytest.raises(ValueError, match="smooth is 'erf'"):
        dmdt_images([0, 1], [0, 1], smooth="erf")
    with pytest.raises(TypeError, match="grid is a list"):
        dmdt_images([0, 1], [0, 1], grid=[0, 1])


def test_groups_of_curves_do_not_show(rng, monkeypatch):
    curves = [scattered(rng, n) for n in rng.integers(0, 60, 50)]
    time, mag, err = zip(*curves, strict=True)
    expected = dmdt_images(time, mag), dmdt_images(time, mag, magerr=err)
    monkeypatch.setattr(dmdt, "_GROUP_BYTES", 7 * 8 * 25 * 24)
    np.testing.assert_array_equal(dmdt_images(time, mag), expected[0])
    np.testing.assert_array_equal(dmdt_images(time, mag, magerr=err), expected[1])


# ---------------------------------------------------------------------- peers and real data


def peer(grid):
    light_curve = pytest.importorskip("light_curve")
    return light_curve.DmDt(dt=grid.dt, dm=grid.dm, dt_type="asis", dm_type="asis", norm=[])


def test_real_curves_equal_light_curve(data_folder):
    grid = Grid(np.delete(PAPER.dm, 11), PAPER.dt)
    other = peer(grid)
    data = dict(np.load(data_folder / "crts" / "crts_train.npz", allow_pickle=True))
    bounds = data["offsets"]
    kept = data["t"] >= 50000
    offsets = np.concatenate(([0], np.cumsum(kept)))[bounds]
    time, mag = data["t"][kept], data["mag"][kept]
    made = dmdt_images(time, mag, offsets, grid=grid, norm="counts")
    compared = 0
    for i, image in enumerate(made):
        own = slice(offsets[i], offsets[i + 1])
        order = np.argsort(time[own], kind="stable")
        t, m = time[own][order], mag[own][order]
        if t.size < 2 or (np.diff(t) == 0).any():  # which light-curve refuses
            continue
        np.testing.assert_array_equal(image.T, other.points(t, m))
        compared += 1
    assert compared > 0.8 * len(made)
    some = dmdt_images(time[: offsets[40]], mag[: offsets[40]], offsets[:41], norm="paper")
    for i, image in enumerate(some):
        own = slice(offsets[i], offsets[i + 1])
        np.testing.assert_array_equal(image, expected_image(time[own], mag[own], norm="paper"))


def test_smoothed_equals_light_curve(rng):
    grid = Grid([-2, -0.5, 0, 0.1, 3], [0.1, 1, 10, 100, 1000])
    time, mag, err = scattered(rng, 300)
    order = np.argsort(time)
    expected = peer(grid).gausses(time[order], mag[order], err[order])
    made = dmdt_images(time, mag, magerr=err, grid=grid, norm="counts", smooth="exact")
    np.testing.assert_allclose(made[0].T, expected, atol=1e-8)


# ---------------------------------------------------------------------- on a GPU


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["mahabal2017", "ztf"])
def test_counts_on_a_gpu_equal_those_of_the_cpu(cupy, rng, norm, name):
    curves = [scattered(rng, n, "coarse") for n in (0, 1, 2, 40, 300)]
    time, mag, _ = zip(*curves, strict=True)
    expected = dmdt_images(time, mag, grid=name, norm=norm, return_flags=True)
    there = [[cupy.asarray(x) for x in each] for each in (time, mag)]
    images, flags = dmdt_images(*there, grid=name, norm=norm, return_flags=True)
    for made, wanted in zip((images, flags), expected, strict=True):
        assert isinstance(made, cupy.ndarray) and made.dtype == wanted.dtype
        np.testing.assert_allclose(made.get(), wanted, rtol=1e-6)


@pytest.mark.parametrize("smooth", ["exact", "fast"])
@pytest.mark.parametrize("norm", ["counts", "dt"])
def test_smoothed_on_a_gpu_equal_those_of_the_cpu(cupy, rng, smooth, norm):
    time, mag, err = scattered(rng, 700)
    err[::3] = 0
    offsets, options = [0, 200, 200, 700], {"norm": norm, "smooth": smooth}
    expected = dmdt_images(time, mag, offsets, magerr=err, **options)
    there = map(cupy.asarray, (time, mag, np.array(offsets), err))
    time, mag, offsets, err = there
    made = dmdt_images(time, mag, offsets, magerr=err, **options)
    assert isinstance(made, cupy.ndarray) and made.dtype == expected.dtype
    share = 1e-12 if smooth == "exact" else 1e-6
    atol = share * (500**2 / 2 if norm == "counts" else 1)
    np.testing.assert_allclose(made.get(), expected, rtol=0, atol=max(atol, 1e-7 * (norm == "dt")))


def test_long_curves_and_fine_grids_on_a_gpu(cupy, rng, monkeypatch):
    """Several blocks a curve, several groups of curves, more cells than shared memory has."""
    curves = [scattered(rng, n) for n in (1200, 5, 300, 40)]
    time, mag, err = zip(*curves, strict=True)
    there = [[cupy.asarray(x) for x in each] for each in (time, mag, err)]
    fine = Grid.linear(2, 90, 3000, 50)
    assert np.prod(fine.shape) > kernel.SHARED_CELLS
    for grid in ("mahabal2017", fine):
        expected = dmdt_images(time, mag, grid=grid, norm="counts")
        np.testing.assert_array_equal(
            dmdt_images(*there[:2], grid=grid, norm="counts").get(), expected
        )
    expected = dmdt_images(time[1:], mag[1:], magerr=err[1:], grid=fine, norm="counts")
    made = dmdt_images(*(x[1:] for x in there[:2]), magerr=there[2][1:], grid=fine, norm="counts")
    np.testing.assert_allclose(made.get(), expected, atol=1e-2)
    monkeypatch.setattr(dmdt, "_GPU_GROUP_BYTES", 2 * 8 * 25 * 24)
    expected = dmdt_images(time, mag)
    np.testing.assert_array_equal(dmdt_images(*there[:2]).get(), expected)


def test_images_of_a_gpu_come_back_by_no_one_but_the_caller(monkeypatch, rng):
    cupy = pretend_cupy.install(monkeypatch)
    time, mag, err = map(cupy.asarray, scattered(rng, 300))
    pretend_cupy.copies.clear()
    dmdt_images(time, mag, magerr=err, return_flags=True)
    assert pretend_cupy.copies == [(300,)] * 3  # the door's
    assert dmdt_images([], []).shape == (0, 23, 24)
    none = cupy.asarray(np.empty((0, 5)))
    assert dmdt_images(none, none).shape == (0, 23, 24)
