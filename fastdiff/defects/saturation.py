"""Saturation that nobody told: a plateau in the histogram of the brightest pixels.

Below the peak of a source with a Gaussian core each step of ln(value) holds as many pixels as the
next, and more sources add to the fainter ones: the histogram of ln(value above the sky) falls.
Full wells, converters and clipping make it rise again to a plateau. Its pixels stand together at
the tops of stars, and these are exactly flat, or fall steeply at their edge, which no galaxy's core
does.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fastdiff.core.stats import mad_sigma

from .sky import Bright, grow

__all__ = ["Saturation", "find_saturation"]

_BRIGHT = 40.0  # sigma: fainter tops are not those of full wells
_BIN = 0.01  # of ln(value)
_WIDE, _BELOW = 4, 10  # bins of a plateau, and of what lies below it
_RISE = 3.0  # of the histogram to the plateau, at least
_LEAST_PIXELS = 10  # of a plateau
_ABOVE = 0.25  # pixels above the plateau for each of its own, at most: hot ones, cosmic rays
_TOPS = 20  # of stars that are looked at, the largest
_LONE_PIXELS = 20  # of the plateau of a single star, where it is not exactly flat
_UNEVEN = 1.09  # highest over lowest pixel of a plateau with noise, at most
_GROWTH = 2  # pixels
_FLAT = 5  # pixels that make a flat top: a star on a corner of four may show these alike


@dataclasses.dataclass(frozen=True)
class Saturation:
    """Saturated pixels of a frame.

    Attributes
    ----------
    level : float
        The plateau, in counts of the frame.
    mask : ndarray of bool, (ny, nx)
        Pixels on it or above, and those up to two pixels from them, which charge that spilled
        over may have reached.
    """

    level: float
    mask: NDArray[np.bool_]


def find_saturation(data: NDArray[np.floating], bright: Bright) -> Saturation | None:
    """Saturated pixels of a frame (ny, nx); None where there are none."""
    some = np.flatnonzero(bright.value > _BRIGHT * bright.noise)
    if len(some) < _LEAST_PIXELS:
        return None
    value = bright.value[some].astype(np.float64)
    raw = np.unique(data.ravel()[bright.index[some]])
    if len(raw) > 1:  # a bin is no narrower than a step of the numbers
        some = some[value > float(np.diff(raw).min()) / _BIN]
    if len(some) < _LEAST_PIXELS:
        return None
    value = bright.value[some].astype(np.float64)
    window = _plateau(value)
    if window is None:
        return None
    top = some[value >= window[0]]
    if not _is_saturated(data, bright, top):
        return None
    top = top[bright.value[top] < window[1]]
    level = data.ravel()[bright.index[top]].astype(np.float64)
    middle = float(np.median(level))
    spread = float(mad_sigma(level, middle))
    least = middle - min(5 * spread, 0.08 * float(np.median(bright.value[top])))
    mask = np.zeros(data.shape, bool)
    full = bright.index[some]
    mask.ravel()[full[data.ravel()[full] >= least]] = True
    # At the edge of a frame there is no list of bright pixels.
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        mask[edge] |= data[edge] >= least
    return Saturation(middle, grow(mask, _GROWTH))


def _plateau(value: NDArray[np.float64]) -> tuple[float, float] | None:
    """Lowest and highest value of the plateau; None where the histogram falls all the way."""
    low = np.log(value.min())
    count = np.bincount(((np.log(value) - low) / _BIN).astype(np.int64))
    total = np.concatenate([np.zeros(_BELOW + 1, np.int64), count, np.zeros(_WIDE, np.int64)])
    total = np.cumsum(total)
    first = np.arange(len(count)) + _BELOW + 1  # a plateau's bins begin here
    inside = total[first + _WIDE - 1] - total[first - 1]
    below = total[first - 2] - total[first - 1 - _BELOW]
    above = total[-1] - total[first + _WIDE - 1]
    found = (inside >= _LEAST_PIXELS) & (above <= _ABOVE * inside)
    found &= inside / _WIDE > _RISE * (below + 1) / (_BELOW - 1)
    if not found.any():
        return None
    start = int(np.flatnonzero(found)[np.argmax(inside[found])])
    return float(np.exp(low + start * _BIN)), float(np.exp(low + (start + _WIDE) * _BIN))


def _is_saturated(data: NDArray[np.floating], bright: Bright, top: NDArray[np.int64]) -> bool:
    """Whether pixels of a plateau are tops of stars."""
    from scipy import ndimage

    plane = np.zeros(data.shape, bool)
    plane.ravel()[bright.index[top]] = True
    labels, n = ndimage.label(plane, np.ones((3, 3)))
    label = labels.ravel()[bright.index[top]]
    size = np.bincount(label, minlength=n + 1)[1:]
    value = data.ravel()[bright.index[top]]
    steep, exact = [], 0
    for k in np.argsort(-size)[:_TOPS]:
        own = label == k + 1
        if size[k] < _FLAT:
            break
        y, x = bright.y[top[own]], bright.x[top[own]]
        high = value[own].max()
        if (value[own] == high).sum() >= max(_FLAT, size[k] / 2):
            exact += 1
        above = bright.value[top[own]]
        if above.max() > _UNEVEN * above.min():
            continue  # rises to a peak
        ring = _beyond(data, y, x) - (value[own][0] - above[0])
        # Half of the light is gone two pixels beyond the edge.
        if len(ring) and np.median(ring) < 0.5 * above.max():
            steep.append(size[k])
    return len(steep) > 1 or exact > 0 or sum(steep) >= _LONE_PIXELS


def _beyond(
    data: NDArray[np.floating], y: NDArray[np.int64], x: NDArray[np.int64]
) -> NDArray[np.floating]:
    """Values of the pixels two steps beyond some."""
    y0, x0 = max(y.min() - 3, 0), max(x.min() - 3, 0)
    box = data[y0 : y.max() + 4, x0 : x.max() + 4]
    own = np.zeros(box.shape, bool)
    own[y - y0, x - x0] = True
    ring = box[grow(own, 2) & ~grow(own)]
    finite: NDArray[np.floating] = ring[np.isfinite(ring)]
    return finite
