"""kernels/curve/dmdt_smooth.py: pairs spread by their errors, on the CPU and by CUDA."""

import inspect

import numpy as np
import pytest

from fastdiff.kernels import jit
from fastdiff.kernels.curve import dmdt
from fastdiff.kernels.curve import dmdt_smooth as kernel
from fastdiff.lightcurves.dmdt import GRIDS
from tests.kernels.curve import inputs
from tests.kernels.curve.reference import dmdt as reference

PAPER = GRIDS["mahabal2017"]


def test_fast_normal_distribution_keeps_its_bound():
    from scipy.special import ndtr

    x = np.linspace(-8, 8, 4001)
    fast = np.array([kernel.normal_cdf(v, False) for v in x])
    exact = np.array([kernel.normal_cdf(v, True) for v in x])
    np.testing.assert_allclose(fast, ndtr(x), rtol=0, atol=kernel.FAST_ERROR)
    np.testing.assert_allclose(exact, ndtr(x), rtol=0, atol=1e-15)


@pytest.mark.parametrize(("exact", "share"), [(True, 1e-12), (False, 4e-7)])
def test_shares_equal_the_reference(rng, exact, share):
    time, mag, err, offsets = inputs.flat([inputs.scattered(rng, n) for n in (0, 1, 2, 30, 200)])
    edges = PAPER.dt.copy(), PAPER.thresholds
    made = kernel.smooth_pairs(time, mag, err, offsets, *edges, exact)
    pairs = dmdt.count_pairs(time, mag, offsets, *edges).sum(axis=2)
    for i in range(len(made)):
        t, m, e = (x[slice(*offsets[i : i + 2])] for x in (time, mag, err))
        expected = reference.smooth(t, m, e, PAPER.dm, PAPER.dt)
        assert (np.abs(made[i].T - expected) <= share * pairs[i] + 1e-11).all()


# ---------------------------------------------------------------------- CUDA


def launch(
    time, mag, magerr, offsets, dt_edges, dm_edges, jobs, exact, n_threads, put=np.array
):  # fmt: skip
    """Shares by the CUDA kernel; `put` brings arrays to the device."""
    from fastdiff.kernels.curve import dmdt_smooth as kernel

    shape = (len(offsets) - 1, len(dt_edges) - 1, len(dm_edges) + 1)
    j, t, m, e, o, dt, dm = map(put, (jobs, time, mag, magerr, offsets, dt_edges, dm_edges))
    counts = put(np.zeros(shape))
    kernel.smooth_cuda.launch(len(jobs), int(n_threads), j, t, m, e, o, dt, dm, bool(exact), counts)
    return counts.copy_to_host() if hasattr(counts, "copy_to_host") else counts


def on_cuda(rng, sizes, n_own):
    time, mag, err, offsets = inputs.flat([inputs.scattered(rng, n) for n in sizes])
    err[::3] = 0
    return {
        "time": time, "mag": mag, "magerr": err, "offsets": offsets, "dt_edges": PAPER.dt.copy(),
        "dm_edges": PAPER.thresholds, "jobs": dmdt.pair_jobs(offsets, n_own),
    }  # fmt: skip


def check_cuda(made, given, exact):
    given = {name: value for name, value in given.items() if name != "jobs"}
    expected = kernel.smooth_pairs(**given, exact=exact)
    counts = dmdt.count_pairs(**{k: v for k, v in given.items() if k != "magerr"})
    share = 1e-12 if exact else 1e-6
    assert (abs(made - expected) <= share * counts.sum(2, keepdims=True)).all()


@pytest.mark.parametrize("shared_cells", [4096, 100])
def test_simulator_and_cpu_agree(rng, run_in_cuda_simulator, shared_cells):
    given = on_cuda(rng, (0, 1, 5, 9), 6)
    made = run_in_cuda_simulator(
        "from fastdiff.kernels.curve import dmdt_smooth\n"
        f"dmdt_smooth.SHARED_CELLS = {shared_cells}\n"
        + inspect.getsource(launch)
        + "given = time, mag, magerr, offsets, dt_edges, dm_edges, jobs\n"
        + "np.savez(OUT, fast=launch(*given, False, 3), exact=launch(*given, True, 3))",
        **given,
    )
    check_cuda(made["fast"], given, False)
    check_cuda(made["exact"], given, True)


@pytest.mark.parametrize("exact", [False, True])
def test_gpu_and_cpu_agree(rng, exact):
    if not jit.cuda_available():
        pytest.skip("no CUDA device: the kernels were checked in the simulator and as PTX")
    given = on_cuda(rng, (0, 1, 300, 2500), dmdt.CUDA_THREADS)
    made = launch(**given, exact=exact, n_threads=dmdt.CUDA_THREADS, put=jit.cuda.to_device)
    check_cuda(made, given, exact)


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_compiles_to_ptx(capability):
    points, offsets, edges = np.empty(1), np.empty(1, np.int64), np.empty(1)
    jobs, counts = np.empty((1, 3), np.int64), np.empty((1, 1, 1))
    signature = (jobs, points, points, points, offsets, edges, edges, True, counts)
    text = kernel.smooth_cuda.ptx(signature, capability)
    assert f".target sm_{capability[0]}{capability[1]}" in text
