"""kernels/image/gram.py against its twin."""

import numpy as np
import pytest

from fastdiff.kernels.image import gram
from fastdiff.kernels.image.convolve import with_border
from tests.kernels.image.reference import gram as reference


def case(rng, shape=(40, 44), side=(12, 16), n=5, n_taps=3, size=5):
    """Arguments of `gram.normal_equations`, with the taps of a convolution in place of theirs."""
    image, target = rng.normal(size=(2, *shape)).astype(np.float32)
    image += 1  # no sum of products is near 0 by chance
    limits = np.array(shape) - side
    origins = rng.integers(0, limits + 1, (n, 2))
    origins[0], origins[-1] = (0, 0), limits
    weight = (rng.random((n, *side)) * (rng.random((n, *side)) > 0.2)).astype(np.float32)
    taps = rng.normal(size=(n_taps, size)).astype(np.float32)
    down, across = np.meshgrid(range(n_taps), range(n_taps))
    products = np.stack([down.ravel(), across.ravel()], axis=1)
    carrier = len(products) // 2
    shares = rng.normal(size=len(products)).astype(np.float32)
    shares[carrier] = 0
    return image, target, weight, origins, taps, products, shares, carrier


def turned(taps):
    """Taps as the kernel wants them: of a correlation, with zeros to a whole group."""
    spare = -taps.shape[1] % gram.GROUP
    return np.ascontiguousarray(np.pad(taps[:, ::-1], ((0, 0), (0, spare))))


def solve(image, target, weight, origins, taps, *functions):
    bordered = with_border(image, taps.shape[1] // 2)
    *functions, threads = functions if len(functions) == 4 else (*functions, None)
    functions = gram.Functions(turned(taps), *functions)
    return gram.normal_equations(bordered, target, weight, origins, functions, threads)


@pytest.mark.parametrize(("side", "size"), [((12, 16), 5), ((7, 9), 7), ((40, 44), 3)])
def test_agrees_with_design_matrices(rng, side, size):
    arguments = case(rng, side=side, size=size)
    for made, expected in zip(
        solve(*arguments), reference.normal_equations(*arguments), strict=True
    ):
        np.testing.assert_allclose(made, expected, atol=2e-6 * np.abs(expected).max())


def test_pixels_without_weight_do_not_count(rng):
    image, target, weight, *rest = case(rng, n=1)
    y, x = rest[0][0]
    expected = solve(image, target, weight, *rest)
    target[y : y + 12, x : x + 16][weight[0] == 0] = 1e9
    for made, before in zip(solve(image, target, weight, *rest), expected, strict=True):
        np.testing.assert_array_equal(made, before)


def test_threads_do_not_change_a_bit(rng):
    arguments = case(rng)
    for one, three in zip(solve(*arguments, 1), solve(*arguments, 3), strict=True):
        np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("n_terms", [(1, 1, 1, 1), (3, 3, 3, 1), (1, 6, 6, 3), (6, 1, 3, 6)])
def test_polynomial_coefficients_solve_the_dense_problem(rng, n_terms):
    """The solution is that of one tall design matrix of all pixels of all stamps."""
    n, m = 40, len(n_terms)
    terms = rng.uniform(-1, 1, (n, 6))
    designs = rng.normal(size=(n, 30, m))
    values = rng.normal(size=(n, 30))
    normal = designs.transpose(0, 2, 1) @ designs
    right = (designs.transpose(0, 2, 1) @ values[:, :, None])[:, :, 0]
    matrix, vector = gram.combine(normal, right, terms, np.array(n_terms))
    tall = np.concatenate(
        [reference.with_terms(a, t, n_terms) for a, t in zip(designs, terms, strict=True)]
    )
    np.testing.assert_allclose(np.tril(matrix), np.tril(tall.T @ tall), atol=1e-9)
    np.testing.assert_allclose(vector, tall.T @ values.ravel(), atol=1e-9)
    expected = np.linalg.lstsq(tall, values.ravel(), rcond=None)[0]
    np.testing.assert_allclose(gram.solve_positive(matrix, vector, 0.0), expected, atol=1e-9)


@pytest.mark.parametrize("n_taps", [1, 2, 3, 4])
def test_normal_matrices_are_symmetric(rng, n_taps):
    normal = solve(*case(rng, n_taps=n_taps))[0]
    np.testing.assert_array_equal(normal, normal.transpose(0, 2, 1))


def test_a_function_that_is_zero_gets_zero(rng):
    a = rng.normal(size=(50, 4))
    a[:, 2] = 0
    b = rng.normal(size=50)
    made = gram.solve_positive(a.T @ a, a.T @ b, 0.0)
    np.testing.assert_allclose(made, np.linalg.lstsq(a, b, rcond=None)[0], atol=1e-12)


# -------------------------------------------------------------------------------- GPU


@pytest.mark.parametrize("at_a_time", [1, 5000, gram.AT_A_TIME])
def test_arrays_of_a_gpu_give_the_same_equations(rng, monkeypatch, cupy, at_a_time):
    """However many stamps go through a GPU at a time."""
    monkeypatch.setattr(gram, "AT_A_TIME", at_a_time)
    image, target, weight, *rest = case(rng)
    expected = solve(image, target, weight, *rest)
    made = solve(*map(cupy.asarray, (image, target, weight)), *rest)
    for got, wanted in zip(made, expected, strict=True):
        assert isinstance(got, cupy.ndarray)
        np.testing.assert_allclose(got.get(), wanted, atol=2e-6 * np.abs(wanted).max())
