"""One training loop for every network: resumable, reproducible, logged.

The order of work is fixed by the seed and the step alone, so that a run which was
interrupted and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Schedule", "constant", "cosine", "prefetch", "stepped", "train", "trapezoid"]

Schedule = Callable[[int, int], float]
"""Factor on the learning rate, from the step and the number of steps."""

_CHECKPOINT_VERSION = 1


def constant(step: int, steps: int) -> float:
    """No change of the learning rate."""
    return 1.0


def cosine(warm_up: int = 500, floor: float = 0.01) -> Schedule:
    """Linear warm-up over `warm_up` steps, then half a cosine down to `floor`."""

    def factor(step: int, steps: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        done = (step - warm_up) / max(1, steps - warm_up)
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

    return factor


def trapezoid(warm_up: int = 500, decay: float = 0.3, floor: float = 0.01) -> Schedule:
    """Warm-up, a plateau, and a linear fall to `floor` over the last fraction `decay`.

    A run on the plateau may be continued with more steps without loss; a cosine may not.
    """

    def factor(step: int, steps: int) -> float:
        left = (steps - step) / max(1.0, decay * steps)
        return min((step + 1) / max(1, warm_up), 1.0, floor + (1.0 - floor) * left)

    return factor


def stepped(every: int, factor: float, start: int = 0) -> Schedule:
    """Multiply by `factor` at `start` + every, `start` + 2 every, ... steps."""

    def at(step: int, steps: int) -> float:
        return factor ** max(0, (step - start) // every)

    return at


def prefetch(items: Iterator[Any], depth: int = 4) -> Iterator[Any]:
    """Yield `items` in order, made by one background thread, at most `depth` ahead.

    An error in the thread is raised here. Closing the generator ends the thread.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    closed = threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not closed.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=produce, name="fastdiff-samples", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        closed.set()
        thread.join()


def train(
    network: nn.Module,
    batches: Callable[[int], Iterator[Any]],
    loss: Callable[[Any, Any], tuple[Tensor, Mapping[str, Tensor]]],
    *,
    steps: int,
    out: str | os.PathLike[str],
    seed: int = 0,
    learning_rate: float = 1e-3,
    schedule: Schedule = constant,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    clip: float | None = None,
    average: float = 0.0,
    checkpoint_every: int = 500,
    resume: bool = True,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    evaluate_every: int = 0,
    log_every: int = 50,
    bfloat16: bool = False,
    progress: bool = True,
) -> nn.Module:
    """Train `network` with Adam (AdamW if `weight_decay`) and return what should be used.

    Parameters
    ----------
    network : torch.nn.Module
        Trained in place; called with ``batch["pair"]``.
    batches : callable
        ``batches(start)`` returns an iterator over the batches of steps start, start + 1,
        ...: mappings with a ``"pair"`` tensor. Unless the network is on a CPU it runs in a
        background thread.
    loss : callable
        ``loss(network output, batch)`` returns the scalar to minimise and named parts to log.
    steps : int
        Number of steps in all, those before a resumption included.
    out : path
        Folder for ``checkpoint.pt`` and ``log.jsonl``; made when missing.
    seed : int
        Seed of PyTorch's generator, which the network itself may use.
    learning_rate, schedule
        Peak rate, and the factor on it as a function of (step, steps).
    clip : float, optional
        Largest norm of the gradient.
    average : float
        Decay of the exponential moving average of the weights; 0 for none.
    checkpoint_every : int
        Steps between checkpoints, which are written aside and renamed. A checkpoint is also
        written at the end, and on Ctrl-C or SIGTERM once the step at hand is complete.
    resume : bool
        Continue from ``out/checkpoint.pt`` if there is one.
    evaluate : callable, optional
        Called with the averaged network in evaluation mode every `evaluate_every` steps and
        at the end; what it returns is logged.
    log_every : int
        Steps between lines of the log.
    bfloat16 : bool
        Compute convolutions in bfloat16 (weights stay float32).
    progress : bool
        Show a bar on a terminal, or print every logged line otherwise.

    Returns
    -------
    torch.nn.Module
        The averaged network if `average`, else `network`, in evaluation mode.

    Raises
    ------
    ValueError
        `steps` is not positive, or the checkpoint belongs to another network.
    FloatingPointError
        The loss is not finite.
    KeyboardInterrupt
        After Ctrl-C, once the checkpoint is written.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; at least one step is needed")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    device = next(network.parameters()).device
    torch.manual_seed(seed)
    kind = torch.optim.AdamW if weight_decay else torch.optim.Adam
    optimiser = kind(network.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)
    averaged = copy.deepcopy(network).requires_grad_(False) if average else network

    checkpoint = out / "checkpoint.pt"
    start = 0
    if resume and checkpoint.exists():
        start = _restore(checkpoint, network, averaged, optimiser, device)
    log = _Log(out / "log.jsonl", start)

    def save(step: int) -> None:
        state = {
            "version": _CHECKPOINT_VERSION,
            "step": step,
            "seed": seed,
            "network": network.state_dict(),
            "averaged": averaged.state_dict(),
            "optimiser": optimiser.state_dict(),
            "random": torch.get_rng_state(),
        }
        aside = checkpoint.with_name(f"checkpoint.{os.getpid()}.tmp")
        try:
            with aside.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, checkpoint)
        finally:
            aside.unlink(missing_ok=True)

    def measure(step: int) -> None:
        if evaluate is None:
            return
        averaged.eval()
        with torch.no_grad():
            figures = evaluate(averaged)
        log.write({"step": step, **{k: float(v) for k, v in figures.items()}})
        report.line(step, figures)

    source: Iterator[Any] = iter(())
    if start < steps:
        # A CPU has no core left for a second thread: making samples between the steps, on all
        # cores, trained 190 samples/s where making them beside the steps trained 140.
        source = batches(start) if device.type == "cpu" else prefetch(batches(start))
    sums: dict[str, Tensor] = {}
    count, waited, begun = 0, 0.0, time.perf_counter()
    n_samples = 0
    with _Report(steps, start, progress) as report, _Stop() as stop:
        try:
            for step in range(start, steps):
                asked = time.perf_counter()
                batch = next(source, None)
                if batch is None:
                    raise ValueError(f"batches ended at step {step}; {steps} steps need as many")
                waited += time.perf_counter() - asked
                pair = batch["pair"].to(device)
                rate = learning_rate * schedule(step, steps)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                network.train()
                with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                    output = network(pair)
                total, parts = loss(output, batch)
                if not torch.isfinite(total):
                    raise FloatingPointError(
                        f"the loss is {float(total.detach())} at step {step}: lower the learning "
                        f"rate, or look at the samples; {checkpoint} holds the last good state"
                    )
                optimiser.zero_grad(set_to_none=True)
                total.backward()
                if clip is not None:
                    nn.utils.clip_grad_norm_(network.parameters(), clip)
                optimiser.step()
                if average:
                    # Young averages forget the random start sooner.
                    decay = min(average, (1.0 + step) / (10.0 + step))
                    with torch.no_grad():
                        torch._foreach_lerp_(
                            list(averaged.parameters()), list(network.parameters()), 1.0 - decay
                        )
                done = step + 1
                n_samples += len(pair)
                count += 1
                for name, value in {"loss": total, **parts}.items():
                    sums[name] = sums.get(name, 0.0) + value.detach()
                report.advance()
                if done % log_every == 0 or done == steps:
                    elapsed = time.perf_counter() - begun
                    row = {name: float(value) / count for name, value in sums.items()}
                    row |= {
                        "learning_rate": rate,
                        "samples_per_second": n_samples / elapsed,
                        "waited": waited / elapsed,
                    }
                    log.write({"step": done, **row})
                    report.line(done, row)
                    sums, count, waited, n_samples = {}, 0, 0.0, 0
                    begun = time.perf_counter()
                if done % checkpoint_every == 0 or done == steps or stop.asked:
                    save(done)
                if stop.asked and done < steps:
                    report.note(f"stopped after step {done}; {checkpoint} continues from there")
                    raise stop.asked
                if evaluate_every and (done % evaluate_every == 0 or done == steps):
                    measure(done)
        finally:
            if hasattr(source, "close"):
                source.close()
            log.close()
    return averaged.eval()


def _restore(
    path: Path,
    network: nn.Module,
    averaged: nn.Module,
    optimiser: torch.optim.Optimizer,
    device: torch.device,
) -> int:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise ValueError(
            f"out holds {path}, which cannot be read ({type(error).__name__}: {error}); "
            "remove it or train into another folder"
        ) from error
    try:
        if state["version"] != _CHECKPOINT_VERSION:
            raise KeyError(f"version {state['version']}")
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"].cpu())
        return int(state["step"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"out holds {path}, a checkpoint of another network or version; train into another "
            f"folder, or with resume=False to begin again there ({error})"
        ) from error


class _Log:
    """Lines of JSON; those that a resumed run will write again are dropped first."""

    def __init__(self, path: Path, start: int):
        kept = []
        if start and path.exists():
            for line in path.read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    if json.loads(line).get("step", 0) <= start:
                        kept.append(line)
        aside = path.with_name(path.name + ".tmp")
        aside.write_text("".join(line + "\n" for line in kept))
        os.replace(aside, path)
        self._file = path.open("a")

    def write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _Stop:
    """Turn the first Ctrl-C or SIGTERM into a request, so that a step is never cut in two."""

    def __init__(self) -> None:
        self.asked: BaseException | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        # Signals reach the main thread only; elsewhere the caller has to deal with them.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def __exit__(self, *_: object) -> None:
        self._put_back()


class _Report:
    """A bar on a terminal; elsewhere a printed line for every line of the log."""

    def __init__(self, steps: int, start: int, show: bool):
        self._bar = None
        self._show = show
        if show and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("training", total=steps, completed=start, figures="")

    def __enter__(self) -> _Report:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self) -> None:
        if self._bar:
            self._bar.advance(self._task)

    def line(self, step: int, figures: Mapping[str, float]) -> None:
        text = " ".join(f"{name}={float(value):.4g}" for name, value in figures.items())
        if self._bar:
            self._bar.update(self._task, figures=text[:80])
        elif self._show:
            print(f"step {step}: {text}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        if self._show:
            print(text, file=sys.stderr, flush=True)
