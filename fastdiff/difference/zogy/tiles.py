"""Images above their sky, tiles of a frame, and the Fourier space of a tile, for ZOGY.

What is called `xp` is `numpy`, or `cupy` for arrays on a GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.stars.find import Stars, find_stars
from fastdiff.stars.psf import normed

__all__ = [
    "SIGNIFICANT", "Filters", "Space", "ZogyImage", "ZogyTile", "extra_variance", "fast_length",
    "local_sigma", "prepare", "signal_of", "transfer", "unknown_pixels",
]  # fmt: skip

SIGNIFICANT = 5.0  # sigma: pixels below hold no source
_STARS_OF_A_TILE = 100  # that are looked for
_CLIPPED = 0.9866  # standard deviation of a Gaussian cut at 3 sigma, as sep does
_SIDE = 512  # pixels of a frame for which that many stars are looked for


# ------------------------------------------------------------------------ images and tiles


@dataclasses.dataclass
class ZogyTile:
    """Rows y0 to y1 and columns x0 to x1 of a frame."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def middle(self) -> tuple[float, float]:
        """Column x and row y of its middle."""
        return (self.x0 + self.x1 - 1) / 2, (self.y0 + self.y1 - 1) / 2

    @property
    def inside(self) -> tuple[slice, slice]:
        """Its pixels in the frame."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)


@dataclasses.dataclass
class ZogyImage:
    """An image above its sky, bad pixels filled, in the memory of the CPU unless `on` a GPU."""

    data: NDArray[np.float32]
    blank: NDArray[np.bool_]
    variance: NDArray[Any] | None
    sky: float
    sigma: float
    stars: Stars | None = None

    @property
    def constant(self) -> bool:
        """Whether it shows nothing, not even noise."""
        return not self.data.any()

    def on(self, xp: Any) -> ZogyImage:
        """The image in arrays of `xp`."""
        if xp is np:
            return self
        planes = {"data": self.data, "blank": self.blank, "variance": self.variance}
        there: dict[str, Any] = {
            name: None if plane is None else xp.asarray(plane) for name, plane in planes.items()
        }
        return dataclasses.replace(self, **there)

    def find_stars(self) -> Stars:
        """Its stars, looked for once."""
        if self.stars is None:
            wanted = max(500, _STARS_OF_A_TILE * self.data.size // _SIDE**2)
            self.stars = find_stars(
                self.data, self.blank, sky=0.0, sigma=self.sigma, max_stars=wanted
            )
        return self.stars


def prepare(images: Any, bad: Any, variances: Any, i: int) -> ZogyImage:
    """Image `i` of a batch, or the one that serves all."""
    import sep

    image, bad, variance = (
        None if stack is None else arrays.on_host(stack[min(i, len(stack) - 1)])
        for stack in (images, bad, variances)
    )
    data = np.array(image, dtype=np.float32)
    blank = ~(np.abs(data) <= 1e30)
    if bad is not None:
        blank |= bad
    if blank.all():
        return ZogyImage(data, blank, variance, np.nan, np.nan)
    some = blank.any()
    if some:
        np.copyto(data, 0, where=blank)
    good = data[~blank] if some else data
    if good.min() == good.max():
        return ZogyImage(np.zeros_like(data), blank, variance, float(good.flat[0]), 0.0)
    # In mesh cells of 64 pixels that have no good pixel sep interpolates.
    background = sep.Background(data, mask=blank if some else None)
    background.subfrom(data)
    sigma = float(background.globalrms) / _CLIPPED
    if variance is not None:
        inside = variance[~blank]
        sigma = float(np.sqrt(np.median(inside))) if len(inside) else sigma
    # An image without noise would make its filter singular.
    sigma = max(sigma, 1e-5 * float(np.abs(data).max()))
    if some:
        _fill(data, blank)
    return ZogyImage(data, blank, variance, float(background.globalback), sigma)


def _fill(data: NDArray[np.float32], blank: NDArray[np.bool_]) -> None:
    """Give bad pixels the mean of the good ones around them, weights a Gaussian of 2 pixels."""
    from scipy.ndimage import gaussian_filter

    np.copyto(data, 0, where=blank)
    weight = gaussian_filter((~blank).astype(np.float32), 2.0, truncate=3.0)
    mean = gaussian_filter(data, 2.0, truncate=3.0) / np.maximum(weight, 1e-3)
    np.copyto(data, mean, where=blank)


def local_sigma(image: ZogyImage, tile: ZogyTile) -> float:
    """Noise of the sky in a tile."""
    if image.variance is None:
        return image.sigma
    part = image.variance[tile.inside][~image.blank[tile.inside]]
    sigma = float(np.sqrt(np.median(part))) if len(part) else image.sigma
    return sigma if sigma > 0 else image.sigma


# ------------------------------------------------------------------------ Fourier space


def transfer(kernel: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.complex64]:
    """Real transform on `shape` of a kernel whose middle pixel goes to the origin."""
    xp, fft = arrays.namespace(kernel), arrays.scipy_of(kernel, "fft")
    half_y, half_x = kernel.shape[0] // 2, kernel.shape[1] // 2
    rows = fft.rfft(kernel.astype(np.float32), n=shape[1], axis=1)
    rows *= xp.exp(2j * np.pi * half_x / shape[1] * xp.arange(rows.shape[1])).astype(np.complex64)
    padded = xp.zeros((shape[0], rows.shape[1]), np.complex64)
    padded[: kernel.shape[0] - half_y] = rows[half_y:]
    padded[shape[0] - half_y :] = rows[:half_y]
    # CuPy's comes in the order of Fortran, in which products with others are slow.
    made: NDArray[np.complex64] = xp.ascontiguousarray(fft.fft(padded, axis=0, overwrite_x=True))
    return made


class Filters:
    """Transforms, on one shape, of what N and R go through, and of P_D."""

    def __init__(
        self, psf_r: Any, psf_n: Any, sigma_r: float, sigma_n: float, a: float,
        shape: tuple[int, ...],
    ):  # fmt: skip
        self.shape, self.xp = shape, arrays.namespace(psf_r)
        ref, sci = transfer(psf_r, shape), transfer(psf_n, shape)
        # Relative to the white variance; the floor keeps 0 / 0 out, far below what is seen.
        white = sigma_n**2 + a**2 * sigma_r**2
        part = np.float32(sigma_n**2 / white)
        weight = part * (ref.real**2 + ref.imag**2)
        weight += (1 - part) * (sci.real**2 + sci.imag**2)
        weight += np.float32(1e-13)
        self.xp.sqrt(weight, out=weight)
        self.xp.reciprocal(weight, out=weight)
        self.psf = ref * sci
        self.psf *= weight
        ref *= weight
        sci *= weight * np.float32(a)
        self.sci, self.ref = ref, sci  # N goes through the PSF of R, and R through that of N

    def energy(self) -> float:
        """Sum of P_D²."""
        return float((self._real(self.psf) ** 2).sum())

    def kernels(self, energy: float) -> list[NDArray[np.float32]]:
        """Filters from N and R to D, then to the flux, middle pixel in the middle."""
        match = self.psf.conj() * np.float32(1 / energy)
        return [self._real(each) for each in
                (self.sci, self.ref, self.sci * match, self.ref * match)]  # fmt: skip

    def difference_psf(self, size: int) -> NDArray[np.float64]:
        """P_D in size x size pixels."""
        psf = arrays.on_host(self._real(self.psf)).astype(np.float64)
        middle, half = psf.shape[0] // 2, size // 2
        return normed(psf[middle - half : middle + half + 1, middle - half : middle + half + 1])

    def photons(self, kernels: Sequence[NDArray[Any]], psf: Any) -> NDArray[np.float64]:
        """Of a source in N, its light through the squared filters: to D, relative to the light
        of the pixel, and to the flux, relative to the flux.
        """
        through = transfer(kernels[2] ** 2, self.shape) * transfer(psf, self.shape)
        middle = self.shape[0] // 2
        of_flux = self._real(through)[middle, middle]
        return np.array([float((kernels[0] ** 2).sum()), float(of_flux)])

    def _real(self, transform: NDArray[Any]) -> NDArray[np.float32]:
        fft = arrays.scipy_of(transform, "fft")
        image: NDArray[np.float32] = self.xp.fft.fftshift(fft.irfft2(transform, s=self.shape))
        return image


class Space:
    """Fourier space of a tile that overlaps its neighbours by `reach` pixels."""

    def __init__(self, tile: ZogyTile, reach: int, xp: Any):
        self.xp = xp
        self.shape = tuple(fast_length(n + 2 * reach) for n in tile.shape)
        self.window = tuple(slice(reach, reach + n) for n in tile.shape)
        self.rows, self.columns = (
            xp.arange(n) + begin - reach
            for n, begin in zip(self.shape, (tile.y0, tile.x0), strict=True)
        )

    def cut(self, image: NDArray[Any]) -> NDArray[Any]:
        """The tile and what surrounds it; mirrored beyond the frame."""
        ny, nx = image.shape
        rows, columns = _mirrored(self.rows, ny), _mirrored(self.columns, nx)
        return image.take(rows, axis=0).take(columns, axis=1)

    def beyond(self, image: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Which of these pixels are beyond the frame; None for nowhere."""
        rows, columns = (
            (index < 0) | (index >= n)
            for index, n in zip((self.rows, self.columns), image.shape, strict=True)
        )
        return rows[:, None] | columns if rows.any() or columns.any() else None

    def forward(self, image: NDArray[np.float32]) -> NDArray[np.complex64]:
        """Transform; the image may be lost."""
        fft = arrays.scipy_of(image, "fft")
        transform: NDArray[np.complex64] = fft.rfft2(image, overwrite_x=True)
        return transform

    def back_all(self, transform: NDArray[np.complex64]) -> NDArray[np.float32]:
        """Image of the tile and what surrounds it; the transform may be lost."""
        fft = arrays.scipy_of(transform, "fft")
        image: NDArray[np.float32] = fft.irfft2(transform, s=self.shape, overwrite_x=True)
        return image

    def back(self, transform: NDArray[np.complex64]) -> NDArray[np.float32]:
        """Image of the tile; the transform may be lost."""
        return self.back_all(transform)[self.window]


def fast_length(n: int) -> int:
    """The next length whose transform is fast."""
    from scipy import fft

    return int(fft.next_fast_len(n, real=True))


def _mirrored(index: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Indices mirrored at the edges of range(n)."""
    index = index % (2 * n)
    mirrored: NDArray[np.int64] = arrays.namespace(index).minimum(index, 2 * n - 1 - index)
    return mirrored


def extra_variance(
    image: ZogyImage, space: Space, sigma: float, gain: float | None
) -> NDArray[np.float32] | None:
    """Variance above sigma²; None where nothing is known of it."""
    extra: NDArray[np.float32]
    if image.variance is not None:
        extra = space.cut(image.variance).astype(np.float32) - np.float32(sigma**2)
        known = space.xp.isfinite(extra) & ~space.cut(image.blank)
        extra = space.xp.where(known, extra, np.float32(0))
    elif gain is not None:
        light = space.cut(image.data)
        bright = light > np.float32(3 * sigma)
        extra = space.xp.where(bright, light / np.float32(gain), np.float32(0))
    else:
        return None
    return extra


def signal_of(image: ZogyImage, space: Space) -> NDArray[np.float32]:
    """The image; beyond the frame sources are mirrored, but not the noise: it would count twice."""
    signal, beyond = space.cut(image.data), space.beyond(image.data)
    if beyond is not None:
        faint = space.xp.abs(signal) < np.float32(SIGNIFICANT * image.sigma)
        space.xp.copyto(signal, 0, where=beyond & faint)
    return signal


def unknown_pixels(ref: ZogyImage, sci: ZogyImage, space: Space) -> NDArray[np.bool_] | None:
    """Pixels that were filled in, or are beyond the frame; None for nowhere."""
    unknown = space.cut(ref.blank) | space.cut(sci.blank)
    beyond = space.beyond(ref.data)
    if beyond is not None:
        unknown |= beyond
    return unknown if unknown.any() else None
