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


def filter_across(image, origins, taps, rows, w):
    """(n, n_taps, rows, w): rows of stamps correlated by each of the taps; 0 beyond the image."""
    out = np.zeros((len(origins), len(taps), rows, w))
    for stamp, (y0, x0) in zip(out, origins, strict=True):
        there = image[y0 : y0 + rows, x0:].astype(float)
        for plane, row in zip(stamp, taps, strict=True):
            plane[: len(there)] = sum(tap * there[:, t : t + w] for t, tap in enumerate(row))
    return out


def filter_down(across, taps, products, w, m, pixels):
    """(n, m, pixels): columns correlated by the taps of each function; the last one is 1."""
    planes = np.ones((len(across), m, pixels))
    for k, (down, row) in enumerate(products):
        rows = across[:, row].astype(float)
        planes[:, k] = sum(
            tap * rows[:, t * w : t * w + pixels] for t, tap in enumerate(taps[down])
        )
    return planes


def take_off_carrier(planes, shares, carrier):
    """Functions less their shares of the carrier; the last plane has no share."""
    shares = np.append(shares, 0)
    return planes - shares[:, None] * planes[:, carrier, None].astype(float)


def sum_products(planes, target, weight, origins):
    """(normal, right, square) of the functions in every stamp."""
    h, w = weight.shape[1:]
    wanted = np.array([target[y : y + h, x : x + w].ravel() for y, x in origins], float)
    weight = weight.reshape(len(weight), -1).astype(float)
    return (
        np.einsum("np,nip,njp->nij", weight, planes, planes),
        np.einsum("np,nip,np->ni", weight, planes, wanted),
        (weight * wanted**2).sum(1),
    )
