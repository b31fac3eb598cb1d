"""Options that several methods share."""

import numpy as np
import pytest

from fastdiff.difference.options import check_psfs, check_scale


def test_scales_are_one_or_one_an_image():
    assert check_scale(2.0, 3).tolist() == [2, 2, 2]
    assert check_scale([1, 2, 3], 3).tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"scale has shape \(2,\); it must be a number or 3"):
        check_scale([1, 2], 3)
    for wrong in (0, -1.0, np.nan):
        with pytest.raises(ValueError, match="it must be positive"):
            check_scale(wrong, 3)


@pytest.mark.parametrize(
    ("shape", "made"),
    [((5, 5), (1, 1, 5, 5)), ((2, 5, 5), (2, 1, 5, 5)), ((2, 4, 5, 5), (2, 4, 5, 5))],
)
def test_psfs_get_axes_of_images_and_tiles_and_the_sum_one(shape, made, rng):
    psfs = rng.random(shape)
    psfs *= 1.005 / psfs.sum((-1, -2), keepdims=True)
    checked = check_psfs("ref_psfs", psfs, (2, 64, 64))
    assert checked.shape == made
    np.testing.assert_allclose(checked.sum((2, 3)), 1)
    assert check_psfs("ref_psfs", None, (2, 64, 64)) is None
