"""What kernels/image/gaussians.py computes, step by step, in float64."""

import numpy as np

BEFORE, AFTER = 8, 10


def taps(sigma, size):
    """A Gaussian of unit sum, its first and its second derivative."""
    t = np.arange(size) - (size - 1) / 2
    g = np.exp(-(t**2) / (2 * sigma**2))
    g /= g.sum()
    return g, -t / sigma**2 * g, (t**2 / sigma**4 - 1 / sigma**2) * g


NARROW, MIDDLE = taps(0.8, 9), taps(1.5, 9)
WIDE, WIDEST = taps(2.6, 18), taps(4.4, 18)


def pad(images, half_columns):
    """The images with zeros around; their even and their odd columns."""
    padded = np.pad(images, ((0, 0), (BEFORE, AFTER), (BEFORE, AFTER)))
    halves = [padded[:, :, k::2][:, :, :half_columns] for k in (0, 1)]
    return padded, np.stack(halves, axis=1)


def filter_rows(padded, split, nx, n_x):
    """Rows filtered by the narrow taps and, at every second pixel, by the wide ones."""
    first = BEFORE - 4
    narrow = [
        sum(tap * padded[:, :, first + t : first + t + nx] for t, tap in enumerate(row))
        for row in (NARROW[0], NARROW[1], *MIDDLE)
    ]
    wide = [
        sum(tap * split[:, t % 2, :, t // 2 : t // 2 + n_x] for t, tap in enumerate(row))
        for row in (*WIDE, WIDEST[0])
    ]
    return np.stack(narrow, axis=1), np.stack(wide, axis=1)


def filter_columns(images, narrow, wide, basis, n_y):
    """The wide kernels at half the size; the functions, of which the wide ones stay as they are."""
    ny = images.shape[1]

    def down(row, column):
        first = BEFORE - 4
        return sum(tap * narrow[:, row, first + t : first + t + ny] for t, tap in enumerate(column))

    def down_2(row, column):
        return sum(tap * wide[:, row, t : t + 2 * n_y : 2] for t, tap in enumerate(column))

    half = [
        down_2(0, WIDE[0]), down_2(3, WIDEST[0]), down_2(1, WIDE[0]), down_2(0, WIDE[1]),
        down_2(2, WIDE[0]) - down_2(0, WIDE[2]), down_2(1, WIDE[1]),
    ]  # fmt: skip
    functions = [
        down(0, NARROW[0]) - images, down(2, MIDDLE[0]) - images, down(1, NARROW[0]),
        down(0, NARROW[1]), down(4, MIDDLE[0]) - down(2, MIDDLE[2]), down(3, MIDDLE[1]),
    ]  # fmt: skip
    basis = basis.astype(float)
    basis[:, :6] = np.stack(functions, axis=1)
    basis[:, 12], basis[:, 13] = images, 1
    return np.stack(half, axis=1), basis


def enlarge(plane, shape):
    """Twice the size, linear between the centres of pixels."""
    rows, columns = (np.arange(n) / 2 - 0.25 for n in shape)
    along = np.array([np.interp(columns, np.arange(plane.shape[1]), row) for row in plane])
    return np.array([np.interp(rows, np.arange(len(plane)), column) for column in along.T]).T


def enlarge_wide(images, half, basis):
    """The functions, with the wide kernels at full size."""
    basis = basis.astype(float)
    for own, planes, image in zip(basis, half, images, strict=True):
        own[6:12] = [enlarge(plane, image.shape) for plane in planes]
        own[6:8] -= image
    return basis
