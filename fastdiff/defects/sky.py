"""Sky and noise of a frame on a mesh, and its bright pixels with their neighbours."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

__all__ = ["NEIGHBOURS", "Bright", "Sky", "bright_pixels", "grow", "measure_sky"]

NEIGHBOURS = ((0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (1, 1), (-1, 1), (1, -1))
"""(dy, dx) of the pixels around one: opposite ones stand side by side, axes before diagonals."""

_SIDE = 64  # pixels of a cell of the mesh
_STEP = 4  # between the pixels of it that are sorted
_ENOUGH = 48  # good ones of them, of about 256
_BRIGHT = 5.0  # sigma


@dataclasses.dataclass(frozen=True)
class Sky:
    """Level and noise of the cells of a mesh of about 64 pixels.

    Attributes
    ----------
    level, noise : ndarray of float64, (n_y, n_x)
        Clean of sources as far as a median and the quantile of 1 sigma below it are. Noise is
        that of a pixel; 0 all over where there is none.
    side : tuple of int
        Rows and columns of a cell.
    """

    level: NDArray[np.float64]
    noise: NDArray[np.float64]
    side: tuple[int, int]

    def at(
        self, y: NDArray[np.int64], x: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Level and noise at pixels."""
        cell = (y // self.side[0]) * self.level.shape[1] + x // self.side[1]
        return self.level.ravel()[cell], self.noise.ravel()[cell]


def measure_sky(data: NDArray[np.floating], bad: NDArray[np.bool_] | None) -> Sky | None:
    """Sky of a frame (ny, nx); None without a good pixel."""
    half = _STEP // 2
    some = data[half::_STEP, half::_STEP].astype(np.float32)
    good = np.abs(some) < 1e30
    if bad is not None:
        good &= ~bad[half::_STEP, half::_STEP]
    np.copyto(some, np.inf, where=~good)
    n_y, n_x = (max(1, round(n / _SIDE)) for n in data.shape)
    h, w = (-(-n // (k * _STEP)) for n, k in zip(data.shape, (n_y, n_x), strict=True))  # samples
    padded = np.full((n_y * h, n_x * w), np.inf, np.float32)
    padded[: some.shape[0], : some.shape[1]] = some
    cells = padded.reshape(n_y, h, n_x, w).transpose(0, 2, 1, 3).reshape(n_y * n_x, h * w)
    cells.sort(axis=1)
    count = np.isfinite(cells).sum(1)
    if not count.any():
        return None
    known = count >= min(_ENOUGH, count.max())
    rows = np.arange(len(cells))
    level = cells[rows, np.maximum(count - 1, 0) // 2].astype(np.float64)
    low = cells[rows, (0.158655 * count).astype(np.int64)].astype(np.float64)
    with np.errstate(invalid="ignore"):
        noise = level - low
    level[~known] = np.median(level[known])
    varied = known & (noise > 0)
    noise[~varied] = np.median(noise[varied]) if varied.any() else 0.0
    side = h * _STEP, w * _STEP
    return Sky(level.reshape(n_y, n_x), noise.reshape(n_y, n_x), side)


@dataclasses.dataclass(frozen=True)
class Bright:
    """Pixels that stand out of the sky, none at the edge of the frame.

    Attributes
    ----------
    index : ndarray of int64, (m,)
        Places in the frame in reading order.
    y, x : ndarray of int64, (m,)
    value : ndarray of float32 or float64, (m,)
        Above the sky.
    noise : ndarray of float64, (m,)
        Of the sky.
    around : ndarray of float32 or float64, (8, m)
        The `NEIGHBOURS` above the sky of the pixel; NaN where they are bad.
    """

    index: NDArray[np.int64]
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    value: NDArray[np.floating]
    noise: NDArray[np.float64]
    around: NDArray[np.floating]


def bright_pixels(data: NDArray[np.floating], bad: NDArray[np.bool_] | None, sky: Sky) -> Bright:
    """Good pixels of more than 5 sigma above the sky."""
    ny, nx = data.shape
    h, w = sky.side
    limits = np.repeat(sky.level + _BRIGHT * sky.noise, w, axis=1)[:, :nx].astype(data.dtype)
    parts = []
    for cell, limit in enumerate(limits):
        first = max(cell * h, 1)
        rows = data[first : min((cell + 1) * h, ny - 1)]
        parts.append(np.flatnonzero(rows > limit) + first * nx)
    index = np.concatenate(parts)
    flat = data.ravel()
    x = index % nx
    keep = (x > 0) & (x < nx - 1) & (flat[index] < 1e30)
    if bad is not None:
        keep &= ~bad.ravel()[index]
    index, x = index[keep], x[keep]
    y = index // nx
    level, noise = sky.at(y, x)
    level = level.astype(data.dtype)
    around = np.empty((len(NEIGHBOURS), len(index)), data.dtype)
    for row, (dy, dx) in zip(around, NEIGHBOURS, strict=True):
        place = index + (dy * nx + dx)
        np.subtract(flat[place], level, out=row)
        if bad is not None:
            row[bad.ravel()[place]] = np.nan
    return Bright(index, y, x, flat[index] - level, noise, around)


def grow(mask: NDArray[np.bool_], steps: int = 1) -> NDArray[np.bool_]:
    """The mask and the pixels around it, `steps` times."""
    for _ in range(steps):
        wide = mask.copy()
        wide[1:] |= mask[:-1]
        wide[:-1] |= mask[1:]
        mask = wide.copy()
        mask[:, 1:] |= wide[:, :-1]
        mask[:, :-1] |= wide[:, 1:]
    return mask
