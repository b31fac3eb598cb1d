"""The command `fastdiff cpm`."""

import numpy as np
import pytest
from astropy.io import fits as afits
from astropy.table import Table
from typer.testing import CliRunner

from fastdiff import cpm_subtract
from fastdiff.cli.app import app
from fastdiff.cubes.tile import CubeTile
from fastdiff.io import cubes
from tests.io.test_cubes import drifting, target_pixels

N, SHAPE = 90, (9, 10)


def run(*words, code=0):
    done = CliRunner().invoke(app, ["cpm", *(str(word) for word in words)])
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def test_command(tmp_path):
    cube = drifting()
    target_pixels(tmp_path / "tpf.fits", cube)
    out = tmp_path / "out.fits"
    text = run(tmp_path / "tpf.fits", "-o", out, "--predictors", 40, "--aperture", 1)
    assert "y 4, x 5" in text
    read = cubes.read_cube(tmp_path / "tpf.fits")
    expected = cpm_subtract(cube, mask=read.mask, n_predictors=40)
    with afits.open(out) as hdus:
        image = hdus["DIFFERENCE"].data
        np.testing.assert_allclose(image, expected.image, atol=1e-4)
        np.testing.assert_allclose(hdus["RMS"].data, expected.rms, rtol=1e-5)
        np.testing.assert_array_equal(hdus["NPRED"].data, expected.n_predictors)
        np.testing.assert_array_equal(hdus["EPOCHS"].data["masked"], read.mask)
        assert any("cpm of tpf.fits" in str(line) for line in hdus[0].header["HISTORY"])
        assert hdus[0].header["RIDGE"] == pytest.approx(expected.ridge)
    curves = Table.read(tmp_path / "out.variables.ecsv")
    flux = np.asarray(curves["flux_y4_x5"], float)
    curve = expected.light_curve(4, 5, aperture=1)
    np.testing.assert_allclose(flux[~read.mask], curve["flux"][~read.mask], atol=1e-3)
    assert np.nanargmax(flux) in range(40, 44)
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_command_with_options_and_failures(tmp_path):
    np.save(tmp_path / "cube.npy", drifting())
    out = tmp_path / "out.fits"
    words = ["--holdout", 0, "--ridge", 10, "--no-png", "--threads", 1]
    run(tmp_path / "cube.npy", "-o", out, *words)
    assert {p.name for p in tmp_path.iterdir()} == {"cube.npy", "out.fits", "out.variables.ecsv"}
    with afits.open(out) as hdus:
        assert hdus[0].header["RIDGE"] == 10
    text = run(tmp_path / "cube.npy", "-o", tmp_path / "no" / "x.fits", code=1)
    assert "failed: the folder" in text
    assert "failed: holdout is 200 folds" in run(tmp_path / "cube.npy", "--holdout", 200, code=1)
    assert "failed: there is no file" in run(tmp_path / "absent.fits", code=1)


def test_interrupted_command_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("fastdiff.cubes.plan._WHOLE", 10)
    monkeypatch.setattr("fastdiff.cubes.plan._TILE", 5)
    np.save(tmp_path / "cube.npy", drifting())
    words = [tmp_path / "cube.npy", "-o", tmp_path / "out.fits", "--no-png", "--predictors", 40]
    run(*words)
    expected = (tmp_path / "out.fits").read_bytes()
    (tmp_path / "out.fits").unlink()
    fit, fitted = CubeTile.fit, []

    def stop_at_the_third(*arguments):
        fitted.append(arguments)
        if len(fitted) == 3:
            raise KeyboardInterrupt
        return fit(*arguments)

    monkeypatch.setattr(CubeTile, "fit", stop_at_the_third)
    assert "kept in" in run(*words, code=130)
    part = {"out.part.npy", "out.part.npz"}
    assert part <= {p.name for p in tmp_path.iterdir()}
    assert "of another cube or of other options" in run(*words, "--holdout", 5, code=1)
    done = len(fitted)
    assert "going on from" in run(*words)
    assert len(fitted) - done == 2  # of 2 x 2 tiles
    assert (tmp_path / "out.fits").read_bytes() == expected
    assert not part & {p.name for p in tmp_path.iterdir()}
