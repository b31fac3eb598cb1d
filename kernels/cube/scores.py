"""What a penalty gives for a sample of targets, without a prediction: generalised cross-validation.

The weighted squared residuals follow from y^T W y = gram[target, target]. The degrees of freedom
are k - penalty tr(A^-1) with A^-1 = L^-T L^-1, the trace over the coefficients with a penalty.

Cost a target and penalty, in operations: k^3 for factor and inverse.

Source: Golub, Heath & Wahba 1979 (Technometrics 21, 215).
"""

from __future__ import annotations

import numpy as np

from .. import jit
from ..linalg.factor import dot, factorise, pad, solve_back, solve_forward, solve_rows
from .tree import gather


@jit.item
def trace_of_inverse(factor, k, n, inverse, out):
    """Sum of the first k entries of the diagonal of (L L^T)^-1, for L (n, n)."""
    trace = 0.0
    for first in range(0, k, 8):
        # Rows of L^-T, which begin at the diagonal.
        inverse[:] = 0.0
        for a in range(8):
            if first + a < k:
                inverse[a, a] = 1.0
        solve_rows(inverse, factor[first:, first:], n - first, out)
        for a in range(8):
            trace += dot(inverse[a], inverse[a], n - first)
    return trace


@jit.cpu_loop
def scores_cpu(start, stop, fits, gram, square, freedom):
    """Item: one target. Squared residuals and degrees of freedom are (n, n_penalties)."""
    size = (fits.lists.shape[1] + 7) // 8 * 8
    matrix, inverse = np.zeros((size + 8, size)), np.zeros((8, size))
    right, wanted, out = np.zeros(size), np.zeros(size), np.zeros((8, 2))
    for i in range(start, stop):
        k, target = fits.counts[i], fits.targets[i]
        n, n_penalised = (k + 7) // 8 * 8, k - fits.n_free
        for r in range(len(fits.penalty)):
            penalty = fits.penalty[r]
            gather(gram, fits.lists[i], k, target, matrix, right)
            pad(matrix, right, k, n)
            wanted[:] = right
            for a in range(n_penalised):
                matrix[a, a] += penalty
            factorise(matrix, n, out)
            solve_forward(matrix, right, n)
            solve_back(matrix, right, n)
            penalised = dot(right, right, n_penalised)
            square[i, r] = gram[target, target] - dot(right, wanted, k) - penalty * penalised
            freedom[i, r] = k - penalty * trace_of_inverse(matrix, n_penalised, n, inverse, out)
