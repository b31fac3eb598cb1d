"""Figures of a TransiNet model on data it never saw: the tables of its card.

    python benchmarks/quality_transinet.py --data FOLDER [--model NAME_OR_FILE] [--split test]

Simulated pairs by S/N and by relative magnitude, pairs by GalSim, the paper's own setting, real
ZTF stamps with added sources beside two baselines, and two real pairs. FOLDER holds ztf/,
pairs/eso085/ and pairs/jwst_a2744/. Writes Markdown to standard output and pictures to --pictures.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import numpy as np

import fastdiff
from fastdiff.evaluate import positions
from fastdiff.simulate.inject import measure_fwhm, point_source
from fastdiff.training.real import ZTF_GAIN, ztf_stamps

SEEDS = {"test": 20_261_122, "val": 77}  # of no training and no validation
PLAIN = {
    "source_jitter": (1e-3, 1e-2),
    "flux_jitter": (1e-5, 1e-4),
    "cosmic_rays": 0.0,
    "hot_pixels": 0.0,
    "bad_columns": 0.0,
    "trails": 0.0,
    "p_spikes": 0.0,
    "fwhm_ref": (2.0, 6.0),
    "fwhm_sci": (2.0, 6.0),
    "fwhm_ratio_max": 1.6,
}
# A number drawn from 0.4 to 1.4 and rounded: no transient in a tenth of the pairs.
ONE_IN_MOST = {
    "n_transients": (0.4, 1.4),
    "exact_number": 1.0,
    "amplitude": (5.0, 60.0),
    "p_variable": 0.0,
    "n_vanished": 0.0,
}
POISSON_NUMBER = {"n_transients": (0.9, 1.1), "exact_number": 0.0}
THRESHOLD = 5.0
BINS = (5, 7, 10, 15, 20, 30, 60)
RADIUS = 3.0


def report(title: str, snr, found, ratio, n_false: int, n_images: int, bins=BINS) -> list[str]:
    """A Markdown table by S/N and a line of totals."""
    lines = [
        f"### {title}",
        "",
        "| S/N | n | recall | flux bias | flux scatter |",
        "|---|---|---|---|---|",
    ]
    for row in positions.by_snr(snr, found, ratio, bins):
        lines.append(
            f"| {row['low']:g}-{row['high']:g} | {row['n']} | {row['recall']:.3f} "
            f"| {row['flux_bias']:+.3f} | {row['flux_scatter']:.3f} |"
        )
    snr, found, ratio = np.asarray(snr), np.asarray(found, bool), np.asarray(ratio, float)
    bright = snr > 10
    precision = found.sum() / max(1, found.sum() + n_false)
    lines += [
        "",
        f"Precision {precision:.3f}; recall {found.mean():.3f}, {found[bright].mean():.3f} at "
        f"S/N > 10; {n_false} false in {n_images} images ({n_false / n_images:.4f} an image); "
        f"median flux ratio at S/N > 10: {np.nanmedian(ratio[bright & found]):.3f}.",
        "",
    ]
    return lines


def simulated(
    subtract, n: int, seed: int, what: str, pictures: Path | None = None, **parameters
) -> list[str]:
    """One transient in nine of ten pairs, S/N 5 to 60, the rest as the preset "survey" has it.

    `POISSON_NUMBER` among the parameters: a Poisson number of mean 1 instead. `subtract` is
    `fastdiff.subtract_batch` with its method and options filled in.
    """
    rows = {"snr": [], "found": [], "ratio": [], "mag": []}
    n_false, kept = 0, 0
    for start in range(0, n, 250):
        made = fastdiff.simulate.pairs(
            min(250, n - start),
            (64, 64),
            seed=seed,
            start=start,
            **ONE_IN_MOST | parameters,
        )
        difference = subtract(made.ref, made.sci)
        found = fastdiff.find_transients(difference, THRESHOLD)
        truth = made.transients
        matches = positions.match_positions(found, visible_centres(truth, made.truth), RADIUS)
        hit = np.zeros(len(truth), bool)
        hit[matches.truth] = True
        ratio = np.full(len(truth), np.nan)
        ratio[matches.truth] = found["flux"][matches.detection] / truth["flux"][matches.truth]
        n_false += len(found) - len(matches.truth)
        missed = np.zeros(len(truth), bool)
        for k, source in enumerate(truth):
            i, x, y = source["image"], round(source["x"]), round(source["y"])
            inside = 3 <= x < 61 and 3 <= y < 61
            if not inside or difference.mask[i, y - 1 : y + 2, x - 1 : x + 2].any():
                continue  # at the frame's edge or on missing pixels
            kept += 1
            missed[k] = not hit[k] and source["snr"] > 10
            box = (i, slice(y - 1, y + 2), slice(x - 1, x + 2))
            local = np.nanmean(made.sci[box] - made.truth[box]) * 9
            for name, value in (
                ("snr", source["snr"]),
                ("found", hit[k]),
                ("ratio", ratio[k]),
                ("mag", -2.5 * np.log10(1 + source["flux"] / max(local, 1e-9))),
            ):
                rows[name].append(value)
        if pictures and start == 0:
            false = ~np.isin(np.arange(len(found)), matches.detection)
            draw(pictures / "simulated_false.png", made.ref, made.sci, difference, found[false])
            draw(pictures / "simulated_missed.png", made.ref, made.sci, difference, truth[missed])
    title = f"{n} simulated pairs of 64 x 64, {what} (seed {seed}), {kept} transients"
    lines = report(title, rows["snr"], rows["found"], rows["ratio"], n_false, n)
    mag, found = np.array(rows["mag"]), np.array(rows["found"])
    lines += ["By relative magnitude (eqs 23, 24 with a 3 x 3 square, sky included):", ""]
    lines += ["| mag_rel | n | recall |", "|---|---|---|"]
    for low, high in ((-9, -1), (-1, -0.5), (-0.5, -0.2), (-0.2, -0.1), (-0.1, -0.05), (-0.05, 0)):
        here = (mag >= low) & (mag < high)
        if here.any():
            lines.append(f"| {low} to {high} | {here.sum()} | {found[here].mean():.3f} |")
    return [*lines, ""]


def visible_centres(table, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Where the light of each source is that falls on the frame: of one cut by its edge, inside."""
    ny, nx = truth.shape[1:]
    x, y = np.array(table["x"]), np.array(table["y"])
    for k, i in enumerate(table["image"]):
        cx, cy = min(max(round(x[k]), 0), nx - 1), min(max(round(y[k]), 0), ny - 1)
        if 5 <= cx < nx - 5 and 5 <= cy < ny - 5:
            continue
        rows, columns = np.mgrid[max(cy - 5, 0) : cy + 6, max(cx - 5, 0) : cx + 6]
        rows, columns = np.minimum(rows, ny - 1), np.minimum(columns, nx - 1)
        light = np.abs(truth[i, rows, columns])
        if light.sum() > 0:
            x[k], y[k] = (light * columns).sum() / light.sum(), (light * rows).sum() / light.sum()
    return {"image": np.array(table["image"]), "x": x, "y": y}


def by_galsim(subtract, n: int, seed: int, pictures: Path | None) -> list[str]:
    """Frames of another generator, 256 x 256."""
    from galsim_pairs import pairs

    made = pairs(n, 256, seed)
    difference = subtract(made.ref, made.sci)
    found, truth = fastdiff.find_transients(difference, THRESHOLD), made.truth
    matches = positions.match_positions(found, truth, RADIUS)
    hit = np.zeros(len(truth["x"]), bool)
    hit[matches.truth] = True
    ratio = np.full(len(hit), np.nan)
    ratio[matches.truth] = found["flux"][matches.detection] / truth["flux"][matches.truth]
    if pictures:
        false = found[~np.isin(np.arange(len(found)), matches.detection)]
        draw(pictures / "galsim_false.png", made.ref, made.sci, difference, false)
    title = f"{n} pairs of 256 x 256 by GalSim (benchmarks/galsim_pairs.py, seed {seed})"
    lines = report(title, truth["snr"], hit, ratio, len(found) - len(matches.truth), n)
    bright = truth["snr"] > 10
    shares = [hit[bright & (truth["on_galaxy"] == on)].mean() for on in (True, False)]
    lines[-2] += f" Recall at S/N > 10 on galaxies {shares[0]:.3f}, elsewhere {shares[1]:.3f}."
    return lines


def paper(subtract, seed: int) -> list[str]:
    """Table 1 of the paper, row "Synthetic", matched by position."""
    made = fastdiff.simulate.pairs(100, (140, 140), seed=seed, preset="paper")
    difference = subtract(made.ref, made.sci)
    found = fastdiff.find_transients(difference, THRESHOLD)
    truth = made.transients
    truth = truth[(truth["x"] > 0) & (truth["x"] < 139) & (truth["y"] > 0) & (truth["y"] < 139)]
    matches = positions.match_positions(found, truth, 6.0)  # FWHM 4.7-11.8 px
    tp, fp = len(matches.truth), len(found) - len(matches.truth)
    return [
        "### The paper's setting (preset `paper`, 140 x 140), its Table 1",
        "",
        "| | Tran | TP | FP | FN |",
        "|---|---|---|---|---|",
        "| paper, synthetic | 100 | 100 | 0 | 0 |",
        f"| this model | {len(truth)} | {tp} | {fp} | {len(truth) - tp} |",
        "",
        f"Smallest S/N among them {truth['snr'].min():.1f}, median {np.median(truth['snr']):.1f}.",
        "",
    ]


def add_sources(stamps, seed: int):
    """Science stamps with a source of known flux in every second one, S/N 5 to 60."""
    scis, truth = stamps[:, 0].astype(float), []
    for i in range(0, len(stamps), 2):
        rng = np.random.Generator(np.random.Philox(key=[seed, i]))
        sci = scis[i]
        fwhm = measure_fwhm(sci)
        sigma = 1.4826 * np.nanmedian(np.abs(sci - np.nanmedian(sci)))
        for _ in range(50):
            x, y = rng.uniform(6, 57, 2)
            box = (slice(round(y) - 3, round(y) + 4), slice(round(x) - 3, round(x) + 4))
            if (
                np.hypot(x - 31, y - 31) > 8
                and np.isfinite(sci[box]).all()
                and np.isfinite(stamps[i, 1][box]).all()
            ):
                break
        else:
            continue
        profile = point_source(sci.shape, x, y, fwhm)
        host = np.maximum(np.nan_to_num(sci - np.nanmedian(sci)), 0)
        variance = sigma**2 + host / ZTF_GAIN
        snr = np.exp(rng.uniform(np.log(5), np.log(60)))
        flux = snr / np.sqrt((profile**2 / variance).sum())
        # the source's own photon noise
        scis[i] = (
            sci + flux * profile + np.sqrt(flux * profile / ZTF_GAIN) * rng.normal(size=sci.shape)
        )
        full = variance + flux * profile / ZTF_GAIN
        truth.append((i, x, y, flux, flux * np.sqrt((profile**2 / full).sum())))
    image, x, y, flux, snr = np.transpose(truth)
    return scis, {"image": image.astype(int), "x": x, "y": y, "flux": flux, "snr": snr}


def matched_filter(image: np.ndarray, fwhm: float) -> list[tuple[float, float, float, float]]:
    """(x, y, flux, S/N) of the peaks of a noisy difference image above 5 sigma, PSF-filtered."""
    from scipy.ndimage import maximum_filter
    from scipy.signal import fftconvolve

    good = np.isfinite(image)
    sky = np.median(image[good])
    sigma = 1.4826 * np.median(np.abs(image[good] - sky))
    psf = point_source((15, 15), 7, 7, fwhm)
    norm = (psf**2).sum()
    flux = fftconvolve(np.where(good, image - sky, 0), psf, mode="same") / norm
    snr = flux * np.sqrt(norm) / sigma
    peak = (snr == maximum_filter(snr, 7)) & (snr > THRESHOLD) & good
    return [(x, y, flux[y, x], snr[y, x]) for y, x in np.argwhere(peak)]


def score(tables, truth, n: int, title: str) -> list[str]:
    """Recall and false regions of found (image, x, y, flux) on the ZTF stamps."""
    matches = positions.match_positions(tables, truth, RADIUS)
    hit = np.zeros(len(truth["x"]), bool)
    hit[matches.truth] = True
    ratio = np.full(len(hit), np.nan)
    ratio[matches.truth] = (
        np.asarray(tables["flux"])[matches.detection] / truth["flux"][matches.truth]
    )
    used = np.isin(np.arange(len(tables["x"])), matches.detection)
    centre = np.hypot(np.asarray(tables["x"]) - 31, np.asarray(tables["y"]) - 31) <= 5
    lines = report(title, truth["snr"], hit, ratio, int((~used & ~centre).sum()), n)
    return lines, used | centre


def ztf(subtract, folder: Path, split: str, pictures: Path | None) -> list[str]:
    """Real stamps with sources added to half of them; false: over 5 px from the alert."""
    stamps, rows = ztf_stamps(folder, split)
    keep = np.isfinite(stamps[:, :2]).mean((2, 3)).min(1) > 0.5
    stamps, rows = stamps[keep], [r for r, k in zip(rows, keep, strict=True) if k]
    scis, truth = add_sources(stamps, SEEDS[split])
    lines = []
    for symmetry in (None, "dihedral"):
        difference = subtract(stamps[:, 1], scis, symmetry=symmetry)
        found = fastdiff.find_transients(difference, THRESHOLD)
        title = f"{len(stamps)} real ZTF stamps ({split} split), sources added to {len(truth['x'])}"
        name = "TransiNet" if symmetry is None else f"TransiNet, symmetry={symmetry!r}"
        table, explained = score(found, truth, len(stamps), f"{title}: {name}")
        lines += table
        if symmetry is None:
            scale = difference.meta["scale"]
            central = np.hypot(found["x"] - 31, found["y"] - 31) <= 5
            real = np.array(
                [r["independent_real_hint"] == "True" and r["isdiffpos"] == "t" for r in rows]
            )
            seen = np.isin(np.arange(len(rows)), found["image"][central])
            lines += [
                f"The stamps' own alerts: {seen[real].sum()} of {real.sum()} positive ones with an "
                f"independent counterpart are found at the centre, and {seen[~real].sum()} of the "
                f"{(~real).sum()} others (bogus, negative or unknown).",
                "",
            ]
            if pictures:
                draw(pictures / "ztf_false.png", stamps[:, 1], scis, difference, found[~explained])
                missed = np.setdiff1d(
                    np.flatnonzero(truth["snr"] > 10),
                    positions.match_positions(found, truth, RADIUS).truth,
                )
                draw(
                    pictures / "ztf_missed.png",
                    stamps[:, 1],
                    scis,
                    difference,
                    {k: v[missed] for k, v in truth.items()},
                )
    columns = {"image": [], "x": [], "y": [], "flux": []}
    own = {"image": [], "x": [], "y": [], "flux": []}
    for i, stamp in enumerate(stamps):
        fwhm = measure_fwhm(stamp[0])
        plain = scis[i] - scale[i] * stamp[1]
        for target, image in ((columns, plain), (own, None if i % 2 == 0 else stamp[2])):
            if image is None:
                continue
            for x, y, flux, _ in matched_filter(image, fwhm):
                for key, value in zip(target, (i, x, y, flux), strict=True):
                    target[key].append(value)
    columns = {k: np.array(v) for k, v in columns.items()}
    table, _ = score(
        columns,
        truth,
        len(stamps),
        "The same stamps: plain subtraction after scaling, matched filter",
    )
    lines += table
    far = np.hypot(np.array(own["x"]) - 31, np.array(own["y"]) - 31) > 5
    n_own = len(stamps) // 2
    lines += [
        f"ZTF's own difference of the {n_own} stamps without an added source, matched filter: "
        f"{far.sum()} false peaks above 5 sigma ({far.sum() / n_own:.3f} a stamp).",
        "",
    ]
    return lines


def draw(path: Path, refs, scis, difference, table) -> None:
    """ref, sci, difference of the first 24 rows of a table, the row's position circled."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    n = min(24, len(table["x"]))
    if not n:
        path.unlink(missing_ok=True)
        return
    figure, axes = plt.subplots(-(-n // 4), 12, figsize=(18, 1.6 * -(-n // 4)), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for k in range(n):
        i = int(table["image"][k])
        images = (refs[i if len(refs) > 1 else 0], scis[i], difference.image[i])
        for j, image in enumerate(images):
            axis = axes[k // 4, 3 * (k % 4) + j]
            x, y = float(table["x"][k]), float(table["y"][k])
            top, left = max(0, int(y) - 31), max(0, int(x) - 31)
            cut = image[top : top + 63, left : left + 63]
            sky = np.nanmedian(cut)
            sigma = (
                1.4826 * np.nanmedian(np.abs(cut - sky))
                if j < 2
                else np.nanmedian(difference.noise[i])
            )
            axis.imshow(
                np.arcsinh((cut - sky * (j < 2)) / sigma),
                vmin=-3,
                vmax=5,
                cmap="gray",
                origin="lower",
            )
            axis.plot(x - left, y - top, "o", mfc="none", mec="tab:red", ms=9)
    figure.tight_layout(pad=0.2)
    figure.savefig(path, dpi=60)
    plt.close(figure)


def large_pairs(subtract, folder: Path, pictures: Path | None) -> list[str]:
    """Candidates on two real pairs; neither took part in training."""
    from astropy.io import fits

    lines = [
        "### Real pairs",
        "",
        "| pair | size | positive | negative | scale |",
        "|---|---|---|---|---|",
    ]
    for name, what in (
        ("eso085", "ESO null pair, 74 s apart: nothing changed"),
        ("jwst_a2744", "JWST NIRCam F200W, two epochs"),
    ):
        ref, sci = (fits.getdata(folder / name / f"{k}.fits") for k in ("ref", "sci"))
        mask = folder / name / "sci_mask.fits"
        masks = fits.getdata(mask).astype(bool) if mask.exists() else None
        difference = subtract(ref, sci, sci_masks=masks)
        found = fastdiff.find_transients(difference, THRESHOLD)
        gone = fastdiff.find_transients(difference, THRESHOLD, sign="negative")
        lines.append(
            f"| {what} | {ref.shape[0]} x {ref.shape[1]} | {len(found)} | {len(gone)} "
            f"| {np.atleast_1d(difference.meta['scale'])[0]:.3f} |"
        )
        if pictures:
            from types import SimpleNamespace

            single = SimpleNamespace(image=difference.image[None], noise=difference.noise[None])
            draw(
                pictures / f"{name}_candidates.png",
                ref[None].astype(float),
                sci[None].astype(float),
                single,
                found,
            )
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="folder of the real images; without it they are left out"
    )
    parser.add_argument("--model", default="transinet-lite")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--pairs", type=int, default=2000, help="simulated pairs")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of failures")
    arguments = parser.parse_args()
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
    seed, pictures = SEEDS[arguments.split], arguments.pictures
    subtract = functools.partial(fastdiff.subtract_batch, model=arguments.model)
    lines = simulated(subtract, arguments.pairs, seed, "preset `survey`", pictures)
    lines += simulated(subtract, arguments.pairs, seed, "no defects, no jitter, 2-6 px", **PLAIN)
    lines += simulated(
        subtract, arguments.pairs, seed, "the same, a Poisson number", **PLAIN | POISSON_NUMBER
    )
    lines += by_galsim(subtract, max(1, arguments.pairs // 20), seed, pictures)
    lines += paper(subtract, seed)
    if arguments.data:
        lines += ztf(subtract, arguments.data / "ztf", arguments.split, pictures)
        if arguments.split == "test":
            lines += large_pairs(subtract, arguments.data / "pairs", pictures)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
