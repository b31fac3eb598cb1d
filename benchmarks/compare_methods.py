"""The methods of `fastdiff.subtract_batch` side by side: recall, false candidates, fluxes.

    python benchmarks/compare_methods.py --data FOLDER [--pairs 500] [--split test] [--pictures DIR]

On simulated pairs of 128 x 128 with and without defects, on frames by GalSim, on real ZTF stamps
with added sources, on the ESO null pair and on the JWST pair with its noise maps. Writes Markdown.
"""

from __future__ import annotations

import argparse
import functools
import warnings
from pathlib import Path

import numpy as np
from galsim_pairs import pairs
from quality_transinet import (
    PLAIN,
    RADIUS,
    SEEDS,
    THRESHOLD,
    add_sources,
    draw,
    visible_centres,
)

import fastdiff
from fastdiff.evaluate import positions
from fastdiff.training.real import ztf_stamps

METHODS = ("transinet", "psf-match", "zogy")
BINS = ((5, 10), (10, 20), (20, 60))


def methods() -> dict:
    """Name -> `fastdiff.subtract_batch` with the method filled in."""
    return {name: functools.partial(fastdiff.subtract_batch, method=name) for name in METHODS}


def table(title: str, rows: dict[str, dict]) -> list[str]:
    """Markdown of a table with a line for each method."""
    heads = " | ".join(f"recall {low}-{high}" for low, high in BINS)
    lines = [f"### {title}", "", f"| method | {heads} | false an image | flux bias | scatter |"]
    lines.append("|---" * (len(BINS) + 4) + "|")
    for name, row in rows.items():
        cells = [f"{r:.3f}" for r in row["recall"]]
        cells += [f"{row['false']:.3f}", f"{row['bias']:+.3f}", f"{row['scatter']:.3f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def score(found, truth, centres, n_images: int, usable, ignored=None) -> dict:
    """Recall in bins of S/N, false candidates an image, flux error above S/N 10."""
    matches = positions.match_positions(found, centres, RADIUS)
    hit = np.zeros(len(truth["x"]), bool)
    hit[matches.truth] = True
    ratio = np.full(len(hit), np.nan)
    flux = np.asarray(found["flux"], float)
    ratio[matches.truth] = flux[matches.detection] / np.asarray(truth["flux"])[matches.truth]
    false = ~np.isin(np.arange(len(found)), matches.detection)
    if ignored is not None:
        false &= ~ignored(found)
    snr = np.asarray(truth["snr"])
    recall = [hit[usable & (snr >= low) & (snr < high)].mean() for low, high in BINS]
    error = ratio[usable & hit & (snr > 10)] - 1
    bias = np.median(error)
    scatter = 1.4826 * np.median(np.abs(error - bias))
    return {
        "recall": recall, "false": false.sum() / n_images, "bias": bias, "scatter": scatter,
        "false_rows": false,
    }  # fmt: skip


def simulated(n: int, seed: int, title: str, pictures: Path | None, **parameters) -> list[str]:
    """The same simulated pairs for every method."""
    made = fastdiff.simulate.pairs(
        n, (128, 128), seed=seed, n_transients=(1.5, 2.5), amplitude=(5.0, 60.0), p_variable=0.0,
        n_vanished=0.0, **parameters,
    )  # fmt: skip
    truth = made.transients
    centres = visible_centres(truth, made.truth)
    x, y = np.array(truth["x"]), np.array(truth["y"])
    inside = (x >= 3) & (x < 125) & (y >= 3) & (y < 125)
    rows = {}
    for name, subtract in methods().items():
        difference = subtract(made.ref, made.sci)
        found = fastdiff.find_transients(difference, THRESHOLD)
        at = (truth["image"], np.clip(np.rint(y), 0, 127).astype(int),
              np.clip(np.rint(x), 0, 127).astype(int))  # fmt: skip
        bad = ~np.isfinite(made.sci[at]) | ~np.isfinite(made.ref[at])
        rows[name] = score(found, truth, centres, n, inside & ~bad)
        if pictures:
            false = found[rows[name]["false_rows"]]
            draw(pictures / f"{name}_simulated_false.png", made.ref, made.sci, difference, false)
    return table(f"{title}: {n} pairs, {inside.sum()} transients (seed {seed})", rows)


def by_galsim(n: int, seed: int, pictures: Path | None) -> list[str]:
    """Frames of another generator, 256 x 256, with dozens of stars; PSFs measured."""
    made = pairs(n, 256, seed)
    rows = {}
    for name, subtract in methods().items():
        difference = subtract(made.ref, made.sci)
        found = fastdiff.find_transients(difference, THRESHOLD)
        everything = np.ones(len(made.truth["x"]), bool)
        rows[name] = score(found, made.truth, made.truth, n, everything)
        if pictures:
            false = found[rows[name]["false_rows"]]
            draw(pictures / f"{name}_galsim_false.png", made.ref, made.sci, difference, false)
    title = f"GalSim, Kolmogorov PSFs of 3-6 px, 256 x 256: {n} pairs"
    return table(f"{title}, {len(made.truth['x'])} transients (seed {seed})", rows)


def ztf(folder: Path, split: str, pictures: Path | None) -> list[str]:
    """Real stamps, 63 x 63; false: over 5 pixels from the stamp's own alert."""
    stamps, _ = ztf_stamps(folder, split)
    stamps = stamps[np.isfinite(stamps[:, :2]).mean((2, 3)).min(1) > 0.5]
    scis, truth = add_sources(stamps, SEEDS[split])
    rows = {}
    for name, subtract in methods().items():
        difference = subtract(stamps[:, 1], scis.astype(np.float32))
        found = fastdiff.find_transients(difference, THRESHOLD)

        def centre(table):
            return np.hypot(np.array(table["x"]) - 31, np.array(table["y"]) - 31) <= 5

        everything = np.ones(len(truth["x"]), bool)
        rows[name] = score(found, truth, truth, len(stamps), everything, centre)
        if pictures:
            false = found[rows[name]["false_rows"]]
            draw(pictures / f"{name}_ztf_false.png", stamps[:, 1], scis, difference, false)
    return table(f"{len(stamps)} real ZTF stamps ({split} split), sources added to half", rows)


def eso(folder: Path) -> list[str]:
    """Two frames 74 s apart with saturated stars: every candidate is false."""
    from astropy.io import fits

    ref, sci = (fits.getdata(folder / "eso085" / f"{k}.fits") for k in ("ref", "sci"))
    lines = ["### ESO null pair, 682 x 1024: nothing changed", ""]
    lines += ["| method | positive | negative | sigma of the pulls |", "|---|---|---|---|"]
    for name, subtract in methods().items():
        difference = subtract(ref, sci)
        counts = [
            len(fastdiff.find_transients(difference, THRESHOLD, sign=sign))
            for sign in ("positive", "negative")
        ]
        lines.append(f"| {name} | {counts[0]} | {counts[1]} | {pulls(difference)[0]} |")
    return [*lines, ""]


def jwst(folder: Path) -> list[str]:
    """Pulls of the difference with the pair's own noise maps, beside plain subtraction."""
    from astropy.io import fits

    folder = folder / "jwst_a2744"
    ref, sci, ref_noise, sci_noise, ref_psf, sci_psf = (
        fits.getdata(folder / f"{k}.fits").astype(np.float32)
        for k in ("ref", "sci", "ref_noise", "sci_noise", "ref_psf", "sci_psf")
    )
    mask = fits.getdata(folder / "sci_mask.fits").astype(bool)
    lines = ["### JWST NIRCam pair, 900 x 900, with its noise maps and PSFs", ""]
    lines += ["| method | sigma of the pulls | beyond 5 | positive | negative |"]
    lines += ["|---|---|---|---|---|"]
    plain = (sci - np.nanmedian(sci) - ref + np.nanmedian(ref)) / np.hypot(ref_noise, sci_noise)
    plain = plain[np.isfinite(plain) & ~mask]
    sigma = 1.4826 * np.median(np.abs(plain - np.median(plain)))
    lines.append(f"| plain | {sigma:.3f} | {np.mean(np.abs(plain) > 5):.4f} | | |")
    common = {
        "sci_masks": mask, "ref_variances": ref_noise**2, "sci_variances": sci_noise**2,
    }  # fmt: skip
    psfs = {"ref_psfs": _odd(ref_psf), "sci_psfs": _odd(sci_psf)}
    own = {"zogy": psfs, "psf-match": psfs}
    for name, subtract in methods().items():
        difference = subtract(ref, sci, **common, **own.get(name, {}))
        counts = [
            len(fastdiff.find_transients(difference, THRESHOLD, sign=sign))
            for sign in ("positive", "negative")
        ]
        sigma, beyond = pulls(difference)
        lines.append(f"| {name} | {sigma} | {beyond} | {counts[0]} | {counts[1]} |")
    return [*lines, ""]


def pulls(difference) -> tuple[str, str]:
    """(robust sigma of image / noise, share beyond 5); a network's difference has no noise."""
    if difference.meta["noise_free"]:
        return "no noise", ""
    pull = (difference.image / difference.noise)[~difference.mask]
    pull = pull[np.isfinite(pull)]
    sigma = 1.4826 * np.median(np.abs(pull - np.median(pull)))
    return f"{sigma:.3f}", f"{np.mean(np.abs(pull) > 5):.4f}"


def _odd(psf: np.ndarray) -> np.ndarray:
    """The middle 41 x 41 pixels, with sum 1."""
    y, x = np.unravel_index(np.argmax(psf), psf.shape)
    half = min(20, y, x, psf.shape[0] - 1 - y, psf.shape[1] - 1 - x)
    psf = psf[y - half : y + half + 1, x - half : x + half + 1]
    return psf / psf.sum()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the real images")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--pairs", type=int, default=500, help="simulated pairs")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of false candidates")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    seed, pictures = SEEDS[arguments.split] + 1, arguments.pictures
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    n = arguments.pairs
    lines = simulated(n, seed, "Preset `survey`, 128 x 128", pictures)
    lines += simulated(n, seed, "No defects, no jitter, seeing 2-6 px", None, **PLAIN)
    lines += by_galsim(max(1, n // 2), seed, pictures)
    if arguments.data:
        lines += ztf(arguments.data / "ztf", arguments.split, pictures)
        lines += eso(arguments.data / "pairs")
        lines += jwst(arguments.data / "pairs")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
