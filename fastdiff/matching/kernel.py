"""The kernel that matches the PSF of one image to that of another, and what it is made of.

A kernel is a sum of basis functions whose coefficients are polynomials of the place in the frame:
Gaussians times Hermite polynomials, which span the Gaussians times polynomials of Alard & Lupton
(1998, ApJ 503, 325), or single pixels (Bramich 2008, MNRAS 386, L77) held together by a penalty on
their roughness (Becker et al. 2012, MNRAS 425, 1341).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastdiff.kernels.image import gram

if TYPE_CHECKING:
    from astropy.io.fits import ImageHDU

__all__ = [
    "FACTOR", "MAX_ORDER", "Basis", "MatchingKernel", "deltas", "gaussians", "polynomial",
    "powers_up_to", "terms_at",
]  # fmt: skip

MAX_ORDER = 3
FACTOR = 2.0  # from one width to the next
_DEGREES = (3, 2, 2)  # of the polynomials on the middle, the narrow and the wide Gaussian


# ------------------------------------------------------------------------ polynomials


@functools.cache
def powers_up_to(order: int) -> tuple[tuple[int, int], ...]:
    """Powers of (x, y) of the terms of a polynomial; those of a lower order come first."""
    return tuple((n - j, j) for n in range(order + 1) for j in range(n + 1))


def terms_at(x: Any, y: Any, order: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """(..., n_terms): terms of a polynomial at pixels (x, y), which go from -1 to 1."""
    u = 2 * np.asarray(x, np.float64) / max(shape[1] - 1, 1) - 1
    v = 2 * np.asarray(y, np.float64) / max(shape[0] - 1, 1) - 1
    return np.stack([u**i * v**j for i, j in powers_up_to(order)], axis=-1)


def polynomial(
    coefficients: NDArray[np.float64], band: slice, shape: tuple[int, int], xp: Any = np
) -> NDArray[np.float32]:
    """Polynomial at all pixels of a band of rows, in arrays of `xp`."""
    ny, nx = shape
    u = 2 * xp.arange(nx) / max(nx - 1, 1) - 1
    v = 2 * xp.arange(band.start, band.stop) / max(ny - 1, 1) - 1
    out = xp.zeros((len(v), nx), np.float32)
    for c, (i, j) in zip(coefficients, powers_up_to(MAX_ORDER), strict=False):
        out += xp.outer(v**j, c * u**i).astype(np.float32)
    return out


# ------------------------------------------------------------------------ the kernel


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


# ------------------------------------------------------------------------ basis functions


@dataclasses.dataclass(frozen=True)
class Basis:
    """Basis functions: products of taps. `carrier` is the one with the kernel's sum."""

    taps: NDArray[np.float32]
    """(n_taps, size) in the order of a convolution."""
    products: NDArray[np.int64]
    carrier: int
    roughness: NDArray[np.float64] | None = None
    """Quadratic form of what the kernel is penalised for, on raw coefficients."""

    @property
    def size(self) -> int:
        """Side of the kernel, pixels."""
        return self.taps.shape[1]

    @functools.cached_property
    def images(self) -> NDArray[np.float64]:
        """(n, size, size)"""
        taps = self.taps.astype(np.float64)
        return taps[self.products[:, 0], :, None] * taps[self.products[:, 1], None, :]

    @functools.cached_property
    def sums(self) -> NDArray[np.float64]:
        """Sums of the functions over that of the carrier; 0 for the carrier itself."""
        sums = self.images.sum((1, 2))
        sums = sums / sums[self.carrier]
        sums[self.carrier] = 0
        return sums

    @functools.cached_property
    def turned(self) -> NDArray[np.float32]:
        """Taps in the order of a correlation, with zeros to a multiple of the group."""
        n, size = self.taps.shape
        out = np.zeros((n, -(-size // gram.GROUP) * gram.GROUP), np.float32)
        out[:, :size] = self.taps[:, ::-1]
        return out


def gaussians(sigma: float, size: int) -> Basis:
    """Gaussians of `sigma` (the carrier), narrower and wider, times Hermite polynomials."""
    t = np.arange(size) - size // 2
    taps, products = [], []
    for width, degree in zip((sigma, sigma / FACTOR, sigma * FACTOR), _DEGREES, strict=True):
        first = len(taps)
        for n in range(degree + 1):
            hermite = np.polynomial.hermite_e.hermeval(t / width, np.eye(degree + 1)[n])
            row = hermite * np.exp(-0.5 * (t / width) ** 2)
            taps.append(row / np.abs(row).sum())
        products += [
            (first + down, first + across)
            for across in range(degree + 1)
            for down in range(degree + 1 - across)
        ]
    return Basis(np.array(taps, np.float32), np.array(products, np.int64), 0)


def deltas(size: int) -> Basis:
    """Single pixels; roughness is the sum of squared second differences (Becker et al., eq. 9)."""
    index = np.arange(size)
    products = np.stack([np.tile(index, size), np.repeat(index, size)], axis=1)
    # Second differences with zeros around: the kernel is to end smoothly.
    line = np.diff(np.eye(size + 4), 2, axis=0)[:, 2:-2]
    second, identity = line.T @ line, np.eye(size)
    down, across = products.T
    roughness = (
        second[down[:, None], down] * identity[across[:, None], across]
        + identity[down[:, None], down] * second[across[:, None], across]
    )
    middle = (size // 2) * size + size // 2
    return Basis(np.eye(size, dtype=np.float32), products, middle, roughness)
