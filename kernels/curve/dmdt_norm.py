"""dm-dt images of counts of pairs: normalisations of one curve's cells.

With n pairs in a cell, p pairs of the curve and sums over the cells between the outer rows:

    PAPER      int(255 n / p + 0.99999)
    L2         n over the root of the sum of n^2
    BY_COLUMN  n over the pairs of the column, at any dm
    MAX        n over the greatest n

(Mahabal et al. 2017, arXiv:1709.06257, section III, has the first). Images without pairs are zeros.

Shapes: counts (n, n_columns, n_rows), n_pairs (n,) int64 -> images (n, n_rows - 2, n_columns),
without the first and the last row. Cost: two passes.
`tests/kernels/curve/reference/dmdt.py` says the same in NumPy.
"""

from __future__ import annotations

import math

from .. import jit
from ..declare import kernel

PAPER, L2, BY_COLUMN, MAX = range(4)
"""Normalisations, as at the top."""


@jit.item
def norm_of(counts, n_pairs, column, norm):
    """What the pairs of a cell are divided by."""
    n_columns, n_rows = counts.shape
    total = 0.0
    if norm == PAPER:
        total = float(n_pairs)
    elif norm == BY_COLUMN:
        for k in range(n_rows):
            total += counts[column, k]
    else:
        for c in range(n_columns):
            for k in range(1, n_rows - 1):
                n = float(counts[c, k])
                total = max(total, n) if norm == MAX else total + n * n
        if norm == L2:
            total = math.sqrt(total)
    return total


@kernel(
    over="n",
    counts="int64|float64 (n, n_columns, n_rows)",
    n_pairs="int64 (n)",
    norm="int64",
    images="out uint8|float32 (n, n_rows - 2, n_columns)",
)
def normalise(curve, counts, n_pairs, norm, images):
    """Image of one curve."""
    n_columns, n_rows = counts.shape[1], counts.shape[2]
    total = 0.0
    for c in range(n_columns):
        if c == 0 or norm == BY_COLUMN:
            total = norm_of(counts[curve], n_pairs[curve], c, norm)
        for k in range(1, n_rows - 1):
            n = counts[curve, c, k]
            if norm == PAPER:
                value = 255.0 * n / total + 0.99999 if total > 0.0 else 0.0
            else:
                value = n / total if total > 0.0 else 0.0
            images[curve, k - 1, c] = value
