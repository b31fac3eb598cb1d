"""Periods of light curves, and features of the curves folded by them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .curves import CONSTANT_TIME, EMPTY, Curves

__all__ = ["MAX_FREQUENCY", "PERIOD_FEATURES", "period_features", "periodograms"]

MAX_FREQUENCY = 10.0
"""Cycles a day up to which is searched: sinusoids of 2.4 hours, eclipses of binaries of 4.8."""
MIN_CYCLES = 2.0
"""The longest period is the time span over this."""
MIN_POINTS = 6
"""With fewer points there is no periodogram."""
_MAX_FREQUENCIES = 2**24  # a span of 1000 years; beyond it the highest frequency is lowered

PERIOD_FEATURES: dict[str, str] = {
    "period": "days; the shortest period that describes the curve",
    "period_significance": "-log10 of the chance that noise has the highest peak",
    "sinusoid_period": "days; period of the highest peak of the periodogram",
    "sinusoid_power": "share of the variance in the highest peak",
    "harmonics": "harmonics used at `period`, 1 to 8",
    "explained": "share of the variance explained at `period`",
    "explained_sinusoid": "the same by a sinusoid alone",
    "explained_double": "the same at twice the period",
    "explained_half": "the same at half the period",
    "harmonic_amplitude_1": "mag; semi-amplitude of the first harmonic",
    "harmonic_amplitude_2": "mag; second harmonic",
    "harmonic_amplitude_3": "mag; third harmonic",
    "harmonic_amplitude_4": "mag; fourth harmonic",
    "phase_21": "radians; phi_2 - 2 phi_1 of cosines",
    "phase_31": "radians; phi_3 - 3 phi_1",
    "phase_41": "radians; phi_4 - 4 phi_1",
    "folded_amplitude": "mag; faintest minus brightest phase of the Fourier series",
    "rise_fraction": "share of the period from the faintest to the brightest phase",
    "folded_skew": "skewness of the Fourier series over phase",
    "minima_depth_ratio": "depth of the second minimum over the first at twice the period",
    "minima_separation": "phase between these minima at twice the period",
    "roughness": "mean squared step between neighbours in phase over twice the variance",
    "roughness_double": "the same at twice the period",
    "residual_std": "mag; what the Fourier series leaves",
    "second_period": "days; best period that is not a multiple of `period`",
    "second_explained": "share of the variance explained there",
}
"""Name -> meaning of what `period_features` gives."""


def _frequencies(curves: Curves) -> tuple[NDArray[np.int64], int]:
    """Number of frequencies of each curve (0: no periodogram) and the lowest that counts."""
    from fastdiff.kernels.curve import periodogram as kernel

    lengths = curves.n_points
    spans = np.zeros(len(curves))
    some = lengths > 0
    spans[some] = curves.time[curves.offsets[1:][some] - 1]
    n = np.ceil(np.minimum(MAX_FREQUENCY * spans * kernel.OVERSAMPLING, _MAX_FREQUENCIES))
    lowest = int(MIN_CYCLES * kernel.OVERSAMPLING)
    bad = (curves.flags & (EMPTY | CONSTANT_TIME)) != 0
    n[bad | (lengths < MIN_POINTS) | (n < lowest + 3)] = 0
    return n.astype(np.int64), lowest


def period_features(
    curves: Curves, *, threads: int | None = None
) -> dict[str, NDArray[np.float32]]:
    """Best period of each light curve, and what the curve looks like folded by it.

    Parameters
    ----------
    curves : Curves
        What `read_curves` gives.
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
    from fastdiff.kernels import jit
    from fastdiff.kernels.curve import periodogram as kernel

    n_frequencies, lowest = _frequencies(curves)
    out = np.full((len(curves), len(kernel.FEATURES)), np.nan, np.float32)
    magerr = np.empty(0) if curves.magerr is None else curves.magerr
    jit.run(
        kernel.periods_cpu, len(curves), threads, curves.time, curves.mag, magerr,
        curves.offsets, n_frequencies, lowest, out,
    )  # fmt: skip
    return {name: np.ascontiguousarray(out[:, k]) for k, name in enumerate(kernel.FEATURES)}


def periodograms(
    curves: Curves, *, threads: int | None = None
) -> list[tuple[NDArray[np.float64], NDArray[np.float32]]]:
    """Classical periodogram of each light curve.

    Parameters
    ----------
    curves : Curves
        What `read_curves` gives.
    threads : int, optional
        CPU threads; all cores by default.

    Returns
    -------
    list of (ndarray of float64, ndarray of float32)
        Frequencies in cycles a day and powers: the share of the variance that a sinusoid
        explains; right to 1e-3 of the highest amplitude. Both are empty for a curve without a
        periodogram.

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
    from fastdiff.kernels import jit
    from fastdiff.kernels.curve import periodogram as kernel

    n_frequencies, _ = _frequencies(curves)
    offsets = np.concatenate([[0], np.cumsum(n_frequencies)])
    out = np.full(offsets[-1], np.nan, np.float32)
    magerr = np.empty(0) if curves.magerr is None else curves.magerr
    jit.run(
        kernel.spectra_cpu, len(curves), threads, curves.time, curves.mag, magerr,
        curves.offsets, n_frequencies, offsets, out,
    )  # fmt: skip
    result = []
    for i, n in enumerate(n_frequencies):
        span = curves.time[curves.offsets[i + 1] - 1] if n else 1.0
        frequency = np.arange(n) / (kernel.OVERSAMPLING * span)
        result.append((frequency, out[offsets[i] : offsets[i + 1]]))
    return result
