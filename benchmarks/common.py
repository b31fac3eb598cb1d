"""What the benchmarks share: cases in fresh processes, what they cost, and Markdown.

Each case of a benchmark is a function that returns a dict; `main` runs every one of them in a
process of its own, so that no case warms, or swells, the next. A case that fails becomes an
"error" in its row. `--quick` makes everything small: it shows that a benchmark runs.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
TIMEOUT = 900  # seconds, of one case
_MARK = "RESULT "
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)

Case = Callable[[Path, bool], dict[str, Any]]
Results = dict[str, dict[str, Any]]


def main(
    description: str,
    cases: dict[str, Case],
    report: Callable[[Results], list[str]],
    threads: int,
    peers: Collection[str] = (),
) -> None:
    """Command line of a benchmark: run `cases` in their order, print the lines of `report`.

    A case gets a folder, shared by all, and whether to be quick. The exit status is 1 if a
    case failed that is not one of the `peers`, which may be missing.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes; figures mean nothing")
    parser.add_argument("--case", choices=cases, help="run one case here and print its result")
    parser.add_argument("--folder", type=Path, help="where the inputs of --case are")
    arguments = parser.parse_args()
    if arguments.case:
        folder = arguments.folder or Path(tempfile.gettempdir())
        print(_MARK + json.dumps(cases[arguments.case](folder, arguments.quick)))
        return
    with tempfile.TemporaryDirectory(prefix="fastdiff-bench-") as folder:
        results = {name: _fresh(name, folder, arguments.quick, threads) for name in cases}
    print("\n".join(report(results)))
    failed = {name: result["error"] for name, result in results.items() if "error" in result}
    if failed:
        print("\nNot measured: " + "; ".join(f"{k}: {v}" for k, v in failed.items()) + ".")
    sys.exit(1 if failed.keys() - set(peers) else 0)


def _fresh(name: str, folder: str, quick: bool, threads: int) -> dict[str, Any]:
    """Result of one case in a new process that has `threads` threads for its libraries."""
    command = [sys.executable, sys.argv[0], "--case", name, "--folder", folder]
    environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads))
    try:
        done = subprocess.run(
            command + ["--quick"] * quick,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not finished after {TIMEOUT} s"}
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return json.loads(line.removeprefix(_MARK))
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}, without a word"]
    return {"error": lines[-1]}


# ------------------------------------------------------------------------ what a call costs


def measure(call: Callable[[], Any], repeats: int = 3) -> tuple[dict[str, float], Any]:
    """Cost of ``call()`` and its last result.

    first_wall and first_cpu are of the first call, which imports and compiles or loads what it
    needs; peak_mb is its peak memory above that of the process before it, so that inputs do
    not count but libraries do. wall and cpu are medians of `repeats` calls after it.
    CPU seconds are those of all threads.
    """
    before = _reset_peak()
    times, result = [timed(call)], None
    peak = _peak() - before
    for _ in range(repeats):
        result = None  # what was made before is not held while it is made again
        wall, cpu, result = timed(call, keep=True)
        times.append((wall, cpu))
    (first_wall, first_cpu), *warm = times
    return {
        "first_wall": first_wall,
        "first_cpu": first_cpu,
        "wall": statistics.median(wall for wall, _ in warm),
        "cpu": statistics.median(cpu for _, cpu in warm),
        "peak_mb": peak / 1e6,
    }, result


def alternate(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Median wall and cpu seconds of calls that take turns, after one turn that does not count.

    On a machine whose speed changes from second to second their ratios hold all the same.
    """
    for call in calls.values():
        call()
    turns = [{name: timed(call) for name, call in calls.items()} for _ in range(repeats)]
    return {
        name: {
            "wall": statistics.median(turn[name][0] for turn in turns),
            "cpu": statistics.median(turn[name][1] for turn in turns),
        }
        for name in calls
    }


def timed(call: Callable[[], Any], keep: bool = False) -> tuple[Any, ...]:
    """(wall seconds, CPU seconds) of ``call()``, and its result with `keep`."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    seconds = time.perf_counter() - wall, time.process_time() - cpu
    return (*seconds, result) if keep else seconds


def _status(key: str) -> int | None:
    """A line of /proc/self/status in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def _reset_peak() -> int:
    """Bytes in memory now; the peak starts anew from there where the system can do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak()
    return _status("VmRSS") or _peak()


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# ------------------------------------------------------------------------ the machine


def copy_bandwidth(threads: int) -> float:
    """Bytes a second, read and written, of copies of 128 MB by `threads` threads."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    source = np.ones(2**25, np.float32)
    target = np.zeros_like(source)
    pairs = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:

        def copy() -> None:
            list(pool.map(lambda pair: np.copyto(*pair), pairs))

        return 2 * source.nbytes / min(timed(copy)[0] for _ in range(7))


def arithmetic() -> float:
    """float32 operations a second of one thread: the library's matrix product (2 n^3)."""
    import numpy as np

    n = 1024
    matrix = np.ones((n, n), np.float32)
    return 2 * n**3 / min(timed(lambda: matrix @ matrix)[1] for _ in range(7))


def machine() -> list[str]:
    """Lines that say where and when figures were measured."""
    packages = (
        "fastdiff-astro",
        "numpy",
        "scipy",
        "numba",
        "onnxruntime",
        "sfft",
        "galsim",
        "light-curve",
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return [
        f"- {when}, commit {_commit()}",
        f"- {_cpu_model()}, cores for this process: {cores}, load {load} before the start",
        f"- {platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {_version(name)}" for name in packages),
    ]


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=FOLDER, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "..")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


# ------------------------------------------------------------------------ Markdown


def table(columns: dict[str, str], rows: list[dict[str, Any]]) -> list[str]:
    """A Markdown table; `columns` maps the key of a row to its title and format, "title|.2f".

    A row that holds "error" says so across its cells; what a row lacks is left blank.
    """
    titles = [text.partition("|")[0] for text in columns.values()]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in rows:
        cells = []
        for key, text in columns.items():
            value, form = row.get(key, ""), text.partition("|")[2]
            cells.append(str(value) if isinstance(value, str) else format(value, form))
        if "error" in row:
            cells[-1] = "not measured: " + row["error"].replace("|", "/")
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]
