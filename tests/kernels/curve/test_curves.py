"""kernels/curve/curves.py: what is finite, in the order of time."""

import numpy as np
import pytest

from fastdiff.kernels.curve import curves as kernel


def test_edges_are_counted_by_bisection(rng):
    edges = np.sort(rng.integers(0, 9, 7)).astype(float)
    for x in (*edges, *(edges + 0.5), -1.0):
        assert kernel.count_edges(edges, x) == np.searchsorted(edges, x, "right")
    assert kernel.count_edges(edges[:0], 1.0) == 0


@pytest.mark.parametrize(
    ("time", "magerr", "n_good", "state"),
    [
        ([], [], 0, 0),
        ([5], [0], 1, 0),
        ([1, 2, 2], [0, 0, 0], 3, 0),
        ([2, 1, 3], [0, 0, 0], 3, kernel.UNSORTED),
        ([2, 2, 2], [0, 0, 0], 3, kernel.CONSTANT_TIME),
        ([2, np.nan, 2], [0, 0, 0], 2, kernel.MISSING | kernel.CONSTANT_TIME),
        ([np.nan, np.inf], [0, 0], 0, kernel.MISSING),
        ([1, np.nan, 2], [0, -1, 0], 2, kernel.MISSING | kernel.NEGATIVE),
        ([1, 2, 3], [0, np.inf, 0], 2, kernel.MISSING),
        ([2, 1, 1], [0, 0, 0], 3, kernel.UNSORTED),
    ],
)
def test_states(time, magerr, n_good, state):
    time, magerr = np.array(time, float), np.array(magerr, float)
    offsets = np.array([0, time.size])
    made = kernel.inspect_curves(time, np.zeros(time.size), magerr, offsets)
    assert [each.tolist() for each in made] == [[n_good], [state]]


@pytest.mark.parametrize("n", [0, 1, kernel.RUN, kernel.RUN + 1, 300, 1000])
def test_points_are_sorted_and_equal_times_keep_their_order(rng, n):
    time, mag = rng.integers(0, 50, n) * 1.0, rng.normal(size=n)
    mag[::5] = np.nan
    given = time, mag, mag[:0], np.array([0, n, n])
    n_good, state = kernel.inspect_curves(*given)
    t, m, e, offsets = kernel.arrange_curves(*given, n_good, state, threads=2)
    good = np.isfinite(mag)
    order = np.argsort(time[good], kind="stable")
    np.testing.assert_array_equal(m, mag[good][order])
    np.testing.assert_array_equal(t, (time - time[good].min(initial=np.inf))[good][order])
    assert e.size == 0
    np.testing.assert_array_equal(offsets, [0, good.sum(), good.sum()])
