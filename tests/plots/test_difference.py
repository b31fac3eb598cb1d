"""Pictures of subtractions."""

import os

import numpy as np
import pytest
from astropy.table import Table


def test_picture_circles_the_candidates(tmp_path, rng):
    pytest.importorskip("matplotlib")
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    from fastdiff.plots import difference as picture
    from fastdiff.plots import drawing

    difference = rng.normal(0, 50, (48, 40)).astype(np.float32)
    difference[0, :3] = np.nan
    noise = np.full((48, 40), 3.5, np.float32)
    table = Table({"x": [20.0], "y": [30.0], "flux": [900.0], "snr": [12.0]})
    orange = np.array(to_rgb(drawing.BRIGHTER))

    def count(candidates):
        path = picture.draw_difference(
            tmp_path / "p.png", difference, difference, difference, noise, candidates, "title"
        )
        pixels = imread(path)[..., :3]
        return int((np.abs(pixels - orange) < 0.02).all(-1).sum())

    assert count(table) > 50
    assert count(table[:0]) == 0
    assert os.listdir(tmp_path) == ["p.png"]
    all_bad = np.full((48, 40), np.nan)
    picture.draw_difference(tmp_path / "p.png", all_bad, all_bad, all_bad, noise, table)
