"""Cubes in files to products, without the command line."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import fastdiff
from fastdiff.pipeline.cpm import CpmSettings, subtract_cube


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
    assert len(curves) == 60 and len(curves.colnames) == 2 + len(found)
    assert not told
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["cube.npy", "out.fits", "out.variables.ecsv"]


def test_a_failure_leaves_nothing_behind(cube, tmp_path):
    np.save(tmp_path / "cube.npy", cube)
    with pytest.raises(ValueError, match="n_predictors"):
        subtract_cube(tmp_path / "cube.npy", tmp_path / "out.fits", CpmSettings(predictors=0))
    with pytest.raises(FileNotFoundError, match=r"the folder .*gone does not exist"):
        subtract_cube(tmp_path / "cube.npy", tmp_path / "gone" / "out.fits")
    assert [path.name for path in tmp_path.iterdir()] == ["cube.npy"]
