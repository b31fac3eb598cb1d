"""Where the tiles of a frame lie, and how they are blended where they overlap."""

from __future__ import annotations

import numpy as np

FRAME, TILE, ROW, COLUMN = range(4)
"""Columns of `places`: a frame, a tile of it, and the tile's first row and column."""


def plan_tiles(
    ny: int, nx: int, tile: int = 256, overlap: int = 32, multiple: int = 16
) -> tuple[np.ndarray, tuple[int, int]]:
    """Where the tiles of a frame lie.

    All tiles have one shape, as small as the number of them allows, and are spread evenly
    from edge to edge. A side of up to ``tile + overlap`` pixels is one tile; only then can
    a tile reach beyond the frame (to the next multiple of `multiple`).

    Parameters
    ----------
    ny, nx : int
        Shape of the frame, pixels.
    tile : int
        Largest side of a tile where there are several, pixels; a multiple of `multiple`.
    overlap : int
        Least number of pixels that neighbours share.
    multiple : int
        The sides of a tile are multiples of it (the stride of the network).

    Returns
    -------
    origins : ndarray of int64, (n_tiles, 2)
        First row and column of each tile, row by row of tiles.
    shape : tuple of int
        (h, w) of every tile.

    Raises
    ------
    ValueError
        If a size is not positive, or `tile` is not a multiple of `multiple` above 2 `overlap`.

    Examples
    --------
    >>> origins, shape = plan_tiles(1000, 100, tile=256, overlap=32)
    >>> shape, len(origins)
    ((240, 112), 5)
    """
    if ny < 1 or nx < 1:
        raise ValueError(f"the frame has shape ({ny}, {nx}); each side must be at least 1 pixel")
    if multiple < 1 or overlap < 0 or tile % multiple or tile <= 2 * overlap:
        raise ValueError(
            f"`tile` is {tile} with `overlap` {overlap}; it must be a multiple of {multiple} "
            "and more than twice the overlap: raise `tile` or lower `overlap`"
        )
    (ys, h), (xs, w) = (_plan_axis(n, tile, overlap, multiple) for n in (ny, nx))
    grid = np.meshgrid(ys, xs, indexing="ij")
    return np.stack([axis.ravel() for axis in grid], axis=1), (h, w)


def _plan_axis(n: int, tile: int, overlap: int, multiple: int) -> tuple[np.ndarray, int]:
    """First pixels of the tiles along an axis of n pixels, and their length."""
    whole = -(-n // multiple) * multiple
    if whole <= tile + overlap:
        return np.zeros(1, np.int64), whole
    count = -(-(n - overlap) // (tile - overlap))
    length = -(-(n + (count - 1) * overlap) // count)
    length = -(-length // multiple) * multiple
    return np.arange(count, dtype=np.int64) * (n - length) // (count - 1), length


def blend_weights(origins: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the rows and of the columns of each tile; their products sum to 1 everywhere.

    In an overlap the weight falls linearly over the middle half: the outer quarter of a tile's
    share, where the network saw least around a pixel, does not count.

    Parameters
    ----------
    origins : ndarray of int, (n_tiles, 2)
        As of `plan_tiles`.
    shape : tuple of int
        (h, w) of every tile.

    Returns
    -------
    weights_y : ndarray of float32, (n_tiles, h)
    weights_x : ndarray of float32, (n_tiles, w)
    """
    return tuple(_blend_axis(origins[:, axis], shape[axis]) for axis in (0, 1))


def _blend_axis(origins: np.ndarray, length: int) -> np.ndarray:
    """Weights along an axis of tiles of one length."""
    starts, tile_of = np.unique(origins, return_inverse=True)
    pixel = np.arange(length)
    weights = np.ones((len(starts), length))
    for i, (left, right) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        shared = left + length - right
        ramp = np.clip(((np.arange(shared) + 0.5) / shared - 0.25) * 2, 0, 1)
        weights[i, length - shared :] *= 1 - ramp
        weights[i + 1, :shared] *= ramp
    # Where three tiles meet (overlaps of more than half a tile) ramps alone do not sum to 1.
    total = np.zeros(starts[-1] + length)
    for start, row in zip(starts, weights, strict=True):
        total[start + pixel] += row
    for start, row in zip(starts, weights, strict=True):
        row /= total[start + pixel]
    return weights.astype(np.float32)[tile_of.ravel()]


def places_of(frames: np.ndarray, tiles: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """Places of tiles in a batch.

    Parameters
    ----------
    frames, tiles : ndarray of int, (m,)
        Frame of each, and which of the frame's tiles it is.
    origins : ndarray of int, (n_tiles, 2)
        As of `plan_tiles`.

    Returns
    -------
    ndarray of int64, (m, 4)
        Columns `FRAME`, `TILE`, `ROW`, `COLUMN`.
    """
    places = np.empty((len(frames), 4), np.int64)
    places[:, FRAME] = frames
    places[:, TILE] = tiles
    places[:, ROW], places[:, COLUMN] = origins[tiles].T
    return places
