"""Rows of `photometry` in the table of cases."""

import numpy as np

from fastdiff.kernels.image import photometry
from tests.kernels.check_kernel import Case
from tests.kernels.image.reference import photometry as twin


def blocks_of_stars(rng, size):
    """Sums over the blocks of four frames of size x size blocks."""
    shape = 4, size, size + 1
    n_stars = size * size // 40
    blocks = rng.normal(0, 4, (4, 3, *shape[1:])).astype(np.float32)
    stars = np.zeros(shape)
    stars[:, rng.integers(2, size - 2, n_stars), rng.integers(2, size - 2, n_stars)] = 3000.0
    blocks[:, 0] += stars
    blocks[:, 1] += 0.7 * np.roll(stars, 1, axis=2) + 0.3 * stars
    blocks[:, 2] = rng.integers(0, 17, shape)
    return blocks


def smooth_inputs(rng, size):
    blocks = blocks_of_stars(rng, size)
    return {"blocks": blocks[:1], "wide": twin.widen(blocks[:1]).astype(np.float32)}


CASES = [
    Case(
        photometry.widen,
        twin.widen,
        lambda rng, size: {"blocks": blocks_of_stars(rng, size)},
        (6, 40, 500),
    ),
    Case(
        photometry.smooth,
        lambda blocks, wide: [twin.smooth(each) for each in blocks],
        smooth_inputs,
        (photometry.SMALL_FRAME, 40, 1000),
    ),
    Case(
        photometry.smooth,
        lambda blocks, wide: [twin.smooth(each) for each in blocks],
        smooth_inputs,
        (6, 20, 30),
        note="small",
    ),
]
