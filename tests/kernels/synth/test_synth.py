"""A batch: the same samples whatever made them, and no infinite pixel."""

import numpy as np

import fastdiff


def test_same_seed_same_samples_whatever_batch_start_and_threads():
    whole = fastdiff.simulate.pairs(9, (48, 33), seed=7, threads=1)
    for part, rows in (
        (fastdiff.simulate.pairs(9, (48, 33), seed=7, threads=2), slice(0, 9)),
        (fastdiff.simulate.pairs(4, (48, 33), seed=7, start=5, threads=2), slice(5, 9)),
    ):
        for name in ("ref", "sci", "truth", "variance"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rows])
    other = fastdiff.simulate.pairs(9, (48, 33), seed=8)
    assert not np.array_equal(other.ref, whole.ref, equal_nan=True)


def test_nothing_is_infinite():
    made = fastdiff.simulate.pairs(200, (64, 64), seed=21)
    for name in ("ref", "sci", "truth", "variance"):
        assert not np.isinf(getattr(made, name)).any()
    assert not np.isnan(made.truth).any()
    assert (made.variance > 0).all()
    np.testing.assert_array_equal(made.ref_mask, np.isnan(made.ref))
