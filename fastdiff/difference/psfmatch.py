r"""Difference after the sharper image is convolved to the PSF of the other.

With R the sharper and T the broader image of a pair, the kernel K and the background b that
minimise

    sum over stamps of  (T - K * R - b)^2 / variance

make the difference, in counts of the science image

    D = S - K * R - b               if the reference is convolved (T = S),
    D = (K * S + b - R) / sum K     if the science image is (T is the reference).

K is a sum of basis functions: Gaussians times Hermite polynomials, which span the Gaussians times
polynomials of Alard & Lupton (1998, ApJ 503, 325), or single pixels (Bramich 2008, MNRAS 386, L77)
held together by a penalty on their roughness (Becker et al. 2012, MNRAS 425, 1341). Coefficients
are polynomials of the place in the frame (Alard 2000, A&AS 144, 363); one basis function carries
the sum of the kernel and all others have sum zero, so that the photometric scale is constant, or
a polynomial of an order of its own.

The least-squares sums of every stamp are made once (`fastdiff.kernels.gram`) and combined with the
polynomials. Stamps whose chi^2 stands out, because of a variable star, a transient or a defect,
are left out. A second pass has the noise of the matched difference as its weights.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdiff.kernels import convolve as blocks
from fastdiff.kernels import gram, tile

from .options import check_psfs
from .stars import Stars, adaptive_moments, find_stars, fwhm_of, measure_psf

if TYPE_CHECKING:
    from astropy.io.fits import ImageHDU

    from .batch import Frames

__all__ = ["MatchingKernel", "subtract"]

_SIGMA = 1 / 2.3548  # of a Gaussian of FWHM 1
_DEGREES = (3, 2, 2)  # of the polynomials on the middle, the narrow and the wide Gaussian
_FACTOR = 2.0  # from one width to the next
_LEAST_SIGMA = 0.7  # pixels, of the narrow Gaussian
_MAX_ORDER = 3
_MAX_STARS = 500  # that are looked at
_STAMPS = 200  # that are fitted
_STAMPS_PER_TERM = 4  # that each term of a polynomial needs
_LEAST_SHARE = {"stars": 0.6, "all": 0.05}  # of good pixels in a stamp
_ENOUGH_STARS = 8  # with fewer, all pixels are fitted
_STAMP_SNR = 20.0  # of a stamp that counts for the order of the polynomials
_ALL_STAMPS = (8, 32)  # stamps a side that cover a frame: of a small, of a large one
_ALL_SIDE = (16, 64)  # pixels, least and usual side of these stamps
_SIGNAL_ERROR = (0.03, 0.01, 0.01)  # of each pass, relative: no star rules the fit
_SIGNAL_SNR = 5.0  # of a pixel that loses much of its weight to brighter ones
_PASSES = {"stars": 2, "all": 3}
_GATE = {"stars": 1, "all": 2}
_CLIP = 4.0  # sigma of a pixel beyond which it weighs less and less
_REACH = 4.0  # robust standard deviations of the chi^2 of stamps
_MISFIT = 0.1  # part of a stamp's signal that may not fit
_RIDGE = 1e-10  # of the scaled normal matrix: its float32 products are no better
_LEAST_SNR = 10.0  # of the kernel's sum
_WORSE = 1.05  # times what no kernel leaves: more than noise makes of it where the PSFs are equal
_INFLUENCE = 0.02  # share of |K| on bad pixels above which a pixel is bad
_BLOCK = (32, 128)  # pixels, the largest block that shares one squared kernel
_BAND = 128  # rows of a frame that are worked on at a time
_FFT_SIZE = 35  # pixels, side of a kernel from which transforms are faster than sums
_LIMIT = 1e30  # magnitudes above it are bad
_MEDIAN_CHI2 = 0.4549  # of one degree of freedom


# ------------------------------------------------------------------------ the kernel


@functools.cache
def _powers(order: int) -> tuple[tuple[int, int], ...]:
    """Powers of (x, y) of the terms of a polynomial; those of a lower order come first."""
    return tuple((n - j, j) for n in range(order + 1) for j in range(n + 1))


def _terms(x: Any, y: Any, order: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """(..., n_terms): terms of a polynomial at pixels (x, y), which go from -1 to 1."""
    u = 2 * np.asarray(x, np.float64) / max(shape[1] - 1, 1) - 1
    v = 2 * np.asarray(y, np.float64) / max(shape[0] - 1, 1) - 1
    return np.stack([u**i * v**j for i, j in _powers(order)], axis=-1)


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
        return _powers(_MAX_ORDER)[: len(self.components)]

    def terms(self, x: Any, y: Any) -> NDArray[np.float64]:
        """(..., n_terms): factors of the components at pixels (x, y)."""
        return _terms(x, y, _MAX_ORDER, self.shape)[..., : len(self.components)]

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


# ------------------------------------------------------------------------ basis


@dataclasses.dataclass(frozen=True)
class _Basis:
    """Basis functions: products of taps. `carrier` is the one with the kernel's sum."""

    taps: NDArray[np.float32]
    """(n_taps, size) in the order of a convolution."""
    products: NDArray[np.int64]
    carrier: int
    roughness: NDArray[np.float64] | None = None
    """Quadratic form of what the kernel is penalised for, on raw coefficients."""

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


def _gaussians(sigma: float, size: int) -> _Basis:
    """Gaussians of `sigma` (the carrier), narrower and wider, times Hermite polynomials."""
    t = np.arange(size) - size // 2
    taps, products = [], []
    for width, degree in zip((sigma, sigma / _FACTOR, sigma * _FACTOR), _DEGREES, strict=True):
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
    return _Basis(np.array(taps, np.float32), np.array(products, np.int64), 0)


def _deltas(size: int) -> _Basis:
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
    return _Basis(np.eye(size, dtype=np.float32), products, middle, roughness)


# ------------------------------------------------------------------------ the fit


def _fit(
    equations: tuple[NDArray[np.float64], ...],
    penalty: NDArray[np.float64] | float,
    n_pixels: NDArray[np.float64],
    terms: NDArray[np.float64],
    n_terms: NDArray[np.int64],
    max_iterations: int,
    threads: int,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Coefficients of the polynomials, and which stamps they rest on.

    Stamps whose chi^2 a pixel is far above that of the others are left out, and the rest is
    fitted again; but not where no more than a part of the signal does not fit, which may be
    the fault of the kernel. `penalty` is added to the normal matrices, not to chi^2. Row k of
    the table has the polynomial of function k.
    """
    normal, right, square = equations
    smooth = normal + penalty
    filled = np.arange(terms.shape[1]) < n_terms[:, None]
    table = np.zeros(filled.shape)
    usable = n_pixels > 0
    kept = usable
    for _ in range(max_iterations + 1):
        matrix, vector = gram.combine(smooth[kept], right[kept], terms[kept], n_terms, threads)
        table[filled] = gram.solve_positive(matrix, vector, _RIDGE)
        c = terms @ table.T
        fitted = (normal @ c[:, :, None])[:, :, 0]
        chi2 = square + (c * (fitted - 2 * right)).sum(1)
        signal = c.copy()
        signal[:, -1] = 0
        power = (signal * (fitted - normal[:, :, -1] * c[:, -1:])).sum(1)
        each = chi2 / np.maximum(n_pixels, 1e-6)
        middle = np.median(each[kept])
        spread = 1.4826 * np.median(np.abs(each[kept] - middle))
        fits = each <= middle + _REACH * max(spread, 0.05 * middle)
        fits |= chi2 - middle * n_pixels <= _MISFIT**2 * power
        fits &= usable
        if (fits == kept).all() or 2 * fits.sum() < usable.sum():
            break
        kept = fits
    return table, kept


# ------------------------------------------------------------------------ one pair


class _NoFit(Exception):
    """There is nothing to fit a kernel to; the text says why, and what to change."""


@dataclasses.dataclass(frozen=True)
class _Options:
    basis: str
    kernel_order: int
    background_order: int
    scale_order: int
    convolve: str
    kernel_size: int | None
    fit: str
    stamps: int
    regularisation: float
    max_iterations: int
    decorrelate: bool
    significance: bool
    ref_psfs: NDArray[np.float64] | None  # (n or 1, k, k)
    sci_psfs: NDArray[np.float64] | None


@dataclasses.dataclass
class _Image:
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


def _load(
    name: Literal["ref", "sci"],
    frames: Frames,
    i: int,
    stats: NDArray[np.float64],
    psfs: NDArray[np.float64] | None,
    threads: int,
) -> _Image:
    """Image i; `stats` (n_tiles, 2) are sky and noise of its tiles."""
    values, bads, variances = (
        (frames.refs, frames.bad_refs, frames.ref_variances)
        if name == "ref"
        else (frames.scis, frames.bad_scis, frames.sci_variances)
    )
    data = values[min(i, len(values) - 1)]
    bad = ~(np.abs(data) < _LIMIT)
    if bads is not None:
        bad |= bads[min(i, len(bads) - 1)]
    if bad.all():
        raise _NoFit("no pixel is good in both images")
    sky, sigma = np.median(stats, axis=0)
    floor = 0.25 * sigma**2
    with np.errstate(over="ignore"):
        data = np.subtract(data, sky, dtype=data.dtype).astype(np.float32, copy=False)
    stars = find_stars(data, bad, max_stars=_MAX_STARS)
    if bad.any():
        np.copyto(data, 0, where=bad)
        blocks.fill_bad(data, bad, threads)
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
        fwhm = float((xx[0] * yy[0] - xy[0] ** 2) ** 0.25 / _SIGMA)
    elif len(stars.x) >= _ENOUGH_STARS:
        fwhm = fwhm_of(stars)
    return _Image(name, data, bad, float(sky), float(sigma), variance, floor, stars, fwhm, psf)


def _choose_basis(image: _Image, target: _Image, options: _Options) -> _Basis:
    square = _SIGMA**2 * (target.fwhm**2 - image.fwhm**2)  # of the kernel, for Gaussian PSFs
    sigma = np.sqrt(square) if square > 0 else 0.0
    if options.basis == "delta":
        return _deltas(options.kernel_size or 2 * min(max(3, int(np.ceil(2.5 * sigma)) + 1), 7) + 1)
    sigma = max(sigma, _FACTOR * _LEAST_SIGMA)
    return _gaussians(sigma, options.kernel_size or 2 * int(np.ceil(2.8 * _FACTOR * sigma)) + 1)


def _stamp_side(target: _Image) -> int:
    """Side of the stamp of a star, a multiple of 8."""
    if not np.isfinite(target.fwhm):
        return 24
    return int(np.clip(8 * np.ceil(6.5 * target.fwhm / 8), 24, 128))


def _choose_stamps(
    ref: _Image, target: _Image, fit: str, most: int
) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Origins (n, 2) and shape of the windows that are fitted."""
    shape = target.data.shape
    if fit == "all":
        least, usual = _ALL_SIDE
        side = tuple(
            min(n, max(least, min(usual, -(-n // _ALL_STAMPS[0])), -(-n // _ALL_STAMPS[1])))
            for n in shape
        )
        axes = [
            np.linspace(0, n - s, -(-n // s)).round().astype(np.int64)
            for n, s in zip(shape, side, strict=True)
        ]
        return np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1), side
    side = tuple(min(_stamp_side(target), n) for n in shape)
    centres = np.stack([ref.stars.y, ref.stars.x], axis=1)[:most]
    origins = np.round(centres).astype(np.int64) - np.array(side) // 2
    return np.clip(origins, 0, np.array(shape) - side), side


def _flux_ratio(image: _Image, target: _Image) -> float:
    """Median flux of the same stars in `target` over that in `image`; 1 without any."""
    from scipy.spatial import cKDTree

    if not len(image.stars.x) or not len(target.stars.x):
        return 1.0
    places = [np.column_stack([each.stars.x, each.stars.y]) for each in (image, target)]
    distance, index = cKDTree(places[0]).query(places[1])
    same = distance < 3
    ratio = target.stars.flux[same] / image.stars.flux[index[same]]
    return float(np.median(ratio)) if len(ratio) else 1.0


def _windows(
    plane: NDArray[Any], origins: NDArray[np.int64], side: tuple[int, int]
) -> NDArray[Any]:
    """(n, h, w): a copy of the windows of a plane."""
    view = np.lib.stride_tricks.sliding_window_view(plane, side)
    return view[origins[:, 0], origins[:, 1]]


def _middles(
    origins: NDArray[np.int64], side: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns x and rows y of the middles of windows."""
    y, x = (origins + (np.array(side) - 1) / 2).T
    return x, y


def _polynomial(
    coefficients: NDArray[np.float64], band: slice, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Polynomial at all pixels of a band of rows."""
    ny, nx = shape
    u = 2 * np.arange(nx) / max(nx - 1, 1) - 1
    v = 2 * np.arange(band.start, band.stop) / max(ny - 1, 1) - 1
    out = np.zeros((len(v), nx), np.float32)
    for c, (i, j) in zip(coefficients, _powers(_MAX_ORDER), strict=False):
        out += np.outer(v**j, c * u**i).astype(np.float32)
    return out


def _importance(square: NDArray[Any], power: int) -> NDArray[Any]:
    """Weight of pixels by their squared S/N.

    Noise of the convolved image pulls coefficients to 0, and there is much sky.
    """
    return ((square + 1) / (square + _SIGNAL_SNR**2)) ** power


def _signal_variance(
    rest: NDArray[Any], sky: NDArray[Any], model: NDArray[Any], most: int = 20_000
) -> float:
    """Variance per count of signal that makes what the fit leaves of the stars as it should be.

    Photon noise of both images together, whatever their gains, and what stars are matched worse
    than that: the median of rest^2 / variance is that of chi^2 with one degree of freedom.
    """
    bright = np.flatnonzero(model > 3 * np.sqrt(sky))
    if len(bright) < 50:
        return 0.0
    bright = bright[:: -(-len(bright) // most)]
    square, sky, model = rest[bright] ** 2, sky[bright], model[bright]
    # Half of the pixels have rest^2 above that median times their variance.
    return max(0.0, float(np.median((square / _MEDIAN_CHI2 - sky) / model)))


class _Pair:
    """A pair, the kernel that matches it, and what is made with both."""

    def __init__(self, image: _Image, target: _Image, basis: _Basis, threads: int):
        self.image, self.target, self.basis, self.threads = image, target, basis, threads
        self.shape = target.data.shape
        self.r = basis.taps.shape[1] // 2
        if 2 * self.r + 1 > min(self.shape):
            raise _NoFit(
                f"the kernel of {2 * self.r + 1} pixels is larger than the image: set kernel_size"
            )
        self.bordered = blocks.with_border(image.data, self.r)
        self.signal = 0.0
        """Variance of the difference per count of signal, beyond what variances tell."""

    # ---------------------------------------------------------------- fit

    def fit(self, ref: _Image, how: str, options: _Options) -> None:
        """Fit `self.kernel` to stamps of stars or to all pixels."""
        if how == "stars" and not min(len(self.image.stars.x), len(self.target.stars.x)):
            raise _NoFit(
                "no star to fit a kernel to, neither saturated nor masked and 10 times above the "
                "noise in both images: fit='all' takes all pixels"
            )
        origins, side = _choose_stamps(ref, self.target, how, options.stamps)
        usable = ~_windows(self.near_bad() | self.target.bad, origins, side)
        enough = usable.mean((1, 2)) > _LEAST_SHARE[how]
        origins, usable = origins[enough], usable[enough]
        if not len(origins):
            raise _NoFit("stars have too many bad pixels around them: fit='all' takes all pixels")
        target = _windows(self.target.data, origins, side)
        variance = self.first_variance(origins, side, target)
        excess = np.where(usable, target**2 / variance - 1, 0).sum((1, 2))
        strong = excess > _STAMP_SNR**2 + 5 * np.sqrt(2 * usable.sum((1, 2)))
        # Of small stamps that cover the frame several share a source.
        n_sources = strong.sum() * min(1.0, side[0] * side[1] / _stamp_side(self.target) ** 2)
        orders = [
            max(o for o in range(order + 1) if o == 0 or len(_powers(o)) * _STAMPS_PER_TERM <= most)
            for order, most in (
                (options.kernel_order, n_sources),
                (options.scale_order, n_sources),
                (options.background_order, len(origins)),
            )
        ]
        n_terms = np.full(len(self.basis.products) + 1, len(_powers(orders[0])))
        n_terms[[self.basis.carrier, -1]] = [len(_powers(order)) for order in orders[1:]]
        terms = _terms(*_middles(origins, side), max(orders), self.shape)
        importance = usable.astype(np.float64)
        for number in range(_PASSES[how]):
            weight = (importance / variance).astype(np.float32)
            equations = gram.normal_equations(
                self.bordered, self.target.data, weight, origins, self.basis.turned,
                self.basis.products, self.basis.sums.astype(np.float32), self.basis.carrier,
                self.threads,
            )  # fmt: skip
            penalty = self.penalty(equations[0], options.regularisation)
            table, kept = _fit(
                equations, penalty, importance.sum((1, 2)), terms, n_terms,
                options.max_iterations if number else 0, self.threads,
            )  # fmt: skip
            self.kernel = self.make_kernel(table, n_terms)
            if number + 1 < _PASSES[how]:
                rest, model, variance = self.residuals(
                    origins, side, target, usable & kept[:, None, None]
                )
                variance += (_SIGNAL_ERROR[number + 1] * model) ** 2
                importance = usable * _importance(model**2 / variance, _GATE[how])
                # Cosmic rays, and in a fit to all pixels whatever is new.
                usual = _CLIP**2 * variance + model**2
                importance *= np.minimum(1, usual / np.maximum(rest**2, 1e-30))
        carrier = self.basis.carrier
        snr = table[carrier, 0] * np.sqrt(equations[0][kept, carrier, carrier].sum())
        if not (np.isfinite(table).all() and snr > _LEAST_SNR):
            raise _NoFit(
                "the images have no source in common that a kernel could be fitted to; check that "
                "they are aligned"
            )
        if self.leaves_more_than_identity(origins, side, target, usable & kept[:, None, None]):
            raise _NoFit(
                "what the images have in common is too faint to fit a kernel to: it would leave "
                "more of the sources than no kernel does"
            )
        self.n_stamps, self.order = int(kept.sum()), orders[0]
        self.background_order = options.background_order

    def leaves_more_than_identity(
        self, origins: NDArray[np.int64], side: tuple[int, int], target: NDArray[np.float32],
        used: NDArray[np.bool_],
    ) -> bool:  # fmt: skip
        """Whether the kernel leaves more of the sources than scaling the image alone.

        A kernel that is fitted to noise smooths it away, and the sources with it.
        """
        signal = self.signal  # which the residuals of the last pass are not to change
        rest, _, variance = self.residuals(origins, side, target, used)
        self.signal, signal = signal, self.signal
        image = _windows(self.image.data, origins, side).astype(np.float64)
        bright = used & (image > _SIGNAL_SNR * self.image.sigma)
        bright &= target > _SIGNAL_SNR * self.target.sigma
        if not bright.any():
            return True
        rest, variance, image, target = (each[bright] for each in (rest, variance, image, target))
        factor = float(np.median(target / image))
        noise = self.target.sigma**2 + (factor * self.image.sigma) ** 2
        noise = noise + signal * target + 1e-30

        def misfit(square: NDArray[Any]) -> float:
            return float(np.minimum(square, _CLIP**2).mean())

        alone = misfit((target - factor * image) ** 2 / noise)
        return misfit(rest**2 / variance) > _WORSE * alone

    def assume_identity(self) -> None:
        """Set `self.kernel` to 1 where nothing tells it, with the background that fits."""
        kernel = np.zeros((1, 2 * self.r + 1, 2 * self.r + 1))
        kernel[0, self.r, self.r] = 1
        good = ~(self.image.bad | self.target.bad)
        level = np.median((self.target.data - self.image.data)[good]) if good.any() else 0.0
        skies = self.image.sky, self.target.sky
        self.kernel = MatchingKernel(
            kernel, np.array([level], np.float64), self.shape, self.image.name, skies
        )
        self.signal, self.n_stamps, self.order, self.background_order = 0.0, 0, 0, 0

    def near_bad(self) -> NDArray[np.bool_]:
        """Pixels that bad ones of the convolved image, or its edge, have a part in."""
        from scipy.ndimage import maximum_filter

        near = max(1, self.r // 3)
        bad = self.image.bad
        bad = maximum_filter(bad, 2 * near + 1) if bad.any() else bad.copy()
        bad[:near] = bad[-near:] = bad[:, :near] = bad[:, -near:] = True
        return bad

    def penalty(self, normal: NDArray[np.float64], strength: float) -> NDArray[np.float64] | float:
        """What each stamp adds for the roughness of the kernel at its place."""
        if self.basis.roughness is None:
            return 0.0
        n = len(self.basis.products)
        raw = np.eye(n)  # coefficients of the products from those of functions without sums
        raw[self.basis.carrier] -= self.basis.sums
        rough = np.zeros((n + 1, n + 1))
        rough[:n, :n] = raw.T @ self.basis.roughness @ raw
        scale = np.trace(normal.mean(0)[:n, :n]) / np.trace(rough)
        return strength * scale * rough

    def make_kernel(self, table: NDArray[np.float64], n_terms: NDArray[np.int64]) -> MatchingKernel:
        basis, n = self.basis, int(n_terms[:-1].max())
        images = basis.images - basis.sums[:, None, None] * basis.images[basis.carrier]
        components = np.tensordot(table[:-1, :n].T, images, 1)
        return MatchingKernel(
            components, table[-1, : n_terms[-1]], self.shape, self.image.name,
            (self.image.sky, self.target.sky),
        )  # fmt: skip

    def first_variance(
        self, origins: NDArray[np.int64], side: tuple[int, int], target: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Of the difference, with the basis function that has the width that the PSFs tell."""
        carrier = self.basis.images[self.basis.carrier]
        factor = _flux_ratio(self.image, self.target) ** 2 * (carrier**2).sum() / carrier.sum() ** 2
        total = (_SIGNAL_ERROR[0] * target.astype(np.float64)) ** 2
        for each, weight in ((self.image, factor), (self.target, 1.0)):
            if each.variance is None:
                total += weight * each.sigma**2
            else:
                total += weight * np.maximum(_windows(each.variance, origins, side), each.floor)
        return total + 1e-10 * float(np.abs(target).max()) ** 2 + 1e-30

    def residuals(
        self, origins: NDArray[np.int64], side: tuple[int, int], target: NDArray[np.float32],
        used: NDArray[np.bool_],
    ) -> tuple[NDArray[Any], ...]:  # fmt: skip
        """What the first pass leaves of the stamps, its model, and the variance with both."""
        # As in the fit, with the kernel of the middle of a stamp.
        model = self.convolve_as(blocks.PLAIN, self.bordered, origins, side)
        terms = _terms(*_middles(origins, side), _MAX_ORDER, self.shape)
        terms = terms[:, : len(self.kernel.background)]
        rest = target - model - (terms @ self.kernel.background)[:, None, None]
        known = self.known_variance(origins, side)
        if self.target.variance is not None:
            known = known + _windows(self.target.variance, origins, side)
        else:
            known = known + self.target.sigma**2
        known = np.maximum(known, self.target.floor)
        known = np.broadcast_to(known, rest.shape) + 1e-10 * float(np.abs(target).max()) ** 2
        if self.image.variance is None or self.target.variance is None:
            self.signal = _signal_variance(rest[used], known[used], model[used])
        return rest, model, known + self.signal * np.maximum(model, 0) + 1e-30

    # ---------------------------------------------------------------- what the kernel makes

    @property
    def padded(self) -> NDArray[np.float32]:
        return blocks.padded_kernels(self.kernel.components)

    def summed_bands(
        self, grid: _Grid
    ) -> Callable[[slice, NDArray[np.int64]], NDArray[np.float32]]:
        """A function that convolves a band of rows by sums over the kernel."""
        kernels = blocks.row_kernels(
            self.padded, self.kernel.powers, self.shape[0], self.threads
        )

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
        from scipy import fft

        (_, nx), size = self.shape, 2 * self.r + 1
        shape = [fft.next_fast_len(n + size - 1, real=True) for n in (_BAND, nx)]
        kernels = fft.rfft2(self.kernel.components, shape, workers=self.threads)

        def convolve(band: slice, _: NDArray[np.int64]) -> NDArray[np.float32]:
            n = band.stop - band.start
            rows = self.bordered[band.start : band.stop + size - 1, : nx + size - 1]
            image = fft.rfft2(rows.astype(np.float64), shape, workers=self.threads)
            out = np.zeros((n, nx), np.float32)
            x = 2 * np.arange(nx) / max(nx - 1, 1) - 1
            y = 2 * np.arange(band.start, band.stop) / max(self.shape[0] - 1, 1) - 1
            for (i, j), kernel in zip(self.kernel.powers, kernels, strict=True):
                part = fft.irfft2(image * kernel, shape, workers=self.threads)
                part = part[size - 1 : size - 1 + n, size - 1 : size - 1 + nx]
                out += (y**j)[:, None] * (x**i) * part
            return out

        return convolve

    def convolve_as(
        self, mode: int, plane: NDArray[np.float32], origins: NDArray[np.int64],
        side: tuple[int, int],
    ) -> NDArray[np.float32]:  # fmt: skip
        """Blocks of a bordered plane, each convolved by the kernel of its middle as it is, or by
        its moduli or squares.
        """
        terms = self.kernel.terms(*_middles(origins, side))
        return blocks.convolve_blocks(plane, self.padded, terms, origins, side, mode, self.threads)

    def concentration(self) -> float:
        """Noise that the kernel makes of white noise, for a kernel of sum 1."""
        kernel = self.kernel(*self.middle)
        return float((kernel**2).sum() / kernel.sum() ** 2)

    def known_variance(self, origins: NDArray[np.int64], side: tuple[int, int]) -> NDArray[Any]:
        """Of the convolved image, convolved by the squared kernel: (n, h, w) or (n, 1, 1)."""
        if self.image.variance is not None:
            return self.convolve_as(blocks.SQUARE, self.bordered_variance, origins, side)
        terms = self.kernel.terms(*_middles(origins, side))
        n = len(self.kernel.components)
        parts = self.kernel.components.reshape(n, -1)
        squares = np.einsum("si,ij,sj->s", terms, parts @ parts.T, terms)
        return (squares * self.image.sigma**2)[:, None, None]

    @functools.cached_property
    def bordered_variance(self) -> NDArray[np.float32]:
        return blocks.with_border(self.image.variance, self.r, self.image.sigma**2)

    def difference(self, image: NDArray[np.float32], variance: NDArray[np.float32]) -> None:
        """Fill `image`, and `variance` for independent pixels."""
        grid = _Grid(self.shape)
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
            if touched.any():
                share = np.zeros((len(origins), *grid.side), np.float32)
                share[touched] = self.convolve_as(blocks.MODULUS, bad, origins[touched], grid.side)
                lost |= grid.joined(share, band) > _INFLUENCE * whole
            np.copyto(rest, np.nan, where=lost)
            image[band] = rest
            variance[band] = error
        background = _background(image, self.background_order)
        self.kernel = dataclasses.replace(self.kernel, background=background)
        for band, _ in grid.bands():
            image[band] -= _polynomial(background, band, self.shape)
            if self.kernel.convolved == "sci":
                factor = 1 / _polynomial(sums, band, self.shape)
                image[band] *= -factor
                variance[band] *= factor**2

    @property
    def middle(self) -> tuple[float, float]:
        """Column x and row y of the middle of the frame."""
        return (self.shape[1] - 1) / 2, (self.shape[0] - 1) / 2

    @property
    def measured(self) -> bool:
        """Whether no variance came, so that the noise is to be measured."""
        return self.image.variance is None and self.target.variance is None

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
        grid = _Grid(self.shape)
        data = np.where(np.isnan(image), 0, image)
        lost = np.isnan(image)
        blocks.fill_bad(data, lost, self.threads)
        bordered = blocks.with_border(data, self.r)
        bad = blocks.with_border(lost, self.r, 1.0)
        whole = float(np.abs(kernels).sum((1, 2)).mean())
        for band, origins in grid.bands():
            x, y = _middles(origins, grid.side)
            weights = _hats(y, ys)[:, :, None] * _hats(x, xs)[:, None, :]
            weights = weights.reshape(len(x), -1)
            parts = blocks.convolve_blocks(
                bordered, padded, weights, origins, grid.side, threads=self.threads
            )
            made = grid.joined(parts, band).copy()
            gone = lost[band].copy()
            touched = grid.touched(bad, origins, self.r)
            if touched.any():
                share = np.zeros((len(origins), *grid.side), np.float32)
                share[touched] = blocks.convolve_blocks(
                    bad, padded, weights[touched], origins[touched], grid.side, blocks.MODULUS,
                    threads=self.threads,
                )  # fmt: skip
                gone |= grid.joined(share, band) > _INFLUENCE * whole
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

    def psf(self, decorrelated: bool) -> NDArray[np.float64]:
        """PSF of the difference at the middle of the frame, sum 1, of odd size."""
        from scipy.signal import oaconvolve

        target = self.target
        if target.psf is not None:
            psf = target.psf
        else:
            fwhm = fwhm_of(target.stars)
            if not np.isfinite(fwhm):
                raise ValueError(f"no star shows the PSF: give `{target.name}_psfs`")
            size = 2 * int(np.ceil(2 * fwhm)) + 1
            psf = measure_psf(target.data, target.bad, target.stars, size=size, sky=0.0)
        if decorrelated:
            psf = oaconvolve(psf, self.whitening(self.kernel(*self.middle)), mode="same")
            psf /= psf.sum()
        return psf

    def point_sources(
        self, image: NDArray[np.float32], noise: NDArray[np.float32], psf: NDArray[np.float64],
        decorrelated: bool, flux: NDArray[np.float32], flux_err: NDArray[np.float32],
    ) -> None:  # fmt: skip
        """Flux of a point source at each pixel by PSF photometry with equal weights, its error.

        The noise of the difference is correlated, that of the images is not: the error is that
        of sum P D / sum P^2 for the noise of the images at the middle of the frame, scaled to
        the noise around each pixel.
        """
        from scipy.signal import oaconvolve

        factor = 1.0
        if not decorrelated:
            kernel = self.kernel(*self.middle)
            noise_r, noise_t = self.image.sigma**2, self.target.sigma**2
            both = oaconvolve(psf, kernel[::-1, ::-1])
            alone, pixel = (psf**2).sum(), noise_t + noise_r * (kernel**2).sum()
            if pixel > 0:
                factor = (noise_t * alone + noise_r * (both**2).sum()) / (pixel * alone)
        r = len(psf) // 2
        good = np.isfinite(image) & np.isfinite(noise)
        padded = blocks.padded_kernels(psf[None, ::-1, ::-1])
        data = blocks.with_border(np.where(good, image, 0), r)
        square = blocks.with_border(np.where(good, noise, 0) ** 2, r)
        bad = blocks.with_border(~good, r, 1.0)
        whole = np.float32((psf**2).sum())
        grid = _Grid(self.shape)
        for band, origins in grid.bands():

            def convolved(
                plane: NDArray[np.float32], mode: int, origins: NDArray[np.int64]
            ) -> NDArray[np.float32]:
                one = np.ones((len(origins), 1))
                return blocks.convolve_blocks(
                    plane, padded, one, origins, grid.side, mode, self.threads
                )

            signal = grid.joined(convolved(data, blocks.PLAIN, origins), band)
            variance = grid.joined(convolved(square, blocks.SQUARE, origins), band)
            touched = grid.touched(bad, origins, r)
            lost = np.zeros((len(origins), *grid.side), np.float32)
            lost[touched] = convolved(bad, blocks.SQUARE, origins[touched])
            # What of the PSF is on good pixels.
            area = whole - grid.joined(lost, band)
            area = np.where(good[band], area, np.nan)
            flux[band] = signal / area
            flux_err[band] = np.sqrt(factor * variance) / area


def _hats(x: NDArray[np.float64], nodes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(len(x), len(nodes)): weights with which values at `nodes` make the values at `x`."""
    return np.stack([np.interp(x, nodes, unit) for unit in np.eye(len(nodes))], axis=1)


class _Grid:
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

    def joined(self, parts: NDArray[Any], band: slice) -> NDArray[Any]:
        """The pixels of a band from its blocks, (n, h, w) or (n, 1, 1)."""
        (_, nx), (h, w) = self.shape, self.side
        n_x = -(-nx // w)
        plane = np.broadcast_to(parts, (len(parts), h, w)).reshape(-1, n_x, h, w)
        plane = plane.transpose(0, 2, 1, 3).reshape(-1, n_x * w)
        return plane[: band.stop - band.start, :nx]

    def touched(
        self, bad: NDArray[np.float32], origins: NDArray[np.int64], r: int
    ) -> NDArray[np.bool_]:
        """Blocks that a kernel reaches from bad pixels, in a plane with a border of r pixels."""
        h, w = self.side
        return np.array([bad[y : y + h + 2 * r, x : x + w + 2 * r].any() for y, x in origins])


def _background(image: NDArray[np.float32], order: int) -> NDArray[np.float64]:
    """Polynomial through the medians of boxes, those that stand out left out."""
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
    while order and len(level) < _STAMPS_PER_TERM * len(_powers(order)):
        order -= 1
    if not level:
        good = image[np.isfinite(image)]
        return np.array([float(np.median(good)) if len(good) else 0.0])
    terms, level = _terms(np.array(x), np.array(y), order, (ny, nx)), np.array(level, np.float64)
    kept = np.ones(len(level), bool)
    for _ in range(5):
        coefficients = np.linalg.lstsq(terms[kept], level[kept], rcond=None)[0]
        rest = np.abs(level - terms @ coefficients)
        fits = rest <= 3 * 1.4826 * np.median(rest[kept]) + 1e-30
        if (fits == kept).all() or 2 * fits.sum() < len(fits):
            break
        kept = fits
    return coefficients


def _calibrate(
    image: NDArray[np.float32], variance: NDArray[np.float32], least: float = 0.0
) -> None:
    """Scale the variance to what a difference shows of it, tile by tile, linear between them.

    The pixels of images that were resampled are not independent, and the noise of the sky may
    change over a frame. No tile is scaled by less than `least`.
    """
    ny, nx = image.shape
    good = np.isfinite(image)
    if not good.any():
        return
    # No division by zero where images have no noise.
    square = np.square(image, where=good, out=np.zeros_like(image))
    variance += np.float32(1e-6 * square.sum(dtype=np.float64) / good.sum() + 1e-30)
    origins, (h, w) = tile.plan_tiles(ny, nx)
    factors = np.full(len(origins), np.nan)
    for k, (y, x) in enumerate(origins):
        part = np.s_[y : y + h : 2, x : x + w : 2]
        values = (image[part] / np.sqrt(variance[part]))[good[part]]
        if len(values) >= tile.MIN_SAMPLES:
            # Between the quantiles of 1 sigma on either side: sources are taken off already.
            low, high = np.quantile(values, (0.158655, 0.841345))
            factors[k] = ((high - low) / 2) ** 2
    known = np.isfinite(factors)
    factors[~known] = np.median(factors[known]) if known.any() else 1.0
    factors = np.maximum(factors, least)
    ys, xs = (np.unique(origins[:, axis]) + (side - 1) / 2 for axis, side in ((0, h), (1, w)))
    nodes = factors.reshape(len(ys), len(xs))
    nodes = (nodes @ _hats(np.arange(nx), xs).T).astype(np.float32)
    place = np.interp(np.arange(ny), ys, np.arange(len(ys)))
    for y, row in enumerate(variance):
        above = int(place[y])
        part = np.float32(place[y] - above)
        row *= nodes[above] if not part else (1 - part) * nodes[above] + part * nodes[above + 1]


def subtract(
    frames: Frames,
    *,
    basis: Literal["gaussian", "delta"] = "gaussian",
    kernel_order: int = 2,
    background_order: int = 1,
    scale_order: int = 0,
    convolve: Literal["auto", "ref", "sci"] = "auto",
    kernel_size: int | None = None,
    fit: Literal["auto", "stars", "all"] = "auto",
    stamps: int = _STAMPS,
    regularisation: float = 1e-3,
    max_iterations: int = 5,
    decorrelate: bool = False,
    significance: bool = True,
    ref_psfs: ArrayLike | None = None,
    sci_psfs: ArrayLike | None = None,
) -> dict[str, Any]:
    r"""Fill ``frames.image`` and ``frames.noise``; see `fastdiff.subtract_batch`.

    Parameters
    ----------
    frames : Frames
    basis : {"gaussian", "delta"}
        Kernels of Gaussians times polynomials, or of single pixels.
    kernel_order, background_order, scale_order : int, 0 to 3
        Order of the polynomial in x and y that the shape of the kernel, the difference of the
        skies, and the photometric scale follow. Lowered, with a note, where there are fewer than
        4 stars (or other stamps with a source) for each of its terms.
    convolve : {"auto", "ref", "sci"}
        Image that is convolved; by default the one with the narrower stars.
    kernel_size : int, optional
        Side of the kernel in pixels, odd. By default from the widths of the stars, up to 15 for
        single pixels: their cost grows with the 4th to 6th power of it.
    fit : {"auto", "stars", "all"}
        Fit stamps about the stars of the reference, or all good pixels, which needs no stars
        (galaxies do) and costs more. By default stars where there are at least 8, else all
        pixels; where these show nothing that both images have, a kernel of 1 is assumed, noted.
    stamps : int
        Most stars that are fitted.
    regularisation : float
        Strength of the smoothness of kernels of single pixels, relative to the data.
    max_iterations : int
        How often stamps that do not fit are left out.
    decorrelate : bool
        Whiten the noise, which the convolution correlates.
    significance : bool
        Also make maps of the flux of a point source at each pixel, of its error, and of their
        ratio, the significance, in which `find_transients` then searches. Without them a third
        of the time is saved.
    ref_psfs, sci_psfs : array_like, optional
        PSFs of sum 1, centred on the middle pixel, of odd side k: (k, k) or (n, k, k). They tell
        which image is sharper, how wide the kernel has to be, and what a point source of the
        difference looks like; the kernel itself is fitted all the same. By default measured from
        the stars, which a field of galaxies may not have.

    Returns
    -------
    dict
        What the method adds to ``Difference.meta``: "convolved" (names), "fwhm" ((n, 2): of ref
        and of sci, pixels), "stamps" ((n,): how many a kernel rests on), "scale", "sky" and
        "sky_noise" (of sci), "pixel_threshold", "noise_free", "seconds".

    Notes
    -----
    The noise is that of the difference, with the variance :math:`V_T + K^2 * V_R`. An image that
    comes without one has that of its sky, and for the photon noise of its stars a multiple of
    the matched signal is added, with which the residuals of the fitted stars are what they
    should be. Where no variance came at all the sum is scaled, tile by tile, to the noise that
    the difference shows. The errors of the map of fluxes are scaled to what the map shows in any
    case, but never below what the variances say: the noise of resampled images is correlated.
    """
    n, ny, nx = frames.scis.shape
    options = _check_options(
        basis, kernel_order, background_order, scale_order, convolve, kernel_size, fit, stamps,
        regularisation, max_iterations, decorrelate, significance,
        _one_psf_each("ref_psfs", ref_psfs, frames.scis.shape),
        _one_psf_each("sci_psfs", sci_psfs, frames.scis.shape),
    )  # fmt: skip
    seconds = dict.fromkeys(("measure", "stars", "fit", "difference", "significance"), 0.0)
    begun = time.perf_counter()
    origins, shape = tile.plan_tiles(ny, nx)
    stats = tile.measure_tiles(
        frames.refs, frames.scis, frames.bad_refs, frames.bad_scis, origins, shape, frames.threads
    )
    seconds["measure"] = time.perf_counter() - begun
    across = max(1, min(frames.threads, n))
    maps = {}
    if significance:
        maps = {
            name: np.full((n, ny, nx), np.nan, np.float32)
            for name in ("significance", "flux", "flux_err")
        }

    def one(i: int) -> dict[str, Any]:
        own = {name: each[i] for name, each in maps.items()}
        threads = max(1, frames.threads // across)
        try:
            return _subtract_one(frames, i, stats[i], options, own, threads)
        except _NoFit as reason:
            frames.note(i, f"no difference: {reason}")
            frames.image[i] = frames.noise[i] = np.nan
            return {}

    found = []
    with ThreadPoolExecutor(across, thread_name_prefix="fastdiff-psfmatch") as pool:
        for result in pool.map(one, range(n)):
            found.append(result)
            frames.progress(len(found), n)
            for name, value in result.get("seconds", {}).items():
                seconds[name] += float(value) / across
    frames.extras |= {**maps, "kernel": [each.get("kernel") for each in found]}
    if significance:
        frames.extras["psf"] = [each.get("psf", np.full((1, 1), np.nan)) for each in found]
    return {
        "convolved": [each["kernel"].convolved if each else None for each in found],
        "fwhm": np.array([each.get("fwhm", (np.nan, np.nan)) for each in found]),
        "stamps": np.array([each.get("stamps", 0) for each in found]),
        "scale": np.array([each.get("scale", np.nan) for each in found], np.float32),
        "sky": np.median(stats[:, :, 2], axis=1),
        "sky_noise": np.median(stats[:, :, 3], axis=1),
        "pixel_threshold": 3.0,
        "noise_free": False,
        "seconds": seconds,
    }


def _matched(ref: _Image, sci: _Image, options: _Options, threads: int) -> tuple[_Pair, str]:
    """The pair with its kernel, and what this was fitted to: "stars", "all" pixels or "none"."""
    pairs = [(ref, sci), (sci, ref)]
    n_stars = min(len(ref.stars.x), len(sci.stars.x))
    if options.convolve != "auto":
        pairs = [pairs[options.convolve == "sci"]]
    elif np.isfinite(ref.fwhm + sci.fwhm):
        pairs = [pairs[sci.fwhm < ref.fwhm]]
    if options.fit != "auto":
        ways = [options.fit]
    elif n_stars < _ENOUGH_STARS:
        ways = ["all", "none"]
    else:
        ways = ["stars", "all", "none"]
    for way in ways:
        made, reason = [], None
        for image, target in pairs:
            pair = _Pair(image, target, _choose_basis(image, target, options), threads)
            try:
                if way == "none":
                    pair.assume_identity()
                else:
                    pair.fit(ref, way, options)
                made.append(pair)
            except _NoFit as error:
                reason = error
        if made:
            break
    if not made:
        assert reason is not None
        raise reason
    # With few stars the widths are not known: a kernel that sharpens is the more concentrated.
    return min(made, key=lambda pair: pair.concentration()), way


def _subtract_one(
    frames: Frames,
    i: int,
    stats: NDArray[np.float64],
    options: _Options,
    maps: dict[str, NDArray[np.float32]],
    threads: int,
) -> dict[str, Any]:
    """Image and noise of pair i in place; what is to be told about it."""
    times = [time.perf_counter()]
    ref = _load("ref", frames, i, stats[:, :2], options.ref_psfs, threads)
    sci = _load("sci", frames, i, stats[:, 2:], options.sci_psfs, threads)
    if (ref.bad | sci.bad).all():
        raise _NoFit("no pixel is good in both images")
    times.append(time.perf_counter())
    pair, how = _matched(ref, sci, options, threads)
    if how == "none":
        frames.note(i, "no source bright enough to fit a kernel: a kernel of 1 assumed")
    elif how != options.fit and how == "all":
        frames.note(i, "few stars: the kernel was fitted to all pixels")
    if how != "none" and pair.order < options.kernel_order:
        frames.note(i, f"kernel_order {pair.order}: more needs more sources to fit")
    times.append(time.perf_counter())
    difference, noise = frames.image[i], frames.noise[i]
    pair.difference(difference, noise)
    if options.decorrelate:
        pair.decorrelate(difference, noise)
    if pair.measured:
        _calibrate(difference, noise)
    np.sqrt(noise, out=noise)
    times.append(time.perf_counter())
    result = {
        "kernel": pair.kernel,
        "scale": pair.kernel.scale(*pair.middle),
        "fwhm": (ref.fwhm, sci.fwhm),
        "stamps": pair.n_stamps,
    }
    if options.significance:
        try:
            result["psf"] = pair.psf(options.decorrelate)
        except ValueError as reason:
            frames.note(i, f"no significance: {reason}")
        else:
            flux, flux_err = maps["flux"], maps["flux_err"]
            pair.point_sources(
                difference, noise, result["psf"], options.decorrelate, flux, flux_err
            )
            # Variances that came say nothing of how the noise of resampled pixels correlates.
            np.square(flux_err, out=flux_err)
            _calibrate(flux, flux_err, 0.0 if pair.measured else 1.0)
            np.sqrt(flux_err, out=flux_err)
            np.divide(flux, flux_err, out=maps["significance"], where=flux_err > 0)
        times.append(time.perf_counter())
    names = ("stars", "fit", "difference", "significance")
    result["seconds"] = dict(zip(names, np.diff(times), strict=False))
    return result


def _check_options(*values: Any) -> _Options:
    options = _Options(*values)
    choices = {
        "basis": ("gaussian", "delta"),
        "convolve": ("auto", "ref", "sci"),
        "fit": ("auto", "stars", "all"),
    }
    for name, known in choices.items():
        value = getattr(options, name)
        if value not in known:
            raise ValueError(
                f"{name} is {value!r}; it must be one of {', '.join(map(repr, known))}"
            )
    for name in ("kernel_order", "background_order", "scale_order"):
        value = _whole(name, getattr(options, name))
        if not 0 <= value <= _MAX_ORDER:
            raise ValueError(f"{name} is {value}; it must be 0 to {_MAX_ORDER}")
    for name, least in (("stamps", 1), ("max_iterations", 0)):
        value = _whole(name, getattr(options, name))
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    size = options.kernel_size
    if size is not None and (_whole("kernel_size", size) < 3 or size % 2 == 0):
        raise ValueError(f"kernel_size is {size}; it must be an odd number of pixels, 3 or more")
    if not options.regularisation >= 0:
        raise ValueError(f"regularisation is {options.regularisation}; it must be 0 or more")
    return options


def _one_psf_each(
    name: str, psfs: ArrayLike | None, shape: tuple[int, int, int]
) -> NDArray[np.float64] | None:
    """(n or 1, k, k)"""
    checked = check_psfs(name, psfs, shape)
    if checked is None:
        return None
    if checked.shape[1] != 1:
        raise ValueError(
            f"`{name}` has {checked.shape[1]} PSFs an image; method='psf-match' takes one: give "
            "(k, k) or (n, k, k)"
        )
    return checked[:, 0]


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be a whole number")
    return int(value)
