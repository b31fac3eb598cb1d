"""What kernels/synth/ computes, said slowly: NumPy and Python integers, no boxes, no tricks."""

import numpy as np

from fastdiff.kernels.synth import tables as k


def philox(counter, key):
    """Philox 4x32-10 in Python's own integers (Salmon et al. 2011, section 4.3)."""
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k1, p0 & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return tuple(c)


def plane(sources, y, x):
    """Sum of a table of Gaussians at the pixels (y, x); every Gaussian everywhere."""
    total = np.zeros(y.shape)
    for row in sources.astype(float):
        dx, dy = x - row[k.X], y - row[k.Y]
        q = row[k.A] * dx**2 + 2 * row[k.B] * dx * dy + row[k.C] * dy**2
        total += row[k.PEAK] * np.exp(-q)
    return total


def defects(rows, y, x):
    """Sum of segments with a Gaussian cross-section."""
    total = np.zeros(y.shape)
    for row in rows.astype(float):
        rx, ry = x - row[k.D_X], y - row[k.D_Y]
        length2 = row[k.D_DX] ** 2 + row[k.D_DY] ** 2
        if row[k.D_PERIOD] > 0:
            total += row[k.D_PEAK] * dashes(row, rx, ry, np.sqrt(length2))
            continue
        if length2 > 0:
            t = np.clip((rx * row[k.D_DX] + ry * row[k.D_DY]) / length2, -0.5, 0.5)
            rx, ry = rx - t * row[k.D_DX], ry - t * row[k.D_DY]
        total += row[k.D_PEAK] * np.exp(-(rx**2 + ry**2) / (2 * row[k.D_WIDTH] ** 2))
    return total


def dashes(row, rx, ry, length):
    """The brightest, at every pixel, of the dashes whose centres lie on the segment; peak 1."""
    ux, uy = row[k.D_DX] / length, row[k.D_DY] / length
    along, across = rx * ux + ry * uy, rx * uy - ry * ux
    n = int(length / row[k.D_PERIOD]) + 2
    centres = row[k.D_PHASE] + row[k.D_PERIOD] * np.arange(-n, n + 1)
    best = np.zeros(rx.shape)
    for centre in centres[np.abs(centres) <= length / 2]:
        beyond = np.maximum(np.abs(along - centre) - row[k.D_DASH] / 2, 0)
        q = (beyond**2 + across**2) / (2 * row[k.D_WIDTH] ** 2)
        best = np.maximum(best, np.where(q < 12, np.exp(-q), 0))
    return best


def electrons(frame, sources, n_sources, ny, nx):
    """Expected electrons of ref, sci and truth before resampling, (3, ny + 1, nx + 1)."""
    y, x = np.indices((ny + 1, nx + 1)).astype(float)
    planes = [plane(sources[p, : n_sources[p]], y, x) for p in range(3)]
    slope = frame[k.GRADIENT_X] * (x / nx - 0.5) + frame[k.GRADIENT_Y] * (y / ny - 0.5)
    ref = planes[0] + frame[k.SKY_REF] * (1 - 0.5 * slope)
    sci = planes[1] + planes[2] + frame[k.SKY_SCI] * (1 + slope)
    return np.stack([ref, sci, planes[2]])


def resample(image, fx, fy):
    """Bilinear shift of (ny + 1, nx + 1) to (ny, nx)."""
    across = image[:, :-1] * (1 - fx) + image[:, 1:] * fx
    return across[:-1] * (1 - fy) + across[1:] * fy


def moffat(r, fwhm, beta):
    """Moffat profile of unit flux."""
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    return (beta - 1) / (np.pi * alpha**2) * (1 + (r / alpha) ** 2) ** -beta


def sersic(r, n):
    """Sersic profile of unit flux and unit half-light radius."""
    from scipy.special import gamma, gammaincinv

    b = gammaincinv(2 * n, 0.5)
    return np.exp(-b * r ** (1 / n)) * b ** (2 * n) / (2 * np.pi * n * gamma(2 * n))
