r"""Difference imaging of a cube of epochs by the causal pixel model (CPM).

Every pixel m is predicted, epoch by epoch, as a linear combination of pixels so far away that they
do not see the same source, and the difference is what the prediction leaves (Wang, Hogg,
Foreman-Mackey & Schoelkopf 2017, arXiv 1710.02428, eqs. 1, 2 and 4):

    D_mn = I_mn - sum_m' a_mm' I_m'n.

What moves and blurs all stars alike is predicted; what one star does alone is not. No reference
image, no PSF and no registration better than a PSF's width are needed. The coefficients minimise
chi^2 plus a penalty on their squares (eq. 3); a constant, or a polynomial of time, goes without.

A fit that sees an event fits a part of it away. By default each tenth of the epochs is therefore
predicted by a fit to the other nine. Pixels beside each other share most of their predictors, and
so most of the work of each fit: `fastdiff.kernels.ridge`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdiff import arrays
from fastdiff.kernels import jit
from fastdiff.kernels import ridge as kernel

from .batch import _reporting

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["CPMResult", "cpm_subtract"]

_EXCLUSION = (10, 16.0)  # section 2: rows and columns, and pixels of distance
_LEAST_PREDICTORS = 0.1  # of what is asked for, that the smallest field must allow
_LEAST_GOOD = 0.5  # part of the epochs at which a predictor is good
_WHOLE = 8000  # pixels whose Gram matrix is made at once
_TILE = 32  # pixels, side of a tile of a larger cube
_CHUNK = 64 * kernel.RUN  # targets between two steps of the progress
_SHARED = 0.35  # of the operations of a factor each, that a run of neighbours takes
_RIDGES = 10.0 ** np.arange(-10, 1)  # of the mean diagonal of the Gram matrix
_SAMPLE = 48  # pixels that choose the ridge
_SAMPLE_TILES = 6  # of a cube of many tiles, in which they lie
_LEAST_RIDGE = 1e-13  # of that diagonal: below, rounding errors make the coefficients
_MAX_TIME_ORDER = 5
_RULES = ("nearest", "brightness", "cosine", "random")
_CHOICES = ("gcv", "loo", "cv")


@dataclasses.dataclass(frozen=True, repr=False)
class CPMResult:
    """What `cpm_subtract` returns; ``np.asarray(result)`` is the image.

    Attributes
    ----------
    image : ndarray, (n_epochs, ny, nx)
        Data less their prediction (eq. 4), in the unit of the cube; NaN at bad pixels.
    rms : ndarray of float64, (ny, nx)
        Root mean square of the image over the good epochs; NaN where there are none.
    variability : ndarray of float64, (ny, nx)
        Mean absolute normalised deviation (section 3.4): of image over its standard deviation,
        which is that of the given variances, or the robust scatter of each epoch's image.
    ridge : float or ndarray, (ny, nx)
        Strength of the penalty, lambda of eq. 3.
    freedom : ndarray of float64, (ny, nx), or None
        Degrees of freedom of each fit, the trace of its hat matrix, with ``leverage=True``.
    leverage : ndarray of float32, (n_epochs, ny, nx), or None
        Diagonal of the hat matrix, with ``leverage=True``.
    n_predictors : ndarray of int64, (ny, nx)
        Predictors of each pixel; 0 where it was not fitted.
    coefficients : dict or None
        With ``coefficients=True``: (y, x) -> (pixels (n, 2) of (y, x), their coefficients (n,)).
    meta : dict
        "exclusion": the rows and columns, and the distance, that were left out around targets;
        "holdout", "predictors", "excluded" (pixels that were no predictors); "notes", texts.
    """

    image: NDArray[Any]
    rms: NDArray[np.float64]
    variability: NDArray[np.float64]
    ridge: float | NDArray[np.float64]
    freedom: NDArray[np.float64] | None
    leverage: NDArray[np.float32] | None
    n_predictors: NDArray[np.int64]
    coefficients: dict[tuple[int, int], tuple[NDArray[np.int64], NDArray[np.float64]]] | None
    meta: dict[str, Any]
    _cube: NDArray[Any]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(n_epochs, ny, nx): True at bad pixels."""
        return np.isnan(self.image)

    @property
    def prediction(self) -> NDArray[Any]:
        """(n_epochs, ny, nx): what the other pixels predict (eq. 2); NaN at bad pixels."""
        return self._cube - self.image

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.image, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        n, ny, nx = self.image.shape
        return f"<CPMResult of {n} epochs of {ny} x {nx} pixels, median rms {self._median_rms:.4g}>"

    @property
    def _median_rms(self) -> float:
        good = self.rms[np.isfinite(self.rms)]
        return float(np.median(good)) if len(good) else float("nan")

    def variables(self, threshold: float = 5.0) -> Table:
        """Peaks of the map of variability.

        Parameters
        ----------
        threshold : float
            Robust standard deviations above the median of the map.

        Returns
        -------
        astropy.table.Table
            Columns y, x, variability and excess (in these standard deviations), the highest
            first. Of pixels within 2 pixels of each other only the highest is listed.
        """
        from astropy.table import Table
        from scipy.ndimage import maximum_filter

        known = np.isfinite(self.variability)
        values = np.where(known, self.variability, -np.inf)
        middle = np.median(values[known]) if known.any() else np.nan
        spread = 1.4826 * np.median(np.abs(values[known] - middle)) if known.any() else np.nan
        excess = (values - middle) / max(spread, 1e-300)
        y, x = np.nonzero(known & (values == maximum_filter(values, 5)) & (excess > threshold))
        order = np.argsort(-values[y, x], kind="stable")
        y, x = y[order], x[order]
        return Table({"y": y, "x": x, "variability": values[y, x], "excess": excess[y, x]})

    def light_curve(self, y: int, x: int, aperture: int = 3) -> Table:
        """Sum of the difference over a square about a pixel, as in Figs. 2 and 6 of the paper.

        Parameters
        ----------
        y, x : int
            Pixel in the middle.
        aperture : int
            Side of the square in pixels, odd; it is cut at the edges of the cube.

        Returns
        -------
        astropy.table.Table
            Columns epoch, flux, flux_err (from the rms of the pixels, taken as independent) and
            n_bad (pixels without a value, which count as 0).
        """
        from astropy.table import Table

        _, ny, nx = self.image.shape
        if not (0 <= y < ny and 0 <= x < nx):
            raise ValueError(f"(y, x) is ({y}, {x}); the cube has {ny} x {nx} pixels")
        if aperture < 1 or aperture % 2 == 0:
            raise ValueError(f"aperture is {aperture}; it must be an odd number of pixels")
        half = aperture // 2
        box = np.s_[max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1]
        values = self.image[:, *box]
        lost = np.isnan(values)
        error = np.sqrt(np.nansum(self.rms[box] ** 2))
        return Table(
            {
                "epoch": np.arange(len(values)),
                "flux": np.nansum(np.where(lost, 0, values), axis=(1, 2), dtype=np.float64),
                "flux_err": np.full(len(values), error),
                "n_bad": lost.sum((1, 2)),
            }
        )


def cpm_subtract(
    cube: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    variance: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    predictors: Literal["nearest", "brightness", "cosine", "random"] = "nearest",
    n_predictors: int = 400,
    holdout: int | tuple[Literal["window"], int] | None = 10,
    ridge: float | Literal["gcv", "loo", "cv"] = "gcv",
    ridge_per: Literal["image", "pixel"] = "image",
    exclusion: tuple[int, float] | None = None,
    exclude: ArrayLike | None = None,
    exclude_variable: int = 0,
    time_order: int = 0,
    coefficients: bool = False,
    leverage: bool = False,
    seed: int = 0,
    out: NDArray[Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> CPMResult:
    """Subtract from every pixel of a cube what far-away pixels predict of it.

    Parameters
    ----------
    cube : array_like, (n_epochs, ny, nx)
        Images of one field, registered to about a PSF's width; NaN marks bad pixels. It is read
        tile by tile, so that a memory map need not fit into memory.
    mask : array_like of bool, optional
        True where pixels are bad: (ny, nx), (n_epochs,) or (n_epochs, ny, nx).
    variance : array_like, optional
        Variance of each pixel, (n_epochs, ny, nx) or what broadcasts to it: chi^2 as in eq. 3.
        The slow way, because no two pixels share a normal matrix then: twice the cost and more.
    weights : array_like, (n_epochs,), optional
        Weight of each epoch in the fits, 0 or more. Epochs of weight 0 are predicted all the same.
    predictors : {"nearest", "brightness", "cosine", "random"}
        Of the pixels that the exclusion leaves: the closest (the paper's rule), those of the most
        similar median, of the highest cosine of the angle between the series, or any.
    n_predictors : int
        Predictors of a pixel. Near edges and in small fields there may be fewer.
    holdout : int, ("window", int) or None
        Predict each of so many runs of epochs by a fit to all others; or each epoch by a fit to
        those that are further away than a number of epochs; or, with None, by a fit to all (the
        paper's), which takes a part of every event away.
    ridge : float or {"gcv", "loo", "cv"}
        Strength of the penalty (lambda of eq. 3, in the square of the cube's unit, or without
        unit where `variance` is given); or the way to choose it for 48 pixels of the image: by
        generalised cross-validation (Golub, Heath & Wahba 1979), by leaving out single epochs,
        or by leaving out what `holdout` leaves out.
    ridge_per : {"image", "pixel"}
        Whether one strength is chosen for all pixels or one for each.
    exclusion : (int, float), optional
        (rows, distance): pixels within so many rows or so many columns of the target, or not
        further than so many pixels away, do not predict it. By default (10, 16), the paper's;
        where that leaves some pixel less than a tenth of `n_predictors`, both are lowered by the
        same factor until it does not, which `meta` tells.
    exclude : array_like of bool, (ny, nx), optional
        Pixels that predict nothing, such as known variables.
    exclude_variable : int
        Fit twice, the second time without this many of the most variable pixels as predictors.
    time_order : int
        Order of the polynomial of the epoch's number that is fitted without a penalty.
    coefficients, leverage : bool
        Whether to return them. `leverage`, which comes with the degrees of freedom, needs a factor
        of its own for each pixel: several times the cost.
    seed : int
        Of ``predictors="random"``.
    out : ndarray, (n_epochs, ny, nx), optional
        Floats to be filled with the image, such as a memory map.
    checkpoint : path, optional
        A file beside a memory map `out` that tells which tiles are done: after an interruption
        the same call goes on from there. It is removed at the end.
    threads : int, optional
        All cores by default.
    progress : bool or callable
        True for a bar, or a function of (done, all) pixels.

    Returns
    -------
    CPMResult

    Raises
    ------
    TypeError, ValueError
        For what cannot be used; the message says why and what to do.

    Notes
    -----
    A bad pixel at an epoch is left out of its own fit (for which that pixel pays as with a
    `variance`), and replaced by what lies before and after it where it is a predictor. Pixels
    that are bad at more than half of the epochs predict nothing.

    Fields of 10 pixels are too small for the method, as the paper says in its discussion. Of a
    variable star whose wings fill such a field most is predicted by its own wings: 2 % were left
    of a T Tauri star in 10 x 10 pixels of TESS, but 88 % of a fainter star in 10 x 11 of K2.

    Cost in operations a pixel, for k predictors and n epochs: about k^3 / 12 for each fit, which
    are as many as folds, where neighbours share the weights; k^3 / 3 + k^2 n for a window about
    each epoch, or a pixel with bad epochs; n^2 k + n^3 where that is less, which it is for fewer
    epochs than predictors. The cheapest way is taken; all are exact. Memory: the square of the
    pixels of a tile, twice with folds.

    A cube of more than 8000 pixels is cut into tiles. One strength is chosen for all of them, from
    pixels in the middle of six tiles spread over the cube.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> drift = rng.normal(1, 0.05, (200, 1, 1))  # all pixels dim and brighten together
    >>> cube = drift * rng.uniform(50, 500, (12, 12)) + rng.normal(0, 0.1, (200, 12, 12))
    >>> result = cpm_subtract(cube, n_predictors=40)
    >>> bool(np.median(result.rms) < 0.12 < np.std(cube[:, 0, 0]))
    True
    """
    data = _as_cube(cube)
    problem = _Problem(
        data, mask, variance, weights, predictors, n_predictors, holdout, ridge, ridge_per,
        exclusion, exclude, time_order, coefficients, leverage, seed, threads,
    )  # fmt: skip
    if not isinstance(exclude_variable, (int, np.integer)) or exclude_variable < 0:
        raise ValueError(f"exclude_variable is {exclude_variable}; it must be 0 or more pixels")
    _check_out(out, data.shape)
    saved = None
    if checkpoint is not None:
        if not hasattr(out, "flush") or coefficients or leverage or exclude_variable:
            raise ValueError(
                "a checkpoint needs a memory map `out` (np.lib.format.open_memmap), and does not "
                "go with coefficients, leverage or exclude_variable"
            )
        saved = _Checkpoint(checkpoint, problem.fingerprint)
    with _reporting(progress) as report:
        result = problem.solve(report, out, saved)
        if exclude_variable and len(data):
            values = np.nan_to_num(result.variability, nan=-1.0).ravel()
            most = np.argsort(-values, kind="stable")[:exclude_variable]
            problem.excluded.ravel()[most] = True
            result = problem.solve(report, out)
    return result


# ------------------------------------------------------------------------ what is asked for


def _as_cube(cube: ArrayLike) -> NDArray[Any]:
    data = arrays.to_numpy(cube, "cube", images=False)
    if data.dtype.kind == "b" or data.ndim != 3:
        raise ValueError(
            f"`cube` has shape {data.shape} and dtype {data.dtype}; it must be numbers "
            "(n_epochs, ny, nx): for (ny, nx, n_epochs) use np.moveaxis(cube, -1, 0)"
        )
    n, ny, nx = data.shape
    if data.size and n < 2:
        raise ValueError(f"`cube` has {n} epoch; at least 2 are needed")
    if data.size and nx > 8 * max(n, ny) and nx > 100:
        raise ValueError(
            f"`cube` has shape {data.shape}, which looks like (ny, nx, n_epochs); it must be "
            "(n_epochs, ny, nx): use np.moveaxis(cube, -1, 0)"
        )
    return data


def _whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be a whole number")
    if value < least or (most is not None and value > most):
        limits = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} is {value}; it must be {limits}")
    return int(value)


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, known))}")
    return value


class _Problem:
    """A cube with all that was asked for, checked."""

    def __init__(
        self, data, mask, variance, weights, predictors, n_predictors, holdout, ridge, ridge_per,
        exclusion, exclude, time_order, coefficients, leverage, seed, threads,
    ):  # fmt: skip
        n, ny, nx = self.shape = data.shape
        self.data, self.threads = data, threads
        self.rule = _one_of("predictors", predictors, _RULES)
        self.wanted = _whole("n_predictors", n_predictors, 1)
        self.time_order = _whole("time_order", time_order, 0, _MAX_TIME_ORDER)
        self.seed = _whole("seed", seed, 0)
        self.ridge_per = _one_of("ridge_per", ridge_per, ("image", "pixel"))
        self.coefficients, self.leverage = bool(coefficients), bool(leverage)
        self.mask = _check_mask(mask, data.shape)
        self.variance = _check_variance(variance, data.shape)
        self.roots = _check_weights(weights, n)
        if self.mask is not None and self.mask.ndim == 1:
            self.roots[self.mask] = 0
            self.mask = np.broadcast_to(self.mask[:, None, None], data.shape)
        if n and not (self.roots > 0).sum() > self.time_order + 1:
            raise ValueError(
                f"{int((self.roots > 0).sum())} epochs have a weight and are not masked; a fit "
                f"with time_order {self.time_order} needs at least {self.time_order + 2}"
            )
        self.ridge = _check_ridge(ridge)
        self.holdout, self.blocks = _check_holdout(holdout, n, self.roots)
        self.excluded = np.zeros((ny, nx), bool)
        if exclude is not None:
            given = arrays.to_numpy(exclude, "exclude", images=False)
            if given.shape != (ny, nx):
                raise ValueError(
                    f"`exclude` has shape {given.shape}; it must match the pixels of `cube`, "
                    f"{(ny, nx)}"
                )
            self.excluded |= given.astype(bool)
        self.exclusion = _check_exclusion(exclusion, self.wanted, (ny, nx))
        self.notes = []
        if exclusion is None and self.exclusion != _EXCLUSION:
            self.notes.append(
                f"{ny} x {nx} pixels are small: a smaller exclusion, {self.exclusion}, may let the "
                "wings of a star predict the star; take a larger cut-out if there is one"
            )

    @functools.cached_property
    def free(self) -> NDArray[np.float64]:
        """(time_order + 1, n_epochs): polynomials, orthonormal under the weights."""
        n = self.shape[0]
        powers = np.polynomial.legendre.legvander(np.linspace(-1, 1, n), self.time_order)
        _, r = np.linalg.qr(powers * self.roots[:, None])
        return np.ascontiguousarray(np.linalg.solve(r.T, powers.T))

    @property
    def fingerprint(self) -> str:
        """What a checkpoint must agree with."""
        return repr((
            self.shape, self.rule, self.wanted, self.holdout, self.ridge, self.ridge_per,
            self.exclusion, self.time_order, self.seed, int(self.excluded.sum()),
        ))  # fmt: skip

    def solve(
        self,
        report: Callable[[int, int], None],
        out: NDArray[Any] | None = None,
        saved: _Checkpoint | None = None,
    ) -> CPMResult:
        _, ny, nx = self.shape
        if out is None:
            out = np.empty(self.shape, np.float32 if self.data.dtype == np.float32 else np.float64)
        image = out
        maps = {
            "ridge": np.full((ny, nx), np.nan),
            "freedom": np.full((ny, nx), np.nan) if self.leverage else None,
            "leverage": np.full(self.shape, np.nan, np.float32) if self.leverage else None,
            "n_predictors": np.zeros((ny, nx), np.int64),
            "coefficients": {} if self.coefficients else None,
        }
        done, ridge, shines = 0, self.ridge, False
        n_tiles = 0
        if saved is not None:
            n_tiles, ridge = saved.read(maps, ridge)
        if ridge in _CHOICES and self.ridge_per == "image":
            ridge = self.choose_ridge(ridge)
        for number, (window, inner) in enumerate(self.tiles()):
            if number < n_tiles:
                shines = True
                done += (inner[0].stop - inner[0].start) * (inner[1].stop - inner[1].start)
                report(done, ny * nx)
                continue
            image[:, *inner] = np.nan
            tile = _Tile(self, window, inner)
            shines |= tile.shines
            for count in tile.fit(ridge, image, maps):
                done += count
                report(round(done), ny * nx)
            if saved is not None:
                image.flush()
                saved.write(number + 1, maps, ridge)
        if shines and not maps["n_predictors"].any():
            raise ValueError(
                "no pixel has a predictor: all are excluded, or closer than `exclusion` "
                f"{self.exclusion}; lower it"
            )
        rms, variability = self.scatter(image)
        if saved is not None:
            saved.path.unlink(missing_ok=True)
        chosen = maps.pop("ridge")
        return CPMResult(
            image=image, rms=rms, variability=variability,
            ridge=chosen if self.ridge_per == "pixel" else
            float(ridge) if ridge not in _CHOICES else float("nan"),
            meta={
                "exclusion": self.exclusion, "holdout": self.holdout, "predictors": self.rule,
                "excluded": self.excluded.copy(),
                "notes": list(self.notes),
            },
            _cube=self.data, **maps,
        )  # fmt: skip

    def choose_ridge(self, how: str) -> float | str:
        """Strength with the least sum of the logarithms of the scores of a sample of pixels."""
        tiles = list(self.tiles())
        if len(tiles) > 1:
            spread = np.linspace(0, len(tiles) - 1, min(len(tiles), _SAMPLE_TILES))
            tiles = [self.middle(*tiles[int(i)]) for i in np.round(spread)]
        n_each = -(-_SAMPLE // max(len(tiles), 1))
        sampled = []
        for tile in (_Tile(self, *cut) for cut in tiles):
            if n := len(tile.targets):
                chosen = np.unique(np.linspace(0, n - 1, n_each).astype(np.int64))
                sampled.append((tile, chosen))
        if not sampled:
            return how
        scale = float(np.mean([tile.scale for tile, _ in sampled]))

        def best(grid: NDArray[np.float64]) -> float:
            total = sum(tile.scores(how, chosen, grid * scale).sum(0) for tile, chosen in sampled)
            return float(grid[int(np.argmin(total))])

        return best(best(_RIDGES) * 10.0 ** (np.arange(-2, 3) / 3)) * scale

    def middle(self, window: Any, inner: Any) -> tuple[Any, Any]:
        """The same for 3 x 3 pixels in the middle of a tile, with as much around them."""
        cut = []
        for outside, inside, size in zip(window, inner, self.shape[1:], strict=True):
            start = (inside.start + inside.stop) // 2
            stop = min(start + 3, inside.stop)
            length = min(size, outside.stop - outside.start - _TILE + 3)
            first = min(max(start - length // 2, 0), size - length)
            cut.append((slice(first, first + length), slice(start, stop)))
        return tuple(c[0] for c in cut), tuple(c[1] for c in cut)

    def scatter(self, image: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Maps of rms and of variability, (ny, nx), made epoch by epoch."""
        square, total, count = np.zeros((3, *self.shape[1:]))
        for i in np.flatnonzero(self.roots > 0):
            plane = image[i].astype(np.float64)
            good = np.isfinite(plane)
            if not good.any():
                continue
            plane[~good] = 0.0
            if self.variance is not None:
                sigma = np.sqrt(self.variance[i])
            else:
                values = plane[good]
                sigma = 1.4826 * np.median(np.abs(values - np.median(values)))
            with np.errstate(invalid="ignore", divide="ignore"):
                part = np.abs(plane) / sigma
            total += np.where(np.isfinite(part), part, 0)
            square += plane**2
            count += good
        with np.errstate(invalid="ignore"):
            return np.sqrt(square / count), total / count

    def tiles(self) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
        """(window, inner): pixels that predict, and those of them that are predicted."""
        _, ny, nx = self.shape
        if not self.data.size:
            return
        if ny * nx <= _WHOLE:
            yield (slice(0, ny), slice(0, nx)), (slice(0, ny), slice(0, nx))
            return
        offsets = _offsets(self.exclusion, (ny, nx))[: self.wanted]
        reach = int(np.abs(offsets).max()) if len(offsets) else 1
        for y in range(0, ny, _TILE):
            for x in range(0, nx, _TILE):
                window, inner = [], []
                for start, size in ((y, ny), (x, nx)):
                    # At an edge the window moves inward: pixels there look one way only.
                    length = min(size, _TILE + 2 * reach)
                    first = min(max(start - reach, 0), size - length)
                    window.append(slice(first, first + length))
                    inner.append(slice(start, min(start + _TILE, size)))
                yield tuple(window), tuple(inner)


class _Checkpoint:
    """The maps of the tiles that are done, in a file that is always whole."""

    NAMES = ("ridge", "freedom", "n_predictors")

    def __init__(self, path: str | os.PathLike[str], fingerprint: str):
        self.path, self.fingerprint = Path(path), fingerprint

    def read(self, maps: dict[str, Any], ridge: float | str) -> tuple[int, float | str]:
        """Number of tiles that are done and the strength; fills the maps in place."""
        if not self.path.exists():
            return 0, ridge
        try:
            with np.load(self.path) as archive:
                found = dict(archive)
        except Exception as error:
            raise ValueError(
                f"checkpoint {self.path} cannot be read ({error}); remove it to begin again"
            ) from error
        if str(found["fingerprint"]) != self.fingerprint:
            raise ValueError(
                f"checkpoint {self.path} is of another cube or of other options; remove it to "
                "begin again"
            )
        for name in self.NAMES:
            if maps[name] is not None:
                maps[name][...] = found[name]
        return int(found["n_tiles"]), float(found["strength"]) if found["chosen"] else ridge

    def write(self, n_tiles: int, maps: dict[str, Any], ridge: float | str) -> None:
        chosen = ridge not in _CHOICES
        aside = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            with aside.open("wb") as file:
                np.savez(
                    file, fingerprint=self.fingerprint, n_tiles=n_tiles, chosen=chosen,
                    strength=ridge if chosen else np.nan,
                    **{name: maps[name] for name in self.NAMES if maps[name] is not None},
                )  # fmt: skip
            os.replace(aside, self.path)
        finally:
            aside.unlink(missing_ok=True)


class _Tile:
    """The series of a window of pixels, their Gram matrix, and the predictors of each target."""

    def __init__(self, problem: _Problem, window: tuple[slice, slice], inner: tuple[slice, slice]):
        self.problem, self.window, self.inner = problem, window, inner
        cut = (slice(None), *window)
        n = problem.shape[0]
        series = problem.data[cut].reshape(n, -1).T.astype(np.float64)
        bad = ~np.isfinite(series)
        if problem.mask is not None:
            bad |= np.broadcast_to(problem.mask, problem.shape)[cut].reshape(n, -1).T
        weighted = problem.roots > 0
        series[bad] = 0.0  # no NaN times zero
        for p in np.flatnonzero(bad.any(1)):
            good = np.flatnonzero(~bad[p])
            if len(good):
                series[p] = np.interp(np.arange(n), good, series[p, good])
        self.bad = bad
        square = problem.roots**2
        self.mean = series @ square / square.sum()
        series -= self.mean[:, None]
        self.series = np.concatenate([series, problem.free])
        self.n_free = len(problem.free)
        self.size = tuple(s.stop - s.start for s in window)
        n_good = (~bad & weighted).sum(1)
        usable = (n_good >= _LEAST_GOOD * weighted.sum()) & ~problem.excluded[window].ravel()
        usable &= n_good > self.n_free
        self.shines = bool((n_good > self.n_free).any())
        y, x = (axis.ravel() for axis in np.mgrid[inner])
        order = np.argsort(_z_order(y - inner[0].start, x - inner[1].start))
        local = np.ravel_multi_index(
            ((y - window[0].start)[order], (x - window[1].start)[order]), self.size
        )
        lists, counts = self.choose_predictors(local, usable)
        fitted = (counts > 0) & (n_good[local] > self.n_free)
        self.targets, counts = local[fitted], counts[fitted]
        lists = lists[fitted][:, : max(1, int(counts.max(initial=0)))]
        # In the order of the memory, those without a penalty at the end.
        lists = np.where(np.arange(lists.shape[1]) < counts[:, None], lists, np.iinfo(np.int32).max)
        lists.sort(axis=1)
        self.counts = counts + self.n_free
        self.lists = np.zeros((len(lists), lists.shape[1] + self.n_free), np.int32)
        self.lists[:, : -self.n_free] = lists
        columns = counts[:, None] + np.arange(self.n_free)
        np.put_along_axis(
            self.lists, columns, np.arange(len(series), len(self.series), dtype=np.int32)[None], 1
        )

    @functools.cached_property
    def gram(self) -> NDArray[np.float64]:
        if self.problem.variance is not None:
            return np.zeros((0, 0))
        rows = self.series * self.problem.roots
        return rows @ rows.T

    @functools.cached_property
    def spare(self) -> NDArray[np.float64]:
        return np.empty_like(self.gram)

    def gram_without(self, first: int, stop: int) -> NDArray[np.float64]:
        """The Gram matrix of the epochs outside of first <= n < stop, valid until the next."""
        if first == stop:
            return self.gram
        rows = self.series[:, first:stop] * self.problem.roots[first:stop]
        for i in range(0, len(rows), 512):  # the product stays in a cache
            part = np.s_[i : i + 512]
            np.subtract(self.gram[part], rows[part] @ rows.T, out=self.spare[part])
        return self.spare

    @functools.cached_property
    def own(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Square roots of weights of targets that do not have those of all, and which these are."""
        problem, cut = self.problem, (slice(None), *self.window)
        bad = self.bad[self.targets] & (problem.roots > 0)
        alone = np.full(len(self.targets), problem.variance is not None) | bad.any(1)
        which = np.full(len(alone), -1, np.int64)
        which[alone] = np.arange(alone.sum())
        roots = np.where(self.bad[self.targets[alone]], 0.0, problem.roots)
        if problem.variance is not None:
            variance = problem.variance[cut].reshape(problem.shape[0], -1).T[self.targets]
            with np.errstate(divide="ignore", invalid="ignore"):
                inverse = 1 / np.sqrt(variance.astype(np.float64))
            roots *= np.where(np.isfinite(inverse), inverse, 0.0)
        return roots, which

    def choose_predictors(
        self, targets: NDArray[np.int64], usable: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """(n, wanted) pixels of the window and how many of them count."""
        problem = self.problem
        offsets = _offsets(problem.exclusion, self.size)
        wanted = min(problem.wanted, int(usable.sum()))
        lists = np.zeros((len(targets), max(wanted, 1)), np.int32)
        counts = np.zeros(len(targets), np.int64)
        if not wanted or not len(offsets):
            return lists, counts
        ny, nx = self.size
        # The closest are mostly among a few times their number, in a corner of the field too.
        reaches = [6 * wanted, len(offsets)] if problem.rule == "nearest" else [len(offsets)]
        if problem.rule == "brightness":
            order = self.mean
        elif problem.rule == "cosine":
            raw = self.series[: len(self.mean)] + self.mean[:, None]
            raw /= np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-300)
        for i, target in enumerate(targets):
            y, x = divmod(int(target), self.size[1])
            for reach in reaches:
                rows, columns = offsets[:reach, 0] + y, offsets[:reach, 1] + x
                inside = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
                allowed = rows[inside] * nx + columns[inside]
                allowed = allowed[usable[allowed]]
                if len(allowed) >= wanted:
                    break
            if problem.rule == "brightness":
                allowed = allowed[np.argsort(np.abs(order[allowed] - order[target]), kind="stable")]
            elif problem.rule == "cosine":
                allowed = allowed[np.argsort(-(raw[allowed] @ raw[target]), kind="stable")]
            elif problem.rule == "random":
                place = y + self.window[0].start, x + self.window[1].start
                rng = np.random.default_rng([problem.seed, *place])
                allowed = rng.permutation(allowed)
            chosen = allowed[:wanted]
            lists[i, : len(chosen)], counts[i] = chosen, len(chosen)
        return lists, counts

    @property
    def scale(self) -> float:
        """Mean weighted sum of squares of a series, the unit of the penalty."""
        squares = ((self.series[: -self.n_free] * self.problem.roots) ** 2).sum(1)
        if self.problem.variance is not None:
            own, _ = self.own
            squares = squares * (own**2).mean()
        return float(squares[squares > 0].mean()) if (squares > 0).any() else 1.0

    def scores(
        self, how: str, sample: NDArray[np.int64], ridges: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """(n, n_ridges): logarithms of the mean squared error that each strength promises."""
        problem = self.problem
        n = float((problem.roots > 0).sum())
        if how == "gcv" and problem.variance is None and not self.few_epochs:
            square, freedom = np.empty((2, len(sample), len(ridges)))
            jit.run(
                kernel.scores_cpu, len(sample), problem.threads, self.gram, self.targets[sample],
                self.lists[sample], self.counts[sample], self.n_free, ridges, square, freedom,
            )  # fmt: skip
            left = np.maximum(1 - freedom / n, 1e-6)
            return np.log(np.maximum(square, 1e-300)) - 2 * np.log(left)
        blocks = problem.blocks if how == "cv" else _single_epochs(problem.shape[0])
        out = np.empty((len(sample), len(ridges)))
        own, which = self.own
        roots = np.where(which[sample, None] >= 0, own[which[sample]] if len(own) else 0.0,
                         problem.roots)  # fmt: skip
        for j, strength in enumerate(ridges):
            strengths = np.full(len(sample), strength)
            if how == "gcv":
                prediction, freedom = self.run(sample, strengths, _NO_BLOCKS, leverage=True)[:2]
            else:
                prediction, freedom = self.run(sample, strengths, blocks)[:2]
            rest = ((self.series[self.targets[sample]] - prediction) * roots) ** 2
            out[:, j] = np.log(np.maximum(rest.sum(1), 1e-300))
            if how == "gcv":
                left = np.maximum(1 - freedom / (roots > 0).sum(1), 1e-6)
                out[:, j] -= 2 * np.log(left)
        return out

    def run(
        self, chosen: NDArray[np.int64], ridge: NDArray[np.float64], blocks: NDArray[np.int64], *,
        leverage: bool = False, coefficients: bool = False,
    ) -> tuple[NDArray[np.float64], ...]:  # fmt: skip
        """Prediction, freedom, leverage and coefficients by a factor for each target."""
        problem, n = self.problem, len(chosen)
        own, which = self.own
        prediction, freedom = np.empty((n, problem.shape[0])), np.full(n, np.nan)
        leverages = np.empty((n if leverage else 0, problem.shape[0]))
        values = np.zeros((n if coefficients else 0, self.lists.shape[1]))
        rest = (
            self.targets[chosen], self.lists[chosen], self.counts[chosen], self.n_free, ridge,
            problem.roots, own, which[chosen], blocks, _runs(blocks), prediction, freedom,
            leverages, values,
        )  # fmt: skip
        if self.few_epochs:
            jit.run(kernel.dual_cpu, n, problem.threads, self.series, *rest)
        else:
            jit.run(kernel.single_cpu, n, problem.threads, self.series, self.gram, *rest)
        return prediction, freedom, leverages, values

    @property
    def few_epochs(self) -> bool:
        """Whether a matrix of epochs costs less than one of predictors."""
        n, k = self.problem.shape[0], float(np.median(self.counts))
        return n**2 * k + n**3 < k**3 / 3 + k**2 * n

    def fits(self, ridge: float | str) -> NDArray[np.int64]:
        """Blocks whose fits neighbours share, or none where a factor for each target costs less."""
        problem = self.problem
        n, k = problem.shape[0], float(np.median(self.counts))
        whole = np.array([[0, 0, 0, n]])
        if problem.leverage or problem.variance is not None or isinstance(ridge, str):
            return whole[:0]
        fits = problem.blocks
        if not len(fits) or problem.coefficients or (problem.roots == 0).any():
            fits = np.concatenate([whole, fits])
        alone = k**3 / 3 + (k**2 * n if len(problem.blocks) else 0)
        if self.few_epochs:
            alone = n**2 * k + n**3
        return fits if len(fits) * _SHARED * k**3 / 3 < alone else whole[:0]

    def fit(self, ridge: float | str, image: NDArray[Any], maps: dict[str, Any]) -> Iterator[float]:
        """Fill the image and the maps at the targets; from time to time, how many more are done."""
        problem = self.problem
        n_inner = int(np.prod([s.stop - s.start for s in self.inner]))
        yield n_inner - len(self.targets)
        if not len(self.targets):
            return
        least = _LEAST_RIDGE * self.scale
        fits = self.fits(ridge)
        together = np.flatnonzero(self.own[1] < 0) if len(fits) else np.empty(0, np.int64)
        strength = np.maximum(float(ridge), least) if len(fits) else np.nan
        prediction = np.empty((len(together), problem.shape[0]))
        values = np.zeros((len(together) if problem.coefficients else 0, self.lists.shape[1]))
        idle = problem.roots == 0
        for first, stop, begin, end in fits:
            gram, kept = self.gram_without(first, stop), prediction[:, idle]
            for chosen in _chunks(len(together)):
                places = together[chosen]
                jit.run(
                    kernel.shared_cpu, -(-len(places) // kernel.RUN), problem.threads, self.series,
                    gram, self.targets[places], self.lists[places], self.counts[places],
                    self.n_free, strength, begin, end, prediction[chosen],
                    values[chosen] if first == stop else values[:0],
                )  # fmt: skip
                yield len(places) / len(fits)
            if first < stop:  # epochs without weight keep the prediction of the whole fit
                prediction[:, idle] = kept
        for chosen in _chunks(len(together)):
            places = together[chosen]
            strengths = np.full(len(places), strength)
            self.write(places, strengths, prediction[chosen], image, maps, values=values[chosen])
        alone = np.setdiff1d(np.arange(len(self.targets)), together)
        for chosen in _chunks(len(alone)):
            places = alone[chosen]
            if isinstance(ridge, str):
                strengths = self.choose_each(ridge, places)
            else:
                strengths = np.full(len(places), float(ridge))
            strengths = np.maximum(strengths, least)
            prediction, *others = self.run(
                places, strengths, problem.blocks, leverage=problem.leverage,
                coefficients=problem.coefficients,
            )  # fmt: skip
            self.write(places, strengths, prediction, image, maps, *others)
            yield len(places)

    def write(
        self, chosen: NDArray[np.int64], strengths: NDArray[np.float64],
        prediction: NDArray[np.float64], image: NDArray[Any], maps: dict[str, Any],
        freedom: Any = None, leverage: Any = None, values: Any = None,
    ) -> None:  # fmt: skip
        """What was found for some targets, into the image and the maps."""
        targets = self.targets[chosen]
        y, x = np.divmod(targets, self.size[1])
        y, x = y + self.window[0].start, x + self.window[1].start
        rest = self.series[targets] - prediction
        rest[self.bad[targets]] = np.nan
        image[:, y, x] = rest.T
        maps["ridge"][y, x] = strengths
        maps["n_predictors"][y, x] = self.counts[chosen] - self.n_free
        if maps["leverage"] is not None:
            maps["freedom"][y, x] = freedom
            maps["leverage"][:, y, x] = leverage.T
        if maps["coefficients"] is not None:
            for k, i in enumerate(chosen):
                count = self.counts[i] - self.n_free
                rows, columns = np.divmod(self.lists[i, :count], self.size[1])
                places = [rows + self.window[0].start, columns + self.window[1].start]
                maps["coefficients"][int(y[k]), int(x[k])] = (
                    np.stack(places, axis=1).astype(np.int64), values[k, :count].copy()
                )  # fmt: skip

    def choose_each(self, how: str, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        grid = _RIDGES * self.scale
        return grid[np.argmin(self.scores(how, chosen, grid), axis=1)]


_NO_BLOCKS = np.empty((0, 4), np.int64)


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
        while end < min(begin + kernel.RUN, len(blocks)):
            low, high = min(first, blocks[end, 0]), max(stop, blocks[end, 1])
            longest = max(longest, blocks[end, 1] - blocks[end, 0])
            if high - low > 1.5 * longest + kernel.RUN:
                break
            first, stop, end = low, high, end + 1
        runs.append((begin, end, first, stop))
        begin = end
    return np.array(runs, np.int64).reshape(-1, 4)


def _single_epochs(n: int) -> NDArray[np.int64]:
    first = np.arange(n)
    return np.stack([first, first + 1, first, first + 1], axis=1).astype(np.int64)


def _offsets(exclusion: tuple[int, float], shape: tuple[int, int]) -> NDArray[np.int64]:
    """(n, 2) of (y, x): steps from a target to its possible predictors, the closest first."""
    rows, distance = exclusion
    ny, nx = shape
    dy, dx = np.mgrid[1 - ny : ny, 1 - nx : nx]
    square = dy**2 + dx**2
    allowed = (abs(dy) > rows) & (abs(dx) > rows) & (square >= distance**2) & (square > 0)
    steps = np.stack([dy[allowed], dx[allowed]], axis=1)
    return steps[np.argsort(square[allowed], kind="stable")].astype(np.int64)


def _check_exclusion(exclusion: Any, wanted: int, shape: tuple[int, int]) -> tuple[int, float]:
    if exclusion is not None:
        try:
            rows, distance = exclusion
            rows, distance = _whole("exclusion[0]", rows, -1), float(distance)
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"exclusion is {exclusion!r}; it must be (rows, distance) in pixels, rows a whole "
                "number (-1 for none)"
            ) from None
        if not distance >= 0:
            raise ValueError(f"exclusion is {exclusion!r}; the distance must be 0 or more pixels")
        return rows, distance
    if 0 in shape:
        return _EXCLUSION
    enough = max(1, min(int(_LEAST_PREDICTORS * wanted), shape[0] * shape[1] // 4))
    factor = 1.0
    while True:
        rows, distance = int(_EXCLUSION[0] * factor), round(_EXCLUSION[1] * factor, 1)
        if _fewest(rows, distance, shape) >= enough or factor < 0.05:
            return rows, distance
        factor *= 0.9


def _fewest(rows: int, distance: float, shape: tuple[int, int]) -> int:
    """Predictors of the pixel in the middle, which has the fewest."""
    (ny, nx), y, x = shape, shape[0] // 2, shape[1] // 2
    dy, dx = abs(np.arange(ny) - y)[:, None], abs(np.arange(nx) - x)[None]
    square = dy**2 + dx**2
    return int(((dy > rows) & (dx > rows) & (square >= distance**2) & (square > 0)).sum())


def _check_out(out: Any, shape: tuple[int, int, int]) -> None:
    if out is None:
        return
    if getattr(out, "shape", None) != shape or getattr(out.dtype, "kind", "") != "f":
        raise ValueError(
            f"`out` has shape {getattr(out, 'shape', None)} and dtype "
            f"{getattr(out, 'dtype', None)}; it must be floats of shape {shape}"
        )
    if not out.flags.writeable:
        raise ValueError("`out` is read-only; a memory map has to be opened with mode 'r+' or 'w+'")


def _check_mask(mask: Any, shape: tuple[int, int, int]) -> NDArray[np.bool_] | None:
    if mask is None:
        return None
    given = arrays.to_numpy(mask, "mask", images=False)
    if given.shape not in (shape, shape[1:], shape[:1]):
        raise ValueError(
            f"`mask` has shape {given.shape}; it must be {shape}, {shape[1:]} for pixels or "
            f"{shape[:1]} for epochs"
        )
    given = given.astype(bool)
    return np.broadcast_to(given, shape) if given.ndim == 2 else given


def _check_variance(variance: Any, shape: tuple[int, int, int]) -> NDArray[Any] | None:
    if variance is None:
        return None
    given = arrays.to_numpy(variance, "variance", images=False)
    try:
        given = np.broadcast_to(given, shape)
    except ValueError:
        raise ValueError(
            f"`variance` has shape {given.shape}; it must broadcast to that of `cube`, {shape}"
        ) from None
    if given.size and np.nanmin(given) < 0:
        raise ValueError("`variance` has negative values; it must be positive")
    return given


def _check_weights(weights: Any, n: int) -> NDArray[np.float64]:
    """(n,) square roots."""
    if weights is None:
        return np.ones(n)
    given = arrays.to_numpy(weights, "weights", images=False).astype(np.float64)
    if given.shape != (n,):
        raise ValueError(f"`weights` has shape {given.shape}; it must be ({n},), one an epoch")
    if not (np.isfinite(given).all() and (given >= 0).all()):
        raise ValueError("`weights` has values that are negative or not finite; 0 leaves one out")
    return np.sqrt(given)


def _check_ridge(ridge: Any) -> float | str:
    if isinstance(ridge, str):
        return _one_of("ridge", ridge, _CHOICES)
    if isinstance(ridge, bool) or not isinstance(ridge, (int, float, np.integer, np.floating)):
        raise TypeError(f"ridge is a {type(ridge).__name__}; it must be a number or 'gcv'")
    if not (np.isfinite(ridge) and ridge >= 0):
        raise ValueError(f"ridge is {ridge}; it must be 0 or more, or one of {_CHOICES}")
    return float(ridge)


def _check_holdout(
    holdout: Any, n: int, roots: NDArray[np.float64]
) -> tuple[Any, NDArray[np.int64]]:
    """What was asked for, and (first, stop, from, to) of what is left out and predicted."""
    if holdout is None or not n:
        return holdout, _NO_BLOCKS
    if isinstance(holdout, tuple):
        if len(holdout) != 2 or holdout[0] != "window":
            raise ValueError(
                f"holdout is {holdout!r}; it must be folds, ('window', epochs) or None"
            )
        width = _whole("holdout[1]", holdout[1], 0)
        middle = np.arange(n)
        first, stop = np.maximum(middle - width, 0), np.minimum(middle + width + 1, n)
        blocks = np.stack([first, stop, middle, middle + 1], axis=1)
    else:
        folds = _whole("holdout", holdout, 2)
        if folds > n:
            raise ValueError(
                f"holdout is {holdout} folds; `cube` has only {n} epochs: use at most as many"
            )
        edges = n * np.arange(folds + 1) // folds
        blocks = np.stack([edges[:-1], edges[1:], edges[:-1], edges[1:]], axis=1)
    weighted = np.concatenate([[0], np.cumsum(roots > 0)])
    left = weighted[-1] - (weighted[blocks[:, 1]] - weighted[blocks[:, 0]])
    if (left < 2).any():
        first, stop = blocks[int(left.argmin()), :2]
        raise ValueError(
            f"holdout {holdout!r} leaves no epoch to fit outside of epochs {first} to {stop - 1}: "
            "use more folds, a narrower window, or None"
        )
    return holdout, blocks.astype(np.int64)
