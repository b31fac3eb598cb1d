"""Noise of the science image where no variance came, from that of its tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.kernels.image.measure import SIGMA_SCI, SKY_SCI

from .tiles import TransinetTiles

__all__ = ["estimate_noise"]

_PIXELS_OF_BAND = 2**16  # a band and its temporaries stay in the cache


def estimate_noise(
    tiles: TransinetTiles, gain: float | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fill ``frames.noise``, unless a science variance came.

    Sky and its noise are linear between the centres of the tiles.

    Parameters
    ----------
    gain : float, optional
        Electrons per count: adds the Poisson noise of what stands above the sky.

    Returns
    -------
    sky, sigma : ndarray of float64, (n,)
        Medians over the tiles of each frame; NaN for a frame without a good pixel.
    """
    frames, stats = tiles.frames, tiles.stats
    sky, sigma = (np.median(stats[:, :, column], axis=1) for column in (SKY_SCI, SIGMA_SCI))
    bad = [i for i in range(len(sky)) if np.isnan(frames.image[i]).all()]
    sky[bad] = sigma[bad] = np.nan
    if frames.sci_variances is not None:
        return sky, sigma
    grid = _TileGrid(tiles)
    ny, nx = frames.image.shape[1:]
    xp = arrays.namespace(frames.image)
    step = max(1, _PIXELS_OF_BAND // nx) if xp is np else ny
    for i, noise in enumerate(frames.noise):
        if np.isnan(sigma[i]):
            noise[:] = np.nan
            continue
        sky_nodes, sigma_nodes = (grid.nodes(stats[i, :, k]) for k in (SKY_SCI, SIGMA_SCI))
        for begin in range(0, ny, step):
            band = slice(begin, min(begin + step, ny))
            noise[band] = grid.spread(sigma_nodes, band)
            if gain is not None:
                above = frames.scis[i, band] - grid.spread(sky_nodes, band)
                # Bad pixels have no signal to add noise for.
                above = np.where(np.isnan(frames.image[i, band]), 0.0, np.maximum(above, 0.0))
                noise[band] = np.sqrt(noise[band] ** 2 + above / gain)
    return sky, sigma


class _TileGrid:
    """Interpolation between the centres of tiles, where the images are."""

    def __init__(self, tiles: TransinetTiles):
        ys, xs = (np.unique(tiles.origins[:, axis]) for axis in (0, 1))
        _, ny, nx = tiles.frames.image.shape
        h, w = tiles.shape
        self.shape = len(ys), len(xs)
        self.columns = _interpolation(np.arange(nx), xs + (w - 1) / 2)
        place = np.interp(np.arange(ny), ys + (h - 1) / 2, np.arange(len(ys)))
        above = place.astype(np.int64)
        below = np.minimum(above + 1, len(ys) - 1)
        part = (place - above).astype(np.float32)[:, None]
        self._there = arrays.namespace(tiles.frames.image).asarray
        self._rows = tuple(self._there(each) for each in (above, below, part))

    def nodes(self, per_tile: NDArray[np.float64]) -> Any:
        """Values of the tiles spread along the rows, (rows of tiles, nx) float32."""
        return self._there(per_tile.reshape(self.shape).astype(np.float32) @ self.columns)

    def spread(self, nodes: Any, band: slice) -> Any:
        """Values of the pixels of a band of rows.

        Row by row: a product of matrices would take every core, whatever `threads` says.
        """
        above, below, part = (each[band] for each in self._rows)
        result = nodes[above]
        return result + part * (nodes[below] - result)


def _interpolation(x: NDArray[Any], nodes: NDArray[Any]) -> NDArray[np.float32]:
    """(n_nodes, len(x)): weights with which values at `nodes` make the values at `x`."""
    return np.array([np.interp(x, nodes, unit) for unit in np.eye(len(nodes))], np.float32)
