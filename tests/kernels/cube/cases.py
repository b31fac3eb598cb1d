"""Rows of the table of cases: kernels of cubes."""

import numpy as np

from fastdiff.kernels.cube import batched, bridge
from tests.kernels.check_kernel import Case
from tests.kernels.cube.reference import batched as batched_twin
from tests.kernels.cube.reference import bridge as bridge_twin


def bridge_inputs(rng, size):
    """Series with gaps at both ends, without a gap, and without a good epoch."""
    series, bad = rng.normal(size=(size + 4, 30)), rng.random((size + 4, 30)) < 0.3
    bad[0], bad[1], bad[2, :4], bad[2, 25:] = True, False, True, True
    return {"rows": np.delete(np.arange(size + 4), 3), "series": series, "bad": bad}


def lists_inputs(rng, size):
    """Lists of up to size + 2 of 2 size + 8 series, the last two of them without a penalty."""
    n, n_series = 3, 2 * size + 10
    counts = np.array([size, max(size - 3, 1), 1]) + 2
    lists = np.zeros((n, size + 2), np.int32)
    for row, count in zip(lists, counts, strict=True):
        chosen = np.sort(rng.choice(n_series - 2, count - 2, replace=False))
        row[:count] = [*chosen, n_series - 2, n_series - 1]
    return {"lists": lists, "counts": counts}, rng.normal(size=(n_series, 20))


def gather_inputs(rng, size):
    lists, series = lists_inputs(rng, size)
    return {
        "gram": series @ series.T, "targets": np.arange(3), **lists, "n_free": 2,
        "penalty": rng.uniform(0.1, 1, 3), "size": size + 5,
    }  # fmt: skip


def forward_inputs(rng, size):
    factor = np.tril(rng.uniform(-0.5, 0.5, (2, size, size))) / np.sqrt(size)
    factor += np.eye(size)
    factor[:, np.triu(np.ones((size, size), bool), 1)] = np.nan  # never read
    return {"factor": factor, "columns": rng.normal(size=(2, size, 3))}


def predict_inputs(rng, size):
    lists, series = lists_inputs(rng, size)
    return {"series": series, **lists, "coefficients": rng.normal(size=(3, size + 2)), "m": 14}


CASES = [
    Case(bridge.bridge_series, bridge_twin.bridge, bridge_inputs, (4, 40, 20_000), 1e-12),
    Case(batched.gather_systems, batched_twin.gather, gather_inputs, (5, 30, 700), 1e-12),
    Case(
        batched.solve_forward_columns, batched_twin.solve_forward, forward_inputs, (5, 40, 700),
        1e-10,
    ),
    Case(batched.predict_targets, batched_twin.predict, predict_inputs, (5, 40, 4000), 1e-10),
]  # fmt: skip
