"""Checks of a declared kernel: against its twin, on threads, in the simulator, as PTX, on a GPU.

A `Case` is all that they need to know. Poison stands in outputs before each run, so that an
item that is not written does not pass.
"""

import dataclasses
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastdiff.kernels import jit
from fastdiff.kernels.declare import Kernel

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table of cases: a kernel, its twin, and inputs of any size.

    `make_inputs(rng, size)` gives arguments by name; an output that it does not give is made from
    its declaration, for which lengths may be given by name too. `twin(**inputs)` returns what
    the outputs become, several in a tuple. `sizes`: tiny (the simulator takes a millisecond an
    item), of tests, of benchmarks. `tolerance` is relative to the greatest value of an output;
    0 demands equal bits. `note` tells rows of one kernel apart.
    """

    kernel: Kernel
    twin: Callable[..., Any]
    make_inputs: Callable[[np.random.Generator, int], dict[str, Any]]
    sizes: tuple[int, int, int]
    tolerance: float = 1e-5
    note: str = ""

    def __str__(self):
        return "-".join(filter(None, (str(self.kernel), self.note)))

    def inputs(self, size: int) -> dict[str, Any]:
        """The same whenever it is called; `size` is one of `sizes`."""
        return self.make_inputs(np.random.default_rng(20180305), size)


def arguments_of(case: Case, inputs: dict[str, Any]) -> dict[str, Any]:
    """All arguments, in order; outputs are new, and poisoned where they are not read."""
    lengths = {k: v for k, v in inputs.items() if np.ndim(v) == 0}
    for a in case.kernel.arguments:
        if a.name in inputs and a.shape:
            for axis, length in zip(a.shape, inputs[a.name].shape, strict=True):
                if axis.isidentifier():
                    lengths.setdefault(axis, length)
    arguments = {}
    for a in case.kernel.arguments:
        value = inputs.get(a.name)
        if a.role == "out" and value is None:
            names = case.kernel.globals | lengths
            value = np.empty([eval(axis, names) for axis in a.shape], a.dtypes[0])
        if a.role == "out":
            value = np.full_like(value, _poison(value.dtype))
        elif a.role == "inout":
            value = value.copy()
        arguments[a.name] = value
    return arguments


def _poison(dtype):
    if np.issubdtype(dtype, np.integer):
        return np.iinfo(dtype).max // 3
    return True if dtype.kind == "b" else np.nan


def outputs_of(case: Case, arguments: dict[str, Any]) -> tuple[np.ndarray, ...]:
    return tuple(arguments[name] for name in case.kernel.outputs)


def run_on_cpu(case: Case, inputs: dict[str, Any], threads: int) -> tuple[np.ndarray, ...]:
    arguments = arguments_of(case, inputs)
    case.kernel(*arguments.values(), threads=threads)
    return outputs_of(case, arguments)


def launch(case: Case, inputs: dict[str, Any]) -> tuple[np.ndarray, ...]:
    arguments = arguments_of(case, inputs)
    case.kernel.launch(*arguments.values())
    return outputs_of(case, arguments)


def compare(case: Case, made, expected):
    for name, one, other in zip(case.kernel.outputs, made, expected, strict=True):
        other = np.asarray(other)
        assert one.shape == other.shape, name
        if case.tolerance == 0 or one.dtype.kind in "iub":
            np.testing.assert_array_equal(one, other, name)
        else:
            good = np.abs(other[np.isfinite(other)])
            atol = case.tolerance * good.max(initial=0)
            np.testing.assert_allclose(one, other, case.tolerance, atol, err_msg=name)


# ---------------------------------------------------------------- the checks


def check_declaration(case: Case):
    """Inputs have the dtypes and shapes that the kernel declares."""
    arguments = arguments_of(case, case.inputs(case.sizes[0]))
    lengths = case.kernel.globals | {k: v for k, v in arguments.items() if np.ndim(v) == 0}
    for a in case.kernel.arguments:
        value = arguments[a.name]
        if a.shape is None:
            assert np.ndim(value) == 0, a
            continue
        assert value.dtype.name in [np.dtype(each).name for each in a.dtypes], a
        assert value.ndim == len(a.shape), a
        for axis, length in zip(a.shape, value.shape, strict=True):
            if axis.isidentifier():
                lengths.setdefault(axis, length)
    for a in case.kernel.arguments:
        if a.shape is not None:
            shape = tuple(eval(axis, lengths) for axis in a.shape)
            assert arguments[a.name].shape == shape, a


def check_twin(case: Case):
    inputs = case.inputs(case.sizes[1])
    expected = case.twin(**inputs)
    if len(case.kernel.outputs) == 1:
        expected = (expected,)
    compare(case, run_on_cpu(case, inputs, 1), expected)


def check_threads(case: Case):
    """The number of threads does not change a bit."""
    inputs = case.inputs(case.sizes[1])
    one, three = (run_on_cpu(case, inputs, threads) for threads in (1, 3))
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


def check_simulator(case: Case, simulated: dict[str, np.ndarray]):
    """`simulated` is what `run_simulator` made of all cases of a module."""
    inputs = case.inputs(case.sizes[0])
    made = [simulated[f"{case}:{name}"] for name in case.kernel.outputs]
    compare(case, made, run_on_cpu(case, inputs, 1))


def check_ptx(kernel: Kernel, capability: tuple[int, int]):
    for dtypes, text in kernel.ptx(capability).items():
        assert f".target sm_{capability[0]}{capability[1]}" in text, dtypes


def check_gpu(case: Case):
    """What a GPU makes, to which Numba copies the arrays; only where there is one."""
    inputs = case.inputs(case.sizes[1])
    compare(case, launch(case, inputs), run_on_cpu(case, inputs, 1))


# ---------------------------------------------------------------- the simulator


def run_simulator(module: str, folder: Path) -> dict[str, np.ndarray]:
    """Outputs of the CASES of a module of tests, by "case:output", from Numba's simulator.

    In a process of its own, because Numba decides at import whether kernels are simulated.
    """
    out = folder / f"{module}.npz"
    code = (
        f"import sys; sys.path.append({str(ROOT)!r})\n"
        "from tests.kernels import check_kernel\n"
        f"check_kernel.simulate({module!r}, {str(out)!r})"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"},
        cwd=folder, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with np.load(out) as made:
        return dict(made)


def simulate(module: str, out: str):
    assert jit.numba.config.ENABLE_CUDASIM
    made = {}
    for case in importlib.import_module(module).CASES:
        outputs = launch(case, case.inputs(case.sizes[0]))
        made |= {f"{case}:{k}": v for k, v in zip(case.kernel.outputs, outputs, strict=True)}
    np.savez(out, **made)
