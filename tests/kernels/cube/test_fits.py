"""Arguments by name."""

import numpy as np

from fastdiff.kernels.cube.fits import Fits


def test_a_part_of_the_targets_keeps_the_series():
    fits = Fits(
        np.ones((9, 5)), np.arange(4), np.arange(12).reshape(4, 3), np.array([3, 2, 3, 1]), 1,
        np.linspace(0.1, 0.4, 4),
    )  # fmt: skip
    part = fits.part(slice(1, 3))
    assert part.series is fits.series
    assert part.n_free == 1
    for name in ("targets", "lists", "counts", "penalty"):
        np.testing.assert_array_equal(getattr(part, name), getattr(fits, name)[1:3])
