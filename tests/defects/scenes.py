"""Frames of stars and galaxies whose truth is known."""

import numpy as np

SIZE = 256


def spread(rng, n, margin=12, size=SIZE):
    return rng.uniform(margin, size - margin, (2, n))


def gaussians(x, y, flux, fwhm, size=SIZE):
    """Sum of round Gaussians, of one width or of one each."""
    image = np.zeros((size, size))
    for px, py, f, w in zip(x, y, flux, np.broadcast_to(fwhm, np.shape(x)), strict=True):
        s = w / 2.3548
        h = int(6 * s) + 3
        rows = slice(max(0, int(py) - h), max(0, int(py) + h + 1))
        columns = slice(max(0, int(px) - h), max(0, int(px) + h + 1))
        yy, xx = np.mgrid[:size, :size][:, rows, columns]
        square = (xx - px) ** 2 + (yy - py) ** 2
        image[rows, columns] += f / (2 * np.pi * s * s) * np.exp(-square / (2 * s * s))
    return image


def moffats(x, y, flux, fwhm, beta=3.0, size=SIZE):
    yy, xx = np.mgrid[:size, :size]
    a = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    image = np.zeros((size, size))
    for px, py, f in zip(x, y, flux, strict=True):
        square = (xx - px) ** 2 + (yy - py) ** 2
        image += f * (beta - 1) / (np.pi * a * a) * (1 + square / a**2) ** -beta
    return image


def photons(rng, scene, dtype=np.float32):
    return rng.poisson(scene).astype(dtype)


def field(seed, fwhm=3.0, n=60, sky=100.0, low=2.7, high=5.0):
    """A frame of Gaussian stars, float32, and the generator to go on with."""
    rng = np.random.default_rng(seed)
    x, y = spread(rng, n)
    scene = sky + gaussians(x, y, 10 ** rng.uniform(low, high, n), fwhm)
    return photons(rng, scene), rng
