"""What a matching kernel makes of a pair, with the exact kernel of every single pixel."""

import numpy as np


def convolve_varying(image, kernel, change=lambda k: k):
    """sum_vu K(x, y)[v, u] image(y - v, x - u) with K taken at (x, y); zeros around."""
    ny, nx = image.shape
    y, x = np.indices((ny, nx))
    kernels = change(np.tensordot(kernel.terms(x, y), kernel.components, 1))
    r = kernels.shape[2] // 2
    padded = np.pad(image.astype(float), r)
    total = np.zeros((ny, nx))
    for v in range(-r, r + 1):
        for u in range(-r, r + 1):
            shifted = padded[r - v : r - v + ny, r - u : r - u + nx]
            total += kernels[:, :, v + r, u + r] * shifted
    return total


def background(kernel):
    """The fitted background at all pixels."""
    ny, nx = kernel.shape
    v, u = np.meshgrid(np.linspace(-1, 1, ny), np.linspace(-1, 1, nx), indexing="ij")
    powers = [(n - j, j) for n in range(4) for j in range(n + 1)]
    return sum(c * u**i * v**j for c, (i, j) in zip(kernel.background, powers, strict=False))


def difference(ref, sci, kernel):
    """Difference in counts of sci."""
    image, target = (ref, sci) if kernel.convolved == "ref" else (sci, ref)
    model = convolve_varying(image - kernel.skies[0], kernel) + background(kernel)
    rest = target - kernel.skies[1] - model
    if kernel.convolved == "ref":
        return rest
    y, x = np.indices(rest.shape)
    return -rest / kernel.sum(x, y)


def variance(ref, sci, kernel):
    """Variance of the difference from those of the images."""
    image, target = (ref, sci) if kernel.convolved == "ref" else (sci, ref)
    total = target + convolve_varying(image, kernel, np.square)
    if kernel.convolved == "ref":
        return total
    y, x = np.indices(total.shape)
    return total / kernel.sum(x, y) ** 2
