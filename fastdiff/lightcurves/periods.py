"""Periods of light curves, and features of the curves folded by them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.kernels.curve.columns import PERIOD_FEATURES

from .curves import CONSTANT_TIME, EMPTY, Curves

__all__ = ["MAX_FREQUENCY", "PERIOD_FEATURES", "period_features", "periodograms"]

MAX_FREQUENCY = 10.0
"""Cycles a day up to which is searched: sinusoids of 2.4 hours, eclipses of binaries of 4.8."""
MIN_CYCLES = 2.0
"""The longest period is the time span over this."""
MIN_POINTS = 6
"""With fewer points there is no periodogram."""
_MAX_FREQUENCIES = 2**24  # a span of 1000 years; beyond it the highest frequency is lowered


def _frequencies(curves: Curves) -> tuple[NDArray[np.int64], int]:
    """Number of frequencies of each curve (0: no periodogram) and the lowest that counts."""
    from fastdiff.kernels.curve.nufft import OVERSAMPLING  # Numba takes a second to import

    n = np.ceil(np.minimum(MAX_FREQUENCY * _spans(curves) * OVERSAMPLING, _MAX_FREQUENCIES))
    lowest = int(MIN_CYCLES * OVERSAMPLING)
    bad = (curves.flags & (EMPTY | CONSTANT_TIME)) != 0
    n[bad | (curves.n_points < MIN_POINTS) | (n < lowest + 3)] = 0
    return n.astype(np.int64), lowest


def _spans(curves: Curves) -> NDArray[np.float64]:
    """Time of the last point of each curve since its first, (n,)."""
    spans = np.zeros(len(curves))
    some = curves.n_points > 0
    ends = curves.offsets[1:][some] - 1
    spans[some] = arrays.on_host(curves.time[np.asarray(ends, like=curves.time)])
    return spans


def period_features(
    curves: Curves, *, threads: int | None = None
) -> dict[str, NDArray[np.float32]]:
    """Best period of each light curve, and what the curve looks like folded by it.

    Parameters
    ----------
    curves : Curves
        What `read_curves` gives. Curves on a GPU are copied to the CPU, which does the work.
    threads : int, optional
        CPU threads; all cores by default.

    Returns
    -------
    dict of str to ndarray of float32, (n,)
        The names of `PERIOD_FEATURES`, with their meanings. NaN where a curve has fewer than
        `MIN_POINTS` points, one time or one magnitude, and in harmonics that its points cannot
        carry.

    Notes
    -----
    The highest peaks of a periodogram (frequencies of 2 / span to `MAX_FREQUENCY`, in steps of
    1/2 / span) and their subharmonics are fitted by Fourier series of up to eight harmonics;
    the Bayesian information criterion takes one. Two equal minima have half of the orbital
    period of their binary: hence the features at twice the period.

    Cost: about 0.6 ms a curve of 300 points over 3000 days and core, of which the 0.2 ms of the
    periodogram are proportional to the time span.

    References
    ----------
    See `fastdiff.kernels.curve.periodogram`.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> time = np.sort(rng.uniform(0, 500, 200))
    >>> mag = 15 + 0.3 * np.cos(2 * np.pi * time / 0.5678) + rng.normal(0, 0.05, 200)
    >>> from fastdiff.lightcurves.curves import read_curves
    >>> features = period_features(read_curves(time, mag))
    >>> round(float(features["period"][0]), 4)
    0.5678
    """
    from fastdiff.kernels.curve import periods as kernel  # Numba takes a second to import

    curves = curves.on_host()
    made = kernel.find_periods(*curves.flat, *_frequencies(curves), threads)
    return {name: np.ascontiguousarray(made[:, k]) for k, name in enumerate(PERIOD_FEATURES)}


def periodograms(
    curves: Curves, *, threads: int | None = None
) -> list[tuple[NDArray[np.float64], Any]]:
    """Classical periodogram of each light curve.

    Parameters
    ----------
    curves : Curves
        What `read_curves` gives. Powers are computed where the curves lie: by a fast transform on
        the CPU, by sums over all points on a GPU.
    threads : int, optional
        CPU threads; all cores by default.

    Returns
    -------
    list of (ndarray of float64, array of float32)
        Frequencies in cycles a day, in the memory of the CPU, and powers, on the device of the
        curves: the share of the variance that a sinusoid explains, right to 1e-3 of the highest
        amplitude. Both are empty for a curve without a periodogram; powers are NaN for a curve of
        one magnitude.

    Notes
    -----
    Cost: 0.2 ms a curve of 300 points over 3000 days and core.

    Examples
    --------
    >>> from fastdiff.lightcurves.curves import read_curves
    >>> time = np.sort(np.random.default_rng(1).uniform(0, 100, 200))
    >>> [(frequency, power)] = periodograms(read_curves(time, np.sin(2 * np.pi * 1.5 * time)))
    >>> round(float(frequency[power.argmax()]), 2)
    1.5
    """
    from fastdiff.kernels.curve import periodogram as kernel  # Numba takes a second to import
    from fastdiff.kernels.curve.nufft import OVERSAMPLING

    n_frequencies, _ = _frequencies(curves)
    powers, starts = kernel.spectra(*curves.flat, n_frequencies, threads)
    result = []
    for i, (n, span) in enumerate(zip(n_frequencies, _spans(curves), strict=True)):
        frequency = np.arange(n) / (OVERSAMPLING * (span or 1.0))
        result.append((frequency, powers[starts[i] : starts[i + 1]]))
    return result
