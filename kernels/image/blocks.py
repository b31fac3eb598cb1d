"""Photometric scale of frames, from sums over blocks of their pixels.

In blocks of 4 x 4 pixels the pixels that are good in both images are summed, above the sky of the
tile with the nearest centre; `photometry` smooths these sums and fits the scale to them.

Shapes: blocks (n, 3, n_y, n_x) float32 (sum ref, sum sci, good pixels); tile_of (n_y, n_x). Cost:
each pixel is read once.
"""

from __future__ import annotations

import numpy as np

from .. import jit
from ..declare import kernel
from ..jit import cuda
from .measure import SIGMA_REF, SIGMA_SCI, SKY_REF, SKY_SCI
from .photometry import BLOCK, measure_scale
from .pixels import Pixels, is_bad, row_index

f32 = np.float32

THREADS = 128
"""Of a block of a GPU, which takes a block of pixels each."""

_AT_A_TIME = 2**20  # blocks


# ---------------------------------------------------------------- items


@jit.item
def good_pair(ref, sci, ref_bad, sci_bad, sky_r, sky_s):
    """What a pixel adds to the sums of its block: nothing unless it is good in both images."""
    bad = ref_bad | sci_bad
    return (
        f32(0) if bad else f32(ref - sky_r),
        f32(0) if bad else f32(sci - sky_s),
        f32(0) if bad else f32(1),
    )


# ---------------------------------------------------------------- kernels


@kernel(
    over="n, n_y",
    grid=("n * n_y * n_x // THREADS + 1", THREADS),
    refs="float32|float64 (n_refs, ny, nx)",
    scis="float32|float64 (n, ny, nx)",
    bad_refs="bool (n_bad_refs, bad_ref_rows, nx)",
    bad_scis="bool (n_bad_scis, bad_sci_rows, nx)",
    stats="float64 (n, n_tiles, 4)",
    tile_of="int64 (n_y, n_x)",
    blocks="out float32 (n, 3, n_y, n_x)",
)
class sums:
    """Sums over blocks: by row of blocks on the CPU, where columns of pixels vectorise."""

    def cpu(start, stop, refs, scis, bad_refs, bad_scis, stats, tile_of, blocks):
        """Item: one row of blocks of one frame; down the columns first, then across."""
        n_y, n_x = blocks.shape[2], blocks.shape[3]
        width = n_x * BLOCK
        sky_r, sky_s = np.empty(width, refs.dtype), np.empty(width, scis.dtype)
        columns = np.empty((3, width), np.float32)
        column_r, column_s, column_n = columns[0], columns[1], columns[2]
        for item in range(start, stop):
            frame = item // n_y
            by = item % n_y
            for bx in range(n_x):
                tile = tile_of[by, bx]
                for x in range(bx * BLOCK, (bx + 1) * BLOCK):
                    sky_r[x] = stats[frame, tile, SKY_REF]
                    sky_s[x] = stats[frame, tile, SKY_SCI]
            columns[:] = 0.0
            for y in range(by * BLOCK, (by + 1) * BLOCK):
                row_r = refs[row_index(refs, frame, y)]
                row_s = scis[row_index(scis, frame, y)]
                mask_r = bad_refs[row_index(bad_refs, frame, y)]
                mask_s = bad_scis[row_index(bad_scis, frame, y)]
                for x in range(width):
                    ref, sci = row_r[x], row_s[x]
                    add_r, add_s, add_n = good_pair(
                        ref, sci, is_bad(ref, mask_r[x]), is_bad(sci, mask_s[x]), sky_r[x], sky_s[x]
                    )
                    column_r[x] += add_r
                    column_s[x] += add_s
                    column_n[x] += add_n
            for bx in range(n_x):
                for k in range(3):
                    total = np.float32(0.0)
                    for x in range(bx * BLOCK, (bx + 1) * BLOCK):
                        total += columns[k, x]
                    blocks[frame, k, by, bx] = total

    def cuda(refs, scis, bad_refs, bad_scis, stats, tile_of, blocks):
        """Thread: one block of one frame, summed in the same order."""
        n, _, n_y, n_x = blocks.shape
        item = cuda.grid(1)
        frame, by, bx = item // (n_y * n_x), item // n_x % n_y, item % n_x
        if frame < n:
            own = stats[frame, tile_of[by, bx]]
            sky_r, sky_s = refs.dtype.type(own[SKY_REF]), scis.dtype.type(own[SKY_SCI])
            sum_r, sum_s, sum_n = f32(0), f32(0), f32(0)
            for x in range(bx * BLOCK, (bx + 1) * BLOCK):
                column_r, column_s, column_n = f32(0), f32(0), f32(0)
                for y in range(by * BLOCK, (by + 1) * BLOCK):
                    ref, sci = (
                        refs[row_index(refs, frame, y)][x],
                        scis[row_index(scis, frame, y)][x],
                    )
                    add_r, add_s, add_n = good_pair(
                        ref, sci,
                        is_bad(ref, bad_refs[row_index(bad_refs, frame, y)][x]),
                        is_bad(sci, bad_scis[row_index(bad_scis, frame, y)][x]),
                        sky_r, sky_s,
                    )  # fmt: skip
                    column_r += add_r
                    column_s += add_s
                    column_n += add_n
                sum_r += column_r
                sum_s += column_s
                sum_n += column_n
            blocks[frame, 0, by, bx] = sum_r
            blocks[frame, 1, by, bx] = sum_s
            blocks[frame, 2, by, bx] = sum_n


# ---------------------------------------------------------------- entry points


def photometric_scale(
    pixels: Pixels | tuple[np.ndarray | None, ...],
    origins: np.ndarray,
    shape: tuple[int, int],
    stats: np.ndarray,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Flux of a source in sci over its flux in ref, per frame.

    Parameters
    ----------
    pixels, origins, shape, threads
        As of `measure.measure_tiles`.
    stats : ndarray of float64, (n, n_tiles, 4)
        As of `measure.measure_tiles`.

    Returns
    -------
    scale : ndarray of float32, (n,)
        Within `photometry.SCALE_LIMITS`; 1 where ref shows no source. In the memory of the CPU.
    n_used : ndarray of int64, (n,)
        Number of blocks that the scale rests on; 0 means that it was not measured.
    """
    pixels = Pixels(*pixels).with_masks()
    n, ny, nx = pixels.scis.shape
    scale, n_used = np.ones(n, np.float32), np.zeros(n, np.int64)
    n_y, n_x = ny // BLOCK, nx // BLOCK
    if n == 0 or n_y == 0 or n_x == 0:
        return scale, n_used
    tile_y, tile_x = block_tiles(ny, nx, origins, shape)
    tile_of = tile_y[:, None] + tile_x
    there = np.asarray(tile_of, like=pixels.scis)
    group = min(n, max(1, _AT_A_TIME // (n_y * n_x)))
    blocks = np.empty_like(pixels.scis, np.float32, order="C", shape=(group, 3, n_y, n_x))
    for first in range(0, n, group):
        last = min(first + group, n)
        part, own = blocks[: last - first], np.asarray(stats[first:last], like=pixels.scis)
        sums(*pixels.part(first, last), own, there, part, threads=threads)
        sigma = stats[first:last, :, [SIGMA_REF, SIGMA_SCI]].astype(np.float32)
        sigma = np.ascontiguousarray(sigma[:, tile_of].transpose(0, 3, 1, 2))
        scale[first:last], n_used[first:last] = measure_scale(part, sigma, threads)
    return scale, n_used


def block_tiles(
    ny: int, nx: int, origins: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """For block (by, bx) the tile with the nearest centre is ``tile_y[by] + tile_x[bx]``."""
    nearest = []
    for axis, n in enumerate((ny, nx)):
        starts = np.unique(origins[:, axis])
        centres = starts + shape[axis] / 2
        blocks = (np.arange(n // BLOCK) + 0.5) * BLOCK
        nearest.append(np.searchsorted((centres[1:] + centres[:-1]) / 2, blocks))
    n_columns = len(np.unique(origins[:, 1]))
    return nearest[0] * n_columns, nearest[1]
