"""The tiles of a batch: cut from the frames, run through the network, stitched to differences.

Tiles stream through a pool of threads that share one single-threaded session: convolutions of
one tile stay in a core's cache, and two tiles on two cores are faster than one on both.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.core.threads import ordered_map
from fastdiff.kernels.image.match import match_psfs
from fastdiff.kernels.image.pixels import Pixels
from fastdiff.kernels.image.plan import blend_weights, places_of
from fastdiff.kernels.image.tile import cut_tiles, stitch_tiles, tile_noise
from fastdiff.matching.frames import Frames
from fastdiff.models.model import Model, load_model

from .network import SymmetryGroup, run_network, tiles_per_call, wants_matched

__all__ = ["TransinetTiles", "run_tiles"]


@dataclasses.dataclass
class TransinetTiles:
    """Everything that cutting and stitching the tiles of a batch needs.

    Attributes
    ----------
    frames : Frames
    pixels : Pixels
        Those of the frames.
    origins : ndarray of int64, (n_tiles, 2)
        First row and column of each tile of a frame.
    shape : tuple of int
        (h, w) of every tile.
    stats : ndarray of float64, (n, n_tiles, 4)
        As of `fastdiff.kernels.image.measure.measure_tiles`.
    scale : ndarray of float32, (n,)
        Photometric scale of each frame.
    """

    frames: Frames
    pixels: Pixels
    origins: NDArray[np.int64]
    shape: tuple[int, int]
    stats: NDArray[np.float64]
    scale: NDArray[np.float32]

    def __post_init__(self) -> None:
        there = arrays.namespace(self.frames.scis).asarray
        sigma_d = tile_noise(self.stats, self.scale)
        self._for_cut: list[Any] = [there(each) for each in (self.stats, self.scale)]
        self._weights = tuple(there(each) for each in blend_weights(self.origins, self.shape))
        self._sigma_d = there(sigma_d)

    def cut(self, places: NDArray[np.int64]) -> Any:
        """Normalised tiles (m, 2, h, w), of which `places` are those of `places_of`."""
        return cut_tiles(self.pixels, places, self.shape, *self._for_cut, threads=1)

    def stitch(self, outputs: Any, places: NDArray[np.int64]) -> None:
        """Add outputs of the network (m, 1, h, w) to ``frames.image``."""
        stitch_tiles(outputs, places, self._weights, self._sigma_d, self.frames.image, threads=1)


def run_tiles(
    tiles: TransinetTiles, network: Model, symmetry: SymmetryGroup, todo: NDArray[np.int64]
) -> None:
    """Run the network over all tiles of the frames `todo`; memory for a few tiles a thread."""
    n_tiles = len(tiles.origins)
    per_call = tiles_per_call(network, tiles.shape)
    total = len(todo) * n_tiles
    calls = [range(first, min(first + per_call, total)) for first in range(0, total, per_call)]
    threads = tiles.frames.threads
    if 0 < len(calls) < threads:
        # Too few calls for all threads: let each use several.
        network = load_model(network.path, network.backend, threads=threads // len(calls))
    matched = wants_matched(network)

    def call(numbers: range) -> tuple[Any, NDArray[np.int64]]:
        item = np.asarray(numbers)
        places = places_of(todo[item // n_tiles], item % n_tiles, tiles.origins)
        pairs = tiles.cut(places)
        if matched:
            pairs = match_psfs(pairs, network.threads)
        return run_network(network, pairs, symmetry), places

    done = 0
    with contextlib.closing(ordered_map(call, calls, min(threads, len(calls)))) as results:
        for outputs, places in results:
            tiles.stitch(outputs, places)
            done += len(places)
            tiles.frames.progress(done, total)
