"""Differences with known sources."""

import numpy as np

from fastdiff import Difference


def gaussian(shape, x, y, flux, sigma=1.7, ratio=1.0, theta=0.0):
    """A point source; `theta` in degrees from +x towards +y, `ratio` minor over major axis."""
    iy, ix = np.indices(shape)
    c, s = np.cos(np.radians(theta)), np.sin(np.radians(theta))
    u, v = c * (ix - x) + s * (iy - y), -s * (ix - x) + c * (iy - y)
    value = np.exp(-(u**2 + (v / ratio) ** 2) / (2 * sigma**2))
    return flux * value / (2 * np.pi * sigma**2 * ratio)


def difference(image, noise=1.0, mask=None, **meta):
    image = np.array(image, np.float32)
    mask = np.isnan(image) if mask is None else mask
    image[mask] = np.nan
    return Difference(image, np.full_like(image, noise), mask, meta)


def optimal_error(noise, sigma):
    """Error of an optimally weighted flux of a Gaussian in white noise."""
    return noise * np.sqrt(4 * np.pi) * sigma
