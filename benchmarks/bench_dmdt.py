"""dm-dt images of light curves, beside light-curve (Rust) and a floor.

    python benchmarks/bench_dmdt.py [--quick]

Times are uniform over 3000 days and sorted, magnitudes have a scatter of 0.5 mag, errors are
0.05 to 0.1 mag; the grid is that of the paper, with one edge at 0 as light-curve has it. Every
figure is of the public call, its checks included: `dmdt_images(..., norm="counts")` of many
curves, `DmDt.points` and `DmDt.gausses` of one curve at a time, in turns, on one thread. The
floor is `numpy.bincount` of the cells of all pairs, known beforehand: an increment a pair.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import common
import numpy as np

SEED = 20_170_917
SIZES = (100, 300, 2000, 20_000)
LONG_SIZES = (1000, 2000, 5000, 20_000, 100_000)
REPEATS = 5


def curves(n: int, n_points: int) -> tuple[np.ndarray, ...]:
    """(time, mag, magerr, offsets) of `n` curves."""
    rng = np.random.default_rng(SEED)
    time = np.sort(rng.uniform(55000, 58000, (n, n_points)), axis=1).ravel()
    mag, err = rng.normal(15, 0.5, n * n_points), rng.uniform(0.05, 0.1, n * n_points)
    return time, mag, err, np.arange(n + 1) * n_points


def plain_grid() -> Any:
    from fastdiff.lightcurves.dmdt import GRIDS, Grid

    paper = GRIDS["mahabal2017"]
    return Grid(np.unique(paper.dm), paper.dt)


def rates(quick: bool, sizes: tuple[int, ...], n_pairs: float, smooth: bool) -> dict[str, Any]:
    """Million pairs a CPU second by size, of calls in turns."""
    from fastdiff.lightcurves.dmdt import dmdt_images

    grid = plain_grid()
    made: dict[str, Any] = {}
    for n_points in sizes:
        pairs = n_points * (n_points - 1) // 2
        n = max(1, int((n_pairs / 20 if quick else n_pairs) / pairs))
        time, mag, err, offsets = curves(n, n_points)
        options = {"grid": grid, "norm": "counts", "threads": 1}
        calls = {"own": lambda: dmdt_images(time, mag, offsets, **options)}  # noqa: B023
        if smooth:
            options["magerr"] = err
            calls["exact"] = lambda: dmdt_images(time, mag, offsets, smooth="exact", **options)  # noqa: B023
        peer = _peer(grid, smooth, time, mag, err, offsets)
        if peer is not None:
            calls["peer"] = peer
        if not smooth:
            cells = np.random.default_rng(SEED).integers(0, 24 * 24, pairs)
            calls["floor"] = lambda: [np.bincount(cells, minlength=576) for _ in range(n)]  # noqa: B023
        times = common.alternate(calls, 1 if quick else REPEATS)
        made[str(n_points)] = {k: n * pairs / v["cpu"] / 1e6 for k, v in times.items()}
    return made


def _peer(grid: Any, smooth: bool, time: Any, mag: Any, err: Any, offsets: Any) -> Any:
    try:
        import light_curve
    except ImportError:
        return None
    maker = light_curve.DmDt(dt=grid.dt, dm=grid.dm, dt_type="asis", dm_type="asis", norm=[])
    parts = [slice(a, b) for a, b in itertools.pairwise(offsets)]
    if smooth:
        return lambda: [maker.gausses(time[p], mag[p], err[p]) for p in parts]
    return lambda: [maker.points(time[p], mag[p]) for p in parts]


def points(folder: Path, quick: bool) -> dict[str, Any]:
    return rates(quick, SIZES, 4e7, smooth=False)


def smoothed(folder: Path, quick: bool) -> dict[str, Any]:
    return rates(quick, SIZES[:-1], 3e6, smooth=True)


def long(folder: Path, quick: bool) -> dict[str, Any]:
    """CPU seconds of one curve by its number of points, on one and two threads."""
    from fastdiff.lightcurves.dmdt import dmdt_images

    made = {}
    for n_points in LONG_SIZES[:3] if quick else LONG_SIZES:
        time, mag, _, _ = curves(1, n_points)
        cost, _ = common.measure(lambda: dmdt_images(time, mag, threads=1), 3)  # noqa: B023
        both, _ = common.measure(lambda: dmdt_images(time, mag, threads=2), 3)  # noqa: B023
        made[str(n_points)] = {
            "cpu": cost["cpu"],
            "rate": n_points * (n_points - 1) / 2 / cost["cpu"] / 1e6,
            "gain": cost["wall"] / both["wall"],
            "peak": cost["peak_mb"],
        }
    return made


def batch(folder: Path, quick: bool) -> dict[str, Any]:
    """Many curves of 300 points, in disorder, to the paper's uint8 images."""
    from fastdiff.lightcurves.dmdt import dmdt_images

    n = 1000 if quick else 100_000
    time, mag, _, offsets = curves(n, 300)
    order = np.random.default_rng(SEED).permuted(np.tile(np.arange(300), (n, 1)), axis=1)
    order = (order + offsets[:-1, None]).ravel()
    time, mag = time[order], mag[order]
    dmdt_images(time[:300], mag[:300])
    one, both = (
        common.timed(lambda t=threads: dmdt_images(time, mag, offsets, threads=t))
        for threads in (1, 2)
    )
    return {"n": n, "one_wall": one[0], "one_cpu": one[1], "two_wall": both[0], "two_cpu": both[1]}


def report(results: common.Results) -> list[str]:
    lines = ["## dm-dt images", ""]
    lines += _rates(results["points"], "Counts, million pairs a CPU second", "points", 8)
    lines += _rates(results["smoothed"], "Spread by errors, the same", "gausses", 15)
    if "error" not in results["long"]:
        rows = [{"n": f"{int(n):,}", **row} for n, row in results["long"].items()]
        lines += ["One curve, to the paper's image:", ""]
        lines += common.table(
            {
                "n": "points",
                "cpu": "CPU s|.4f",
                "rate": "million pairs a CPU second|,.0f",
                "gain": "two threads, times one|.2f",
                "peak": "MB|.0f",
            },
            rows,
        )
    many = results["batch"]
    if "error" not in many:
        lines += [
            f"{many['n']:,} curves of 300 points in disorder to uint8 images: "
            f"{many['one_wall']:.1f} s on one thread ({many['one_cpu']:.1f} CPU s), "
            f"{many['two_wall']:.1f} s on two ({many['two_cpu']:.1f} CPU s; goal 15 s).",
            "",
        ]
    return lines


def _rates(made: dict[str, Any], title: str, peer: str, goal: int) -> list[str]:
    if "error" in made:
        return []
    rows = [{"n": f"{int(n):,}", **row} for n, row in made.items()]
    for row in rows:
        row["ratio"] = row["own"] / row["peer"] if "peer" in row else ""
    columns = {"n": "points", "own": "fastdiff|.0f"}
    columns |= {"exact": "exact erf|.1f"} if "exact" in rows[0] else {}
    columns |= {"peer": f"light-curve `{peer}`|.1f", "ratio": f"times (goal {goal})|.1f"}
    columns |= {"floor": "increments alone|.0f"} if "floor" in rows[0] else {}
    return [title + ":", "", *common.table(columns, rows)]


CASES = {"points": points, "smoothed": smoothed, "long": long, "batch": batch}

if __name__ == "__main__":
    common.main(__doc__, CASES, report, 1)
