"""Run every benchmark and write what they print to benchmarks/results/cpu.md.

    python benchmarks/report.py [--quick] [--out FILE] [NAME ...]

NAME is that of a benchmark (synth, tile, subtract, psfmatch, zogy, dmdt,
features, background, cpm); without one all are run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import common

BENCHMARKS = (
    "synth",
    "tile",
    "subtract",
    "psfmatch",
    "zogy",
    "dmdt",
    "features",
    "background",
    "cpm",
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="small sizes; nothing is written")
    parser.add_argument("--out", type=Path, help="by default benchmarks/results/cpu.md")
    arguments = parser.parse_args()
    names = arguments.names or BENCHMARKS
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")

    lines = ["# Benchmarks on the CPU", "", *common.machine(), ""]
    failed = 0
    for name in names:
        print(f"bench_{name} ...", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, common.FOLDER / f"bench_{name}.py", *["--quick"] * arguments.quick],
            capture_output=True,
            text=True,
            check=False,
        )
        failed += done.returncode != 0
        lines += [done.stdout.rstrip(), ""]
        if done.returncode and done.stderr:
            lines += [f"bench_{name} failed: {done.stderr.strip().splitlines()[-1]}", ""]
    text = "\n".join(lines)
    print(text)
    # A part of the benchmarks, or a quick run, does not replace the figures of a whole one.
    whole = not arguments.names and not arguments.quick
    path = arguments.out or (common.FOLDER / "results" / "cpu.md" if whole else None)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f"written to {path}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
