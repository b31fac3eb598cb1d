"""Fixtures that several test files use."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from fastdiff.kernels import jit

ROOT = Path(__file__).resolve().parent.parent
# At the end, so that `tests.` is found and an installed fastdiff still comes first.
sys.path.append(str(ROOT))


@pytest.fixture
def rng():
    return np.random.default_rng(20180305)


@pytest.fixture(scope="session")
def data_folder():
    """Folder of real images; $FASTDIFF_DATA, or ``shared/data`` beside the checkout."""
    folder = Path(os.environ.get("FASTDIFF_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "INDEX.md").is_file():
        pytest.skip(f"real images are not at {folder}: set FASTDIFF_DATA to their folder")
    return folder


@pytest.fixture(params=["pretended", "real"])
def cupy(request, monkeypatch):
    """CuPy on a GPU, and what stands in for it on the CPU (tests/pretend_cupy.py)."""
    from tests import pretend_cupy  # found only now that the path has it

    if request.param == "pretended":
        return pretend_cupy.install(monkeypatch)
    if not jit.cuda_available():
        pytest.skip("no CUDA device: the same is run on pretended arrays")
    return pytest.importorskip("cupy")


@pytest.fixture
def run_in_cuda_simulator(tmp_path):
    """Run code in Numba's CUDA simulator: it must end with ``np.savez(OUT, name=array, ...)``.

    A process of its own, because Numba decides at import whether kernels are simulated. Arrays
    given by name are variables of the code; its arrays come back as a dict.
    """

    def run(code, **arrays):
        np.savez(tmp_path / "in.npz", **arrays)
        out = tmp_path / "out.npz"
        head = f"import numpy as np\nOUT = {str(out)!r}\n"
        head += f"globals().update(np.load({str(tmp_path / 'in.npz')!r}))\n"
        environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
        done = subprocess.run(
            [sys.executable, "-c", head + textwrap.dedent(code)],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        with np.load(out) as made:
            return dict(made)

    return run


# Rooms whose tests take most of the time: they compile kernels, train networks, simulate a GPU,
# draw pictures or start processes. A test elsewhere is marked by `@pytest.mark.slow`.
_SLOW = ("cli", "cubes", "difference", "io", "kernels", "lightcurves", "models", "pipeline",
         "plots", "simulate", "training", "test_examples.py", "test_package.py")  # fmt: skip


def _is_slow(path):
    place = path.relative_to(ROOT).parts if path.is_relative_to(ROOT) else ()
    return place[:1] == ("tests",) and len(place) > 1 and place[1] in _SLOW


def pytest_ignore_collect(collection_path, config):
    """Importing the files of slow rooms would take longer than the other tests run."""
    return True if config.option.markexpr == "not slow" and _is_slow(collection_path) else None


def pytest_collection_modifyitems(items):
    for item in items:
        if _is_slow(item.path):
            item.add_marker("slow")
