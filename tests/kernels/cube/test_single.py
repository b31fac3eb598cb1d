"""Fits with a matrix of predictors for each target: against fits of their own."""

import pytest

from tests.kernels.cube import problems

every_block = pytest.mark.parametrize(
    "blocks", problems.BLOCKS.values(), ids=problems.BLOCKS.keys()
)


@pytest.mark.parametrize("k", [1, 6, 8, 9, 30, 80])
@every_block
def test_kernel_agrees_with_fits_of_their_own(rng, k, blocks):
    """Also with more predictors than epochs."""
    problems.check_fits("single", rng, k, blocks)


@pytest.mark.parametrize("gap", [3, 10, 45])
@pytest.mark.parametrize("given", [True, False])
def test_weights_of_its_own_are_a_fit_of_its_own(rng, gap, given):
    """Whether the lost epochs are taken from a Gram matrix, or it is made from those that stay."""
    problems.check_own_weights("single", rng, gap, given)


def test_same_bits_whatever_the_threads(rng):
    problems.check_threads("single", rng)
