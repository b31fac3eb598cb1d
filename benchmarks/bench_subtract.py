"""`fastdiff.subtract_batch` with TransiNet: time, memory, its network alone, and SFFT.

    python benchmarks/bench_subtract.py [--quick]

On two threads: a pair of 4096 x 4096, 64 pairs of 256 x 256, ONNX Runtime alone on the same
tiles, and a simulated pair of 1024 x 1024 with 5 transients on which SFFT and the true kernel
are run as well.
"""

from __future__ import annotations

import contextlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import common
import numpy as np

THREADS = 2
SEED = 20_261_120
THRESHOLD = 5.0  # S/N of a detection
RADIUS = 2.5  # pixels between a detection and a transient
EDGE = 25  # pixels; detections nearer to the edge do not count


def inputs(folder: Path, quick: bool) -> dict[str, Any]:
    """Write the pairs, so that the processes that are measured hold nothing else."""
    import fastdiff

    side, n = (512, 4) if quick else (4096, 64)
    large = fastdiff.simulate.pairs(1, (side, side), seed=SEED, threads=THREADS)
    small = fastdiff.simulate.pairs(n, (256, 256), seed=SEED, threads=THREADS)
    np.save(folder / "large.npy", np.stack([large.ref, large.sci]))
    np.save(folder / "small.npy", np.stack([small.ref, small.sci]))
    np.savez(folder / "stars.npz", **star_field())
    return {}


def repeats(quick: bool) -> int:
    return 1 if quick else 3


def cost(folder: Path, name: str, quick: bool) -> dict[str, Any]:
    import fastdiff

    refs, scis = np.load(folder / f"{name}.npy")
    measured, difference = common.measure(
        lambda: fastdiff.subtract_batch(refs, scis, threads=THREADS), repeats(quick)
    )
    return measured | {"n": len(scis), "side": scis.shape[2], "stages": difference.meta["seconds"]}


def large(folder: Path, quick: bool) -> dict[str, Any]:
    return cost(folder, "large", quick)


def small(folder: Path, quick: bool) -> dict[str, Any]:
    return cost(folder, "small", quick)


# ---------------------------------------------------------------- the network alone


def network_alone(folder: Path, name: str, quick: bool) -> dict[str, Any]:
    """fastdiff and ONNX Runtime in turns on the same tiles, tile by tile.

    ONNX Runtime alone gets tiles that are cut already and drops what it makes, in two ways:
    its own two threads inside of each tile, or two tiles at a time on one thread each.
    """
    import onnxruntime

    import fastdiff
    from fastdiff.kernels.image import blocks, match, measure, plan, tile

    refs, scis = np.load(folder / f"{name}.npy")
    meta = fastdiff.subtract_batch(refs, scis, threads=THREADS).meta
    model = fastdiff.load_model(meta["model"])
    origins, shape = plan.plan_tiles(*scis.shape[1:])
    if (shape, len(origins)) != (tuple(meta["tile"]), meta["n_tiles"]):
        raise RuntimeError(f"tiles {len(origins)} x {shape} are not those of subtract_batch")
    frames, tiles = (index.ravel() for index in np.indices((len(scis), len(origins))))
    pixels, places = (refs, scis), plan.places_of(frames, tiles, origins)
    stats = measure.measure_tiles(pixels, origins, shape, THREADS)
    scale, _ = blocks.photometric_scale(pixels, origins, shape, stats, THREADS)
    pairs = tile.cut_tiles(pixels, places, shape, stats, scale, THREADS)
    if model.metadata["fastdiff.normalisation"] == "tile-match-v1":
        pairs = match.match_psfs(pairs, THREADS)

    def session(threads: int) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        return onnxruntime.InferenceSession(
            str(model.path), options, providers=["CPUExecutionProvider"]
        )

    single, wide = session(1), session(THREADS)
    name_in = single.get_inputs()[0].name

    def run(network: Any, i: int) -> None:
        network.run(None, {name_in: pairs[i : i + 1]})

    with ThreadPoolExecutor(THREADS) as pool:
        seconds = common.alternate(
            {
                "fastdiff": lambda: fastdiff.subtract_batch(refs, scis, threads=THREADS),
                "inside": lambda: [run(wide, i) for i in range(len(pairs))],
                "beside": lambda: list(pool.map(lambda i: run(single, i), range(len(pairs)))),
            },
            repeats(quick),
        )
    return {"n_tiles": len(pairs), "shape": shape} | {k: v["wall"] for k, v in seconds.items()}


def network_large(folder: Path, quick: bool) -> dict[str, Any]:
    return network_alone(folder, "large", quick)


def network_small(folder: Path, quick: bool) -> dict[str, Any]:
    return network_alone(folder, "small", quick)


# ---------------------------------------------------------------- beside other methods

SIDE, N_STARS = 1024, 400
SIGMA_REF, SIGMA_SCI = 3.0 / 2.3548, 4.5 / 2.3548  # PSFs of FWHM 3 and 4.5 pixels
SKY_REF, SKY_SCI, RATIO = 40.0, 100.0, 0.9  # electrons; flux in sci over flux in ref


def gaussian(sigma: float, half: int) -> np.ndarray:
    x = np.arange(-half, half + 1)
    line = np.exp(-(x**2) / (2 * sigma**2))
    return np.outer(line, line) / line.sum() ** 2


def stars(x: np.ndarray, y: np.ndarray, flux: np.ndarray, sigma: float) -> np.ndarray:
    image = np.zeros((SIDE, SIDE))
    for one in zip(x, y, flux, strict=True):
        ranges = [range(max(0, round(c) - 20), min(SIDE, round(c) + 21)) for c in one[:2]]
        across, down = (
            np.exp(-((np.array(pixels) - centre) ** 2) / (2 * sigma**2))
            for pixels, centre in zip(ranges, one[:2], strict=True)
        )
        box = tuple(slice(pixels.start, pixels.stop) for pixels in ranges[::-1])
        image[box] += one[2] / (2 * np.pi * sigma**2) * np.outer(down, across)
    return image


def star_field(seed: int = 7) -> dict[str, np.ndarray]:
    """400 stars and 5 transients of S/N 8 to 30, the last 6 pixels from a star; Poisson noise."""
    from scipy.ndimage import binary_dilation
    from scipy.signal import fftconvolve

    rng = np.random.default_rng(seed)
    x, y = rng.uniform(15, SIDE - 15, N_STARS), rng.uniform(15, SIDE - 15, N_STARS)
    flux = 10 ** rng.uniform(3.0, 5.3, N_STARS)
    inner = (np.minimum(x, y) >= 60) & (np.maximum(x, y) <= SIDE - 60)
    host = np.argmin(np.where(inner, np.abs(flux - 2e4), np.inf))
    sigma_match = np.sqrt(SIGMA_SCI**2 - SIGMA_REF**2)
    noise = np.sqrt(SKY_SCI + SKY_REF * RATIO**2 / (4 * np.pi * sigma_match**2))
    new_x = np.array([200.3, 801.6, 330.2, 655.5, x[host] + 6.0])
    new_y = np.array([210.7, 180.4, 760.9, 590.1, y[host] + 0.5])
    new_flux = np.array([8, 10, 15, 30, 25]) * noise * np.sqrt(4 * np.pi) * SIGMA_SCI
    mean_ref, static = stars(x, y, flux, SIGMA_REF), stars(x, y, flux * RATIO, SIGMA_SCI)
    mean_sci = static + stars(new_x, new_y, new_flux, SIGMA_SCI)
    ref = rng.poisson(mean_ref + SKY_REF).astype(float)
    sci = rng.poisson(mean_sci + SKY_SCI).astype(float)
    kernel = RATIO * gaussian(sigma_match, 20)
    variance = mean_sci + SKY_SCI + fftconvolve(mean_ref + SKY_REF, kernel**2, mode="same")
    empty = ~binary_dilation(static > 0.3, iterations=6)
    for one_x, one_y in zip(new_x.astype(int), new_y.astype(int), strict=True):
        empty[one_y - 15 : one_y + 16, one_x - 15 : one_x + 16] = False
    frame = np.zeros_like(empty)
    frame[EDGE:-EDGE, EDGE:-EDGE] = True
    return {
        "ref": ref,
        "sci": sci,
        "x": new_x,
        "y": new_y,
        "kernel": kernel,
        "variance": variance / (SKY_SCI + SKY_REF * (kernel**2).sum()),  # relative to empty sky
        "empty": empty & frame,
    }


def matched_filter(difference: np.ndarray, pair: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """x and y of the peaks of a noisy difference, filtered by the science PSF."""
    from scipy.ndimage import maximum_filter
    from scipy.signal import fftconvolve

    empty, psf = pair["empty"], gaussian(SIGMA_SCI, int(5 * SIGMA_SCI) + 1)
    filtered = fftconvolve(difference - np.median(difference[empty]), psf, mode="same")
    values = filtered[empty]
    sigma = 1.4826 * np.median(np.abs(values - np.median(values)))
    variance = fftconvolve(pair["variance"], psf**2, mode="same") / (psf**2).sum()
    snr = filtered / (sigma * np.sqrt(np.maximum(variance, 1)))
    peaks = (snr == maximum_filter(snr, 7)) & (snr > THRESHOLD)
    return np.nonzero(peaks)[::-1]


def score(x: np.ndarray, y: np.ndarray, pair: dict[str, np.ndarray]) -> dict[str, int]:
    """How many transients were found, and how many detections are none of them."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    inner = (np.minimum(x, y) >= EDGE) & (np.maximum(x, y) < SIDE - EDGE)
    distance = np.hypot(x[inner, None] - pair["x"], y[inner, None] - pair["y"])
    found = int((distance < RADIUS).any(0).sum()) if inner.any() else 0
    return {"found": found, "false": int(inner.sum()) - found}


def by_fastdiff(folder: Path, quick: bool) -> dict[str, Any]:
    import fastdiff

    pair = dict(np.load(folder / "stars.npz"))
    measured, difference = common.measure(
        lambda: fastdiff.subtract_batch(pair["ref"], pair["sci"], threads=THREADS), repeats(quick)
    )
    found = fastdiff.find_transients(difference, THRESHOLD)
    return measured | score(found["x"], found["y"], pair)


def by_sfft(folder: Path, quick: bool) -> dict[str, Any]:
    """Constant kernel of 19 x 19, constant sky; fitted on the stars that sep finds in ref."""
    import sep
    from scipy.ndimage import binary_dilation

    pair = dict(np.load(folder / "stars.npz"))
    ref, sci = pair["ref"] - SKY_REF, pair["sci"] - SKY_SCI
    _, regions = sep.extract(ref, 5.0, err=np.sqrt(SKY_REF), segmentation_map=True, minarea=5)
    mask = binary_dilation(regions > 0, iterations=9).T
    ref, sci = np.ascontiguousarray(ref.T), np.ascontiguousarray(sci.T)  # SFFT's axes are (x, y)
    common_options = {
        "BACKEND_4SUBTRACT": "Numpy",
        "NUM_CPU_THREADS_4SUBTRACT": THREADS,
        "VERBOSE_LEVEL": 0,
    }

    def call() -> np.ndarray:
        from sfft.sfftcore.SFFTConfigure import SingleSFFTConfigure
        from sfft.sfftcore.SFFTSubtract import GeneralSFFTSubtract

        configuration = SingleSFFTConfigure.SSC(
            NX=SIDE,
            NY=SIDE,
            KerHW=9,
            KerPolyOrder=0,
            BGPolyOrder=0,
            ConstPhotRatio=True,
            NUMBA_CACHE=True,
            **common_options,
        )
        result = GeneralSFFTSubtract.GSS(
            PixA_I=ref,
            PixA_J=sci,
            PixA_mI=np.where(mask, ref, 0.0),
            PixA_mJ=np.where(mask, sci, 0.0),
            SFFTConfig=configuration,
            ContamMask_I=None,
            **common_options,
        )
        return result[1].T

    with contextlib.redirect_stdout(io.StringIO()):
        measured, difference = common.measure(call, repeats(quick))
    return measured | score(*matched_filter(difference, pair), pair)


def by_true_kernel(folder: Path, quick: bool) -> dict[str, Any]:
    pair = dict(np.load(folder / "stars.npz"))
    ref, sci = pair["ref"] - SKY_REF, pair["sci"] - SKY_SCI

    def call() -> np.ndarray:
        from scipy.signal import fftconvolve

        return sci - fftconvolve(ref, pair["kernel"], mode="same")

    measured, difference = common.measure(call, repeats(quick))
    return measured | score(*matched_filter(difference, pair), pair)


# ---------------------------------------------------------------- report

COST = {
    "first_wall": "first call s|.2f",
    "wall": "wall s|.2f",
    "cpu": "CPU s|.2f",
    "peak_mb": "peak MB|.0f",
}


def report(results: common.Results) -> list[str]:
    lines = [
        f"## Differences, {THREADS} threads",
        "",
        "The first call imports and loads what it needs; the others are medians of calls after "
        "it. Peak: memory of the process above its inputs, libraries included.",
        "",
    ]
    rows = []
    for key, goal in (("large", "10 s, 1500 MB"), ("small", "40 pairs/s")):
        result = results[key]
        row = {"what": key, "goal": goal} | result
        if "n" in result:
            row["what"] = f"{result['n']} x ({result['side']} x {result['side']})"
            row["rate"] = result["n"] / result["wall"]
        rows.append(row)
    columns = {"what": "pairs", **COST, "rate": "pairs / s|.2f", "goal": "goal"}
    lines += common.table(columns, rows)
    for row in rows:
        if "stages" in row:
            stages = ", ".join(f"{k} {v:.3f}" for k, v in row["stages"].items())
            lines += [f"Seconds of the stages of {row['what']}: {stages}.", ""]

    rows = []
    for key in ("network_large", "network_small"):
        row = {"what": key} | results[key]
        if "fastdiff" in row:
            row["what"] = f"{row['n_tiles']} tiles of {row['shape'][0]} x {row['shape'][1]}"
            row["ratio"] = row["fastdiff"] / min(row["inside"], row["beside"])
        rows.append(row)
    columns = {
        "what": "tiles",
        "fastdiff": "fastdiff, s|.2f",
        "inside": f"ONNX Runtime, {THREADS} threads in a tile, s|.2f",
        "beside": f"ONNX Runtime, {THREADS} tiles at a time, s|.2f",
        "ratio": "fastdiff / the faster (goal 1.3)|.2f",
    }
    lines += common.table(columns, rows)

    names = {
        "fastdiff": "fastdiff, method transinet",
        "sfft": "SFFT, NumPy back end, order 0, masked",
        "true_kernel": "true kernel, FFT (the floor)",
    }
    lines += [
        f"One pair of {SIDE} x {SIDE}, {N_STARS} stars, FWHM 3 and 4.5 pixels, 5 transients of "
        "S/N 8 to 30, one of them 6 pixels from a star. Detections above S/N "
        f"{THRESHOLD:g}: of TransiNet's noise-free difference by `find_transients`, of the others "
        f"by a matched filter; none nearer than {EDGE} pixels to the edge.",
        "",
    ]
    columns = {"what": "method", **COST, "found": "found of 5|d", "false": "false|d"}
    lines += common.table(columns, [{"what": name} | results[k] for k, name in names.items()])
    return lines


CASES = {
    "inputs": inputs,
    "large": large,
    "small": small,
    "network_large": network_large,
    "network_small": network_small,
    "fastdiff": by_fastdiff,
    "sfft": by_sfft,
    "true_kernel": by_true_kernel,
}

if __name__ == "__main__":
    common.main(__doc__, CASES, report, THREADS, peers={"sfft"})
