r"""Differences after matching the PSF of either image to the other's, without knowing either PSF.

For a pair of normalised tiles (`tile.cut_tiles`) the two images

    sci - K * ref        and        L * sci - ref

where K and L are the kernels that fit best over the tile: the delta function plus Gaussians of
sigma 0.8, 1.5, 2.6 and 4.4 pixels and derivatives of them, a photometric factor and a constant
sky (the idea of Alard & Lupton 1998, ApJ 503, 325, with derivatives in place of polynomials).
Whichever image is sharper, one of the two differences has no need to sharpen anything.

Weighted least squares over the pixels more than 4 from the edge. A pixel's error is 1 sigma and
3 % of its signal; its weight falls to 1/25 where there is only sky, because noise in the image
that is convolved biases the fit; what the sky still weighs keeps kernels from amplifying noise.
Coefficients have Gaussian priors about K = delta, and a second pass with Huber's weights leaves
transients and defects out.

Shapes: pairs (n, 2, ny, nx) float32 -> (n, 4, ny, nx) float32. Outside of the tile images are 0.
Cost a pixel and kernel: 90 multiplications for the convolutions (separable; the wide ones at
every second pixel), 240 for two normal matrices; 20 planes of scratch, which for a tile of 256
pixels stay in the cache of the next level.
`tests/kernels/image/reference/match.py` says the same in NumPy.
"""

from __future__ import annotations

import math
import threading

import numpy as np

from .. import jit
from ..jit import cuda
from ..linalg.small import solve

f32 = np.float32

N_BASIS = 14
"""Six narrow kernels, six wide ones, the image itself (photometry) and a constant (sky)."""
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

_MOST_KEPT = 2**23  # values of scratch memory that a thread keeps: tiles of 512 pixels
_BEFORE, _AFTER = 8, 10  # zeros around an image: half of the wide kernels' size


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
_PRECISION = np.array([1 / sigma**2 for sigma in PRIOR])

# ---------------------------------------------------------------- items
# Each writes the pixels x0 <= x < x1 of row y: a whole row on a CPU, one pixel on a GPU.


@jit.item
def across(image, taps, out, y, x0, x1):
    """Nine taps along the rows of a padded image."""
    for x in range(np.uintp(x0), np.uintp(x1)):
        total = f32(0)
        for t in range(9):
            total += taps[t] * image[y, np.uintp(x + t + (_BEFORE - 4))]
        out[y, x] = total


@jit.item
def down(plane, taps, out, y, x0, x1):
    """Nine taps along the columns of what `across` wrote."""
    for x in range(np.uintp(x0), np.uintp(x1)):
        total = f32(0)
        for t in range(9):
            total += taps[t] * plane[np.uintp(y + t + (_BEFORE - 4)), x]
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


@jit.item
def narrow_pixels(image, planes, basis, y, x0, x1):
    """The six narrow kernels, the image and the constant."""
    down(planes[0], _NARROW, basis[0], y, x0, x1)
    down(planes[2], _MIDDLE, basis[1], y, x0, x1)
    down(planes[1], _NARROW, basis[2], y, x0, x1)
    down(planes[0], _NARROW_1, basis[3], y, x0, x1)
    down(planes[4], _MIDDLE, basis[4], y, x0, x1)
    down(planes[2], _MIDDLE_2, basis[13], y, x0, x1)
    subtract(basis[4], basis[13], y, x0, x1)
    down(planes[3], _MIDDLE_1, basis[5], y, x0, x1)
    subtract(basis[0], image, y, x0, x1)
    subtract(basis[1], image, y, x0, x1)
    for x in range(np.uintp(x0), np.uintp(x1)):
        basis[12, y, x] = image[y, x]
        basis[13, y, x] = f32(1)


@jit.item
def wide_pixels(planes, half, y, x0, x1):
    """The six wide kernels at half the size."""
    down_2(planes[0], _WIDE_2, half[0], y, x0, x1)
    down_2(planes[2], _WIDE, half[4], y, x0, x1)
    subtract(half[4], half[0], y, x0, x1)
    down_2(planes[0], _WIDE, half[0], y, x0, x1)
    down_2(planes[3], _WIDEST, half[1], y, x0, x1)
    down_2(planes[1], _WIDE, half[2], y, x0, x1)
    down_2(planes[0], _WIDE_1, half[3], y, x0, x1)
    down_2(planes[1], _WIDE_1, half[5], y, x0, x1)


@jit.item
def enlarged_pixels(image, half, basis, y, x0, x1):
    """The six wide kernels at full size."""
    for k in range(6):
        enlarge(half[k], basis[6 + k], y, 0, half.shape[2])
    subtract(basis[6], image, y, x0, x1)
    subtract(basis[7], image, y, x0, x1)


@jit.item
def image_and_pixel(item, ny, nx):
    """(image, y, x) of a thread."""
    return item // (ny * nx), item // nx % ny, item % nx


# ---------------------------------------------------------------- CPU


@jit.item
def narrow_basis(padded, image, planes, basis, ny, nx):
    """The six narrow kernels, the image and the constant."""
    for y in range(ny + 2 * _BEFORE):
        across(padded, _NARROW, planes[0], y, 0, nx)
        across(padded, _NARROW_1, planes[1], y, 0, nx)
        across(padded, _MIDDLE, planes[2], y, 0, nx)
        across(padded, _MIDDLE_1, planes[3], y, 0, nx)
        across(padded, _MIDDLE_2, planes[4], y, 0, nx)
    for y in range(ny):
        narrow_pixels(image, planes, basis, y, 0, nx)


@jit.item
def wide_basis(padded, image, split, planes, half, basis, ny, nx):
    """The six wide kernels."""
    n_y, n_x = half.shape[1], half.shape[2]
    for y in range(2 * n_y + 2 * _BEFORE):
        for x in range(n_x + 8):
            split[0, y, x] = padded[y, 2 * x]
            split[1, y, x] = padded[y, 2 * x + 1]
        across_2(split[0], split[1], _WIDE, planes[0], y, 0, n_x)
        across_2(split[0], split[1], _WIDE_1, planes[1], y, 0, n_x)
        across_2(split[0], split[1], _WIDE_2, planes[2], y, 0, n_x)
        across_2(split[0], split[1], _WIDEST, planes[3], y, 0, n_x)
    for y in range(n_y):
        wide_pixels(planes, half, y, 0, n_x)
    for y in range(ny):
        enlarged_pixels(image, half, basis, y, 0, nx)


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
    rows = ny + _BEFORE + _AFTER
    padded = np.zeros((rows, nx + _BEFORE + _AFTER), np.float32)
    narrow, used = take(scratch, 0, 5, rows, nx)
    wide, used = take(scratch, used, 4, rows, n_x)
    split, used = take(scratch, used, 2, rows, n_x + 9)
    half, used = take(scratch, used, 6, n_y, n_x)
    basis, used = take(scratch, used, N_BASIS, ny, nx)
    smooth, used = take(scratch, used, 2, ny, nx)
    others, used = take(scratch, used, 3, ny, nx)
    weight, huber, missing = others[0], others[1], others[2]
    normal, reduced = np.empty((N_BASIS, N_BASIS)), np.empty((N_BASIS, N_BASIS))
    right, solution = np.empty(N_BASIS), np.empty(N_BASIS)
    for pair in range(start, stop):
        for image in range(2):
            out[pair, image] = pairs[pair, image]
            padded[_BEFORE : _BEFORE + ny, _BEFORE : _BEFORE + nx] = pairs[pair, image]
            for y in range(rows):
                across(padded, _NARROW, narrow[0], y, 0, nx)
            for y in range(ny):
                down(narrow[0], _NARROW, smooth[image], y, 0, nx)
        for y in range(ny):
            for x in range(nx):
                weight[y, x] = weight_of(smooth[0, y, x], smooth[1, y, x])
        for image in range(2):
            own, left = pairs[pair, image], out[pair, 2 + image]
            padded[_BEFORE : _BEFORE + ny, _BEFORE : _BEFORE + nx] = own
            narrow_basis(padded, own, narrow, basis, ny, nx)
            wide_basis(padded, own, split, wide, half, basis, ny, nx)
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


# ---------------------------------------------------------------- CUDA
# Arrays of all images q = 2 pair + image at once, named as on the CPU.


@jit.cuda_kernel
def pad_cuda(pairs, padded, split):
    """Thread: one pixel of a padded image."""
    q, y, x = image_and_pixel(cuda.grid(1), padded.shape[1], padded.shape[2])
    if q < padded.shape[0]:
        inside_y, inside_x = y - _BEFORE, x - _BEFORE
        value = f32(0)
        if 0 <= inside_y < pairs.shape[2] and 0 <= inside_x < pairs.shape[3]:
            value = pairs[q // 2, q % 2, inside_y, inside_x]
        padded[q, y, x] = value
        if x // 2 < split.shape[3]:
            split[q, x % 2, y, x // 2] = value


@jit.cuda_kernel
def across_cuda(padded, split, narrow, wide):
    """Thread: one pixel of the rows; all kernels."""
    q, y, x = image_and_pixel(cuda.grid(1), narrow.shape[2], narrow.shape[3])
    if q < narrow.shape[0]:
        across(padded[q], _NARROW, narrow[q, 0], y, x, x + 1)
        across(padded[q], _NARROW_1, narrow[q, 1], y, x, x + 1)
        across(padded[q], _MIDDLE, narrow[q, 2], y, x, x + 1)
        across(padded[q], _MIDDLE_1, narrow[q, 3], y, x, x + 1)
        across(padded[q], _MIDDLE_2, narrow[q, 4], y, x, x + 1)
        if x < wide.shape[3]:
            across_2(split[q, 0], split[q, 1], _WIDE, wide[q, 0], y, x, x + 1)
            across_2(split[q, 0], split[q, 1], _WIDE_1, wide[q, 1], y, x, x + 1)
            across_2(split[q, 0], split[q, 1], _WIDE_2, wide[q, 2], y, x, x + 1)
            across_2(split[q, 0], split[q, 1], _WIDEST, wide[q, 3], y, x, x + 1)


@jit.cuda_kernel
def down_cuda(pairs, narrow, wide, half, basis):
    """Thread: one pixel; the narrow kernels, and the wide ones at half the size."""
    q, y, x = image_and_pixel(cuda.grid(1), basis.shape[2], basis.shape[3])
    if q < basis.shape[0]:
        narrow_pixels(pairs[q // 2, q % 2], narrow[q], basis[q], y, x, x + 1)
        if y < half.shape[2] and x < half.shape[3]:
            wide_pixels(wide[q], half[q], y, x, x + 1)


@jit.cuda_kernel
def enlarge_cuda(pairs, half, basis, missing):
    """Thread: one row of one image, since an enlarged pixel is written with its neighbour."""
    item = cuda.grid(1)
    q, y = item // basis.shape[2], item % basis.shape[2]
    if q < basis.shape[0]:
        own, other = pairs[q // 2, q % 2], pairs[q // 2, 1 - q % 2]
        enlarged_pixels(own, half[q], basis[q], y, 0, basis.shape[3])
        for x in range(basis.shape[3]):
            missing[q, y, x] = other[y, x] - own[y, x]


@jit.cuda_kernel
def weigh_cuda(pairs, basis, weight):
    """Thread: one pixel of a pair."""
    n, y, x = image_and_pixel(cuda.grid(1), weight.shape[1], weight.shape[2])
    if n < pairs.shape[0]:
        ref, sci = pairs[n, 0, y, x], pairs[n, 1, y, x]
        smooth_r, smooth_s = basis[2 * n, 0, y, x] + ref, basis[2 * n + 1, 0, y, x] + sci
        weight[2 * n, y, x] = weight_of(smooth_r, smooth_s)
        weight[2 * n + 1, y, x] = weight_of(smooth_r, smooth_s)


@jit.cuda_kernel
def normal_cuda(basis, missing, weight, normal, right):
    """Thread: one entry of the normal equations of one image."""
    item = cuda.grid(1)
    size = N_BASIS * (N_BASIS + 1)
    q, i, j = item // size, item % size // (N_BASIS + 1), item % (N_BASIS + 1)
    if q < basis.shape[0] and (j <= i or j == N_BASIS):
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


@jit.cuda_kernel
def solve_cuda(normal, right, scratch, solution):
    """Thread: one image."""
    q = cuda.grid(1)
    if q < normal.shape[0]:
        coefficients(normal[q], right[q], scratch[q], solution[q])


@jit.cuda_kernel
def remainder_cuda(basis, solution, missing, weight, left, huber):
    """Thread: one pixel of one image."""
    q, y, x = image_and_pixel(cuda.grid(1), left.shape[1], left.shape[2])
    if q < left.shape[0]:
        remainder(basis[q], solution[q], missing[q], left[q], y, x, x + 1)
        huber_weight(weight[q], left[q], huber[q], y, x, x + 1)


_kept = threading.local()


def _match_range(start: int, stop: int, pairs: np.ndarray, out: np.ndarray) -> None:
    """`match_cpu` with the thread's own scratch memory: fresh pages cost a third of its time."""
    _, _, ny, nx = pairs.shape
    size = (ny + _BEFORE + _AFTER) * (8 * nx + 30) + 22 * (ny + 1) * (nx + 1)
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
    out = np.empty((n, 4, ny, nx), np.float32)
    jit.run(_match_range, n, threads, pairs, out)
    return out
