"""kernels/image/convolve.py against its twin; its kernels alone are in cases.py."""

import numpy as np
import pytest
from scipy.signal import convolve2d

from fastdiff.kernels.image import convolve
from tests import pretend_cupy
from tests.kernels.image.reference import convolve as reference

CHANGES = {convolve.PLAIN: lambda k: k, convolve.MODULUS: np.abs, convolve.SQUARE: np.square}


def case(rng, shape=(37, 50), size=7, n_basis=3, block=(8, 16)):
    """(image, kernels, coefficients, origins): blocks over the whole image and beyond it."""
    image = rng.normal(size=shape).astype(np.float32)
    kernels = rng.normal(size=(n_basis, size, size))
    axes = (np.arange(0, n, step) for n, step in zip(shape, block, strict=True))
    origins = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)
    coefficients = rng.normal(size=(len(origins), n_basis)).astype(np.float32)
    return image, kernels, coefficients, origins


@pytest.mark.parametrize("size", [1, 3, 7, 9, 13])
@pytest.mark.parametrize("mode", CHANGES)
def test_blocks_agree_with_reference(rng, size, mode):
    image, kernels, coefficients, origins = case(rng, size=size)
    bordered = convolve.with_border(image, size // 2)
    made = convolve.convolve_blocks(
        bordered, convolve.padded_kernels(kernels), coefficients, origins, (8, 16), mode
    )
    expected = reference.convolve_blocks(
        image, kernels, coefficients, origins, (8, 16), CHANGES[mode]
    )
    np.testing.assert_allclose(made, expected, atol=3e-6 * np.abs(expected).max())


@pytest.mark.parametrize("powers", [[(0, 0)], [(0, 0), (1, 0), (0, 1)], [(3, 0), (0, 2), (1, 1)]])
def test_polynomials_agree_with_reference(rng, powers):
    image, kernels, _, origins = case(rng, size=9, n_basis=len(powers))
    rows = convolve.row_kernels(convolve.padded_kernels(kernels), powers, len(image))
    made = convolve.convolve_polynomial(convolve.with_border(image, 4), rows, origins, (8, 16))
    expected = reference.convolve_polynomial(image, kernels, powers)
    for block, (y, x) in zip(made, origins, strict=True):
        cut = expected[y : y + 8, x : x + 16]
        np.testing.assert_allclose(
            block[: cut.shape[0], : cut.shape[1]], cut, atol=3e-6 * np.abs(expected).max()
        )
        assert not block[cut.shape[0] :].any()
        assert not block[:, cut.shape[1] :].any()


def test_one_kernel_is_the_textbook_convolution(rng):
    image = rng.normal(size=(33, 40)).astype(np.float32)
    kernel = rng.normal(size=(1, 9, 9))
    made = convolve.convolve_blocks(
        convolve.with_border(image, 4),
        convolve.padded_kernels(kernel),
        np.ones((1, 1), np.float32),
        np.zeros((1, 2), np.int64),
        (33, 40),
    )
    np.testing.assert_allclose(made[0], convolve2d(image, kernel[0], "same"), atol=1e-4)


def test_border_has_one_value(rng):
    image = rng.normal(size=(5, 6))
    bordered = convolve.with_border(image, 2, 7.0)
    assert bordered.dtype == np.float32
    np.testing.assert_allclose(bordered[2:7, 2:8], image, rtol=1e-6)
    assert bordered.sum() == pytest.approx(image.sum() + 7.0 * (bordered.size - 30), rel=1e-5)


def test_threads_do_not_change_a_bit(rng):
    image, kernels, coefficients, origins = case(rng)
    bordered, basis = convolve.with_border(image, 3), convolve.padded_kernels(kernels)
    powers = [(0, 0), (1, 0), (0, 1)]
    rows = convolve.row_kernels(basis, powers, len(image))
    for arguments in (
        (convolve.convolve_blocks, bordered, basis, coefficients, origins, (8, 16), convolve.PLAIN),
        (convolve.row_kernels, basis, powers, len(image)),
        (convolve.convolve_polynomial, bordered, rows, origins, (8, 16)),
    ):
        one, three = (arguments[0](*arguments[1:], threads) for threads in (1, 3))
        np.testing.assert_array_equal(one, three)


def test_fill_agrees_with_reference(rng):
    image = rng.normal(size=(30, 33)).astype(np.float32)
    bad = rng.random(image.shape) < 0.2
    bad[5:20, 8:25] = True  # its middle has no good pixel within reach
    image[bad] = np.nan
    made = convolve.fill_bad(image.copy(), bad)
    np.testing.assert_allclose(
        made, reference.fill_bad(np.nan_to_num(image), bad, convolve.FILL_REACH), atol=1e-5
    )
    np.testing.assert_array_equal(made[~bad], image[~bad])


def test_fill_of_everything_is_zero():
    bad = np.ones((9, 9), bool)
    assert not convolve.fill_bad(np.full((9, 9), np.nan, np.float32), bad).any()


def test_arrays_of_a_gpu_give_the_same(rng, monkeypatch):
    cupy = pretend_cupy.install(monkeypatch)
    image, kernels, coefficients, origins = case(rng)
    bad = rng.random(image.shape) < 0.2
    basis = convolve.padded_kernels(kernels)

    def all_of_them(put):
        bordered = convolve.with_border(put(image), 3)
        rows = convolve.row_kernels(put(basis), [(0, 0), (1, 0), (1, 1)], len(image))
        yield bordered
        yield convolve.with_border(put(bad), 3, 1.0)
        yield convolve.fill_bad(put(np.where(bad, np.float32(np.nan), image)), put(bad))
        yield convolve.convolve_polynomial(bordered, rows, origins, (8, 16))
        for mode in CHANGES:
            yield convolve.convolve_blocks(bordered, basis, coefficients, origins, (8, 16), mode)

    for made, expected in zip(all_of_them(cupy.asarray), all_of_them(np.asarray), strict=True):
        assert isinstance(made, cupy.ndarray)
        assert made.dtype == expected.dtype == np.float32
        np.testing.assert_allclose(made.get(), expected, atol=3e-6 * np.abs(expected).max())
