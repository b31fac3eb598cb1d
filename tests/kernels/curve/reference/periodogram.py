"""What the kernels of periodograms and periods compute, by exponentials and whole matrices."""

import numpy as np

from fastdiff.kernels.curve import harmonics


def weights(magerr, n):
    """Weights of unit sum."""
    if magerr is None:
        return np.full(n, 1 / n)
    w = 1 / (magerr**2 + magerr.mean() ** 2)
    return w / w.sum()


def power(time, mag, magerr, frequency):
    """The classical periodogram, point by point."""
    w = weights(magerr, len(mag))
    y = mag - w @ mag
    transform = np.exp(-2j * np.pi * np.outer(frequency, time)) @ (w * y)
    return 2 * np.abs(transform) ** 2 / (w @ y**2)


def design(time, frequency, n_harmonics):
    """Columns 1, cos, sin, cos 2, sin 2 ..."""
    columns = [np.ones_like(time)]
    for h in range(1, n_harmonics + 1):
        angle = 2 * np.pi * h * frequency * time
        columns += [np.cos(angle), np.sin(angle)]
    return np.stack(columns, 1)


def fit(time, mag, magerr, frequency, n_harmonics):
    """Coefficients of the Fourier series and the share of the variance that the fit takes off.

    The ridge is that of a prior; what it costs counts as unexplained.
    """
    w = weights(magerr, len(mag))
    y = mag - w @ mag
    columns = design(time, frequency, n_harmonics)
    ridge = harmonics.RIDGE * np.repeat(np.arange(n_harmonics + 1.0), 2)[1:] ** 2
    normal = (columns.T * w) @ columns + np.diag(ridge)
    right = (columns.T * w) @ y
    solution = np.linalg.solve(normal, right)
    return solution, solution @ right / (w @ y**2)


def roughness(time, mag, frequency):
    """Mean squared step between neighbours in phase, the last and the first too."""
    folded = mag[np.argsort((frequency * time) % 1)]
    steps = np.diff(folded, append=folded[0])
    return np.sum(steps**2) / (2 * np.sum((mag - mag.mean()) ** 2))
