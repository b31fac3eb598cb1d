"""Pictures of a cube's variables."""

import numpy as np

from fastdiff.cubes.cpm import cpm_subtract
from fastdiff.plots.cube import draw_cpm
from tests.io.test_cubes import drifting


def test_picture_with_and_without_variables(tmp_path):
    cube = drifting()
    cube[20] = np.nan
    result = cpm_subtract(cube, n_predictors=40, ridge=10.0)
    time = np.arange(len(cube)) / 48
    found = result.variables()
    assert (found["y"][0], found["x"][0]) == (4, 5)
    pictures = []
    for name, variables in (("some", found), ("none", found[:0])):
        path = draw_cpm(tmp_path / f"{name}.png", result, time, variables, 1, "BTJD [d]")
        pictures.append(path.read_bytes())
        assert pictures[-1].startswith(b"\x89PNG")
    assert pictures[0] != pictures[1]
