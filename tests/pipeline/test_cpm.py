"""Cubes in files to products, without the command line."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import fastdiff
from fastdiff.pipeline.cpm import CpmSettings, subtract_cube
from tests.io.test_cubes import drifting, target_pixels


@pytest.fixture(scope="module")
def cube():
    return fastdiff.simulate.cubes(60, (12, 12), seed=1).cube


def test_products_hold_what_the_api_gives(cube, tmp_path):
    np.save(tmp_path / "cube.npy", cube)
    settings = CpmSettings(holdout=0, predictors=40, penalty=1e-3, png=False, threads=1)
    told = []
    result, found = subtract_cube(
        tmp_path / "cube.npy", tmp_path / "out.fits", settings, tell=told.append
    )
    expected = fastdiff.cpm_subtract(cube, n_predictors=40, holdout=None, ridge=1e-3)
    np.testing.assert_array_equal(result.image, expected.image.astype(np.float32))
    with fits.open(tmp_path / "out.fits") as hdus:
        np.testing.assert_array_equal(hdus["DIFFERENCE"].data, result.image)
        assert hdus[0].header["RIDGE"] == pytest.approx(1e-3)
    curves = Table.read(tmp_path / "out.variables.ecsv")
    assert len(curves) == 60 and len(curves.colnames) == 2 + 3 * len(found)
    assert all("scatters more than the raw" in text for text in told)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["cube.npy", "out.fits", "out.variables.ecsv"]


def test_a_failure_leaves_nothing_behind(cube, tmp_path):
    np.save(tmp_path / "cube.npy", cube)
    with pytest.raises(ValueError, match="n_predictors"):
        subtract_cube(tmp_path / "cube.npy", tmp_path / "out.fits", CpmSettings(predictors=0))
    with pytest.raises(FileNotFoundError, match=r"the folder .*gone does not exist"):
        subtract_cube(tmp_path / "cube.npy", tmp_path / "gone" / "out.fits")
    assert [path.name for path in tmp_path.iterdir()] == ["cube.npy"]


def test_times_and_units_are_carried(tmp_path):
    path = tmp_path / "tpf.fits"
    header = {"BJDREFI": 2457000, "BJDREFF": 0.0, "TIMESYS": "TDB", "TELESCOP": "TESS"}
    target_pixels(path, drifting(), bits=32, **header)
    settings = CpmSettings(predictors=40, penalty=10.0, png=False, aperture=1)
    subtract_cube(path, tmp_path / "out.fits", settings)
    with fits.open(tmp_path / "out.fits") as hdus:
        assert hdus["DIFFERENCE"].header["BUNIT"] == hdus["RMS"].header["BUNIT"] == "electron/s"
        epochs = hdus["EPOCHS"]
        assert epochs.data["masked"].sum() == 6
        assert {key: epochs.header[key] for key in ("BJDREFI", "TIMESYS", "TUNIT1")} == {
            "BJDREFI": 2457000, "TIMESYS": "TDB", "TUNIT1": "d"
        }  # fmt: skip
        assert "quality bitmask default: 6 of 90" in str(hdus[0].header["HISTORY"])
    curves = Table.read(tmp_path / "out.variables.ecsv")
    assert str(curves["time"].unit) == "d"
    assert str(curves["flux_err_y4_x5"].unit) == "electron / s"
    assert curves.meta["time"]["name"] == "BTJD"
    assert np.isnan(curves["flux_y4_x5"][curves["masked"]]).all()
    settings = CpmSettings(predictors=40, penalty=10.0, png=False, quality_bitmask="none")
    result, _ = subtract_cube(path, tmp_path / "all.fits", settings)
    assert result.mask[:, 0, 0].sum() == 1
