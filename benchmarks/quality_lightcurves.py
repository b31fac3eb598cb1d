"""Figures of the classifiers of light curves: the tables of their cards.

    python benchmarks/quality_lightcurves.py --data FOLDER [--part classes] [--split test]

Parts: `classes` (the shipped models beside a random forest on the features), `pairs` (Table II of
Mahabal et al. 2017), `grids` (its Table III), `background` (its Table IV), `sdss` (transfer to RR
Lyrae of SDSS Stripe 82) and `speed`. FOLDER holds crts/ and sdss_rrlyrae/. Networks of `pairs`,
`grids` and `background` are trained on the spot, on the split "train" and measured on `--split`;
--steps and --network say how. Writes Markdown to standard output and pictures to --pictures.

The random forests need scikit-learn.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np

import fastdiff.lightcurves.classify as lc
from fastdiff.lightcurves.curves import read_curves
from fastdiff.training import crts

SEED = 20_261_121  # of thinned curves and of random forests


# ---------------------------------------------------------------- figures


def figures(p: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Accuracy, mean recall, -ln of the truth, expected calibration error."""
    found, n = p.argmax(1), p.shape[1]
    sure = p.max(1)
    error = 0.0
    for low in np.arange(0, 1, 0.1):
        inside = (sure > low) & (sure <= low + 0.1)
        if inside.any():
            error += abs((found == y)[inside].sum() - sure[inside].sum()) / len(y)
    present = [k for k in range(n) if (y == k).any()]
    return {
        "accuracy": (found == y).mean(),
        "recall": np.mean([(found[y == k] == k).mean() for k in present]),
        "nll": -np.log(np.clip(p[np.arange(len(y)), y], 1e-9, None)).mean(),
        "ece": error,
    }


def sky_accuracy(p: np.ndarray, y: np.ndarray) -> float:
    """Accuracy where the classes have the proportions of Table I."""
    number = np.array(list(crts.SKY_NUMBERS.values()), float)
    recall = [(p.argmax(1)[y == k] == k).mean() for k in range(len(number))]
    return float(np.dot(recall, number / number.sum()))


def for_sky(p: np.ndarray, learnt: np.ndarray) -> np.ndarray:
    """Probabilities for the proportions of Table I instead of those of the training data."""
    odds = p * np.array(list(crts.SKY_NUMBERS.values())) / learnt
    return odds / odds.sum(1, keepdims=True)


def two_classes(found: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Recall and F1 of both, and Matthews' coefficient."""
    tp, tn = ((found == 1) & (y == 1)).sum(), ((found == 0) & (y == 0)).sum()
    fp, fn = ((found == 1) & (y == 0)).sum(), ((found == 0) & (y == 1)).sum()
    norm = np.sqrt(float(tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {
        "recall": (tn / (tn + fp), tp / (tp + fn)),
        "f1": (2 * tn / max(2 * tn + fp + fn, 1), 2 * tp / max(2 * tp + fp + fn, 1)),
        "mcc": (float(tp) * tn - float(fp) * fn) / norm if norm else 0.0,
    }


def confusion(p: np.ndarray, y: np.ndarray, classes: tuple[str, ...]) -> list[str]:
    """Rows are the truth, numbers are curves."""
    lines = ["| truth | " + " | ".join(classes) + " | recall |", "|---" * (len(classes) + 2) + "|"]
    for k, name in enumerate(classes):
        row = np.bincount(p[y == k].argmax(1), minlength=len(classes))
        share = row[k] / max(row.sum(), 1)
        lines.append(f"| {name} | " + " | ".join(map(str, row)) + f" | {share:.3f} |")
    return [*lines, ""]


def thinned(d: crts.LabelledCurves, share: float) -> crts.LabelledCurves:
    """A random share of the points of each curve, at least 10."""
    random = np.random.default_rng(SEED)
    rank = np.argsort(random.random(len(d.time)))
    keep = np.zeros(len(d.time), bool)
    for a, b in itertools.pairwise(d.offsets):
        order = np.argsort(rank[a:b])
        keep[a + order[: max(10, round(share * (b - a)))]] = True
    owner = np.repeat(np.arange(len(d)), np.diff(d.offsets))[keep]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(d)))])
    return crts.LabelledCurves(
        d.time[keep], d.mag[keep], d.magerr[keep], offsets, d.label, d.classes, d.ids
    )


def classify(model: str, d: crts.LabelledCurves, errors: bool = True) -> np.ndarray:
    """Probabilities that a shipped model, or a file, gives."""
    magerr = d.magerr if errors else None
    found = lc.classify_light_curves(d.time, d.mag, d.offsets, magerr=magerr, model=model)
    return found.probabilities


def network_input(contract: lc.Contract, d: crts.LabelledCurves) -> np.ndarray:
    return contract.network_input(read_curves(d.time, d.mag, d.offsets, d.magerr))


def forest(x: np.ndarray, y: np.ndarray):
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(300, random_state=SEED, n_jobs=1).fit(_finite(x), y)


def _finite(x: np.ndarray) -> np.ndarray:
    return np.nan_to_num(x.reshape(len(x), -1), nan=-99.0)


# ---------------------------------------------------------------- parts


def part_classes(a: argparse.Namespace) -> list[str]:
    from fastdiff.training.dmdt import BEST, GENERIC_FEATURES, PAPER

    learn, check = crts.load_crts(a.data, "train"), crts.load_crts(a.data, a.split)
    number = np.bincount(learn.label)
    rows: dict[str, np.ndarray] = {}
    inputs = {
        "18 features": lc.Contract(crts.CLASSES, features=GENERIC_FEATURES),
        "image pixels": PAPER,
        "features and periods": lc.Contract(crts.CLASSES, features=BEST.features),
    }
    for name, contract in inputs.items():
        made = forest(network_input(contract, learn), learn.label)
        rows[f"random forest, {name}"] = made.predict_proba(_finite(network_input(contract, check)))
    for model in a.models:
        rows[Path(model).stem] = classify(model, check)
        rows[f"{Path(model).stem}, no errors"] = classify(model, check, errors=False)
    lines = [
        f"### Seven classes, {len(check)} curves of the split '{a.split}'",
        "",
        "| | accuracy | mean recall | -ln p | calibration error | Table I | Table I, known |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, p in rows.items():
        f = figures(p, check.label)
        sky = sky_accuracy(p, check.label), sky_accuracy(for_sky(p, number), check.label)
        lines.append(
            f"| {name} | {f['accuracy']:.3f} | {f['recall']:.3f} | {f['nll']:.3f} "
            f"| {f['ece']:.3f} | {sky[0]:.3f} | {sky[1]:.3f} |"
        )
    lines += [
        "",
        "Table I: accuracy re-weighted to the proportions of the survey; known: with the "
        "probabilities adjusted to them. One standard error of the accuracy: "
        f"{np.sqrt(0.25 * 0.36 / len(check)):.3f} to {np.sqrt(0.25 / len(check)):.3f}.",
        "",
    ]
    for model in a.models:
        p = rows[Path(model).stem]
        lines += [f"Confusion of {Path(model).stem}:", "", *confusion(p, check.label, crts.CLASSES)]
        lines += reliability(p, check.label)
        if a.pictures:
            draw_reliability(a.pictures / f"{Path(model).stem}_reliability.png", p, check.label)
    lines += [
        "| share of the points | model | accuracy | mean recall | -ln p |",
        "|---|---|---|---|---|",
    ]
    for share in (1.0, 0.5, 0.25, 0.1):
        some = thinned(check, share) if share < 1 else check
        for model in a.models:
            f = figures(classify(model, some), some.label)
            lines.append(
                f"| {share:g} | {Path(model).stem} | {f['accuracy']:.3f} | {f['recall']:.3f} "
                f"| {f['nll']:.3f} |"
            )
    return [*lines, ""]


def reliability(p: np.ndarray, y: np.ndarray) -> list[str]:
    """What share of all probabilities of about p come true."""
    lines = ["| probability (all classes) | n | mean | came true |", "|---|---|---|---|"]
    true = np.eye(p.shape[1], dtype=bool)[y]
    for low, high in itertools.pairwise((0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1.0001)):
        inside = (p >= low) & (p < high)
        if inside.any():
            lines.append(
                f"| {low:g}-{min(high, 1):g} | {inside.sum()} | {p[inside].mean():.3f} "
                f"| {true[inside].mean():.3f} |"
            )
    return [*lines, ""]


def draw_reliability(path: Path, p: np.ndarray, y: np.ndarray) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    true = np.eye(p.shape[1], dtype=bool)[y]
    edges = np.linspace(0, 1, 11)
    at = np.clip(np.digitize(p, edges) - 1, 0, 9)
    n = np.bincount(at.ravel(), minlength=10)
    mean = np.bincount(at.ravel(), p.ravel(), 10) / np.maximum(n, 1)
    share = np.bincount(at.ravel(), true.ravel(), 10) / np.maximum(n, 1)
    error = np.sqrt(np.maximum(share * (1 - share), 1e-4) / np.maximum(n, 1))
    figure, axes = pyplot.subplots(figsize=(4, 4), layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.7")
    axes.errorbar(mean[n > 0], share[n > 0], error[n > 0], fmt="o", color="C0")
    axes.set(xlabel="probability", ylabel="share that came true", xlim=(0, 1), ylim=(0, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def trained(a, x, y, shape, n_classes, held_out) -> np.ndarray:
    """Probabilities on held-out images of a network trained here on (copies, n, ny, nx)."""
    import torch

    from fastdiff.training import dmdt

    make = {"shallow": dmdt.shallow_network, "deep": dmdt.deep_network}[a.network]
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory(prefix="fastdiff-quality-") as folder:
        network = dmdt.fit(
            make(n_classes, shape), x, y,
            out=folder, steps=a.steps, seed=SEED, balance=a.balance, progress=False,
        )  # fmt: skip
    with torch.no_grad():
        return network(torch.from_numpy(held_out)).softmax(1).numpy()


def part_pairs(a: argparse.Namespace) -> list[str]:
    from fastdiff.training.dmdt import GENERIC_FEATURES, PAPER, samples

    learn, check = crts.load_crts(a.data, "train"), crts.load_crts(a.data, a.split)
    x, held = samples(learn, PAPER, a.copies), network_input(PAPER, check)
    features = lc.Contract(crts.CLASSES, features=GENERIC_FEATURES)
    f, f_held = network_input(features, learn), network_input(features, check)
    lines = [
        f"### Table II: pairs of classes, {a.network} network ({a.steps} steps) and random forest",
        "",
        "| classes | recall | F1 | MCC | forest: recall | F1 | MCC |",
        "|---|---|---|---|---|---|---|",
    ]
    for one, two in itertools.combinations(range(len(crts.CLASSES)), 2):
        rows = np.flatnonzero(np.isin(learn.label, (one, two)))
        test = np.flatnonzero(np.isin(check.label, (one, two)))
        y, truth = (learn.label[rows] == two).astype(np.int64), check.label[test] == two
        p = trained(a, x[:, rows], y, x.shape[2:], 2, held[test])
        cells = []
        for found in (p.argmax(1), forest(f[rows], y).predict(_finite(f_held[test]))):
            r = two_classes(found, truth.astype(int))
            cells += [
                f"{100 * r['recall'][0]:.0f}/{100 * r['recall'][1]:.0f}",
                f"{r['f1'][0]:.2f}/{r['f1'][1]:.2f}",
                f"{r['mcc']:.2f}",
            ]
        lines.append(f"| {crts.CLASSES[one]}/{crts.CLASSES[two]} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def part_grids(a: argparse.Namespace) -> list[str]:
    from fastdiff.training.dmdt import samples

    learn, check = crts.load_crts(a.data, "train"), crts.load_crts(a.data, a.split)
    lines = [
        f"### Table III: grids, {a.network} network ({a.steps} steps)",
        "",
        "| grid | image | accuracy | mean recall | -ln p |",
        "|---|---|---|---|---|",
    ]
    for grid in ("mahabal2017", "new1", "new2", "new3"):
        contract = lc.Contract(crts.CLASSES, grid=grid, norm="paper")
        x, held = samples(learn, contract, a.copies), network_input(contract, check)
        p = trained(a, x, learn.label, x.shape[2:], len(crts.CLASSES), held)
        f = figures(p, check.label)
        lines.append(
            f"| {grid} | {held.shape[1]} x {held.shape[2]} | {f['accuracy']:.3f} "
            f"| {f['recall']:.3f} | {f['nll']:.3f} |"
        )
        print(lines[-1], flush=True)
    return [*lines, ""]


def part_background(a: argparse.Namespace) -> list[str]:
    from fastdiff.lightcurves import background
    from fastdiff.training.dmdt import PAPER

    learn, check = crts.load_crts(a.data, "train"), crts.load_crts(a.data, a.split)
    x, held = network_input(PAPER, learn), network_input(PAPER, check)
    cases = {"no background": (x, held)}
    for name, made in background_cases(background, x, learn.label, held, check.label).items():
        cases[name] = made
    for n in (2, 4, 6):
        blank = slice(11 - n // 2, 11 + n // 2)
        one, two = x.copy(), held.copy()
        one[:, blank], two[:, blank] = 0, 0
        cases[f"{n} middle rows blank"] = one, two
    lines = [
        f"### Table IV: background, {a.network} network ({a.steps} steps)",
        "",
        "| | accuracy | mean recall |",
        "|---|---|---|",
    ]
    for name, (one, two) in cases.items():
        # The networks take logarithms: what lies below the background counts as nothing.
        one, two = np.maximum(one, 0), np.maximum(two, 0)
        p = trained(a, one[None], learn.label, one.shape[1:], len(crts.CLASSES), two)
        f = figures(p, check.label)
        lines.append(f"| {name} | {f['accuracy']:.3f} | {f['recall']:.3f} |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def background_cases(background, x, y, held, held_y):
    """Images less the backgrounds of section V-D; the first knows the classes it is to find."""
    by_class = background.class_backgrounds(x, y)
    stack = np.stack([by_class[k] for k in sorted(by_class, key=int)])
    together = background.pseudo_cadence_background(x, y)
    largest = background.maximum_background(x)
    return {
        "class background, known to the test too": (x - stack[y], held - stack[held_y]),
        "pseudo-cadence background": (x - together, held - together),
        "maximum background": (x - largest, held - largest),
    }


def part_sdss(a: argparse.Namespace) -> list[str]:
    lines = [
        "### Transfer: RR Lyrae of SDSS Stripe 82, never trained on",
        "",
        "ab and c told apart by the larger of the two probabilities (first columns), and the share "
        "that is given its class out of all seven.",
        "",
        "| model | band | n ab / c | recall ab / c | MCC | of seven: ab / c |",
        "|---|---|---|---|---|---|",
    ]
    ab, c = crts.CLASSES.index("RRab"), crts.CLASSES.index("RRc")
    for model, band in itertools.product(a.models, "gri"):
        d = crts.load_sdss_rrlyrae(a.data, band)
        p = classify(model, d)
        good = np.isfinite(p).all(1)
        p, y = p[good], d.label[good]
        r = two_classes((p[:, c] > p[:, ab]).astype(int), (y == c).astype(int))
        seven = [(p[y == k].argmax(1) == k).mean() for k in (ab, c)]
        lines.append(
            f"| {Path(model).stem} | {band} | {(y == ab).sum()} / {(y == c).sum()} "
            f"| {r['recall'][0]:.3f} / {r['recall'][1]:.3f} | {r['mcc']:.2f} "
            f"| {seven[0]:.3f} / {seven[1]:.3f} |"
        )
    return [*lines, ""]


def part_speed(a: argparse.Namespace) -> list[str]:
    check = crts.load_crts(a.data, "train")
    some = check.take(np.arange(min(1000, len(check))))
    lines = [
        f"### Cost, {len(some)} CRTS curves, {len(some.time) / len(some):.0f} points each",
        "",
        "| model | CPU s per 10,000 curves |",
        "|---|---|",
    ]
    for model in a.models:
        classify(model, some.take(np.arange(4)))
        costs = []
        for _ in range(3):
            begun = time.process_time()
            classify(model, some)
            costs.append(time.process_time() - begun)
        lines.append(f"| {Path(model).stem} | {min(costs) / len(some) * 1e4:.2f} |")
    return [*lines, ""]


PARTS = {
    "classes": part_classes,
    "pairs": part_pairs,
    "grids": part_grids,
    "background": part_background,
    "sdss": part_sdss,
    "speed": part_speed,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--models", nargs="+", default=["best", "shallow"])
    parser.add_argument("--network", choices=("shallow", "deep"), default="shallow")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--balance", type=float, default=0.0)
    parser.add_argument("--pictures", type=Path)
    arguments = parser.parse_args()
    for name in arguments.part or PARTS:
        print("\n".join(PARTS[name](arguments)), flush=True)


if __name__ == "__main__":
    main()
