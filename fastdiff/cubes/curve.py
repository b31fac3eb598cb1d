"""The light curve of an aperture: its sum, predicted as one series.

A star that moves within an aperture moves light from pixel to pixel, and the sum hardly knows.
Predicting each pixel by itself predicts that motion with the noise of many faint predictors, which
is the same in all pixels and adds up; predicting the sum does not. Penalty and running means of
the predictors are chosen for the sum by what is held out, down to no prediction at all.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.core.stats import mad_sigma
from fastdiff.kernels.cube.bridge import bridge_series

from .exclusion import exclusion_around
from .heldout import best, follow
from .options import CpmOptions
from .predictors import ranked
from .series import find_spikes, keep_unexplained, point_scatter, running_mean
from .smooth import widths_for

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["ApertureCurve", "aperture_curve", "light_curve_table"]

_WARNED = "from one row to the next"  # how the note begins that is a warning
_SCALES = (1, 10, 100)  # epochs, of whose means both curves are compared
_FEWEST_MEANS = 20
_CHANCE = 0.5  # over the root of their number: by so much a ratio varies by chance
_NOISIER_MEANS = 1.1
_NOISIER = 1.02  # times the scatter of the raw curve, above which it is said
_CLIP = 6.0  # robust standard deviations of the difference at which an epoch is left out of fits
_MOST_CLIPPED = 0.1  # of the epochs: more are no outliers
_FOLDS = 10  # that choose, where the hold-out has none or a window for each epoch
_MOST_BLOCKS = 50


@dataclasses.dataclass(frozen=True)
class ApertureCurve:
    """Series of an aperture, all (n_epochs,); NaN where nothing was measured."""

    flux: NDArray[np.float64]
    """Sum less its prediction"""
    error: NDArray[np.float64]
    """Standard deviation of its noise from one epoch to the next"""
    raw: NDArray[np.float64]
    """Sum of the pixels"""
    n_bad: NDArray[np.int64]
    """Pixels without a value"""
    meta: dict[str, Any]
    """What was chosen and measured; see `CPMResult.light_curve`."""


def light_curve_table(
    options: CpmOptions, box: tuple[slice, slice], centre: tuple[int, int],
    image: NDArray[Any] | None, ridge: float | None, protect: int, n_bin: int,
) -> Table:  # fmt: skip
    """The table of `CPMResult.light_curve`, of the sum of an image, if there is one."""
    from astropy.table import Table

    ys, xs = (axis.ravel() for axis in np.mgrid[box])
    ny, nx = options.shape[1:]
    inside = (ys < ny) & (xs < nx)
    ys, xs = ys[inside], xs[inside]
    if image is None:
        curve = aperture_curve(options, ys, xs, centre, ridge, protect)
    else:
        curve = _summed(options, ys, xs, image)
    for note in curve.meta["notes"]:
        if note.startswith(_WARNED):
            y, x = centre
            warnings.warn(f"light curve of y {y}, x {x}: {note}", UserWarning, stacklevel=3)
    columns = {
        "epoch": np.arange(len(curve.flux)), "flux": curve.flux, "flux_err": curve.error,
        "raw": curve.raw, "n_bad": curve.n_bad,
    }  # fmt: skip
    if n_bin > 1:
        columns = _binned(columns, n_bin)
    return Table(columns, meta=curve.meta)


def aperture_curve(
    options: CpmOptions, ys: NDArray[np.int64], xs: NDArray[np.int64], centre: tuple[int, int],
    ridge: float | None, protect: int,
) -> ApertureCurve:  # fmt: skip
    """Predict the sum of the pixels (ys, xs) by pixels that are far enough from all of them.

    Parameters
    ----------
    options : CpmOptions
        What the cube was asked for.
    ys, xs : (n,)
    centre : (y, x)
        Predictors are ranked by what they have in common with it.
    ridge : float or None
        Penalty; None chooses it.
    protect : int
        Epochs; what is slower is not seen by the fits. 0: all is seen.
    """
    pixels, lost = _read(options, ys, xs)
    n_bad = lost.sum(0)
    used = ~lost.all(1)
    pixels, lost = pixels[used], lost[used]
    none = lost.all(0)
    roots = np.where(lost.any(0), 0.0, options.roots)
    x, places = _predictors(options, ys[used], xs[used], centre)
    cleaned, x, roots, n_common = _without_spikes(pixels.sum(0), x, roots)
    counted = roots > 0
    fit = _ApertureFit(options, cleaned, x, ridge, protect)
    prediction, roots = fit.robust(roots)
    fit.fill(pixels, lost & ~none, roots)
    raw = np.where(none, np.nan, pixels.sum(0))
    flux = raw - prediction
    good = counted & ~none
    error, scale = _errors(options, flux, good, fit, ys[used], xs[used], places)
    error[none] = np.nan
    meta = {
        "smooth": fit.width, "ridge": fit.penalty, "n_predictors": len(x),
        "n_clipped": int((counted & (roots == 0)).sum()), "n_common": n_common,
        "error_scale": scale, **_compared(raw, flux, good),
    }  # fmt: skip
    if not len(x):
        meta["notes"].append("no pixel predicts this aperture: the curve is raw, less its mean")
    return ApertureCurve(flux, error, raw, n_bad, meta)


def _compared(
    raw: NDArray[np.float64], flux: NDArray[np.float64], good: NDArray[np.bool_]
) -> dict[str, Any]:
    """Scatter of epochs, and of means of 10 and 100, of both curves, and a note where it grows."""
    scatter: dict[int, tuple[float, float]] = {}
    worse = []
    for width in _SCALES:
        kept = [np.where(good, each, np.nan) for each in (flux, raw)]
        after, before = (point_scatter(_means(each, width)) for each in kept)
        n_rows = len(raw) // width
        if not before > 0 or (width > 1 and n_rows < _FEWEST_MEANS):
            continue
        scatter[width] = after, before
        most = _NOISIER if width == 1 else _NOISIER_MEANS
        if after / before > most + _CHANCE / np.sqrt(n_rows):
            worse.append(f"{after / before:.2f} times (means of {width})")
    notes = []
    if worse:
        notes.append(
            f"{_WARNED} the corrected curve scatters more than the raw one, {' and '.join(worse)}: "
            "what is corrected is slower or larger than that. Compare with the column `raw`; a "
            "larger cut-out, another `exclusion` or fit='aperture' may help"
        )
    after, before = scatter.get(1, (float("nan"), float("nan")))
    means = {str(width): list(pair) for width, pair in scatter.items()}
    return {"scatter": after, "scatter_raw": before, "scatter_of_means": means, "notes": notes}


def _means(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Means of runs of epochs of which half or more are known, else NaN."""
    rows = values[: len(values) // width * width].reshape(-1, width)
    known = np.isfinite(rows)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, rows, 0.0).sum(1) / known.sum(1)
    return np.where(known.sum(1) >= width / 2, mean, np.nan)


def _summed(
    options: CpmOptions, ys: NDArray[np.int64], xs: NDArray[np.int64], image: NDArray[Any]
) -> ApertureCurve:
    """Sum of the differences of pixels, (n_epochs, h, w)."""
    pixels, lost = _read(options, ys, xs)
    values = image.reshape(len(image), -1)
    missing = np.isnan(values)
    none = missing.all(1)
    flux = np.where(none, np.nan, np.nansum(values, axis=1, dtype=np.float64))
    raw = np.where(none, np.nan, pixels[~lost.all(1)].sum(0))
    good = (options.roots > 0) & ~none
    meta = {"smooth": options.width, **_compared(raw, flux, good)}
    error = np.where(none, np.nan, meta["scatter"])
    return ApertureCurve(flux, error, raw, missing.sum(1), meta)


def _binned(columns: dict[str, Any], n_bin: int) -> dict[str, Any]:
    """Means of so many epochs in a row, without the missing ones, and what they scatter by."""
    n = len(columns["epoch"])
    place = np.arange(n) // n_bin
    good = np.isfinite(columns["flux"])
    number = np.bincount(place, good)

    def mean(name: str) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.bincount(place, np.where(good, columns[name], 0.0)) / number

    flux = mean("flux")
    full = number > n_bin / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.where(good, columns["flux_err"], 0.0) ** 2
        white = np.sqrt(np.bincount(place, variance)) / number
        # Slower noise than that from epoch to epoch is seen in the means alone.
        ratio = point_scatter(np.where(full, flux / white, np.nan))
    ratio = max(ratio, 1.0) if np.isfinite(ratio) else 1.0
    return {
        "epoch": np.bincount(place, np.arange(n)) / np.bincount(place), "flux": flux,
        "flux_err": np.where(number > 0, ratio * white, np.nan), "raw": mean("raw"),
        "n_bad": np.bincount(place, columns["n_bad"]).astype(np.int64),
        "n_epochs": number.astype(np.int64),
    }  # fmt: skip


class _ApertureFit:
    """A fit, and what it chose."""

    def __init__(
        self, options: CpmOptions, wanted: NDArray[np.float64], x: NDArray[np.float64],
        ridge: float | None, protect: int,
    ):  # fmt: skip
        self.options, self.wanted, self.x, self.protect = options, wanted, x, protect
        self.penalties = None if ridge is None else np.array([ridge])
        self.width, self.penalty = 1, float("inf")
        self.gains = np.zeros(len(x))
        self.widths = widths_for(options, len(wanted))

    def robust(self, roots: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Prediction, and the weights without the epochs that no fit should see."""
        if not (roots > 0).any():
            return np.full_like(self.wanted, np.nan), roots
        prediction = self.choose(roots)
        rest = self.wanted - prediction
        counted = roots > 0
        centre = np.median(rest[counted])
        wild = counted & (np.abs(rest - centre) > _CLIP * mad_sigma(rest[counted], centre))
        if not 0 < wild.sum() <= _MOST_CLIPPED * counted.sum():
            return prediction, roots
        roots = np.where(wild, 0.0, roots)
        self.widths = (self.width,)
        return self.choose(roots), roots

    def choose(self, roots: NDArray[np.float64]) -> NDArray[np.float64]:
        """The prediction by the width and the penalty that predict best what is held out."""
        least = np.inf
        folds, blocks = _blocks(self.options)
        level: NDArray[np.float64] = _level(self.wanted[None], roots, self.options.free)[0]
        prediction, wanted = np.zeros_like(level), self.wanted - level
        seen = self._seen(wanted[None], roots)[0]
        for width in self.widths if len(self.x) else ():
            x = self.averaged(width, roots)
            shown = (self._seen(x, roots), seen) if self.protect else None
            path = follow(x, wanted, roots, folds, self.penalties, shown)
            # What the fits do not see does not choose either.
            rated = path._replace(predictions=self._seen(path.predictions, roots))
            i, square = best(rated, seen, roots)
            if square < 0.998 * least:
                least, self.width, self.penalty = square, width, float(path.penalties[i])
                self.gains = path.gains[i]
                prediction = path.predictions[i]
                if blocks is not folds:
                    path = follow(x, wanted, roots, blocks, path.penalties[i : i + 1], shown)
                    prediction = path.predictions[0]
        return level + prediction

    def averaged(self, width: int, roots: NDArray[np.float64]) -> NDArray[np.float64]:
        """Running means of the predictors, without what needs no penalty."""
        x: NDArray[np.float64] = running_mean(self.x, roots > 0, width)
        return x - _level(x, roots, self.options.free)

    def fill(
        self, pixels: NDArray[np.float64], lost: NDArray[np.bool_], roots: NDArray[np.float64]
    ) -> None:
        """Put what is predicted of them where pixels (n, n_epochs) of the aperture are lost."""
        if not np.isfinite(self.penalty):
            return  # nothing predicts: a line between the epochs around is as good
        whole = np.array([[0, 0, 0, lost.shape[1]]])
        for i in np.flatnonzero(lost.any(1)):
            own = np.where(lost[i], 0.0, roots)
            level = _level(pixels[i : i + 1], own, self.options.free)[0]
            x = self.averaged(self.width, own)
            # A block that hides nothing: stop is first.
            path = follow(x, pixels[i] - level, own, whole, np.array([self.penalty]))
            pixels[i, lost[i]] = (level + path.predictions[0])[lost[i]]

    def _seen(self, rows: NDArray[np.float64], roots: NDArray[np.float64]) -> NDArray[np.float64]:
        return rows - running_mean(rows, roots > 0, self.protect) if self.protect else rows


def _columns(cube: Any, ys: NDArray[np.int64], xs: NDArray[np.int64]) -> NDArray[Any]:
    """(n_epochs, n) pixels of a cube, from wherever it lies."""
    xp = arrays.namespace(cube)
    return arrays.on_host(cube[:, xp.asarray(ys), xp.asarray(xs)])


def _read(
    options: CpmOptions, ys: NDArray[np.int64], xs: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(n, n_epochs) values, bridged where there are none, and where there are none."""
    values = _columns(options.data, ys, xs).T.astype(np.float64)
    lost = ~np.isfinite(values)
    if options.mask is not None:
        lost |= _columns(options.mask, ys, xs).T
    values[lost] = 0.0
    bridge_series(np.flatnonzero(lost.any(1)), values, lost, threads=1)
    return values, lost


def _predictors(
    options: CpmOptions, ys: NDArray[np.int64], xs: NDArray[np.int64], centre: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(k, n_epochs) of the pixels that may predict an aperture, and (k, 2) where they are."""
    exclusion = options.exclusion
    if not options.exclusion_given:
        exclusion = exclusion_around(ys, xs, exclusion, options.wanted, options.shape[1:])
    places = ranked(options, ys, xs, centre, exclusion, lambda y, x: _read(options, y, x))
    kept: list[NDArray[np.float64]] = []
    where: list[NDArray[np.int64]] = []
    n_weighted = (options.roots > 0).sum()
    missing = options.wanted
    while missing and len(places):
        some, places = places[: 2 * missing], places[2 * missing :]
        values, lost = _read(options, some[:, 0], some[:, 1])
        usable = (~lost & (options.roots > 0)).sum(1) >= 0.5 * n_weighted
        usable &= np.ptp(values, axis=1) > 0
        usable = np.flatnonzero(usable)[:missing]
        kept.append(values[usable])
        where.append(some[usable])
        missing -= len(usable)
    if not kept:
        return np.zeros((0, options.shape[0])), np.zeros((0, 2), np.int64)
    return np.concatenate(kept), np.concatenate(where)


def _without_spikes(
    raw: NDArray[np.float64], x: NDArray[np.float64], roots: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], int]:  # fmt: skip
    """Sum and predictors without wild values of one pixel, weights without common ones."""
    every = np.concatenate([raw[None], x])
    spikes, common = find_spikes(every, np.broadcast_to(roots > 0, every.shape))
    keep_unexplained(
        every, spikes, roots > 0, lambda row: np.setdiff1d(np.arange(1, len(every)), row)
    )
    return every[0], every[1:], np.where(common & (roots > 0), 0.0, roots), int(common.sum())


def _level(
    rows: NDArray[np.float64], roots: NDArray[np.float64], free: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What needs no penalty, fitted to all epochs: levels of single folds would make steps."""
    seen = (free * roots).T
    return np.linalg.lstsq(seen, (rows * roots).T, rcond=None)[0].T @ free


def _blocks(options: CpmOptions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Blocks that choose, and those that predict."""
    n = options.shape[0]
    if options.holdout is None:
        return _folds(n, min(_FOLDS, n), 0), np.array([[0, 0, 0, n]])
    if isinstance(options.holdout, tuple):
        width = options.holdout[1]
        folds = _folds(n, max(2, min(n // max(width, 1), _MOST_BLOCKS)), width)
        return folds, folds
    return options.blocks, options.blocks


def _folds(n: int, number: int, margin: int) -> NDArray[np.int64]:
    """Runs of epochs, left out with a margin on both sides."""
    edges = n * np.arange(number + 1) // number
    first, stop = np.maximum(edges[:-1] - margin, 0), np.minimum(edges[1:] + margin, n)
    return np.stack([first, stop, edges[:-1], edges[1:]], axis=1)


def _errors(
    options: CpmOptions, flux: NDArray[np.float64], good: NDArray[np.bool_], fit: _ApertureFit,
    ys: NDArray[np.int64], xs: NDArray[np.int64], places: NDArray[np.int64],
) -> tuple[NDArray[np.float64], float]:  # fmt: skip
    """Errors of the epochs, and the factor by which they differ from what variances promise."""
    base = np.ones(len(flux))
    if options.variance is not None:
        variance = _columns(options.variance, ys, xs).astype(np.float64).sum(1)
        if len(fit.x):
            # Pixels share their predictors, and so the noise of the prediction.
            shared = _columns(options.variance, *places.T)
            shared = np.where(np.isfinite(shared), shared, 0.0).astype(np.float64) @ fit.gains
            variance = variance + running_mean(shared[None], good, fit.width)[0] / fit.width
        base = np.sqrt(variance)
        base[~(np.isfinite(base) & (base > 0))] = np.nan
    scale = point_scatter(np.where(good, flux / base, np.nan))
    return base * scale, scale if options.variance is not None else float("nan")
