"""Features and periods of light curves, beside light-curve's extractor and astropy.

    python benchmarks/bench_features.py [--quick]

Curves of 300 points over 3000 days on one thread; CPU time, medians of several runs.
light-curve computes those 17 of the 21 features that it has, each alone and all in one extractor;
alone, its features also pay for what an extractor shares. Astropy's fast Lomb-Scargle periodogram
is given the same frequencies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
import numpy as np

SEED = 20_261_121
POINTS = 300
SPAN = 3000.0


def _curves(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, POINTS) times from 0, magnitudes with a period and errors."""
    rng = np.random.default_rng(SEED)
    time = np.sort(rng.uniform(0, SPAN, (n, POINTS)), axis=1)
    time -= time[:, :1]
    error = rng.uniform(0.03, 0.1, (n, POINTS))
    phase = time / rng.uniform(0.3, 0.9, (n, 1))
    mag = 16 + 0.3 * np.cos(2 * np.pi * phase) + error * rng.normal(size=(n, POINTS))
    return time, mag, error


def ours(folder: Path, quick: bool) -> dict[str, Any]:
    from fastdiff.lightcurves.features import CURVE_FEATURES, light_curve_features

    n = 20 if quick else 2000
    time, mag, error = (x.ravel() for x in _curves(n))
    offsets = POINTS * np.arange(n + 1)

    def call() -> None:
        light_curve_features(time, mag, offsets, magerr=error, threads=1)

    cost, _ = common.measure(call, 2 if quick else 7)
    return {"curve": cost["cpu"] / n, "features": len(CURVE_FEATURES)}


def kernel(folder: Path, quick: bool) -> dict[str, Any]:
    from fastdiff.kernels.curve import columns, features

    n = 20 if quick else 2000
    time, mag, error = (x.ravel() for x in _curves(n))
    offsets = POINTS * np.arange(n + 1)
    cost, _ = common.measure(
        lambda: features.measure_curves(time, mag, error, offsets, 1), 2 if quick else 7
    )
    return {"curve": cost["cpu"] / n, "features": len(columns.CURVE_FEATURES)}


def peer(folder: Path, quick: bool) -> dict[str, Any]:
    import light_curve as lc

    n = 20 if quick else 500
    time, mag, error = _curves(n)
    extractors = [lc.MagnitudePercentageRatio(q, 0.05) for q in (0.4, 0.325, 0.25, 0.175, 0.1)]
    extractors += [
        lc.Mean(), lc.Amplitude(), lc.BeyondNStd(1.0), lc.LinearTrend(), lc.MaximumSlope(),
        lc.MedianAbsoluteDeviation(), lc.MedianBufferRangePercentage(0.1),
        lc.PercentDifferenceMagnitudePercentile(0.05), lc.Skew(), lc.Kurtosis(),
        lc.StandardDeviation(), lc.StetsonK(),
    ]  # fmt: skip

    def cost_of(extractor: Any) -> float:
        def call() -> None:
            for t, m, e in zip(time, mag, error, strict=True):
                extractor(t, m, e, sorted=True, check=False)

        cost, _ = common.measure(call, 2 if quick else 7)
        return cost["cpu"] / n

    return {
        "curve": cost_of(lc.Extractor(*extractors)),
        "alone": sum(cost_of(extractor) for extractor in extractors),
        "features": len(extractors),
    }


def periods(folder: Path, quick: bool) -> dict[str, Any]:
    from fastdiff.lightcurves.curves import read_curves
    from fastdiff.lightcurves.periods import period_features, periodograms

    n = 4 if quick else 200
    time, mag, error = _curves(n)
    curves = read_curves(list(time), list(mag), None, list(error))
    calls = {
        "spectrum": lambda: periodograms(curves, threads=1),
        "features": lambda: period_features(curves, threads=1),
    }
    costs = common.alternate(calls, 2 if quick else 7)
    return {name: cost["cpu"] / n for name, cost in costs.items()}


def astropy_periods(folder: Path, quick: bool) -> dict[str, Any]:
    from astropy.timeseries import LombScargle

    n = 2 if quick else 10
    time, mag, error = _curves(n)
    frequency = np.arange(1, int(40 * SPAN)) / (4 * SPAN)

    def call() -> None:
        for t, m, e in zip(time, mag, error, strict=True):
            LombScargle(t, m, e).power(frequency, method="fast", assume_regular_frequency=True)

    cost, _ = common.measure(call, 2 if quick else 5)
    return {"spectrum": cost["cpu"] / n}


def report(results: common.Results) -> list[str]:
    lines = [f"## Features of light curves of {POINTS} points, one thread", ""]
    rows = []
    for name, key in (
        ("`light_curve_features`", "ours"),
        ("its kernel alone", "kernel"),
        ("light-curve, one extractor", "peer"),
    ):
        row = {"what": name} | results[key]
        if "curve" in row:
            row["micro"] = 1e6 * row["curve"]
            row["rate"] = 1e-6 * row["features"] / row["curve"]
        rows.append(row)
    if "alone" in results["peer"]:
        rows.append(
            {
                "what": "light-curve, one by one",
                "features": results["peer"]["features"],
                "micro": 1e6 * results["peer"]["alone"],
                "rate": 1e-6 * results["peer"]["features"] / results["peer"]["alone"],
            }
        )
    columns = {
        "what": "",
        "features": "features|d",
        "micro": "microseconds a curve|.1f",
        "rate": "million features a CPU second|.2f",
    }
    lines += common.table(columns, rows)
    lines += ["## Periods: 120,000 frequencies up to 10 a day over 3000 days, one thread", ""]
    rows = [{"what": "fastdiff"}, {"what": "astropy LombScargle, fast"}]
    for row, key in zip(rows, ("periods", "astropy"), strict=True):
        row |= {k: 1e3 * v if isinstance(v, float) else v for k, v in results[key].items()}
    columns = {
        "what": "",
        "spectrum": "periodogram, ms a curve|.2f",
        "features": "26 features, ms a curve|.2f",
    }
    return [*lines, *common.table(columns, rows)]


CASES = {
    "ours": ours,
    "kernel": kernel,
    "peer": peer,
    "periods": periods,
    "astropy": astropy_periods,
}

if __name__ == "__main__":
    common.main(__doc__, CASES, report, 1, peers=("peer", "astropy"))
