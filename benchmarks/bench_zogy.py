"""`fastdiff.subtract_batch` with ZOGY: time, memory, and the quality of S_corr and of fluxes.

    python benchmarks/bench_zogy.py [--quick]

On two threads: the simulated pair of bench_subtract.py (1024 x 1024, 400 stars, 5 transients),
the same with a PSF that is 10 % wider on one side of the frame than on the other, a pair of
4096 x 4096, and 64 pairs of 256 x 256; each with the true PSFs given and with measured ones. The
fluxes are those of 49 bright transients on the pixels of a pair of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bench_subtract as pair_of
import common
import numpy as np

THREADS = 2
SEED = 20_261_121
PSF_HALF = 15
FLUX = 5e4  # counts of a bright transient


def stars(shape: tuple[int, int], x, y, flux, sigma, half: int = 20) -> np.ndarray:
    """Gaussian sources; `sigma` is one width or one for each."""
    image = np.zeros((shape[0] + 2 * half + 2, shape[1] + 2 * half + 2))
    grid = np.arange(-half, half + 1)
    for a, b, f, s in zip(x, y, flux, np.broadcast_to(sigma, np.shape(x)), strict=True):
        i, j = round(float(a)), round(float(b))
        row, column = (np.exp(-((grid + n - c) ** 2) / (2 * s**2)) for n, c in ((j, b), (i, a)))
        stamp = image[j : j + 2 * half + 1, i : i + 2 * half + 1]
        stamp += f / (2 * np.pi * s**2) * np.outer(row, column)
    return image[half : half + shape[0], half : half + shape[1]]


def make(side: int, seed: int, vary: float = 0.0, transients: int = 0) -> dict[str, np.ndarray]:
    """A pair with the density of stars of bench_subtract.py; widths vary along x by `vary`."""
    rng = np.random.default_rng(seed)
    n = pair_of.N_STARS * side**2 // pair_of.SIDE**2
    x, y = rng.uniform(0, side - 1, n), rng.uniform(0, side - 1, n)
    flux = 10 ** rng.uniform(3.0, 5.3, n)
    wider = 1 + vary * (x / side - 0.5)
    shape = (side, side)
    ref = stars(shape, x, y, flux, pair_of.SIGMA_REF * wider)
    sci = stars(shape, x, y, flux * pair_of.RATIO, pair_of.SIGMA_SCI * wider)
    light = sci.copy()
    new_y, new_x = (c.ravel() for c in np.indices((transients, transients)))
    new_x, new_y = (((c + 0.5) * side / max(transients, 1)).astype(int) for c in (new_x, new_y))
    sci += stars(shape, new_x, new_y, np.full(new_x.size, FLUX), pair_of.SIGMA_SCI)
    return {
        "ref": rng.poisson(ref + pair_of.SKY_REF).astype(np.float32),
        "sci": rng.poisson(sci + pair_of.SKY_SCI).astype(np.float32),
        "light": light.astype(np.float32),
        "x": new_x,
        "y": new_y,
    }


def inputs(folder: Path, quick: bool) -> dict[str, Any]:
    """Write the pairs, so that the processes that are measured hold nothing else."""
    side, n = (512, 4) if quick else (4096, 64)
    np.savez(folder / "stars.npz", **pair_of.star_field())
    np.savez(folder / "varying.npz", **make(pair_of.SIDE, SEED, vary=0.1))
    np.savez(folder / "bright.npz", **make(pair_of.SIDE, SEED + 1, transients=7))
    large = make(side, SEED + 2)
    np.save(folder / "large.npy", np.stack([large["ref"], large["sci"]])[:, None])
    small = [make(256, SEED + 3 + i) for i in range(n)]
    np.save(folder / "small.npy", np.stack([[each[k] for each in small] for k in ("ref", "sci")]))
    return {}


def psfs() -> dict[str, np.ndarray]:
    return {
        "ref_psfs": pair_of.gaussian(pair_of.SIGMA_REF, PSF_HALF),
        "sci_psfs": pair_of.gaussian(pair_of.SIGMA_SCI, PSF_HALF),
    }


def run(refs: np.ndarray, scis: np.ndarray, given: bool, quick: bool) -> tuple[dict, Any]:
    import fastdiff

    options = psfs() if given else {}
    return common.measure(
        lambda: fastdiff.subtract_batch(refs, scis, method="zogy", threads=THREADS, **options),
        pair_of.repeats(quick),
    )


def quality(difference: Any, empty: np.ndarray, stars: np.ndarray) -> dict[str, float]:
    """Widths of S_corr on empty sky and in stars, of the pulls of D, and peaks of no source."""
    significance = np.asarray(difference.significance)
    pull = np.asarray(difference.image) / np.asarray(difference.noise)
    good = np.isfinite(significance)
    return {
        "sky": float(np.std(significance[empty & good])),
        "pull": float(np.std(pull[empty & good])),
        "core": float(1.4826 * np.median(np.abs(pull[stars & good]))),
        "worst": float(np.abs(significance[stars & good]).max()),
    }


def peaks(difference: Any) -> tuple[np.ndarray, np.ndarray]:
    from scipy.ndimage import maximum_filter

    significance = np.nan_to_num(np.asarray(difference.significance))
    top = (significance == maximum_filter(significance, 7)) & (significance > pair_of.THRESHOLD)
    return np.nonzero(top)[::-1]


def pair(folder: Path, quick: bool, given: bool) -> dict[str, Any]:
    data = dict(np.load(folder / "stars.npz"))
    measured, difference = run(data["ref"], data["sci"], given, quick)
    core = data["variance"] > 2
    for x, y in zip(data["x"].astype(int), data["y"].astype(int), strict=True):
        core[y - 12 : y + 13, x - 12 : x + 13] = False
    return (
        measured
        | quality(difference, data["empty"], core)
        | pair_of.score(*peaks(difference), data)
        | {"stages": difference.meta["seconds"]}
    )


def varying(folder: Path, quick: bool, given: bool) -> dict[str, Any]:
    from scipy.ndimage import binary_dilation

    data = dict(np.load(folder / "varying.npz"))
    measured, difference = run(data["ref"], data["sci"], given, quick)
    core = data["light"] > 3 * np.sqrt(pair_of.SKY_SCI)
    empty = ~binary_dilation(data["light"] > 0.3, iterations=6)
    found = peaks(difference)
    return measured | quality(difference, empty, core) | {"false": len(found[0])}


def fluxes(folder: Path, quick: bool, given: bool) -> dict[str, Any]:
    data = dict(np.load(folder / "bright.npz"))
    _, difference = run(data["ref"], data["sci"], given, True)
    at = data["y"], data["x"]
    ratio = np.asarray(difference.flux)[at] / FLUX
    pull = (np.asarray(difference.flux)[at] - FLUX) / np.asarray(difference.flux_err)[at]
    return {
        "ratio": float(np.nanmean(ratio)),
        "ratio_error": float(np.nanstd(ratio) / np.sqrt(np.isfinite(ratio).sum())),
        "pull": float(np.nanstd(pull)),
    }


def cost(folder: Path, name: str, quick: bool, given: bool) -> dict[str, Any]:
    refs, scis = np.load(folder / f"{name}.npy")
    measured, difference = run(refs, scis, given, quick)
    significance = np.clip(np.asarray(difference.significance), -5, 5)
    return measured | {
        "n": len(scis),
        "side": scis.shape[2],
        "sky": float(np.nanstd(significance)),
        "stages": difference.meta["seconds"],
    }


KINDS = {"given": True, "measured": False}
CASES: dict[str, common.Case] = {"inputs": inputs}
for kind, is_given in KINDS.items():
    CASES |= {
        f"pair_{kind}": lambda f, q, g=is_given: pair(f, q, g),
        f"varying_{kind}": lambda f, q, g=is_given: varying(f, q, g),
        f"fluxes_{kind}": lambda f, q, g=is_given: fluxes(f, q, g),
        f"large_{kind}": lambda f, q, g=is_given: cost(f, "large", q, g),
        f"small_{kind}": lambda f, q, g=is_given: cost(f, "small", q, g),
    }


def report(results: common.Results) -> list[str]:
    lines = [
        f"## ZOGY, {THREADS} threads",
        "",
        "S_corr sky: standard deviation on empty sky. D sky and D core: of D over its noise, on "
        "empty sky and in stars. Worst: largest |S_corr| in stars. False: peaks above "
        f"{pair_of.THRESHOLD:g} that are no transient.",
        "",
    ]
    names = {
        "pair": f"{pair_of.SIDE} x {pair_of.SIDE}, 5 transients",
        "varying": f"{pair_of.SIDE} x {pair_of.SIDE}, PSF varies by 10 %",
        "large": "large",
        "small": "small",
    }
    rows = []
    for key, what in names.items():
        for kind in KINDS:
            row = {"what": f"{what}, PSFs {kind}"} | results[f"{key}_{kind}"]
            if "side" in row:
                row["what"] = f"{row['n']} x ({row['side']} x {row['side']}), PSFs {kind}"
            rows.append(row)
    columns = {
        "what": "pairs",
        **pair_of.COST,
        "sky": "S_corr sky|.3f",
        "pull": "D sky|.3f",
        "core": "D core|.2f",
        "worst": "worst|.1f",
        "found": "found of 5|d",
        "false": "false|d",
    }
    lines += common.table(columns, rows)
    for row in rows:
        if "stages" in row:
            stages = ", ".join(f"{k} {v:.3f}" for k, v in row["stages"].items())
            lines += [f"Seconds of the stages of {row['what']}: {stages}.", ""]
    rows = [{"what": kind} | results[f"fluxes_{kind}"] for kind in KINDS]
    columns = {
        "what": "PSFs",
        "ratio": "mean flux / truth (goal 1 ± 0.01)|.4f",
        "ratio_error": "its error|.4f",
        "pull": "scatter / flux_err|.2f",
    }
    return lines + common.table(columns, rows)


if __name__ == "__main__":
    common.main(__doc__, CASES, report, THREADS)
