"""One training loop for every network: resumable, reproducible, logged.

The order of work is fixed by the seed and the step alone, so that a run which was
interrupted and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastdiff.core.files import whole_file

from .schedules import Schedule, constant

__all__ = ["prefetch", "train"]

_CHECKPOINT_VERSION = 1


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
    (out := Path(out)).mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    kind = torch.optim.AdamW if weight_decay else torch.optim.Adam
    optimiser = kind(network.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)
    state = _State(network, optimiser, out / "checkpoint.pt", seed=seed, average=average)
    start = state.restore() if resume and state.path.exists() else 0
    log = _Log(out / "log.jsonl", start)
    source: Iterator[Any] = iter(())
    if start < steps:
        # A CPU has no core left: samples made between the steps, on all cores, trained 190/s,
        # samples made beside the steps 140.
        source = batches(start) if state.device.type == "cpu" else prefetch(batches(start))

    def step_by(step: int, sums: _Sums) -> float:
        """One step on the next batch; its learning rate."""
        with sums.waiting():
            batch = next(source, None)
        if batch is None:
            raise ValueError(f"batches ended at step {step}; {steps} steps need as many")
        rate = learning_rate * schedule(step, steps)
        with torch.autocast(state.device.type, torch.bfloat16, enabled=bfloat16):
            output = state.forward(batch, rate)
        total, parts = loss(output, batch)
        state.update(step, total, clip)
        sums.add(len(batch["pair"]), {"loss": total, **parts})
        return rate

    every = _Every(log_every, checkpoint_every, evaluate_every if evaluate else 0)
    try:
        with _Report(steps, start, progress) as show, _Stop() as stop:
            _run(range(start, steps), step_by, state, every, evaluate, log, show, stop)
    finally:
        if hasattr(source, "close"):
            source.close()
        log.close()
    return state.averaged.eval()


class _Every(NamedTuple):
    """Steps between lines of the log, checkpoints and evaluations (0: never)."""

    log: int
    checkpoint: int
    evaluate: int


def _run(
    steps: range,
    step_by: Callable[[int, _Sums], float],
    state: _State,
    every: _Every,
    evaluate: Any,
    log: _Log,
    report: _Report,
    stop: _Stop,
) -> None:
    """The steps of a run, with what is written between them."""
    sums = _Sums()
    for step in steps:
        rate = step_by(step, sums)
        done = step + 1
        last = done == steps.stop
        report.advance()
        if last or done % every.log == 0:
            row = sums.means(rate)
            log.write({"step": done, **row})
            report.line(done, row)
            sums = _Sums()
        if last or done % every.checkpoint == 0 or stop.asked:
            state.save(done)
        if stop.asked and not last:
            report.note(f"stopped after step {done}; {state.path} continues from there")
            raise stop.asked
        if every.evaluate and (last or done % every.evaluate == 0):
            figures = state.measure(evaluate)
            log.write({"step": done, **{k: float(v) for k, v in figures.items()}})
            report.line(done, figures)


class _State:
    """A network in training: what a checkpoint holds, and one step of it."""

    def __init__(
        self,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        path: Path,
        *,
        seed: int,
        average: float,
    ):
        self.network, self.optimiser, self.path = network, optimiser, path
        self.seed, self.average = seed, average
        self.device = next(network.parameters()).device
        self.averaged = copy.deepcopy(network).requires_grad_(False) if average else network

    def forward(self, batch: Mapping[str, Any], rate: float) -> Any:
        """Output for a batch; the step that follows has this learning rate."""
        pair = batch["pair"].to(self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        return self.network(pair)

    def update(self, step: int, loss: Tensor, clip: float | None) -> None:
        """One step down the gradient, and the average after it."""
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {float(loss.detach())} at step {step}: lower the learning "
                f"rate, or look at the samples; {self.path} holds the last good state"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), clip)
        self.optimiser.step()
        if self.average:
            # Young averages forget the random start sooner.
            decay = min(self.average, (1.0 + step) / (10.0 + step))
            averaged, current = self.averaged.parameters(), self.network.parameters()
            with torch.no_grad():
                torch._foreach_lerp_(list(averaged), list(current), 1.0 - decay)

    def measure(self, evaluate: Callable[[nn.Module], Mapping[str, float]]) -> Mapping[str, float]:
        """Figures of the averaged network."""
        self.averaged.eval()
        with torch.no_grad():
            return evaluate(self.averaged)

    def save(self, step: int) -> None:
        """Write the checkpoint."""
        state = {
            "version": _CHECKPOINT_VERSION,
            "step": step,
            "seed": self.seed,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "random": torch.get_rng_state(),
        }
        with whole_file(self.path, sync=True) as file:
            torch.save(state, file)

    def restore(self) -> int:
        """Read the checkpoint; the number of steps that it has behind it."""
        try:
            state = torch.load(self.path, map_location=self.device, weights_only=True)
        except Exception as error:
            raise ValueError(
                f"out holds {self.path}, which cannot be read ({type(error).__name__}: {error}); "
                "remove it or train into another folder"
            ) from error
        try:
            if state["version"] != _CHECKPOINT_VERSION:
                raise KeyError(f"version {state['version']}")
            self.network.load_state_dict(state["network"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimiser.load_state_dict(state["optimiser"])
            torch.set_rng_state(state["random"].cpu())
            return int(state["step"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"out holds {self.path}, a checkpoint of another network or version; train into "
                f"another folder, or with resume=False to begin again there ({error})"
            ) from error


class _Sums:
    """Losses and times since the last line of the log."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._waited = 0.0
        self._n_steps = self._n_samples = 0
        self._losses: dict[str, Tensor] = {}

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time within the block as spent on samples."""
        begun = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begun

    def add(self, n_samples: int, losses: Mapping[str, Tensor]) -> None:
        """Count one step."""
        self._n_steps += 1
        self._n_samples += n_samples
        for name, value in losses.items():
            # Tensors are summed where they are: a number would wait for the device.
            self._losses[name] = self._losses.get(name, 0.0) + value.detach()

    def means(self, rate: float) -> dict[str, float]:
        """A line of the log."""
        elapsed = time.perf_counter() - self._begun
        return {
            **{name: float(value) / self._n_steps for name, value in self._losses.items()},
            "learning_rate": rate,
            "samples_per_second": self._n_samples / elapsed,
            "waited": self._waited / elapsed,
        }


class _Log:
    """Lines of JSON; those that a resumed run will write again are dropped first."""

    def __init__(self, path: Path, start: int):
        kept = []
        if start and path.exists():
            for line in path.read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    if json.loads(line).get("step", 0) <= start:
                        kept.append(line)
        with whole_file(path) as file:
            file.write("".join(line + "\n" for line in kept).encode())
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
