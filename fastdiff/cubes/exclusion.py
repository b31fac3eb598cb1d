"""Which pixels may predict a pixel: those that are far enough from it (the paper, section 2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["EXCLUSION", "allowed_by", "default_exclusion", "exclusion_around", "steps"]

EXCLUSION = (10, 16.0)  # section 2: rows and columns, and pixels of distance
_CLOSEST = 3.0  # pixels from an aperture: the PSFs of Kepler, K2 and TESS end there
_ENOUGH = 50  # predictors, or half of the pixels, that a small field must allow


def steps(exclusion: tuple[int, float], shape: tuple[int, int]) -> NDArray[np.int64]:
    """(n, 2) of (y, x): steps from a target to its possible predictors, the closest first."""
    rows, distance = exclusion
    ny, nx = shape
    dy, dx = np.mgrid[1 - ny : ny, 1 - nx : nx]
    square = dy**2 + dx**2
    allowed = (abs(dy) > rows) & (abs(dx) > rows) & (square >= distance**2) & (square > 0)
    found = np.stack([dy[allowed], dx[allowed]], axis=1)
    return found[np.argsort(square[allowed], kind="stable")].astype(np.int64)


def default_exclusion(wanted: int, shape: tuple[int, int]) -> tuple[int, float]:
    """The paper's, lowered for small fields: first the rows and columns, then the distance."""
    if 0 in shape:
        return EXCLUSION
    enough = min(wanted, _ENOUGH, shape[0] * shape[1] // 2)
    rows, distance = EXCLUSION
    while distance > 1 and _fewest(rows, distance, shape) < enough:
        # Pixels of the same rows and columns share more of what the detector does than of the star.
        if rows >= 0:
            rows -= 1
        else:
            distance = round(0.9 * distance, 1)
    return rows, distance


def _fewest(rows: int, distance: float, shape: tuple[int, int]) -> int:
    """Predictors of the pixel in the middle, which has the fewest."""
    (ny, nx), y, x = shape, shape[0] // 2, shape[1] // 2
    dy, dx = abs(np.arange(ny) - y)[:, None], abs(np.arange(nx) - x)[None]
    square = dy**2 + dx**2
    return int(((dy > rows) & (dx > rows) & (square >= distance**2) & (square > 0)).sum())


def allowed_by(
    ys: NDArray[np.int64], xs: NDArray[np.int64], exclusion: tuple[int, float],
    shape: tuple[int, int],
) -> NDArray[np.bool_]:  # fmt: skip
    """(ny, nx): pixels that may predict each of the pixels (ys, xs)."""
    rows, distance = exclusion
    y, x = np.indices(shape)
    allowed = np.ones(shape, bool)
    for of_y, of_x in zip(ys, xs, strict=True):
        dy, dx = np.abs(y - of_y), np.abs(x - of_x)
        square = dy**2 + dx**2
        allowed &= (dy > rows) & (dx > rows) & (square >= distance**2) & (square > 0)
    return allowed


def exclusion_around(
    ys: NDArray[np.int64], xs: NDArray[np.int64], exclusion: tuple[int, float], wanted: int,
    shape: tuple[int, int],
) -> tuple[int, float]:  # fmt: skip
    """The exclusion of pixels, lowered for an aperture, but not into the wings of its star."""
    enough = min(wanted, _ENOUGH, shape[0] * shape[1] // 2)
    rows, distance = exclusion
    while distance > _CLOSEST and allowed_by(ys, xs, (rows, distance), shape).sum() < enough:
        if rows >= 0:
            rows -= 1
        else:
            distance = max(round(0.9 * distance, 1), _CLOSEST)
    return rows, distance
