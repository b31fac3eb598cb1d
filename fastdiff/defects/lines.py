"""Columns and rows of a detector that differ from their neighbours over a long way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["find_lines"]

_SEGMENT = 64  # pixels along a line
_STEP = 2  # between those of them that are looked at
_CLIP = 2.0  # sigma of a pixel, so that no source rules a segment
_OFF = 1.0  # sigma of the mean of clipped pixels, from which a segment is off
_OFF_BESIDE = 0.4  # the same beside one that is off: a line may begin within it
_MOST = 0.02  # of the lines: more are the way in which the detector is read, and no defect


def find_lines(
    data: NDArray[np.floating], bad: NDArray[np.bool_] | None, noise: float
) -> NDArray[np.bool_] | None:
    """Pixels of bad columns and rows; None where there are none.

    Parameters
    ----------
    data : ndarray, (ny, nx)
    bad : ndarray of bool, (ny, nx), or None
    noise : float
        Of a pixel of the sky.

    Notes
    -----
    A charge trap, or a column of another gain, is one pixel wide and off by about the same amount
    over hundreds of rows. Two segments of 64 pixels in a row that differ from the lines two pixels
    to either side make a line; no unsaturated star is so long.
    """
    mask: NDArray[np.bool_] | None = None
    for axis in (0, 1):
        some = data[::_STEP] if axis == 0 else data[:, ::_STEP]
        lines = np.ascontiguousarray(some if axis == 0 else some.T, dtype=np.float32)
        if bad is not None:
            hidden = bad[::_STEP] if axis == 0 else bad[:, ::_STEP].T
            lines = np.where(hidden, np.float32(np.nan), lines)
        off = _segments_off(lines, noise)
        if off is None:
            continue
        long = np.repeat(off, _SEGMENT, axis=0)
        rest = data.shape[axis] - len(long)
        long = np.pad(long, ((0, rest), (0, 0)), mode="edge")
        long = long if axis == 0 else long.T
        mask = long if mask is None else mask | long
    return mask


def _segments_off(lines: NDArray[np.float32], noise: float) -> NDArray[np.bool_] | None:
    """(segments, lines): which are off; the lines are columns of the array."""
    samples = _SEGMENT // _STEP
    n = len(lines) // samples
    if n < 2 or lines.shape[1] < 2 * _SEGMENT or not noise > 0:
        return None
    left, right = (lines[:, 2:-2] - beside for beside in (lines[:, :-4], lines[:, 4:]))
    # The lesser of both where they have one sign: a step is none, nor is what is beside a line.
    excess = np.maximum(np.minimum(left, right), 0) + np.minimum(np.maximum(left, right), 0)
    excess = excess[: n * samples]
    limit = np.float32(_CLIP * noise)
    np.clip(excess, -limit, limit, out=excess)
    np.nan_to_num(excess, copy=False, nan=0.0)
    mean = excess.reshape(n, samples, -1).mean(1) / np.float32(noise)
    found = np.zeros((n, lines.shape[1]), bool)
    for sign in (1, -1):
        off = sign * mean > _OFF
        pairs = off[1:] & off[:-1]
        long = np.zeros_like(off)
        long[1:] |= pairs
        long[:-1] |= pairs
        near = sign * mean > _OFF_BESIDE
        long[1:] |= near[1:] & long[:-1]
        long[:-1] |= near[:-1] & long[1:]
        found[:, 2:-2] |= long
    return found if 0 < found.any(0).mean() <= _MOST else None
