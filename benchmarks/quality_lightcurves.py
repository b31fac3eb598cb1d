"""Figures of the classifiers of light curves: the tables of their cards.

    python benchmarks/quality_lightcurves.py --data FOLDER [--part classes] [--split test]

Parts: `classes` (the shipped models beside a random forest on the features), `pairs` (Table II of
Mahabal et al. 2017), `grids` (its Table III), `background` (its Table IV), `sdss` (transfer to RR
Lyrae of SDSS Stripe 82), `periods` (theirs) and `speed`. FOLDER holds crts/ and sdss_rrlyrae/.
Networks of `pairs`, `grids` and `background` are trained on the spot, on the split "train", and
measured on `--split`, with --seeds seeds each: mean, and in brackets the standard deviation in
units of the last digit. Their figures are kept in --out, where an interrupted run goes on. Writes
Markdown to standard output and pictures to --pictures.

The random forests need scikit-learn.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastdiff.lightcurves.classify as lc
from fastdiff.lightcurves.curves import read_curves
from fastdiff.training import crts

SEED = 20_261_121  # of thinned curves, random forests and networks
STEPS = {"grids": 600, "pairs": 150, "background": 300}  # about 15 times over the curves and more
N_POINTS = 300  # of a curve in `speed`


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


def two_classes(found: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Recall and F1 of both, and Matthews' coefficient."""
    tp, tn = ((found == 1) & (y == 1)).sum(), ((found == 0) & (y == 0)).sum()
    fp, fn = ((found == 1) & (y == 0)).sum(), ((found == 0) & (y == 1)).sum()
    norm = np.sqrt(float(tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {
        "recall": (float(tn / (tn + fp)), float(tp / (tp + fn))),
        "f1": (float(2 * tn / max(2 * tn + fp + fn, 1)), float(2 * tp / max(2 * tp + fp + fn, 1))),
        "mcc": float(float(tp) * tn - float(fp) * fn) / norm if norm else 0.0,
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


def classify(
    model: str, d: crts.LabelledCurves, errors: bool = True, threads: int | None = None
) -> np.ndarray:
    """Probabilities that a shipped model, or a file, gives."""
    return lc.classify_light_curves(
        d.time, d.mag, d.offsets, magerr=d.magerr if errors else None, model=model, threads=threads
    ).probabilities


def network_input(contract: lc.Contract, d: crts.LabelledCurves) -> np.ndarray:
    return contract.network_input(read_curves(d.time, d.mag, d.offsets, d.magerr))


def forest(x: np.ndarray, y: np.ndarray, seed: int = 0):
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(300, random_state=SEED + seed, n_jobs=1).fit(_finite(x), y)


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


# ---------------------------------------------------------------- trained here, seed by seed


class Measured:
    """Figures of networks that are trained here, kept in a file so that nothing is done twice."""

    def __init__(self, a: argparse.Namespace):
        self.a, self.path = a, a.out / "figures.json"
        self.known = json.loads(self.path.read_text()) if self.path.exists() else {}

    def __call__(self, name: str, make: Callable[[int], dict], seeds: int = 0) -> dict:
        """Figures of all seeds as arrays; `make(seed)` is called for those that are missing."""
        a, made = self.a, []
        for seed in range(seeds or a.seeds):
            key = f"{name}, split {a.split}, seed {seed}"
            if key not in self.known:
                self.known[key] = make(seed)
                a.out.mkdir(parents=True, exist_ok=True)
                part = self.path.with_suffix(".part")
                part.write_text(json.dumps(self.known, indent=1))
                part.replace(self.path)
                print(key, self.known[key], file=sys.stderr, flush=True)
            made.append(self.known[key])
        return {column: np.array([one[column] for one in made]) for column in made[0]}


def spread(values: np.ndarray, digits: int = 3) -> str:
    """Mean, and standard deviation in units of the last digit."""
    if len(values) < 2:
        return f"{values.mean():.{digits}f}"
    return f"{values.mean():.{digits}f} ({round(values.std(ddof=1) * 10**digits)})"


def trained(a, x, y, shape, n_classes, held_out, steps, seed) -> np.ndarray:
    """Probabilities on held-out images of a network trained here on (copies, n, ny, nx)."""
    import torch

    from fastdiff.training import classifiers, dmdt

    make = {"shallow": classifiers.shallow_network, "deep": classifiers.deep_network}[a.network]
    torch.manual_seed(SEED + seed)
    with tempfile.TemporaryDirectory(prefix="fastdiff-quality-") as folder:
        network = dmdt.fit(
            make(n_classes, shape), x, y,
            out=folder, steps=steps, seed=SEED + seed, balance=a.balance, progress=False,
            smoothing=0.05, weight_decay=0.05,
        )  # fmt: skip
    with torch.no_grad():
        return network(torch.from_numpy(held_out)).softmax(1).numpy()


def seven_classes(a, x, y, held, truth, steps, seed) -> dict[str, float]:
    """Train for the seven classes and measure."""
    p = trained(a, x, y, x.shape[2:], len(crts.CLASSES), held, steps, seed)
    known = for_sky(p, np.bincount(y))
    return {
        **{name: float(value) for name, value in figures(p, truth).items()},
        "sky": sky_accuracy(p, truth),
        "sky known": sky_accuracy(known, truth),
    }


def part_pairs(a: argparse.Namespace) -> list[str]:
    from fastdiff.training.dmdt import GENERIC_FEATURES, PAPER

    learn, check = crts.load_crts(a.data, "train"), crts.load_crts(a.data, a.split)
    features = lc.Contract(crts.CLASSES, features=GENERIC_FEATURES)
    x, held = copies_of(a, PAPER, learn), network_input(PAPER, check)
    f, f_held = network_input(features, learn), network_input(features, check)
    measured, steps = Measured(a), a.steps or STEPS["pairs"]
    lines = [
        f"### Table II: pairs of classes, {a.network} network ({steps} steps) and random forest",
        "",
        "| classes | recall | F1 | MCC | forest: recall | F1 | MCC |",
        "|---|---|---|---|---|---|---|",
    ]
    for one, two in itertools.combinations(range(len(crts.CLASSES)), 2):
        rows = np.flatnonzero(np.isin(learn.label, (one, two)))
        test = np.flatnonzero(np.isin(check.label, (one, two)))
        y = (learn.label[rows] == two).astype(np.int64)
        truth = (check.label[test] == two).astype(np.int64)

        def network(seed, rows=rows, test=test, y=y, truth=truth):
            p = trained(a, x(seed)[:, rows], y, held.shape[1:], 2, held[test], steps, seed)
            return two_classes(p.argmax(1), truth)

        def trees(seed, rows=rows, test=test, y=y, truth=truth):
            found = forest(f[rows], y, seed).predict(_finite(f_held[test]))
            return two_classes(found, truth)

        name = f"{crts.CLASSES[one]}/{crts.CLASSES[two]}"
        cells = []
        for how, make in ((f"{a.network}, {steps} steps", network), ("forest", trees)):
            r = measured(f"pair {name}, {how}", make)
            recall, f1 = 100 * r["recall"].mean(0), r["f1"].mean(0)
            cells += [f"{recall[0]:.0f}/{recall[1]:.0f}", f"{f1[0]:.2f}/{f1[1]:.2f}"]
            cells.append(spread(r["mcc"], 2))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def copies_of(a, contract, learn) -> Callable[[int], np.ndarray]:
    """Samples of the training curves by the seed, made when they are first asked for."""
    from fastdiff.training.dmdt import samples

    return functools.lru_cache(1)(lambda seed: samples(learn, contract, a.copies, seed=seed))


def part_grids(a: argparse.Namespace) -> list[str]:
    learn, check = crts.load_crts(a.data, "train"), crts.load_crts(a.data, a.split)
    measured, steps = Measured(a), a.steps or STEPS["grids"]
    lines = [
        f"### Table III: grids, {a.network} network ({steps} steps)",
        "",
        "| grid | image | accuracy | mean recall | -ln p | Table I | Table I, known |",
        "|---|---|---|---|---|---|---|",
    ]
    for grid in ("mahabal2017", "new1", "new2", "new3"):
        contract = lc.Contract(crts.CLASSES, grid=grid, norm="paper")
        x, held = copies_of(a, contract, learn), network_input(contract, check)

        def make(seed, x=x, held=held):
            return seven_classes(a, x(seed), learn.label, held, check.label, steps, seed)

        f = measured(f"grid {grid}, {a.network}, {steps} steps", make)
        lines.append(
            f"| {grid} | {held.shape[1]} x {held.shape[2]} | {spread(f['accuracy'])} "
            f"| {spread(f['recall'])} | {spread(f['nll'])} | {spread(f['sky'])} "
            f"| {spread(f['sky known'])} |"
        )
    return [*lines, ""]


def part_background(a: argparse.Namespace) -> list[str]:
    from fastdiff.lightcurves import robust_pca as background
    from fastdiff.training.dmdt import PAPER

    learn, check = crts.load_crts(a.data, "train"), crts.load_crts(a.data, a.split)
    x, held = network_input(PAPER, learn), network_input(PAPER, check)
    measured, steps = Measured(a), a.steps or STEPS["background"]
    cases = {"no background": (x, held)}
    cases |= background_cases(background, x, learn.label, held, check.label)
    for n in (2, 4, 6):
        blank = slice(11 - n // 2, 11 + n // 2)
        one, two = x.copy(), held.copy()
        one[:, blank], two[:, blank] = 0, 0
        cases[f"{n} middle rows blank"] = one, two
    lines = [
        f"### Table IV: background, {a.network} network ({steps} steps, curves as they are)",
        "",
        "| | accuracy | mean recall | Table I |",
        "|---|---|---|---|",
    ]
    for name, (one, two) in cases.items():
        # The networks take logarithms: what lies below the background counts as nothing.
        one, two = np.maximum(one, 0), np.maximum(two, 0)

        def make(seed, one=one, two=two):
            return seven_classes(a, one[None], learn.label, two, check.label, steps, seed)

        f = measured(f"background {name}, {a.network}, {steps} steps", make)
        lines.append(
            f"| {name} | {spread(f['accuracy'])} | {spread(f['recall'])} | {spread(f['sky'])} |"
        )
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


def part_periods(a: argparse.Namespace) -> list[str]:
    from fastdiff.lightcurves.periods import period_features

    true = crts.load_sdss_periods(a.data)
    lines = [
        "### Periods of the RR Lyrae of SDSS Stripe 82",
        "",
        "Within 1 % of the period that Sesar et al. (2010) found in all bands together; else of an "
        "alias (1 or 2 cycles a day more or less), or of half or twice the period.",
        "",
        "| band | points | curves | right | alias | half or twice |",
        "|---|---|---|---|---|---|",
    ]
    for band, points in itertools.product("ugriz", (0, 40, 25)):
        d = crts.load_sdss_rrlyrae(a.data, band)
        if points:
            d = thinned(d, points / 56)
        read = read_curves(d.time, d.mag, d.offsets, d.magerr)
        kinds = period_kinds(
            period_features(read)["period"], np.array([true[number] for number in d.ids])
        )
        shares = " | ".join(f"{kind.mean():.3f}" for kind in kinds)
        lines.append(f"| {band} | {np.median(read.n_points):.0f} | {len(d)} | {shares} |")
    return [*lines, ""]


def period_kinds(found: np.ndarray, true: np.ndarray, near: float = 0.01) -> tuple:
    """Whether periods in days are right; else an alias; else half or twice the true one."""
    right = np.abs(found / true - 1) < near
    twice = (np.abs(found / true - 2) < 2 * near) | (np.abs(found / true - 0.5) < 0.5 * near)
    alias = np.zeros(len(true), bool)
    for cycles in (-2, -1, 1, 2):
        alias |= np.abs(np.abs(1 / true + cycles) * found - 1) < near
    return right, alias & ~right, twice & ~right & ~alias


def part_speed(a: argparse.Namespace) -> list[str]:
    check = crts.load_crts(a.data, "train")
    some = check.take(np.flatnonzero(np.diff(check.offsets) >= N_POINTS)[:1000])
    some = exactly(some, N_POINTS)
    lines = [
        f"### Cost, {len(some)} CRTS curves of {N_POINTS} points, one thread",
        "",
        "| model | CPU s per 10,000 curves |",
        "|---|---|",
    ]
    for model in a.models:
        classify(model, some.take(np.arange(4)), threads=1)
        costs = []
        for _ in range(5):
            begun = time.process_time()
            classify(model, some, threads=1)
            costs.append(time.process_time() - begun)
        lines.append(f"| {Path(model).stem} | {min(costs) / len(some) * 1e4:.2f} |")
    return [*lines, ""]


def exactly(d: crts.LabelledCurves, n: int) -> crts.LabelledCurves:
    """n random points of each curve."""
    random = np.random.default_rng(SEED)
    points = np.concatenate(
        [a + random.choice(b - a, n, replace=False) for a, b in itertools.pairwise(d.offsets)]
    )
    return crts.LabelledCurves(
        d.time[points], d.mag[points], d.magerr[points], n * np.arange(len(d) + 1),
        d.label, d.classes, d.ids,
    )  # fmt: skip


PARTS = {
    "classes": part_classes,
    "pairs": part_pairs,
    "grids": part_grids,
    "background": part_background,
    "sdss": part_sdss,
    "periods": part_periods,
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
    parser.add_argument("--steps", type=int, help=f"default: {STEPS}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/quality_lightcurves"))
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--balance", type=float, default=0.0)
    parser.add_argument("--pictures", type=Path)
    arguments = parser.parse_args()
    chosen, seeds = arguments.part or list(PARTS), arguments.seeds
    for arguments.seeds in range(1, seeds):  # all parts with one seed before any has two
        for name in STEPS.keys() & set(chosen):
            PARTS[name](arguments)
    arguments.seeds = seeds
    for name in chosen:
        print("\n".join(PARTS[name](arguments)), flush=True)


if __name__ == "__main__":
    main()
