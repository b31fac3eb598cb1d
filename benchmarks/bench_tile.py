"""Frames to normalised tiles and back, beside the floor that memory sets.

    python benchmarks/bench_tile.py [--quick]

A pair of 4096 x 4096 float32 images on two threads. The floor of a stage is the bytes that it
must read and write, each pixel once, over the bandwidth of a plain copy by as many threads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
import numpy as np

THREADS = 2
SEED = 20_261_120


def stages(folder: Path, quick: bool) -> dict[str, Any]:
    import fastdiff
    from fastdiff.kernels.image import blocks, measure, plan, tile

    side = 512 if quick else 4096
    made = fastdiff.simulate.pairs(1, (side, side), seed=SEED, threads=THREADS)
    pixels = (made.ref, made.sci)
    origins, shape = plan.plan_tiles(side, side)
    tiles = np.arange(len(origins))
    places = plan.places_of(np.zeros_like(tiles), tiles, origins)
    stats = measure.measure_tiles(pixels, origins, shape, THREADS)
    scale, _ = blocks.photometric_scale(pixels, origins, shape, stats, THREADS)
    pairs = np.empty((len(tiles), 2, *shape), np.float32)
    outputs = np.zeros((len(tiles), 1, *shape), np.float32)
    weights, sigma_d = plan.blend_weights(origins, shape), tile.tile_noise(stats, scale)
    image = np.empty_like(made.sci)
    calls = {
        "measure": lambda: measure.measure_tiles(pixels, origins, shape, THREADS),
        "scale": lambda: blocks.photometric_scale(pixels, origins, shape, stats, THREADS),
        "cut": lambda: tile.cut_tiles(pixels, places, shape, stats, scale, THREADS, out=pairs),
        "blank": lambda: tile.blank_image(pixels, image, THREADS),
        "stitch": lambda: tile.stitch_tiles(outputs, places, weights, sigma_d, image, THREADS),
    }
    both = made.ref.nbytes + made.sci.nbytes
    must_move = {
        "measure": both,
        "scale": both,
        "cut": both + pairs.nbytes,
        "blank": both + image.nbytes,
        "stitch": outputs.nbytes + 2 * image.nbytes,
    }
    return {
        "side": side,
        "bandwidth": common.copy_bandwidth(THREADS),
        "stages": common.alternate(calls, 1 if quick else 7),
        "bytes": must_move,
    }


def stamps(folder: Path, quick: bool) -> dict[str, Any]:
    """`normalise_pairs`, what training calls, on one thread."""
    import fastdiff
    from fastdiff.kernels.image import tile

    n = 100 if quick else 2000
    made = fastdiff.simulate.pairs(n, (64, 64), seed=SEED, threads=1)
    cost, _ = common.measure(lambda: tile.normalise_pairs(made.ref, made.sci, threads=1), 7)
    return {"rate": n / cost["cpu"]}


NAMES = {
    "measure": "`measure_tiles`: sky and noise",
    "scale": "`photometric_scale`",
    "cut": "`cut_tiles`: normalise, cut",
    "blank": "`blank_image`: bad pixels",
    "stitch": "`stitch_tiles`: blend, back to counts",
}


def report(results: common.Results) -> list[str]:
    own = results["stages"]
    side = own.get("side", "")
    lines = [f"## Tiles of a pair of {side} x {side} float32 images, {THREADS} threads", ""]
    if "error" in own:
        return lines
    rows = [
        {
            "what": name,
            "wall": own["stages"][key]["wall"],
            "cpu": own["stages"][key]["cpu"],
            "moved": own["bytes"][key] / 1e6,
            "floor": own["bytes"][key] / own["bandwidth"],
        }
        for key, name in NAMES.items()
    ]
    rows.append(
        {"what": "all"}
        | {k: sum(row[k] for row in rows) for k in ("wall", "cpu", "moved", "floor")}
    )
    for row in rows:
        row["ratio"] = row["wall"] / row["floor"]
    columns = {
        "what": "stage",
        "wall": "wall s|.3f",
        "cpu": "CPU s|.3f",
        "moved": "MB to move|.0f",
        "floor": "floor s|.3f",
        "ratio": "wall / floor|.1f",
    }
    lines += common.table(columns, rows)
    lines += [
        f"Floor: at {own['bandwidth'] / 1e9:.1f} GB/s, measured by copies on {THREADS} threads.",
    ]
    if "rate" in results["stamps"]:
        lines += [
            f"`normalise_pairs`, 64 x 64: {results['stamps']['rate']:,.0f} pairs/s a core "
            "(goal 10,000).",
        ]
    return [*lines, ""]


CASES = {"stages": stages, "stamps": stamps}

if __name__ == "__main__":
    common.main(__doc__, CASES, report, THREADS)
