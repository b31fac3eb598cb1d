"""What kernels/cube/batched.py computes, target by target."""

import numpy as np


def gather(gram, targets, lists, counts, n_free, penalty, size):
    """Normal matrices (n, size, size), filled up with the identity, and right-hand sides."""
    matrices = np.tile(np.eye(size), (len(targets), 1, 1))
    rights = np.zeros((len(targets), size))
    for i, k in enumerate(counts):
        chosen = lists[i, :k]
        penalties = np.r_[np.full(k - n_free, penalty[i]), np.zeros(n_free)]
        matrices[i, :k, :k] = gram[np.ix_(chosen, chosen)] + np.diag(penalties)
        rights[i, :k] = gram[chosen, targets[i]]
    return matrices, rights


def solve_forward(factor, columns):
    """L^-1 columns."""
    return np.linalg.solve(np.tril(np.nan_to_num(factor)), columns)


def predict(series, lists, counts, coefficients, m):
    """Sums of the predictors at the first m epochs."""
    rows = zip(lists, counts, coefficients, strict=True)
    return np.stack([values[:k] @ series[index[:k], :m] for index, k, values in rows])
