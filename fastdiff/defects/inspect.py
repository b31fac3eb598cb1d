"""All that is looked for in one frame, and in a pair of them."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

from .lines import find_lines
from .missing import Missing, find_missing
from .saturation import Saturation, find_saturation
from .sharp import find_sharp, measure_sharpness
from .shift import Common, Tops, find_common, find_tops
from .sky import Bright, Sky, bright_pixels, measure_sky

__all__ = ["InspectedFrame", "Sharp", "inspect_frame"]


@dataclasses.dataclass(frozen=True)
class Sharp:
    """Cosmic rays and hot pixels: `places` in the frame in reading order.

    `sampled` is whether the PSF is wide enough, 2 pixels, that they can be told from stars.
    """

    places: NDArray[np.int64]
    sampled: bool


@dataclasses.dataclass(frozen=True)
class InspectedFrame:
    """What one frame says about itself.

    Attributes
    ----------
    data : ndarray, (ny, nx)
    bad : ndarray of bool, (ny, nx), or None
        What was bad, what is missing, bad lines and what is saturated.
    missing : Missing or None
    lines : ndarray of bool, (ny, nx), or None
        Bad columns and rows.
    saturation : Saturation or None
    sky : Sky or None
        None without a good pixel.
    bright : Bright or None
    """

    data: NDArray[np.floating]
    bad: NDArray[np.bool_] | None
    missing: Missing | None
    lines: NDArray[np.bool_] | None
    saturation: Saturation | None
    sky: Sky | None
    bright: Bright | None

    @functools.cached_property
    def tops(self) -> Tops | None:
        """Of its sources; None without a good pixel."""
        return None if self.bright is None else find_tops(self.bright)

    def in_common(self, sci: InspectedFrame) -> Common | None:
        """The shift to another frame, of which this is the reference."""
        if self.tops is None or sci.tops is None:
            return None
        return find_common(self.tops, sci.tops)

    def sharp(self, common: NDArray[np.int64]) -> Sharp:
        """What is sharper than its PSF, which the tops `common` with another frame show."""
        if self.bright is None or self.tops is None:
            return Sharp(np.empty(0, np.int64), True)
        psf = measure_sharpness(self.tops, common)
        return Sharp(find_sharp(self.data, self.bright, psf), psf.sampled)


def inspect_frame(
    data: NDArray[np.floating], bad: NDArray[np.bool_] | None, *, saturation: bool = True
) -> InspectedFrame:
    """Look for missing pixels, bad lines and, if asked, saturation of a frame (ny, nx)."""
    missing = find_missing(data, bad)
    if missing is not None:
        bad = missing.mask if bad is None else bad | missing.mask
    sky = measure_sky(data, bad)
    if sky is None or not sky.noise.any():
        return InspectedFrame(data, bad, missing, None, None, sky, None)
    lines = find_lines(data, bad, float(np.median(sky.noise)))
    if lines is not None:
        bad = lines if bad is None else bad | lines
    bright = bright_pixels(data, bad, sky)
    full = find_saturation(data, bright) if saturation else None
    if full is not None:
        bad = full.mask if bad is None else bad | full.mask
        bright = bright_pixels(data, bad, sky)
    return InspectedFrame(data, bad, missing, lines, full, sky, bright)
