"""The sources keep to the plan of the house; and each rule of it can fail."""

from pathlib import Path

import pytest

from tests.house import plan, rules
from tests.house.__main__ import report
from tests.house.sources import House

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def house():
    return House(ROOT)


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps(rule, house):
    if wrong := list(rule(house)):
        pytest.fail("\n".join([rule.__doc__, *wrong]), pytrace=False)


def test_floors_of_the_table_rise():
    assert list(plan.ROOMS.values()) == sorted(plan.ROOMS.values())


# ---------------------------------------------------------------- the rules themselves

LONG = "def long():\n" + "    pass\n" * 60
WIDE = "def wide(a, b, c, d, e, f, g, h, i):\n    pass\n"
TYPED = "if TYPE_CHECKING:\n    from fastdiff.cubes import cpm\n"
LATE = "def late():\n    import importlib\n    return importlib.import_module"
TESTED = "a = 1\n" * plan.MIN_TESTED

# What is done -> (rule, file, source, what the message says).
BROKEN = {
    "file without a room": (rules.in_rooms, "fastdiff/odd.py", "", "odd.py: stands in no room"),
    "kernel without a room": (rules.in_rooms, "kernels/odd.py", "", "odd.py: stands in no room"),
    "room without a file": (rules.in_rooms, "fastdiff/core/a.py", "", "'cli' has no file"),
    "upward": (
        rules.downward, "fastdiff/core/a.py", "import os\nfrom fastdiff.cli import app\n",
        "a.py:2: from fastdiff.cli import app: cli on floor 7 is above core on floor 1: move",
    ),
    "upward, in a function": (
        rules.downward, "fastdiff/stars/a.py", "def f():\n    from fastdiff.io.fits import read",
        "a.py:2: from fastdiff.io.fits import read: io on floor 5 is above stars on floor 2",
    ),
    "sideways": (
        rules.downward, "fastdiff/cubes/a.py", "from fastdiff.detect.find import find\n",
        "a.py:1: from fastdiff.detect.find import find: detect is beside cubes on floor 4: move",
    ),
    "sideways, for types": (
        rules.downward, "fastdiff/detect/a.py", TYPED, "a.py:2: from fastdiff.cubes import cpm",
    ),
    "sideways, in kernels": (
        rules.downward, "kernels/cube/a.py", "from ..image.tile import cut\n",
        "a.py:1: from ..image.tile import cut: kernels.image is beside kernels.cube on floor 0.3",
    ),
    "upward, in kernels": (
        rules.downward, "kernels/jit.py", "from .linalg import factor\n",
        "jit.py:1: from .linalg import factor: kernels.linalg on floor 0.2 is above kernels.jit",
    ),
    "kernels from above": (
        rules.downward, "kernels/image/a.py", "from fastdiff.core import arrays\n",
        "a.py:1: from fastdiff.core import arrays: core on floor 1 is above kernels.image",
    ),
    "kernels by their folder": (
        rules.downward, "fastdiff/core/a.py", "from kernels import jit\n",
        "a.py:1: from kernels import jit: kernels/ is installed as fastdiff.kernels",
    ),
    "import_module": (
        rules.downward, "fastdiff/core/a.py", f"{LATE}('fastdiff.cli.app')\n",
        "a.py:3: 'fastdiff.cli.app': cli on floor 7 is above core",
    ),
    "import_module of a sum": (
        rules.downward, "fastdiff/core/a.py", f"{LATE}('fastdiff.' + name)\n",
        "a.py:3: import_module('fastdiff.'): imports the package itself",
    ),
    "import_module by dots": (
        rules.downward, "fastdiff/core/a.py", f"{LATE}('..cli', __package__)\n",
        "a.py:3: import_module('..cli'): cli on floor 7 is above core",
    ),
    "f-string": (
        rules.downward, "fastdiff/core/a.py", f"{LATE}(f'fastdiff.plots.{{name}}')\n",
        "a.py:3: 'fastdiff.plots.': plots on floor 5 is above core",
    ),
    "module in a table of strings": (
        rules.downward, "fastdiff/cubes/a.py", "M = {\n    'a': 'fastdiff.difference.zogy'}\n",
        "a.py:2: 'fastdiff.difference.zogy': difference is beside cubes",
    ),
    "the package": (
        rules.downward, "fastdiff/cli/a.py", "import fastdiff\n",
        "a.py:1: import fastdiff: imports the package itself: write `from fastdiff.ROOM import",
    ),
    "a module by its whole name": (
        rules.downward, "fastdiff/cli/a.py", "import fastdiff.core.arrays as arrays\n",
        "a.py:1: import fastdiff.core.arrays: imports the package itself",
    ),
    "a name of the package": (
        rules.downward, "fastdiff/cli/a.py", "from fastdiff import subtract_batch\n",
        "a.py:1: from fastdiff import subtract_batch: imports the package itself",
    ),
    "dots out of a room": (
        rules.downward, "fastdiff/cli/a.py", "from ..core import arrays\n",
        "a.py:1: from ..core import arrays: dots lead out of the room: write `from fastdiff.core",
    ),
    "unknown room": (
        rules.downward, "fastdiff/cli/a.py", "from fastdiff.attic import box\n",
        "a.py:1: from fastdiff.attic import box: fastdiff.attic is in no room",
    ),
    "Numba above the kernels": (
        rules.foreign, "fastdiff/core/a.py", "def f():\n    import numba\n",
        "a.py:2: import numba: only kernels/jit.py imports Numba",
    ),
    "Numba in a kernel": (
        rules.foreign, "kernels/image/a.py", "from numba import cuda\n", "a.py:1: from numba",
    ),
    "SciPy in a kernel": (
        rules.foreign, "kernels/image/a.py", "from scipy import fft\n",
        "a.py:1: from scipy import fft: kernels import NumPy and the standard library only",
    ),
    "jit.run above": (
        rules.loops_below, "fastdiff/cubes/a.py", "\njit.run(loop, 3, None)\n", "a.py:2: jit.run:",
    ),
    "jit.launch above": (
        rules.loops_below, "fastdiff/cubes/a.py", "jit.launch(k, 3, x)\n", "a.py:1: jit.launch:",
    ),
    "run from jit": (
        rules.loops_below, "fastdiff/cubes/a.py", "from fastdiff.kernels.jit import run\n",
        "a.py:1: jit.run: loops are called on floor 0 only",
    ),
    "loop as an attribute": (
        rules.loops_below, "fastdiff/cubes/a.py", "f = kernel.bridge_cpu\n",
        "a.py:1: kernel.bridge_cpu: loops are called on floor 0 only",
    ),
    "loop by its name": (
        rules.loops_below, "fastdiff/cubes/a.py", "from fastdiff.kernels.image.a import b_cuda\n",
        "a.py:1: a.b_cuda:",
    ),
    "isinstance of arrays": (
        rules.kinds_at_the_door, "fastdiff/cubes/a.py", "isinstance(x, (list, np.ndarray))\n",
        "a.py:1: isinstance(..., ndarray): asks for the kind of an array: let fastdiff/core/arrays",
    ),
    "attribute of CUDA arrays": (
        rules.kinds_at_the_door, "fastdiff/io/a.py", "hasattr(x, '__cuda_array_interface__')\n",
        "a.py:1: __cuda_array_interface__",
    ),
    "loaded CuPy": (
        rules.kinds_at_the_door, "fastdiff/io/a.py", "sys.modules['cupy']\n", "a.py:1: sys.modules",
    ),
    "imported CuPy": (
        rules.kinds_at_the_door, "fastdiff/io/a.py", "from cupyx import lapack\n",
        "a.py:1: from cupyx import lapack",
    ),
    "long function": (
        rules.within_limits, "fastdiff/core/a.py", LONG,
        "a.py:1: long: 61 lines without its docstring, more than 60: name its parts",
    ),
    "long test": (rules.within_limits, "tests/test_a.py", LONG, "test_a.py:1: long: 61 lines"),
    "many arguments": (
        rules.within_limits, "fastdiff/core/a.py", WIDE,
        "a.py:1: wide: 9 positional arguments, more than 8: make some keyword-only",
    ),
    "many arguments of a kernel": (
        rules.within_limits, "kernels/image/a.py",
        "@jit.item\ndef wide(a, b, c, d, e, f, g, h, i, j, k, l, m):\n    pass\n",
        "a.py:2: wide: 13 positional arguments, more than 12",
    ),
    "long file": (
        rules.within_limits, "fastdiff/core/a.py", "\n" * 501, "a.py: 501 lines, more than 500",
    ),
    "class twice": (
        rules.one_name_one_class, "fastdiff/core/a.py", "class A: ...\nclass A: ...\n",
        "fastdiff/core/a.py:1, fastdiff/core/a.py:2: two classes A",
    ),
    "no docstring": (rules.documented, "fastdiff/core/a.py", "a = 1\n", "a.py:1: has no docstring"),
    "no test file": (
        rules.tested, "fastdiff/core/a.py", TESTED,
        "a.py: has no test file: write tests/core/test_a.py (or tests/test_core.py for its folder)",
    ),
}  # fmt: skip

# What is allowed -> (rule, file, source).
ALLOWED = {
    "own room": (rules.downward, "fastdiff/core/a.py", "from . import b\nfrom .b import c\n"),
    "lower floor": (rules.downward, "fastdiff/cli/a.py", "from fastdiff.core import arrays\n"),
    "other folder of a room": (
        rules.downward, "fastdiff/difference/zogy/a.py", "from ..options import check\n",
    ),
    "kernels by dots": (rules.downward, "kernels/cube/a.py", "from ..linalg.factor import solve\n"),
    "the public names": (rules.downward, plan.ROOF, "from .cli.app import main\n"),
    "the registry": (rules.downward, plan.REGISTRY, "M = {'cpm': 'fastdiff.cubes.cpm'}\n"),
    "metadata of a network": (rules.downward, "fastdiff/core/a.py", "get('fastdiff.kind')\n"),
    "a module in a sentence": (rules.downward, "fastdiff/core/a.py", "'''See fastdiff.cli.'''\n"),
    "logger": (rules.no_circles, "fastdiff/core/a.py", "getLogger('fastdiff.core')\n"),
    "Numba at its place": (rules.foreign, plan.NUMBA, "import numba\nimport numpy\nimport os\n"),
    "SciPy above": (rules.foreign, "fastdiff/core/a.py", "import scipy\n"),
    "loops in kernels": (rules.loops_below, "kernels/image/a.py", "jit.run(a_cpu, 1, None)\n"),
    "number of cores": (rules.loops_below, "fastdiff/core/a.py", "jit.cpu_count()\nx.is_cuda\n"),
    "the door": (rules.kinds_at_the_door, plan.ARRAYS, "isinstance(x, np.ndarray)\nimport cupy\n"),
    "numbers": (rules.kinds_at_the_door, "fastdiff/io/a.py", "isinstance(x, (int, np.integer))\n"),
    "docstring": (
        rules.within_limits, "fastdiff/core/a.py", "def f():\n    '''A." + "\n" * 60 + "    '''\n",
    ),
    "keyword-only": (
        rules.within_limits, "fastdiff/core/a.py",
        "class A:\n    def f(self, a, b, c, d, e, f, g, h, *, i, j):\n        pass\n",
    ),
    "item": (
        rules.within_limits, "kernels/image/a.py",
        "@jit.item\ndef f(a, b, c, d, e, f, g, h, i, j, k, l):\n    pass\n",
    ),
    "arguments of a test": (rules.within_limits, "tests/test_a.py", WIDE),
    "short module": (rules.tested, "fastdiff/core/a.py", TESTED[6:]),
}  # fmt: skip


def build(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return House(root)


@pytest.mark.parametrize("case", BROKEN)
def test_is_refused(case, tmp_path):
    rule, path, text, message = BROKEN[case]
    wrong = [line for line in rule(build(tmp_path, {path: text})) if message in line]
    assert len(wrong) == 1


@pytest.mark.parametrize("case", ALLOWED)
def test_is_allowed(case, tmp_path):
    rule, path, text = ALLOWED[case]
    assert not list(rule(build(tmp_path, {path: text})))


def test_circles_are_named(tmp_path):
    house = build(tmp_path, {
        "fastdiff/core/a.py": "def f():\n    from .b import x\n",
        "fastdiff/core/b.py": "if TYPE_CHECKING:\n    from fastdiff.core import c\n",
        "fastdiff/core/c.py": "NAME = 'fastdiff.core.a'\n",
        "fastdiff/io/__init__.py": "from .fits import read\n",
        "fastdiff/io/fits.py": "from fastdiff.io import names\n",
    })  # fmt: skip
    core, io = rules.no_circles(house)
    assert "fastdiff.core.a -> fastdiff.core.b -> fastdiff.core.c -> fastdiff.core.a" in 2 * core
    assert "fastdiff.io.fits -> fastdiff.io" in io


@pytest.mark.parametrize(
    "name", ["tests/core/test_a.py", "tests/core/test_a_on_gpu.py", "tests/test_core.py"]
)
def test_test_files_are_found(name, tmp_path):
    assert not list(rules.tested(build(tmp_path, {"fastdiff/core/a.py": TESTED, name: ""})))


def test_exceptions_hold_while_they_are_needed(tmp_path, monkeypatch):
    house = build(tmp_path, {"fastdiff/core/a.py": LONG})
    key = "fastdiff/core/a.py::long"
    monkeypatch.setattr(plan, "EXCEPTIONS", {key: "one formula"})
    assert not [*rules.within_limits(house), *rules.exceptions_needed(house)]
    monkeypatch.setattr(plan, "EXCEPTIONS", {key: " ", "fastdiff/core/a.py::short": "was long"})
    no_reason, stale = rules.exceptions_needed(house)
    assert key in no_reason and "say in EXCEPTIONS why" in no_reason
    assert "a.py::short: within the limits: take it out" in stale


def test_every_rule_was_seen_to_fail():
    seen = {rule for rule, *_ in BROKEN.values()} | {rules.no_circles, rules.exceptions_needed}
    assert seen == set(rules.RULES)


def test_report_draws_the_house(tmp_path):
    kernel = "'''A sum.'''\n@jit.cuda_kernel\ndef {0}_cuda(x):\n    x[3] = 2.3548\n"
    text = "\n".join(report(build(tmp_path, {
        "kernels/image/a.py": kernel.format("add") + "def add(x):\n    launch(add_cuda, 1, x)\n",
        "kernels/image/b.py": kernel.format("idle"),
        "fastdiff/core/c.py": "'''What all use.'''\nfrom fastdiff.kernels.image import a\n",
        "tests/test_b.py": "from fastdiff.kernels.image import b\nb.idle_cuda\n",
    })))  # fmt: skip
    assert text.index("── floor 1 ─") < text.index("── floor 0.3 ─")
    assert "fastdiff/core/c.py                            2  What all use.\n" in text
    assert "      -> kernels.image 1\n" in text
    assert "a.py::add_cuda <- add\n" in text and "b.py::idle_cuda <- NO CALLER" in text
    assert "constant of 2 or more, 2 in all" in text and "kernels/image/a.py 1" in text
