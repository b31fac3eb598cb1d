"""`fastdiff.subtract_batch` with method "psf-match": time, memory, and quality beside SFFT.

    python benchmarks/bench_psfmatch.py [--quick]

On two threads: the simulated pair of 1024 x 1024 of bench_subtract.py by psf-match in several
settings, by SFFT and by the true kernel; the same pair with a PSF that varies by 10 % across the
frame; a pair of 4096 x 4096; 64 pairs of 256 x 256 in one call.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import bench_subtract as shared
import common
import numpy as np

THREADS = 2
VARIATION = 0.1  # of the width of the science PSF from the left to the right edge


def inputs(folder: Path, quick: bool) -> dict[str, Any]:
    """Write the pairs, so that the processes that are measured hold nothing else."""
    import fastdiff

    side, n = (512, 4) if quick else (4096, 64)
    large = fastdiff.simulate.pairs(1, (side, side), seed=shared.SEED, threads=THREADS)
    small = fastdiff.simulate.pairs(n, (256, 256), seed=shared.SEED, threads=THREADS)
    np.save(folder / "large.npy", np.stack([large.ref, large.sci]))
    np.save(folder / "small.npy", np.stack([small.ref, small.sci]))
    np.savez(folder / "constant.npz", **with_cores(shared.star_field(), 0.0))
    np.savez(folder / "varying.npz", **with_cores(shared.star_field(), VARIATION))
    return {}


def with_cores(pair: dict[str, np.ndarray], variation: float) -> dict[str, np.ndarray]:
    """The pair with its star cores marked, or made anew with a science PSF that varies."""
    rng = np.random.default_rng(7)  # the stars of `star_field`
    side, n = shared.SIDE, shared.N_STARS
    x, y = rng.uniform(15, side - 15, n), rng.uniform(15, side - 15, n)
    flux = 10 ** rng.uniform(3.0, 5.3, n)
    sky = np.float64(shared.SKY_SCI + shared.SKY_REF * (pair["kernel"] ** 2).sum())
    static = shared.stars(x, y, flux * shared.RATIO, shared.SIGMA_SCI)
    if variation:
        width = shared.SIGMA_SCI * (1 + variation * (x / side - 0.5))
        varied = sum(
            shared.stars(x[i : i + 1], y[i : i + 1], flux[i : i + 1] * shared.RATIO, width[i])
            for i in range(n)
        )
        change = varied - static
        static = varied
        noise = np.random.default_rng(8)
        mean = np.maximum(pair["variance"] * sky, shared.SKY_SCI)
        # Photons more or less: those of the pair, moved to where the PSF has them now.
        pair["sci"] = pair["sci"] + noise.poisson(np.maximum(change, 0))
        pair["sci"] -= noise.binomial(pair["sci"].astype(np.int64), np.clip(-change / mean, 0, 1))
        pair["variance"] = pair["variance"] + change / sky
    core = static > 3 * np.sqrt(sky)
    for cx, cy in zip(pair["x"].astype(int), pair["y"].astype(int), strict=True):
        core[cy - 12 : cy + 13, cx - 12 : cx + 13] = False
    edge = shared.EDGE
    frame = np.zeros_like(core)
    frame[edge:-edge, edge:-edge] = True
    return pair | {"core": core & frame, "sky": sky}


def quality(difference: np.ndarray, pair: dict[str, np.ndarray]) -> dict[str, Any]:
    """Noise over the expected noise in empty sky and in star cores; detections."""
    masked = np.isnan(difference)
    empty = pair["empty"] & ~masked
    level = np.median(difference[empty])
    pull = (difference - level) / np.sqrt(pair["variance"] * pair["sky"])
    spread = {
        name: 1.4826 * float(np.median(np.abs(pull[where] - np.median(pull[where]))))
        for name, where in (("sigma", empty), ("core", pair["core"] & ~masked))
    }
    filled = np.where(masked, level, difference)
    return spread | shared.score(*shared.matched_filter(filled, pair), pair)


def by_fastdiff(folder: Path, name: str, quick: bool, **options: Any) -> dict[str, Any]:
    import fastdiff

    pair = dict(np.load(folder / f"{name}.npz"))
    measured, difference = common.measure(
        lambda: fastdiff.subtract_batch(
            pair["ref"], pair["sci"], method="psf-match", threads=THREADS, **options
        ),
        1 if quick else 5,
    )
    row = measured | quality(np.asarray(difference), pair)
    row["stages"] = difference.meta["seconds"]
    return row


def default(folder: Path, quick: bool) -> dict[str, Any]:
    return by_fastdiff(folder, "constant", quick)


def constant_kernel(folder: Path, quick: bool) -> dict[str, Any]:
    return by_fastdiff(folder, "constant", quick, kernel_order=0)


def delta(folder: Path, quick: bool) -> dict[str, Any]:
    return by_fastdiff(folder, "constant", quick, basis="delta")


def all_pixels(folder: Path, quick: bool) -> dict[str, Any]:
    return by_fastdiff(folder, "constant", quick, fit="all")


def significance(folder: Path, quick: bool) -> dict[str, Any]:
    return by_fastdiff(folder, "constant", quick, significance=True, decorrelate=True)


def varying(folder: Path, quick: bool) -> dict[str, Any]:
    return by_fastdiff(folder, "varying", quick)


def varying_constant(folder: Path, quick: bool) -> dict[str, Any]:
    return by_fastdiff(folder, "varying", quick, kernel_order=0)


def by_sfft(folder: Path, name: str, order: int, quick: bool) -> dict[str, Any]:
    """Kernel of 19 x 19, constant sky; fitted on the stars that sep finds in ref."""
    import sep
    from scipy.ndimage import binary_dilation

    pair = dict(np.load(folder / f"{name}.npz"))
    ref, sci = pair["ref"] - shared.SKY_REF, pair["sci"] - shared.SKY_SCI
    _, regions = sep.extract(
        ref, 5.0, err=np.sqrt(shared.SKY_REF), segmentation_map=True, minarea=5
    )
    mask = binary_dilation(regions > 0, iterations=9).T
    ref, sci = np.ascontiguousarray(ref.T), np.ascontiguousarray(sci.T)  # SFFT's axes are (x, y)
    machine = {
        "BACKEND_4SUBTRACT": "Numpy",
        "NUM_CPU_THREADS_4SUBTRACT": THREADS,
        "VERBOSE_LEVEL": 0,
    }

    def call() -> np.ndarray:
        from sfft.sfftcore.SFFTConfigure import SingleSFFTConfigure
        from sfft.sfftcore.SFFTSubtract import GeneralSFFTSubtract

        configuration = SingleSFFTConfigure.SSC(
            NX=shared.SIDE, NY=shared.SIDE, KerHW=9, KerPolyOrder=order, BGPolyOrder=0,
            ConstPhotRatio=True, NUMBA_CACHE=True, **machine,
        )  # fmt: skip
        result = GeneralSFFTSubtract.GSS(
            PixA_I=ref, PixA_J=sci, PixA_mI=np.where(mask, ref, 0.0),
            PixA_mJ=np.where(mask, sci, 0.0), SFFTConfig=configuration, ContamMask_I=None,
            **machine,
        )  # fmt: skip
        return result[1].T

    with contextlib.redirect_stdout(io.StringIO()):
        measured, difference = common.measure(call, 1)
    return measured | quality(difference, pair)


def sfft(folder: Path, quick: bool) -> dict[str, Any]:
    return by_sfft(folder, "constant", 0, quick)


def sfft_2(folder: Path, quick: bool) -> dict[str, Any]:
    return by_sfft(folder, "constant", 2, quick)


def sfft_varying(folder: Path, quick: bool) -> dict[str, Any]:
    return by_sfft(folder, "varying", 2, quick)


def true_kernel(folder: Path, quick: bool) -> dict[str, Any]:
    from scipy.signal import fftconvolve

    pair = dict(np.load(folder / "constant.npz"))
    ref, sci = pair["ref"] - shared.SKY_REF, pair["sci"] - shared.SKY_SCI
    measured, difference = common.measure(
        lambda: sci - fftconvolve(ref, pair["kernel"], mode="same"), 1 if quick else 5
    )
    return measured | quality(difference, pair)


def cost(folder: Path, name: str, quick: bool) -> dict[str, Any]:
    import fastdiff

    refs, scis = np.load(folder / f"{name}.npy")
    measured, difference = common.measure(
        lambda: fastdiff.subtract_batch(refs, scis, method="psf-match", threads=THREADS),
        1 if quick else 3,
    )
    return measured | {
        "n": len(scis),
        "side": scis.shape[2],
        "stages": difference.meta["seconds"],
        "without": int(np.isnan(difference.meta["scale"]).sum()),
    }


def large(folder: Path, quick: bool) -> dict[str, Any]:
    return cost(folder, "large", quick)


def small(folder: Path, quick: bool) -> dict[str, Any]:
    return cost(folder, "small", quick)


# ---------------------------------------------------------------- report


def report(results: common.Results) -> list[str]:
    lines = [
        f"## PSF matching, {THREADS} threads",
        "",
        f"One pair of {shared.SIDE} x {shared.SIDE}, {shared.N_STARS} stars, FWHM 3 and 4.5 "
        "pixels, 5 transients of S/N 8 to 30, one of them 6 pixels from a star. sigma and core: "
        "robust noise of the difference in empty sky and in star cores over the expected; found "
        f"and false: positive detections of a matched filter above S/N {shared.THRESHOLD:g}. "
        f"Varying: the science PSF widens by {100 * VARIATION:.0f} % across the frame. Goals: "
        "0.6 CPU s and 150 MB for order 2, sigma 0.99 to 1.01, core 1.02 at most, 5 found, 0 "
        "false, a fifth of the CPU time of SFFT. Whitening (decorrelated) conserves flux and so "
        "raises the noise of a pixel.",
        "",
    ]
    names = {
        "default": "fastdiff psf-match, order 2",
        "constant_kernel": "fastdiff psf-match, order 0",
        "delta": "fastdiff psf-match, delta basis, order 2",
        "all_pixels": "fastdiff psf-match, order 2, all pixels",
        "significance": "fastdiff psf-match, order 2, decorrelated, significance",
        "sfft": "SFFT, NumPy back end, order 0, masked",
        "sfft_2": "SFFT, NumPy back end, order 2, masked",
        "true_kernel": "true kernel, FFT (the floor)",
        "varying": "varying: fastdiff psf-match, order 2",
        "varying_constant": "varying: fastdiff psf-match, order 0",
        "sfft_varying": "varying: SFFT, order 2, masked",
    }
    columns = {
        "what": "method",
        **shared.COST,
        "sigma": "sigma|.3f",
        "core": "core|.2f",
        "found": "found of 5|d",
        "false": "false|d",
    }
    lines += common.table(columns, [{"what": name} | results[k] for k, name in names.items()])
    if "cpu" in results["default"] and "cpu" in results["sfft"]:
        ratio = results["sfft"]["cpu"] / results["default"]["cpu"]
        lines += [f"SFFT of order 0 takes {ratio:.1f} times the CPU time of order 2 here.", ""]
    if "stages" in results["default"]:
        stages = ", ".join(f"{k} {v:.3f}" for k, v in results["default"]["stages"].items())
        lines += [f"Seconds of the stages: {stages}.", ""]
    rows = []
    for key, goal in (("large", "12 CPU s, 2000 MB"), ("small", "")):
        row = {"what": key, "goal": goal} | results[key]
        if "n" in row:
            row["what"] = f"{row['n']} x ({row['side']} x {row['side']})"
            row["rate"] = row["n"] / row["wall"]
        rows.append(row)
    columns = {
        "what": "pairs",
        **shared.COST,
        "rate": "pairs / s|.2f",
        "without": "no kernel found|d",
        "goal": "goal",
    }
    return lines + common.table(columns, rows)


CASES = {
    "inputs": inputs,
    "default": default,
    "constant_kernel": constant_kernel,
    "delta": delta,
    "all_pixels": all_pixels,
    "significance": significance,
    "sfft": sfft,
    "sfft_2": sfft_2,
    "true_kernel": true_kernel,
    "varying": varying,
    "varying_constant": varying_constant,
    "sfft_varying": sfft_varying,
    "large": large,
    "small": small,
}

if __name__ == "__main__":
    common.main(__doc__, CASES, report, THREADS, peers={"sfft", "sfft_2", "sfft_varying"})
