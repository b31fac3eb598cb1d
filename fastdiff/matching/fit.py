"""Fit of the kernel that matches a pair, to stamps around stars or to all pixels.

The least-squares sums of every stamp are made once a pass (`fastdiff.kernels.image.gram`) and
combined with the polynomials. Stamps whose chi^2 stands out, because of a variable star, a
transient or a defect, are left out. Later passes have the noise of the matched difference as
their weights.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.core.stats import mad_sigma
from fastdiff.kernels.image import convolve as blocks
from fastdiff.kernels.image import gram

from .apply import MatchedPair
from .basis import FACTOR, MAX_ORDER, Basis, deltas, gaussians, powers_up_to, terms_at
from .images import ENOUGH_STARS, SIGMA_OF_FWHM, MatchedImage, NoFit, middles, windows
from .kernel import MatchingKernel
from .noise import STAMPS_PER_TERM

__all__ = ["STAMPS", "PsfMatchOptions", "match"]

STAMPS = 200  # that are fitted

_LEAST_SIGMA = 0.7  # pixels, of the narrow Gaussian
_LEAST_SHARE = {"stars": 0.6, "all": 0.05}  # of good pixels in a stamp
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
_MEDIAN_CHI2 = 0.4549  # of one degree of freedom


# ------------------------------------------------------------------------ what is fitted


@dataclasses.dataclass(frozen=True)
class PsfMatchOptions:
    """Options of the method "psf-match", as its `subtract` describes them."""

    basis: str = "gaussian"
    kernel_order: int = 2
    background_order: int = 1
    scale_order: int = 0
    convolve: str = "auto"
    kernel_size: int | None = None
    fit: str = "auto"
    stamps: int = STAMPS
    regularisation: float = 1e-3
    max_iterations: int = 5
    decorrelate: bool = False
    significance: bool = True
    ref_psfs: NDArray[np.float64] | None = None  # (n or 1, k, k)
    sci_psfs: NDArray[np.float64] | None = None


def match(
    ref: MatchedImage, sci: MatchedImage, options: PsfMatchOptions, threads: int
) -> tuple[MatchedPair, str]:
    """The pair with its kernel, and what this was fitted to: "stars", "all" pixels or "none"."""
    pairs = [(ref, sci), (sci, ref)]
    n_stars = min(len(ref.stars.x), len(sci.stars.x))
    if options.convolve != "auto":
        pairs = [pairs[options.convolve == "sci"]]
    elif np.isfinite(ref.fwhm + sci.fwhm):
        pairs = [pairs[sci.fwhm < ref.fwhm]]
    if options.fit != "auto":
        ways = [options.fit]
    elif n_stars < ENOUGH_STARS:
        ways = ["all", "none"]
    else:
        ways = ["stars", "all", "none"]
    for way in ways:
        made, reason = [], None
        for image, target in pairs:
            basis = _choose_basis(image, target, options)
            pair = MatchedPair(image, target, basis.size, threads)
            try:
                if way == "none":
                    _assume_identity(pair)
                else:
                    _Fit(pair, basis).run(ref, way, options)
                made.append(pair)
            except NoFit as error:
                reason = error
        if made:
            break
    if not made:
        assert reason is not None
        raise reason
    # With few stars the widths are not known: a kernel that sharpens is the more concentrated.
    return min(made, key=lambda pair: pair.concentration()), way


def _choose_basis(image: MatchedImage, target: MatchedImage, options: PsfMatchOptions) -> Basis:
    """Basis of a kernel that makes stars of `image` as wide as those of `target`."""
    square = SIGMA_OF_FWHM**2 * (target.fwhm**2 - image.fwhm**2)  # of the kernel, for Gaussian PSFs
    sigma = np.sqrt(square) if square > 0 else 0.0
    if options.basis == "delta":
        return deltas(options.kernel_size or 2 * min(max(3, int(np.ceil(2.5 * sigma)) + 1), 7) + 1)
    sigma = max(sigma, FACTOR * _LEAST_SIGMA)
    return gaussians(sigma, options.kernel_size or 2 * int(np.ceil(2.8 * FACTOR * sigma)) + 1)


def _stamp_side(target: MatchedImage) -> int:
    """Side of the stamp of a star, a multiple of 8."""
    if not np.isfinite(target.fwhm):
        return 24
    return int(np.clip(8 * np.ceil(6.5 * target.fwhm / 8), 24, 128))


def _stamps_of(
    ref: MatchedImage, target: MatchedImage, fit: str, most: int
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


def _flux_ratio(image: MatchedImage, target: MatchedImage) -> float:
    """Median flux of the same stars in `target` over that in `image`; 1 without any."""
    from scipy.spatial import cKDTree

    if not len(image.stars.x) or not len(target.stars.x):
        return 1.0
    places = [np.column_stack([each.stars.x, each.stars.y]) for each in (image, target)]
    distance, index = cKDTree(places[0]).query(places[1])
    same = distance < 3
    ratio = target.stars.flux[same] / image.stars.flux[index[same]]
    return float(np.median(ratio)) if len(ratio) else 1.0


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


# ------------------------------------------------------------------------ the fit


def _solve(
    equations: tuple[NDArray[np.float64], ...],
    penalty: NDArray[np.float64],
    n_pixels: NDArray[np.float64],
    terms: NDArray[np.float64],
    n_terms: NDArray[np.int64],
    max_iterations: int,
    threads: int,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Coefficients of the polynomials, and which stamps they rest on.

    Stamps whose chi^2 a pixel is far above that of the others are left out, and the rest is
    fitted again; but not where no more than a part of the signal does not fit, which may be
    the fault of the kernel. `penalty` is added to the normal matrices, in place, but not to
    chi^2. Row k of the table has the polynomial of function k.
    """
    normal, right, square = equations
    normal += penalty
    filled = np.arange(terms.shape[1]) < n_terms[:, None]
    table = np.zeros(filled.shape)
    usable = n_pixels > 0
    kept = usable
    for _ in range(max_iterations + 1):
        matrix, vector = gram.combine(normal, right, terms * kept[:, None], n_terms, threads)
        table[filled] = gram.solve_positive(matrix, vector, _RIDGE)
        c = terms @ table.T
        # Not by BLAS, whose threads would then wait for more at full speed.
        fitted = np.einsum("nij,nj->ni", normal, c) - np.einsum("nj,ij->ni", c, penalty)
        chi2 = square + (c * (fitted - 2 * right)).sum(1)
        # Without the constant, which is no signal and which no penalty is on.
        power = (c * (fitted - normal[:, :, -1] * c[:, -1:]))[:, :-1].sum(1)
        each = chi2 / np.maximum(n_pixels, 1e-6)
        middle = np.median(each[kept])
        spread = mad_sigma(each[kept], middle)
        fits = each <= middle + _REACH * max(spread, 0.05 * middle)
        fits |= chi2 - middle * n_pixels <= _MISFIT**2 * power
        fits &= usable
        if (fits == kept).all() or 2 * fits.sum() < usable.sum():
            break
        kept = fits
    return table, kept


class _Stamps(NamedTuple):
    """Windows that a kernel is fitted to."""

    origins: NDArray[np.int64]
    """(n, 2): row and column of the first pixel."""
    side: tuple[int, int]
    """Height and width."""
    usable: NDArray[np.bool_]
    """(n, h, w)"""
    target: NDArray[np.float32]
    """(n, h, w): the image that is matched."""


class _Fit:
    """Fit of a pair's kernel with the functions of a basis."""

    def __init__(self, pair: MatchedPair, basis: Basis):
        self.pair, self.basis = pair, basis
        self.image, self.target, self.shape = pair.image, pair.target, pair.shape
        self.there = pair.xp.asarray
        """Brings small arrays to where the images are."""

    def run(self, ref: MatchedImage, how: str, options: PsfMatchOptions) -> None:
        """Fit `pair.kernel` to stamps of stars or to all pixels."""
        stamps = self.choose_stamps(ref, how, options.stamps)
        variance = self.first_variance(stamps)
        orders = self.orders_of(stamps, variance, options)
        n_terms = np.full(len(self.basis.products) + 1, len(powers_up_to(orders[0])))
        n_terms[[self.basis.carrier, -1]] = [len(powers_up_to(order)) for order in orders[1:]]
        terms = terms_at(*middles(stamps.origins, stamps.side), max(orders), self.shape)
        importance = stamps.usable.astype(np.float64)
        for number in range(_PASSES[how]):
            equations = self.equations_of(stamps, (importance / variance).astype(np.float32))
            penalty = self.penalty(equations[0], options.regularisation)
            table, kept = _solve(
                equations, penalty, arrays.on_host(importance.sum((1, 2))), terms, n_terms,
                options.max_iterations if number else 0, self.pair.threads,
            )  # fmt: skip
            self.pair.kernel = self.make_kernel(table, n_terms)
            used = stamps.usable & self.there(kept)[:, None, None]
            if number + 1 < _PASSES[how]:
                rest, model, variance, self.pair.signal = self.residuals(stamps, used)
                variance += (_SIGNAL_ERROR[number + 1] * model) ** 2
                importance = stamps.usable * _importance(model**2 / variance, _GATE[how])
                # Cosmic rays, and in a fit to all pixels whatever is new.
                usual = _CLIP**2 * variance + model**2
                importance *= np.minimum(1, usual / np.maximum(rest**2, 1e-30))
        carrier = self.basis.carrier
        snr = table[carrier, 0] * np.sqrt(equations[0][kept, carrier, carrier].sum())
        if not (np.isfinite(table).all() and snr > _LEAST_SNR):
            raise NoFit(
                "the images have no source in common that a kernel could be fitted to; check that "
                "they are aligned"
            )
        if self.leaves_more_than_identity(stamps, used):
            raise NoFit(
                "what the images have in common is too faint to fit a kernel to: it would leave "
                "more of the sources than no kernel does"
            )
        self.pair.n_stamps, self.pair.order = int(kept.sum()), orders[0]
        self.pair.background_order = options.background_order

    def choose_stamps(self, ref: MatchedImage, how: str, most: int) -> _Stamps:
        """Stamps with enough good pixels."""
        if how == "stars" and not min(len(self.image.stars.x), len(self.target.stars.x)):
            raise NoFit(
                "no star to fit a kernel to, neither saturated nor masked and 10 times above the "
                "noise in both images: fit='all' takes all pixels"
            )
        origins, side = _stamps_of(ref, self.target, how, most)
        usable = ~windows(self.near_bad() | self.target.bad, origins, side)
        enough = arrays.on_host(usable.mean((1, 2))) > _LEAST_SHARE[how]
        origins, usable = origins[enough], usable[self.there(enough)]
        if not len(origins):
            raise NoFit("stars have too many bad pixels around them: fit='all' takes all pixels")
        return _Stamps(origins, side, usable, windows(self.target.data, origins, side))

    def orders_of(
        self, stamps: _Stamps, variance: NDArray[np.float64], options: PsfMatchOptions
    ) -> list[int]:
        """Orders of the kernel's, scale's and background's polynomials that the stamps can tell."""
        usable, (h, w) = stamps.usable, stamps.side
        excess = arrays.on_host(np.where(usable, stamps.target**2 / variance - 1, 0).sum((1, 2)))
        strong = excess > _STAMP_SNR**2 + 5 * np.sqrt(2 * arrays.on_host(usable.sum((1, 2))))
        # Of small stamps that cover the frame several share a source.
        n_sources = strong.sum() * min(1.0, h * w / _stamp_side(self.target) ** 2)
        return [
            max(
                o
                for o in range(order + 1)
                if o == 0 or len(powers_up_to(o)) * STAMPS_PER_TERM <= most
            )
            for order, most in (
                (options.kernel_order, n_sources),
                (options.scale_order, n_sources),
                (options.background_order, len(stamps.origins)),
            )
        ]

    def equations_of(
        self, stamps: _Stamps, weight: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], ...]:
        """Normal matrix, right-hand side and weighted square of the target, of each stamp."""
        basis = self.basis
        functions = gram.Functions(
            basis.turned, basis.products, basis.sums.astype(np.float32), basis.carrier
        )
        made = gram.normal_equations(
            self.pair.bordered, self.target.data, weight, stamps.origins, functions,
            self.pair.threads,
        )  # fmt: skip
        return tuple(arrays.on_host(each) for each in made)

    def leaves_more_than_identity(self, stamps: _Stamps, used: NDArray[np.bool_]) -> bool:
        """Whether the kernel leaves more of the sources than scaling the image alone.

        A kernel that is fitted to noise smooths it away, and the sources with it.
        """
        rest, _, variance, signal = self.residuals(stamps, used)
        target: NDArray[Any] = stamps.target
        image: NDArray[Any] = windows(self.image.data, stamps.origins, stamps.side)
        image = image.astype(np.float64)
        bright = used & (image > _SIGNAL_SNR * self.image.sigma)
        bright &= target > _SIGNAL_SNR * self.target.sigma
        if not bright.any():
            return True
        rest, variance, image, target = (each[bright] for each in (rest, variance, image, target))
        factor = float(np.median(target / image))
        sky = self.target.sigma**2 + (factor * self.image.sigma) ** 2
        noise = sky + signal * target + 1e-30

        def misfit(square: NDArray[Any]) -> float:
            return float(np.minimum(square, _CLIP**2).mean())

        alone = misfit((target - factor * image) ** 2 / noise)
        return misfit(rest**2 / variance) > _WORSE * alone

    def residuals(
        self, stamps: _Stamps, used: NDArray[np.bool_]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], float]:
        """What the kernel leaves of the stamps, its model, the variance with both, and the part
        of the variance per count of signal that no image tells.
        """
        origins, side, target = stamps.origins, stamps.side, stamps.target
        # As in the fit, with the kernel of the middle of a stamp.
        model = self.pair.convolve_as(blocks.PLAIN, self.pair.bordered, origins, side)
        terms = terms_at(*middles(origins, side), MAX_ORDER, self.shape)
        terms = terms[:, : len(self.pair.kernel.background)]
        rest = target - model - self.there(terms @ self.pair.kernel.background)[:, None, None]
        known = self.pair.known_variance(origins, side)
        if self.target.variance is not None:
            known = known + windows(self.target.variance, origins, side)
        else:
            known = known + self.target.sigma**2
        known = np.maximum(known, self.target.floor)
        known = np.broadcast_to(known, rest.shape) + 1e-10 * float(np.abs(target).max()) ** 2
        signal = 0.0
        if self.image.variance is None or self.target.variance is None:
            signal = _signal_variance(rest[used], known[used], model[used])
        return rest, model, known + signal * np.maximum(model, 0) + 1e-30, signal

    def first_variance(self, stamps: _Stamps) -> NDArray[np.float64]:
        """Of the difference, with the basis function that has the width that the PSFs tell."""
        carrier = self.basis.images[self.basis.carrier]
        factor = _flux_ratio(self.image, self.target) ** 2 * (carrier**2).sum() / carrier.sum() ** 2
        target = stamps.target
        total = (_SIGNAL_ERROR[0] * target.astype(np.float64)) ** 2
        for each, weight in ((self.image, factor), (self.target, 1.0)):
            if each.variance is None:
                total += weight * each.sigma**2
            else:
                total += weight * np.maximum(
                    windows(each.variance, stamps.origins, stamps.side), each.floor
                )
        return total + 1e-10 * float(np.abs(target).max()) ** 2 + 1e-30

    def near_bad(self) -> NDArray[np.bool_]:
        """Pixels that bad ones of the convolved image, or its edge, have a part in."""
        near = max(1, self.pair.r // 3)
        bad = self.image.bad.copy()
        if bad.any():
            bad = arrays.scipy_of(bad, "ndimage").maximum_filter(bad, 2 * near + 1)
        bad[:near] = bad[-near:] = bad[:, :near] = bad[:, -near:] = True
        return bad

    def penalty(self, normal: NDArray[np.float64], strength: float) -> NDArray[np.float64]:
        """What each stamp adds for the roughness of the kernel at its place."""
        n = len(self.basis.products)
        if self.basis.roughness is None:
            return np.zeros((n + 1, n + 1))
        # Of functions without sums: raw^T roughness raw, where raw, the identity less the sums in
        # the carrier's row, makes the coefficients of the products from theirs.
        sums, row = self.basis.sums, self.basis.roughness[self.basis.carrier]
        cross = np.outer(sums, row)
        rough = np.zeros((n + 1, n + 1))
        rough[:n, :n] = self.basis.roughness - cross - cross.T
        rough[:n, :n] += row[self.basis.carrier] * np.outer(sums, sums)
        scale = np.trace(normal.mean(0)[:n, :n]) / np.trace(rough)
        rough *= strength * scale
        return rough

    def make_kernel(self, table: NDArray[np.float64], n_terms: NDArray[np.int64]) -> MatchingKernel:
        """Kernel from the coefficients (function, term)."""
        basis, n = self.basis, int(n_terms[:-1].max())
        images = basis.images - basis.sums[:, None, None] * basis.images[basis.carrier]
        components = np.tensordot(table[:-1, :n].T, images, 1)
        return MatchingKernel(
            components, table[-1, : n_terms[-1]], self.shape, self.image.name,
            (self.image.sky, self.target.sky),
        )  # fmt: skip


def _assume_identity(pair: MatchedPair) -> None:
    """Set `pair.kernel` to 1 where nothing tells it, with the background that fits."""
    kernel = np.zeros((1, 2 * pair.r + 1, 2 * pair.r + 1))
    kernel[0, pair.r, pair.r] = 1
    good = ~(pair.image.bad | pair.target.bad)
    rest = (pair.target.data - pair.image.data)[good]
    level = float(np.median(rest)) if rest.size else 0.0
    skies = pair.image.sky, pair.target.sky
    pair.kernel = MatchingKernel(
        kernel, np.array([level], np.float64), pair.shape, pair.image.name, skies
    )
    pair.signal, pair.n_stamps, pair.order, pair.background_order = 0.0, 0, 0, 0
