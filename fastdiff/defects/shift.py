"""Whole pixels between two frames, from the tops of sources that both show.

Differences of position of the brightest tops of both frames pile up at the shift; those of tops
that have nothing to do with each other spread over all shifts. A pile counts where it holds a good
part of the tops, and where no other shift holds half as many, nor zero a third.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from .sky import Bright

__all__ = ["REACH", "Common", "Tops", "find_common", "find_tops"]

REACH = 10
"""Largest shift that is looked for, pixels."""

_TOPS = 200  # of a frame, the brightest
_BRIGHT = 8.0  # sigma
_SHARPEST = 0.2  # of its value next to a top, on both axes: less is no source but a cosmic ray
_CLOSE = 0.75  # pixels within which differences are one pile
_LEAST = 3  # tops of a pile
_PART = 0.35  # of the tops of the frame that has fewer, in the pile at least
_LEAVE = 0.75  # pixels that are left to the matching kernel


@dataclasses.dataclass(frozen=True)
class Tops:
    """Local maxima of a frame, the brightest first.

    Attributes
    ----------
    x, y : ndarray of float64
        0-based pixels, by a parabola.
    snr : ndarray of float64
        Value of the pixel in sigmas of the sky.
    axes, diagonals : ndarray of float64
        Mean of the two opposite neighbours over the pixel, on the axis and on the diagonal where
        it is less: how sharp the top is.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    snr: NDArray[np.float64]
    axes: NDArray[np.float64]
    diagonals: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Common:
    """What the tops of two frames have in common.

    Attributes
    ----------
    shift : tuple of float
        (dx, dy) in pixels from a source in ref to the same in sci; (0, 0) where none is sure.
    ref, sci : ndarray of int64
        Tops of each frame that stand at the same place, the shift apart.
    """

    shift: tuple[float, float]
    ref: NDArray[np.int64]
    sci: NDArray[np.int64]

    @property
    def whole(self) -> tuple[int, int]:
        """Whole pixels (dx, dy) by which ref is to be rolled; a kernel takes less than 0.75."""
        if max(abs(s) for s in self.shift) <= _LEAVE:
            return 0, 0
        dx, dy = (round(s) for s in self.shift)
        return dx, dy


def find_tops(bright: Bright) -> Tops:
    """Tops of the sources of a frame."""
    value, around = bright.value, bright.around
    some = np.flatnonzero(value > _BRIGHT * bright.noise)
    value, around = value[some], around[:, some]
    top = some[(around <= value).all(0)]  # none beside a bad pixel
    snr = bright.value[top] / np.maximum(bright.noise[top], 1e-30)
    top = top[np.argsort(-snr, kind="stable")[: 4 * _TOPS]]
    value, around = bright.value[top].astype(np.float64), bright.around[:, top].astype(np.float64)
    pairs = (around[0::2] + around[1::2]) / (2 * value)
    axes, diagonals = pairs[:2].min(0), pairs[2:].min(0)
    kept = np.flatnonzero(axes > _SHARPEST)[:_TOPS]
    top, value, around = top[kept], value[kept], around[:, kept]
    left, right, up, down = around[:4]
    with np.errstate(divide="ignore", invalid="ignore"):
        dx = 0.5 * (right - left) / (2 * value - left - right)
        dy = 0.5 * (down - up) / (2 * value - up - down)
    return Tops(
        bright.x[top] + np.nan_to_num(dx), bright.y[top] + np.nan_to_num(dy),
        value / np.maximum(bright.noise[top], 1e-30), axes[kept], diagonals[kept],
    )  # fmt: skip


def find_common(ref: Tops, sci: Tops) -> Common:
    """Shift between two frames, and the tops that both show."""
    dx, dy = (s[None] - r[:, None] for r, s in ((ref.x, sci.x), (ref.y, sci.y)))
    i, j = np.nonzero((np.abs(dx) < REACH + 1) & (np.abs(dy) < REACH + 1))
    dx, dy = dx[i, j], dy[i, j]
    least = max(_LEAST, _PART * min(len(ref.x), len(sci.x)))
    centre = (0.0, 0.0)
    if len(dx) >= least:
        votes = _neighbours(dx, dy, dx, dy)
        best = int(np.argmax(votes))
        here = np.hypot(dx - dx[best], dy - dy[best]) < _CLOSE
        found = float(dx[here].mean()), float(dy[here].mean())
        elsewhere = np.hypot(dx - found[0], dy - found[1]) > 2 * _CLOSE
        others = int(votes[elsewhere].max()) if elsewhere.any() else 0
        chance = len(dx) * np.pi * _CLOSE**2 / (2 * REACH + 2) ** 2
        still = int((np.hypot(dx, dy) < _CLOSE).sum())
        sure = votes[best] >= max(least, 5 * chance) and 2 * others <= votes[best]
        if sure and (np.hypot(*found) <= 2 * _CLOSE or 3 * still <= votes[best]):
            centre = found
    near = np.hypot(dx - centre[0], dy - centre[1]) < _CLOSE
    return Common(centre, i[near], j[near])


def _neighbours(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    at_x: NDArray[np.float64],
    at_y: NDArray[np.float64],
) -> NDArray[np.int64]:
    """How many points (x, y) lie around each of others."""
    from scipy.spatial import cKDTree

    tree = cKDTree(np.column_stack([x, y]))
    around = np.column_stack([at_x, at_y])
    number: NDArray[np.int64] = tree.query_ball_point(around, _CLOSE, return_length=True)
    return number
