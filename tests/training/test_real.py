"""Sources of known flux added to real ZTF stamps."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the train extra (PyTorch)")

from fastdiff.training.real import ZtfInjections


def test_the_same_seed_gives_the_same_samples(data_folder):
    injections = ZtfInjections(data_folder / "ztf", seed=3)
    many, one = injections(4, 0), injections(1, 2)
    for name in ("ref", "sci", "truth"):
        stack = getattr(many, name)
        assert stack.shape == (4, 64, 64) and stack.dtype == np.float32
        np.testing.assert_array_equal(stack[2], getattr(one, name)[0])
    other = ZtfInjections(data_folder / "ztf", seed=4)(4, 0)
    assert not np.array_equal(other.sci, many.sci, equal_nan=True)
    # The middle, where the alert itself lies, tells nothing.
    assert np.isfinite(many.truth).all()
    assert many.ignore[:, 24:40, 24:40].any((1, 2)).all()
