"""Every row of the table of cases (tests/kernels/*/cases.py) at its largest size.

    python benchmarks/bench_kernels.py [--quick]

Seconds of the first call, which compiles or finds the compiled loop on disk, and of one in
which nothing is left to do but the work, on one thread and on two.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import common

sys.path.append(str(Path(__file__).resolve().parents[1]))

THREADS = 2


def row(number: int, quick: bool) -> dict[str, Any]:
    from tests.kernels import cases, check_kernel

    case = cases.CASES[number]
    arguments = check_kernel.arguments_of(case, case.inputs(case.sizes[1 if quick else 2]))
    first, _ = common.timed(lambda: case.kernel(*arguments.values(), threads=1))
    calls = {
        f"wall_{n}": lambda n=n: case.kernel(*arguments.values(), threads=n) for n in (1, THREADS)
    }
    walls = common.alternate(calls, 1 if quick else 7)
    return {"what": str(case), "first": first} | {k: v["wall"] for k, v in walls.items()}


def table(folder: Path, quick: bool) -> dict[str, Any]:
    from tests.kernels import cases

    return {"rows": [row(number, quick) for number in range(len(cases.CASES))]}


def report(results: common.Results) -> list[str]:
    lines = ["## Kernels", ""]
    if "error" in results["table"]:
        return lines
    columns = {
        "what": "kernel",
        "first": "first call s|.2f",
        "wall_1": "1 thread s|.5f",
        f"wall_{THREADS}": f"{THREADS} threads s|.5f",
    }
    return [*lines, *common.table(columns, results["table"]["rows"]), ""]


CASES = {"table": table}

if __name__ == "__main__":
    common.main(__doc__, CASES, report, THREADS)
