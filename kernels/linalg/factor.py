r"""Cholesky factors of small positive matrices, A = L L^T, and what they solve.

Every sum of products is a tile of 8 x 2 scalar products of rows (`dots`): 16 sums stay in
registers, 10 loads serve 16 multiplications.

`eliminate` stops the factorisation at a row n: below it stands the Schur complement,

    A = [A_11  .  ]    L = [L_11      ],    S = A_22 - L_21 L_21^T,
        [A_21 A_22]        [L_21  ... ]

from which the factor of what remains, or of any part of it, goes on.

Shapes: matrices (n, n) float64, n a multiple of `ROWS` (`pad` fills them up with rows of the
identity), of which the lower half is read; right-hand sides (n,) or 8 rows of them. All happens in
place; `out` (8, 2) is scratch.

Cost in operations: n^3 / 3 for the factor, n^2 for each right-hand side and direction.

Source: Golub & Van Loan 2013 (Matrix Computations), sections 3.1 and 4.2.
"""

from __future__ import annotations

import math

import numpy as np

from .. import jit

ROWS = 8
"""Rows of a tile; matrices are padded to a multiple."""


# ---------------------------------------------------------------- items


@jit.item
def dots(a, b, n, out):
    """``out[r, c] = sum_t a[r, t] b[c, t]`` for 8 rows a and 2 rows b, t < n."""
    a0, a1, a2, a3, a4, a5, a6, a7 = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
    b0, b1 = b[0], b[1]
    s00 = s01 = s10 = s11 = s20 = s21 = s30 = s31 = 0.0
    s40 = s41 = s50 = s51 = s60 = s61 = s70 = s71 = 0.0
    for t in range(np.uintp(n)):
        u, v = b0[t], b1[t]
        s00 += a0[t] * u
        s01 += a0[t] * v
        s10 += a1[t] * u
        s11 += a1[t] * v
        s20 += a2[t] * u
        s21 += a2[t] * v
        s30 += a3[t] * u
        s31 += a3[t] * v
        s40 += a4[t] * u
        s41 += a4[t] * v
        s50 += a5[t] * u
        s51 += a5[t] * v
        s60 += a6[t] * u
        s61 += a6[t] * v
        s70 += a7[t] * u
        s71 += a7[t] * v
    out[0, 0], out[0, 1], out[1, 0], out[1, 1] = s00, s01, s10, s11
    out[2, 0], out[2, 1], out[3, 0], out[3, 1] = s20, s21, s30, s31
    out[4, 0], out[4, 1], out[5, 0], out[5, 1] = s40, s41, s50, s51
    out[6, 0], out[6, 1], out[7, 0], out[7, 1] = s60, s61, s70, s71


@jit.item
def dot(a, b, n):
    total = 0.0
    for t in range(np.uintp(n)):
        total += a[t] * b[t]
    return total


@jit.item
def solve_rows(rows, factor, n, out):
    """8 rows times L^-T in place, over the first n columns (even); `out` (8, 2) is scratch."""
    for j in range(0, n, 2):
        dots(rows, factor[j:], j, out)
        d0, d1, below = 1.0 / factor[j, j], 1.0 / factor[j + 1, j + 1], factor[j + 1, j]
        for r in range(8):
            value = (rows[r, j] - out[r, 0]) * d0
            rows[r, j] = value
            rows[r, j + 1] = (rows[r, j + 1] - out[r, 1] - value * below) * d1


@jit.item
def factorise(matrix, n, out):
    """Lower half of a positive matrix (n, n), n a multiple of 8, to L in place."""
    for i in range(0, n, 8):
        block = matrix[i:]
        solve_rows(block, matrix, i, out)
        for j in range(i, i + 8, 2):
            dots(block, matrix[j:], j, out)
            r = j - i
            first = math.sqrt(max(matrix[j, j] - out[r, 0], 1e-300))
            below = (matrix[j + 1, j] - out[r + 1, 0]) / first
            second = math.sqrt(max(matrix[j + 1, j + 1] - out[r + 1, 1] - below * below, 1e-300))
            matrix[j, j], matrix[j + 1, j], matrix[j + 1, j + 1] = first, below, second
            for r in range(j - i + 2, 8):
                value = (block[r, j] - out[r, 0]) / first
                block[r, j] = value
                block[r, j + 1] = (block[r, j + 1] - out[r, 1] - value * below) / second


@jit.item
def eliminate(matrix, n, rows, columns, out):
    """Factor of the first n rows (a multiple of 8) in place, and the Schur complement of the rest.

    Rows n <= i < rows become those of L to the left of column n, and from there to column
    `columns` their Schur complement, both halves of it.
    """
    factorise(matrix, n, out)
    for i in range(n, rows, 8):
        block = matrix[i:]
        solve_rows(block, matrix, n, out)
        for j in range(n, min(i + 8, columns), 2):
            dots(block, matrix[j:], n, out)
            for r in range(8):
                block[r, j] -= out[r, 0]
                block[r, j + 1] -= out[r, 1]
            if j < i:
                for r in range(8):
                    matrix[j, i + r] = block[r, j]
                    matrix[j + 1, i + r] = block[r, j + 1]


@jit.item
def solve_forward(factor, right, n):
    """L^-1 right, in place."""
    for i in range(n):
        right[i] = (right[i] - dot(factor[i], right, i)) / factor[i, i]


@jit.item
def solve_back(factor, right, n):
    """L^-T right, in place."""
    for i in range(n - 1, -1, -1):
        right[i] /= factor[i, i]
        value = right[i]
        row = factor[i]
        for t in range(np.uintp(i)):
            right[t] -= value * row[t]


@jit.item
def pad(matrix, right, k, n):
    """Make rows and columns k <= i < n those of the identity, with 0 to the right."""
    for i in range(k, n):
        for j in range(i):
            matrix[i, j] = 0.0
        matrix[i, i] = 1.0
        right[i] = 0.0
