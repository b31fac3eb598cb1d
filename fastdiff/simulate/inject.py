"""Point sources of known flux added to real images, for tests and training on real sky."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core.stats import FWHM_PER_SIGMA, mad_sigma

__all__ = ["measure_fwhm", "point_source"]


def point_source(
    shape: tuple[int, int], x: float, y: float, fwhm: float, beta: float | None = None
) -> NDArray[np.float64]:
    """Image of a point source of unit flux.

    Parameters
    ----------
    shape : (int, int)
        Size (ny, nx) of the image in pixels.
    x, y : float
        Position, 0-based pixel centres.
    fwhm : float
        Full width at half maximum in pixels, the pixel's own width included.
    beta : float, optional
        Index of a Moffat profile; a Gaussian without it.

    Returns
    -------
    ndarray, shape (ny, nx), float64
        Its sum is the part of the flux that falls on the image.
    """
    j, i = np.indices(shape)
    # mean over 3 x 3 points of each pixel: under-sampled profiles keep their flux
    image = np.zeros(shape)
    width = np.sqrt(max(fwhm**2 - FWHM_PER_SIGMA**2 / 12, 0.25))
    for oy in (-1 / 3, 0, 1 / 3):
        for ox in (-1 / 3, 0, 1 / 3):
            r2 = (i + ox - x) ** 2 + (j + oy - y) ** 2
            if beta is None:
                s2 = (width / FWHM_PER_SIGMA) ** 2
                image += np.exp(-r2 / (2 * s2)) / (2 * np.pi * s2)
            else:
                a2 = width**2 / (4 * (2 ** (1 / beta) - 1))
                image += (beta - 1) / (np.pi * a2) * (1 + r2 / a2) ** -beta
    return image / 9


def measure_fwhm(image: NDArray[Any], default: float = 2.5) -> float:
    """Full width at half maximum of the sharpest bright sources of an image.

    The curvature of the logarithm over 3 x 3 pixels about each peak above 20 sigma gives the
    width of a Gaussian core. The lower quartile of the peaks is taken, because galaxies and
    blends are wider than stars.

    Parameters
    ----------
    image : ndarray, (ny, nx)
        NaN pixels are left out.
    default : float
        What is returned for an image without such a peak.

    Returns
    -------
    float
        In pixels, from 1.2 to 12.
    """
    from scipy.ndimage import maximum_filter

    known = image[~np.isnan(image)]
    sky = np.median(known)
    sigma = mad_sigma(known, sky)
    signal = np.where(np.isfinite(image), image - sky, 0)
    top = np.nanmax(signal) if signal.size else 0
    peak = (signal == maximum_filter(signal, 5)) & (signal > 20 * sigma)
    peak[:3] = peak[-3:] = peak[:, :3] = peak[:, -3:] = False
    widths = []
    for y, x in np.argwhere(peak):
        box = signal[y - 1 : y + 2, x - 1 : x + 2]
        if box.min() <= 0 or (signal[y - 1 : y + 2, x - 1 : x + 2] >= 0.98 * top).sum() > 2:
            continue
        log = np.log(box)
        curvature = np.array(
            [2 * log[1, 1] - log[1, 0] - log[1, 2], 2 * log[1, 1] - log[0, 1] - log[2, 1]]
        )
        if (curvature > 0).all():
            widths.append(FWHM_PER_SIGMA * np.prod(curvature) ** -0.25)
    return float(np.clip(np.percentile(widths, 25), 1.2, 12)) if widths else default
