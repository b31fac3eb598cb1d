r"""Convolution of an image by a kernel that varies over it.

`convolve_polynomial`: a kernel whose pixels are polynomials of the place, exactly,

    out(y, x) = sum_ji K(j, i) image(y + j - r, x + i - r),    K = sum_k u^(p_k) v^(q_k) B_k,

r half of the kernel's size, u and v from -1 at the first to 1 at the last column and row. In a row
the terms of one power of u add up to one kernel (`row_kernels`), so that order + 1 convolutions do.

`convolve_blocks`: a kernel of its own for each block of pixels,

    out(y, x) = sum_ji f(K(j, i)) image(y + j - r, x + i - r),    K = sum_k c_bk B_k,

f the identity, the modulus or the square: the weight of bad pixels in a difference image, and its
variance, which need not be exact to the last digit.

(Correlations are written: turn the basis images B_k by 180 degrees for a convolution.) Unlike
convolutions of the whole image by FFT, one for each term, they need no memory but the result; their
time grows with the kernel's area, so that for kernels of many tens of pixels FFTs would win.

Shapes: image (ny + 2 r, nx + 2 r + PADDING) float32 with a border of r pixels (and PADDING more
at the right, never used); basis (n_basis, size, width), width = size rounded up to a multiple of
`GROUP` with zeros; powers (n_basis, 2) int64 of (p, q); row kernels (ny, n_powers, size, width)
float32, n_powers = order + 1; coefficients (n_blocks, n_basis) float32;
origins (n_blocks, 2) int64 of (y0, x0); out (n_blocks, h, w) float32, 0 beyond the frame. Blocks
may overlap. Cost: size * width multiplications a pixel, times order + 1 for polynomials.

Arrays of CuPy are worked on where they lie, on its current stream, and the results are CuPy's too;
what is small (basis, coefficients, origins) may come as NumPy's.

`fill_bad` puts an estimate into bad pixels, the mean of the good ones around weighted by
(distance)^-4, so that what reaches good pixels through a kernel is small.

Source: block-wise kernels as in HOTPANTS, Becker 2015 (ascl:1504.004), where they are constant; the
kernels of Alard 2000 (A&AS 144, 363) vary as polynomials.
"""

from __future__ import annotations

import numpy as np

from .. import jit
from ..declare import kernel

f32 = np.float32

GROUP = 4
"""Taps that are added to a row at a time."""
PADDING = GROUP - 1
"""Columns that the padded taps may read beyond the border."""
PLAIN, MODULUS, SQUARE = 0, 1, 2
"""What is done to the kernel."""
FILL_REACH = 4
"""Pixels from a bad pixel within which good ones are averaged."""


# ---------------------------------------------------------------- items


@jit.item
def mixed(basis, coefficients, j, i, mode):
    """Kernel at (j, i) from the coefficients of the basis."""
    value = f32(0)
    for k in range(basis.shape[0]):
        value += coefficients[k] * basis[k, j, i]
    if mode == MODULUS:
        value = abs(value)
    elif mode == SQUARE:
        value = value * value
    return value


@jit.item
def mix_row(basis, powers, power, v, out, first, last):
    """Pixels first <= i < last of the kernel of a power of u in a row; basis (n_basis, pixels)."""
    for i in range(np.uintp(first), np.uintp(last)):
        out[i] = f32(0)
    for k in range(basis.shape[0]):
        if powers[k, 0] == power:
            factor = f32(1)
            for _ in range(powers[k, 1]):
                factor *= v
            for i in range(np.uintp(first), np.uintp(last)):
                out[i] += factor * basis[k, i]


@jit.item
def along(index, n):
    """A pixel's place on an axis of n pixels, from -1 to 1."""
    return f32(2) * f32(index) / f32(max(n - 1, 1)) - f32(1)


@jit.item
def convolved(image, kernel, y, x0, out, first, last):
    """Pixels first <= x < last of a row of a block that begins at column x0."""
    size, width = kernel.shape
    for x in range(np.uintp(first), np.uintp(last)):
        out[x] = f32(0)
    for j in range(size):
        source = image[y + j, x0:]
        for i in range(0, width, GROUP):
            taps = source[i:]
            a, b, c, d = kernel[j, i], kernel[j, i + 1], kernel[j, i + 2], kernel[j, i + 3]
            if a == f32(0) and b == f32(0) and c == f32(0) and d == f32(0):
                continue  # a PSF is round: a fifth of its square
            for x in range(np.uintp(first), np.uintp(last)):
                out[x] += (
                    a * taps[x]
                    + b * taps[x + np.uintp(1)]
                    + c * taps[x + np.uintp(2)]
                    + d * taps[x + np.uintp(3)]
                )


@jit.item
def add_power(row, power, x0, nx, out, first, last):
    """``out += u^power row``"""
    for x in range(np.uintp(first), np.uintp(last)):
        u = along(np.int64(x0 + x), nx)
        factor = f32(1)
        for _ in range(power):
            factor *= u
        out[x] += factor * row[x]


@jit.item
def inside(image, size, y0, x0, h, w):
    """Rows and columns of a block of (h, w) pixels that are inside of the frame."""
    n_y = image.shape[0] - size + 1 - y0
    n_x = image.shape[1] - PADDING - size + 1 - x0
    return max(0, min(h, n_y)), max(0, min(w, n_x))


@jit.item
def filled(image, bad, y, x):
    """Weighted mean of the good pixels around (y, x); 0 where there is none."""
    ny, nx = image.shape
    total, weights = f32(0), f32(0)
    for v in range(max(0, y - FILL_REACH), min(ny, y + FILL_REACH + 1)):
        for u in range(max(0, x - FILL_REACH), min(nx, x + FILL_REACH + 1)):
            if not bad[v, u]:
                square = f32((v - y) * (v - y) + (u - x) * (u - x))
                weight = f32(1) / (square * square)
                total += weight * image[v, u]
                weights += weight
    return total / weights if weights > f32(0) else f32(0)


# ---------------------------------------------------------------- kernels


@kernel(over="ny, nx", image="inout float32 (ny, nx)", bad="bool (ny, nx)")
def fill(y, first, last, image, bad):
    """Only bad pixels are written and only good ones are read."""
    for x in range(first, last):
        if bad[y, x]:
            image[y, x] = filled(image, bad, y, x)


@kernel(
    over="ny, n_powers, pixels",
    basis="float32 (n_basis, pixels)",
    powers="int64 (n_basis, 2)",
    kernels="out float32 (ny, n_powers, pixels)",
)
def mix_rows(y, power, first, last, basis, powers, kernels):
    """Kernel of a power of u in a row of the frame."""
    v = along(y, kernels.shape[0])
    mix_row(basis, powers, power, v, kernels[y, power], first, last)


@kernel(
    over="n, h, w",
    image="float32 (rows, columns)",
    kernels="float32 (ny, n_powers, size, width)",
    origins="int64 (n, 2)",
    out="out float32 (n, h, w)",
    scratch={"row": "float32 (w)"},
)
def polynomial(block, y, first, last, image, kernels, origins, out, row):
    """A row of a block, which may reach beyond the frame: what there is of it is computed."""
    n_powers, size = kernels.shape[1], kernels.shape[2]
    nx = image.shape[1] - PADDING - size + 1
    y0, x0 = origins[block, 0], origins[block, 1]
    n_y, n_x = inside(image, size, y0, x0, out.shape[1], out.shape[2])
    total = out[block, y]
    for x in range(np.uintp(first), np.uintp(last)):
        total[x] = f32(0)
    if y < n_y:
        end = min(last, n_x)
        for power in range(n_powers):
            convolved(image, kernels[y0 + y, power], y0 + y, x0, row, first, end)
            add_power(row, power, x0, nx, total, first, end)


@kernel(
    over="n, size, width",
    basis="float32 (n_basis, size, width)",
    coefficients="float32 (n, n_basis)",
    mode="int64",
    kernels="out float32 (n, size, width)",
)
def mix(block, j, first, last, basis, coefficients, mode, kernels):
    """Kernel of each block."""
    for i in range(first, last):
        kernels[block, j, i] = mixed(basis, coefficients[block], j, i, mode)


@kernel(
    over="n, h, w",
    image="float32 (rows, columns)",
    kernels="float32 (n, size, width)",
    origins="int64 (n, 2)",
    out="out float32 (n, h, w)",
)
def by_own_kernel(block, y, first, last, image, kernels, origins, out):
    """A row of a block, which may reach beyond the frame: what there is of it is computed."""
    y0, x0 = origins[block, 0], origins[block, 1]
    n_y, n_x = inside(image, kernels.shape[1], y0, x0, out.shape[1], out.shape[2])
    row = out[block, y]
    for x in range(np.uintp(first), np.uintp(last)):
        row[x] = f32(0)
    if y < n_y:
        convolved(image, kernels[block], y0 + y, x0, row, first, min(last, n_x))


# ---------------------------------------------------------------- entry points


def with_border(image: np.ndarray, r: int, value: float = 0.0) -> np.ndarray:
    """float32 copy in a border of r pixels, and `PADDING` more at the right, of one value."""
    ny, nx = image.shape
    shape = ny + 2 * r, nx + 2 * r + PADDING
    out = np.full_like(image, value, np.float32, order="C", shape=shape)
    out[r : r + ny, r : r + nx] = image
    return out


def padded_kernels(kernels: np.ndarray) -> np.ndarray:
    """Convolution kernels (n, size, size) as `basis` of `convolve_blocks`: turned, with zeros."""
    n, size, _ = kernels.shape
    out = np.zeros((n, size, -(-size // GROUP) * GROUP), np.float32)
    out[:, :, :size] = kernels[:, ::-1, ::-1]
    return out


def fill_bad(image: np.ndarray, bad: np.ndarray, threads: int | None = None) -> np.ndarray:
    """Estimate bad pixels from good ones around, in place; 0 where there is none.

    Parameters
    ----------
    image : ndarray of float32, (ny, nx)
        Above its sky.
    bad : ndarray of bool, (ny, nx)
    threads : int, optional
        CPU threads; all cores by default.

    Returns
    -------
    image : ndarray
    """
    fill(image, bad, threads=threads)
    return image


def row_kernels(
    basis: np.ndarray, powers: np.ndarray, ny: int, threads: int | None = None
) -> np.ndarray:
    """Kernels of each power of u in each row of a frame, for `convolve_polynomial`.

    Parameters
    ----------
    basis : ndarray of float32, (n_basis, 2 r + 1, width)
        As of `padded_kernels`.
    powers : array_like of int, (n_basis, 2)
        Powers of u and v of each basis image, u and v from -1 to 1 across the frame.
    ny : int
        Rows of the frame.
    threads : int, optional
        CPU threads; all cores by default.

    Returns
    -------
    ndarray of float32, (ny, n_powers, 2 r + 1, width)
    """
    powers = np.array(powers, np.int64)
    flat = basis.reshape(len(basis), -1)
    kernels = np.empty_like(basis, shape=(ny, int(powers[:, 0].max()) + 1, flat.shape[1]))
    mix_rows(flat, np.asarray(powers, like=basis), kernels, threads=threads)
    return kernels.reshape(*kernels.shape[:2], *basis.shape[1:])


def convolve_polynomial(
    image: np.ndarray,
    kernels: np.ndarray,
    origins: np.ndarray,
    shape: tuple[int, int],
    threads: int | None = None,
) -> np.ndarray:
    """Convolve blocks of an image by a kernel that is a polynomial of the place.

    Parameters
    ----------
    image : ndarray of float32, (ny + 2 r, nx + 2 r + PADDING)
        As of `with_border`, finite.
    kernels : ndarray of float32, (ny, n_powers, 2 r + 1, width)
        As of `row_kernels`.
    origins : ndarray of int64, (n_blocks, 2)
        First row and column of each block.
    shape : tuple of int
        (h, w) of a block.
    threads : int, optional
        CPU threads; all cores by default.

    Returns
    -------
    ndarray of float32, (n_blocks, h, w)
    """
    out = np.empty_like(image, shape=(len(origins), *shape))
    polynomial(image, kernels, np.asarray(origins, like=image), out, threads=threads)
    return out


def convolve_blocks(
    image: np.ndarray,
    basis: np.ndarray,
    coefficients: np.ndarray,
    origins: np.ndarray,
    shape: tuple[int, int],
    mode: int = PLAIN,
    threads: int | None = None,
) -> np.ndarray:
    """Convolve blocks of an image, each by its own kernel.

    Parameters
    ----------
    image, origins, shape, threads
        As of `convolve_polynomial`.
    basis : ndarray of float32, (n_basis, 2 r + 1, width)
        As of `padded_kernels`.
    coefficients : ndarray, (n_blocks, n_basis)
        Of the kernel of each block.
    mode : {PLAIN, MODULUS, SQUARE}
        What is done to the kernel.

    Returns
    -------
    ndarray of float32, (n_blocks, h, w)
    """
    coefficients = np.ascontiguousarray(coefficients, np.float32)
    basis, coefficients, origins = (
        np.asarray(each, like=image) for each in (basis, coefficients, origins)
    )
    kernels = np.empty_like(image, shape=(len(origins), *basis.shape[1:]))
    mix(basis, coefficients, mode, kernels, threads=threads)
    out = np.empty_like(image, shape=(len(origins), *shape))
    by_own_kernel(image, kernels, origins, out, threads=threads)
    return out
