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
windows inside of the frame; taps (n_taps, size) float32, size a multiple of `GROUP`, padded with
zeros; products (n_basis, 2) int64 of (down, across), sorted by the second; shares (n_basis)
float32; normal (n, m, m), right (n, m), square (n) float64, m = n_basis + 1. Products are float32,
sums of more than some hundred of them float64.

Arrays of CuPy are worked on where they lie, on its current stream, and the results are CuPy's too;
what is small (origins, taps, products, shares) may come as NumPy's.

Cost a stamp: h w (size (n_basis + n_taps) + m^2 / 2) multiplications.

Source: Alard & Lupton 1998 (ApJ 503, 325), Alard 2000 (A&AS 144, 363), eqs. 2 to 6.
"""

from __future__ import annotations

import math

import numpy as np

from .. import jit
from ..jit import cuda
from ..linalg.small import solve_by_rows

f32 = np.float32

GROUP = 4
"""Taps that are added at a time."""
CHUNK = 256
"""Pixels that are summed in float32."""
AT_A_TIME = 1 << 28
"""Pixels of filtered stamps, float32, that a GPU holds at a time."""


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
def row_of_products(normal_row, left, right, out, first, last):
    """``out += left right normal_row``: functions first <= j < last of one pair of terms."""
    product = left * right
    for j in range(np.uintp(first), np.uintp(last)):
        out[j] += product * normal_row[j]


# ---------------------------------------------------------------- CPU


@jit.cpu_loop
def gram_cpu(
    start, stop, image, target, weight, origins, taps, products, shares, carrier, normal, right,
    square,
):  # fmt: skip
    """Item: one stamp."""
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
            if products[k, 1] != made:
                made = products[k, 1]
                for y in range(inside):
                    filtered(image[y0 + y, x0:], taps[made], 1, across[y * w :], 0, w)
            filtered(across, taps[products[k, 0]], w, planes[k], 0, h * w)
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


# ---------------------------------------------------------------- CUDA


# Planes are laid out as on the CPU, those of all stamps at once: across (n, n_taps, rows * w),
# planes (n, m, h * w).


@jit.cuda_kernel
def across_cuda(image, origins, taps, w, across):
    """Thread: one pixel of the rows of a stamp, filtered by one of the taps."""
    n, n_taps, pixels = across.shape
    item = cuda.grid(1)
    i, k, stamp = item % pixels, item // pixels % n_taps, item // (pixels * n_taps)
    if stamp < n:
        y0, x0, y, x = origins[stamp, 0], origins[stamp, 1], i // w, i % w
        across[stamp, k, i] = f32(0)
        if y0 + y < image.shape[0]:
            filtered(image[y0 + y, x0:], taps[k], 1, across[stamp, k, y * w :], x, x + 1)


@jit.cuda_kernel
def down_cuda(across, taps, products, w, planes):
    """Thread: one pixel of one function of a stamp."""
    n, m, pixels = planes.shape
    item = cuda.grid(1)
    i, k, stamp = item % pixels, item // pixels % m, item // (pixels * m)
    if stamp < n:
        if k == m - 1:
            planes[stamp, k, i] = f32(1)
        else:
            rows = across[stamp, products[k, 1]]
            filtered(rows, taps[products[k, 0]], w, planes[stamp, k], i, i + 1)


@jit.cuda_kernel
def take_off_cuda(planes, shares, carrier):
    """Thread: one pixel of one function of a stamp, but for the carrier's."""
    n, m, pixels = planes.shape
    item = cuda.grid(1)
    i, k, stamp = item % pixels, item // pixels % m, item // (pixels * m)
    if stamp < n and k < m - 1 and k != carrier:
        take_off(planes[stamp, k], shares[k], planes[stamp, carrier], i, i + 1)


@jit.cuda_kernel
def gram_cuda(planes, target, weight, origins, normal, right, square):
    """Thread: one entry of the equations of a stamp; function m stands for the target."""
    n, h, w = weight.shape
    m = planes.shape[1]
    item = cuda.grid(1)
    j, k, stamp = item % (m + 1), item // (m + 1) % (m + 1), item // ((m + 1) * (m + 1))
    if stamp < n and j <= k:
        y0, x0 = origins[stamp, 0], origins[stamp, 1]
        total = 0.0
        for y in range(h):
            part = f32(0)
            for x in range(w):
                wanted = target[y0 + y, x0 + x]
                first = planes[stamp, k, y * w + x] if k < m else wanted
                second = planes[stamp, j, y * w + x] if j < m else wanted
                part += weight[stamp, y, x] * first * second
            total += part
        if j == m:
            square[stamp] = total
        elif k == m:
            right[stamp, j] = total
        else:
            normal[stamp, k, j] = normal[stamp, j, k] = total


@jit.cuda_kernel
def combine_cuda(normal, right, terms, offsets, matrix, vector):
    """Thread: a pair of functions; the entries of all of their terms."""
    m = right.shape[1]
    item = cuda.grid(1)
    k, j = item // m, item % m
    if k < m and j <= k:
        for a in range(offsets[k], offsets[k + 1]):
            for b in range(offsets[j], offsets[j + 1]):
                matrix[a, b] = 0.0
                for stamp in range(right.shape[0]):
                    row_of_products(
                        normal[stamp, k, j : j + 1], terms[stamp, a - offsets[k]],
                        terms[stamp, b - offsets[j]], matrix[a, b : b + 1], 0, 1,
                    )  # fmt: skip
            if j == k:
                vector[a] = 0.0
                for stamp in range(right.shape[0]):
                    vector[a] += terms[stamp, a - offsets[k]] * right[stamp, k]


@jit.cuda_kernel
def solve_cuda(matrices, vectors):
    """Thread: one system, solved in place."""
    i = cuda.grid(1)
    if i < matrices.shape[0]:
        solve_by_rows(matrices[i], vectors[i])


def normal_equations(
    image: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
    origins: np.ndarray,
    taps: np.ndarray,
    products: np.ndarray,
    shares: np.ndarray,
    carrier: int,
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
    taps : ndarray of float32, (n_taps, width)
        Of 2 r + 1 pixels, with zeros to a multiple of `GROUP`.
    products : ndarray of int64, (n_basis, 2)
        Taps down and across of each basis kernel.
    shares : ndarray of float32, (n_basis,)
        How much of the carrier is taken off each basis kernel, 0 for itself.
    carrier : int
        Index of the carrier.
    threads : int, optional
        CPU threads; all cores by default.

    Returns
    -------
    normal : ndarray of float64, (n, m, m)
        Symmetric, m = n_basis + 1; the constant comes last.
    right : ndarray of float64, (n, m)
    square : ndarray of float64, (n,)
    """
    n, m = len(origins), len(products) + 1
    normal, right, square = (
        np.zeros_like(image, np.float64, shape=shape) for shape in ((n, m, m), (n, m), (n,))
    )
    if jit.on_cpu(image):
        jit.run(
            gram_cpu, n, threads,
            image, target, weight, origins, taps, products, shares, carrier, normal, right, square,
        )  # fmt: skip
        return normal, right, square
    origins, taps, products, shares = (
        np.asarray(each, like=image) for each in (origins, taps, products, shares)
    )
    (_, h, w), (n_taps, size) = weight.shape, taps.shape
    shapes = (n_taps, (h + size - 1) * w), (m, h * w)
    step = max(1, AT_A_TIME // sum(math.prod(shape) for shape in shapes))
    for first in range(0, n, step):
        part = slice(first, min(first + step, n))
        across, planes = (
            np.empty_like(image, shape=(part.stop - first, *shape)) for shape in shapes
        )
        jit.launch(across_cuda, across.size, image, origins[part], taps, w, across)
        jit.launch(down_cuda, planes.size, across, taps, products, w, planes)
        jit.launch(take_off_cuda, planes.size, planes, shares, carrier)
        jit.launch(
            gram_cuda, len(planes) * (m + 1) ** 2,
            planes, target, weight[part], origins[part], normal[part], right[part], square[part],
        )  # fmt: skip
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
