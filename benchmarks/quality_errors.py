"""Do fluxes and their errors mean what they say? Known sources in frames of many kinds.

    python benchmarks/quality_errors.py [--pairs 8] [--seed 100] [--picture docs/errors.png]

Prints a table, a line a kind and method: found of the sources that are bright, false candidates a
pair, median of measured over true flux, mean and width of the pulls (measured - true) / error.
The frames are those of tests/difference/known_sources.py, with other seeds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))
from tests.difference import known_sources

METHODS = ("transinet", "psf-match", "zogy")


def main() -> None:
    """Print the table, and draw the pulls."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--picture")
    args = parser.parse_args()
    pulls: dict[str, list] = {method: [] for method in METHODS}
    print("| kind | method | found | false a pair | flux | pull | width |")
    print("|---|---|---|---|---|---|---|")
    for kind in (*known_sources.KINDS, *known_sources.SEEING):
        for method in METHODS:
            pairs = [known_sources.build(kind, args.seed + i) for i in range(args.pairs)]
            got = known_sources.judge(method, pairs)
            pulls[method].append(got.pulls)
            print(
                f"| {kind} | {method} | {got.n_bright_found} of {got.n_bright} | "
                f"{got.n_false / args.pairs:.2f} | {np.median(got.ratios):.3f} | "
                f"{np.mean(got.pulls):+.2f} | {got.width:.2f} |",
                flush=True,
            )
    if args.picture:
        draw({method: np.concatenate(values) for method, values in pulls.items()}, args.picture)


def draw(pulls: dict[str, np.ndarray], path: str) -> None:
    """Histograms of the pulls beside the Gaussian that they should have."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.8), layout="constrained")
    edges = np.arange(-4, 4.01, 0.25)
    grid = np.linspace(-4, 4, 200)
    for axes, (method, values) in zip(
        figure.subplots(1, 3, sharey=True), pulls.items(), strict=True
    ):
        axes.hist(np.clip(values, -4, 4), edges, density=True, color="0.75")
        axes.plot(grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), "k")
        axes.set(title=f"{method}, {len(values)} sources", xlabel="(measured - true) / error")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
