"""kernels/image/plan.py: tiles cover the frame, and their weights sum to 1."""

import numpy as np
import pytest

from fastdiff.kernels.image import plan


@pytest.mark.parametrize(
    ("ny", "nx", "size", "overlap"),
    [(32, 32, 256, 32), (63, 63, 256, 32), (33, 47, 256, 32), (1000, 700, 256, 32),
     (4096, 4096, 512, 32), (289, 257, 256, 32), (10000, 9, 256, 32), (500, 500, 64, 31)],
)  # fmt: skip
def test_plan_covers_the_frame(ny, nx, size, overlap):
    origins, shape = plan.plan_tiles(ny, nx, size, overlap)
    for axis, n in enumerate((ny, nx)):
        starts = np.unique(origins[:, axis])
        assert shape[axis] % 16 == 0
        assert starts[0] == 0
        if len(starts) == 1:
            assert n <= shape[axis] < n + 16
        else:
            assert shape[axis] <= size
            assert starts[-1] + shape[axis] == n
            assert (starts[:-1] + shape[axis] - starts[1:]).min() >= overlap
    assert len(np.unique(origins, axis=0)) == len(origins)


@pytest.mark.parametrize("arguments", [(0, 5), (5, 5, 100), (5, 5, 64, 32), (5, 5, 64, -1)])
def test_plan_refuses(arguments):
    with pytest.raises(ValueError, match="must be"):
        plan.plan_tiles(*arguments)


@pytest.mark.parametrize(
    ("n", "size", "overlap"), [(1000, 256, 32), (300, 64, 20), (90, 64, 30), (50, 32, 15)]
)
def test_weights_sum_to_one_and_fall_towards_the_edge(n, size, overlap):
    origins, shape = plan.plan_tiles(n, 16, size, overlap)
    weights, _ = plan.blend_weights(origins, shape)
    total = np.zeros(n)
    for start, row in zip(origins[:, 0], weights, strict=True):
        total[start : start + shape[0]] += row
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    assert weights.min() >= 0
    if len(origins) > 1:
        assert weights[0, -1] == 0
        assert weights[-1, 0] == 0
        assert (np.diff(weights[0]) <= 1e-6).all()


def test_places_name_their_columns():
    origins, _ = plan.plan_tiles(500, 300, 128)
    places = plan.places_of(np.array([0, 0, 3]), np.array([0, 5, 2]), origins)
    np.testing.assert_array_equal(places[:, plan.FRAME], [0, 0, 3])
    np.testing.assert_array_equal(places[:, plan.TILE], [0, 5, 2])
    np.testing.assert_array_equal(places[:, [plan.ROW, plan.COLUMN]], origins[[0, 5, 2]])
    assert plan.places_of(np.arange(0), np.arange(0), origins).shape == (0, 4)
