"""kernels/curve/dmdt_norm.py: bounds of its images; the table of cases has its twin."""

import numpy as np
import pytest

from fastdiff.kernels.curve import dmdt_norm as kernel


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_bounds(rng, dtype):
    counts = rng.poisson(2, (6, 4, 7)).astype(dtype)
    counts[0] = 0
    n_pairs = counts.sum((1, 2)).astype(np.int64)
    made = {}
    for norm in (kernel.PAPER, kernel.L2, kernel.BY_COLUMN, kernel.MAX):
        images = np.empty((6, 5, 4), np.uint8 if norm == kernel.PAPER else np.float32)
        kernel.normalise(counts, n_pairs, norm, images)
        assert not images[0].any()
        made[norm] = images[1:]
    inside = counts[1:, :, 1:-1].transpose(0, 2, 1)
    np.testing.assert_array_equal(made[kernel.PAPER] > 0, inside > 0)
    np.testing.assert_allclose(np.linalg.norm(made[kernel.L2], axis=(1, 2)), 1, rtol=1e-6)
    np.testing.assert_allclose(made[kernel.MAX].max(axis=(1, 2)), 1, rtol=1e-6)
    assert (made[kernel.BY_COLUMN].sum(axis=1) <= 1 + 1e-6).all()
