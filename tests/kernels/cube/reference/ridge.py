"""What kernels/cube/ridge.py computes, by a fit for every block of epochs."""

import numpy as np


def coefficients(x, y, weights, penalties):
    """Of the rows of x (k, n) that predict y (n,)."""
    weighted = x * weights
    return np.linalg.solve(weighted @ x.T + np.diag(penalties), weighted @ y)


def predict(x, y, weights, penalties, blocks):
    """Prediction of y; that of epochs from <= n < to by a fit without first <= n < stop."""
    out = coefficients(x, y, weights, penalties) @ x
    whole = out.copy()
    for first, stop, begin, end in blocks:
        left = weights.copy()
        left[first:stop] = 0
        out[begin:end] = (coefficients(x, y, left, penalties) @ x)[begin:end]
    return np.where(weights > 0, out, whole)


def hat(x, weights, penalties):
    """Hat matrix of the weighted epochs, (n, n)."""
    z = x * np.sqrt(weights)
    return z.T @ np.linalg.solve(z @ z.T + np.diag(penalties), z)
