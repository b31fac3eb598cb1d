"""What kernels/declare.py makes of declarations."""

import os
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fastdiff.kernels import declare, jit
from fastdiff.kernels.declare import kernel
from tests import pretend_cupy
from tests.kernels import check_kernel, toy_kernels

every_case = pytest.mark.parametrize("case", toy_kernels.CASES, ids=str)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    return check_kernel.run_simulator(
        "tests.kernels.toy_kernels", tmp_path_factory.mktemp("simulated")
    )


@every_case
def test_every_kind_passes_the_checks(case, simulated):
    check_kernel.check_declaration(case)
    check_kernel.check_twin(case)
    check_kernel.check_threads(case)
    check_kernel.check_simulator(case, simulated)
    check_kernel.check_ptx(case.kernel, (9, 0))


@every_case
def test_checks_find_an_item_that_is_not_written(case, monkeypatch):
    def lazy(loop, n_items, threads, *arguments):
        loop(0, n_items - 1, *arguments)

    if case.tolerance:
        monkeypatch.setattr(jit, "run", lazy)
        with pytest.raises(AssertionError):
            check_kernel.check_twin(case)


@every_case
def test_arrays_of_a_gpu(case, monkeypatch):
    if isinstance(case.kernel, declare.Pair):
        pytest.skip("the stand-in for CuPy has no blocks")
    cupy = pretend_cupy.install(monkeypatch)
    inputs = case.inputs(case.sizes[1])
    given = check_kernel.arguments_of(case, inputs)
    there = [cupy.asarray(v) if isinstance(v, np.ndarray) else v for v in given.values()]
    case.kernel(*there)
    made = [a.get() for a, name in zip(there, given, strict=True) if name in case.kernel.outputs]
    check_kernel.compare(case, made, check_kernel.run_on_cpu(case, inputs, 1))


def test_no_items_are_no_work():
    toy_kernels.scaled(np.empty((0, 4, 4)), 1.0, np.empty((0, 4, 4), np.float32))
    toy_kernels.scaled(np.empty((3, 4, 0)), 1.0, np.empty((3, 4, 0), np.float32))
    toy_kernels.scaled.launch(np.empty((0, 4, 4)), 1.0, np.empty((0, 4, 4), np.float32))


def test_ptx_has_a_text_for_each_dtype():
    assert list(toy_kernels.scaled.ptx((8, 0))) == ["float32", "float64"]


def test_scalars_take_their_declared_type():
    out = np.empty((1, 2, 2), np.float32)
    for gain in (2, 2.0, np.float32(2)):
        toy_kernels.scaled(np.ones((1, 2, 2)), gain, out)
    compiled = {signature[3] for signature in toy_kernels.scaled.cpu.signatures}
    assert compiled == {jit.numba.float64}


def test_scratch_is_where_it_fits():
    names = [s.name for s in toy_kernels.summed._of_launch]
    assert names == ["many", "copy"]
    assert "sums = cuda.local.array((TERMS,), np.float64)" in toy_kernels.summed.source
    assert "row[item // (nx - 2)]" in toy_kernels.smoothed.source


def test_loops_read_as_if_written_by_hand():
    assert toy_kernels.scaled.source.split("\n\n\n", 1)[1] == (
        "def scaled_sizes(image, gain, out):\n"
        '    """Lengths of the axes; shape and dtype of scratch that a launch allocates."""\n'
        "    n = image.shape[0]\n"
        "    ny = image.shape[1]\n"
        "    nx = image.shape[2]\n"
        "    return (n, ny, nx,), ()\n"
        "\n\n"
        "def scaled_cpu(start, stop, image, gain, out):\n"
        '    """Item: one of n x ny."""\n'
        "    ny = image.shape[1]\n"
        "    nx = image.shape[2]\n"
        "    for item in range(start, stop):\n"
        "        frame, y = item // ny, item % ny\n"
        "        scaled_item(frame, y, 0, nx, image, gain, out)\n"
        "\n\n"
        "def scaled_cuda(image, gain, out):\n"
        '    """Thread: one of n x ny x nx."""\n'
        "    n = image.shape[0]\n"
        "    ny = image.shape[1]\n"
        "    nx = image.shape[2]\n"
        "    item = cuda.grid(1)\n"
        "    if item < n * ny * nx:\n"
        "        frame, y, first = item // (ny * nx), item // nx % ny, item % nx\n"
        "        scaled_item(frame, y, first, first + 1, image, gain, out)\n"
    )


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"over": "n", "x": "float32 (n", "out": "float32 (n)"}, r"`x` is \"float32 \(n\""),
        ({"over": "n", "y": "float32 (n)", "out": "float32 (n)"}, "declared: y, out"),
        ({"over": "n, n", "x": "float32 (n)", "out": "float32 (n)"}, "over 2 axes"),
        ({"over": "rows", "x": "float32 (n)", "out": "float32 (n)"}, "lengths rows"),
        ({"over": "n", "x": "float23 (n)", "out": "float32 (n)"}, "float23"),
    ],
)
def test_a_wrong_declaration_says_what_is_wrong(options, message):
    def function(i, x, out):
        pass

    with pytest.raises(TypeError, match=message):
        kernel(**options)(function)


def test_names_of_the_loops_are_refused():
    with pytest.raises(TypeError, match="'item'"):

        @kernel(over="n", item="float32 (n)")
        def function(i, item):
            pass


def test_loops_by_hand_have_the_declared_arguments():
    with pytest.raises(TypeError, match=r"pair.cuda. has the parameters y; they must be x"):

        @kernel(over="n", x="float32 (n)")
        class pair:
            def cpu(start, stop, x):
                pass

            def cuda(y):
                pass


# ---------------------------------------------------------------- where the source is kept


def run(code, **environment):
    """Output of code in a new process that knows the toy kernels."""
    head = f"import sys; sys.path.append({str(check_kernel.ROOT)!r})\n"
    given = {k: v for k, v in (os.environ | environment).items() if v is not None}
    return subprocess.run(
        [sys.executable, "-P", "-c", head + code], env=given, capture_output=True, text=True
    )


CALL = """
import numpy as np
from fastdiff.kernels import jit
from tests.kernels.toy_kernels import squared
out = np.empty(4)
squared(np.arange(4.0), out, threads=1)
assert out.tolist() == [0, 1, 4, 9], out
path = squared.cpu.__code__.co_filename
hits = sum(squared.cpu.stats.cache_hits.values()) if hasattr(squared.cpu, "stats") else "no jit"
print(path, hits)
"""


def printed(done):
    assert done.returncode == 0, done.stderr
    return done.stdout.split(maxsplit=1)


def test_a_second_process_finds_the_compiled_loop(tmp_path):
    for variable in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR"):
        where = {"NUMBA_CACHE_DIR": None, variable: str(tmp_path / variable)}
        (path, first), (again, second) = (printed(run(CALL, **where)) for _ in range(2))
        assert Path(path).is_relative_to(tmp_path / variable)
        assert again == path
        assert (first.strip(), second.strip()) == ("0", "1")


def test_processes_that_start_together(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: run(CALL, NUMBA_CACHE_DIR=str(tmp_path)), range(4)))
    assert len({printed(each)[0] for each in made}) == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_without_jit(tmp_path):
    assert "no jit" in printed(run(CALL, NUMBA_DISABLE_JIT="1"))[1]


def test_a_folder_that_cannot_be_written_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("")
    where = str(tmp_path / "file")  # no folder can be made in a file, not even by root
    path, _ = printed(run(CALL, XDG_CACHE_HOME=where, NUMBA_CACHE_DIR=None, TMPDIR=str(tmp_path)))
    assert Path(path).parent.parent.parent.name == f"fastdiff-{os.getuid()}"


def test_nowhere_to_write(tmp_path):
    """The loops live in memory, and a traceback still shows their lines."""
    nowhere = (
        "import tempfile\n"
        "def refuse(*_arguments, **_options):\n"
        "    raise FileNotFoundError\n"
        "tempfile.gettempdir = tempfile.TemporaryFile = refuse\n"
        + CALL
        + "print(jit.CACHE_FOLDER)\n"
        "import inspect\n"
        "print(inspect.getsource(squared.cuda.function))\n"
    )
    path, rest = run(nowhere, NUMBA_CACHE_DIR=None).stdout.split(maxsplit=1)
    assert path == "<fastdiff"
    assert "None" in rest
    assert "squared_item(first, first + 1, x, out)" in rest


def test_home_may_be_unknown(tmp_path):
    printed(run(CALL, HOME=None, NUMBA_CACHE_DIR=None, TMPDIR=str(tmp_path)))


def test_tracebacks_show_the_loop(monkeypatch):
    kernel_of_one = toy_kernels.squared
    monkeypatch.setitem(kernel_of_one._made, "cpu", kernel_of_one.cpu.py_func)
    try:
        kernel_of_one(np.ones(3), np.ones(2))
    except IndexError as error:
        lines = "".join(traceback.format_exception(error))
    assert "toy_kernels.squared.py" in lines
    assert "squared_item(start, stop, x, out)" in lines


def test_one_thread_makes_the_loops():
    @kernel(over="n", x="inout float64 (n)")
    def doubled(i, x):
        x[i] = 2 * x[i]

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: id(doubled.cpu), range(8)))
    assert len(set(made)) == 1
