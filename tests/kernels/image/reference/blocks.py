"""Slow, readable twin of `fastdiff.kernels.image.blocks`, in NumPy and float64."""

import numpy as np

from tests.kernels.image.reference.pixels import good_pixels

BLOCK = 4


def sums(ref, sci, ref_bad, sci_bad, sky_r, sky_s):
    """Sums of ref and sci above the sky and number of pixels, good ones, in 4 x 4 blocks."""
    good = good_pixels(ref, ref_bad) & good_pixels(sci, sci_bad)
    ny, nx = (n // BLOCK for n in ref.shape)

    def over_blocks(values):
        cut = values[: ny * BLOCK, : nx * BLOCK]
        return cut.reshape(ny, BLOCK, nx, BLOCK).sum(axis=(1, 3))

    r = over_blocks(np.where(good, np.nan_to_num(ref.astype(float)) - sky_r, 0))
    s = over_blocks(np.where(good, np.nan_to_num(sci.astype(float)) - sky_s, 0))
    return np.stack([r, s, over_blocks(good.astype(float))])


def sums_of_frames(refs, scis, bad_refs, bad_scis, stats, tile_of):
    """`sums` of all frames, above the skies (columns 0 and 2) of the tile of each block."""
    made = []
    for frame, sci in enumerate(scis):
        ref, ref_bad, sci_bad = (
            np.broadcast_to(each[min(frame, len(each) - 1)], sci.shape)
            for each in (refs, bad_refs, bad_scis)
        )
        spare = [(0, n - BLOCK * k) for n, k in zip(sci.shape, tile_of.shape, strict=True)]
        skies = [
            np.pad(np.kron(stats[frame, tile_of, column], np.ones((BLOCK, BLOCK))), spare)
            for column in (0, 2)
        ]
        made.append(sums(ref, sci, ref_bad, sci_bad, *skies))
    return made
