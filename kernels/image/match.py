r"""Differences after matching the PSF of either image to the other's, without knowing either PSF.

For a pair of normalised tiles (`tile.cut_tiles`) the two images

    sci - K * ref        and        L * sci - ref

where K and L are the kernels that fit best over the tile: the delta function plus Gaussians and
derivatives of them (`gaussians`), a photometric factor and a constant sky (the idea of Alard &
Lupton 1998, ApJ 503, 325, with derivatives in place of polynomials). Whichever image is sharper,
one of the two differences has no need to sharpen anything.

Weighted least squares over the pixels more than 4 from the edge. A pixel's error is 1 sigma and
3 % of its signal; its weight falls to 1/25 where there is only sky, because noise in the image
that is convolved biases the fit; what the sky still weighs keeps kernels from amplifying noise.
Coefficients have Gaussian priors about K = delta, and a second pass with Huber's weights leaves
transients and defects out.

Shapes: pairs (n, 2, ny, nx) float32 -> (n, 4, ny, nx) float32. Outside of the tile images are 0.
Cost a pixel and kernel: 90 multiplications for the convolutions, 240 for two normal matrices.

On a CPU a thread takes one pair after another, in 20 planes of scratch memory, which for a tile of
256 pixels stay in the cache of the next level. On a GPU, for arrays of CuPy, every step is done for
many pairs at once, by the same functions of pixels.

`tests/kernels/image/reference/match.py` says the same in NumPy.
"""

from __future__ import annotations

import math
import threading

import numpy as np

from .. import jit
from ..declare import kernel
from ..linalg.small import solve
from .gaussians import (
    AFTER,
    BEFORE,
    GAUSSIAN,
    N_BASIS,
    N_KERNELS,
    NARROW,
    basis_of,
    floats_of_basis,
    narrow_basis,
    smoothed,
    subtract,
    wide_basis,
)

f32 = np.float32

PRIOR = (2, 2, 1, 1, 2, 2, 2, 2, 2, 2, 16, 16, 0.5, 1)
"""Standard deviations of the coefficients before anything is seen."""
EDGE = 4
"""Pixels from the edge of the tile that are not fitted: half of the narrow kernels' size."""
SIGNAL_ERROR = 0.03
SIGNAL_SNR = 5.0
"""Signal, in sigma, at which a pixel has half of its weight."""
REACH = 3.0
"""Residual, in its errors, beyond which Huber's weights fall."""
RIDGE = 1e-5
"""Relative to the diagonal of the normal matrix: kernels that are nearly alike."""

AT_A_TIME = 1 << 28
"""float32 of scratch that a GPU holds at a time."""

_MOST_KEPT = 2**23  # values of scratch memory that a thread keeps: tiles of 512 pixels
_PRECISION = np.array([1 / sigma**2 for sigma in PRIOR])


# ---------------------------------------------------------------- items
# Those of pixels write x0 <= x < x1 of row y: a whole row on a CPU, one pixel on a GPU.


@jit.item
def weight_of(smooth_r, smooth_s):
    """Weight of a pixel from the smoothed images."""
    signal = max(smooth_r * smooth_r, smooth_s * smooth_s)
    gate = (signal + f32(1)) / (signal + f32(SIGNAL_SNR**2))
    return gate / (f32(1) + f32(SIGNAL_ERROR**2) * signal)


@jit.item
def huber_weight(weight, left, out, y, x0, x1):
    """Huber's weight of what is left, times the first weight."""
    for x in range(np.uintp(x0), np.uintp(x1)):
        error = abs(left[y, x]) * f32(math.sqrt(weight[y, x]))
        out[y, x] = weight[y, x] if error <= f32(REACH) else weight[y, x] * f32(REACH) / error


@jit.item
def coefficients(normal, right, scratch, solution):
    """Solve with the prior; the lower half of `normal` and `right` stay as they are."""
    for i in range(N_BASIS):
        solution[i] = right[i]
        for j in range(i + 1):
            scratch[i, j] = normal[i, j]
        scratch[i, i] += RIDGE * normal[i, i] + _PRECISION[i]
    solve(scratch, solution)


@jit.item
def remainder(basis, solution, missing, out, y, x0, x1):
    """What the kernel leaves of the difference `missing`."""
    for x in range(np.uintp(x0), np.uintp(x1)):
        total = missing[y, x]
        for k in range(7):
            total -= f32(solution[k]) * basis[k, y, x]
        for k in range(7, N_BASIS):
            total -= f32(solution[k]) * basis[k, y, x]
        out[y, x] = total


# ---------------------------------------------------------------- CPU


@jit.item
def normal_equations(basis, missing, weight, normal, right):
    """Lower half of the normal matrix and the right-hand side, row by row of the image."""
    ny, nx = missing.shape
    weighted = np.empty(nx, np.float32)  # its own, or the compiler fears that rows overlap
    for i in range(N_BASIS):
        right[i] = 0.0
        for j in range(N_BASIS):
            normal[i, j] = 0.0
    for y in range(EDGE, ny - EDGE):
        for i in range(N_BASIS):
            for x in range(EDGE, nx - EDGE):
                weighted[x] = weight[y, x] * basis[i, y, x]
            total = f32(0)
            for x in range(EDGE, nx - EDGE):
                total += weighted[x] * missing[y, x]
            right[i] += total
            for j in range(i + 1):
                total = f32(0)
                for x in range(EDGE, nx - EDGE):
                    total += weighted[x] * basis[j, y, x]
                normal[i, j] += total


@jit.item
def reweigh(basis, missing, old, new, normal, right):
    """Change the normal equations where the weight has changed, which is at few pixels."""
    ny, nx = missing.shape
    for y in range(EDGE, ny - EDGE):
        for x in range(EDGE, nx - EDGE):
            change = new[y, x] - old[y, x]
            if change != f32(0):
                for i in range(N_BASIS):
                    weighted = float(change * basis[i, y, x])
                    right[i] += weighted * missing[y, x]
                    for j in range(i + 1):
                        normal[i, j] += weighted * basis[j, y, x]


@jit.item
def take(scratch, used, n, ny, nx):
    """(n, ny, nx) planes of the scratch memory, and how much of it is used then."""
    end = used + n * ny * nx
    return scratch[used:end].reshape((n, ny, nx)), end


@jit.cpu_loop
def match_cpu(start, stop, pairs, out, scratch):
    """Item: one pair."""
    ny, nx = pairs.shape[2], pairs.shape[3]
    n_y, n_x = (ny + 1) // 2, (nx + 1) // 2
    rows = ny + BEFORE + AFTER
    padded = np.zeros((rows, nx + BEFORE + AFTER), np.float32)
    narrow, used = take(scratch, 0, 5, rows, nx)
    wide, used = take(scratch, used, 4, rows, n_x)
    split, used = take(scratch, used, 2, rows, n_x + BEFORE)
    half, used = take(scratch, used, N_KERNELS, n_y, n_x)
    basis, used = take(scratch, used, N_BASIS, ny, nx)
    smooth, used = take(scratch, used, 2, ny, nx)
    others, used = take(scratch, used, 3, ny, nx)
    weight, huber, missing = others[0], others[1], others[2]
    normal, reduced = np.empty((N_BASIS, N_BASIS)), np.empty((N_BASIS, N_BASIS))
    right, solution = np.empty(N_BASIS), np.empty(N_BASIS)
    for pair in range(start, stop):
        for image in range(2):
            out[pair, image] = pairs[pair, image]
            padded[BEFORE : BEFORE + ny, BEFORE : BEFORE + nx] = pairs[pair, image]
            smoothed(padded, narrow[NARROW], smooth[image])
        for y in range(ny):
            for x in range(nx):
                weight[y, x] = weight_of(smooth[0, y, x], smooth[1, y, x])
        for image in range(2):
            own, left = pairs[pair, image], out[pair, 2 + image]
            padded[BEFORE : BEFORE + ny, BEFORE : BEFORE + nx] = own
            narrow_basis(padded, own, narrow, basis, ny, nx)
            wide_basis(padded, own, split, wide, half, basis, ny)
            missing[:] = pairs[pair, 1 - image]
            for y in range(ny):
                subtract(missing, own, y, 0, nx)
            normal_equations(basis, missing, weight, normal, right)
            coefficients(normal, right, reduced, solution)
            for y in range(ny):
                remainder(basis, solution, missing, left, y, 0, nx)
                huber_weight(weight, left, huber, y, 0, nx)
            reweigh(basis, missing, weight, huber, normal, right)
            coefficients(normal, right, reduced, solution)
            for y in range(ny):
                remainder(basis, solution, missing, left, y, 0, nx)
            if image == 1:
                for y in range(ny):
                    for x in range(nx):
                        left[y, x] = -left[y, x]


# ---------------------------------------------------------------- GPU
# Step by step for n pairs, all at once; image q = 2 pair + (0 for ref, 1 for sci).


@kernel(
    over="m, ny, nx",
    images="float32 (m, ny, nx)",
    basis="float32 (m, 14, ny, nx)",
    missing="out float32 (m, ny, nx)",
    weight="out float32 (m, ny, nx)",
)
def weigh(q, y, first, last, images, basis, missing, weight):
    """What the kernel of an image is to make, and the first weight.

    The smoothed images are those of the narrow Gaussian, from which the image was taken off: to
    add it again costs less than two planes more.
    """
    ref, sci = q // 2 * 2, q // 2 * 2 + 1
    for x in range(first, last):
        missing[q, y, x] = images[ref + sci - q, y, x] - images[q, y, x]
        weight[q, y, x] = weight_of(
            basis[ref, GAUSSIAN, y, x] + images[ref, y, x],
            basis[sci, GAUSSIAN, y, x] + images[sci, y, x],
        )


@kernel(
    over="m, 14, 15",
    basis="float32 (m, 14, ny, nx)",
    missing="float32 (m, ny, nx)",
    weight="float32 (m, ny, nx)",
    normal="inout float64 (m, 14, 14)",
    right="out float64 (m, 14)",
)
def sum_products(q, i, j, basis, missing, weight, normal, right):
    """One entry of the normal equations; column 14 is the right-hand side.

    Sums are those of `normal_equations`, a thread an entry. With new weights all of them are made
    again: to change them at few pixels, as `reweigh` does, is no work for many threads.
    """
    if j > i and j < N_BASIS:
        return
    total = 0.0
    for y in range(EDGE, missing.shape[1] - EDGE):
        part = f32(0)
        for x in range(EDGE, missing.shape[2] - EDGE):
            other = missing[q, y, x] if j == N_BASIS else basis[q, j, y, x]
            part += weight[q, y, x] * basis[q, i, y, x] * other
        total += part
    if j == N_BASIS:
        right[q, i] = total
    else:
        normal[q, i, j] = total


@kernel(
    over="m",
    normal="float64 (m, 14, 14)",
    right="float64 (m, 14)",
    solution="out float64 (m, 14)",
    scratch={"reduced": "float64 (N_BASIS, N_BASIS)"},
)
def solve_each(q, normal, right, solution, reduced):
    """Coefficients of an image."""
    coefficients(normal[q], right[q], reduced, solution[q])


@kernel(
    over="m, ny, nx",
    basis="float32 (m, 14, ny, nx)",
    solution="float64 (m, 14)",
    missing="float32 (m, ny, nx)",
    weight="float32 (m, ny, nx)",
    left="out float32 (m, ny, nx)",
    huber="out float32 (m, ny, nx)",
)
def leave(q, y, first, last, basis, solution, missing, weight, left, huber):
    """What the kernel leaves, and Huber's weights of that."""
    remainder(basis[q], solution[q], missing[q], left[q], y, first, last)
    huber_weight(weight[q], left[q], huber[q], y, first, last)


def _match_on_gpu(pairs: np.ndarray, out: np.ndarray) -> None:
    """`match_cpu` for pairs of CuPy, as many at a time as `AT_A_TIME` allows."""
    _, _, ny, nx = pairs.shape
    step = max(1, AT_A_TIME // (2 * (floats_of_basis(ny, nx) + 4 * ny * nx)))
    for first in range(0, len(pairs), step):
        images = pairs[first : first + step].reshape(-1, ny, nx)
        basis = basis_of(images)
        missing, weight, left, huber = (np.empty_like(images) for _ in range(4))
        normal, right, solution = (
            np.empty_like(images, np.float64, shape=(len(images), *shape))
            for shape in ((N_BASIS, N_BASIS), (N_BASIS,), (N_BASIS,))
        )
        weigh(images, basis, missing, weight)
        for used in (weight, huber):
            sum_products(basis, missing, used, normal, right)
            solve_each(normal, right, solution)
            leave(basis, solution, missing, weight, left, huber)
        part = out[first : first + step]
        part[:, :2] = pairs[first : first + step]
        part[:, 2], part[:, 3] = left[::2], -left[1::2]


# ---------------------------------------------------------------- entry points


_kept = threading.local()


def _match_range(start: int, stop: int, pairs: np.ndarray, out: np.ndarray) -> None:
    """`match_cpu` with the thread's own scratch memory: fresh pages cost a third of its time."""
    _, _, ny, nx = pairs.shape
    size = (ny + BEFORE + AFTER) * (8 * nx + 30) + 22 * (ny + 1) * (nx + 1)
    scratch = getattr(_kept, "scratch", None)
    if scratch is None or scratch.size < size:
        scratch = np.empty(size, np.float32)
        if size <= _MOST_KEPT:
            _kept.scratch = scratch
    match_cpu(start, stop, pairs, out, scratch)


def match_psfs(pairs: np.ndarray, threads: int | None = None) -> np.ndarray:
    """Pairs with their two differences after matching the PSFs.

    Parameters
    ----------
    pairs : ndarray of float32, (n, 2, ny, nx)
        Reference and science image above their skies, in units of the noise of their
        difference, finite: as `tile.cut_tiles` and `tile.normalise_pairs` write them.
    threads : int, optional
        CPU threads; all cores by default.

    Returns
    -------
    ndarray of float32, (n, 4, ny, nx)
        ref, sci, sci - K * ref and L * sci - ref.
    """
    n, _, ny, nx = pairs.shape
    out = np.empty_like(pairs, order="C", shape=(n, 4, ny, nx))
    if jit.on_cpu(pairs):
        jit.run(_match_range, n, threads, pairs, out)
    else:
        _match_on_gpu(pairs, out)
    return out
