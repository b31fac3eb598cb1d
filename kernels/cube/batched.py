"""What a GPU does for many targets at a time, between batched factors of a library.

`gather_systems` fills normal equations, whose Cholesky factors come from CuPy;
`solve_forward_columns` and `predict_targets` go on from these. The CPU fits target by target
instead (`shared`, `single`, `dual`), where neighbours share factors and products are made in tiles.

Shapes: those of `fits`, and size >= k_max: systems are filled up with rows of the identity.

Cost in operations: size^2, size^2 m for m columns, and k a prediction.
"""

from __future__ import annotations

from ..declare import kernel
from ..linalg.factor import solve_forward


@kernel(
    over="n, size, size",
    gram="float64 (n_series, n_series)",
    targets="int64 (n)",
    lists="int32 (n, k_max)",
    counts="int64 (n)",
    n_free="int64",
    penalty="float64 (n)",
    matrix="out float64 (n, size, size)",
    right="out float64 (n, size)",
)
def gather_systems(
    i, a, first, last, gram, targets, lists, counts, n_free, penalty, matrix, right
):  # fmt: skip
    """A row of a normal matrix, both halves of it, the penalty on its diagonal.

    `tree.gather` is the same for the CPU, where only the lower half is made, for a loop over rows.
    """
    k = counts[i]
    for b in range(first, last):
        value = 1.0 if a == b else 0.0
        if a < k and b < k:
            value = gram[lists[i, a], lists[i, b]]
            if a == b and a < k - n_free:
                value += penalty[i]
        matrix[i, a, b] = value
        if b == 0:
            right[i, a] = gram[lists[i, a], targets[i]] if a < k else 0.0


@kernel(over="n, m", factor="float64 (n, size, size)", columns="inout float64 (n, size, m)")
def solve_forward_columns(i, j, factor, columns):
    """A column, which becomes L^-1 of it; only the lower half of the factor L is read.

    Threads beside each other read the same of their factor, and neighbouring entries of a row of
    columns.
    """
    solve_forward(factor[i], columns[i, :, j], columns.shape[1])


@kernel(
    over="n, m",
    series="float64 (n_series, n_epochs)",
    lists="int32 (n, k_max)",
    counts="int64 (n)",
    coefficients="float64 (n, k_max)",
    prediction="out float64 (n, m)",
)
def predict_targets(i, first, last, series, lists, counts, coefficients, prediction):
    """The first m epochs of a target: the sum of its predictors."""
    for t in range(first, last):
        total = 0.0
        for a in range(counts[i]):
            total += coefficients[i, a] * series[lists[i, a], t]
        prediction[i, t] = total
