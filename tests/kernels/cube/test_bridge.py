"""Bad epochs between good ones; `cases` has the other checks."""

import numpy as np
import pytest

from fastdiff.kernels.cube.bridge import bridge_series
from tests.kernels.cube.reference import bridge as reference


def test_bad_epochs_are_bridged(rng):
    series, bad = rng.normal(size=(40, 30)), rng.random((40, 30)) < rng.random((40, 1))
    bad[3], bad[4] = True, False
    made, rows = series.copy(), np.delete(np.arange(40), 7)
    bridge_series(rows, made, bad, threads=2)
    np.testing.assert_array_equal(made[7], series[7])  # not one of the rows
    np.testing.assert_allclose(made, reference.bridge(rows, series, bad), rtol=1e-12)


def test_order_in_the_memory_does_not_matter(rng):
    series, bad = rng.normal(size=(6, 30)), rng.random((6, 30)) < 0.4
    rows, one, other = np.arange(6), series.copy(), np.asfortranarray(series)
    bridge_series(rows, one, bad)
    bridge_series(rows, other, np.asfortranarray(bad))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_compiles_to_ptx_in_the_order_that_a_cube_has(capability):
    series, bad = np.empty((1, 1)).T, np.empty((1, 1), bool).T
    text = bridge_series.cuda.ptx((np.empty(1, np.int64), series, bad), capability)
    assert f".target sm_{capability[0]}{capability[1]}" in text
