"""What kernels/convolve.py computes, in float64, one pixel at a time."""

import numpy as np


def convolve(image, kernel):
    """Convolution with zeros around, by shifting the image."""
    r = len(kernel) // 2
    ny, nx = image.shape
    padded = np.pad(image.astype(float), r)
    total = np.zeros((ny, nx))
    for v in range(-r, r + 1):
        for u in range(-r, r + 1):
            total += kernel[v + r, u + r] * padded[r - v : r - v + ny, r - u : r - u + nx]
    return total


def convolve_blocks(image, kernels, coefficients, origins, shape, change=lambda kernel: kernel):
    """(n, h, w): blocks of the image, each convolved by its own kernel; 0 outside of the image."""
    blocks = np.zeros((len(origins), *shape))
    for block, c, (y, x) in zip(blocks, coefficients, origins, strict=True):
        kernel = change(np.tensordot(c, kernels, 1))
        cut = convolve(image, kernel)[y : y + shape[0], x : x + shape[1]]
        block[: cut.shape[0], : cut.shape[1]] = cut
    return blocks


def convolve_polynomial(image, kernels, powers):
    """The image convolved by a kernel that is a polynomial of the place."""
    v, u = np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape), indexing="ij")
    return sum(
        u**i * v**j * convolve(image, kernel)
        for kernel, (i, j) in zip(kernels, powers, strict=True)
    )


def fill_bad(image, bad, reach):
    """Mean of the good pixels in a square around each bad one, weighted by distance^-4."""
    out = image.astype(float)
    y, x = np.indices(image.shape)
    for v, u in zip(*np.nonzero(bad), strict=True):
        near = (np.maximum(abs(y - v), abs(x - u)) <= reach) & ~bad
        weight = np.hypot(y - v, x - u)[near] ** -4.0
        out[v, u] = (weight * image[near]).sum() / weight.sum() if near.any() else 0
    return out
