"""Robust PCA of as many images as a survey's training set has, beside a convex method.

    python benchmarks/bench_background.py [--quick]

Images of 23 x 24 pixels, of rank 5 with gross errors at a tenth of the pixels, so that the right
split is known; one thread. The convex method is principal component pursuit by augmented Lagrange
multipliers (Lin et al. 2010), with a full singular value decomposition in each step, in NumPy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
import numpy as np

SEED = 20_261_121
RANK = 5
PIXELS = 23 * 24


def _images(n: int) -> tuple[np.ndarray, np.ndarray]:
    """(images, their low-rank part)."""
    rng = np.random.default_rng(SEED)
    low_rank = rng.normal(size=(n, RANK)) @ rng.normal(size=(RANK, PIXELS))
    errors = rng.uniform(-10, 10, (n, PIXELS))
    return low_rank + np.where(rng.random((n, PIXELS)) < 0.1, errors, 0), low_rank


def _row(n: int, cost: dict[str, float], low_rank: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    error = np.linalg.norm(low_rank - truth) / np.linalg.norm(truth)
    return {"n": n, "wall": cost["wall"], "cpu": cost["cpu"], "off": float(error)}


def ours(folder: Path, quick: bool, n: int = 5000) -> dict[str, Any]:
    from fastdiff.lightcurves.robust_pca import robust_pca

    n = 100 if quick else n
    images, truth = _images(n)
    cost, made = common.measure(lambda: robust_pca(images, RANK, tolerance=1e-5), 1 if quick else 3)
    return _row(n, cost, made.low_rank, truth) | {"iterations": made.n_iterations}


def ours_small(folder: Path, quick: bool) -> dict[str, Any]:
    return ours(folder, quick, 1000)


def convex(folder: Path, quick: bool) -> dict[str, Any]:
    n = 100 if quick else 1000
    images, truth = _images(n)
    weight = 1 / np.sqrt(max(images.shape))

    def solve() -> tuple[np.ndarray, int]:
        norm = np.linalg.norm(images, 2)
        dual = images / max(norm, np.abs(images).max() / weight)
        sparse, mu = np.zeros_like(images), 1.25 / norm
        steps, gap = 0, images
        while np.linalg.norm(gap) > 1e-5 * np.linalg.norm(images):
            u, s, v = np.linalg.svd(images - sparse + dual / mu, full_matrices=False)
            low_rank = (u * np.maximum(s - 1 / mu, 0)) @ v
            left = images - low_rank + dual / mu
            sparse = np.sign(left) * np.maximum(np.abs(left) - weight / mu, 0)
            gap = images - low_rank - sparse
            dual, mu, steps = dual + mu * gap, mu * 1.5, steps + 1
        return low_rank, steps

    cost, (low_rank, steps) = common.measure(solve, 1)
    return _row(n, cost, low_rank, truth) | {"iterations": steps}


def report(results: common.Results) -> list[str]:
    names = {
        "ours": "`robust_pca`",
        "ours_small": "`robust_pca`",
        "convex": "principal component pursuit, NumPy",
    }
    rows = []
    for key, name in names.items():
        rows.append({"what": name} | results[key])
    columns = {
        "what": "",
        "n": "images|d",
        "iterations": "steps|d",
        "wall": "wall s|.2f",
        "cpu": "CPU s|.2f",
        "off": "error of the background|.1e",
    }
    return [f"## Robust PCA of images of {PIXELS} pixels", "", *common.table(columns, rows)]


CASES = {"ours": ours, "ours_small": ours_small, "convex": convex}

if __name__ == "__main__":
    common.main(__doc__, CASES, report, 1)
