"""Pictures of the classes of variable stars, after Figs 3 to 8 of Mahabal et al. (2017).

    python examples/light_curve_classes.py --data FOLDER --out PICTURES [--model best]

FOLDER holds crts/crts_train.npz. Writes mean and median dm-dt images and the backgrounds of every
class (Figs 3, 5, 4), the confusion matrix of a model on curves that it did not learn from
(Figs 6, 7), and light curves that it takes for something else (Fig. 8).
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

from fastdiff.lightcurves.classify import classify_light_curves
from fastdiff.lightcurves.dmdt import dmdt_images
from fastdiff.lightcurves.robust_pca import class_backgrounds
from fastdiff.training import crts


def draw_images(path, images, title):
    """One dm-dt image a class, each with its own scale: time to the right, fainter upwards."""
    figure, axes = pyplot.subplots(2, 4, figsize=(11, 6), layout="constrained")
    for axis in axes.flat[len(images) :]:
        axis.axis("off")
    for axis, (name, image) in zip(axes.flat, images.items(), strict=False):
        axis.imshow(np.sqrt(np.maximum(image, 0)), origin="lower", cmap="viridis")
        axis.set(title=name, xlabel="dt cell", ylabel="dm cell")
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_confusion(path, found, truth, classes):
    """Percentages of each true class."""
    n = len(classes)
    matrix = np.zeros((n, n))
    np.add.at(matrix, (truth, found), 1)
    matrix *= 100 / np.maximum(matrix.sum(1, keepdims=True), 1)
    figure, axis = pyplot.subplots(figsize=(6, 5.4), layout="constrained")
    axis.imshow(matrix, cmap="YlGnBu", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(matrix):
        if share >= 0.5:
            colour = "white" if share > 55 else "black"
            axis.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour)
    axis.set(xticks=range(n), yticks=range(n), xticklabels=classes, yticklabels=classes)
    axis.set(xlabel="found", ylabel="truth", title=f"per cent, {len(truth)} curves")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_mistaken(path, curves, result, n=12):
    """Light curves of which the model is surest where the label says otherwise."""
    found = result.probabilities.argmax(1)
    wrong = np.flatnonzero(found != curves.label)
    wrong = wrong[np.argsort(-result.probabilities[wrong, found[wrong]])][:n]
    figure, axes = pyplot.subplots(3, 4, figsize=(13, 8), layout="constrained")
    for axis, i in zip(axes.flat, wrong, strict=False):
        points = slice(curves.offsets[i], curves.offsets[i + 1])
        axis.errorbar(
            curves.time[points], curves.mag[points], curves.magerr[points],
            fmt=".", ms=3, lw=0.5,
        )  # fmt: skip
        axis.invert_yaxis()
        axis.locator_params(axis="x", nbins=4)
        axis.set_title(
            f"{curves.ids[i]}: {curves.classes[curves.label[i]]}, found "
            f"{result.labels[i]} ({result.probabilities[i, found[i]]:.2f})",
            fontsize=8,
        )
    figure.supxlabel("MJD")
    figure.supylabel("mag")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="best")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    train, held_out = (crts.load_crts(arguments.data, split) for split in ("train", "val"))
    images = dmdt_images(train.time, train.mag, train.offsets)
    names = np.array(train.classes)[train.label]
    mean = {name: images[names == name].mean(0) for name in train.classes}
    median = {name: np.median(images[names == name], 0) for name in train.classes}
    low_rank = class_backgrounds(images, names)
    draw_images(arguments.out / "mean.png", mean, "mean dm-dt images")
    draw_images(arguments.out / "median.png", median, "median dm-dt images")
    draw_images(
        arguments.out / "background.png",
        {name: low_rank[name] for name in train.classes},
        "class backgrounds by robust PCA",
    )

    result = classify_light_curves(
        held_out.time,
        held_out.mag,
        held_out.offsets,
        magerr=held_out.magerr,
        model=arguments.model,
    )
    found = result.probabilities.argmax(1)
    draw_confusion(arguments.out / "confusion.png", found, held_out.label, held_out.classes)
    draw_mistaken(arguments.out / "mistaken.png", held_out, result)
    print(f"accuracy on {len(held_out)} curves: {(found == held_out.label).mean():.3f}")
    print("pictures in", arguments.out)


if __name__ == "__main__":
    main()
