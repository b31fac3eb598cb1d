"""What this installation is and whether it works: the command ``fastdiff doctor``."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape

from fastdiff import core

from .shared import app, example, out

BASE = ("numpy", "scipy", "numba", "astropy", "onnxruntime")
OPTIONAL = {
    "reproject": "align",
    "matplotlib": "plot",
    "torch": "train",
    "numba-cuda": "cuda13 or cuda12",
    "cupy-cuda13x": "cuda13",
    "cupy-cuda12x": "cuda12",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx",
}


@app.command(epilog=example("fastdiff doctor"))
def doctor() -> None:
    """Print versions, devices, back ends, models and compile times; exit 1 if one is broken."""
    if not examine(out):
        raise typer.Exit(1)


def examine(console: Console) -> bool:
    """Print versions, devices, back ends, models and kernels; True if all of it works.

    Subtracts one small simulated pair, so that the kernels are compiled (or come from the
    cache) and the shipped network runs.
    """
    results = []
    for title, section in (
        ("versions", _versions),
        ("devices", _devices),
        ("back ends", _backends),
        ("models", _models),
        ("first call", _first_call),
        ("kernels", _kernels),
    ):
        console.print(f"[bold]{title}[/bold]")
        try:
            results.append(section(lambda text: console.print(f"  {escape(text)}")))
        except Exception as error:  # the doctor reports whatever is broken
            reason = " ".join(str(error).split())
            console.print(f"  [red]broken[/red]: {type(error).__name__}: {escape(reason)}")
            results.append(False)
    return all(results)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _versions(say: Callable[[str], None]) -> bool:
    say(f"{'fastdiff':<14}{_version('fastdiff-astro')} in {Path(core.__file__).parents[1]}")
    say(f"{'python':<14}{platform.python_version()} {sys.executable}")
    for name in BASE:
        say(f"{name:<14}{_version(name) or 'missing'}")
    absent = []
    for name, extra in OPTIONAL.items():
        version = _version(name)
        if version:
            say(f"{name:<14}{version}")
        else:
            absent.append(f"{name} [{extra}]")
    if absent:
        say("not installed: " + ", ".join(absent))
    return all(map(_version, BASE))


def _devices(say: Callable[[str], None]) -> bool:
    from fastdiff.kernels import jit

    say(f"CPU   {_processor()}, {jit.cpu_count()} cores for this process, {platform.platform()}")
    if jit.cuda_available():
        device = jit.cuda.get_current_device()
        name = device.name.decode() if isinstance(device.name, bytes) else device.name
        major, minor = device.compute_capability
        say(f"CUDA  {name}, compute capability {major}.{minor}")
    elif shutil.which("nvidia-smi"):
        listing = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False
        )
        say(f"CUDA  {listing.stdout.strip() or 'no device'}; Numba cannot use it "
            "(install fastdiff-astro[cuda13] or [cuda12])")  # fmt: skip
    else:
        say("CUDA  no device")
    return True


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _backends(say: Callable[[str], None]) -> bool:
    from fastdiff.models import model

    works = False
    for name in model.BACKENDS:
        reason = model.unavailable(name)
        works |= reason is None
        say(f"{name:<18}{'ready' if reason is None else 'no: ' + reason}")
    return works


def _models(say: Callable[[str], None]) -> bool:
    from fastdiff.models import list_models, load_model
    from fastdiff.models.model import WEIGHTS

    names = list_models()
    if not names:
        say(f"none in {WEIGHTS}")
        return False
    works = True
    for name in names:
        path = WEIGHTS / f"{name}.onnx"
        try:
            backend = load_model(name).backend
        except Exception as error:
            works, backend = False, f"broken: {error}"
        say(f"{name:<18}{path.stat().st_size / 1e6:.1f} MB  {backend}  {_card(name)}")
    return works


def _card(name: str) -> str:
    """First sentence of a model's card: its first line that is no heading."""
    from fastdiff.models.model import WEIGHTS

    card = WEIGHTS / f"{name}.md"
    if not card.is_file():
        return "(no card)"
    for line in card.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text and not text.startswith(("#", "|", "-", ">")):
            return text if len(text) <= 100 else text[:97] + "..."
    return "(empty card)"


def _first_call(say: Callable[[str], None]) -> bool:
    from fastdiff.difference.api import subtract_batch
    from fastdiff.simulate import pairs

    begun = time.perf_counter()
    pair = pairs(1, (128, 128), seed=1)
    simulated = time.perf_counter()
    difference = subtract_batch(pair.ref, pair.sci)
    first = time.perf_counter()
    subtract_batch(pair.ref, pair.sci)
    again = time.perf_counter()
    say(f"simulate a 128 x 128 pair  {simulated - begun:.2f} s")
    say(f"subtract it, first time    {first - simulated:.2f} s")
    say(f"subtract it again          {again - first:.3f} s")
    good = np.isfinite(np.asarray(difference)).mean()
    say(f"{good:.0%} of the pixels have a difference")
    return bool(good > 0.5)


def _kernels(say: Callable[[str], None]) -> bool:
    from fastdiff.kernels import jit

    seconds: dict[str, Any] = jit.compile_seconds()
    folder = os.environ.get("NUMBA_CACHE_DIR") or str(jit.numba.config.CACHE_DIR)
    say(f"cache  {folder}")
    for name, spent in seconds.items():
        say(f"{name:<28}" + (f"compiled in {spent:.1f} s" if spent else "from the cache"))
    total = sum(seconds.values())
    say(f"{total:.1f} s of compiling; the next process finds it in the cache" if total else
        "nothing had to be compiled")  # fmt: skip
    return True
