"""Figures 1 to 4 and 7 to 11 of Wang et al. (2017) again, and the numbers behind Figs 9 and 11.

    python examples/cpm_figures.py --out PICTURES

Mock cubes as the paper makes them (`fastdiff.simulate.cubes`), fitted in sample (`holdout=None`)
as it does, for Figs 2 and 4 with ten folds held out too. On two cores some ten minutes; --side,
--epochs and --predictors make it smaller. Writes fig01.png ... fig11.png and ramps.ecsv, prints
the table.

The quality of an epoch is the root of the median square of its residuals; that of a cube the median
over its epochs, here in units of what the photon noise alone would give. Motion is the root mean
square of the displacement of the pixels from their mean places, in FWHM of the PRF.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from astropy.table import Table

import fastdiff

matplotlib.use("Agg")
from matplotlib import pyplot

NOISE = 1e-4
UNIT = 0.6745 * NOISE  # root of the median square of normal numbers
POINTING = (0.5, 1.0, 2.0, 5.0, 8.0)  # pixels, largest
ROTATION = (0.5, 1.0, 2.0, 5.0, 10.0)  # degrees, largest
WIDEST = (2.0, 2.5, 3.0, 4.0, 6.0, 8.0)  # pixels, largest FWHM
WIDTHS = (2.5, 4.0, 6.0)  # pixels, FWHM of a PRF that stays
SHOWN = {
    7: ("pointing", (2.0, 5.0, 8.0)),
    8: ("rotation", (1.0, 5.0, 10.0)),
    10: ("fwhm", (3.0, 4.0, 8.0)),
}
CLIP = 5  # photon noise, the ends of the colours and of the histograms


def root_median_square(image):
    """Of each epoch, then the median epoch."""
    return float(np.median(np.sqrt(np.nanmedian(image**2, axis=(1, 2)))))


def displacement(made, shape):
    """Root mean square motion of the pixels about their mean places (eq. 5), pixels."""
    tx, ty, theta = made.motion.T[:, :, None]
    y, x = (axis.ravel()[None] for axis in np.mgrid[: shape[0] : 4, : shape[1] : 4])
    moved = np.stack([
        np.cos(theta) * x + np.sin(theta) * y + tx, -np.sin(theta) * x + np.cos(theta) * y + ty
    ])  # fmt: skip
    return float(np.sqrt(((moved - moved.mean(1, keepdims=True)) ** 2).sum(0).mean()))


def draw_snapshots(path, rows, title):
    """Data, prediction, difference and its histogram; `rows` are (label, data, difference)."""
    figure, axes = pyplot.subplots(
        len(rows), 4, figsize=(11, 2.7 * len(rows)), layout="constrained"
    )
    normal = np.linspace(-CLIP, CLIP, 201)
    for (label, data, difference), (left, middle, right, last) in zip(rows, axes, strict=True):
        high = np.percentile(data, 99.5)
        for axis, image in ((left, data), (middle, data - difference)):
            axis.imshow(image, origin="lower", cmap="gray", vmin=0, vmax=high)
        shown = right.imshow(
            difference / NOISE, origin="lower", cmap="RdBu_r", vmin=-CLIP, vmax=CLIP
        )
        figure.colorbar(shown, ax=right, shrink=0.8)
        bins = np.linspace(-CLIP, CLIP, 61)
        last.hist((difference / NOISE).ravel(), bins, density=True, color="0.6")
        last.plot(normal, np.exp(-(normal**2) / 2) / np.sqrt(2 * np.pi), "k--", lw=1)
        left.set_ylabel(label)
        last.set_yticks([])
    for axis, name in zip(
        axes[0], ("data", "prediction", "difference / photon noise", "histogram"), strict=True
    ):
        axis.set_title(name)
    figure.suptitle(title)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def draw_folded(path, made, results, title):
    """What was injected into 7 x 7 pixels and what the difference has of it, folded."""
    event = made.events[0]
    y, x = round(event["y"]), round(event["x"])
    box = np.s_[:, max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4]
    injected = made.signal[box].sum((1, 2))
    phase = (np.arange(len(injected)) - event["epoch"]) / event["duration"] % 1
    figure, axes = pyplot.subplots(
        1, len(results), figsize=(10, 4), sharey=True, layout="constrained"
    )
    for axis, (name, result) in zip(axes, results.items(), strict=True):
        found = np.asarray(result.light_curve(y, x, aperture=7)["flux"])
        kept = float(found @ injected / (injected @ injected))
        axis.plot(phase, found, ".", color="0.6", ms=4, label="recovered")
        axis.plot(phase, injected, "k.", ms=2, label="injected")
        axis.set(title=f"{name}: {100 * kept:.1f} % kept", xlabel="phase")
        print(f"{path.stem}, {name}: {100 * kept:.1f} % of the sinusoid kept")
    axes[0].set_ylabel("flux in 7 x 7 pixels / median pixel")
    axes[0].legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def draw_presets(options):
    """Figs 1 to 4: space-based and ground-based data with one variable star."""
    shape = (options.side, options.side)
    for number, preset in ((1, "space"), (3, "ground")):
        made = fastdiff.simulate.cubes(options.epochs, shape, seed=options.seed, preset=preset)
        results = {
            name: fastdiff.cpm_subtract(
                made.cube, n_predictors=options.predictors, holdout=holdout
            )
            for name, holdout in (("in sample", None), ("ten folds held out", 10))
        }  # fmt: skip
        difference = results["in sample"].image
        epochs = np.linspace(0, options.epochs - 1, 5).astype(int)[1:4]
        rows = [(f"epoch {i}", made.cube[i], difference[i]) for i in epochs]
        draw_snapshots(options.out / f"fig{number:02d}.png", rows, f"mock {preset}-based data")
        title = f"mock {preset}-based data"
        draw_folded(options.out / f"fig{number + 1:02d}.png", made, results, title)
        for name, result in results.items():
            y, x = result.variables(0)["y", "x"][0]
            print(
                f"{preset}, {name}: median rms {np.nanmedian(result.rms) / NOISE:.3f} of the "
                f"photon noise; most variable pixel ({y}, {x}), star at "
                f"({made.events['y'][0]:.1f}, {made.events['x'][0]:.1f})"
            )


def cases():
    """(series, what varies, how much, options of `cubes`)."""
    for width in WIDTHS:
        for value in POINTING:
            own = {"pointing": value, "fwhm": (width, width)}
            yield f"pointing, FWHM {width}", "pointing", value, own
    for value in ROTATION:
        yield "rotation, FWHM 2.5", "rotation", value, {"rotation": value, "fwhm": (2.5, 2.5)}
    for value in WIDEST:
        yield "FWHM from 2", "fwhm", value, {"fwhm": (2.0, value)}


def measure_ramps(options):
    """Figs 7, 8, 10 as they are made, and the table of Figs 9 and 11."""
    shape, quarter = (options.side, options.side), options.side // 4
    middle = np.s_[:, quarter:-quarter, quarter:-quarter]
    rows, snapshots = [], {number: [] for number in SHOWN}
    for series, what, value, own in cases():
        made = fastdiff.simulate.cubes(
            options.epochs, shape, seed=options.seed, preset="ground", events=(), noise=NOISE, **own
        )
        result = fastdiff.cpm_subtract(made.cube, n_predictors=options.predictors, holdout=None)
        image = np.asarray(result)
        rows.append({
            "series": series, "largest": value,
            "motion": displacement(made, shape) / float(made.prf[:, :2].mean()),
            "residual": root_median_square(image) / UNIT,
            "middle": root_median_square(image[middle]) / UNIT,
            "worst": float(np.nanpercentile(result.rms, 99)) / NOISE,
        })  # fmt: skip
        told = [f"{name} {value:.3g}" for name, value in rows[-1].items() if name != "series"]
        print(series, *told, sep="  ", flush=True)
        for number, (name, values) in SHOWN.items():
            first = name != "pointing" or own["fwhm"][0] == WIDTHS[0]
            if name == what and value in values and first:
                i = options.epochs // 2
                snapshots[number].append((f"up to {value:g}", made.cube[i], image[i]))
    titles = {7: "pointing (pixels)", 8: "rotation (degrees)", 10: "FWHM of the PRF (pixels)"}
    for number, title in titles.items():
        draw_snapshots(options.out / f"fig{number:02d}.png", snapshots[number], title)
    return Table(rows)


def draw_ramps(options, table):
    """Figs 9 and 11."""
    figure, axis = pyplot.subplots(figsize=(6, 4.5), layout="constrained")
    marks = iter("ox*^")
    for series in dict.fromkeys(table["series"]):
        part = table[table["series"] == series]
        if not series.startswith("FWHM"):
            axis.plot(part["motion"], part["residual"], next(marks), ls="-", label=series)
    axis.axhline(1, color="k", ls="--", lw=1)
    axis.set(yscale="log", xlabel="rms motion / FWHM", ylabel="median residual / photon noise")
    axis.legend()
    figure.savefig(options.out / "fig09.png", dpi=100)
    pyplot.close(figure)
    part = table[table["series"] == "FWHM from 2"]
    figure, axis = pyplot.subplots(figsize=(6, 4.5), layout="constrained")
    axis.plot(part["largest"] - 2, part["residual"], "o-")
    axis.axhline(1, color="k", ls="--", lw=1)
    axis.set(xlabel="largest FWHM - 2 (pixels)", ylabel="median residual / photon noise")
    figure.savefig(options.out / "fig11.png", dpi=100)
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--side", type=int, default=80)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--predictors", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    draw_presets(options)
    table = measure_ramps(options)
    table.write(options.out / "ramps.ecsv", overwrite=True)
    draw_ramps(options, table)


if __name__ == "__main__":
    main()
