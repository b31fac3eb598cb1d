"""A cube of epochs tile by tile: the strength of the penalty, what is done, and the scatter."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays

from . import predictors as cpm_predictors
from .options import CHOICES, Options
from .tile import RIDGES, Tile

_WHOLE = 8000  # pixels whose Gram matrix is made at once
_TILE = 32  # pixels, side of a tile of a larger cube
_SAMPLE = 48  # pixels that choose the ridge
_SAMPLE_TILES = 6  # of a cube of many tiles, in which they lie


def solve(
    options: Options,
    report: Callable[[int, int], None],
    out: NDArray[Any] | None = None,
    saved: Checkpoint | None = None,
) -> dict[str, Any]:
    """The fields of a `CPMResult`."""
    _, ny, nx = options.shape
    xp = arrays.namespace(options.data)
    if out is None:
        dtype = arrays.image_dtype(options.data, "cube")
        out = xp.empty(options.shape, dtype)
    maps = {
        "ridge": np.full((ny, nx), np.nan),
        "freedom": np.full((ny, nx), np.nan) if options.leverage else None,
        "leverage": xp.full(options.shape, np.nan, np.float32) if options.leverage else None,
        "n_predictors": np.zeros((ny, nx), np.int64),
        "coefficients": {} if options.coefficients else None,
    }
    done, ridge, shines = 0, options.ridge, False
    n_tiles = 0
    if saved is not None:
        n_tiles, ridge = saved.read(maps, ridge)
    if ridge in CHOICES and options.ridge_per == "image":
        ridge = _choose_ridge(options, ridge)
    for number, (window, inner) in enumerate(_tiles(options)):
        if number < n_tiles:
            shines = True
            done += (inner[0].stop - inner[0].start) * (inner[1].stop - inner[1].start)
            report(done, ny * nx)
            continue
        out[:, *inner] = np.nan
        tile = Tile(options, window, inner)
        shines |= tile.shines
        try:
            for count in tile.fit(ridge, out, maps):
                done += count
                report(round(done), ny * nx)
        except np.linalg.LinAlgError:
            raise ValueError(
                f"ridge is {ridge}; with so little a matrix is singular to rounding on a GPU: "
                "raise it, or let it be chosen"
            ) from None
        if saved is not None:
            out.flush()
            saved.write(number + 1, maps, ridge)
    if shines and not maps["n_predictors"].any():
        raise ValueError(
            "no pixel has a predictor: all are excluded, or closer than `exclusion` "
            f"{options.exclusion}; lower it"
        )
    rms, expected, variability = _scatter(options, out)
    if saved is not None:
        saved.path.unlink(missing_ok=True)
    strengths = maps.pop("ridge")
    if options.ridge_per == "image":
        strengths = float("nan") if ridge in CHOICES else float(ridge)
    meta = {
        "exclusion": options.exclusion, "holdout": options.holdout, "predictors": options.rule,
        "excluded": options.excluded.copy(), "notes": list(options.notes),
    }  # fmt: skip
    return maps | {
        "image": out, "rms": rms, "expected_rms": expected, "variability": variability,
        "ridge": strengths, "meta": meta, "_cube": options.data,
    }  # fmt: skip


def _tiles(options: Options) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """(window, inner): pixels that predict, and those of them that are predicted."""
    _, ny, nx = options.shape
    if not options.data.size:
        return
    if ny * nx <= _WHOLE:
        yield (slice(0, ny), slice(0, nx)), (slice(0, ny), slice(0, nx))
        return
    offsets = cpm_predictors.steps(options.exclusion, (ny, nx))[: options.wanted]
    reach = int(np.abs(offsets).max()) if len(offsets) else 1
    for y in range(0, ny, _TILE):
        for x in range(0, nx, _TILE):
            window, inner = [], []
            for start, size in ((y, ny), (x, nx)):
                # At an edge the window moves inward: pixels there look one way only.
                length = min(size, _TILE + 2 * reach)
                first = min(max(start - reach, 0), size - length)
                window.append(slice(first, first + length))
                inner.append(slice(start, min(start + _TILE, size)))
            yield tuple(window), tuple(inner)


def _choose_ridge(options: Options, how: str) -> float | str:
    """Strength with the least sum of the logarithms of the scores of a sample of pixels."""
    tiles = list(_tiles(options))
    if len(tiles) > 1:
        spread = np.linspace(0, len(tiles) - 1, min(len(tiles), _SAMPLE_TILES))
        tiles = [_middle(options, *tiles[int(i)]) for i in np.round(spread)]
    n_each = -(-_SAMPLE // max(len(tiles), 1))
    sampled = []
    for tile in (Tile(options, *cut) for cut in tiles):
        if n := len(tile.targets):
            chosen = np.unique(np.linspace(0, n - 1, n_each).astype(np.int64))
            sampled.append((tile, chosen))
    if not sampled:
        return how
    scale = float(np.mean([tile.scale for tile, _ in sampled]))

    def best(grid: NDArray[np.float64]) -> float:
        total = sum(tile.scores(how, chosen, grid * scale).sum(0) for tile, chosen in sampled)
        return float(grid[int(np.argmin(total))])

    return best(best(RIDGES) * 10.0 ** (np.arange(-2, 3) / 3)) * scale


def _middle(options: Options, window: Any, inner: Any) -> tuple[Any, Any]:
    """The same for 3 x 3 pixels in the middle of a tile, with as much around them."""
    cut = []
    for outside, inside, size in zip(window, inner, options.shape[1:], strict=True):
        start = (inside.start + inside.stop) // 2
        stop = min(start + 3, inside.stop)
        length = min(size, outside.stop - outside.start - _TILE + 3)
        first = min(max(start - length // 2, 0), size - length)
        cut.append((slice(first, first + length), slice(start, stop)))
    return tuple(c[0] for c in cut), tuple(c[1] for c in cut)


def _scatter(
    options: Options, image: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.float64]]:
    """Maps of rms, of what the variances tell of it, and of variability, made epoch by epoch."""
    xp = arrays.namespace(image)
    square, known, total, count = xp.zeros((4, *options.shape[1:]))
    for i in np.flatnonzero(options.roots > 0):
        plane = image[i].astype(np.float64)
        good = xp.isfinite(plane)
        if not good.any():
            continue
        plane[~good] = 0.0
        if options.variance is not None:
            sigma = xp.sqrt(options.variance[i])
            known += xp.where(good & xp.isfinite(sigma), options.variance[i], 0.0)
        else:
            values = plane[good]
            sigma = 1.4826 * xp.median(xp.abs(values - xp.median(values)))
        with np.errstate(invalid="ignore", divide="ignore"):
            part = xp.abs(plane) / sigma
        total += xp.where(xp.isfinite(part), part, 0)
        square += plane**2
        count += good
    with np.errstate(invalid="ignore"):
        rms, expected, variability = (
            arrays.on_host(each)
            for each in (xp.sqrt(square / count), xp.sqrt(known / count), total / count)
        )
    return rms, None if options.variance is None else expected, variability


class Checkpoint:
    """The maps of the tiles that are done, in a file that is always whole."""

    NAMES = ("ridge", "freedom", "n_predictors")

    def __init__(self, path: str | os.PathLike[str], fingerprint: str):
        self.path, self.fingerprint = Path(path), fingerprint

    def read(self, maps: dict[str, Any], ridge: float | str) -> tuple[int, float | str]:
        """Number of tiles that are done and the strength; fills the maps in place."""
        if not self.path.exists():
            return 0, ridge
        try:
            with np.load(self.path) as archive:
                found = dict(archive)
        except Exception as error:
            raise ValueError(
                f"checkpoint {self.path} cannot be read ({error}); remove it to begin again"
            ) from error
        if str(found["fingerprint"]) != self.fingerprint:
            raise ValueError(
                f"checkpoint {self.path} is of another cube or of other options; remove it to "
                "begin again"
            )
        for name in self.NAMES:
            if maps[name] is not None:
                maps[name][...] = found[name]
        return int(found["n_tiles"]), float(found["strength"]) if found["chosen"] else ridge

    def write(self, n_tiles: int, maps: dict[str, Any], ridge: float | str) -> None:
        """Replace the file at once, so that no half of it is ever seen."""
        chosen = ridge not in CHOICES
        aside = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            with aside.open("wb") as file:
                np.savez(
                    file, fingerprint=self.fingerprint, n_tiles=n_tiles, chosen=chosen,
                    strength=ridge if chosen else np.nan,
                    **{name: maps[name] for name in self.NAMES if maps[name] is not None},
                )  # fmt: skip
            os.replace(aside, self.path)
        finally:
            aside.unlink(missing_ok=True)
