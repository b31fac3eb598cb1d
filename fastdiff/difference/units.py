"""Units far from counts: images are scaled by a power of two, and what comes out is scaled back.

A power of two changes the exponent of a floating-point number and none of its digits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.matching.frames import Frames
from fastdiff.matching.kernel import MatchingKernel

from .result import MAPS

__all__ = ["UnitScales", "units_of"]

_LEAST, _MOST = 2.0**-10, 2.0**20  # of the noise of a pixel, between which nothing is scaled
_APART = 2.0**10  # of the noise of ref and sci, beyond which each has a scale of its own
_EXPONENT = 120  # that float32 has, nearly
_COUNTS = ("sky", "sky_noise")  # of the science image, in `Difference.meta`


@dataclasses.dataclass(frozen=True)
class UnitScales:
    """Powers of two, by which the images of a batch are multiplied for the work on them."""

    ref: int = 0
    sci: int = 0

    @property
    def factors(self) -> tuple[float, float]:
        """Of the references and of the science images."""
        return 2.0**self.ref, 2.0**self.sci

    def applied(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a method as they are in the scaled units."""
        scaled = dict(options)
        if self == UnitScales():
            return scaled
        ref, sci = self.factors
        if scaled.get("scale") is not None:
            scaled["scale"] = np.asarray(scaled["scale"], np.float64) * (sci / ref)
        gain = scaled.get("gain")
        if gain is not None:
            one = np.isscalar(gain)
            scaled["gain"] = gain / sci if one else np.asarray(gain) / [ref, sci]
        return scaled

    def undo(self, frames: Frames, meta: dict[str, Any]) -> None:
        """Scale the results back, in place."""
        if self == UnitScales():
            return
        ref, sci = self.factors
        names = [name for name in MAPS if name != "significance"]
        extras = [frames.extras.get(name) for name in names]
        for plane in (frames.image, frames.noise, *extras):
            if plane is not None:
                np.multiply(plane, np.float32(1 / sci), out=plane)
        for name in _COUNTS:
            if name in meta:
                meta[name] = meta[name] / sci
        if "scale" in meta:
            meta["scale"] = (meta["scale"] * np.float64(ref / sci)).astype(np.float32)
        kernels = frames.extras.get("kernel")
        if kernels is not None:
            frames.extras["kernel"] = [kernel and self._of_counts(kernel) for kernel in kernels]

    def _of_counts(self, kernel: MatchingKernel) -> MatchingKernel:
        """The kernel between images that were not scaled."""
        own, other = self.factors if kernel.convolved == "ref" else self.factors[::-1]
        return dataclasses.replace(
            kernel, components=kernel.components * (own / other),
            background=kernel.background / other,
            skies=(kernel.skies[0] / own, kernel.skies[1] / other),
        )  # fmt: skip


def units_of(noise_ref: float, noise_sci: float) -> UnitScales:
    """Scales for images of a noise; ordinary ones are left alone."""
    known = [noise for noise in (noise_ref, noise_sci) if 0 < noise < np.inf]
    if all(_LEAST <= noise <= _MOST for noise in known):
        return UnitScales()
    ref, sci = (noise if 0 < noise < np.inf else known[0] for noise in (noise_ref, noise_sci))
    exponents = [int(np.clip(-np.round(np.log2(n)), -_EXPONENT, _EXPONENT)) for n in (ref, sci)]
    if 1 / _APART <= ref / sci <= _APART:
        exponents[0] = exponents[1]
    return UnitScales(*exponents)


def scaled(plane: NDArray[Any], exponent: int, power: int = 1) -> NDArray[Any]:
    """A plane times 2**exponent; of its variance with power 2. Zero changes nothing."""
    for _ in range(power if exponent else 0):
        # Twice, because the square of a factor may be beyond float32.
        plane = plane * arrays.namespace(plane).asarray(2.0**exponent, plane.dtype)
    return plane
