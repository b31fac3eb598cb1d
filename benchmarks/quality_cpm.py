"""CPM difference imaging of real target pixel files of Kepler, K2 and TESS, too small for it.

    python benchmarks/quality_cpm.py FOLDER [--png PICTURE]

For the brightest star of each file, in 3 x 3 pixels: how much of the scatter of the raw light curve
is left in the difference, from all epochs and from one epoch to the next, and how well both agree,
by default and for other exclusions. Of the files that INDEX.md in the folder of real data names it
also measures what is known of them: the depth of the transits of Kepler-62 d in both curves (period
and epoch of Borucki et al. 2013, Science 340, 587), and the significance of a flare of
EPIC 210994964 that the difference shows and the raw light curve does not.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import common
import numpy as np

import fastdiff
from fastdiff.io import cubes

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


def measure(path: Path) -> tuple[list[dict[str, Any]], tuple[Any, ...]]:
    """Rows of the table, and the curves of the picture."""
    cube = cubes.read_cube(path, True)
    mean = np.nanmean(np.where(cube.mask[:, None, None], np.nan, cube.cube), axis=0)
    y, x = (int(i) for i in np.unravel_index(np.nanargmax(mean), mean.shape))
    box = np.s_[:, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
    raw = cube.cube[box].sum((1, 2))
    good = ~cube.mask & np.isfinite(raw) & np.isfinite(cube.time)
    time, raw = cube.time[good], raw[good]
    known = {"kplr009002278": transit, "ktwo210994964": flare}.get(path.name[:13])
    star = float(np.median(raw))
    rows, shown = [], None
    for exclusion in EXCLUSIONS:
        result = fastdiff.cpm_subtract(cube.cube, mask=cube.mask, exclusion=exclusion)
        n = int(result.n_predictors[y, x])
        if not n:
            continue
        curve = np.asarray(result.light_curve(y, x, 3)["flux"])[good]
        shown = curve if shown is None else shown
        rows.append({
            "what": f"{path.name[:13]}, {mean.shape[0]} x {mean.shape[1]}",
            "exclusion": str(result.meta["exclusion"]) + (" (default)" if not exclusion else ""),
            "n": n,
            "left": spread(curve) / spread(raw),
            "points": spread(np.diff(curve)) / spread(np.diff(raw)),
            "alike": float(np.corrcoef(curve, raw)[0, 1]),
            "known": known(time, curve / star) if known else "",
        })  # fmt: skip
    if known:
        rows[0]["known"] += f"; raw: {known(time, raw / star)}"
    return rows, (path.name[:13], time, raw / star - 1, shown / star)


def draw(path: Path, curves: list[tuple[Any, ...]]) -> None:
    """Raw and difference, each relative to the median flux of the star."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(curves), 2, figsize=(11, 2.6 * len(curves)), layout="constrained"
    )
    for (name, time, raw, difference), row in zip(curves, axes, strict=True):
        for axis, values, what in zip(row, (raw, difference), ("raw", "difference"), strict=True):
            axis.plot(time, values, "k.", ms=1.5)
            low, high = np.percentile(values, [0.2, 99.8])
            axis.set(ylim=(low - 0.2 * (high - low), high + 0.2 * (high - low)))
            axis.set_title(f"{name}, {what}", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("time (days)")
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of target pixel files")
    parser.add_argument("--png", type=Path, help="picture of the light curves")
    given = parser.parse_args()
    paths = {p.name[:13]: p for p in sorted(given.folder.glob("*.fits*"))}
    rows, curves = [], []
    for path in paths.values():
        more, curve = measure(path)
        rows += more
        curves.append(curve)
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
