"""Recipes: how the classifiers of light curves are trained, calibrated and exported.

The networks are those of `fastdiff.training.classifiers`: the two of Mahabal et al. (2017), and a
better one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fastdiff.lightcurves.classify import Contract
from fastdiff.lightcurves.curves import read_curves
from fastdiff.lightcurves.features import CURVE_FEATURES
from fastdiff.lightcurves.periods import PERIOD_FEATURES

from .classifiers import Classifier, DeepAndWide, EncodeFeatures, deep_network, shallow_network
from .crts import CLASSES, LabelledCurves, load_crts
from .export import write_network
from .loop import train
from .schedules import cosine

__all__ = [
    "BEST",
    "FINE",
    "PAPER",
    "Classifier",
    "DeepAndWide",
    "EncodeFeatures",
    "augment",
    "calibrate",
    "deep_network",
    "export_classifier",
    "figures",
    "samples",
    "shallow_network",
    "train_dmdt_best",
    "train_dmdt_deep",
    "train_dmdt_shallow",
]

GENERIC_FEATURES = tuple(CURVE_FEATURES)[3:]
"""The features of the paper's random forest: Table VI without the first three."""

PAPER = Contract(CLASSES, grid="mahabal2017", norm="paper")
"""The paper's images."""

FINE = Contract(CLASSES, grid="new1", norm="paper")
"""Finer images: the best of the grids in the paper's Table III, and in ours."""

BEST = Contract(
    CLASSES,
    grid="new1",
    norm="dt",
    features=tuple(name for name in GENERIC_FEATURES if name != "median_absolute_deviation")
    + tuple(PERIOD_FEATURES),
)
"""Input of the best network: a finer image, features and periods. The median absolute deviation
of Table VI is a flux: it would tell how bright the star is, which is another in each survey."""


def augment(
    curves: LabelledCurves,
    seed: int,
    *,
    whole: float = 0.3,
    smallest: float = 0.12,
    jitter: float = 0.3,
) -> LabelledCurves:
    """The same curves with fewer points and more noise.

    Parameters
    ----------
    curves : LabelledCurves
        What is observed.
    seed : int
        The same seed gives the same curves.
    whole : float
        Share of curves that keep all points.
    smallest : float
        The others keep a random share of them, from this to 1, but no fewer than 20 points.
    jitter : float
        Noise of up to that many times `magerr` is added, the same multiple in a whole curve.

    Returns
    -------
    LabelledCurves
    """
    random = np.random.default_rng(seed)
    n, length = len(curves), np.diff(curves.offsets)
    share = np.where(random.random(n) < whole, 1.0, random.uniform(smallest, 1, n))
    share = np.maximum(share, np.minimum(1, 24 / np.maximum(length, 1)))
    owner = np.repeat(np.arange(n), length)
    keep = random.random(len(owner)) < share[owner]
    noise = random.uniform(0, jitter, n)[owner] * curves.magerr
    mag = curves.mag + noise * random.standard_normal(len(owner))
    return LabelledCurves(
        curves.time[keep],
        mag[keep],
        curves.magerr[keep],
        np.concatenate([[0], np.cumsum(np.bincount(owner[keep], minlength=n))]),
        curves.label,
        curves.classes,
        curves.ids,
    )


def samples(
    curves: LabelledCurves,
    contract: Contract,
    copies: int,
    *,
    seed: int = 0,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Inputs of a network, (copies, n, ...): the curves as they are, then augmented copies.

    Where the network sees features, every second copy is made without errors of the magnitudes.
    """
    made = []
    for k in range(copies):
        some = (
            augment(curves, seed * 1000 + k) if k > 1 or (k and not contract.features) else curves
        )
        magerr = None if contract.features and k % 2 else some.magerr
        read = read_curves(some.time, some.mag, some.offsets, magerr, threads=threads)
        made.append(contract.network_input(read, threads))
    return np.stack(made)


def figures(probabilities: NDArray[Any], label: NDArray[Any]) -> dict[str, float]:
    """``accuracy``, ``recall`` (mean of the classes) and ``nll`` (mean -ln of the truth)."""
    found = probabilities.argmax(1)
    classes = np.unique(label)
    truth = np.clip(probabilities[np.arange(len(label)), label], 1e-12, None)
    return {
        "accuracy": float((found == label).mean()),
        "recall": float(np.mean([(found[label == k] == k).mean() for k in classes])),
        "nll": float(-np.log(truth).mean()),
    }


def calibrate(network: nn.Module, x: NDArray[np.float32], label: NDArray[Any]) -> float:
    """The temperature at which the probabilities of `label` are highest (Guo et al. 2017)."""
    from scipy.optimize import minimize_scalar

    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(x)).double()
    label = torch.from_numpy(np.asarray(label))

    def nll(log_temperature: float) -> float:
        return float(functional.cross_entropy(logits / np.exp(log_temperature), label))

    return float(np.exp(minimize_scalar(nll, bounds=(-2, 2), method="bounded").x))


def fit(
    network: nn.Module,
    x: NDArray[np.float32],
    label: NDArray[np.int64],
    *,
    out: str | os.PathLike[str],
    steps: int,
    batch: int = 128,
    seed: int = 0,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
    smoothing: float = 0.03,
    balance: float = 0.0,
    mixup: float = 0.0,
    average: float = 0.998,
    held_out: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None,
    evaluate_every: int = 0,
    **options: Any,
) -> nn.Module:
    """Train a network of logits on samples (copies, n, ...) with labels (n,).

    Parameters
    ----------
    balance : float
        Weight of a class is its number to the power of minus this: 0 leaves the classes as they
        are, 1 makes them equal.
    smoothing : float
        Share of each label that is spread over all classes.
    mixup : float
        Each sample and its label is mixed with another one's, with shares from a beta
        distribution of both parameters this (Zhang et al. 2018); 0 for none. For inputs
        without NaN.
    held_out : (x, label), optional
        Curves on which `figures` are logged every `evaluate_every` steps.
    out, steps, batch, seed, learning_rate, weight_decay, average, options
        See `fastdiff.training.loop.train`.

    Returns
    -------
    torch.nn.Module
        The averaged network.
    """
    truth = torch.from_numpy(label)
    number = torch.bincount(truth).clamp(min=1).double()
    weight = number**-balance
    weight = (weight * len(truth) / (weight * number).sum()).float()

    def loss(logits: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        goal = batch["goal"].to(logits.device)
        if logits.ndim == 3:  # every member for itself
            goal = goal[:, None].expand(logits.shape).flatten(0, 1)
            logits = logits.flatten(0, 1)
        w = weight.to(logits.device)
        return functional.cross_entropy(logits, goal, w, label_smoothing=smoothing), {}

    def evaluate(network: nn.Module) -> dict[str, float]:
        assert held_out is not None
        device = next(network.parameters()).device
        logits = network(torch.from_numpy(held_out[0]).to(device))
        return figures(logits.softmax(1).cpu().numpy(), held_out[1])

    return train(
        network,
        _batches(torch.from_numpy(x), truth, len(number), batch=batch, seed=seed, mixup=mixup),
        loss,
        steps=steps, out=out, seed=seed, learning_rate=learning_rate,
        schedule=cosine(min(100, steps // 10 + 1)), weight_decay=weight_decay, average=average,
        evaluate=None if held_out is None else evaluate, evaluate_every=evaluate_every, **options,
    )  # fmt: skip


def _batches(
    data: Tensor, truth: Tensor, n_classes: int, *, batch: int, seed: int, mixup: float
) -> Callable[[int], Iterator[dict[str, Tensor]]]:
    """Random rows of random copies, the same ones at each step of a seed."""

    def make(start: int) -> Iterator[dict[str, Tensor]]:
        step = start
        while True:
            random = np.random.default_rng([seed, step])
            rows = torch.from_numpy(random.integers(0, len(truth), batch))
            copy = torch.from_numpy(random.integers(0, len(data), batch))
            x, goal = data[copy, rows], functional.one_hot(truth[rows], n_classes).float()
            if mixup:
                share = torch.from_numpy(random.beta(mixup, mixup, batch).astype(np.float32))
                share = torch.maximum(share, 1 - share)
                x, goal = _mix(x, share), _mix(goal, share)
            yield {"pair": x, "goal": goal}
            step += 1

    return make


def _mix(x: Tensor, share: Tensor) -> Tensor:
    """Each row with the next one."""
    share = share.reshape(-1, *[1] * (x.ndim - 1))
    return share * x + (1 - share) * x.roll(1, 0)


def train_dmdt_shallow(
    out: str | os.PathLike[str], data: str | os.PathLike[str], **options: Any
) -> Path:
    """Train the paper's shallow network and write ``dmdt-shallow.onnx`` into `out`.

    Parameters
    ----------
    out : path
        Folder of the checkpoint, the log and the model. An interrupted run continues here.
    data : path
        See `fastdiff.training.crts.load_crts`.
    **options
        ``contract`` (`PAPER`, or `FINE`, whose file is larger than 5 MB), ``steps``, ``copies``
        (versions of every curve, see `samples`), ``seed``, ``threads``, and those of `fit`. The
        paper: Adam at 2e-4, 300 epochs on the curves as they are.

    Returns
    -------
    pathlib.Path
        The ONNX file.
    """
    options = {"contract": PAPER, **options}
    return _train_on_images("dmdt-shallow", shallow_network, out, data, **options)


def train_dmdt_deep(
    out: str | os.PathLike[str], data: str | os.PathLike[str], **options: Any
) -> Path:
    """Train the paper's deep network and write ``dmdt-deep.onnx``: see `train_dmdt_shallow`.

    By default on the finer images of `FINE`.
    """
    return _train_on_images("dmdt-deep", deep_network, out, data, **options)


def _train_on_images(
    name: str,
    make: Callable[..., nn.Module],
    out: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    contract: Contract = FINE,
    steps: int = 900,
    copies: int = 16,
    seed: int = 0,
    threads: int | None = None,
    smoothing: float = 0.05,
    weight_decay: float = 0.05,
    **options: Any,
) -> Path:
    learn, check = load_crts(data, "train"), load_crts(data, "val")
    x = samples(learn, contract, copies, seed=seed, threads=threads)
    held_out = samples(check, contract, 1, threads=threads)[0], check.label
    options |= {"smoothing": smoothing, "weight_decay": weight_decay}
    _use_threads(threads)
    torch.manual_seed(seed)
    network = fit(
        make(len(CLASSES), x.shape[2:]), x, learn.label,
        out=out, steps=steps, seed=seed, held_out=held_out, **options,
    )  # fmt: skip
    recipe = f"{name}: steps {steps}, copies {copies}, seed {seed}{_told(options)}"
    return _finish(network, Path(out) / f"{name}.onnx", contract, recipe, learn, *held_out)


def train_dmdt_best(
    out: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    steps: int = 2500,
    copies: int = 14,
    members: int = 5,
    width: int = 128,
    image_width: int = 16,
    dropout: float = 0.3,
    seed: int = 0,
    threads: int | None = None,
    contract: Contract = BEST,
    **options: Any,
) -> Path:
    """Train the deep and wide network and write ``dmdt-best.onnx`` into `out`.

    Parameters
    ----------
    out, data
        As for `train_dmdt_shallow`.
    steps, copies, seed, threads
        Steps of training; versions of every curve, half of them without errors (see
        `samples`); seed; CPU threads.
    members, width, image_width, dropout
        See `DeepAndWide`.
    contract : Contract
        What the network sees.
    **options
        Those of `fit`.

    Returns
    -------
    pathlib.Path
        The ONNX file.
    """
    learn, check = load_crts(data, "train"), load_crts(data, "val")
    x = samples(learn, contract, copies, seed=seed, threads=threads)
    both = samples(check, contract, 2, threads=threads)
    _use_threads(threads)
    torch.manual_seed(seed)
    n_features = len(contract.features)
    encode = EncodeFeatures(contract.features, x[..., -n_features:].reshape(-1, n_features))
    network = DeepAndWide(
        encode, x.shape[2] - n_features, len(contract.classes), members, width, image_width, dropout
    )
    network = fit(
        network, x, learn.label,
        out=out, steps=steps, seed=seed, held_out=(both[0], check.label), **options,
    )  # fmt: skip
    recipe = (
        f"dmdt-best: {members} members of {width} units, image to {image_width}, dropout "
        f"{dropout}, steps {steps}, copies {copies}, seed {seed}{_told(options)}"
    )
    path = Path(out) / "dmdt-best.onnx"
    return _finish(
        network,
        path,
        contract,
        recipe,
        learn,
        both.reshape(-1, x.shape[2]),
        np.tile(check.label, 2),
    )


def _told(options: Mapping[str, Any]) -> str:
    """Options that change what is learnt."""
    silent = {"progress", "resume", "log_every", "evaluate_every", "checkpoint_every"}
    return "".join(f", {name} {options[name]}" for name in options if name not in silent)


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def _finish(
    network: nn.Module,
    path: Path,
    contract: Contract,
    recipe: str,
    learn: LabelledCurves,
    x: NDArray[np.float32],
    label: NDArray[np.int64],
) -> Path:
    """Calibrate on held-out curves and export."""
    number = np.bincount(learn.label, minlength=len(contract.classes))
    contract = Contract(
        contract.classes,
        contract.grid,
        contract.norm,
        contract.features,
        tuple((number / number.sum()).tolist()),
    )
    temperature = calibrate(network.cpu(), x, label)
    metadata = {
        "provenance": f"{recipe}; {len(learn)} CRTS light curves of the split 'train' of "
        f"fastdiff.training.crts, temperature {temperature:.3f} from 'val'; "
        f"fastdiff {_version('fastdiff-astro')}, PyTorch {torch.__version__}"
    }
    return export_classifier(Classifier(network, temperature), path, contract, x[:64], metadata)


def export_classifier(
    classifier: nn.Module,
    path: str | os.PathLike[str],
    contract: Contract,
    test: NDArray[np.float32],
    metadata: Mapping[str, str] | None = None,
    *,
    half: bool = True,
) -> Path:
    """Write a classifier as an ONNX file for `classify_light_curves`, checked against PyTorch.

    Parameters
    ----------
    classifier : torch.nn.Module
        Maps inputs to probabilities in evaluation mode, to which it is set.
    path : path
        Written aside and renamed.
    contract : Contract
        What it is fed with.
    test : ndarray of float32, (n, ...)
        Inputs for the check.
    metadata : mapping of str to str, optional
        More entries of the file's metadata; names get the prefix ``fastdiff.``.
    half : bool
        Store large weights as float16 where that changes no probability by more than 0.005.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    RuntimeError
        If ONNX Runtime and PyTorch give probabilities that differ by more than 1e-4.
    """
    what = "cells of the image" if contract.grid else ""
    if contract.features:
        what += (", then " if what else "") + "the features; NaN = unknown"
    shape = ", ".join(["n", *map(str, test.shape[1:])])
    entries = {
        "input": f"curves float32 ({shape}): {what}",
        "output": "probabilities float32 (n, n_classes)",
        "normalisation": "in the graph",
        **contract.metadata,
        **(metadata or {}),
    }
    return write_network(
        classifier.eval(),
        path,
        test,
        entries,
        names=("curves", "probabilities"),
        free={0: "n"},
        tolerance=(0.0, 1e-4),
        half_tolerance=(0.0, 0.005) if half else None,
    )


def _version(package: str) -> str:
    try:
        return packages.version(package)
    except packages.PackageNotFoundError:
        return "not installed"
