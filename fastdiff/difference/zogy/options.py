"""Options of the method "zogy" and the tiles of a frame."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core.options import whole_number

from .tiles import ZogyTile

__all__ = ["ZogyOptions", "check_astrometric_noise", "check_gain", "check_size", "plan"]

_TILE = 512  # pixels; of frames whose PSF is measured
_TILE_OF_ONE_PSF = 1024  # transforms of this size stay near the cache


@dataclasses.dataclass(frozen=True)
class ZogyOptions:
    """Options of the method "zogy", checked."""

    ref_psfs: NDArray[np.float64] | None  # (n or 1, n_tiles or 1, k, k)
    sci_psfs: NDArray[np.float64] | None
    psf_size: int | None
    tiles: Sequence[ZogyTile]
    scale: NDArray[np.float32] | None  # (n,)
    gain: tuple[float, float] | None  # ref, sci
    astrometric_noise: float | None  # None: measured
    calibrate: bool

    @property
    def wants_stars(self) -> bool:
        """Whether stars tell PSFs, scale or registration."""
        given = self.ref_psfs is not None and self.sci_psfs is not None
        return not given or self.scale is None or self.astrometric_noise is None


def check_size(size: Any, largest: int) -> int | None:
    """Side of the PSFs that are measured; None is chosen by their width."""
    if size is None:
        return None
    side = whole_number("psf_size", size)
    if side < 5 or side % 2 == 0 or side > largest:
        raise ValueError(
            f"psf_size is {side}; it must be odd, at least 5 and no more than the side of the "
            f"images, {largest}"
        )
    return side


def check_gain(gain: Any) -> tuple[float, float] | None:
    """Electrons per count of ref and of sci."""
    if gain is None:
        return None
    array = np.asarray(gain, dtype=np.float64)
    if array.shape not in ((), (2,)):
        raise ValueError(f"gain has shape {array.shape}; it must be a number or (ref, sci)")
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"gain is {gain}; it must be positive (electrons per count), or None")
    ref, sci = np.broadcast_to(array, (2,))
    return float(ref), float(sci)


def check_astrometric_noise(value: Any) -> float | None:
    """Pixels on each axis; None is to be measured."""
    if isinstance(value, str):
        if value != "auto":
            raise ValueError(f"astrometric_noise is {value!r}; it must be 'auto' or pixels")
        return None
    if not (np.isfinite(value) and value >= 0):
        raise ValueError(f"astrometric_noise is {value}; it must be 0 pixels or more, or 'auto'")
    return float(value)


def plan(
    ny: int, nx: int, tile: Any, psfs: Mapping[str, NDArray[np.float64] | None]
) -> Sequence[ZogyTile]:
    """Tiles of a frame, in rows; `psfs` are those given, (n or 1, n_tiles or 1, k, k), by name."""
    given = [each for each in psfs.values() if each is not None]
    if tile is None:
        one = len(given) == 2 and all(each.shape[1] == 1 for each in given)
        tile = _TILE_OF_ONE_PSF if one else _TILE
    else:
        whole_number("tile", tile, least=32, unit="pixels")
    ys, xs = (np.linspace(0, n, max(1, round(n / tile)) + 1).astype(int).tolist() for n in (ny, nx))
    tiles = [
        ZogyTile(y0, y1, x0, x1)
        for y0, y1 in itertools.pairwise(ys)
        for x0, x1 in itertools.pairwise(xs)
    ]
    for name, each in psfs.items():
        if each is not None and each.shape[1] not in (1, len(tiles)):
            raise ValueError(
                f"`{name}` has PSFs for {each.shape[1]} tiles; {ny} x {nx} pixels with tile="
                f"{tile} have {len(ys) - 1} x {len(xs) - 1}: give one for each, or set `tile`"
            )
    return tiles
