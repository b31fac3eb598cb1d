"""dm-dt images: against the reference, light-curve, the paper's formulas, and by hand."""

import inspect

import numpy as np
import pytest

from fastdiff.kernels import jit
from fastdiff.kernels.curve import dmdt as kernel
from fastdiff.lightcurves.curves import CONSTANT_TIME, DROPPED, EMPTY, FEW
from fastdiff.lightcurves.dmdt import GRIDS, NORMS, Grid, dmdt_images
from tests.kernels.curve.reference import dmdt as reference

PAPER = GRIDS["mahabal2017"]


def curve(rng, n, kind="plain"):
    """(time, mag, magerr): in disorder; "coarse" has many pairs exactly on edges."""
    time, mag = rng.uniform(0, 3000, n), rng.normal(15, 0.5, n)
    if kind == "coarse":
        time, mag = rng.integers(0, 400, n) * 0.5, np.round(mag, 1)
    if kind == "constant":
        time[:], mag[:] = 7.0, 15.0
    if kind == "wide":
        mag, time = mag * 100, time * 5
    if kind == "tiny":
        mag, time = mag * 1e-12, time * 1e-7
    return time, mag, rng.uniform(0.01, 0.2, n)


def expected_image(time, mag, grid=PAPER, norm="counts"):
    counts = reference.count(time, mag, grid.dm, grid.dt, grid.symmetric)
    return reference.normalise(counts, len(time), norm)


@pytest.mark.parametrize("kind", ["plain", "coarse", "constant", "wide", "tiny"])
@pytest.mark.parametrize("name", [*GRIDS, "own"])
def test_counts_equal_the_reference(rng, kind, name):
    grid = GRIDS.get(name) or Grid([-0.3, -0.1, -0.1, 0, 0.4], [0.5, 2, 2.5, 30])
    curves = [curve(rng, n, kind) for n in (0, 1, 2, 3, 20, 90, 300)]
    made = dmdt_images(*zip(*[c[:2] for c in curves], strict=True), grid=grid, norm="counts")
    assert made.shape == (7, *grid.shape) and made.dtype == np.int64
    for image, (time, mag, _) in zip(made, curves, strict=True):
        np.testing.assert_array_equal(image, expected_image(time, mag, grid))


@pytest.mark.parametrize("kind", ["plain", "coarse", "constant", "wide"])
@pytest.mark.parametrize("threads", [1, 3])
def test_path_of_long_curves_equals_the_other(rng, kind, threads):
    time, mag, _ = curve(rng, 1200, kind)
    for grid in (PAPER, Grid([-0.3, -0.1, 0, 0.4], [0.5, 2, 2.5, 30]), Grid.linear(2, 9, 1e6, 2)):
        expected = dmdt_images(time, mag, grid=grid, norm="counts")
        np.testing.assert_array_equal(count_long(time, mag, grid, threads), expected)


def count_long(time, mag, grid, threads):
    """Image by the path of long curves, in three jobs."""
    order = np.argsort(time, kind="stable")
    time, mag = time[order] - time[order[0]], mag[order]
    splits = np.array([0, 1, 700, time.size])
    counts = np.empty((3, grid.shape[1], grid.shape[0] + 2), np.int64)
    order = np.argsort(mag, kind="stable").astype(np.int32)
    edges = grid.dt.copy(), grid.thresholds
    jit.run(kernel.count_long_cpu, 3, threads, splits, time, mag, order, *edges, counts)
    return counts.sum(axis=0)[None, :, 1:-1].transpose(0, 2, 1)


def test_long_curve_among_short_ones(rng):
    sizes = (30, kernel.LONG + 1, 0, kernel.LONG, 5)
    curves = [curve(rng, n) for n in sizes]
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
    time, mag, err = curve(rng, 300, "coarse")
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
    time, mag, _ = curve(rng, 200)
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
    curves = [curve(rng, n, kind) for n in (0, 1, 2, 40, 300)]
    made = dmdt_images(*zip(*[c[:2] for c in curves], strict=True), norm=norm)
    assert made.dtype == NORMS[norm]
    for image, (time, mag, _) in zip(made, curves, strict=True):
        expected = expected_image(time, mag, norm=norm)
        if np.issubdtype(made.dtype, np.integer):
            np.testing.assert_array_equal(image, expected)
        else:
            np.testing.assert_allclose(image, expected, rtol=1e-6)


def test_paper_norm_has_one_wherever_there_is_a_pair(rng):
    time, mag, _ = curve(rng, 300)
    image, counts = (dmdt_images(time, mag, norm=n) for n in ("paper", "counts"))
    np.testing.assert_array_equal(image > 0, counts > 0)
    assert dmdt_images([0, 1], [0, 0]).max() == 255


# ---------------------------------------------------------------------- errors of magnitudes


@pytest.mark.parametrize(("smooth", "share"), [("exact", 1e-12), ("fast", 4e-7)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_spread_by_errors(rng, smooth, share, scale):
    for n in (2, 3, 30, 200):
        time, mag, err = curve(rng, n)
        for grid in (PAPER, Grid([-0.3, 0, 0.4], [0.5, 2, 2.5, 30])):
            made = dmdt_images(
                time, mag, magerr=err * scale, grid=grid, norm="counts", smooth=smooth
            )[0]
            expected = reference.smooth(time, mag, err * scale, grid.dm, grid.dt)[1:-1]
            pairs = reference.count(time, mag, grid.dm, grid.dt).sum(axis=0)
            assert (np.abs(made - expected) <= share * pairs + 1e-11).all()


def test_fast_normal_distribution_keeps_its_bound():
    from scipy.special import ndtr

    x = np.linspace(-8, 8, 4001)
    fast = np.array([kernel.normal_cdf(v, False) for v in x])
    exact = np.array([kernel.normal_cdf(v, True) for v in x])
    np.testing.assert_allclose(fast, ndtr(x), rtol=0, atol=kernel.FAST_ERROR)
    np.testing.assert_allclose(exact, ndtr(x), rtol=0, atol=1e-15)


@pytest.mark.parametrize("smooth", ["exact", "fast"])
def test_without_error_a_pair_counts_in_its_cell(rng, smooth):
    time, mag, err = curve(rng, 150, "coarse")
    counts = dmdt_images(time, mag, norm="counts")
    made = dmdt_images(time, mag, magerr=np.zeros(150), norm="counts", smooth=smooth)
    np.testing.assert_array_equal(made, counts)
    err[::2] = 0
    made = dmdt_images(time, mag, magerr=err, norm="counts", smooth=smooth)
    assert np.isfinite(made).all()
    np.testing.assert_allclose(made.sum(axis=1), counts.sum(axis=1), atol=1e-3)


def test_long_smoothed_curve_does_not_depend_on_threads(rng):
    time, mag, err = curve(rng, kernel.LONG + 500)
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
    from fastdiff.lightcurves import dmdt

    curves = [curve(rng, n) for n in rng.integers(0, 60, 50)]
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
    time, mag, err = curve(rng, 300)
    order = np.argsort(time)
    expected = peer(grid).gausses(time[order], mag[order], err[order])
    made = dmdt_images(time, mag, magerr=err, grid=grid, norm="counts", smooth="exact")
    np.testing.assert_allclose(made[0].T, expected, atol=1e-8)


# ---------------------------------------------------------------------- CUDA


def launch(time, mag, magerr, offsets, dt_edges, dm_edges, n_parts, n_threads, put=np.array):
    """Counts and both smoothed counts by the CUDA kernels; `put` brings arrays to the device."""
    from fastdiff.kernels.curve import dmdt as kernel

    shape = (len(offsets) - 1, len(dt_edges) - 1, len(dm_edges) + 1)
    t, m, e, o, dt, dm = map(put, (time, mag, magerr, offsets, dt_edges, dm_edges))
    counts, fast, exact = put(np.zeros(shape, np.int64)), put(np.zeros(shape)), put(np.zeros(shape))
    grid = shape[0] * n_parts
    kernel.count_cuda.launch(grid, n_threads, t, m, o, dt, dm, counts, n_parts)
    kernel.smooth_cuda.launch(grid, n_threads, t, m, e, o, dt, dm, False, fast, n_parts)
    kernel.smooth_cuda.launch(grid, n_threads, t, m, e, o, dt, dm, True, exact, n_parts)
    return [x.copy_to_host() if hasattr(x, "copy_to_host") else x for x in (counts, fast, exact)]


def on_cuda(rng, sizes, **extra):
    parts = [curve(rng, n) for n in sizes]
    time = np.concatenate([np.sort(part[0]) for part in parts])
    mag, err = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    err[::3] = 0
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    arrays = {"time": time, "mag": mag, "magerr": err, "offsets": offsets}
    return arrays | {"dt_edges": PAPER.dt.copy(), "dm_edges": PAPER.thresholds} | extra


def check_cuda(made, arrays):
    edges = arrays["dt_edges"], arrays["dm_edges"]
    points = arrays["time"], arrays["mag"]
    counts = kernel.count_pairs(*points, arrays["offsets"], *edges)
    np.testing.assert_array_equal(made[0], counts)
    for exact in (False, True):
        expected = kernel.smooth_pairs(*points, arrays["magerr"], arrays["offsets"], *edges, exact)
        share = 1e-12 if exact else 1e-6
        assert (abs(made[1 + exact] - expected) <= share * counts.sum(2, keepdims=True)).all()


@pytest.mark.parametrize("shared_cells", [4096, 100])
def test_simulator_and_cpu_agree(rng, run_in_cuda_simulator, shared_cells):
    arrays = on_cuda(rng, (0, 1, 5, 9))
    made = run_in_cuda_simulator(
        "from fastdiff.kernels.curve import dmdt\n"
        f"dmdt.SHARED_CELLS = {shared_cells}\n"
        + inspect.getsource(launch)
        + "a = launch(time, mag, magerr, offsets, dt_edges, dm_edges, 2, 3)\n"
        + "np.savez(OUT, counts=a[0], fast=a[1], exact=a[2])",
        **arrays,
    )
    check_cuda([made["counts"], made["fast"], made["exact"]], arrays)


def test_gpu_and_cpu_agree(rng):
    if not jit.cuda_available():
        pytest.skip("no CUDA device: the kernels were checked in the simulator and as PTX")
    arrays = on_cuda(rng, (0, 1, 300, 2500))
    made = launch(**arrays, n_parts=4, n_threads=kernel.CUDA_THREADS, put=jit.cuda.to_device)
    check_cuda(made, arrays)


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_compiles_to_ptx(capability):
    points, offsets, edges = np.empty(1), np.empty(1, np.int64), np.empty(1)
    counts, smoothed = np.empty((1, 1, 1), np.int64), np.empty((1, 1, 1))
    signatures = {
        kernel.count_cuda: (points, points, offsets, edges, edges, counts, 1),
        kernel.smooth_cuda: (points, points, points, offsets, edges, edges, True, smoothed, 1),
    }
    for cuda_kernel, signature in signatures.items():
        text = cuda_kernel.ptx(signature, capability)
        assert f".target sm_{capability[0]}{capability[1]}" in text
