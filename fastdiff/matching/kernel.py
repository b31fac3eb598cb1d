"""The kernel that matches the PSF of one image to that of another.

It is a sum of basis functions whose coefficients are polynomials of the place in the frame.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .basis import MAX_ORDER, powers_up_to, terms_at

if TYPE_CHECKING:
    from astropy.io.fits import ImageHDU

__all__ = ["MatchingKernel"]


@dataclasses.dataclass(frozen=True, repr=False)
class MatchingKernel:
    r"""Kernel that matches the PSF of one image of a pair to that of the other.

    ``kernel(x, y)`` is the kernel at a pixel, an array (size, size) by which the image
    `convolved` is convolved there: :math:`K(x, y) = \sum_{ij} u^i v^j K_{ij}` with u and v from
    -1 at the first to 1 at the last column and row.

    Attributes
    ----------
    components : ndarray of float64, (n_terms, size, size)
        The :math:`K_{ij}`, by rising i + j, then by rising j: `powers` lists (i, j).
    background : ndarray of float64, (n,)
        Coefficients, in the same order, of the background that is added to the convolved image:
        counts of the image that is not convolved, beside both skies in `skies`.
    shape : tuple of int
        (ny, nx) of the frame.
    convolved : {"ref", "sci"}
        Image that is to be convolved.
    skies : tuple of float
        Levels that are taken off the convolved and the other image first.
    """

    components: NDArray[np.float64]
    background: NDArray[np.float64]
    shape: tuple[int, int]
    convolved: Literal["ref", "sci"]
    skies: tuple[float, float]

    def __repr__(self) -> str:
        size, middle = self.components.shape[1], [(n - 1) / 2 for n in self.shape[::-1]]
        return (
            f"<MatchingKernel of {self.convolved}: {size} x {size} pixels, order "
            f"{sum(self.powers[-1])}, sum {self.sum(*middle):.5g} in the middle of the frame>"
        )

    @property
    def powers(self) -> tuple[tuple[int, int], ...]:
        """(i, j) of each component."""
        return powers_up_to(MAX_ORDER)[: len(self.components)]

    def terms(self, x: Any, y: Any) -> NDArray[np.float64]:
        """(..., n_terms): factors of the components at pixels (x, y)."""
        return terms_at(x, y, MAX_ORDER, self.shape)[..., : len(self.components)]

    def __call__(self, x: float, y: float) -> NDArray[np.float64]:
        """Kernel at pixel (x, y), (size, size)."""
        return np.tensordot(self.terms(x, y), self.components, 1)

    def sum(self, x: Any, y: Any) -> Any:
        """Sum of the kernel at pixels (x, y)."""
        return self.terms(x, y) @ self.components.sum((1, 2))

    def scale(self, x: Any, y: Any) -> Any:
        """Flux in the science image over flux in the reference of a source at (x, y)."""
        return self.sum(x, y) if self.convolved == "ref" else 1 / self.sum(x, y)

    def to_hdu(self) -> ImageHDU:
        """FITS image of the components, with what is needed to use them in the header."""
        from astropy.io import fits

        hdu = fits.ImageHDU(self.components, name="KERNEL")
        cards = {
            "CONVOLVE": (self.convolved, "convolved by sum of u^PX v^PY plane"),
            "KNAXIS1": (self.shape[1], "u = 2 x / (KNAXIS1 - 1) - 1, x from 0"),
            "KNAXIS2": (self.shape[0], "v = 2 y / (KNAXIS2 - 1) - 1, y from 0"),
            "SKYCONV": (self.skies[0], "sky of the convolved image"),
            "SKYOTHER": (self.skies[1], "sky of the other image"),
        }
        for name, card in cards.items():
            hdu.header[name] = card
        for k, (i, j) in enumerate(self.powers, 1):
            hdu.header[f"PX{k}"], hdu.header[f"PY{k}"] = i, j
        for k, value in enumerate(self.background, 1):
            hdu.header[f"BACK{k}"] = (value, "background, term of u^PX v^PY")
        return hdu
