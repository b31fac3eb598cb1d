"""Rows of `gaussians` and `match` in the table of cases: the steps of a GPU."""

import numpy as np

from fastdiff.kernels.image import gaussians, match
from tests.kernels.check_kernel import Case
from tests.kernels.image.reference import gaussians as gaussians_twin
from tests.kernels.image.reference import match as match_twin

SIZES = (9, 30, 256)
N = 4  # images: two pairs


def floats(rng, *shape, mean=0.0):
    return rng.normal(mean, 1, (N, *shape)).astype(np.float32)


def halves(size):
    return (size + 1) // 2


def pad_inputs(rng, size):
    rows, columns = (n + gaussians.BEFORE + gaussians.AFTER for n in (size, size + 3))
    return {"images": floats(rng, size, size + 3), "rows": rows, "columns": columns,
            "half_columns": halves(size + 3) + gaussians.BEFORE}  # fmt: skip


def rows_inputs(rng, size):
    padded, split = gaussians_twin.pad(
        floats(rng, size, size + 3), halves(size + 3) + gaussians.BEFORE
    )
    return {"padded": padded, "split": split, "nx": size + 3, "n_x": halves(size + 3)}


def columns_inputs(rng, size):
    rows = size + gaussians.BEFORE + gaussians.AFTER
    nx = size + 3
    return {
        "images": floats(rng, size, nx), "narrow": floats(rng, 5, rows, nx),
        "wide": floats(rng, 4, rows, halves(nx)), "basis": floats(rng, match.N_BASIS, size, nx),
        "n_y": halves(size),
    }  # fmt: skip


def enlarge_inputs(rng, size):
    nx = size + 3
    return {
        "images": floats(rng, size, nx), "half": floats(rng, 6, halves(size), halves(nx)),
        "basis": floats(rng, match.N_BASIS, size, nx),
    }  # fmt: skip


def weigh_inputs(rng, size):
    images = floats(rng, size, size + 3) * 20
    return {"images": images, "basis": floats(rng, match.N_BASIS, size, size + 3)}


def products_inputs(rng, size):
    planes = (size, size + 3)
    return {
        "basis": floats(rng, match.N_BASIS, *planes, mean=1.0),
        "missing": floats(rng, *planes), "weight": rng.random((N, *planes)).astype(np.float32),
        "normal": rng.normal(size=(N, match.N_BASIS, match.N_BASIS)),
    }  # fmt: skip


def solve_inputs(rng, size):
    design = rng.normal(size=(size, match.N_BASIS, 40))
    return {"normal": design @ design.transpose(0, 2, 1), "right": design.sum(2)}


def leave_inputs(rng, size):
    planes = (size, size + 3)
    return {
        "basis": floats(rng, match.N_BASIS, *planes),
        "solution": rng.normal(size=(N, match.N_BASIS)), "missing": floats(rng, *planes),
        "weight": rng.random((N, *planes)).astype(np.float32),
    }  # fmt: skip


def without(twin, *names):
    """A twin that does not want some of the inputs."""
    return lambda **inputs: twin(**{k: v for k, v in inputs.items() if k not in names})


CASES = [
    Case(gaussians.pad, without(gaussians_twin.pad, "rows", "columns"), pad_inputs, SIZES, 0),
    Case(gaussians.filter_rows, gaussians_twin.filter_rows, rows_inputs, SIZES),
    Case(gaussians.filter_columns, gaussians_twin.filter_columns, columns_inputs, SIZES),
    Case(gaussians.enlarge_wide, gaussians_twin.enlarge_wide, enlarge_inputs, SIZES),
    Case(match.weigh, match_twin.weigh, weigh_inputs, SIZES),
    Case(match.sum_products, match_twin.sum_products, products_inputs, SIZES),
    Case(match.solve_each, match_twin.solve_each, solve_inputs, (3, 20, 500)),
    Case(match.leave, match_twin.leave, leave_inputs, SIZES),
]
