"""Rows of `measure`, `blocks` and `tile` in the table of cases."""

import numpy as np

from fastdiff.kernels.image import blocks, measure, plan, tile
from fastdiff.kernels.image.pixels import Pixels
from tests.kernels.check_kernel import Case
from tests.kernels.image.fields import frames
from tests.kernels.image.reference import blocks as blocks_twin
from tests.kernels.image.reference import measure as measure_twin
from tests.kernels.image.reference import tile as tile_twin


def batch(rng, size, dtype=np.float32):
    """Two frames of size x (size + 6) pixels with bad ones; the second image has no mask."""
    refs, scis, bad_refs, _ = frames(rng, 2, (size, size + 6), dtype, n_bad=size // 4)
    return Pixels(refs[:1], scis, bad_refs).with_masks()._asdict()


def tiles_of(size):
    """Origins and shape of tiles that do not all lie inside of the frame, (4, 2) and (h, w)."""
    h, w = size // 2 + 3, size // 2 + 4
    return np.array([(0, 0), (0, size - w), (size - h, 3), (size - h + 2, size - w + 8)]), (h, w)


def stats_of(rng, n_tiles=4):
    return rng.uniform((90, 8, 280, 15), (110, 12, 320, 25), (2, n_tiles, 4))


def collect_inputs(step, dtype):
    def make(rng, size):
        origins, (h, w) = tiles_of(size)
        pixels = batch(rng, size, dtype)
        return {
            "frames": pixels["scis"], "bad": pixels["bad_refs"], "origins": origins, "number": 3,
            "width": w, "step": step, "samples": np.empty((5, -(-h * w // step)), dtype),
        }  # fmt: skip

    return make


def clip_inputs(rng, size):
    samples = rng.normal(100, 7, (6, size)).astype(np.float32)
    samples[1] = np.rint(samples[1] / 7)  # few values
    samples[2] = 5
    samples[3, size // 2 :] = samples[4] = np.inf
    samples[5, : size // 5] += 1e3
    return {"samples": np.sort(samples, axis=1)}


def sums_inputs(rng, size):
    pixels = batch(rng, size)
    tile_of = rng.integers(0, 4, (size // 4, (size + 6) // 4))
    return pixels | {"stats": stats_of(rng), "tile_of": tile_of}


def places_of(rng, size):
    origins, shape = tiles_of(size)
    places = plan.places_of(np.array([0, 1, 1, 0, 1]), np.array([0, 3, 1, 2, 0]), origins)
    return places, shape


def cut_inputs(dtype):
    def make(rng, size):
        places, (h, w) = places_of(rng, size)
        scale = np.array([0.7, 1.2], np.float32)
        own = {"places": places, "stats": stats_of(rng), "scale": scale, "m": 5, "h": h, "w": w}
        return batch(rng, size, dtype) | own

    return make


def stitch_inputs(rng, size):
    places, (h, w) = places_of(rng, size)
    image = rng.normal(size=(2, size, size + 6)).astype(np.float32)
    image[1, 5] = np.nan
    weights_y, weights_x = (rng.random((4, side)).astype(np.float32) for side in (h, w))
    weights_y[1, ::2] = 0
    return {
        "outputs": rng.normal(size=(5, 1, h, w)).astype(np.float32), "places": places,
        "weights_y": weights_y, "weights_x": weights_x,
        "sigma_d": rng.uniform(1, 9, (2, 4)).astype(np.float32), "image": image,
    }  # fmt: skip


DTYPES = (np.float32, np.float64)
CASES = [
    *(
        Case(
            measure.collect,
            lambda samples, **inputs: measure_twin.collect(**inputs, shape=samples.shape),
            collect_inputs(step, dtype),
            (12, 60, 1000),
            tolerance=0,
            note=f"{step}-{dtype.__name__}",
        )
        for step, dtype in ((1, np.float32), (3, np.float32), (5, np.float64))
    ),
    Case(measure.clip, measure_twin.clip, clip_inputs, (70, 400, 4096), tolerance=1e-6),
    Case(blocks.sums, blocks_twin.sums_of_frames, sums_inputs, (12, 90, 2000)),
    *(
        Case(tile.cut, tile_twin.cut, cut_inputs(dtype), (12, 60, 1000), note=dtype.__name__)
        for dtype in DTYPES
    ),
    Case(tile.blank, tile_twin.blank, batch, (12, 60, 1000), tolerance=0),
    Case(tile.stitch, tile_twin.add_tiles, stitch_inputs, (12, 60, 1000)),
]
