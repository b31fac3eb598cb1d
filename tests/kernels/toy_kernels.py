"""Kernels that are declared in every way, for tests of the declaration itself."""

import numpy as np

from fastdiff.kernels.declare import kernel
from fastdiff.kernels.jit import cuda
from tests.kernels.check_kernel import Case

TERMS = 3
MANY = 500


@kernel(
    over="n, ny, nx",
    image="float32|float64 (n, ny, nx)",
    gain="float64",
    out="out float32 (n, ny, nx)",
)
def scaled(frame, y, first, last, image, gain, out):
    """Three axes and two dtypes."""
    for x in range(first, last):
        out[frame, y, x] = gain * image[frame, y, x] + y


@kernel(over="n", x="float64 (n)", out="out float64 (n)")
def squared(first, last, x, out):
    """One axis: the range is that of the thread."""
    for i in range(first, last):
        out[i] = x[i] * x[i]


@kernel(
    over="n",
    curves="float64 (n, m)",
    total="out float64 (n)",
    most="out int64 (n)",
    scratch={"sums": "float64 (TERMS)", "many": "float64 (MANY)", "copy": "curves (m)"},
)
def summed(curve, curves, total, most, sums, many, copy):
    """An item without a range; scratch of a thread's own and of the launch's."""
    for k in range(TERMS):
        sums[k] = 0.0
    for k in range(MANY):
        many[k] = 0.0
    for i in range(curves.shape[1]):
        copy[i] = curves[curve, i]
        sums[i % TERMS] += copy[i]
        many[i % MANY] += 1.0
    total[curve] = sums[0] + sums[1] + sums[2]
    most[curve] = int(many[0])


@kernel(
    over="n_rows, nx - 2",
    image="inout float32 (ny, nx)",
    n_rows="int64",
    scratch={"row": "float32 (nx - 2)"},
)
def smoothed(y, first, last, image, n_rows, row):
    """Scratch along the row, of which a thread has its place; expressions as lengths."""
    for x in range(first, last):
        row[x] = image[y, x] + image[y, x + 2]
    for x in range(first, last):
        image[y, x + 1] = image[y, x + 1] + np.float32(0) * row[x]


@kernel(
    over="n",
    grid=("2 * n", 4),
    curves="float64 (n, m)",
    total="inout float64 (n)",
)
class added:
    """Two blocks a curve that add up in shared memory."""

    def cpu(start, stop, curves, total):
        """Item: one curve."""
        for curve in range(start, stop):
            for i in range(curves.shape[1]):
                total[curve] += curves[curve, i]

    def cuda(curves, total):
        """Blocks 2 curve and 2 curve + 1: a half of a curve each."""
        shared = cuda.shared.array(4, np.float64)
        thread, curve, half = (
            cuda.threadIdx.x,
            cuda.blockIdx.x // 2,
            cuda.blockIdx.x % 2,
        )
        shared[thread] = 0.0
        for i in range(4 * half + thread, curves.shape[1], 8):
            shared[thread] += curves[curve, i]
        cuda.syncthreads()
        if thread == 0:
            for k in range(4):
                cuda.atomic.add(total, curve, shared[k])


def images(rng, size):
    return {"image": rng.normal(size=(2, size, size + 3)), "gain": 2}


CASES = [
    Case(
        scaled,
        lambda image, gain: gain * image + np.arange(image.shape[1])[:, None],
        images,
        (3, 20, 500),
        tolerance=1e-6,
    ),
    Case(squared, lambda x: x**2, lambda rng, n: {"x": rng.normal(size=n)}, (5, 99, 9999)),
    Case(
        summed,
        lambda curves: (curves.sum(1), np.full(len(curves), -(-curves.shape[1] // MANY))),
        lambda rng, n: {"curves": rng.normal(size=(n, 12))},
        (3, 40, 900),
    ),
    Case(
        smoothed,
        lambda image, n_rows: image,
        lambda rng, n: {"image": rng.normal(size=(n, n)).astype(np.float32), "n_rows": n},
        (5, 20, 500),
        tolerance=0,
    ),
    Case(
        added,
        lambda curves, total: total + curves.sum(1),
        lambda rng, n: {"curves": rng.normal(size=(n, 21)), "total": rng.normal(size=n)},
        (3, 40, 900),
    ),
]
