"""The commands `fastdiff dmdt` and `fastdiff classify`."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from typer.testing import CliRunner

import fastdiff
from fastdiff.cli.app import app
from fastdiff.io.tables import read_light_curves


@pytest.fixture
def curves():
    """Three curves of different lengths: name -> (time, mag, magerr)."""
    rng = np.random.default_rng(4)
    made = {}
    for name, n in (("b", 40), ("a", 25), ("c", 30)):
        time = 57000 + rng.uniform(0, 900, n)
        mag = 15 + 0.3 * np.sin(2 * np.pi * time / 0.61) + rng.normal(0, 0.02, n)
        made[name] = time, mag, rng.uniform(0.01, 0.05, n)
    return made


def table_of(curves, names=("id", "mjd", "mag", "magerr")):
    columns = [np.concatenate([[name] * len(c[0]) for name, c in curves.items()])]
    columns += [np.concatenate([c[k] for c in curves.values()]) for k in range(3)]
    return Table(columns, names=names)


def run(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize("suffix", ["npz", "fits"])
def test_dmdt_command(curves, tmp_path, suffix):
    table_of(curves).write(tmp_path / "curves.csv")
    path = tmp_path / f"images.{suffix}"
    text = run("dmdt", tmp_path / "curves.csv", "-o", path, "--png", tmp_path / "b.png")
    assert "3 images of 23 x 24" in text
    assert "time from 'mjd'" in text
    read = read_light_curves(tmp_path / "curves.csv")
    expected = fastdiff.dmdt_images(read.time, read.mag, read.offsets)
    if suffix == "npz":
        with np.load(path) as made:
            images, names, dm, dt = (made[k] for k in ("images", "names", "dm", "dt"))
    else:
        with fits.open(path) as hdus:
            images, names = hdus["DMDT"].data, hdus["CURVES"].data["name"]
            dm, dt = hdus["DM"].data["edge"], hdus["DT"].data["edge"]
    np.testing.assert_array_equal(images, expected)
    assert list(names) == ["b", "a", "c"]
    assert len(dm) == 24
    assert len(dt) == 25
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_dmdt_command_with_errors_and_options(curves, tmp_path):
    table_of(curves).write(tmp_path / "curves.csv")
    run("dmdt", tmp_path / "curves.csv", "-o", tmp_path / "x.npz", "--smooth", "--norm", "max",
        "--grid", "new2")  # fmt: skip
    read = read_light_curves(tmp_path / "curves.csv")
    expected = fastdiff.dmdt_images(
        read.time, read.mag, read.offsets, magerr=read.magerr, grid="new2", norm="max"
    )
    np.testing.assert_array_equal(np.load(tmp_path / "x.npz")["images"], expected)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-o", "x.txt"], "--out is x.txt; it must end in .npz or .fits"),
        (["--grid", "fine"], "grid is 'fine'; known grids are"),
        (["--norm", "mean"], "norm is 'mean'"),
        (["--smooth", "--magerr", "none"], "has no column 'none' for magerr"),
        (["--png", "x.png", "--draw", "z"], "--draw is 'z'; there is no such curve"),
    ],
)
def test_dmdt_command_that_fails(curves, tmp_path, monkeypatch, words, text):
    monkeypatch.chdir(tmp_path)
    table_of(curves).write("curves.csv")
    assert text in run("dmdt", "curves.csv", *words, code=1)
    assert {path.name for path in tmp_path.iterdir()} == {"curves.csv"}


def test_smoothing_needs_errors(curves, tmp_path):
    Table(curves["a"][:2], names=("time", "mag")).write(tmp_path / "a.csv")
    assert "--smooth needs errors" in run("dmdt", tmp_path / "a.csv", "--smooth", code=1)


def test_classify_command(curves, tmp_path):
    table_of(curves | {"d": tuple(c[:1] for c in curves["a"])}).write(tmp_path / "curves.csv")
    path = tmp_path / "classes.ecsv"
    text = run("classify", tmp_path / "curves.csv", "-o", path, "--model", "shallow")
    assert "4 curves" in text
    assert "1 flagged EMPTY" in text
    table = Table.read(path)
    read = read_light_curves(tmp_path / "curves.csv")
    found = fastdiff.classify_light_curves(
        read.time, read.mag, read.offsets, magerr=read.magerr, model="shallow"
    )
    assert list(table["curve"]) == ["b", "a", "c", "d"]
    for k, name in enumerate(found.classes):
        np.testing.assert_allclose(table[name][:3], found.probabilities[:3, k], atol=1e-3)
    assert list(table["class"][:3]) == list(found.labels[:3])
    text = run("classify", tmp_path / "curves.csv", "--model", "shallow")
    assert "d: unknown (nan)" in text
    assert "failed" in run("classify", tmp_path / "curves.csv", "--model", "absent", code=1)
