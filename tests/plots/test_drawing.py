"""What the pictures share."""

import numpy as np
import pytest

from fastdiff.plots import drawing


def test_shrinking_keeps_means_and_ignores_nan(monkeypatch):
    monkeypatch.setattr(drawing, "MAX_PANEL", 4)
    data = np.arange(64.0).reshape(8, 8)
    data[0, 0] = np.nan
    small = drawing.shrink(data)
    assert small.shape == (4, 4)
    assert small[0, 0] == pytest.approx(np.mean([1, 8, 9]))
    assert small[3, 3] == pytest.approx(data[6:, 6:].mean())


def test_stamps_beyond_the_edge_are_nan():
    data = np.arange(50.0 * 60).reshape(50, 60)
    stamp = drawing.cut_stamp(data, 2.2, 48.0)
    assert stamp.shape == (drawing.STAMP, drawing.STAMP)
    half = drawing.STAMP // 2
    assert stamp[half, half] == data[48, 2]
    assert np.isnan(stamp[half + 2 :]).all() and np.isnan(stamp[:, : half - 2]).all()


def test_limits_of_nothing_and_of_a_constant():
    assert drawing.sky_limits(np.full((5, 5), np.nan)) == (0, 1)
    low, high = drawing.sky_limits(np.full((50, 50), 7.0))
    assert low == 7 and high == 8
