"""Recipes: how TransiNet (the paper's) and TransiNetLite (the one that ships) are trained.

Samples come from `fastdiff.simulate.pairs` while the network trains; sample ``i`` of a seed
is the same whatever the batch size, so a resumed run goes on where it stopped. Inputs are
normalised by `fastdiff.kernels.image.tile.normalise_pairs`, and for TransiNetLite matched by
`fastdiff.kernels.image.match.match_psfs`, as they are in `fastdiff.subtract_batch`;
targets are in the same unit, the noise of the difference (sigma).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastdiff.core.stats import mad_sigma
from fastdiff.evaluate import regions
from fastdiff.kernels.image.match import match_psfs
from fastdiff.kernels.image.tile import normalise_pairs
from fastdiff.simulate import pairs as simulate_pairs

from .export import export_onnx, provenance
from .loop import train
from .losses import multi_scale_l1, transinet_lite_loss
from .networks import ATTENTION, TransiNet, TransiNetLite, compress
from .schedules import Schedule, constant, cosine, stepped, trapezoid

__all__ = [
    "InUnits",
    "load_transinet_lite",
    "multi_scale_l1",
    "samples",
    "train_transinet",
    "train_transinet_lite",
    "transinet_lite_loss",
    "validation",
]

# The seeds of validation samples start here, out of the way of those used for training.
_VALIDATION_SEED = 1_000_003
# What spoils an image is rarer in the preset "survey" than it should be while a network learns it.
_MORE_DEFECTS = {
    "cosmic_rays": 0.3,
    "hot_pixels": 0.3,
    "bad_columns": 0.05,
    "trails": 0.12,
    "p_blinking": 0.5,
}
# Truth above this many sigma counts as part of a transient when detections are matched.
_TRUTH_THRESHOLD = 0.25

Samples = Callable[..., Any]


def to_batch(made: Any, threads: int | None = 1, *, matched: bool = True) -> dict[str, Tensor]:
    """Tensors of what `fastdiff.simulate.pairs` returns.

    Parameters
    ----------
    made : fastdiff.simulate.pairs.Pairs or alike
    threads : int, optional
    matched : bool
        Whether the pairs come with their differences after matching the PSFs
        (`fastdiff.kernels.image.match`): four channels instead of two.

    Returns
    -------
    dict
        ``pair`` (n, 2 or 4, h, w), ``target`` (n, 1, h, w) in sigma of the difference, and
        ``valid`` (n, 1, h, w): 1 where the target may be learnt, 0 where the science image
        is bad.
    """
    bad_ref = ~np.isfinite(made.ref) | made.ref_mask
    bad_sci = ~np.isfinite(made.sci) | made.sci_mask
    pair, sigma, _ = normalise_pairs(made.ref, made.sci, bad_ref, bad_sci, threads=threads)
    if matched:
        pair = match_psfs(pair, threads)
    sigma = np.asarray(sigma, np.float32).reshape(-1, 1, 1)
    usable = np.isfinite(sigma) & (sigma > 0)
    target = np.where(usable, made.truth / np.where(usable, sigma, 1), 0).astype(np.float32)
    valid = ~bad_sci & usable
    if getattr(made, "ignore", None) is not None:  # real pixels whose truth is not known
        valid &= ~made.ignore
    valid = valid.astype(np.float32)
    return {
        "pair": torch.from_numpy(np.ascontiguousarray(pair)),
        "target": torch.from_numpy(target)[:, None],
        "valid": torch.from_numpy(valid)[:, None],
    }


def samples(
    batch: int,
    shape: tuple[int, int],
    *,
    seed: int,
    preset: str,
    extra: Samples | None = None,
    extra_fraction: float = 0.0,
    matched: bool = True,
    threads: int | None = 1,
    **parameters: Any,
) -> Callable[[int], Iterator[dict[str, Tensor]]]:
    """Batches for `train`: simulated pairs, with a fraction from somewhere else if asked.

    Parameters
    ----------
    batch : int
        Pairs a step.
    shape : (int, int)
        Size of the pairs in pixels.
    seed, preset, **parameters
        For `fastdiff.simulate.pairs`.
    extra : callable, optional
        ``extra(n, start)`` returns n pairs, numbered from `start`, as an object with the
        attributes of `fastdiff.simulate.pairs`'s result: for example pairs made from real
        templates. They must have the same shape.
    extra_fraction : float
        Fraction of every batch that `extra` gives.
    matched, threads
        See `to_batch`.
    """
    n_extra = round(batch * extra_fraction) if extra is not None else 0

    def make(start: int) -> Iterator[dict[str, Tensor]]:
        step = start
        while True:
            n = batch - n_extra
            parts = []
            if n:
                made = simulate_pairs(
                    n,
                    shape,
                    seed=seed,
                    preset=preset,
                    start=step * n,
                    threads=threads,
                    **parameters,
                )
                parts.append(to_batch(made, threads, matched=matched))
            if extra is not None and n_extra:
                parts.append(to_batch(extra(n_extra, step * n_extra), threads, matched=matched))
            tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            tensors["pair"] = tensors["pair"].contiguous(memory_format=torch.channels_last)
            yield tensors
            step += 1

    return make


def validation(
    n: int, shape: tuple[int, int], *, seed: int, preset: str, **parameters: Any
) -> Callable[[nn.Module], dict[str, float]]:
    """Figures on `n` fixed pairs, which training with the same seed does not see.

    The returned function gives: ``f1`` and its ``threshold`` (sigma; the best one of a
    series), ``precision``, ``recall``, ``recall_snr10`` (matched-filter S/N > 10) and
    ``false_per_image`` there; ``flux_bias`` and ``flux_scatter``, median and robust sigma of
    summed output / true flux - 1 over the truth's support for S/N > 10; ``l1``, the error of
    the compressed difference.
    """
    cached: list[dict[str, Tensor]] = []

    def evaluate(network: nn.Module) -> dict[str, float]:
        if not cached:
            made = simulate_pairs(
                n, shape, seed=seed + _VALIDATION_SEED, preset=preset, threads=1, **parameters
            )
            cached.append(to_batch(made))
        batch = cached[0]
        device = next(network.parameters()).device
        output = torch.cat([network(part.to(device)).cpu() for part in batch["pair"].split(64)])
        output, target = output * batch["valid"], batch["target"] * batch["valid"]
        found = _detection_figures(output[:, 0].numpy(), target[:, 0].numpy())
        return {**found, "l1": float((compress(output) - compress(target)).abs().mean())}

    return evaluate


def _detection_figures(output: NDArray[Any], target: NDArray[Any]) -> dict[str, float]:
    """What `validation` tells of the regions of an output, (n, h, w) in sigma."""
    curve = regions.precision_recall(
        np.abs(output),
        np.abs(target),
        np.geomspace(0.2, 5.0, 12),
        truth_threshold=_TRUTH_THRESHOLD,
    )
    sums = np.maximum(curve.precision + curve.recall, 1e-9)
    f1 = 2 * curve.precision * curve.recall / sums
    best = int(np.nanargmax(np.where(np.isfinite(f1), f1, -1)))
    truth = regions.truth_regions(np.abs(target), _TRUTH_THRESHOLD, values=target)
    found = regions.detected(np.abs(output) >= curve.threshold[best], truth.labels)
    bright = truth.snr > 10
    fluxes = regions.sum_regions(output, truth.labels)
    error = fluxes[bright] / truth.flux[bright] - 1
    bias = float(np.median(error)) if len(error) else 0.0
    return {
        "f1": f1[best],
        "threshold": curve.threshold[best],
        "precision": curve.precision[best],
        "recall": curve.recall[best],
        "recall_snr10": float(found[bright].mean()) if bright.any() else float("nan"),
        "false_per_image": curve.fp[best] / len(output),
        "flux_bias": bias,
        "flux_scatter": float(mad_sigma(error, bias)) if len(error) else 0.0,
    }


def train_transinet_lite(
    out: str | os.PathLike[str],
    *,
    steps: int = 27_000,
    seed: int = 0,
    preset: str = "survey",
    batch: int = 32,
    size: int = 64,
    channels: tuple[int, int, int, int] = (32, 48, 80, 128),
    learning_rate: float = 2e-3,
    schedule: str = "trapezoid",
    warm_up: int = 500,
    decay: float = 0.7,
    average: float = 0.999,
    clip: float = 1.0,
    weight_decay: float = 1e-4,
    attention: float = 3.0,
    multi_scale: float = 0.2,
    flux: float = 0.05,
    extra: Samples | None = None,
    extra_fraction: float = 0.2,
    parameters: Mapping[str, Any] | None = None,
    initial: str | os.PathLike[str] | None = None,
    n_validation: int = 512,
    evaluate_every: int = 1000,
    checkpoint_every: int = 500,
    log_every: int = 100,
    resume: bool = True,
    threads: int | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Path:
    """Train the small network and write ``transinet-lite.onnx`` into `out`.

    Parameters
    ----------
    out : path
        Folder of the checkpoint, the log and the model. An interrupted run continues here.
    steps, batch, size
        Steps in all, pairs a step, side of the pairs in pixels (a multiple of 16).
    seed : int
        Seed of the samples and of the first weights.
    preset, parameters
        For `fastdiff.simulate.pairs`; by default with more defects than the preset has.
    channels : tuple of int
        Maps of `TransiNetLite`.
    learning_rate, schedule, warm_up, decay, average, clip, weight_decay
        Peak rate of AdamW; ``"trapezoid"``, ``"cosine"`` or ``"constant"``; steps of warm-up;
        fraction of the steps over which a trapezoid falls; decay of the averaged weights, which
        are the result; largest norm of the gradient.
    attention, multi_scale, flux
        See `transinet_lite_loss`.
    extra, extra_fraction
        See `samples`.
    initial : path, optional
        A checkpoint whose averaged weights the network starts from (fine-tuning).
    n_validation, evaluate_every
        Fixed held-out pairs, measured every so many steps (0: never): see `validation`.
    checkpoint_every, log_every, resume, progress
        See `fastdiff.training.loop.train`.
    threads : int, optional
        Threads of PyTorch.
    device : str
        PyTorch device that trains, for example ``"cuda"``.

    Returns
    -------
    pathlib.Path
        The ONNX file.
    """
    rates = _schedule(schedule, warm_up, decay)
    if size % TransiNetLite.stride or size < TransiNetLite.stride:
        raise ValueError(f"size is {size}; it must be a multiple of {TransiNetLite.stride} pixels")
    _use_threads(threads)
    parameters = _MORE_DEFECTS | dict(parameters or {})
    torch.manual_seed(seed)
    network: nn.Module = TransiNetLite(channels)
    network = network if initial is None else load_transinet_lite(initial).requires_grad_(True)
    scene, shape = {"seed": seed, "preset": preset, **parameters}, (size, size)
    network = train(
        network.to(device, memory_format=torch.channels_last),
        samples(batch, shape, extra=extra, extra_fraction=extra_fraction, threads=threads, **scene),
        transinet_lite_loss(attention, multi_scale, flux),
        steps=steps, out=out, seed=seed, learning_rate=learning_rate, schedule=rates,
        weight_decay=weight_decay, clip=clip, average=average, checkpoint_every=checkpoint_every,
        evaluate=validation(n_validation, shape, **scene) if evaluate_every else None,
        evaluate_every=evaluate_every, log_every=log_every, resume=resume, progress=progress,
    )  # fmt: skip
    recipe = (
        f"transinet-lite, channels {channels}, preset {preset}, parameters {parameters}, "
        f"seed {seed}, {steps} steps of {batch} pairs of {size} x {size}, "
        f"AdamW {learning_rate} {schedule}, attention {attention}, multi-scale {multi_scale}, "
        f"flux {flux}, extra {extra_fraction if extra is not None else 0}"
    )
    path = Path(out, "transinet-lite.onnx")
    return _export(network.cpu(), path, recipe, stride=16, matched=True)


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def _schedule(name: str, warm_up: int, decay: float) -> Schedule:
    schedules = {
        "trapezoid": trapezoid(warm_up, decay),
        "cosine": cosine(warm_up),
        "constant": constant,
    }
    if name not in schedules:
        raise ValueError(f"schedule is {name!r}; it must be one of {', '.join(schedules)}")
    return schedules[name]


def load_transinet_lite(checkpoint: str | os.PathLike[str], averaged: bool = True) -> TransiNetLite:
    """Network of a checkpoint that `train_transinet_lite` wrote, in evaluation mode."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    weights = state["averaged" if averaged else "network"]
    levels = ("stem", "down2", "down3", "down4")
    try:
        network = TransiNetLite([len(weights[f"{level}.0.weight"]) for level in levels])
        network.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"checkpoint {checkpoint} does not hold a TransiNetLite ({error}); give one that "
            "train_transinet_lite wrote"
        ) from error
    network.eval()
    return network


class InUnits(nn.Module):
    """A network that sees its input, and gives its output, in units of `unit`.

    The paper's images lie between 0 and 1; normalised pairs are in sigma.
    """

    def __init__(self, network: nn.Module, unit: float):
        super().__init__()
        self.network, self.unit = network, float(unit)

    def forward(self, pair: Tensor) -> Tensor | list[Tensor]:
        """Difference of `pair`; in training mode what the network returns."""
        output = self.network(pair * (1.0 / self.unit))
        return output if self.training else output * self.unit


def train_transinet(
    out: str | os.PathLike[str],
    *,
    steps: int = 98_000,
    seed: int = 0,
    preset: str = "paper",
    width: float = 1.0,
    batch: int = 16,
    size: int = 140,
    unit: float = 100.0,
    learning_rate: float = 3e-4,
    round_two: int = 90_000,
    extra: Samples | None = None,
    extra_fraction: float = 0.75,
    parameters: Mapping[str, Any] | None = None,
    checkpoint_every: int = 1000,
    log_every: int = 100,
    resume: bool = True,
    threads: int | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Path:
    """Train the paper's network as section 4.3 says and write ``transinet.onnx`` into `out`.

    Adam at 3e-4, 90,000 steps on 16 synthetic pairs of 140 x 140, then 8,000 in which the
    rate drops by 0.3 every 20,000; targets times K = 100; L1 at seven resolutions (eq. 4).

    Parameters
    ----------
    width : float
        Factor on the maps: 1 is the paper's network (155 million parameters).
    unit : float
        Sigmas that count as the paper's full brightness of 1.
    round_two : int
        Step at which the second round starts: the one with `extra` (real) pairs, 12 of 16.
    out, steps, seed, preset, batch, size, learning_rate, extra, extra_fraction, parameters
        As for `train_transinet_lite`.
    checkpoint_every, log_every, resume, threads, device, progress
        As for `train_transinet_lite`.

    Returns
    -------
    pathlib.Path
        The ONNX file.
    """
    _use_threads(threads)
    torch.manual_seed(seed)
    network = InUnits(TransiNet(width), unit).to(device)
    common: dict[str, Any] = {
        "seed": seed, "preset": preset, "matched": False, "threads": threads,
    }  # fmt: skip
    common |= parameters or {}
    first = samples(batch, (size, size), **common)
    second = samples(batch, (size, size), extra=extra, extra_fraction=extra_fraction, **common)

    def batches(start: int) -> Iterator[dict[str, Tensor]]:
        step, source = start, None
        while True:
            if source is None or step == round_two:
                source = (first if step < round_two else second)(step)
            yield next(source)
            step += 1

    network = train(
        network,
        batches,
        multi_scale_l1(ATTENTION / unit),
        steps=steps,
        out=out,
        seed=seed,
        learning_rate=learning_rate,
        schedule=stepped(20_000, 0.3, round_two),
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        resume=resume,
        progress=progress,
    )
    recipe = (
        f"transinet, width {width}, preset {preset}, parameters {parameters or {}}, seed {seed}, "
        f"{steps} steps of {batch} pairs of {size} x {size}, Adam {learning_rate}, "
        f"extra {extra_fraction if extra is not None else 0}"
    )
    return _export(network.cpu(), Path(out) / "transinet.onnx", recipe, stride=64)


def _export(
    network: nn.Module, path: Path, recipe: str, stride: int, matched: bool = False
) -> Path:
    metadata = {"provenance": provenance(recipe), "stride": str(stride)}
    export_onnx(network, path, metadata, matched=matched)
    return path
