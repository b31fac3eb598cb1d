"""CPM light curves of target pixel files of Kepler, K2 and TESS, and of simulated ones.

    python benchmarks/quality_cpm.py FOLDER [--png PICTURE]
    python benchmarks/quality_cpm.py --simulated

The first table has the scatter of the raw light curve of the brightest star in 3 x 3 pixels, and of
what each way of correcting it leaves: from one epoch to the next, and of means of 6 hours. The
simulated files are of 15,000 epochs of two minutes, in which photon noise dominates; what is known
of them is what is left of a star that does not vary, over its photon noise, and how much of a bump
of 1 % is left whose full width at half maximum is so many days.

The second table, of differences of pixels with predictors as they are: how much of the scatter of
the raw light curve is left, from all epochs and from one epoch to the next, and how well both
agree, by default and for other exclusions.

Of the files that INDEX.md in the folder of real data names both measure what is known of them: the
depth of the transits of Kepler-62 d (period and epoch of Borucki et al. 2013, Science 340, 587),
and the significance of a flare of EPIC 210994964 that the raw light curve does not show.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import common
import numpy as np

import fastdiff
from fastdiff.io import cubes

WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pixels, predictors as they are": ({"smooth": 1}, {"fit": "pixels"}),
    "pixels (the image)": ({}, {"fit": "pixels"}),
    "aperture (default)": ({}, {}),
    "aperture, protect a day": ({}, {"protect": None}),
}
MEANS, DAY = 12, 49  # epochs of 30 minutes: 6 hours, a day
FAST_MEANS, FAST_DAY = 180, 721  # epochs of 2 minutes: 6 hours, a day
KINDS: dict[str, dict[str, float]] = {
    "drift 0.06 px, light": {"drift": 0.06, "light": 40.0},
    "drift 0.2 px": {"drift": 0.2, "light": 0.0},
    "jitter 0.02 px in an hour": {"drift": 0.02, "jitter": 0.02, "light": 5.0},
    "photon noise alone": {"drift": 0.0, "light": 0.0},
}
BUMPS = (1.0, 3.0, 10.0)  # days
EXCLUSIONS = (None, (-1, 2.0), (-1, 5.5), (1, 4.0), (2, 4.5))
PERIOD, EPOCH, HALF = 18.16406, 180.8117, 0.055  # days, BJD - 2454833, half of the flat part
FLARE, BEFORE = (2261.2, 2261.7), (2258.0, 2261.0)  # days, BJD - 2454833


def spread(values: np.ndarray) -> float:
    """Robust standard deviation."""
    low, high = np.percentile(values, [15.87, 84.13])
    return float(high - low) / 2


def transit(time: np.ndarray, flux: np.ndarray) -> str:
    """Depth and its error, of a flux in units of the star's, above the median of a day."""
    from scipy.ndimage import median_filter

    flux = flux - median_filter(flux, 49)
    phase = (time - EPOCH + PERIOD / 2) % PERIOD - PERIOD / 2
    inside, outside = np.abs(phase) < HALF, (np.abs(phase) > 0.1) & (np.abs(phase) < 0.5)
    depth = flux[outside].mean() - flux[inside].mean()
    error = flux[outside].std() / np.sqrt(inside.sum())
    return f"transits {1e6 * depth:.0f} +- {1e6 * error:.0f} ppm"


def flare(time: np.ndarray, flux: np.ndarray) -> str:
    inside = (time > FLARE[0]) & (time < FLARE[1])
    quiet = flux[(time > BEFORE[0]) & (time < BEFORE[1])]
    above = (flux[inside].mean() - quiet.mean()) / quiet.std()
    return f"flare {above * np.sqrt(inside.sum()):.1f} sigma"


def fast_cadence(n: int, seed: int, drift: float, light: float, jitter: float = 0.0) -> tuple:
    """Cube (n, 11, 11) of e-/s, variance, mean image of its star: stars that drift, stray light."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, n)
    waves = [np.sin(np.pi * (k + 1) * t + rng.uniform(0, 6)) / (k + 1) for k in range(4)]
    turns = drift * (rng.normal(0, 1, (2, 4)) @ waves + 0.7 * (6.7 * t % 1 - 0.5))
    slow = np.array([np.convolve(each, np.ones(30) / 30**0.5, "same") for each in
                     rng.normal(0, 1, (2, n))])  # fmt: skip
    turns += jitter * slow
    pixel = np.arange(11)

    def image(y: float, x: float, flux: float) -> np.ndarray:
        total = np.zeros((n, 11, 11))
        for sigma, part in ((0.8, 0.8), (1.8, 0.2)):
            rows = np.exp(-0.5 * ((pixel - y - turns[0][:, None]) / sigma) ** 2)
            columns = np.exp(-0.5 * ((pixel - x - turns[1][:, None]) / sigma) ** 2)
            total += rows[:, :, None] * columns[:, None] * part / (2 * np.pi * sigma**2)
        return flux * total

    star = image(5.2, 4.8, 3000.0)
    cube = star + sum(image(*rng.uniform(-1, 12, 2), 3000 * 10 ** rng.uniform(-2, -0.5))
                      for _ in range(6))  # fmt: skip
    cube *= rng.normal(1, 0.005, (11, 11))
    ramp = np.exp(-(1.5 * t % 1) / 0.1)
    cube += 100 + light * ramp[:, None, None] * (1 + 0.02 * pixel[:, None] + 0.01 * pixel)
    variance = (cube + 10) / 120
    return cube + rng.normal(0, 1, cube.shape) * np.sqrt(variance), variance, star.mean(0)


def of_means(values: np.ndarray, width: int) -> float:
    rows = values[: len(values) // width * width].reshape(-1, width).mean(1)
    return spread(np.diff(rows)) / np.sqrt(2)


def compared(
    what: str, cube: Any, mask: Any, place: tuple[int, int], width: int, day: int,
    known: Any = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each way, in parts per million of the star."""
    rows: list[dict[str, Any]] = []
    for name, (options, how) in WAYS.items():
        result = fastdiff.cpm_subtract(cube, mask=mask, **options)
        how = {key: day if value is None else value for key, value in how.items()}
        started = time.perf_counter()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            curve = result.light_curve(*place, 3, **how)
            means = result.light_curve(*place, 3, bin=width, **how)
        seconds = (time.perf_counter() - started) / 2
        flux, raw = (np.asarray(curve[key]) for key in ("flux", "raw"))
        good = np.isfinite(flux)
        flux, raw = flux[good], raw[good]
        ppm = 1e6 / np.median(raw)
        if not rows:
            rows.append({
                "what": what, "way": "raw", "point": ppm * spread(np.diff(raw)) / np.sqrt(2),
                "means": ppm * of_means(raw, width), "known": known(good, raw) if known else "",
            })  # fmt: skip
        rows.append({
            "what": what, "way": name, "point": ppm * spread(np.diff(flux)) / np.sqrt(2),
            "means": ppm * of_means(flux, width),
            "said": ppm * float(np.nanmedian(means["flux_err"])),
            "smooth": curve.meta["smooth"], "warned": "yes" if said else "", "seconds": seconds,
            "known": known(good, flux) if known else "",
        })  # fmt: skip
    return rows


def simulated(n: int = 15000) -> list[dict[str, Any]]:
    """The kinds of files in which photon noise dominates."""
    rows = []
    for seed, (kind, options) in enumerate(KINDS.items()):
        cube, variance, star = fast_cadence(n, seed, **options)
        box = np.s_[4:7, 4:7]
        noise = np.sqrt(variance[:, *box].sum((1, 2)).mean())
        more = compared(kind, cube, None, (5, 5), FAST_MEANS, FAST_DAY,
                        lambda _, flux, noise=noise: f"{np.std(flux) / noise:.2f}")  # fmt: skip
        for row in more[1:] if kind == "drift 0.06 px, light" else ():
            row["kept"] = kept(cube, star, *WAYS[row["way"]])
        rows += more
    return rows


def kept(cube: np.ndarray, star: np.ndarray, options: dict[str, Any], how: dict[str, Any]) -> str:
    """Parts of bumps of 1 % that are left in the curve."""
    how = {key: FAST_DAY if value is None else value for key, value in how.items()}

    def curve(data: np.ndarray) -> np.ndarray:
        result = fastdiff.cpm_subtract(data, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(result.light_curve(5, 5, 3, **how)["flux"])

    without, parts = curve(cube), []
    for days in BUMPS:
        phase = (np.arange(len(cube)) / 720 - 9) / days
        bump = 0.01 * np.exp(-4 * np.log(2) * phase**2)
        truth = bump * star[4:7, 4:7].sum()
        truth -= truth.mean()
        change = curve(cube + bump[:, None, None] * star) - without
        parts.append(f"{days:.0f} d: {change @ truth / (truth @ truth):.2f}")
    return ", ".join(parts)


def measure(path: Path) -> tuple[list[dict[str, Any]], tuple[Any, ...]]:
    """Rows of the table, and the curves of the picture."""
    cube = cubes.read_cube(path)
    mean = np.nanmean(np.where(cube.mask[:, None, None], np.nan, cube.cube), axis=0)
    y, x = (int(i) for i in np.unravel_index(np.nanargmax(mean), mean.shape))
    box = np.s_[:, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
    raw = cube.cube[box].sum((1, 2))
    good = ~cube.mask & np.isfinite(raw) & np.isfinite(cube.time)
    times, raw = cube.time[good], raw[good]
    known = {"kplr009002278": transit, "ktwo210994964": flare}.get(path.name[:13])
    star = float(np.median(raw))
    rows, shown = [], None
    for exclusion in EXCLUSIONS:
        result = fastdiff.cpm_subtract(cube.cube, mask=cube.mask, exclusion=exclusion, smooth=1)
        n = int(result.n_predictors[y, x])
        if not n:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            curve = np.asarray(result.light_curve(y, x, 3, fit="pixels")["flux"])[good]
        shown = curve if shown is None else shown
        rows.append({
            "what": f"{path.name[:13]}, {mean.shape[0]} x {mean.shape[1]}",
            "exclusion": str(result.meta["exclusion"]) + (" (default)" if not exclusion else ""),
            "n": n,
            "left": spread(curve) / spread(raw),
            "points": spread(np.diff(curve)) / spread(np.diff(raw)),
            "alike": float(np.corrcoef(curve, raw)[0, 1]),
            "known": known(times, curve / star) if known else "",
        })  # fmt: skip
    if known:
        rows[0]["known"] += f"; raw: {known(times, raw / star)}"
    name = path.name[:13]
    result = fastdiff.cpm_subtract(cube.cube, mask=cube.mask)
    shown = np.asarray(result.light_curve(y, x, 3)["flux"])[good]
    of_star = (lambda good, flux: known(cube.time[good], flux / star)) if known else None
    ways = compared(name, cube.cube, cube.mask, (y, x), MEANS, DAY, of_star)
    return rows, ways, (name, times, raw / star - 1, shown / star)


def draw(path: Path, curves: list[tuple[Any, ...]]) -> None:
    """Raw and difference, each relative to the median flux of the star."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(curves), 2, figsize=(11, 2.6 * len(curves)), layout="constrained"
    )
    for (name, times, raw, difference), row in zip(curves, axes, strict=True):
        for axis, values, what in zip(row, (raw, difference), ("raw", "difference"), strict=True):
            axis.plot(times, values, "k.", ms=1.5)
            low, high = np.percentile(values, [0.2, 99.8])
            axis.set(ylim=(low - 0.2 * (high - low), high + 0.2 * (high - low)))
            axis.set_title(f"{name}, {what}", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("time (days)")
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="folder of target pixel files")
    parser.add_argument("--simulated", action="store_true", help="simulated files instead")
    parser.add_argument("--png", type=Path, help="picture of the light curves")
    given = parser.parse_args()
    ways_columns = {
        "what": "what", "way": "way", "point": "scatter of epochs (ppm)|.0f",
        "means": "of means|.0f", "said": "their flux_err|.0f", "smooth": "smooth",
        "known": "what is known", "kept": "kept of a bump", "warned": "warned",
        "seconds": "seconds a curve|.2f",
    }  # fmt: skip
    if given.simulated or given.folder is None:
        print("\n".join(common.table(ways_columns, simulated())))
        raise SystemExit
    paths = {p.name[:13]: p for p in sorted(given.folder.glob("*.fits*"))}
    rows, ways, curves = [], [], []
    for path in paths.values():
        more, more_ways, curve = measure(path)
        rows += more
        ways += more_ways
        curves.append(curve)
    print("\n".join(common.table(ways_columns, ways)), end="\n\n")
    columns = {
        "what": "brightest star of",
        "exclusion": "exclusion",
        "n": "predictors",
        "left": "scatter left|.2f",
        "points": "scatter from epoch to epoch left|.2f",
        "alike": "correlation|.2f",
        "known": "what is known",
    }
    print("\n".join(common.table(columns, rows)))
    if given.png:
        draw(given.png, curves)
