"""kernels/curve/dmdt.py: paths of short and long curves, and CUDA, against all pairs."""

import inspect

import numpy as np
import pytest

from fastdiff.kernels import jit
from fastdiff.kernels.curve import dmdt as kernel
from fastdiff.lightcurves.dmdt import GRIDS, Grid
from tests.kernels.curve import inputs
from tests.kernels.curve.reference import dmdt as reference

PAPER = GRIDS["mahabal2017"]


def edges_of(grid):
    return grid.dt.copy(), grid.thresholds


@pytest.mark.parametrize("kind", ["plain", "coarse", "constant", "wide", "tiny"])
@pytest.mark.parametrize("name", GRIDS)
def test_counts_equal_the_reference(rng, kind, name):
    grid = GRIDS[name]
    curves = [inputs.scattered(rng, n, kind) for n in (0, 1, 2, 90, 300)]
    time, mag, _, offsets = inputs.flat(curves)
    made = kernel.count_pairs(time, mag, offsets, *edges_of(grid))
    for counts, (time, mag, _) in zip(made, curves, strict=True):
        expected = reference.count(time, mag, grid.dm, grid.dt, grid.symmetric)
        np.testing.assert_array_equal(counts.T, expected)


@pytest.mark.parametrize("kind", ["plain", "coarse", "constant", "wide"])
@pytest.mark.parametrize("threads", [1, 3])
def test_path_of_long_curves_equals_the_other(rng, kind, threads):
    time, mag, _, offsets = inputs.flat([inputs.scattered(rng, 1200, kind)])
    for grid in (PAPER, Grid([-0.3, -0.1, 0, 0.4], [0.5, 2, 2.5, 30]), Grid.linear(2, 9, 1e6, 2)):
        [expected] = kernel.count_pairs(time, mag, offsets, *edges_of(grid))
        np.testing.assert_array_equal(count_long(time, mag, grid, threads), expected)


def count_long(time, mag, grid, threads):
    """Counts by the path of long curves, in three jobs."""
    splits = np.array([0, 1, 700, time.size])
    counts = np.empty((3, grid.shape[1], grid.shape[0] + 2), np.int64)
    order = np.argsort(mag, kind="stable").astype(np.int32)
    edges = edges_of(grid)
    jit.run(kernel.count_long_cpu, 3, threads, splits, time, mag, order, *edges, counts)
    return counts.sum(axis=0)


def test_tables_are_right_or_unsure(rng):
    """An entry that is sure has the number of edges of every x that its integer may stand for."""
    edges = np.sort(rng.uniform(-1, 1, 9))
    table = np.empty(202, np.uint16)
    kernel.fill_table(table, edges, 100.0, 100.0, 3)
    for level, entry in enumerate(table):
        low, high = ((level - 100.0 + side) / 100 for side in (-1, 1))
        if entry < kernel.UNSURE:
            assert entry == 3 * np.searchsorted(edges, low, "right")
            assert entry == 3 * np.searchsorted(edges, high, "right")
        for x in (low, high):
            resolved = kernel.resolve(np.uintp(entry), edges, np.uintp(3), x)
            assert entry < kernel.UNSURE or resolved == 3 * np.searchsorted(edges, x, "right")


def test_jobs_have_each_point_once():
    offsets = np.array([0, 5, 5, 6, 17])
    for n_own in (1, 4, 100, np.array([2, 1, 3, 5])):
        jobs = kernel.pair_jobs(offsets, n_own)
        owned = [np.arange(job[kernel.FIRST], job[kernel.LAST]) for job in jobs]
        np.testing.assert_array_equal(np.concatenate(owned), np.arange(17))
        for job, points in zip(jobs, owned, strict=True):
            first, last = offsets[job[kernel.CURVE]], offsets[job[kernel.CURVE] + 1]
            assert ((points >= first) & (points < last)).all()
        assert set(jobs[:, kernel.CURVE]) == {0, 1, 2, 3}
    assert kernel.pair_jobs(offsets[:1], 4).shape == (0, 3)


# ---------------------------------------------------------------------- CUDA


def launch(time, mag, offsets, dt_edges, dm_edges, jobs, n_threads, put=np.array):
    """Counts by the CUDA kernel; `put` brings arrays to the device."""
    from fastdiff.kernels.curve import dmdt as kernel

    shape = (len(offsets) - 1, len(dt_edges) - 1, len(dm_edges) + 1)
    j, t, m, o, dt, dm = map(put, (jobs, time, mag, offsets, dt_edges, dm_edges))
    counts = put(np.zeros(shape, np.int64))
    kernel.count_cuda.launch(len(jobs), int(n_threads), j, t, m, o, dt, dm, counts)
    return counts.copy_to_host() if hasattr(counts, "copy_to_host") else counts


def on_cuda(rng, sizes, n_own):
    time, mag, _, offsets = inputs.flat([inputs.scattered(rng, n) for n in sizes])
    dt_edges, dm_edges = edges_of(PAPER)
    jobs = kernel.pair_jobs(offsets, n_own)
    return {
        "time": time, "mag": mag, "offsets": offsets, "dt_edges": dt_edges,
        "dm_edges": dm_edges, "jobs": jobs,
    }  # fmt: skip


def check_cuda(made, given):
    given = {name: value for name, value in given.items() if name != "jobs"}
    np.testing.assert_array_equal(made, kernel.count_pairs(**given))


@pytest.mark.parametrize("shared_cells", [4096, 100])
def test_simulator_and_cpu_agree(rng, run_in_cuda_simulator, shared_cells):
    given = on_cuda(rng, (0, 1, 5, 9), 6)
    made = run_in_cuda_simulator(
        "from fastdiff.kernels.curve import dmdt\n"
        f"dmdt.SHARED_CELLS = {shared_cells}\n"
        + inspect.getsource(launch)
        + "counts = launch(time, mag, offsets, dt_edges, dm_edges, jobs, 3)\n"
        + "np.savez(OUT, counts=counts)",
        **given,
    )
    check_cuda(made["counts"], given)


def test_gpu_and_cpu_agree(rng):
    if not jit.cuda_available():
        pytest.skip("no CUDA device: the kernels were checked in the simulator and as PTX")
    given = on_cuda(rng, (0, 1, 300, 2500), kernel.CUDA_THREADS)
    made = launch(**given, n_threads=kernel.CUDA_THREADS, put=jit.cuda.to_device)
    check_cuda(made, given)


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_compiles_to_ptx(capability):
    points, offsets, edges = np.empty(1), np.empty(1, np.int64), np.empty(1)
    jobs, counts = np.empty((1, 3), np.int64), np.empty((1, 1, 1), np.int64)
    signature = (jobs, points, points, offsets, edges, edges, counts)
    text = kernel.count_cuda.ptx(signature, capability)
    assert f".target sm_{capability[0]}{capability[1]}" in text
