"""An image convolved by Gaussians and their derivatives: the functions that `match` fits.

Gaussians of sigma 0.8, 1.5, 2.6 and 4.4 pixels; of the first and the third also the derivatives
along x and y, of the second and the third also (xx - yy) and xy. All are separable: rows first,
then columns. The wide ones (2.6 and 4.4) are made at every second pixel and enlarged linearly.

Functions without a sum leave the photometry to the image itself: the Gaussians are those less the
image. The functions of an image are `N_BASIS` planes: six narrow kernels, in the order of
`GAUSSIAN` ... `SKEW`, six wide ones in the same order, the `IMAGE` and a `CONSTANT`.

Cost a pixel: 90 multiplications. `tests/kernels/image/reference/match.py` says the same in NumPy.
"""

from __future__ import annotations

import numpy as np

from .. import jit
from ..declare import kernel

f32 = np.float32

N_KERNELS = 6
"""Narrow kernels, and wide ones."""
N_BASIS = 2 * N_KERNELS + 2
GAUSSIAN, WIDER, ALONG_X, ALONG_Y, STRETCH, SKEW = range(N_KERNELS)
"""Order of the kernels: two Gaussians, d/dx, d/dy, (xx - yy) and xy."""
IMAGE, CONSTANT = N_BASIS - 2, N_BASIS - 1
NARROW, NARROW_1, MIDDLE, MIDDLE_1, MIDDLE_2 = range(5)
"""Planes of rows that narrow taps filtered: Gaussians, first and second derivatives."""
WIDE, WIDE_1, WIDE_2, WIDEST = range(4)
"""Planes of rows that wide taps filtered."""
BEFORE, AFTER = 8, 10
"""Zeros around an image: half of the wide kernels' size."""


def _taps(sigma: float, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A Gaussian of unit sum, its first and its second derivative, at `size` pixels."""
    t = np.arange(size) - (size - 1) / 2
    g = np.exp(-0.5 * (t / sigma) ** 2)
    g /= g.sum()
    derivatives = g, -t / sigma**2 * g, (t**2 / sigma**4 - 1 / sigma**2) * g
    return tuple(taps.astype(np.float32) for taps in derivatives)


_NARROW, _NARROW_1, _ = _taps(0.8, 9)
_MIDDLE, _MIDDLE_1, _MIDDLE_2 = _taps(1.5, 9)
_WIDE, _WIDE_1, _WIDE_2 = _taps(2.6, 18)
_WIDEST, _, _ = _taps(4.4, 18)

# ---------------------------------------------------------------- items
# Each writes the pixels x0 <= x < x1 of row y: a whole row on a CPU, one pixel on a GPU.


@jit.item
def across(image, taps, out, y, x0, x1):
    """Nine taps along the rows of a padded image."""
    for x in range(np.uintp(x0), np.uintp(x1)):
        total = f32(0)
        for t in range(9):
            total += taps[t] * image[y, np.uintp(x + t + (BEFORE - 4))]
        out[y, x] = total


@jit.item
def down(plane, taps, out, y, x0, x1):
    """Nine taps along the columns of what `across` wrote."""
    for x in range(np.uintp(x0), np.uintp(x1)):
        total = f32(0)
        for t in range(9):
            total += taps[t] * plane[np.uintp(y + t + (BEFORE - 4)), x]
        out[y, x] = total


@jit.item
def across_2(even, odd, taps, out, y, x0, x1):
    """Eighteen taps centred between the pixels 2 x and 2 x + 1, in `even` and `odd`."""
    for x in range(np.uintp(x0), np.uintp(x1)):
        total = f32(0)
        for t in range(9):
            total += taps[2 * t] * even[y, np.uintp(x + t)]
        for t in range(9):
            total += taps[2 * t + 1] * odd[y, np.uintp(x + t)]
        out[y, x] = total


@jit.item
def down_2(plane, taps, out, y, x0, x1):
    """Eighteen taps centred between the rows 2 y and 2 y + 1."""
    for x in range(np.uintp(x0), np.uintp(x1)):
        total = f32(0)
        for t in range(9):
            total += taps[t] * plane[np.uintp(2 * y + t), x]
        for t in range(9, 18):
            total += taps[t] * plane[np.uintp(2 * y + t), x]
        out[y, x] = total


@jit.item
def two_pixels(plane, near, far, left, here, right, out, y, nx):
    """Pixels 2 here and 2 here + 1 of a row between the rows `near` and `far` of `plane`."""
    a = f32(0.75) * plane[near, left] + f32(0.25) * plane[far, left]
    b = f32(0.75) * plane[near, here] + f32(0.25) * plane[far, here]
    c = f32(0.75) * plane[near, right] + f32(0.25) * plane[far, right]
    out[y, 2 * here] = f32(0.25) * a + f32(0.75) * b
    if 2 * here + 1 < nx:
        out[y, 2 * here + 1] = f32(0.75) * b + f32(0.25) * c


@jit.item
def enlarge(plane, out, y, x0, x1):
    """Twice the size, linear between the pixels' centres, from columns x0 <= x < x1 of `plane`."""
    n_y, n_x = plane.shape
    nx = out.shape[1]
    above = (y + 1) // 2 - 1
    near, far = (above, above + 1) if y % 2 else (above + 1, above)
    near, far = np.uintp(min(max(near, 0), n_y - 1)), np.uintp(min(max(far, 0), n_y - 1))
    first, last = np.uintp(0), np.uintp(n_x - 1)
    if x0 == 0:
        two_pixels(plane, near, far, first, first, min(np.uintp(1), last), out, y, nx)
    for x in range(np.uintp(max(x0, 1)), np.uintp(min(x1, n_x - 1))):
        # two_pixels, away from the edges: without its question this loop runs vectorised
        a = f32(0.75) * plane[near, x - np.uintp(1)] + f32(0.25) * plane[far, x - np.uintp(1)]
        b = f32(0.75) * plane[near, x] + f32(0.25) * plane[far, x]
        c = f32(0.75) * plane[near, x + np.uintp(1)] + f32(0.25) * plane[far, x + np.uintp(1)]
        out[y, np.uintp(2) * x] = f32(0.25) * a + f32(0.75) * b
        out[y, np.uintp(2) * x + np.uintp(1)] = f32(0.75) * b + f32(0.25) * c
    if x1 == n_x and n_x > 1:
        two_pixels(plane, near, far, last - np.uintp(1), last, last, out, y, nx)


@jit.item
def subtract(out, image, y, x0, x1):
    """``out -= image``"""
    for x in range(np.uintp(x0), np.uintp(x1)):
        out[y, x] -= image[y, x]


@jit.item
def narrow_pixels(image, rows, basis, y, x0, x1):
    """The six narrow kernels, the image and the constant."""
    down(rows[NARROW], _NARROW, basis[GAUSSIAN], y, x0, x1)
    down(rows[MIDDLE], _MIDDLE, basis[WIDER], y, x0, x1)
    down(rows[NARROW_1], _NARROW, basis[ALONG_X], y, x0, x1)
    down(rows[NARROW], _NARROW_1, basis[ALONG_Y], y, x0, x1)
    down(rows[MIDDLE_2], _MIDDLE, basis[STRETCH], y, x0, x1)
    down(rows[MIDDLE], _MIDDLE_2, basis[CONSTANT], y, x0, x1)  # of which that is the place later
    subtract(basis[STRETCH], basis[CONSTANT], y, x0, x1)
    down(rows[MIDDLE_1], _MIDDLE_1, basis[SKEW], y, x0, x1)
    subtract(basis[GAUSSIAN], image, y, x0, x1)
    subtract(basis[WIDER], image, y, x0, x1)
    for x in range(np.uintp(x0), np.uintp(x1)):
        basis[IMAGE, y, x] = image[y, x]
        basis[CONSTANT, y, x] = f32(1)


@jit.item
def wide_pixels(rows, half, y, x0, x1):
    """The six wide kernels at half the size."""
    down_2(rows[WIDE], _WIDE_2, half[GAUSSIAN], y, x0, x1)  # of which that is the place later
    down_2(rows[WIDE_2], _WIDE, half[STRETCH], y, x0, x1)
    subtract(half[STRETCH], half[GAUSSIAN], y, x0, x1)
    down_2(rows[WIDE], _WIDE, half[GAUSSIAN], y, x0, x1)
    down_2(rows[WIDEST], _WIDEST, half[WIDER], y, x0, x1)
    down_2(rows[WIDE_1], _WIDE, half[ALONG_X], y, x0, x1)
    down_2(rows[WIDE], _WIDE_1, half[ALONG_Y], y, x0, x1)
    down_2(rows[WIDE_1], _WIDE_1, half[SKEW], y, x0, x1)


@jit.item
def enlarged_pixels(image, half, basis, y, x0, x1):
    """The six wide kernels at full size, of the pixels x0 <= x < x1 of half the size."""
    for k in range(N_KERNELS):
        enlarge(half[k], basis[N_KERNELS + k], y, x0, x1)
    end = min(2 * x1, image.shape[1])
    subtract(basis[N_KERNELS + GAUSSIAN], image, y, 2 * x0, end)
    subtract(basis[N_KERNELS + WIDER], image, y, 2 * x0, end)


# ---------------------------------------------------------------- CPU


@jit.item
def smoothed(padded, rows, out):
    """A padded image convolved by the narrow Gaussian; `rows` is scratch."""
    ny, nx = out.shape
    for y in range(rows.shape[0]):
        across(padded, _NARROW, rows, y, 0, nx)
    for y in range(ny):
        down(rows, _NARROW, out, y, 0, nx)


@jit.item
def narrow_basis(padded, image, rows, basis, ny, nx):
    """The six narrow kernels, the image and the constant."""
    for y in range(ny + 2 * BEFORE):
        across(padded, _NARROW, rows[NARROW], y, 0, nx)
        across(padded, _NARROW_1, rows[NARROW_1], y, 0, nx)
        across(padded, _MIDDLE, rows[MIDDLE], y, 0, nx)
        across(padded, _MIDDLE_1, rows[MIDDLE_1], y, 0, nx)
        across(padded, _MIDDLE_2, rows[MIDDLE_2], y, 0, nx)
    for y in range(ny):
        narrow_pixels(image, rows, basis, y, 0, nx)


@jit.item
def wide_basis(padded, image, split, rows, half, basis, ny):
    """The six wide kernels."""
    n_y, n_x = half.shape[1], half.shape[2]
    for y in range(2 * n_y + 2 * BEFORE):
        for x in range(n_x + BEFORE):
            split[0, y, x] = padded[y, 2 * x]
            split[1, y, x] = padded[y, 2 * x + 1]
        across_2(split[0], split[1], _WIDE, rows[WIDE], y, 0, n_x)
        across_2(split[0], split[1], _WIDE_1, rows[WIDE_1], y, 0, n_x)
        across_2(split[0], split[1], _WIDE_2, rows[WIDE_2], y, 0, n_x)
        across_2(split[0], split[1], _WIDEST, rows[WIDEST], y, 0, n_x)
    for y in range(n_y):
        wide_pixels(rows, half, y, 0, n_x)
    for y in range(ny):
        enlarged_pixels(image, half, basis, y, 0, n_x)


# ---------------------------------------------------------------- GPU
# Step by step for m images, all at once; arrays are named as on the CPU.


@kernel(
    over="m, rows, columns",
    images="float32 (m, ny, nx)",
    padded="out float32 (m, rows, columns)",
    split="out float32 (m, 2, rows, half_columns)",
)
def pad(q, y, first, last, images, padded, split):
    """A row of an image with zeros around; its even and its odd pixels."""
    _, ny, nx = images.shape
    for x in range(first, last):
        value = f32(0)
        if 0 <= y - BEFORE < ny and 0 <= x - BEFORE < nx:
            value = images[q, y - BEFORE, x - BEFORE]
        padded[q, y, x] = value
        if x // 2 < split.shape[3]:
            split[q, x % 2, y, x // 2] = value


@kernel(
    over="m, rows, nx",
    padded="float32 (m, rows, columns)",
    split="float32 (m, 2, rows, half_columns)",
    narrow="out float32 (m, 5, rows, nx)",
    wide="out float32 (m, 4, rows, n_x)",
)
def filter_rows(q, y, first, last, padded, split, narrow, wide):
    """A row filtered by all taps."""
    across(padded[q], _NARROW, narrow[q, NARROW], y, first, last)
    across(padded[q], _NARROW_1, narrow[q, NARROW_1], y, first, last)
    across(padded[q], _MIDDLE, narrow[q, MIDDLE], y, first, last)
    across(padded[q], _MIDDLE_1, narrow[q, MIDDLE_1], y, first, last)
    across(padded[q], _MIDDLE_2, narrow[q, MIDDLE_2], y, first, last)
    end = max(first, min(last, wide.shape[3]))
    across_2(split[q, 0], split[q, 1], _WIDE, wide[q, WIDE], y, first, end)
    across_2(split[q, 0], split[q, 1], _WIDE_1, wide[q, WIDE_1], y, first, end)
    across_2(split[q, 0], split[q, 1], _WIDE_2, wide[q, WIDE_2], y, first, end)
    across_2(split[q, 0], split[q, 1], _WIDEST, wide[q, WIDEST], y, first, end)


@kernel(
    over="m, ny, nx",
    images="float32 (m, ny, nx)",
    narrow="float32 (m, 5, rows, nx)",
    wide="float32 (m, 4, rows, n_x)",
    half="out float32 (m, 6, n_y, n_x)",
    basis="inout float32 (m, 14, ny, nx)",
)
def filter_columns(q, y, first, last, images, narrow, wide, half, basis):
    """The narrow kernels, the image and the constant; the wide kernels at half the size."""
    narrow_pixels(images[q], narrow[q], basis[q], y, first, last)
    if y < half.shape[2]:
        wide_pixels(wide[q], half[q], y, first, max(first, min(last, half.shape[3])))


@kernel(
    over="m, ny, n_x",
    images="float32 (m, ny, nx)",
    half="float32 (m, 6, n_y, n_x)",
    basis="inout float32 (m, 14, ny, nx)",
)
def enlarge_wide(q, y, first, last, images, half, basis):
    """The wide kernels at full size: two pixels of each of half the size."""
    enlarged_pixels(images[q], half[q], basis[q], y, first, last)


def basis_of(images: np.ndarray) -> np.ndarray:
    """The functions of images (m, ny, nx) of CuPy, step by step: (m, N_BASIS, ny, nx) float32."""
    m, ny, nx = images.shape
    n_y, n_x, rows = (ny + 1) // 2, (nx + 1) // 2, ny + BEFORE + AFTER

    def empty(*shape: int) -> np.ndarray:
        return np.empty_like(images, order="C", shape=(m, *shape))

    padded, split = empty(rows, nx + BEFORE + AFTER), empty(2, rows, n_x + BEFORE)
    narrow, wide, half = empty(5, rows, nx), empty(4, rows, n_x), empty(N_KERNELS, n_y, n_x)
    basis = empty(N_BASIS, ny, nx)
    pad(images, padded, split)
    filter_rows(padded, split, narrow, wide)
    filter_columns(images, narrow, wide, half, basis)
    enlarge_wide(images, half, basis)
    return basis


def floats_of_basis(ny: int, nx: int) -> int:
    """How many float32 `basis_of` holds at a time for an image, at the most."""
    rows, columns, n_x = ny + BEFORE + AFTER, nx + BEFORE + AFTER, (nx + 1) // 2
    scratch = columns + 2 * (n_x + BEFORE) + 5 * nx + 4 * n_x + N_KERNELS * n_x
    return rows * scratch + N_BASIS * ny * nx
