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


def _cut(frame, origins, shape):
    """Blocks of a frame; 0 outside of it."""
    blocks = np.zeros((len(origins), *shape))
    for block, (y, x) in zip(blocks, origins, strict=True):
        cut = frame[y : y + shape[0], x : x + shape[1]]
        block[: cut.shape[0], : cut.shape[1]] = cut
    return blocks


def mix(basis, coefficients, change):
    """Kernel of each block, changed."""
    return change(np.tensordot(coefficients.astype(float), basis, 1))


def mix_rows(basis, powers, ny):
    """Kernels of each power of u in each row; basis (n_basis, pixels)."""
    kernels = np.zeros((ny, powers[:, 0].max() + 1, basis.shape[1]))
    for image, (i, j) in zip(basis, powers, strict=True):
        kernels[:, i] += np.linspace(-1, 1, ny)[:, None] ** j * image
    return kernels


def correlate(image, kernels):
    """Each pixel of a frame correlated by a kernel of its row, (ny, size, size)."""
    ny, size, _ = kernels.shape
    nx = image.shape[1] - size + 1
    return sum(
        kernels[:, j, i, None] * image[j : j + ny, i : i + nx].astype(float)
        for j in range(size)
        for i in range(size)
    )


def polynomial(image, kernels, origins, shape):
    """Blocks of an image with a border, convolved by `kernels` (ny, n_powers, size, size)."""
    frames = [correlate(image, kernels[:, power]) for power in range(kernels.shape[1])]
    u = np.linspace(-1, 1, frames[0].shape[1])
    return _cut(sum(u**power * frame for power, frame in enumerate(frames)), origins, shape)


def by_own_kernel(image, kernels, origins, shape):
    """Blocks of an image with a border, each convolved by one of the kernels (n, size, size)."""
    ny = image.shape[0] - kernels.shape[1] + 1
    return np.concatenate(
        [
            _cut(correlate(image, np.broadcast_to(kernel, (ny, *kernel.shape))), [origin], shape)
            for kernel, origin in zip(kernels, origins, strict=True)
        ]
    )
