"""Rows of `convolve` in the table of cases."""

import numpy as np

from fastdiff.kernels.image import convolve
from tests.kernels.check_kernel import Case
from tests.kernels.image.reference import convolve as twin


def frame_and_blocks(rng, size):
    """An image, kernels of 5 x 5, and blocks of 4 x 8 over the image and beyond it."""
    image = rng.normal(size=(size, size + 5)).astype(np.float32)
    kernels = rng.normal(size=(3, 5, 5))
    origins = np.stack(np.mgrid[0:size:4, 0 : size + 5 : 8], axis=-1).reshape(-1, 2)
    return image, kernels, origins


def fill_inputs(rng, size):
    image, _, _ = frame_and_blocks(rng, size)
    bad = rng.random(image.shape) < 0.2
    bad[1 : size // 2, : size // 2] = True  # the middle has no good pixel within reach
    return {"image": np.where(bad, np.float32(np.nan), image), "bad": bad}


def fill_twin(image, bad):
    return twin.fill_bad(np.nan_to_num(image), bad, convolve.FILL_REACH)


def mix_rows_inputs(rng, size):
    _, kernels, _ = frame_and_blocks(rng, size)
    powers = np.array([(0, 0), (1, 1), (1, 3)])
    basis = convolve.padded_kernels(kernels).reshape(3, -1)
    return {"basis": basis, "powers": powers, "ny": size, "n_powers": 2}


def polynomial_inputs(rng, size):
    image, _, origins = frame_and_blocks(rng, size)
    kernels = convolve.padded_kernels(rng.normal(size=(2 * size, 5, 5)))
    return {
        "image": convolve.with_border(image, 2),
        "kernels": kernels.reshape(size, 2, *kernels.shape[1:]),
        "origins": origins, "h": 4, "w": 8,
    }  # fmt: skip


def polynomial_twin(image, kernels, origins, h, w):
    image = image[:, : -convolve.PADDING]
    return twin.polynomial(image, kernels[..., :5], origins, (h, w))


def mix_inputs(rng, size):
    _, kernels, _ = frame_and_blocks(rng, size)
    coefficients = rng.normal(size=(size, len(kernels))).astype(np.float32)
    basis = convolve.padded_kernels(kernels)
    return {"basis": basis, "coefficients": coefficients, "mode": convolve.PLAIN}


def by_own_kernel_inputs(rng, size):
    image, _, origins = frame_and_blocks(rng, size)
    kernels = convolve.padded_kernels(rng.normal(size=(len(origins), 5, 5)))
    image = convolve.with_border(image, 2)
    return {"image": image, "kernels": kernels, "origins": origins, "h": 4, "w": 8}


def by_own_kernel_twin(image, kernels, origins, h, w):
    image = image[:, : -convolve.PADDING]
    return twin.by_own_kernel(image, kernels[..., :5], origins, (h, w))


CASES = [
    Case(convolve.fill, fill_twin, fill_inputs, (9, 30, 1000)),
    Case(
        convolve.mix_rows,
        lambda basis, powers, ny, n_powers: twin.mix_rows(basis, powers, ny),
        mix_rows_inputs,
        (4, 30, 4000),
    ),
    Case(convolve.polynomial, polynomial_twin, polynomial_inputs, (6, 30, 1000)),
    *(
        Case(
            convolve.mix,
            lambda basis, coefficients, mode, change=change: twin.mix(basis, coefficients, change),
            lambda rng, size, mode=mode: mix_inputs(rng, size) | {"mode": mode},
            (4, 30, 4000),
            note=note,
        )
        for note, mode, change in (
            ("plain", convolve.PLAIN, lambda kernel: kernel),
            ("modulus", convolve.MODULUS, np.abs),
            ("square", convolve.SQUARE, np.square),
        )
    ),
    Case(convolve.by_own_kernel, by_own_kernel_twin, by_own_kernel_inputs, (6, 30, 200)),
]
