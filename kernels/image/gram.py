r"""Normal equations of stamps: how well kernels of a basis turn one image into another.

In every stamp, a window of h x w pixels, the target image T is to be the image R convolved by a
kernel, and a constant: T = sum_k c_k (B_k * R) + c_n. The stamp's share of the weighted least
squares fit are the sums over its pixels

    normal_kl = sum W C_k C_l,    right_k = sum W C_k T,    square = sum W T^2,

with C_k = B_k * R and C_n = 1. They stay what they are while the solution changes: the c_k as
polynomials of the stamp's place in the frame, the chi^2 of a stamp and what leaving it out does
to the fit all follow from these small matrices, and no design matrix is ever made.

Each B_k is a product of two rows of taps less a part of one of them, the carrier c,

    B_k(y, x) = taps[down_k, y] taps[across_k, x] - share_k taps[down_c, y] taps[across_c, x]:

Gaussians times Hermite polynomials, or single pixels, with shares (0 for the carrier itself) that
leave them without a sum, for example. (As in `convolve` a correlation is written: turn the taps
round for a convolution.)

Shapes: image (ny + 2 r, nx + 2 r + 3) float32 with the border of `convolve.with_border`, r half of
the kernels' size; target (ny, nx) and weight (n, h, w) float32; origins (n, 2) int64 of (y0, x0),
windows inside of the frame; `Functions`; normal (n, m, m), right (n, m), square (n) float64,
m = n_basis + 1. Products are float32, sums of more than some hundred of them float64.

On a CPU one stamp after another is filtered and summed, in scratch memory that stays in the cache
(`gram_cpu`). On a GPU every step is done for many stamps at once: `filter_across`, `filter_down`,
`take_off_carrier`, `sum_products`.

Arrays of CuPy are worked on where they lie, on its current stream, and the results are CuPy's too;
what is small (origins, taps, products, shares) may come as NumPy's.

Cost a stamp: h w (size (n_basis + n_taps) + m^2 / 2) multiplications.

Source: Alard & Lupton 1998 (ApJ 503, 325), Alard 2000 (A&AS 144, 363), eqs. 2 to 6.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .. import jit
from ..declare import kernel
from ..linalg.small import solve_by_rows

f32 = np.float32

GROUP = 4
"""Taps that are added at a time."""
CHUNK = 256
"""Pixels that are summed in float32."""
AT_A_TIME = 1 << 28
"""Pixels of filtered stamps, float32, that a GPU holds at a time."""
DOWN, ACROSS = range(2)
"""Columns of `Functions.products`."""


class Functions(NamedTuple):
    """Basis kernels: each the product of two rows of taps, less its share of the carrier."""

    taps: np.ndarray
    """(n_taps, size) float32; size is a multiple of `GROUP`, filled up with zeros."""
    products: np.ndarray
    """(n_basis, 2) int64: which taps run `DOWN` and which `ACROSS`, sorted by the latter."""
    shares: np.ndarray
    """(n_basis,) float32: how much of the carrier is taken off, 0 for the carrier itself."""
    carrier: int
    """Index of the carrier."""


# ---------------------------------------------------------------- items
# Those of pixels write first <= i < last of a plane laid out in one row: all of it on a CPU, one
# pixel on a GPU.


@jit.item
def filtered(source, taps, step, out, first, last):
    """``out[i] = sum_t taps[t] source[i + t step]``"""
    for i in range(np.uintp(first), np.uintp(last)):
        out[i] = f32(0)
    for t in range(0, taps.shape[0], GROUP):
        a, b, c, d = taps[t], taps[t + 1], taps[t + 2], taps[t + 3]
        s0, s1 = source[t * step :], source[(t + 1) * step :]
        s2, s3 = source[(t + 2) * step :], source[(t + 3) * step :]
        for i in range(np.uintp(first), np.uintp(last)):
            out[i] += a * s0[i] + b * s1[i] + c * s2[i] + d * s3[i]


@jit.item
def take_off(plane, share, carrier, first, last):
    """``plane[i] -= share carrier[i]``"""
    for i in range(np.uintp(first), np.uintp(last)):
        plane[i] -= share * carrier[i]


@jit.item
def dot(a, b):
    """Sum of products."""
    total = 0.0
    for first in range(0, a.shape[0], CHUNK):
        part = f32(0)
        for i in range(np.uintp(first), np.uintp(min(first + CHUNK, a.shape[0]))):
            part += a[i] * b[i]
        total += part
    return total


@jit.item
def dots(a, b, c0, c1, c2, c3):
    """Sums of products of a and of b with four others: each number is read for several."""
    a0, a1, a2, a3, b0, b1, b2, b3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for first in range(0, a.shape[0], CHUNK):
        p0, p1, p2, p3 = f32(0), f32(0), f32(0), f32(0)
        q0, q1, q2, q3 = f32(0), f32(0), f32(0), f32(0)
        for i in range(np.uintp(first), np.uintp(min(first + CHUNK, a.shape[0]))):
            p0 += a[i] * c0[i]
            p1 += a[i] * c1[i]
            p2 += a[i] * c2[i]
            p3 += a[i] * c3[i]
            q0 += b[i] * c0[i]
            q1 += b[i] * c1[i]
            q2 += b[i] * c2[i]
            q3 += b[i] * c3[i]
        a0, a1, a2, a3 = a0 + p0, a1 + p1, a2 + p2, a3 + p3
        b0, b1, b2, b3 = b0 + q0, b1 + q1, b2 + q2, b3 + q3
    return a0, a1, a2, a3, b0, b1, b2, b3


@jit.item
def row_of_entry(planes, target, weight, first, k, j):
    """What a row of pixels, which begins at `first`, adds to entry (k, j) of the equations."""
    m, part = planes.shape[0], f32(0)
    for x in range(weight.shape[0]):
        left = planes[k, first + x] if k < m else target[x]
        right = planes[j, first + x] if j < m else target[x]
        part += weight[x] * left * right
    return part


@jit.item
def row_of_products(normal_row, left, right, out, first, last):
    """``out += left right normal_row``: functions first <= j < last of one pair of terms."""
    product = left * right
    for j in range(np.uintp(first), np.uintp(last)):
        out[j] += product * normal_row[j]


# ---------------------------------------------------------------- CPU


@jit.cpu_loop
def gram_cpu(start, stop, image, target, weight, origins, functions, normal, right, square):
    """Item: one stamp."""
    taps, products, shares, carrier = functions
    h, w, size = weight.shape[1], weight.shape[2], taps.shape[1]
    m = len(products) + 1
    rows = h + size - 1
    across = np.zeros(rows * w, np.float32)
    planes = np.ones((m, h * w), np.float32)
    wanted, weights = np.empty(h * w, np.float32), np.empty(h * w, np.float32)
    weighted = np.empty((2, h * w), np.float32)
    for stamp in range(start, stop):
        y0, x0 = origins[stamp, 0], origins[stamp, 1]
        for y in range(h):
            for x in range(w):
                wanted[y * w + x] = target[y0 + y, x0 + x]
                weights[y * w + x] = weight[stamp, y, x]
        # Rows beyond the border would meet taps of zero only.
        inside = min(rows, image.shape[0] - y0)
        across[inside * w :] = f32(0)
        made = -1
        for k in range(m - 1):
            if products[k, ACROSS] != made:
                made = products[k, ACROSS]
                for y in range(inside):
                    filtered(image[y0 + y, x0:], taps[made], 1, across[y * w :], 0, w)
            filtered(across, taps[products[k, DOWN]], w, planes[k], 0, h * w)
        for k in range(m - 1):
            take_off(planes[k], shares[k], planes[carrier], 0, h * w)
        for k in range(0, m, 2):
            last = min(k + 1, m - 1)
            for i in range(np.uintp(h * w)):
                weighted[0, i] = weights[i] * planes[k, i]
                weighted[1, i] = weights[i] * planes[last, i]
            a, b = normal[stamp, k], normal[stamp, last]
            for j in range(0, last - 2, 4):
                a[j], a[j + 1], a[j + 2], a[j + 3], b[j], b[j + 1], b[j + 2], b[j + 3] = dots(
                    weighted[0], weighted[1],
                    planes[j], planes[j + 1], planes[j + 2], planes[j + 3],
                )  # fmt: skip
            for j in range((last + 1) // 4 * 4, last + 1):
                a[j], b[j] = dot(weighted[0], planes[j]), dot(weighted[1], planes[j])
            right[stamp, k], right[stamp, last] = dot(weighted[0], wanted), dot(weighted[1], wanted)
        for k in range(m):
            for j in range(k):
                normal[stamp, j, k] = normal[stamp, k, j]
        for i in range(np.uintp(h * w)):
            weighted[0, i] = weights[i] * wanted[i]
        square[stamp] = dot(weighted[0], wanted)


@jit.cpu_loop
def combine_cpu(start, stop, normal, right, terms, offsets, matrix, vector):
    """Item: one function; its rows of the matrix, up to the diagonal."""
    n, m, p = right.shape[0], right.shape[1], terms.shape[1]
    rows = np.empty((p, p, m))
    for k in range(start, stop):
        rows[:] = 0.0
        vector[offsets[k] : offsets[k + 1]] = 0.0
        for stamp in range(n):
            for a in range(p):
                for b in range(p):
                    row_of_products(
                        normal[stamp, k], terms[stamp, a], terms[stamp, b], rows[a, b], 0, k + 1
                    )
            for a in range(offsets[k], offsets[k + 1]):
                vector[a] += terms[stamp, a - offsets[k]] * right[stamp, k]
        for j in range(k + 1):
            for a in range(offsets[k], offsets[k + 1]):
                for b in range(offsets[j], offsets[j + 1]):
                    matrix[a, b] = rows[a - offsets[k], b - offsets[j], j]


@jit.cpu_loop
def solve_cpu(start, stop, matrices, vectors):
    """Item: one system, solved in place."""
    for i in range(start, stop):
        solve_by_rows(matrices[i], vectors[i])


# ---------------------------------------------------------------- GPU
# Planes are laid out as on the CPU, those of all stamps at once.


@kernel(
    over="n, n_taps, rows, w",
    image="float32 (image_rows, columns)",
    origins="int64 (n, 2)",
    taps="float32 (n_taps, size)",
    across="out float32 (n, n_taps, rows, w)",
)
def filter_across(stamp, k, y, first, last, image, origins, taps, across):
    """A row of a stamp, filtered by one of the taps; 0 beyond the border of the image."""
    y0, x0 = origins[stamp, 0] + y, origins[stamp, 1]
    if y0 < image.shape[0]:
        filtered(image[y0, x0:], taps[k], 1, across[stamp, k, y], first, last)
    else:
        for x in range(first, last):
            across[stamp, k, y, x] = f32(0)


@kernel(
    over="n, m, pixels",
    across="float32 (n, n_taps, across_pixels)",
    taps="float32 (n_taps, size)",
    products="int64 (n_basis, 2)",
    w="int64",
    planes="out float32 (n, m, pixels)",
)
def filter_down(stamp, k, first, last, across, taps, products, w, planes):
    """One function of a stamp; the last one is the constant."""
    if k < products.shape[0]:
        rows = across[stamp, products[k, ACROSS]]
        filtered(rows, taps[products[k, DOWN]], w, planes[stamp, k], first, last)
    else:
        for i in range(first, last):
            planes[stamp, k, i] = f32(1)


@kernel(
    over="n, n_basis, pixels",
    planes="inout float32 (n, m, pixels)",
    shares="float32 (n_basis)",
    carrier="int64",
)
def take_off_carrier(stamp, k, first, last, planes, shares, carrier):
    """Take the carrier's share off one function of a stamp; the carrier is only read."""
    if k != carrier:
        take_off(planes[stamp, k], shares[k], planes[stamp, carrier], first, last)


@kernel(
    over="n, m + 1, m + 1",
    planes="float32 (n, m, pixels)",
    target="float32 (ny, nx)",
    weight="float32 (n, h, w)",
    origins="int64 (n, 2)",
    normal="out float64 (n, m, m)",
    right="out float64 (n, m)",
    square="out float64 (n)",
)
def sum_products(stamp, k, j, planes, target, weight, origins, normal, right, square):
    """One entry of the equations of a stamp; function m stands for the target.

    `gram_cpu` makes sums for several functions at once, because each number that is read then
    serves eight sums. Here a thread makes a single sum, a row of pixels at a time.
    """
    m = planes.shape[1]
    if j > k:
        return
    total = 0.0
    for y in range(weight.shape[1]):
        total += row_of_entry(
            planes[stamp], target[origins[stamp, 0] + y, origins[stamp, 1] :], weight[stamp, y],
            y * weight.shape[2], k, j,
        )  # fmt: skip
    if j == m:
        square[stamp] = total
    elif k == m:
        right[stamp, j] = total
    else:
        normal[stamp, k, j] = normal[stamp, j, k] = total


# ---------------------------------------------------------------- entry points


def normal_equations(
    image: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
    origins: np.ndarray,
    functions: Functions,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normal equations of every stamp.

    Parameters
    ----------
    image : ndarray of float32, (ny + 2 r, nx + 2 r + PADDING)
        Image that is convolved, with a border (`convolve.with_border`), finite.
    target : ndarray of float32, (ny, nx)
        Image that it is to become, finite.
    weight : ndarray of float32, (n, h, w)
        Inverse variance of each pixel of the stamps, 0 at bad ones.
    origins : ndarray of int64, (n, 2)
        First row and column of each stamp.
    functions : Functions
        Basis kernels of 2 r + 1 pixels.
    threads : int, optional
        CPU threads; all cores by default.

    Returns
    -------
    normal : ndarray of float64, (n, m, m)
        Symmetric, m = n_basis + 1; the constant comes last.
    right : ndarray of float64, (n, m)
    square : ndarray of float64, (n,)
    """
    n, m = len(origins), len(functions.products) + 1
    normal, right, square = (
        np.zeros_like(image, np.float64, shape=shape) for shape in ((n, m, m), (n, m), (n,))
    )
    if jit.on_cpu(image):
        arguments = image, target, weight, origins, functions, normal, right, square
        jit.run(gram_cpu, n, threads, *arguments)
        return normal, right, square
    origins, taps, products, shares = (
        np.asarray(each, like=image) for each in (origins, *functions[:3])
    )
    (_, h, w), (n_taps, size) = weight.shape, taps.shape
    shapes = (n_taps, h + size - 1, w), (m, h * w)
    step = max(1, AT_A_TIME // sum(math.prod(shape) for shape in shapes))
    for first in range(0, n, step):
        part = slice(first, min(first + step, n))
        across, planes = (
            np.empty_like(image, shape=(part.stop - first, *shape)) for shape in shapes
        )
        filter_across(image, origins[part], taps, across)
        flat = across.reshape(*across.shape[:2], -1)
        filter_down(flat, taps, products, w, planes)
        take_off_carrier(planes, shares, functions.carrier)
        sum_products(
            planes, target, weight[part], origins[part], normal[part], right[part], square[part]
        )
    return normal, right, square


def combine(
    normal: np.ndarray,
    right: np.ndarray,
    terms: np.ndarray,
    n_terms: np.ndarray,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Equations of all stamps for coefficients that are polynomials of the stamp's place.

    Parameters
    ----------
    normal : ndarray of float64, (n, m, m)
        Of each stamp; the lower half is read.
    right : ndarray of float64, (n, m)
    terms : ndarray of float64, (n, p)
        Terms of a polynomial at each stamp.
    n_terms : ndarray of int64, (m,)
        How many of the first terms each function has, up to p.
    threads : int, optional
        CPU threads; all cores by default.

    Returns
    -------
    matrix : ndarray of float64, (q, q)
        q = sum of `n_terms`; the terms of the first function come first. Lower half.
    vector : ndarray of float64, (q,)
    """
    offsets = np.append(0, np.cumsum(n_terms)).astype(np.int64)
    matrix, vector = np.zeros((offsets[-1], offsets[-1])), np.zeros(offsets[-1])
    jit.run(combine_cpu, len(n_terms), threads, normal, right, terms, offsets, matrix, vector)
    return matrix, vector


def solve_positive(matrix: np.ndarray, vector: np.ndarray, ridge: float) -> np.ndarray:
    """Solve a symmetric positive system, scaled to a diagonal of 1 + `ridge`.

    On one thread and without LAPACK, whose threads cost more than they gain in systems like
    these. Only the lower half of the matrix is read. A function that is 0 everywhere gets 0.
    """
    size = np.sqrt(np.diagonal(matrix))
    size = np.where(size > 0, size, np.inf)
    scaled = matrix / size[:, None] / size
    scaled[np.diag_indices_from(scaled)] = 1 + ridge
    solution = vector / size
    jit.run(solve_cpu, 1, 1, scaled[None], solution[None])
    return solution / size
