"""Blocks that cover a frame."""

import numpy as np
import pytest

from fastdiff.matching.grid import BAND, BlockGrid, hats


@pytest.mark.parametrize("shape", [(32, 40), (BAND + 5, 301), (3 * BAND, 1030)])
def test_blocks_cover_every_pixel_once(shape, rng):
    grid = BlockGrid(shape)
    plane = rng.normal(size=shape)
    h, w = grid.side
    padded = np.pad(plane, ((0, h), (0, w)))
    rows = []
    for band, origins in grid.bands():
        parts = np.array([padded[y : y + h, x : x + w] for y, x in origins])
        rows.append(grid.joined(parts, band))
    np.testing.assert_array_equal(np.concatenate(rows), plane)


def test_blocks_that_were_left_out_are_zero():
    grid = BlockGrid((64, 300))
    band, origins = next(grid.bands())
    which = np.array([0, len(origins) - 1])
    joined = grid.joined(np.ones((2, *grid.side)), band, which)
    y, x = origins[-1]
    assert joined[0, 0] == joined[y, x] == 1
    h, w = grid.side
    assert joined.sum() == h * w + (64 - y) * (300 - x)


def test_blocks_near_bad_pixels_are_touched():
    grid, r = BlockGrid((64, 300)), 4
    bad = np.zeros((64 + 2 * r, 300 + 2 * r), np.float32)
    _, origins = next(grid.bands())
    assert not len(grid.touched(bad, origins, r))
    bad[r, r] = 1
    assert grid.touched(bad, origins, r).tolist() == [0]


def test_hats_interpolate_linearly(rng):
    nodes, values = np.array([2.0, 5.0, 11.0]), rng.normal(size=3)
    x = np.array([0.0, 2.0, 3.0, 8.0, 20.0])
    np.testing.assert_allclose(hats(x, nodes) @ values, np.interp(x, nodes, values), atol=1e-15)
