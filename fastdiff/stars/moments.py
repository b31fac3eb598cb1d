"""Stamps of sources, their adaptive moments, and shifts by parts of a pixel.

Moments with a Gaussian weight that takes the shape of the source itself (Bernstein & Jarvis 2002,
AJ 123, 583): positions, widths and shapes are then unbiased for a Gaussian, and hardly see
neighbours or the error of the sky.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core.stats import FWHM_PER_SIGMA

__all__ = ["LANCZOS", "LEAST_FWHM", "adaptive_moments", "cut_stamps", "shift_matrix"]

LEAST_FWHM = 1.0
"""Pixels; what is narrower is a hot pixel or a cosmic ray."""
LANCZOS = 6
"""Half-width of the interpolation, pixels."""
_ON_ONE_THREAD = 1 << 18  # multiplications


def cut_stamps(
    image: NDArray[Any], x: NDArray[Any], y: NDArray[Any], half: int
) -> tuple[NDArray[Any], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Stamps of 2 half + 1 pixels about (x, y), 0 outside of the image, and where they begin."""
    y0 = np.round(y).astype(np.int64) - half
    x0 = np.round(x).astype(np.int64) - half
    rows, columns = (begin[:, None] + np.arange(2 * half + 1) for begin in (y0, x0))
    ny, nx = image.shape
    stamps = image[np.clip(rows, 0, ny - 1)[:, :, None], np.clip(columns, 0, nx - 1)[:, None, :]]
    outside = ((rows < 0) | (rows >= ny))[:, :, None] | ((columns < 0) | (columns >= nx))[:, None]
    stamps[outside] = 0
    return stamps, (y0, x0)


def adaptive_moments(
    stamps: NDArray[Any], width: float, passes: int = 12
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], tuple[NDArray[Any], ...]]:
    """(flux, dx, dy, (cxx, cxy, cyy)) of the Gaussian that each stamp's own weight is.

    A Gaussian of covariance C seen through a weight of covariance W has the moments
    Q = (1/C + 1/W)^-1, hence C = (1/Q - 1/W)^-1; this is iterated with W = C. Flux is NaN where
    that leads nowhere.
    """
    n, side = len(stamps), stamps.shape[1]
    grid = np.arange(side, dtype=np.float64) - side // 2
    y, x = (axis.ravel() for axis in np.meshgrid(grid, grid, indexing="ij"))
    moments = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    pixels = stamps.reshape(n, -1).astype(np.float64)
    dx, dy = np.zeros(n), np.zeros(n)
    cxx, cxy, cyy = np.full(n, width**2), np.zeros(n), np.full(n, width**2)
    flux = np.zeros(n)
    least, most = (LEAST_FWHM / FWHM_PER_SIGMA / 2) ** 2, (side / 2) ** 2
    active = np.ones(n, bool)
    with np.errstate(all="ignore"):
        for _ in range(passes):
            a, b, c, u, v = (q[active] for q in (cxx, cxy, cyy, dx, dy))
            det = a * c - b * b
            # -1/2 (p - d)^T W^-1 (p - d) as a polynomial in the pixel's position p
            p, q, r = c / det, -b / det, a / det
            terms = np.stack(
                [p * u * u + 2 * q * u * v + r * v * v, -2 * (p * u + q * v), -2 * (q * u + r * v),
                 p, 2 * q, r], axis=1,
            )  # fmt: skip
            weighted = np.exp(-0.5 * _product(terms, moments.T)) * pixels[active]
            s, sx, sy, sxx, sxy, syy = _product(weighted, moments).T
            mx, my = sx / s, sy / s
            qxx, qxy, qyy = sxx / s - mx * mx, sxy / s - mx * my, syy / s - my * my
            det_q = qxx * qyy - qxy * qxy
            ixx, ixy, iyy = qyy / det_q - p, -qxy / det_q - q, qxx / det_q - r
            det_i = ixx * iyy - ixy * ixy
            new = np.stack([iyy / det_i, -ixy / det_i, ixx / det_i])
            # a weight as wide as the source sees half of a Gaussian's flux
            values = 2 * s
            moved = np.maximum(abs(mx - u), abs(my - v))
            # centres move twice as far: half of the offset is the weight's own
            u, v = u + 2 * (mx - u), v + 2 * (my - v)
            lost = ~((s > 0) & (det_q > 0) & (det_i > 0) & (ixx > 0))
            lost |= ~((new[0] > least) & (new[2] > least) & (new[0] < most) & (new[2] < most))
            lost |= ~(np.maximum(abs(u), abs(v)) < side / 2)
            values[lost] = np.nan
            change = np.abs(new - np.stack([a, b, c])).max(0) / np.sqrt(det)
            index = np.flatnonzero(active)
            flux[index] = values
            keep = index[~lost]
            dx[keep], dy[keep] = u[~lost], v[~lost]
            cxx[keep], cxy[keep], cyy[keep] = new[:, ~lost]
            active[index[lost | ((change < 1e-3) & (moved < 1e-3))]] = False
            if not active.any():
                break
    return flux, dx, dy, (cxx, cxy, cyy)


def _product(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """``a @ b``, so many rows at a time that OpenBLAS stays on this thread.

    It gains little by a second one here, which then waits for more work at full speed.
    """
    out = np.empty((len(a), b.shape[1]))
    step = max(1, _ON_ONE_THREAD // b.size)
    for first in range(0, len(a), step):
        np.matmul(a[first : first + step], b, out=out[first : first + step])
    return out


def shift_matrix(shift: NDArray[Any], size: int) -> NDArray[np.float64]:
    """(n, size, size + 2 `LANCZOS`): rows that interpolate at whole pixels + `shift`."""
    distance = np.arange(-LANCZOS, LANCZOS + 1) - shift[:, None]
    taps = np.sinc(distance) * np.sinc(distance / LANCZOS) * (np.abs(distance) < LANCZOS)
    taps /= taps.sum(1, keepdims=True)
    # Row i has them from column i on.
    padded = np.pad(taps, ((0, 0), (size - 1, size - 1)))
    side = size + 2 * LANCZOS
    return np.lib.stride_tricks.sliding_window_view(padded, side, axis=1)[:, ::-1]
