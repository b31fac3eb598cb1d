"""A pair of images with the kernel that matches them: difference, noise, fluxes of point sources.

Pixel work goes band by band of rows, in blocks of which each has one squared kernel. It is done
where the images lie; stars are looked for in the memory of the CPU.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.kernels.image import convolve as blocks
from fastdiff.stars.psf import ASSUMED_FWHM, moffat, normed

from .basis import polynomial
from .grid import BAND, BlockGrid, hats
from .images import MatchedImage, NoFit, middles
from .kernel import MatchingKernel
from .noise import fit_background, fit_noise, in_patch, take_off_stripes

__all__ = ["MatchedPair", "seen_through"]

_DOUBT = 0.5  # sigma by which a pixel may be wrong because of bad ones before it is bad itself
_FILL_ERROR = 0.3  # of the light that is filled in at a bad pixel
_INFLUENCE = 0.02  # share of a kernel on what is unknown above which a pixel is bad
_FFT_SIZE = 35  # pixels, side of a kernel from which transforms are faster than sums


class MatchedPair:
    """A pair, the kernel that matches it, and what is made with both.

    A fit sets `kernel`, `signal`, `n_stamps`, `order` and `background_order`.
    """

    kernel: MatchingKernel
    n_stamps: int
    order: int
    background_order: int

    def __init__(self, image: MatchedImage, target: MatchedImage, size: int, threads: int):
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
        padded: NDArray[np.float32] = self.xp.asarray(blocks.padded_kernels(self.kernel.components))
        return padded

    @functools.cached_property
    def bordered_variance(self) -> NDArray[np.float32]:
        """Variance of the convolved image in a border."""
        bordered: NDArray[np.float32] = blocks.with_border(
            self.image.variance, self.r, self.image.sigma**2
        )
        return bordered

    def convolve_as(
        self, mode: int, plane: NDArray[np.float32], origins: NDArray[np.int64],
        side: tuple[int, int],
    ) -> NDArray[np.float32]:  # fmt: skip
        """Blocks of a bordered plane, each convolved by the kernel of its middle as it is, or by
        its moduli or squares.
        """
        terms = self.kernel.terms(*middles(origins, side))
        made: NDArray[np.float32] = blocks.convolve_blocks(
            plane, self.padded, terms, origins, side, mode, self.threads
        )
        return made

    def known_variance(self, origins: NDArray[np.int64], side: tuple[int, int]) -> NDArray[Any]:
        """Of the convolved image, convolved by the squared kernel: (n, h, w) or (n, 1, 1)."""
        if self.image.variance is not None:
            return self.convolve_as(blocks.SQUARE, self.bordered_variance, origins, side)
        terms = self.kernel.terms(*middles(origins, side))
        n = len(self.kernel.components)
        parts = self.kernel.components.reshape(n, -1)
        squares = np.einsum("si,ij,sj->s", terms, parts @ parts.T, terms)
        known: NDArray[Any] = self.xp.asarray((squares * self.image.sigma**2)[:, None, None])
        return known

    def difference(self, image: NDArray[np.float32], variance: NDArray[np.float32]) -> None:
        """Fill `image`, and `variance` for independent pixels."""
        grid = BlockGrid(self.shape)
        doubt = _DOUBT * self.target.sigma
        # What lies in a patch of bad pixels, or beyond the edge, is not known at all.
        unknown = doubt / (_INFLUENCE * float(np.abs(self.kernel(*self.middle)).sum()))
        hidden = blocks.with_border(self.hidden_light(unknown), self.r, unknown)
        sums = self.kernel.components.sum((1, 2))
        by_transforms = 2 * self.r + 1 >= _FFT_SIZE
        convolve = self.transformed_bands() if by_transforms else self.summed_bands(grid)
        for band, origins in grid.bands():
            model = convolve(band, origins)
            rest = self.target.data[band] - model
            error = np.zeros_like(rest)
            error += grid.joined(self.known_variance(origins, grid.side), band)
            other = self.target.variance
            error += self.target.sigma**2 if other is None else other[band]
            lost = self.target.bad[band] | self.image.bad[band]
            touched = grid.touched(hidden, origins, self.r)
            if len(touched):
                wrong = self.convolve_as(blocks.MODULUS, hidden, origins[touched], grid.side)
                lost |= grid.joined(wrong, band, touched) > doubt
            np.copyto(rest, np.nan, where=lost)
            image[band] = rest
            variance[band] = error
        background = fit_background(image, self.background_order)
        self.kernel = dataclasses.replace(self.kernel, background=background)
        for band, _ in grid.bands():
            image[band] -= polynomial(background, band, self.shape, self.xp)
        take_off_stripes(image)
        for band, _ in grid.bands():
            if self.kernel.convolved == "sci":
                factor = 1 / polynomial(sums, band, self.shape, self.xp)
                image[band] *= -factor
                variance[band] *= factor**2

    def hidden_light(self, unknown: float) -> NDArray[np.float32]:
        """By how much the convolved image may be wrong where a bad pixel was filled in; else 0.

        A lone pixel, or a dead column, is filled in well by its neighbours. A patch is `unknown`,
        and by as much as its edge shines: a saturated star is brighter still.
        """
        bad = self.image.bad
        error = np.float32(_FILL_ERROR) * np.abs(self.image.data) + np.float32(self.image.sigma)
        of_patch = np.maximum(np.abs(self.image.data), np.float32(unknown))
        error = np.where(in_patch(bad), of_patch, error)
        return np.where(bad, error, np.float32(0))

    def summed_bands(
        self, grid: BlockGrid
    ) -> Callable[[slice, NDArray[np.int64]], NDArray[np.float32]]:
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
        shape = tuple(fft.next_fast_len(n + size - 1, real=True) for n in (BAND, nx))
        kernels = fft.rfft2(xp.asarray(self.kernel.components), shape, **workers)

        def convolve(band: slice, _: NDArray[np.int64]) -> NDArray[np.float32]:
            n = band.stop - band.start
            rows = self.bordered[band.start : band.stop + size - 1, : nx + size - 1]
            image = fft.rfft2(rows.astype(np.float64), shape, **workers)
            out: NDArray[np.float32] = xp.zeros((n, nx), np.float32)
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
        grid = BlockGrid(self.shape)
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
        made = np.roll(made, (self.r, self.r), axis=(0, 1))
        return normed(made[: 2 * self.r + 1, : 2 * self.r + 1])

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

    def expected_spectrum(self, side: int, decorrelated: bool) -> NDArray[np.float64]:
        """Power of the noise of the difference that the noise of both skies makes, (side, half)."""
        if decorrelated:
            return np.ones((side, side // 2 + 1))
        kernel = self.kernel(*self.middle)
        transform = np.abs(np.fft.rfft2(kernel, (max(side, len(kernel)),) * 2)) ** 2
        power = self.target.sigma**2 + self.image.sigma**2 * transform[:side, : side // 2 + 1]
        positive: NDArray[np.float64] = power + 1e-12 * power.max() + 1e-30
        return positive

    def light_of_both(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Light of the sources that both images have, in counts of the science image.

        What is new is not in it. Bad pixels are filled in: wings of saturated stars are light.
        """
        light = self.target.data
        if self.kernel.convolved == "ref":
            return light - np.where(np.isfinite(image), image, 0)  # the reference, matched
        light = light / np.float32(self.kernel.sum(*self.middle))
        return light + np.where(image < 0, image, 0)

    def add_photons(self, image: NDArray[np.float32], variance: NDArray[np.float32]) -> None:
        """Add the photon noise of the sources that both images have, where no variance tells it.

        Where none came at all it is measured on the difference, and so is the noise of the sky:
        that of the images is too high where there is hardly a pixel without a source.
        """
        if self.image.variance is not None and self.target.variance is not None:
            return
        light = self.light_of_both(image)
        sigma = self.target.sigma
        if self.kernel.convolved == "sci":
            factor = float(self.kernel.sum(*self.middle))
            sigma, self.signal = sigma / factor, self.signal / factor
        light *= light > np.float32(3 * sigma)
        if self.measured:
            of_sky, self.signal = fit_noise(image, variance, light)
            variance *= np.float32(of_sky)
        light *= np.float32(self.signal)
        variance += light

    def light_of_sources(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """PSF of the science image and the kernel of sum 1 that it is seen through; None where
        the difference shows it as it is.
        """
        if self.kernel.convolved == "ref":
            return None
        psf, kernel = self.image.own_psf(), self.kernel(*self.middle)
        return None if psf is None else (psf, kernel / kernel.sum())


def seen_through(psf: NDArray[np.float64], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """A PSF convolved by a kernel of odd side, of the side that it had and of sum 1."""
    r, size = len(kernel) // 2, len(psf)
    return normed(_convolved(psf, kernel)[r : r + size, r : r + size])


def _convolved(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convolution of two small arrays, all of it."""
    shape = [m + n - 1 for m, n in zip(a.shape, b.shape, strict=True)]
    return np.fft.irfft2(np.fft.rfft2(a, shape) * np.fft.rfft2(b, shape), shape)
