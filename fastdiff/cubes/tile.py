"""One tile of a cube: its series, their Gram matrix, and the fits of its pixels.

What has an axis of epochs lies where the cube lies, in the memory of the CPU or of a GPU; lists of
pixels are made by the CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.kernels.cube import ridge
from fastdiff.kernels.cube.bridge import bridge_series
from fastdiff.kernels.cube.fits import Fits, Fitted, LeftOut, Weights
from fastdiff.kernels.cube.tree import RUN

from . import gpu
from .exclusion import allowed_by
from .options import NO_BLOCKS, CpmOptions
from .predictors import choose
from .series import find_spikes, keep_unexplained, running_mean

_LEAST_GOOD = 0.5  # part of the epochs at which a predictor is good
_CHUNK = 64 * RUN  # targets between two steps of the progress
_NEAR = 128  # pixels that say whether a value of another is wild
_SHARED = 0.35  # of the operations of a factor each, that a run of neighbours takes
PENALTIES = 10.0 ** np.arange(-10, 1, dtype=np.float64)  # of the mean diagonal of the Gram matrix
_LEAST_PENALTY = 1e-13  # of that diagonal: below, rounding errors make the coefficients


class CubeTile:
    """The series of a window of pixels, their Gram matrix, and the predictors of each target."""

    def __init__(
        self, options: CpmOptions, window: tuple[slice, slice], inner: tuple[slice, slice]
    ):
        self.options, self.window, self.inner = options, window, inner
        xp = self.xp = arrays.namespace(options.data)
        cut = (slice(None), *window)
        n = options.shape[0]
        series = options.data[cut].reshape(n, -1).T.astype(np.float64)
        bad = ~xp.isfinite(series)
        if options.mask is not None:
            bad |= options.mask[cut].reshape(n, -1).T
        series[bad] = 0.0  # no NaN times zero
        broken = xp.flatnonzero(bad.any(1))
        bridge_series(broken, series, bad, threads=options.threads)
        self.bad = bad
        self._take_out_spikes(series)
        self.roots = xp.asarray(self.weighted)
        square = self.roots**2
        self.mean = series @ square / square.sum()
        series -= self.mean[:, None]
        smooth = running_mean(series, self.roots > 0, options.width)
        predicting = [] if smooth is series else [smooth]
        self.first = len(series) * len(predicting)  # row of the first predictor
        self.series = xp.concatenate([series, *predicting, xp.asarray(options.free)])
        self.n_free = len(options.free)
        self.size = tuple(s.stop - s.start for s in window)
        n_good = arrays.on_host((~bad & (self.roots > 0)).sum(1))
        usable = n_good >= _LEAST_GOOD * (self.weighted > 0).sum()
        usable &= (n_good > self.n_free) & ~options.excluded[window].ravel()
        self.shines = bool((n_good > self.n_free).any())
        y, x = (axis.ravel() for axis in np.mgrid[inner])
        order = np.argsort(_z_order(y - inner[0].start, x - inner[1].start))
        local = np.ravel_multi_index(
            ((y - window[0].start)[order], (x - window[1].start)[order]), self.size
        )
        lists, counts = choose(self, local, usable)
        fitted = (counts > 0) & (n_good[local] > self.n_free)
        self.targets, counts = local[fitted], counts[fitted]
        lists = lists[fitted][:, : max(1, int(counts.max(initial=0)))] + np.int32(self.first)
        # In the order of the memory, those without a penalty at the end.
        lists = np.where(np.arange(lists.shape[1]) < counts[:, None], lists, np.iinfo(np.int32).max)
        lists.sort(axis=1)
        self.counts = counts + self.n_free
        self.lists = np.zeros((len(lists), lists.shape[1] + self.n_free), np.int32)
        self.lists[:, : -self.n_free] = lists
        columns = counts[:, None] + np.arange(self.n_free)
        np.put_along_axis(
            self.lists, columns,
            np.arange(len(self.series) - self.n_free, len(self.series), dtype=np.int32)[None], 1,
        )  # fmt: skip

    def _take_out_spikes(self, series: Any) -> None:
        """Replace what no fit should see and no pixel should predict.

        Wild values of a pixel become what others predict, and come back in its difference
        (`excess`). Epochs that are wild in many pixels have no weight: there predictors are needed
        as they are.
        """
        xp, roots = self.xp, self.options.roots
        counted = xp.asarray(roots > 0)
        spikes, common = find_spikes(series, ~self.bad & counted)
        common = arrays.on_host(common)
        self.weighted = np.where(common, 0.0, roots)
        if (self.weighted > 0).sum() <= len(self.options.free):
            self.weighted = roots
        rows = xp.flatnonzero(spikes.any(1))
        self.wild, self.excess = arrays.on_host(rows), series[rows]
        keep_unexplained(series, spikes, self.weighted > 0, self._far_from)
        self.excess -= series[rows]
        self.n_spikes = int(spikes.sum()), int((common & (roots > 0)).sum())

    def _far_from(self, row: int) -> NDArray[np.int64]:
        """Pixels that are not too close to predict a pixel, the closest first."""
        shape = tuple(s.stop - s.start for s in self.window)
        y, x = divmod(row, shape[1])
        exclusion = self.options.exclusion
        allowed = allowed_by(np.array([y]), np.array([x]), exclusion, shape).ravel()
        places = np.flatnonzero(allowed & ~self.options.excluded[self.window].ravel())
        square = (places // shape[1] - y) ** 2 + (places % shape[1] - x) ** 2
        return places[np.argsort(square, kind="stable")][:_NEAR]

    def fits_of(self, chosen: NDArray[np.int64], penalty: Any, on_device: bool = False) -> Fits:
        """Some targets, what predicts them, and their penalty."""
        lists = self.targets[chosen], self.lists[chosen], self.counts[chosen]
        if on_device:
            lists = tuple(map(self.xp.asarray, lists))
        return Fits(self.series, *lists, self.n_free, penalty)

    @functools.cached_property
    def gram(self) -> Any:
        """(n_series, n_series), or empty where each pixel has weights of its own."""
        if self.options.variance is not None:
            return self.xp.zeros((0, 0))
        rows = self.series * self.roots
        return rows @ rows.T

    @functools.cached_property
    def _spare(self) -> Any:
        return self.xp.empty_like(self.gram)

    def gram_without(self, first: int, stop: int) -> Any:
        """The Gram matrix of the epochs outside of first <= n < stop, valid until the next."""
        if first == stop:
            return self.gram
        rows = self.series[:, first:stop] * self.roots[first:stop]
        for i in range(0, len(rows), 512):  # the product stays in a cache
            part = np.s_[i : i + 512]
            self.xp.subtract(self.gram[part], rows[part] @ rows.T, out=self._spare[part])
        return self._spare

    @functools.cached_property
    def own(self) -> tuple[Any, NDArray[np.int64]]:
        """Square roots of weights of targets that do not have those of all, and which these are."""
        options, cut, xp = self.options, (slice(None), *self.window), self.xp
        bad = self.bad[xp.asarray(self.targets)] & (self.roots > 0)
        alone = arrays.on_host(bad.any(1)) | (options.variance is not None)
        which = np.full(len(alone), -1, np.int64)
        which[alone] = np.arange(alone.sum())
        places = xp.asarray(self.targets[alone])
        roots = xp.where(self.bad[places], 0.0, self.roots)
        if options.variance is not None:
            variance = options.variance[cut].reshape(options.shape[0], -1).T[places]
            with np.errstate(divide="ignore", invalid="ignore"):
                inverse = 1 / xp.sqrt(variance.astype(np.float64))
            roots *= xp.where(xp.isfinite(inverse), inverse, 0.0)
        return roots, which

    def roots_of(self, chosen: NDArray[np.int64]) -> Any:
        """(n, n_epochs) square roots of the weights of some targets."""
        own, which = self.own
        roots = self.xp.zeros((len(chosen), len(self.roots))) + self.roots
        alone = np.flatnonzero(which[chosen] >= 0)
        if len(alone):
            roots[self.xp.asarray(alone)] = own[self.xp.asarray(which[chosen[alone]])]
        return roots

    @property
    def scale(self) -> float:
        """Mean weighted sum of squares of a series, the unit of the penalty."""
        squares = ((self.series[self.first : -self.n_free] * self.roots) ** 2).sum(1)
        if self.options.variance is not None:
            own, _ = self.own
            squares = squares * (own**2).mean()
        return float(squares[squares > 0].mean()) if (squares > 0).any() else 1.0

    def scores(
        self, how: str, sample: NDArray[np.int64], penalties: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """(n, n_penalties): logarithms of the mean squared error that each penalty promises."""
        options = self.options
        n = float((self.weighted > 0).sum())
        shared = how == "gcv" and options.variance is None and not self.few_epochs
        if shared and self.xp is np:
            square, freedom = np.empty((2, len(sample), len(penalties)))
            fits = self.fits_of(sample, penalties)
            ridge.score_penalties(fits, self.gram, square, freedom, options.threads)
            left = np.maximum(1 - freedom / n, 1e-6)
            promised: NDArray[np.float64] = np.log(np.maximum(square, 1e-300)) - 2 * np.log(left)
            return promised
        blocks = options.blocks if how == "cv" else _single_epochs(options.shape[0])
        out = np.empty((len(sample), len(penalties)))
        roots = self.roots if shared else self.roots_of(sample)
        y = self.series[self.xp.asarray(self.targets[sample])]
        for j, penalty in enumerate(penalties):
            same = np.full(len(sample), penalty)
            try:
                if how == "gcv":
                    prediction, freedom, *_ = self.run(
                        sample, same, NO_BLOCKS, leverage=True, shared=shared
                    )
                else:
                    prediction, freedom, *_ = self.run(sample, same, blocks)
            except np.linalg.LinAlgError:  # of a GPU: so little is no penalty
                out[:, j] = np.inf
                continue
            square = arrays.on_host((((y - prediction) * roots) ** 2).sum(1))
            out[:, j] = np.log(np.maximum(square, 1e-300))
            if how == "gcv":
                left = 1 - arrays.on_host(freedom) / arrays.on_host((roots > 0).sum(-1))
                out[:, j] -= 2 * np.log(np.maximum(left, 1e-6))
        return out

    def choose_each(self, how: str, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """The penalty with the best score for each of some targets."""
        grid = PENALTIES * self.scale
        best: NDArray[np.float64] = grid[np.argmin(self.scores(how, chosen, grid), axis=1)]
        return best

    def run(
        self, chosen: NDArray[np.int64], penalty: NDArray[np.float64], blocks: NDArray[np.int64], *,
        leverage: bool = False, coefficients: bool = False, shared: bool = False,
    ) -> tuple[Any, Any, Any, Any]:  # fmt: skip
        """Prediction, freedom, leverage and coefficients by a factor for each target.

        With `shared`, on a GPU, by the weights of all, also where a target has its own.
        """
        if len(blocks) and not leverage and self.folds_cost_less(blocks):
            prediction, *others = self.run_once(
                chosen, penalty, NO_BLOCKS, coefficients=coefficients, shared=shared
            )
            weighted = self.roots_of(chosen) > 0
            for first, stop, begin, end in blocks:
                part, *_ = self.run_once(
                    chosen, penalty, NO_BLOCKS, shared=shared, hidden=slice(first, stop)
                )
                inside = slice(begin, end)
                prediction[:, inside] = self.xp.where(
                    weighted[:, inside], part[:, inside], prediction[:, inside]
                )
            return prediction, *others
        return self.run_once(
            chosen, penalty, blocks, leverage=leverage, coefficients=coefficients, shared=shared
        )

    def folds_cost_less(self, blocks: NDArray[np.int64]) -> bool:
        """Whether a fit a target and fold costs less than one with the hat matrix of the folds."""
        n, k = self.options.shape[0], float(np.median(self.counts))
        if not isinstance(self.options.holdout, (int, np.integer)) or self.few_epochs:
            return False
        if len(blocks) != self.options.holdout:  # single epochs
            return False
        longest = float((blocks[:, 1] - blocks[:, 0]).max())
        hats = k**2 * n + len(blocks) * (longest**2 * k + longest**3 / 3)
        a_fit = k**3 / 3 + n * k + (0 if self.gram.size else k**2 * n)
        less: bool = (len(blocks) + 1) * a_fit < hats
        return less

    def run_once(
        self, chosen: NDArray[np.int64], penalty: NDArray[np.float64], blocks: NDArray[np.int64], *,
        leverage: bool = False, coefficients: bool = False, shared: bool = False,
        hidden: slice = slice(0, 0),
    ) -> tuple[Any, Any, Any, Any]:  # fmt: skip
        """As `run`, by fits that do not see `hidden` epochs."""
        options, n, xp = self.options, len(chosen), self.xp
        if self.xp is not np:
            roots = self.roots_of(chosen)
            if shared:
                roots[...] = self.roots
            roots[:, hidden] = 0.0
            fits = self.fits_of(chosen, xp.asarray(penalty), on_device=True)
            return gpu.single(
                fits, roots, blocks, _runs(blocks), few_epochs=self.few_epochs, leverage=leverage
            )
        own, which = self.own
        weighted, gram = self.weighted, self.gram
        if hidden.stop > hidden.start:
            own, weighted = own.copy(), weighted.copy()
            own[:, hidden], weighted[hidden] = 0.0, 0.0
            gram = self.gram_without(hidden.start, hidden.stop) if gram.size else gram
        fitted = Fitted(
            prediction=np.empty((n, options.shape[0])),
            freedom=np.full(n, np.nan),
            leverage=np.empty((n if leverage else 0, options.shape[0])),
            coefficients=np.zeros((n if coefficients else 0, self.lists.shape[1])),
        )
        fits, weights = self.fits_of(chosen, penalty), Weights(weighted, own, which[chosen])
        left_out = LeftOut(blocks, _runs(blocks))
        if self.few_epochs:
            ridge.fit_dual(fits, weights, left_out, fitted, options.threads)
        else:
            ridge.fit_single(fits, gram, weights, left_out, fitted, options.threads)
        return tuple(fitted)

    def run_shared(
        self, places: NDArray[np.int64], gram: Any, penalty: float, begin: int, end: int,
        prediction: Any, coefficients: Any,
    ) -> None:  # fmt: skip
        """Predict epochs begin <= n < end of some targets by fits with the weights of `gram`."""
        if self.xp is np:
            ridge.fit_shared(
                self.fits_of(places, float(penalty)), gram, begin, end, prediction, coefficients,
                self.options.threads,
            )  # fmt: skip
        else:
            fits = self.fits_of(places, self.xp.full(len(places), penalty), on_device=True)
            fits = fits._replace(series=self.series[:, begin:end])
            gpu.shared(fits, gram, prediction[:, begin:end], coefficients)

    @property
    def few_epochs(self) -> bool:
        """Whether a matrix of epochs costs less than one of predictors."""
        n, k = self.options.shape[0], float(np.median(self.counts))
        return bool(n**2 * k + n**3 < k**3 / 3 + k**2 * n)

    def fits(self, penalty: float | str) -> NDArray[np.int64]:
        """Blocks whose fits neighbours share, or none where a factor for each target costs less."""
        options = self.options
        n, k = options.shape[0], float(np.median(self.counts))
        whole = np.array([[0, 0, 0, n]])
        if options.leverage or options.variance is not None or isinstance(penalty, str):
            return whole[:0]
        fits = options.blocks
        if not len(fits) or options.coefficients or (self.weighted == 0).any():
            fits = np.concatenate([whole, fits])
        alone = k**3 / 3 + (k**2 * n if len(options.blocks) else 0)
        if self.few_epochs:
            alone = n**2 * k + n**3
        return fits if len(fits) * _SHARED * k**3 / 3 < alone else whole[:0]

    def fit(self, penalty: float | str, image: Any, maps: dict[str, Any]) -> Iterator[float]:
        """Fill the image and the maps at the targets; from time to time, how many more are done."""
        options = self.options
        n_inner = int(np.prod([s.stop - s.start for s in self.inner]))
        yield n_inner - len(self.targets)
        if not len(self.targets):
            return
        least = _LEAST_PENALTY * self.scale
        fits = self.fits(penalty)
        together = np.flatnonzero(self.own[1] < 0) if len(fits) else np.empty(0, np.int64)
        common = np.maximum(float(penalty), least) if len(fits) else np.nan
        prediction = self.xp.empty((len(together), options.shape[0]))
        values = self.xp.zeros((len(together) if options.coefficients else 0, self.lists.shape[1]))
        idle = self.xp.asarray(np.flatnonzero(self.weighted == 0))
        for first, stop, begin, end in fits:
            gram, kept = self.gram_without(first, stop), prediction[:, idle]
            for chosen in _chunks(len(together)):
                places = together[chosen]
                self.run_shared(
                    places, gram, common, begin, end, prediction[chosen],
                    values[chosen] if first == stop else values[:0],
                )  # fmt: skip
                yield len(places) / len(fits)
            if first < stop:  # epochs without weight keep the prediction of the whole fit
                prediction[:, idle] = kept
        for chosen in _chunks(len(together)):
            places = together[chosen]
            penalties = np.full(len(places), common)
            self.write(places, penalties, prediction[chosen], image, maps, values=values[chosen])
        alone = np.setdiff1d(np.arange(len(self.targets)), together)
        for chosen in _chunks(len(alone)):
            places = alone[chosen]
            if isinstance(penalty, str):
                penalties = self.choose_each(penalty, places)
            else:
                penalties = np.full(len(places), float(penalty))
            penalties = np.maximum(penalties, least)
            prediction, *others = self.run(
                places, penalties, options.blocks, leverage=options.leverage,
                coefficients=options.coefficients,
            )  # fmt: skip
            self.write(places, penalties, prediction, image, maps, *others)
            yield len(places)

    def write(
        self, chosen: NDArray[np.int64], penalties: NDArray[np.float64],
        prediction: Any, image: Any, maps: dict[str, Any],
        freedom: Any = None, leverage: Any = None, values: Any = None,
    ) -> None:  # fmt: skip
        """What was found for some targets, into the image and the maps."""
        xp = self.xp
        targets = xp.asarray(self.targets[chosen])
        rest = self.series[targets] - prediction
        row = np.minimum(np.searchsorted(self.wild, self.targets[chosen]), len(self.wild) - 1)
        if len(self.wild):
            ours = np.flatnonzero(self.wild[row] == self.targets[chosen])
            rest[xp.asarray(ours)] += self.excess[xp.asarray(row[ours])]
        rest = xp.where(self.bad[targets], np.nan, rest)
        y, x = np.divmod(self.targets[chosen], self.size[1])
        y, x = y + self.window[0].start, x + self.window[1].start
        there = (slice(None), xp.asarray(y), xp.asarray(x))
        image[there] = rest.T
        maps["ridge"][y, x] = penalties
        maps["n_predictors"][y, x] = self.counts[chosen] - self.n_free
        if maps["leverage"] is not None:
            maps["freedom"][y, x] = arrays.on_host(freedom)
            maps["leverage"][there] = leverage.T
        if maps["coefficients"] is not None:
            values = arrays.on_host(values)
            for k, i in enumerate(chosen):
                count = self.counts[i] - self.n_free
                rows, columns = np.divmod(self.lists[i, :count] - self.first, self.size[1])
                places = [rows + self.window[0].start, columns + self.window[1].start]
                maps["coefficients"][int(y[k]), int(x[k])] = (
                    np.stack(places, axis=1).astype(np.int64), values[k, :count].copy()
                )  # fmt: skip


def _z_order(y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places on the curve on which each run of 2^k pixels is a square, or two side by side."""
    place = np.zeros_like(y)
    for bit in range(31):
        place |= ((x >> bit) & 1) << (2 * bit) | ((y >> bit) & 1) << (2 * bit + 1)
    return place


def _chunks(n: int) -> Iterator[slice]:
    for first in range(0, n, _CHUNK):
        yield slice(first, min(first + _CHUNK, n))


def _runs(blocks: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, 4): begin and end of blocks that overlap, and the first epoch and the stop of all."""
    runs, begin = [], 0
    while begin < len(blocks):
        first, stop = blocks[begin, :2]
        longest, end = stop - first, begin + 1
        while end < min(begin + RUN, len(blocks)):
            low, high = min(first, blocks[end, 0]), max(stop, blocks[end, 1])
            longest = max(longest, blocks[end, 1] - blocks[end, 0])
            if high - low > 1.5 * longest + RUN:
                break
            first, stop, end = low, high, end + 1
        runs.append((begin, end, first, stop))
        begin = end
    return np.array(runs, np.int64).reshape(-1, 4)


def _single_epochs(n: int) -> NDArray[np.int64]:
    first = np.arange(n)
    return np.stack([first, first + 1, first, first + 1], axis=1).astype(np.int64)
