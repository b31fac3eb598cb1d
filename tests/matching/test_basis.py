"""Basis functions and polynomials of the place."""

import numpy as np
import pytest

from fastdiff.matching.basis import MAX_ORDER, deltas, gaussians, polynomial, powers_up_to, terms_at


@pytest.mark.parametrize("order", range(MAX_ORDER + 1))
def test_a_polynomial_is_the_sum_of_its_terms(order, rng):
    shape = (9, 14)
    coefficients = rng.normal(size=len(powers_up_to(order)))
    y, x = np.mgrid[: shape[0], : shape[1]]
    expected = terms_at(x, y, order, shape) @ coefficients
    np.testing.assert_allclose(
        polynomial(coefficients, slice(0, 9), shape), expected, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        polynomial(coefficients, slice(3, 5), shape), expected[3:5], rtol=1e-5, atol=1e-5
    )


def test_terms_go_from_minus_one_to_one():
    np.testing.assert_array_equal(terms_at([0, 10], [0, 20], 1, (21, 11)), [[1, -1, -1], [1, 1, 1]])
    assert powers_up_to(2) == ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))


@pytest.mark.parametrize("basis", [gaussians(1.7, 15), deltas(7)])
def test_one_function_carries_the_sum(basis):
    images = basis.images - basis.sums[:, None, None] * basis.images[basis.carrier]
    sums = images.sum((1, 2))
    carrier = sums[basis.carrier]
    assert carrier > 0
    np.testing.assert_allclose(np.delete(sums, basis.carrier), 0, atol=1e-6 * carrier)
    assert images.shape[1:] == (basis.size, basis.size)
    np.testing.assert_array_equal(basis.turned[:, : basis.size], basis.taps[:, ::-1])
    assert not basis.turned[:, basis.size :].any()


def test_gaussians_span_the_gaussian_of_another_width():
    """Alard & Lupton: widths between those of the basis are nearly sums of its functions."""
    basis = gaussians(1.7, 21)
    y, x = np.mgrid[-10:11, -10:11]
    wanted = np.exp(-(x**2 + y**2) / (2 * 2.1**2)).ravel()
    images = basis.images.reshape(len(basis.products), -1).T
    left = wanted - images @ np.linalg.lstsq(images, wanted, rcond=None)[0]
    assert np.linalg.norm(left) < 0.01 * np.linalg.norm(wanted)


def test_roughness_is_the_sum_of_squared_second_differences(rng):
    basis = deltas(5)
    kernel = rng.normal(size=(5, 5))
    coefficients = kernel[basis.products[:, 0], basis.products[:, 1]]
    padded = np.pad(kernel, 2)
    expected = sum((np.diff(padded, 2, axis=axis) ** 2).sum() for axis in (0, 1))
    assert coefficients @ basis.roughness @ coefficients == pytest.approx(expected)
