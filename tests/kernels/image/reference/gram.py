"""What kernels/gram.py computes, in float64, with dense kernels and dense design matrices."""

import numpy as np

from tests.kernels.image.reference.convolve import convolve


def planes(image, taps, products, shares, carrier):
    """(m, ny, nx): the image convolved by every function, and the constant."""
    kernels = np.array([np.outer(taps[down], taps[across]) for down, across in products], float)
    kernels = kernels - np.asarray(shares)[:, None, None] * kernels[carrier]
    return np.stack([*(convolve(image, kernel) for kernel in kernels), np.ones(image.shape)])


def design(image, functions, origin, side):
    """(h * w, m): the functions in one stamp."""
    y, x = origin
    window = planes(image, *functions)[:, y : y + side[0], x : x + side[1]]
    return window.reshape(len(window), -1).T


def normal_equations(image, target, weight, origins, *functions):
    """Equations of every stamp, from its design matrix."""
    normal, right, square = [], [], []
    side = weight.shape[1:]
    for (y, x), w in zip(origins, weight.reshape(len(weight), -1).astype(float), strict=True):
        a = design(image, functions, (y, x), side)
        t = target[y : y + side[0], x : x + side[1]].astype(float).ravel()
        normal.append(a.T @ (w[:, None] * a))
        right.append(a.T @ (w * t))
        square.append((w * t**2).sum())
    return np.array(normal), np.array(right), np.array(square)


def with_terms(a, terms, n_terms):
    """A stamp's design matrix (pixels, m) as one for coefficients that are polynomials."""
    return np.concatenate(
        [column[:, None] * terms[:n] for column, n in zip(a.T, n_terms, strict=True)], axis=1
    )
