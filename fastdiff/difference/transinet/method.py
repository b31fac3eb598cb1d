"""The network method: normalise, cut tiles, run, stitch, back to counts.

Sedaghat & Mahabal 2018 (MNRAS 476, 5365): a convolutional network looks at reference and
science image and paints only what changed, so that neither PSF matching nor an artefact filter
is needed. Here it sees tiles in units of their own noise (`fastdiff.kernels.image.tile`), so
that one network serves any detector, sky level and photometric scale, and beside them what two
fitted kernels leave of the difference (`fastdiff.kernels.image.match`): that is arithmetic, not
worth learning.

Tiles stream through a pool of threads that share one single-threaded session: convolutions of
one tile stay in a core's cache, and two tiles on two cores are faster than one on both.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdiff.difference.options import check_scale
from fastdiff.kernels.image import tile as kernel
from fastdiff.kernels.image.match import match_psfs
from fastdiff.models.model import Model, load_model

if TYPE_CHECKING:
    import os

    from fastdiff.matching.frames import Frames

__all__ = ["KIND", "NORMALISATIONS", "subtract"]

KIND = "transinet"
"""Value of the metadata "fastdiff.kind" of the models that this method runs."""
NORMALISATIONS = {"tile-v1": False, "tile-match-v1": True}
"""Values of "fastdiff.normalisation": the two channels of `fastdiff.kernels.image.tile`, or the
four of `fastdiff.kernels.image.match` made from them."""

# Small frames go to the network together: fewer pixels than this in a call waste its overhead,
# more leave the cache. A GPU wants more at once.
_PIXELS_PER_CALL = {"onnxruntime-cpu": 2**16}
_PIXELS_PER_CALL_GPU = 2**22
_OVERLAP = 32
# Quarter turns and whether to flip: the groups C4 and D4.
_SYMMETRIES = {
    None: [(0, False)],
    "cyclic": [(turns, False) for turns in range(4)],
    "dihedral": [(turns, flip) for flip in (False, True) for turns in range(4)],
}


def subtract(
    frames: Frames,
    *,
    model: str | os.PathLike[str] | Model = "transinet-lite",
    backend: str = "auto",
    symmetry: Literal["cyclic", "dihedral"] | None = None,
    gain: float | None = None,
    scale: float | ArrayLike | None = None,
    tile: int = 256,
) -> dict[str, Any]:
    """Fill ``frames.image`` and ``frames.noise``; see `fastdiff.subtract_batch`.

    Returns
    -------
    dict
        What the method adds to ``Difference.meta``.
    """
    if symmetry not in _SYMMETRIES:
        raise ValueError(f"symmetry is {symmetry!r}; it must be None, 'cyclic' or 'dihedral'")
    if gain is not None and not gain > 0:
        raise ValueError(f"gain is {gain}; it must be positive (electrons per count), or None")
    if isinstance(tile, bool) or not isinstance(tile, (int, np.integer)):
        raise TypeError(f"tile is a {type(tile).__name__}; it must be a whole number of pixels")
    network = _load(model, backend)
    _, ny, nx = frames.scis.shape
    clock = _Clock()
    stride = int(network.metadata.get("fastdiff.stride", 16))
    origins, shape = kernel.plan_tiles(ny, nx, tile, min(_OVERLAP, tile // 4), stride)
    pixels = (frames.refs, frames.scis, frames.bad_refs, frames.bad_scis)
    stats = kernel.measure_tiles(*pixels, origins, shape, frames.threads)
    clock.stop("measure")
    if scale is None:
        scales, n_used = kernel.photometric_scale(*pixels, origins, shape, stats, frames.threads)
    else:
        scales = check_scale(scale, len(frames.scis))
        n_used = np.full(len(scales), -1)
    clock.stop("scale")
    work = _Tiles(frames, origins, shape, stats, scales)
    kernel.blank_image(*pixels, frames.image, frames.threads)
    todo = _informative(frames, stats)
    _stream(work, network, symmetry, todo)
    clock.stop("network")
    sky, noise = _estimate_noise(work, gain)
    clock.stop("noise")
    for i in todo[n_used[todo] == 0]:
        frames.note(i, "no source bright enough to measure the photometric scale: 1 assumed")
    return {
        "model": network.name,
        "backend": network.backend,
        "pixel_threshold": float(network.metadata.get("fastdiff.pixel_threshold", 0.5)),
        "noise_free": True,
        "symmetry": symmetry,
        "scale": scales,
        "scale_boxes": n_used,
        "sky": sky,
        "sky_noise": noise,
        "tile": shape,
        "n_tiles": len(origins),
        "seconds": clock.seconds,
    }


def _load(model: str | os.PathLike[str] | Model, backend: str) -> Model:
    if isinstance(model, Model):
        if backend not in ("auto", model.backend):
            raise ValueError(
                f"backend is {backend!r}, but `model` was loaded on {model.backend!r}; leave out "
                "one of the two"
            )
        model, backend = model.path, model.backend
    # Sessions are kept: loading again with one thread costs an open file at the first call.
    network = load_model(model, backend, threads=1, kind=KIND)
    found = network.metadata.get("fastdiff.normalisation")
    if found not in NORMALISATIONS:
        raise ValueError(
            f"{network.path} was made for the normalisation {found!r} (metadata "
            f"'fastdiff.normalisation'); this fastdiff has {', '.join(NORMALISATIONS)}: use the "
            "model and the version of fastdiff that belong together"
        )
    return network


def _informative(frames: Frames, stats: NDArray[np.float64]) -> NDArray[np.int64]:
    """Frames that the network must see; the others are left at 0, and noted."""
    todo = []
    no_noise_ref = ~stats[:, :, 1].any(1)
    no_noise_sci = ~stats[:, :, 3].any(1)
    for i in range(len(frames.scis)):
        if no_noise_sci[i] or no_noise_ref[i]:
            if np.isnan(frames.image[i]).all():
                frames.note(i, "no pixel is good in both images")
                continue
            good = ~np.isnan(frames.image[i])
            ref = frames.refs[min(i, len(frames.refs) - 1)][good]
            if ref.min() == ref.max():
                frames.note(i, "the reference is constant")
            sci = frames.scis[i][good]
            if sci.min() == sci.max():
                frames.note(i, "the science image is constant: its difference is set to 0")
                continue
        todo.append(i)
    return np.array(todo, dtype=np.int64)


@dataclasses.dataclass
class _Tiles:
    """Everything that cutting and stitching the tiles of a batch needs."""

    frames: Frames
    origins: NDArray[np.int64]
    shape: tuple[int, int]
    stats: NDArray[np.float64]
    scale: NDArray[np.float32]

    def __post_init__(self) -> None:
        self.sigma_d = kernel.tile_noise(self.stats, self.scale)
        self.weights = kernel.blend_weights(self.origins, self.shape)

    def cut(self, frame: NDArray[np.int64], tile: NDArray[np.int64]) -> NDArray[np.float32]:
        frames = self.frames
        pairs = np.empty((len(frame), 2, *self.shape), np.float32)
        return kernel.cut_tiles(
            frames.refs, frames.scis, frames.bad_refs, frames.bad_scis, frame, tile,
            self.origins, self.stats, self.scale, pairs, threads=1,
        )  # fmt: skip

    def stitch(
        self, outputs: NDArray[np.float32], frame: NDArray[np.int64], tile: NDArray[np.int64]
    ) -> None:
        kernel.stitch_tiles(
            outputs, frame, tile, self.origins, self.weights, self.sigma_d, self.frames.image,
            threads=1,
        )  # fmt: skip


def _stream(work: _Tiles, network: Model, symmetry: str | None, todo: NDArray[np.int64]) -> None:
    """Run the network over all tiles of the frames `todo`; memory for a few tiles a thread."""
    n_tiles = len(work.origins)
    per_call = max(
        1,
        _PIXELS_PER_CALL.get(network.backend, _PIXELS_PER_CALL_GPU)
        // (work.shape[0] * work.shape[1]),
    )
    total = len(todo) * n_tiles
    calls = [(begin, min(begin + per_call, total)) for begin in range(0, total, per_call)]
    threads = work.frames.threads
    if 0 < len(calls) < threads:
        # Too few calls for all threads: let each use several.
        network = load_model(network.path, network.backend, threads=threads // len(calls))
    matched = NORMALISATIONS[network.metadata["fastdiff.normalisation"]]

    def call(begin: int, end: int) -> tuple[NDArray[Any], ...]:
        item = np.arange(begin, end)
        frame, tile = todo[item // n_tiles], item % n_tiles
        pairs = work.cut(frame, tile)
        if matched:
            pairs = match_psfs(pairs, network.threads)
        return _run_symmetric(network, pairs, symmetry), frame, tile

    done = 0
    with contextlib.closing(_in_order(call, calls, min(threads, len(calls)))) as results:
        for outputs, frame, tile in results:
            work.stitch(outputs, frame, tile)
            done += len(frame)
            work.frames.progress(done, total)


def _in_order(
    call: Callable[..., Any], arguments: list[tuple[int, int]], threads: int
) -> Generator[Any, None, None]:
    """Results of ``call(*arguments[i])`` in their order, computed a little ahead on threads."""
    if threads <= 1:
        for each in arguments:
            yield call(*each)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fastdiff-network")
    ahead: collections.deque[Future[Any]] = collections.deque()
    try:
        for each in arguments:
            ahead.append(pool.submit(call, *each))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        # Reached early on an error or Ctrl-C: nothing more is started.
        pool.shutdown(wait=True, cancel_futures=True)


def _run_symmetric(
    network: Model, pairs: NDArray[np.float32], symmetry: str | None
) -> NDArray[np.float32]:
    """Output of the network, averaged over turned and mirrored copies of its input."""
    transforms = _SYMMETRIES[symmetry]
    total = None
    for turns, flip in transforms:
        turned = np.rot90(pairs[..., ::-1] if flip else pairs, turns, axes=(2, 3))
        output = np.rot90(network.run(turned), -turns, axes=(2, 3))
        output = output[..., ::-1] if flip else output
        total = output if total is None else total + output
    if len(transforms) == 1:
        return total
    return np.ascontiguousarray(total * np.float32(1.0 / len(transforms)))


def _estimate_noise(work: _Tiles, gain: float | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Fill ``frames.noise``; median over the tiles of each frame of sky and sky noise."""
    frames = work.frames
    sky, sigma = np.median(work.stats[:, :, 2], axis=1), np.median(work.stats[:, :, 3], axis=1)
    bad = [i for i in range(len(sky)) if np.isnan(frames.image[i]).all()]
    sky[bad] = sigma[bad] = np.nan
    if frames.sci_variances is not None:
        return sky, sigma
    # Linear between the centres of the tiles.
    ys, xs = (np.unique(work.origins[:, axis]) for axis in (0, 1))
    _, ny, nx = frames.image.shape
    columns = _interpolation(np.arange(nx), xs + (work.shape[1] - 1) / 2)
    place = np.interp(np.arange(ny), ys + (work.shape[0] - 1) / 2, np.arange(len(ys)))
    above_row = place.astype(np.int64)
    below_row = np.minimum(above_row + 1, len(ys) - 1)
    part = (place - above_row).astype(np.float32)[:, None]

    def nodes(per_tile: NDArray[Any]) -> NDArray[np.float32]:
        return per_tile.reshape(len(ys), len(xs)).astype(np.float32) @ columns

    def spread(grid: NDArray[np.float32], band: slice) -> NDArray[np.float32]:
        # Row by row: a product of matrices would take every core, whatever `threads` says.
        result = grid[above_row[band]]
        return result + part[band] * (grid[below_row[band]] - result)

    step = max(1, 2**16 // nx)  # a band and its temporaries stay in the cache
    for i, noise in enumerate(frames.noise):
        if np.isnan(sigma[i]):
            noise[:] = np.nan
            continue
        sky_nodes, sigma_nodes = nodes(work.stats[i, :, 2]), nodes(work.stats[i, :, 3])
        for begin in range(0, ny, step):
            band = slice(begin, min(begin + step, ny))
            noise[band] = spread(sigma_nodes, band)
            if gain is not None:
                above = frames.scis[i, band] - spread(sky_nodes, band)
                # Bad pixels have no signal to add noise for.
                above = np.where(np.isnan(frames.image[i, band]), 0.0, np.maximum(above, 0.0))
                noise[band] = np.sqrt(noise[band] ** 2 + above / gain)
    return sky, sigma


def _interpolation(x: NDArray[Any], nodes: NDArray[Any]) -> NDArray[np.float32]:
    """(n_nodes, len(x)): weights with which values at `nodes` make the values at `x`."""
    return np.array([np.interp(x, nodes, unit) for unit in np.eye(len(nodes))], np.float32)


class _Clock:
    """Wall seconds of the stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        self._last = now
