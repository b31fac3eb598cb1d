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
so most of the work of each fit: `fastdiff.kernels.cube.ridge`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdiff.core import arrays
from fastdiff.core.options import one_of, whole_number
from fastdiff.core.progress import reporting
from fastdiff.core.stats import mad_sigma

from .checkpoint import Checkpoint
from .cube import solve
from .options import CHOICES, CpmOptions, as_cube, check_out

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["CPMResult", "cpm_subtract"]


@dataclasses.dataclass(frozen=True, repr=False)
class CPMResult:
    """What `cpm_subtract` returns; ``np.asarray(result)`` is the image.

    Attributes
    ----------
    image : ndarray or CuPy array, (n_epochs, ny, nx)
        Data less their prediction (eq. 4), in the unit of the cube; NaN at bad pixels. It lies
        where the cube lies, and so do leverage, mask and prediction; all else is NumPy's.
    rms : ndarray of float64, (ny, nx)
        Root mean square of the image over the good epochs; NaN where there are none.
    expected_rms : ndarray of float64, (ny, nx), or None
        What `rms` would be of noise alone, from the `variance` that was given.
    variability : ndarray of float64, (ny, nx)
        Mean absolute normalised deviation (section 3.4): of image over its standard deviation,
        which is that of the given variances, or the robust scatter of each epoch's image.
    ridge : float or ndarray, (ny, nx)
        Strength of the penalty, lambda of eq. 3.
    freedom : ndarray of float64, (ny, nx), or None
        Degrees of freedom of each fit, the trace of its hat matrix, with ``leverage=True``.
    leverage : ndarray or CuPy array of float32, (n_epochs, ny, nx), or None
        Diagonal of the hat matrix, with ``leverage=True``.
    n_predictors : ndarray of int64, (ny, nx)
        Predictors of each pixel; 0 where it was not fitted.
    coefficients : dict or None
        With ``coefficients=True``: (y, x) -> (pixels (n, 2) of (y, x), their coefficients (n,)).
    meta : dict
        "exclusion": the rows and columns, and the distance, that were left out around targets;
        "holdout", "predictors", "excluded" (pixels that were no predictors); "smooth", epochs over
        which predictors were averaged; "n_spikes", single wild values that no fit saw, "n_common",
        epochs at which many pixels were wild; "notes", texts.
    """

    image: NDArray[Any]
    rms: NDArray[np.float64]
    expected_rms: NDArray[np.float64] | None
    variability: NDArray[np.float64]
    ridge: float | NDArray[np.float64]
    freedom: NDArray[np.float64] | None
    leverage: NDArray[np.float32] | None
    n_predictors: NDArray[np.int64]
    coefficients: dict[tuple[int, int], tuple[NDArray[np.int64], NDArray[np.float64]]] | None
    meta: dict[str, Any]
    _cube: NDArray[Any]
    _options: CpmOptions

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(n_epochs, ny, nx): True at bad pixels."""
        bad: NDArray[np.bool_] = np.isnan(self.image)
        return bad

    @property
    def prediction(self) -> NDArray[Any]:
        """(n_epochs, ny, nx): what the other pixels predict (eq. 2); NaN at bad pixels."""
        predicted: NDArray[Any] = self._cube - self.image
        return predicted

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(arrays.on_host(self.image), dtype=dtype, copy=copy)

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
        spread = mad_sigma(values[known], middle) if known.any() else np.nan
        excess = (values - middle) / max(spread, 1e-300)
        y, x = np.nonzero(known & (values == maximum_filter(values, 5)) & (excess > threshold))
        order = np.argsort(-values[y, x], kind="stable")
        y, x = y[order], x[order]
        return Table({"y": y, "x": x, "variability": values[y, x], "excess": excess[y, x]})

    def light_curve(
        self, y: int, x: int, aperture: int = 3, *, fit: Literal["aperture", "pixels"] = "aperture",
        protect: int = 0, bin: int = 1,
    ) -> Table:  # fmt: skip
        """Light curve of a square about a pixel, less its prediction.

        Parameters
        ----------
        y, x : int
            Pixel in the middle.
        aperture : int
            Side of the square in pixels, odd; it is cut at the edges of the cube.
        fit : {"aperture", "pixels"}
            Whether the sum of the square is predicted as one series, by pixels that the exclusion
            keeps from all of it, with running means and a penalty of its own, chosen by what is
            held out (a number that was given as `ridge` or `smooth` stays); or the differences of
            the pixels are added, as in Figs. 2 and 6 of the paper. What moves light from pixel to
            pixel leaves the sum alone, and is predicted for each pixel with the noise of the same
            predictors, which adds up: the second way may be noisier than no correction.
        protect : int
            Epochs. Coefficients come from what changes faster than this alone (each series less its
            running mean), so that a slower event is not fitted away, and slow errors are corrected
            less well. 0: from everything; events of a third of a fold or more lose a part.
            docs/cpm.md has figures. Not for ``fit="pixels"``.
        bin : int
            Epochs whose mean makes a row.

        Returns
        -------
        astropy.table.Table
            Columns epoch, flux, flux_err, raw (the sum of the pixels; one that is missing at an
            epoch is taken from the epochs around) and n_bad (pixels without a value, whose
            difference counts as 0). NaN at epochs at which no pixel was measured. flux_err is the
            robust scatter from one row to the next, as it is after `bin`; with a `variance` its
            shape is that of the propagated variances, shared predictors included. `meta` has the
            scatter from epoch to epoch of both curves ("scatter", "scatter_raw"; of means of 1, 10
            and 100 epochs "scatter_of_means", the corrected curve first), what was chosen
            ("smooth", "ridge" (inf: nothing is predicted), "n_predictors"), "n_clipped" and
            "n_common", epochs that no fit saw because the difference, or many pixels, were wild;
            "error_scale", what the errors are of those that `variance` promises; and "notes".

        Warns
        -----
        UserWarning
            If epochs, or means of 10 or 100, scatter more than those of the raw curve.
        """
        from .curve import light_curve_table

        _, ny, nx = self.image.shape
        if not (0 <= y < ny and 0 <= x < nx):
            raise ValueError(f"(y, x) is ({y}, {x}); the cube has {ny} x {nx} pixels")
        if aperture < 1 or aperture % 2 == 0:
            raise ValueError(f"aperture is {aperture}; it must be an odd number of pixels")
        how = one_of("fit", fit, ("aperture", "pixels"))
        protect = whole_number("protect", protect, 0)
        n_bin = whole_number("bin", bin, 1)
        if protect and how == "pixels":
            raise ValueError("protect is for fit='aperture'; the image has been fitted without it")
        half = aperture // 2
        box = slice(max(y - half, 0), y + half + 1), slice(max(x - half, 0), x + half + 1)
        given = None if self._options.ridge in CHOICES else float(self._options.ridge)
        image = arrays.on_host(self.image[:, *box]) if how == "pixels" else None
        return light_curve_table(self._options, box, (y, x), image, given, protect, n_bin)


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
    smooth: int | Literal["auto"] = "auto",
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
        tile by tile, so that a memory map need not fit into memory. A CuPy array is worked on by
        its GPU.
    mask : array_like of bool, optional
        True where pixels are bad: (ny, nx), (n_epochs,) or (n_epochs, ny, nx). It must lie where
        the cube lies, and so must `variance`.
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
        or by leaving out what `holdout` leaves out. Fits take at least 1e-13 of the mean sum of
        squares of a series, with which a singular design has an answer too.
    ridge_per : {"image", "pixel"}
        Whether one strength is chosen for all pixels or one for each.
    exclusion : (int, float), optional
        (rows, distance): pixels within so many rows or so many columns of the target, or not
        further than so many pixels away, do not predict it (rows -1: also those of the same row
        or column do). By default (10, 16), the paper's; where that leaves some pixel less than 50
        predictors (or half of the field) first the rows are lowered, then the distance, which
        `meta` tells.
    exclude : array_like of bool, (ny, nx), optional
        Pixels that predict nothing, such as known variables.
    exclude_variable : int
        Fit twice, the second time without this many of the most variable pixels as predictors.
    time_order : int
        Order of the polynomial of the epoch's number that is fitted without a penalty.
    smooth : int or "auto"
        Predictors are running means over so many epochs, an odd number; 1: as they are. Where what
        pixels have in common is slower than the cadence, means tell it with less noise. "auto"
        takes 1, 5, 31 or 181 by what is held out of twelve pixels.
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
        Of the CPU; all cores by default.
    progress : bool or callable
        True for a bar, or a function of (done, all) pixels.

    Returns
    -------
    CPMResult

    Raises
    ------
    TypeError, ValueError
        For what cannot be used; the message says why and what to do. CUDA tensors must become
        CuPy arrays first; `out`, and so `checkpoint`, is not taken for a cube on a GPU.

    Notes
    -----
    A bad pixel at an epoch is left out of its own fit (for which that pixel pays as with a
    `variance`), and replaced by what lies before and after it where it is a predictor. Pixels
    that are bad at more than half of the epochs predict nothing.

    Single wild values, as cosmic rays leave them, are found in each series: those of one or two
    epochs that stand out by more than 6 robust standard deviations of what is before and of what is
    after. Fits see a straight line instead, and so do pixels that they would predict; the image
    has them. Epochs at which more than a tenth of the pixels stand out have no weight in the fits,
    and are predicted.

    Fields of 10 pixels are small for the method, as the paper says in its discussion. Of a bright
    star whose wings fill such a field most is predicted by its own wings: 6 % of the variability
    were left of a T Tauri star in 10 x 10 pixels of TESS, while a flare of a faint star in 10 x 11
    of K2 stands out of a difference that has lost the motion of the telescope.

    Cost in operations a pixel, for k predictors and n epochs: about k^3 / 12 for each fit, which
    are as many as folds, where neighbours share the weights; k^3 / 3 + k^2 n for a window about
    each epoch, or a pixel with bad epochs; n^2 k + n^3 where that is less, which it is for fewer
    epochs than predictors. The cheapest way is taken; all are exact. Memory: the square of the
    pixels of a tile, twice with folds.

    On a GPU each pixel has a factor of its own, hundreds of them in one batch: what neighbours
    share is not made use of. Results are those of the CPU to 1e-8 of the pixel values; with fewer
    epochs than predictors only for a `ridge` of 1e-9 of the sum of squares of a series or more,
    below which both are rounding errors in part. Only maps of pixels come to the memory of the CPU,
    the coefficients if they are wanted, and single series: of 8 pixels with 32 predictors each,
    which choose the running means, and of pixels with a wild value. Matrices take up to 2 GB at a
    time, beside the image and the square of the pixels of a tile.

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
    device = arrays.check_same_device(cube=cube, mask=mask, variance=variance)
    arrays.check_current_device(device)
    data = as_cube(cube)
    asked = CpmOptions(
        data, mask=mask, variance=variance, weights=weights, predictors=predictors,
        n_predictors=n_predictors, holdout=holdout, ridge=ridge, ridge_per=ridge_per,
        exclusion=exclusion, exclude=exclude, time_order=time_order, smooth=smooth,
        coefficients=coefficients, leverage=leverage, seed=seed, threads=threads,
    )  # fmt: skip
    if not isinstance(exclude_variable, (int, np.integer)) or exclude_variable < 0:
        raise ValueError(f"exclude_variable is {exclude_variable}; it must be 0 or more pixels")
    check_out(out, data.shape, device)
    saved = None
    if checkpoint is not None:
        if not hasattr(out, "flush") or coefficients or leverage or exclude_variable:
            raise ValueError(
                "a checkpoint needs a memory map `out` (np.lib.format.open_memmap), and does not "
                "go with coefficients, leverage or exclude_variable"
            )
        saved = Checkpoint(checkpoint, asked.fingerprint)
    with reporting(progress) as report:
        result = CPMResult(**solve(asked, report, out, saved))
        if exclude_variable and len(data):
            values = np.nan_to_num(result.variability, nan=-1.0).ravel()
            most = np.argsort(-values, kind="stable")[:exclude_variable]
            asked.excluded.ravel()[most] = True
            result = CPMResult(**solve(asked, report, out))
    return result
