"""The package as users get it: wheel, sdist, editable install, import, README."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import fastdiff

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
KERNELS = sorted((ROOT / "kernels").rglob("*.py"))
ABOVE = sorted((ROOT / "fastdiff").rglob("*.py"))


def python(*args, cwd, path=None, **kwargs):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True, **kwargs
    )


def expected_files():
    """Every file that an installed fastdiff needs, by its place in the wheel."""
    files = {f"fastdiff/{path.relative_to(ROOT).as_posix()}" for path in KERNELS}
    for pattern in ("*.py", "py.typed", "models/weights/*.onnx", "models/weights/*.md"):
        for path in (ROOT / "fastdiff").rglob(pattern):
            files.add(path.relative_to(ROOT).as_posix())
    return files


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """A wheel built from the tree, and one built from the sdist that was built from the tree."""
    base = tmp_path_factory.mktemp("build")
    tree = base / "tree"
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("fastdiff", "kernels"):
        shutil.copytree(ROOT / name, tree / name, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    found = {}
    for name, options in (("tree", ["--wheel"]), ("sdist", [])):
        out = base / name
        # Without options `build` makes the sdist, and the wheel from its contents.
        done = python(
            "-m", "build", "--no-isolation", *options, "--outdir", str(out), str(tree), cwd=base
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (found[name],) = out.glob("*.whl")
    return found


@pytest.mark.parametrize("source", ["tree", "sdist"])
def test_wheel_holds_the_whole_package_and_nothing_else(wheels, source):
    with zipfile.ZipFile(wheels[source]) as wheel:
        names = {n for n in wheel.namelist() if ".dist-info/" not in n}
        licences = [n for n in wheel.namelist() if n.endswith("LICENSE")]
    assert names == expected_files()
    assert "fastdiff/kernels/jit.py" in names
    assert licences


def test_shipped_models_are_in_the_wheel_with_their_cards(wheels):
    with zipfile.ZipFile(wheels["sdist"]) as wheel:
        names = set(wheel.namelist())
        models = {n for n in names if n.endswith(".onnx")}
        assert "fastdiff/models/weights/transinet-lite.onnx" in models
        for name in models:
            assert name.removesuffix(".onnx") + ".md" in names
            assert wheel.read(name) == (ROOT / name).read_bytes()


def test_installed_wheel_imports_from_its_own_folder(wheels, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheels["sdist"]) as wheel:
        wheel.extractall(site)
    code = (
        "import fastdiff, fastdiff.kernels, fastdiff.kernels.jit as j;"
        "print(fastdiff.__file__, fastdiff.kernels.__file__, j.__file__, fastdiff.__version__)"
    )
    done = python("-P", "-c", code, cwd=tmp_path, path=site, check=True)
    *files, version = done.stdout.split()
    assert all(Path(file).is_relative_to(site) for file in files)
    assert version == PROJECT["project"]["version"]


def test_every_folder_with_code_is_a_listed_package():
    folders = {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in ABOVE}
    folders |= {
        "fastdiff." + p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in KERNELS
    }
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(folders), (
        "list the new room under [tool.setuptools] packages in pyproject.toml"
    )


def test_an_uninstalled_checkout_says_what_to_do(tmp_path):
    shutil.copytree(ROOT / "fastdiff", tmp_path / "fastdiff")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import fastdiff"
    done = python("-I", "-S", "-c", code, cwd=tmp_path)  # -S: nothing that is installed
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert "pip install -e ." in done.stderr
    assert str(tmp_path / "fastdiff") in done.stderr


def test_import_is_light():
    code = "import sys, fastdiff; print(*sorted({n.split('.')[0] for n in sys.modules}))"
    done = python("-c", code, cwd=ROOT, check=True)
    loaded = set(done.stdout.split())
    assert "fastdiff" in loaded
    heavy = {"numba", "llvmlite", "onnxruntime", "onnx", "astropy", "scipy", "torch", "matplotlib"}
    assert not loaded & heavy


def test_public_names_exist_and_unknown_ones_are_refused():
    assert {"subtract_batch", "find_transients", "load_model", "simulate"} <= set(dir(fastdiff))
    for name in ("subtract_batch", "find_transients", "load_model"):
        assert callable(getattr(fastdiff, name))
    assert callable(fastdiff.simulate.pairs)
    with pytest.raises(AttributeError, match="subtract_bach"):
        fastdiff.subtract_bach  # noqa: B018


def test_version_stands_only_in_pyproject():
    assert fastdiff.__version__ == PROJECT["project"]["version"]
    for path in [*ABOVE, *KERNELS]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant):
                assert node.value != PROJECT["project"]["version"], path


def imports(path):
    """Top-level names of absolute imports, and the levels of relative ones."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level or node.module.split(".")[0]


def test_kernels_know_nothing_above_them():
    for path in KERNELS:
        allowed = {"numpy", ".", ".."} | set(sys.stdlib_module_names)
        if path.name == "jit.py":
            allowed.add("numba")
        assert set(imports(path)) <= allowed, path


def test_nothing_above_the_kernels_imports_numba():
    for path in ABOVE:
        assert not {"numba", "llvmlite"} & set(imports(path)), path


def test_base_dependencies_are_light():
    names = {re.match(r"[\w-]+", d)[0] for d in PROJECT["project"]["dependencies"]}
    assert names == {"numpy", "scipy", "numba", "astropy", "onnxruntime", "sep", "typer", "rich"}


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", ["demo", "test", "bench", "lint"])
def test_makefile_targets(target, tmp_path):
    done = subprocess.run(
        ["make", "--dry-run", target, f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    extra = re.search(r"--editable '\.\[(\w+)\]'", done.stdout)[1]
    assert extra in PROJECT["project"]["optional-dependencies"]


README_BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


def test_readme_shows_python():
    assert README_BLOCKS


@pytest.mark.parametrize("number", range(len(README_BLOCKS)))
def test_readme_code_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(README_BLOCKS[number], f"README block {number}", "exec"), {"__name__": "readme"})
