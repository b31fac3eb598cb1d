"""Pixels of a batch of image pairs, and which of them are bad.

A pixel is bad where it is NaN or infinite, above 1e30 in magnitude (squares would overflow), or
marked True in a mask. One reference may serve all science images, and one mask all images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import jit

LIMIT = 1e30
"""Magnitude above which a pixel is bad."""


@jit.item
def is_bad(value, masked):
    """Whether a pixel is unusable; written so that NaN fails the comparison."""
    return masked | (not (abs(value) <= LIMIT))


@jit.item
def row_index(planes, frame, y):
    """Index of row y of a frame; a lone plane serves all frames, a lone row all rows.

    It returns an index and no row, because a function on a GPU cannot return an array.
    """
    return min(frame, planes.shape[0] - 1), min(y, planes.shape[1] - 1)


class Pixels(NamedTuple):
    """Reference and science images on one pixel grid, with the masks of their bad pixels.

    Arrays are in C order, all of NumPy or all of CuPy. The compiled loops take every field as an
    array: `with_masks` puts one row of False where there is no mask.
    """

    refs: np.ndarray
    """(n, ny, nx), or (1, ny, nx) for all science images; float32 or float64, counts."""
    scis: np.ndarray
    """(n, ny, nx), of the same dtype."""
    bad_refs: np.ndarray | None = None
    """(n, ny, nx), or (1, ny, nx) for all; bool, True = bad."""
    bad_scis: np.ndarray | None = None

    def with_masks(self) -> Pixels:
        """The same pixels; a missing mask is a row without a bad pixel, (1, 1, nx)."""
        masks = self.bad_refs, self.bad_scis
        if masks[0] is None or masks[1] is None:
            none = np.zeros_like(self.scis, np.bool_, shape=(1, 1, self.scis.shape[2]))
            masks = (none if mask is None else mask for mask in masks)
        return Pixels(self.refs, self.scis, *masks)

    def part(self, first: int, last: int) -> Pixels:
        """Frames first <= i < last; what serves all frames stays whole."""
        return Pixels(
            *(each if each is None or len(each) == 1 else each[first:last] for each in self)
        )
