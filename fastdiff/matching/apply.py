"""A pair of images with the kernel that matches them: difference, noise, fluxes of point sources.

Pixel work goes band by band of rows, in blocks of which each has one squared kernel. It is done
where the images lie; stars are looked for in the memory of the CPU.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.kernels.image import convolve as blocks
from fastdiff.kernels.image import tile
from fastdiff.stars.find import (
    ASSUMED_FWHM,
    Stars,
    adaptive_moments,
    find_stars,
    fwhm_of,
    measure_psf,
    moffat,
)

from .kernel import MatchingKernel, polynomial, powers_up_to, terms_at

if TYPE_CHECKING:
    from fastdiff.matching.frames import Frames

__all__ = [
    "ENOUGH_STARS", "SIGMA_OF_FWHM", "STAMPS_PER_TERM", "Image", "NoFit", "Pair", "calibrate",
    "load", "middles", "seen_through", "windows",
]  # fmt: skip

ENOUGH_STARS = 8  # with fewer, all pixels are fitted
SIGMA_OF_FWHM = 1 / 2.3548  # of a Gaussian of FWHM 1
STAMPS_PER_TERM = 4  # that each term of a polynomial needs
_MAX_STARS = 500  # that are looked at
_INFLUENCE = 0.02  # share of |K| on bad pixels above which a pixel is bad
_BLOCK = (32, 128)  # pixels, the largest block that shares one squared kernel
_BAND = 128  # rows of a frame that are worked on at a time
_FFT_SIZE = 35  # pixels, side of a kernel from which transforms are faster than sums
_LIMIT = 1e30  # magnitudes above it are bad


# ------------------------------------------------------------------------ images


class NoFit(Exception):
    """There is nothing to fit a kernel to; the text says why, and what to change."""


@dataclasses.dataclass
class Image:
    """One image of a pair, above its sky."""

    name: Literal["ref", "sci"]
    data: NDArray[np.float32]
    """(ny, nx); bad pixels are filled from around."""
    bad: NDArray[np.bool_]
    sky: float
    sigma: float
    """Noise of a pixel of the sky."""
    variance: NDArray[np.float32] | None
    """Finite; None where it is to be measured."""
    floor: float
    """Variance that no pixel is below in a fit, from the sky: one of 0 would rule it."""
    stars: Stars
    fwhm: float
    """Pixels; NaN where there are too few stars to be sure."""
    psf: NDArray[np.float64] | None
    """(k, k), where the caller knows it."""
    host: tuple[NDArray[np.float32], NDArray[np.bool_]]
    """Data and bad pixels in the memory of the CPU; what bad pixels have there means nothing."""

    def own_psf(self) -> NDArray[np.float64] | None:
        """PSF that came or that the stars show, sum 1, of odd size; None without a star."""
        if self.psf is not None or not len(self.stars.x):
            return self.psf
        size = 2 * int(np.ceil(2 * fwhm_of(self.stars))) + 1
        return measure_psf(*self.host, self.stars, size=size, sky=0.0)


def load(
    name: Literal["ref", "sci"],
    frames: Frames,
    host: Frames,
    i: int,
    stats: NDArray[np.float64],
    psfs: NDArray[np.float64] | None,
    threads: int,
) -> Image:
    """Image i; `host` are the frames in the memory of the CPU, `stats` (n_tiles, 2) sky and noise
    of its tiles.
    """
    sky, sigma = np.median(stats, axis=0)
    floor = 0.25 * sigma**2
    data, bad = above_sky(name, frames, i, float(sky))
    seen = (data, bad) if host is frames else above_sky(name, host, i, float(sky))
    if seen[1].all():
        raise NoFit("no pixel is good in both images")
    stars = find_stars(*seen, max_stars=_MAX_STARS)
    if seen[1].any():
        np.copyto(data, 0, where=bad)
        blocks.fill_bad(data, bad, threads)
    variances = frames.ref_variances if name == "ref" else frames.sci_variances
    variance = None
    if variances is not None:
        variance = variances[min(i, len(variances) - 1)].astype(np.float32)
        usual = float(np.median(variance[~bad]))
        np.copyto(variance, usual, where=bad)
        sigma = np.sqrt(usual)
    psf, fwhm = None, float("nan")
    if psfs is not None:
        psf = psfs[min(i, len(psfs) - 1)]
        _, _, _, (xx, xy, yy) = adaptive_moments(psf[None], 1.5)
        fwhm = float((xx[0] * yy[0] - xy[0] ** 2) ** 0.25 / SIGMA_OF_FWHM)
    elif len(stars.x) >= ENOUGH_STARS:
        fwhm = fwhm_of(stars)
    return Image(name, data, bad, float(sky), float(sigma), variance, floor, stars, fwhm, psf, seen)


def above_sky(
    name: Literal["ref", "sci"], frames: Frames, i: int, sky: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Image i less its sky, and its bad pixels."""
    values, bads = (
        (frames.refs, frames.bad_refs) if name == "ref" else (frames.scis, frames.bad_scis)
    )
    data = values[min(i, len(values) - 1)]
    bad = ~(np.abs(data) < _LIMIT)
    if bads is not None:
        bad |= bads[min(i, len(bads) - 1)]
    with np.errstate(over="ignore"):
        data = np.subtract(data, sky, dtype=data.dtype).astype(np.float32, copy=False)
    return data, bad


def windows(plane: NDArray[Any], origins: NDArray[np.int64], side: tuple[int, int]) -> NDArray[Any]:
    """(n, h, w): a copy of the windows of a plane."""
    xp = arrays.namespace(plane)
    if xp is not np:
        # Indices of all pixels: CuPy might copy a view of all windows whole.
        rows, columns = (xp.asarray(origins[:, k, None] + np.arange(side[k])) for k in range(2))
        return plane[rows[:, :, None], columns[:, None, :]]
    view = np.lib.stride_tricks.sliding_window_view(plane, side)
    return view[origins[:, 0], origins[:, 1]]


def middles(
    origins: NDArray[np.int64], side: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns x and rows y of the middles of windows."""
    y, x = (origins + (np.array(side) - 1) / 2).T
    return x, y


# ------------------------------------------------------------------------ the pair


class Pair:
    """A pair, the kernel that matches it, and what is made with both.

    A fit sets `kernel`, `signal`, `n_stamps`, `order` and `background_order`.
    """

    kernel: MatchingKernel
    n_stamps: int
    order: int
    background_order: int

    def __init__(self, image: Image, target: Image, size: int, threads: int):
        self.image, self.target, self.threads = image, target, threads
        self.xp = arrays.namespace(target.data)
        self.shape = target.data.shape
        self.r = size // 2
        if size > min(self.shape):
            raise NoFit(f"the kernel of {size} pixels is larger than the image: set kernel_size")
        self.bordered = blocks.with_border(image.data, self.r)
        self.signal = 0.0
        """Variance of the difference per count of signal, beyond what variances tell."""

    @property
    def middle(self) -> tuple[float, float]:
        """Column x and row y of the middle of the frame."""
        return (self.shape[1] - 1) / 2, (self.shape[0] - 1) / 2

    @property
    def measured(self) -> bool:
        """Whether no variance came, so that the noise is to be measured."""
        return self.image.variance is None and self.target.variance is None

    def concentration(self) -> float:
        """Noise that the kernel makes of white noise, for a kernel of sum 1."""
        kernel = self.kernel(*self.middle)
        return float((kernel**2).sum() / kernel.sum() ** 2)

    @property
    def padded(self) -> NDArray[np.float32]:
        """Components of the kernel as the compiled loops want them."""
        return self.xp.asarray(blocks.padded_kernels(self.kernel.components))

    @functools.cached_property
    def bordered_variance(self) -> NDArray[np.float32]:
        """Variance of the convolved image in a border."""
        return blocks.with_border(self.image.variance, self.r, self.image.sigma**2)

    def convolve_as(
        self, mode: int, plane: NDArray[np.float32], origins: NDArray[np.int64],
        side: tuple[int, int],
    ) -> NDArray[np.float32]:  # fmt: skip
        """Blocks of a bordered plane, each convolved by the kernel of its middle as it is, or by
        its moduli or squares.
        """
        terms = self.kernel.terms(*middles(origins, side))
        return blocks.convolve_blocks(plane, self.padded, terms, origins, side, mode, self.threads)

    def known_variance(self, origins: NDArray[np.int64], side: tuple[int, int]) -> NDArray[Any]:
        """Of the convolved image, convolved by the squared kernel: (n, h, w) or (n, 1, 1)."""
        if self.image.variance is not None:
            return self.convolve_as(blocks.SQUARE, self.bordered_variance, origins, side)
        terms = self.kernel.terms(*middles(origins, side))
        n = len(self.kernel.components)
        parts = self.kernel.components.reshape(n, -1)
        squares = np.einsum("si,ij,sj->s", terms, parts @ parts.T, terms)
        return self.xp.asarray((squares * self.image.sigma**2)[:, None, None])

    def difference(self, image: NDArray[np.float32], variance: NDArray[np.float32]) -> None:
        """Fill `image`, and `variance` for independent pixels."""
        grid = Grid(self.shape)
        bad = blocks.with_border(self.image.bad, self.r, 1.0)
        whole = float(np.abs(self.kernel(*self.middle)).sum())
        sums = self.kernel.components.sum((1, 2))
        # Noise of the convolved image is no signal.
        floor = 3 * self.image.sigma * np.sqrt((self.kernel(*self.middle) ** 2).sum())
        by_transforms = 2 * self.r + 1 >= _FFT_SIZE
        convolve = self.transformed_bands() if by_transforms else self.summed_bands(grid)
        for band, origins in grid.bands():
            model = convolve(band, origins)
            rest = self.target.data[band] - model
            error = self.signal * np.where(model > floor, model, 0)
            error += grid.joined(self.known_variance(origins, grid.side), band)
            other = self.target.variance
            error += self.target.sigma**2 if other is None else other[band]
            lost = self.target.bad[band] | self.image.bad[band]
            touched = grid.touched(bad, origins, self.r)
            if len(touched):
                share = self.convolve_as(blocks.MODULUS, bad, origins[touched], grid.side)
                lost |= grid.joined(share, band, touched) > _INFLUENCE * whole
            np.copyto(rest, np.nan, where=lost)
            image[band] = rest
            variance[band] = error
        background = fit_background(image, self.background_order)
        self.kernel = dataclasses.replace(self.kernel, background=background)
        for band, _ in grid.bands():
            image[band] -= polynomial(background, band, self.shape, self.xp)
            if self.kernel.convolved == "sci":
                factor = 1 / polynomial(sums, band, self.shape, self.xp)
                image[band] *= -factor
                variance[band] *= factor**2

    def summed_bands(self, grid: Grid) -> Callable[[slice, NDArray[np.int64]], NDArray[np.float32]]:
        """A function that convolves a band of rows by sums over the kernel."""
        kernels = blocks.row_kernels(self.padded, self.kernel.powers, self.shape[0], self.threads)

        def convolve(band: slice, origins: NDArray[np.int64]) -> NDArray[np.float32]:
            parts = blocks.convolve_polynomial(
                self.bordered, kernels, origins, grid.side, self.threads
            )
            return grid.joined(parts, band)

        return convolve

    def transformed_bands(self) -> Callable[[slice, NDArray[np.int64]], NDArray[np.float32]]:
        """A function that convolves a band of rows by Fourier transforms, in float64.

        In float32 the transform of a bright star would leave its rounding errors everywhere.
        """
        xp, fft = self.xp, arrays.scipy_of(self.bordered, "fft")
        workers = {"workers": self.threads} if xp is np else {}  # that a GPU does not have
        (_, nx), size = self.shape, 2 * self.r + 1
        shape = tuple(fft.next_fast_len(n + size - 1, real=True) for n in (_BAND, nx))
        kernels = fft.rfft2(xp.asarray(self.kernel.components), shape, **workers)

        def convolve(band: slice, _: NDArray[np.int64]) -> NDArray[np.float32]:
            n = band.stop - band.start
            rows = self.bordered[band.start : band.stop + size - 1, : nx + size - 1]
            image = fft.rfft2(rows.astype(np.float64), shape, **workers)
            out = xp.zeros((n, nx), np.float32)
            x = 2 * xp.arange(nx) / max(nx - 1, 1) - 1
            y = 2 * xp.arange(band.start, band.stop) / max(self.shape[0] - 1, 1) - 1
            for (i, j), kernel in zip(self.kernel.powers, kernels, strict=True):
                part = fft.irfft2(image * kernel, shape, **workers)
                part = part[size - 1 : size - 1 + n, size - 1 : size - 1 + nx]
                out += (y**j)[:, None] * (x**i) * part
            return out

        return convolve

    def decorrelate(self, image: NDArray[np.float32], variance: NDArray[np.float32]) -> float:
        """Whiten the noise in place, which keeps fluxes; the factor of the variance of the sky.

        The kernel with the Fourier transform sqrt(P(0) / P(k)), P = V_T + V_R |K(k)|^2, is made at
        3 x 3 places of the frame and interpolated between them (Reiss & Lupton 2016, DMTN-021,
        eq. 4, with a flux-conserving normalisation).
        """
        n = 1 if len(self.kernel.components) == 1 else 3
        ys, xs = (np.linspace(0, side - 1, n) if n > 1 else np.zeros(1) for side in self.shape)
        kernels = np.array([self.whitening(self.kernel(x, y)) for y in ys for x in xs])
        padded = blocks.padded_kernels(kernels)
        grid = Grid(self.shape)
        data = np.where(np.isnan(image), 0, image)
        lost = np.isnan(image)
        blocks.fill_bad(data, lost, self.threads)
        bordered = blocks.with_border(data, self.r)
        bad = blocks.with_border(lost, self.r, 1.0)
        whole = float(np.abs(kernels).sum((1, 2)).mean())
        for band, origins in grid.bands():
            x, y = middles(origins, grid.side)
            weights = hats(y, ys)[:, :, None] * hats(x, xs)[:, None, :]
            weights = weights.reshape(len(x), -1)
            parts = blocks.convolve_blocks(
                bordered, padded, weights, origins, grid.side, threads=self.threads
            )
            made = grid.joined(parts, band).copy()
            gone = lost[band].copy()
            touched = grid.touched(bad, origins, self.r)
            if len(touched):
                share = blocks.convolve_blocks(
                    bad, padded, weights[touched], origins[touched], grid.side, blocks.MODULUS,
                    threads=self.threads,
                )  # fmt: skip
                gone |= grid.joined(share, band, touched) > _INFLUENCE * whole
            np.copyto(made, np.nan, where=gone)
            image[band] = made
        here = self.kernel(*self.middle)
        noise_r, noise_t = self.image.sigma**2, self.target.sigma**2
        factor = (noise_t + noise_r * here.sum() ** 2) / (noise_t + noise_r * (here**2).sum())
        variance *= np.float32(factor)
        return float(factor)

    def whitening(self, kernel: NDArray[np.float64]) -> NDArray[np.float64]:
        """Kernel of sum 1 that makes the noise white where the matching kernel is `kernel`."""
        size = 4 * (2 * self.r + 1)
        transform = np.abs(np.fft.rfft2(kernel, (size, size))) ** 2
        power = self.target.sigma**2 + self.image.sigma**2 * transform + 1e-30
        made = np.fft.irfft2(np.sqrt(power[0, 0] / power), (size, size))
        made = np.roll(made, (self.r, self.r), axis=(0, 1))[: 2 * self.r + 1, : 2 * self.r + 1]
        return made / made.sum()

    def psf(self, decorrelated: bool) -> tuple[NDArray[np.float64], bool]:
        """PSF of the difference at the middle of the frame, sum 1, of odd size; and whether it
        had to be assumed, because no star of either image shows it.
        """
        kernel, assumed = self.kernel(*self.middle), False
        psf = self.target.own_psf()
        if psf is None:
            sharp = self.image.own_psf()
            assumed = sharp is None
            if sharp is None:
                sharp = moffat(ASSUMED_FWHM, 2 * int(np.ceil(2 * ASSUMED_FWHM)) + 1)
            psf = seen_through(np.pad(sharp, self.r), kernel)
        return (seen_through(psf, self.whitening(kernel)) if decorrelated else psf), assumed

    def point_sources(
        self, image: NDArray[np.float32], variance: NDArray[np.float32],
        psf: NDArray[np.float64], decorrelated: bool, flux: NDArray[np.float32],
        flux_variance: NDArray[np.float32],
    ) -> None:  # fmt: skip
        """Flux of a point source at each pixel by PSF photometry with equal weights, its variance.

        The noise of the difference is correlated, that of the images is not: the variance is
        that of sum P D / sum P^2 for the noise of the images at the middle of the frame, scaled
        to the noise around each pixel.
        """
        factor = 1.0
        if not decorrelated:
            kernel = self.kernel(*self.middle)
            noise_r, noise_t = self.image.sigma**2, self.target.sigma**2
            both = _convolved(psf, kernel[::-1, ::-1])
            alone, pixel = (psf**2).sum(), noise_t + noise_r * (kernel**2).sum()
            if pixel > 0:
                factor = (noise_t * alone + noise_r * (both**2).sum()) / (pixel * alone)
        r = len(psf) // 2
        good = np.isfinite(image) & np.isfinite(variance)
        padded = blocks.padded_kernels(psf[None, ::-1, ::-1])
        data = blocks.with_border(np.where(good, image, 0), r)
        noise = blocks.with_border(np.where(good, variance, 0), r)
        bad = blocks.with_border(~good, r, 1.0)
        whole = np.float32((psf**2).sum())
        grid = Grid(self.shape)
        for band, origins in grid.bands():

            def convolved(
                plane: NDArray[np.float32], mode: int, origins: NDArray[np.int64]
            ) -> NDArray[np.float32]:
                one = np.ones((len(origins), 1))
                return blocks.convolve_blocks(
                    plane, padded, one, origins, grid.side, mode, self.threads
                )

            signal = grid.joined(convolved(data, blocks.PLAIN, origins), band)
            error = grid.joined(convolved(noise, blocks.SQUARE, origins), band)
            touched = grid.touched(bad, origins, r)
            lost = convolved(bad, blocks.SQUARE, origins[touched])
            # What of the PSF is on good pixels.
            area = whole - grid.joined(lost, band, touched)
            area = np.where(good[band], area, np.nan)
            flux[band] = signal / area
            flux_variance[band] = np.float32(factor) * error / area**2


# ------------------------------------------------------------------------ frames


def seen_through(psf: NDArray[np.float64], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """A PSF convolved by a kernel of odd side, of the side that it had and of sum 1."""
    r, size = len(kernel) // 2, len(psf)
    made = _convolved(psf, kernel)[r : r + size, r : r + size]
    return made / made.sum()


def _convolved(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convolution of two small arrays, all of it."""
    shape = np.add(a.shape, b.shape) - 1
    return np.fft.irfft2(np.fft.rfft2(a, shape) * np.fft.rfft2(b, shape), shape)


def hats(x: NDArray[np.float64], nodes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(len(x), len(nodes)): weights with which values at `nodes` make the values at `x`."""
    return np.stack([np.interp(x, nodes, unit) for unit in np.eye(len(nodes))], axis=1)


class Grid:
    """Blocks that cover a frame, band by band of rows."""

    def __init__(self, shape: tuple[int, int]):
        self.shape = shape
        # Where a frame is small its kernel may change as much over fewer pixels.
        self.side = min(_BLOCK[0], max(8, shape[0] // 16)), min(_BLOCK[1], max(32, shape[1] // 8))

    def bands(self) -> Iterator[tuple[slice, NDArray[np.int64]]]:
        """Rows of a band and the origins of its blocks."""
        (ny, nx), (h, w) = self.shape, self.side
        for first in range(0, ny, _BAND):
            band = slice(first, min(first + _BAND, ny))
            axes = np.arange(band.start, band.stop, h), np.arange(0, nx, w)
            yield band, np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)

    def joined(
        self, parts: NDArray[Any], band: slice, which: NDArray[np.int64] | None = None
    ) -> NDArray[Any]:
        """The pixels of a band from its blocks, (n, h, w) or (n, 1, 1). Where only those blocks
        came that `which` lists, the others are 0.
        """
        (_, nx), (h, w) = self.shape, self.side
        n_x = -(-nx // w)
        n = n_x * -(-(band.stop - band.start) // h)
        if which is not None and len(which) < n:
            some, parts = parts, np.zeros_like(parts, shape=(n, h, w))
            parts[which] = some
        plane = np.broadcast_to(parts, (len(parts), h, w)).reshape(-1, n_x, h, w)
        plane = plane.transpose(0, 2, 1, 3).reshape(-1, n_x * w)
        return plane[: band.stop - band.start, :nx]

    def touched(
        self, bad: NDArray[np.float32], origins: NDArray[np.int64], r: int
    ) -> NDArray[np.int64]:
        """Blocks that a kernel reaches from bad pixels, in a plane with a border of r pixels.

        On a GPU all of them: to ask for each would take longer than to work on it.
        """
        if arrays.namespace(bad) is not np:
            return np.arange(len(origins))
        h, w = self.side
        return np.flatnonzero([bad[y : y + h + 2 * r, x : x + w + 2 * r].any() for y, x in origins])


def fit_background(image: NDArray[np.float32], order: int) -> NDArray[np.float64]:
    """Polynomial through the medians of boxes, those that stand out left out."""
    image = arrays.on_host(image)
    ny, nx = image.shape
    h, w = (int(np.clip(n // 12, 16, 128)) for n in (ny, nx))
    x, y, level = [], [], []
    for y0 in range(0, ny - h // 2, h):
        for x0 in range(0, nx - w // 2, w):
            values = image[y0 : y0 + h : 2, x0 : x0 + w : 2]
            good = values[np.isfinite(values)]
            if 2 * len(good) > values.size:
                x.append(x0 + (min(x0 + w, nx) - 1 - x0) / 2)
                y.append(y0 + (min(y0 + h, ny) - 1 - y0) / 2)
                level.append(np.median(good))
    while order and len(level) < STAMPS_PER_TERM * len(powers_up_to(order)):
        order -= 1
    if not level:
        good = image[np.isfinite(image)]
        return np.array([float(np.median(good)) if len(good) else 0.0])
    terms, level = terms_at(np.array(x), np.array(y), order, (ny, nx)), np.array(level, np.float64)
    kept = np.ones(len(level), bool)
    for _ in range(5):
        coefficients = np.linalg.lstsq(terms[kept], level[kept], rcond=None)[0]
        rest = np.abs(level - terms @ coefficients)
        fits = rest <= 3 * 1.4826 * np.median(rest[kept]) + 1e-30
        if (fits == kept).all() or 2 * fits.sum() < len(fits):
            break
        kept = fits
    return coefficients


def calibrate(
    image: NDArray[np.float32], variance: NDArray[np.float32], least: float = 0.0
) -> None:
    """Scale the variance to what a difference shows of it, tile by tile, linear between them.

    The pixels of images that were resampled are not independent, and the noise of the sky may
    change over a frame. No tile is scaled by less than `least`.
    """
    ny, nx = image.shape
    some = arrays.on_host(image[::2, ::2])
    good = np.isfinite(some)
    if not good.any():
        return
    # No division by zero where images have no noise.
    variance += np.float32(1e-6 * np.mean(some[good] ** 2, dtype=np.float64) + 1e-30)
    pulls = some / np.sqrt(arrays.on_host(variance[::2, ::2]))
    origins, (h, w) = tile.plan_tiles(ny, nx)
    factors = np.full(len(origins), np.nan)
    for k, (y, x) in enumerate(origins // 2):
        part = np.s_[y : y + h // 2, x : x + w // 2]
        values = pulls[part][good[part]]
        if len(values) >= tile.MIN_SAMPLES:
            # Between the quantiles of 1 sigma on either side: sources are taken off already.
            low, high = np.quantile(values, (0.158655, 0.841345))
            factors[k] = ((high - low) / 2) ** 2
    known = np.isfinite(factors)
    factors[~known] = np.median(factors[known]) if known.any() else 1.0
    factors = np.maximum(factors, least)
    ys, xs = (np.unique(origins[:, axis]) + (side - 1) / 2 for axis, side in ((0, h), (1, w)))
    along_x = factors.reshape(len(ys), len(xs)) @ hats(np.arange(nx), xs).T
    xp = arrays.namespace(variance)
    along_x, along_y = (xp.asarray(a, np.float32) for a in (along_x, hats(np.arange(ny), ys)))
    for band, _ in Grid(image.shape).bands():
        variance[band] *= along_y[band] @ along_x
