"""CPM difference imaging: cost beside a plain solve for every pixel, and what the figures are.

The cube is the paper's (Wang et al. 2017): 80 x 80 pixels, 1000 epochs, 400 predictors, photon
noise of 1e-4, one sinusoidal variable. The plain way makes and solves the normal equations of
each pixel with NumPy, and for a hold-out those of each fold, on some pixels; its cost is
extrapolated to all. The floor is that of a factor for each pixel, k^3 / 3 operations, and for a
hold-out by its hat matrix k^2 n more, at the speed of a matrix product in float64: neighbours that
share their factors go below it.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import common
import numpy as np

NOISE = 1e-4
RIDGE = 1e-4
FOLDS = 10
THREADS = 2
SIZES = {False: (80, 1000, 400), True: (40, 120, 40)}  # side, epochs, predictors
GROWTH = (  # side, epochs, predictors
    (40, 1000, 400),
    (56, 1000, 400),
    (40, 500, 400),
    (40, 2000, 400),
    (40, 1000, 200),
    (56, 1000, 800),
)


def made(folder: Path) -> tuple[Any, ...]:
    data = np.load(folder / "cube.npz")
    return data["cube"], data["signal"], tuple(data["place"])


def inputs(folder: Path, quick: bool) -> dict[str, Any]:
    from fastdiff import simulate

    side, n_epochs, _ = SIZES[quick]
    cubes = simulate.cubes(n_epochs, (side, side), seed=1)
    row = cubes.events[0]
    np.savez(folder / "cube.npz", cube=cubes.cube, signal=cubes.signal, place=(row["y"], row["x"]))
    seconds = common.timed(lambda: simulate.cubes(n_epochs, (side, side), seed=1))
    return {"wall": seconds[0], "cpu": seconds[1]}


def fastdiff_case(folder: Path, quick: bool, **options: Any) -> dict[str, Any]:
    import fastdiff

    cube, signal, (y, x) = made(folder)
    n_predictors = SIZES[quick][2]
    # Compiled, or loaded, and with one warm call of the libraries.
    fastdiff.cpm_subtract(cube[:50, :30, :30], n_predictors=20, threads=THREADS)
    cost, result = common.measure(
        lambda: fastdiff.cpm_subtract(cube, n_predictors=n_predictors, threads=THREADS, **options),
        repeats=1,
    )
    y, x = round(float(y)), round(float(x))
    truth = signal[:, y - 3 : y + 4, x - 3 : x + 4].sum((1, 2), dtype=float)
    truth -= truth.mean()
    flux = np.asarray(result.light_curve(y, x, 7)["flux"])
    rank = np.unravel_index(np.argmax(result.variability), result.variability.shape)
    return cost | {
        "rms": float(np.median(result.rms)) / NOISE,
        "kept": float(flux @ truth / (truth @ truth)),
        "first": "yes" if np.hypot(rank[0] - y, rank[1] - x) < 2 else "no",
        "ridge": float(result.ridge),
    }


def plain(folder: Path, quick: bool, folds: int | None) -> dict[str, Any]:
    """A solve for every pixel (and fold), extrapolated; and how far fastdiff's are from it."""
    import fastdiff

    cube, _, _ = made(folder)
    side, n_epochs, n_predictors = SIZES[quick]
    series = (cube - cube.mean(0)).reshape(n_epochs, -1)
    rng = np.random.default_rng(0)
    chosen = rng.choice(side * side, 20 if folds is None else 6, replace=False)
    lists = {int(p): rule(int(p), side, n_predictors) for p in chosen}
    out = {}

    def solve() -> None:
        for p, index in lists.items():
            design, target = series[:, index], series[:, p]
            design = np.column_stack([design, np.ones(n_epochs)])
            penalty = np.diag(np.r_[np.full(n_predictors, RIDGE), 0])
            prediction = np.empty(n_epochs)
            edges = n_epochs * np.arange((folds or 1) + 1) // (folds or 1)
            for a, b in itertools.pairwise(edges):
                fit = np.ones(n_epochs, bool)
                fit[a:b] = folds is None
                x = design[fit]
                coefficients = np.linalg.solve(x.T @ x + penalty, x.T @ target[fit])
                prediction[a:b] = design[a:b] @ coefficients
            out[p] = target - prediction

    cost, _ = common.measure(solve, repeats=1)
    result = fastdiff.cpm_subtract(
        cube, n_predictors=n_predictors, holdout=folds, ridge=RIDGE, threads=THREADS
    )
    image = np.asarray(result).reshape(n_epochs, -1)
    worst = max(np.abs(image[:, p] - rest).max() for p, rest in out.items())
    factor = side * side / len(chosen)
    return {
        "wall": cost["wall"] * factor, "cpu": cost["cpu"] * factor, "worst": float(worst),
        "rms": float(np.median([np.std(rest) for rest in out.values()])) / NOISE,
    }  # fmt: skip


def rule(pixel: int, side: int, n: int) -> np.ndarray:
    """The paper's predictors: 10 rows and columns left out, 16 pixels away, the closest."""
    dy, dx = np.mgrid[:side, :side] - np.array(divmod(pixel, side))[:, None, None]
    square = dy**2 + dx**2
    allowed = np.flatnonzero((abs(dy) > 10) & (abs(dx) > 10) & (square >= 256))
    return allowed[np.argsort(square.ravel()[allowed], kind="stable")[:n]]


def floor(folder: Path, quick: bool) -> dict[str, Any]:
    side, n_epochs, k = SIZES[quick]
    n = 1500
    matrix = np.ones((n, n))
    rate = 2 * n**3 / min(common.timed(lambda: matrix @ matrix)[1] for _ in range(3))
    factor = side * side * (k**3 / 3 + 2 * k * n_epochs) + side**4 * n_epochs
    hold = factor + side * side * k**2 * n_epochs
    return {"rate": rate / 1e9, "in_sample": factor / rate, "held_out": hold / rate}


def growth(folder: Path, quick: bool) -> dict[str, Any]:
    import fastdiff
    from fastdiff import simulate

    rows = []
    for side, n_epochs, k in GROWTH[:2] if quick else GROWTH:
        side, n_epochs, k = (side // 2, n_epochs // 10, k // 10) if quick else (side, n_epochs, k)
        cube = simulate.cubes(n_epochs, (side, side), seed=1, events=()).cube
        row = {"what": f"{side} x {side} x {n_epochs}, {k} predictors"}
        for name, holdout in (("in_sample", None), ("held_out", FOLDS)):
            row[name] = common.timed(
                lambda c=cube, k=k, h=holdout: fastdiff.cpm_subtract(
                    c, n_predictors=k, holdout=h, ridge=RIDGE, threads=THREADS
                )
            )[1]
        rows.append(row)
    return {"rows": rows}


CASES: dict[str, common.Case] = {
    "inputs": inputs,
    "floor": floor,
    "in_sample": lambda f, q: fastdiff_case(f, q, holdout=None, ridge=RIDGE),
    "held_out": lambda f, q: fastdiff_case(f, q, holdout=FOLDS, ridge=RIDGE),
    "default": lambda f, q: fastdiff_case(f, q),
    "plain_in_sample": lambda f, q: plain(f, q, None),
    "plain_held_out": lambda f, q: plain(f, q, FOLDS),
    "growth": growth,
}


def report(results: common.Results) -> list[str]:
    names = {
        "in_sample": "fastdiff, in sample, ridge given",
        "plain_in_sample": "NumPy, a solve a pixel, in sample",
        "held_out": f"fastdiff, {FOLDS} folds, ridge given",
        "plain_held_out": f"NumPy, a solve a pixel and fold, {FOLDS} folds",
        "default": f"fastdiff, {FOLDS} folds, ridge by gcv",
    }
    rows = []
    for key, what in names.items():
        row = {"what": what} | results[key]
        floor_ = results["floor"].get("in_sample" if "in_sample" in key else "held_out")
        if "cpu" in row and floor_:
            row["floor"] = row["cpu"] / floor_
        rows.append(row)
    columns = {
        "what": "cube of 80 x 80 x 1000, 400 predictors",
        "wall": "s|.1f",
        "cpu": "CPU s|.1f",
        "floor": "CPU / floor|.1f",
        "peak_mb": "peak MB|.0f",
        "rms": "median rms / noise|.3f",
        "kept": "signal kept|.3f",
        "first": "variable first",
        "worst": "largest difference to plain|.1e",
    }
    lines = [f"## CPM, {THREADS} threads", ""]
    if "rate" in results["floor"]:
        found = results["floor"]
        lines += [
            f"Floor: {found['in_sample']:.1f} CPU s in sample, {found['held_out']:.1f} with a "
            f"hold-out, at {found['rate']:.0f} GFLOP/s, a float64 matrix product on one core.",
            "",
        ]
    lines += common.table(columns, rows)
    if "rows" in results["growth"]:
        columns = {"what": "cube", "in_sample": "CPU s in sample|.1f", "held_out": "10 folds|.1f"}
        lines += common.table(columns, results["growth"]["rows"])
    if "cpu" in results["inputs"]:
        lines += [f"The mock cube takes {results['inputs']['cpu']:.1f} CPU s to make.", ""]
    return lines


if __name__ == "__main__":
    common.main(__doc__, CASES, report, THREADS)
