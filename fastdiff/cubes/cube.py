"""A cube of epochs tile by tile, and the scatter of what is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.core.stats import SIGMA_PER_MAD

from .checkpoint import Checkpoint
from .options import CHOICES, CpmOptions
from .penalty import choose_penalty, sample_of
from .plan import tiles_of
from .smooth import choose_width
from .tile import CubeTile

__all__ = ["solve"]


def solve(
    options: CpmOptions,
    report: Callable[[int, int], None],
    out: NDArray[Any] | None = None,
    saved: Checkpoint | None = None,
) -> dict[str, Any]:
    """The fields of a `CPMResult`."""
    xp = arrays.namespace(options.data)
    if out is None:
        dtype = arrays.image_dtype(options.data, "cube")
        out = xp.empty(options.shape, dtype)
    maps = _empty_maps(options)
    penalty = _fill(options, report, out, maps, saved)
    rms, expected, variability = _scatter(options, out)
    if saved is not None:
        saved.path.unlink(missing_ok=True)
    penalties = maps.pop("ridge")
    counts = {name: maps.pop(name) for name in ("n_spikes", "n_common")}
    if options.ridge_per == "image":
        penalties = float("nan") if penalty in CHOICES else float(penalty)
    meta = {
        "exclusion": options.exclusion, "holdout": options.holdout, "predictors": options.rule,
        "excluded": options.excluded.copy(), "smooth": options.width,
        "notes": list(options.notes), **counts,
    }  # fmt: skip
    return maps | {
        "image": out, "rms": rms, "expected_rms": expected, "variability": variability,
        "ridge": penalties, "meta": meta, "_cube": options.data,
        "_options": options,
    }  # fmt: skip


def _empty_maps(options: CpmOptions) -> dict[str, Any]:
    """Maps of a result, to be filled; None for what was not asked for."""
    shape = options.shape[1:]
    leverage = None
    if options.leverage:
        xp = arrays.namespace(options.data)
        leverage = xp.full(options.shape, np.nan, np.float32)
    return {
        "ridge": np.full(shape, np.nan),
        "freedom": np.full(shape, np.nan) if options.leverage else None,
        "leverage": leverage,
        "n_predictors": np.zeros(shape, np.int64),
        "coefficients": {} if options.coefficients else None,
        "n_spikes": 0,
        "n_common": 0,
    }


def _fill(
    options: CpmOptions, report: Callable[[int, int], None], out: Any, maps: dict[str, Any],
    saved: Checkpoint | None,
) -> float | str:  # fmt: skip
    """Fill image and maps tile by tile; the penalty of the image, or how each pixel chose its.

    `out` is an array of NumPy or CuPy, and with `saved` a memory map.
    """
    n_pixels = options.shape[1] * options.shape[2]
    done: float = 0
    n_done, penalty, shines = 0, options.ridge, False
    if saved is not None:
        n_done, penalty = saved.read(maps, penalty)
    penalty, tiles = _choose(options, penalty)
    for number, (window, inner) in enumerate(tiles_of(options)):
        if number < n_done:
            shines = True
            done += (inner[0].stop - inner[0].start) * (inner[1].stop - inner[1].start)
            report(round(done), n_pixels)
            continue
        out[:, *inner] = np.nan
        whole = len(tiles) == 1 and tiles[0].window == window and tiles[0].inner == inner
        tile = tiles.pop() if whole else CubeTile(options, window, inner)
        maps["n_spikes"] += tile.n_spikes[0]
        maps["n_common"] = max(maps["n_common"], tile.n_spikes[1])
        shines |= tile.shines
        try:
            for count in tile.fit(penalty, out, maps):
                done += count
                report(round(done), n_pixels)
        except np.linalg.LinAlgError:
            raise ValueError(
                f"ridge is {penalty}; with so little a matrix is singular to rounding on a GPU: "
                "raise it, or let it be chosen"
            ) from None
        if saved is not None:
            out.flush()
            saved.write(number + 1, maps, penalty)
    if shines and not maps["n_predictors"].any():
        raise ValueError(
            "no pixel has a predictor: all are excluded, or closer than `exclusion` "
            f"{options.exclusion}; lower it"
        )
    return penalty


def _choose(options: CpmOptions, penalty: float | str) -> tuple[float | str, list[CubeTile]]:
    """Choose running means and penalty where they are to be chosen; tiles that were made for it."""
    options.width = 1 if options.smooth == "auto" else int(options.smooth)
    of_image = penalty in CHOICES and options.ridge_per == "image"
    if not of_image and options.smooth != "auto":
        return penalty, []
    tiles = sample_of(options)
    if options.smooth == "auto":
        options.width = choose_width(options, tiles)
        if options.width > 1:
            tiles = sample_of(options)
    return choose_penalty(tiles, str(penalty)) if of_image else penalty, tiles


def _scatter(
    options: CpmOptions, image: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.float64]]:
    """Maps of rms, of what the variances tell of it, and of variability, made epoch by epoch."""
    xp = arrays.namespace(image)
    square, count, known, n_known, total, n_parts = xp.zeros((6, *options.shape[1:]))
    for i in np.flatnonzero(options.roots > 0):
        plane = image[i].astype(np.float64)
        good = xp.isfinite(plane)
        if not good.any():
            continue
        plane[~good] = 0.0
        if options.variance is not None:
            sigma = xp.sqrt(options.variance[i])
            there = good & xp.isfinite(sigma)
            known += xp.where(there, options.variance[i], 0.0)
            n_known += there
        else:
            values = plane[good]
            sigma = SIGMA_PER_MAD * xp.median(xp.abs(values - xp.median(values)))
        with np.errstate(invalid="ignore", divide="ignore"):
            part = xp.abs(plane) / sigma
        part = xp.where(good & (sigma < np.inf), part, np.nan)
        total += xp.where(xp.isfinite(part), part, 0)
        n_parts += xp.isfinite(part)
        square += plane**2
        count += good
    with np.errstate(invalid="ignore"):
        rms, expected, variability = (
            arrays.on_host(each)
            for each in (xp.sqrt(square / count), xp.sqrt(known / n_known), total / n_parts)
        )
    return rms, None if options.variance is None else expected, variability
