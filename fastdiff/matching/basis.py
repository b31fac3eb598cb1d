"""What a matching kernel is a sum of: basis functions, and polynomials of the place in the frame.

The basis functions are Gaussians times Hermite polynomials, which span the Gaussians times
polynomials of Alard & Lupton (1998, ApJ 503, 325), or single pixels (Bramich 2008, MNRAS 386, L77)
held together by a penalty on their roughness (Becker et al. 2012, MNRAS 425, 1341).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.kernels.image import gram

__all__ = [
    "FACTOR", "MAX_ORDER", "Basis", "deltas", "gaussians", "polynomial", "powers_up_to", "terms_at",
]  # fmt: skip

MAX_ORDER = 3
FACTOR = 2.0  # from one width to the next
_DEGREES = (3, 2, 2)  # of the polynomials on the middle, the narrow and the wide Gaussian


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
    out: NDArray[np.float32] = xp.zeros((len(v), nx), np.float32)
    for c, (i, j) in zip(coefficients, powers_up_to(MAX_ORDER), strict=False):
        out += xp.outer(v**j, c * u**i).astype(np.float32)
    return out


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
        return int(self.taps.shape[1])

    @functools.cached_property
    def images(self) -> NDArray[np.float64]:
        """(n, size, size)"""
        taps = self.taps.astype(np.float64)
        return taps[self.products[:, 0], :, None] * taps[self.products[:, 1], None, :]

    @functools.cached_property
    def sums(self) -> NDArray[np.float64]:
        """Sums of the functions over that of the carrier; 0 for the carrier itself."""
        sums: NDArray[np.float64] = self.images.sum((1, 2))
        sums /= sums[self.carrier]
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
    taps: list[NDArray[np.float64]] = []
    products: list[tuple[int, int]] = []
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
