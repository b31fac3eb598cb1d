"""kernels/curve/features.py against its NumPy twin, and by CUDA."""

import inspect

import numpy as np
import pytest

from fastdiff.kernels import jit
from fastdiff.kernels.curve import features as kernel
from fastdiff.kernels.curve.columns import CURVE_FEATURES
from tests.kernels.curve import inputs
from tests.kernels.curve.reference import features as reference


@pytest.mark.parametrize("with_errors", [True, False])
def test_agrees_with_reference(rng, with_errors):
    curves = list(zip(*inputs.ragged(rng, (300, 299, 100, 47, 9, 3, 2, 1)), strict=True))
    time, mag, magerr, offsets = inputs.flat(curves)
    made = kernel.measure_curves(time, mag, magerr if with_errors else magerr[:0], offsets)
    for i in range(len(curves)):
        t, m, e = (x[slice(*offsets[i : i + 2])] for x in (time, mag, magerr))
        expected = reference.features(t, m, e if with_errors else None)
        for k, name in enumerate(CURVE_FEATURES):
            np.testing.assert_allclose(made[i, k], expected[name], 1e-9, 1e-13, err_msg=name)


def test_sorts_crowded_magnitudes(rng):
    """One far magnitude leaves all others in one bucket: the shell sort's work."""
    for n in (30, 5000):
        mag = np.append(rng.normal(16, 1e-6, n), 30.0)
        ordered, counts = np.empty(n + 1), np.empty(n + 1, np.int64)
        if n == 30:
            kernel.sort_magnitudes(mag, 0, n + 1, mag.min(), 30.0, ordered, counts, 0)
            np.testing.assert_array_equal(ordered, np.sort(mag))
        offsets = np.array([0, n + 1])
        [made] = kernel.measure_curves(np.arange(n + 1.0), mag, mag[:0], offsets)
        expected = reference.features(np.arange(n + 1.0), mag, None)
        for k, name in enumerate(CURVE_FEATURES):
            np.testing.assert_allclose(made[k], expected[name], 1e-7, 1e-13, err_msg=name)


# ---------------------------------------------------------------- CUDA


def launch_all(time, mag, magerr, offsets, put=np.asarray):
    """The CUDA kernel; `put` brings an array to the device."""
    n = len(offsets) - 1
    out = put(np.zeros((n, len(kernel.CURVE))))
    scratch = [put(np.zeros(len(mag))), put(np.zeros(len(mag), np.int64))]
    on_device = [put(a) for a in (time, mag, magerr, offsets)]
    kernel.features_cuda.launch(-(-n // 32), 32, *on_device, *scratch, out)
    return out.copy_to_host() if hasattr(out, "copy_to_host") else out


def cuda_input(rng):
    time, mag, magerr = inputs.ragged(rng, (40, 29, 12, 7, 2, 1))
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in time])])
    flat = [np.concatenate(x) for x in ([t - t[0] for t in time], mag, magerr)]
    return dict(zip(("time", "mag", "magerr"), flat, strict=True)) | {"offsets": offsets}


def on_cpu(time, mag, magerr, offsets):
    out = np.empty((len(offsets) - 1, len(kernel.CURVE)))
    jit.run(kernel.features_cpu, len(out), 1, time, mag, magerr, offsets, out)
    return out


def test_simulator_and_cpu_agree(rng, run_in_cuda_simulator):
    given = cuda_input(rng)
    made = run_in_cuda_simulator(
        "from fastdiff.kernels.curve import features as kernel\n"
        + inspect.getsource(launch_all)
        + "np.savez(OUT, out=launch_all(time, mag, magerr, offsets))",
        **given,
    )
    np.testing.assert_allclose(made["out"], on_cpu(**given), rtol=1e-9, atol=1e-13)


def test_gpu_and_cpu_agree(rng):
    if not jit.cuda_available():
        pytest.skip("no CUDA device: the kernels were checked in the simulator and as PTX")
    given = cuda_input(rng)
    made = launch_all(**given, put=jit.cuda.to_device)
    np.testing.assert_allclose(made, on_cpu(**given), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_compiles_to_ptx(capability):
    x, i = np.empty(1), np.empty(1, np.int64)
    signature = (x, x, x, i, x, i, np.empty((1, 1)))
    text = kernel.features_cuda.ptx(signature, capability)
    assert f".target sm_{capability[0]}{capability[1]}" in text
