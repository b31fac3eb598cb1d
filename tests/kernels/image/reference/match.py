"""What kernels/match.py computes, in float64, with dense kernels and a dense design matrix."""

import numpy as np
from scipy.signal import correlate2d

from fastdiff.kernels.image import match as k


def gaussians(sigma, size):
    """A Gaussian of unit sum, its x and y derivatives, (xx - yy) and xy derivatives."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    g = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    g /= g.sum()
    return (
        g,
        -x / sigma**2 * g,
        -y / sigma**2 * g,
        (x**2 - y**2) / sigma**4 * g,
        x * y / sigma**4 * g,
    )


def basis(image):
    """(14, ny, nx)."""
    ny, nx = image.shape
    narrow, middle = gaussians(0.8, 9), gaussians(1.5, 9)
    wide, widest = gaussians(2.6, 18), gaussians(4.4, 18)

    def apply(kernel):
        return correlate2d(image, kernel, "same")

    def apply_wide(kernel):
        padded = np.pad(image, ((8, 10), (8, 10)))
        half = correlate2d(padded, kernel, "valid")[::2, ::2][: (ny + 1) // 2, : (nx + 1) // 2]
        rows = np.arange(ny) / 2 - 0.25
        columns = np.arange(nx) / 2 - 0.25
        along = np.array([np.interp(columns, np.arange(half.shape[1]), row) for row in half])
        return np.array([np.interp(rows, np.arange(len(half)), column) for column in along.T]).T

    return np.stack([
        apply(narrow[0]) - image, apply(middle[0]) - image, apply(narrow[1]), apply(narrow[2]),
        apply(middle[3]), apply(middle[4]), apply_wide(wide[0]) - image,
        apply_wide(widest[0]) - image, *(apply_wide(kernel) for kernel in wide[1:]), image,
        np.ones_like(image),
    ])  # fmt: skip


def match(ref, sci):
    """(sci - K * ref, L * sci - ref)."""
    ref, sci = ref.astype(float), sci.astype(float)
    smooth = [correlate2d(image, gaussians(0.8, 9)[0], "same") for image in (ref, sci)]
    signal2 = np.maximum(*np.square(smooth))
    weight = (signal2 + 1) / (signal2 + k.SIGNAL_SNR**2) / (1 + k.SIGNAL_ERROR**2 * signal2)
    inner = (slice(None), slice(k.EDGE, -k.EDGE), slice(k.EDGE, -k.EDGE))
    results = []
    for image, other in ((ref, sci), (sci, ref)):
        design, missing = basis(image), other - image
        columns, target = design[inner].reshape(14, -1), missing[inner[1:]].ravel()
        first = weight[inner[1:]].ravel()
        used = first
        for _ in range(2):
            normal = (columns * used) @ columns.T
            normal[np.diag_indices(14)] *= 1 + k.RIDGE
            normal += np.diag(1 / np.array(k.PRIOR) ** 2)
            solution = np.linalg.solve(normal, (columns * used) @ target)
            error = np.abs(target - solution @ columns) * np.sqrt(first)
            used = first * k.REACH / np.maximum(error, k.REACH)
        results.append(missing - np.tensordot(solution, design, 1))
    return results[0], -results[1]


def weigh(images, basis):
    """What each image's kernel is to make, and the first weights; basis[:, 0] is smooth - image."""
    missing = images[[q ^ 1 for q in range(len(images))]] - images.astype(float)
    square = ((basis[:, 0] + images.astype(float)) ** 2).reshape(-1, 2, *images.shape[1:])
    signal2 = np.repeat(square.max(1), 2, axis=0)
    gate = (signal2 + 1) / (signal2 + k.SIGNAL_SNR**2)
    return missing, gate / (1 + k.SIGNAL_ERROR**2 * signal2)


def sum_products(basis, missing, weight, normal):
    """Lower half of the normal matrices (the rest as it was) and right-hand sides."""
    inner = np.s_[..., k.EDGE : -k.EDGE, k.EDGE : -k.EDGE]
    basis, missing, weight = (a[inner].astype(float) for a in (basis, missing, weight))
    full = np.einsum("qyx,qiyx,qjyx->qij", weight, basis, basis)
    lower = np.tril(np.ones(full.shape[1:], bool))
    return np.where(lower, full, normal), np.einsum("qyx,qiyx,qyx->qi", weight, basis, missing)


def solve_each(normal, right):
    """Coefficients with the prior, from the lower halves."""
    full = np.tril(normal) + np.tril(normal, -1).transpose(0, 2, 1)
    diagonal = np.einsum("qii->qi", full)
    diagonal[:] = diagonal * (1 + k.RIDGE) + 1 / np.array(k.PRIOR) ** 2
    return np.linalg.solve(full, right[..., None])[..., 0]


def leave(basis, solution, missing, weight):
    """What the kernel leaves, and the weights times Huber's."""
    left = missing - np.einsum("qi,qiyx->qyx", solution, basis)
    error = np.abs(left) * np.sqrt(weight.astype(float))
    return left, weight * k.REACH / np.maximum(error, k.REACH)
