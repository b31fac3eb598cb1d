"""dm-dt images: all pairs of points of a light curve in cells of time and magnitude difference."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdiff.core import arrays

from .curves import Curves, read_curves

__all__ = ["GRIDS", "NORMS", "Grid", "dmdt_images", "images_of"]

NORMS = {
    "paper": np.uint8,
    "counts": np.int64,
    "l2": np.float32,
    "dt": np.float32,
    "max": np.float32,
}
"""Names of the normalisations, and the dtype of their images."""

_KERNEL_NORMS = {"paper": 0, "l2": 1, "dt": 2, "max": 3}  # PAPER, L2, BY_COLUMN, MAX of the kernel
_GROUP_BYTES = 1 << 21  # of the counts that wait to be normalised: they stay in the cache
_GPU_GROUP_BYTES = 1 << 26  # the same on a GPU, where a launch needs much work


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class Grid:
    """Cells of a dm-dt image, by their edges.

    Parameters
    ----------
    dm : array_like, (n_dm + 1,)
        Ascending edges in magnitudes. A value that stands twice makes a row for exactly that
        value.
    dt : array_like, (n_dt + 1,)
        Ascending edges in days, from 0 or more.
    symmetric : bool
        On which side an edge of dm counts. If False, rows are ``dm[r] <= x < dm[r + 1]``, as
        everywhere. If True, a value on an edge below zero counts in the row below the edge: then
        the image of a curve turned upside down is the image turned upside down, bit for bit. The
        edges must be symmetric. Columns are ``dt[c] <= x < dt[c + 1]`` always.

    Raises
    ------
    ValueError
        If edges are not finite, do not ascend, are fewer than two, or `dt` is negative.

    See Also
    --------
    GRIDS : grids by name.

    Examples
    --------
    >>> Grid(dm=[-1, 0, 1], dt=[0, 1, 10, 100]).shape
    (2, 3)
    >>> GRIDS["mahabal2017"].shape
    (23, 24)
    """

    dm: NDArray[np.float64]
    dt: NDArray[np.float64]
    symmetric: bool = False

    def __init__(self, dm: ArrayLike, dt: ArrayLike, symmetric: bool = False):
        object.__setattr__(self, "dm", _edges(dm, "dm"))
        object.__setattr__(self, "dt", _edges(dt, "dt"))
        object.__setattr__(self, "symmetric", symmetric)
        repeated = np.flatnonzero(np.diff(self.dt) == 0)
        if repeated.size:
            raise ValueError(
                f"`dt` holds {self.dt[repeated[0]]:g} twice; its edges must differ: drop one"
            )
        if self.dt[0] < 0:
            raise ValueError(f"`dt` begins at {self.dt[0]:g} days; times ascend, so begin at 0")
        if self.symmetric and not np.array_equal(self.dm, -self.dm[::-1]):
            raise ValueError(
                "`dm` is not symmetric about 0; a symmetric grid needs an edge at -x for each "
                "at x: mirror the edges, or leave `symmetric` out"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(n_dm, n_dt): rows from the lowest dm (brighter) up, columns from the shortest dt."""
        return self.dm.size - 1, self.dt.size - 1

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """A pair is in row r if ``thresholds[r] <= dm < thresholds[r + 1]``, (n_dm + 1,)."""
        edges = self.dm.copy()
        twice = np.diff(edges, prepend=-np.inf) == 0  # the second of two equal edges
        beyond = twice if not self.symmetric else twice | (edges < 0)
        edges[beyond] = np.nextafter(edges[beyond], np.inf)
        return edges

    @classmethod
    def linear(cls, dm: float, n_dm: int, dt: float, n_dt: int) -> Grid:
        """Equal steps: `n_dm` rows from -dm to dm, `n_dt` columns from 0 to dt days.

        Examples
        --------
        >>> Grid.linear(1.0, 4, 30.0, 3).dt
        array([ 0., 10., 20., 30.])
        """
        return cls(np.linspace(-dm, dm, n_dm + 1), np.linspace(0, dt, n_dt + 1))

    @classmethod
    def log(cls, dm: float, n_dm: int, dt_min: float, dt_max: float, n_dt: int) -> Grid:
        """`n_dm` equal rows from -dm to dm, `n_dt` columns in equal ratios, dt_min to dt_max.

        Examples
        --------
        >>> Grid.log(1.0, 4, 0.01, 100.0, 4).dt
        array([1.e-02, 1.e-01, 1.e+00, 1.e+01, 1.e+02])
        """
        return cls(np.linspace(-dm, dm, n_dm + 1), np.geomspace(dt_min, dt_max, n_dt + 1))


def _edges(x: Any, name: str) -> NDArray[np.float64]:
    edges = np.array(x, dtype=np.float64)
    if edges.ndim != 1 or edges.size < 2:
        raise ValueError(f"`{name}` has shape {edges.shape}; it must be two or more edges, (n,)")
    if not np.isfinite(edges).all():
        raise ValueError(
            f"`{name}` holds {edges[~np.isfinite(edges)][0]:g}; edges must be finite: bound the "
            "outer cells by numbers"
        )
    fall = np.flatnonzero(np.diff(edges) < 0)
    if fall.size:
        i = int(fall[0])
        raise ValueError(
            f"`{name}` falls from {edges[i]:g} to {edges[i + 1]:g}; edges must ascend: sort them"
        )
    if (edges[2:] == edges[:-2]).any():
        raise ValueError(f"`{name}` holds an edge three times; twice makes a row of one value")
    edges.flags.writeable = False
    return edges


def _mirrored(dm: Sequence[float], dt: Sequence[float]) -> Grid:
    """A grid as in the paper: plus and minus each edge, -0 and +0 both, columns from dt 0."""
    positive = np.array(dm)
    return Grid(np.concatenate((-positive[::-1], positive)), np.array([0, *dt]), symmetric=True)


_NIGHT = (1 / 145, 2 / 145, 3 / 145, 4 / 145)  # four images in half an hour
_DM = (0, 0.1, 0.2, 0.3, 0.5, 1, 1.5, 2, 2.5, 3, 5, 8)
_FINE_DM = (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 1, 1.5, 2, 2.5, 3, 5, 8)
_DT = (
    *_NIGHT, 1 / 25, 2 / 25, 3 / 25, 1.5, 2.5, 3.5, 4.5, 5.5, 7, 10, 20, 30, 60, 90, 120, 240,
    600, 960, 2000, 4000,
)  # fmt: skip
_COARSE_DT = (*_NIGHT, 1.5, 2.5, 3.5, 4.5, 5.5, 7, 20, 60, 120, 600, 960, 4000)

GRIDS: dict[str, Grid] = {
    "mahabal2017": _mirrored(_DM, _DT),
    "new1": _mirrored(_FINE_DM, _DT),
    "new2": _mirrored(_FINE_DM, _COARSE_DT),
    "new3": _mirrored(_DM, _COARSE_DT),
    "ztf": Grid(
        [-8, -4.5, -3, -2.5, -2, -1.5, -1.25, -0.75, -0.5, -0.3, -0.2, -0.1, -0.05, 0,
         0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.25, 1.5, 2, 2.5, 3, 4.5, 8],
        [0, 4 / 145, 1 / 25, 2 / 25, 3 / 25, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 3.5, 4.5, 5.5, 7, 10, 20,
         30, 45, 60, 75, 90, 120, 150, 180, 210, 240],
    ),
}  # fmt: skip
"""Grids by name: the paper's (section III) with 23 x 24 cells, its New 1 (31 x 24), New 2 (31 x
16) and New 3 (23 x 16) of Table III, and the 26 x 26 half-open cells that ZTF's source
classification uses (van Roestel et al. 2021, AJ 161, 267)."""


def dmdt_images(
    time: ArrayLike | Sequence[ArrayLike],
    mag: ArrayLike | Sequence[ArrayLike],
    offsets: ArrayLike | None = None,
    *,
    magerr: ArrayLike | Sequence[ArrayLike] | None = None,
    grid: str | Grid = "mahabal2017",
    norm: str = "paper",
    smooth: str = "fast",
    return_flags: bool = False,
    threads: int | None = None,
) -> Any:
    """dm-dt images of light curves [1]_.

    Each pair of points of a curve, the later minus the earlier, counts in the cell of its
    ``dt = t[j] - t[i]`` and ``dm = m[j] - m[i]``, both in float64. Of points at equal times the
    one that came first in the input is the earlier.

    Parameters
    ----------
    time, mag : array_like or list of array_like
        Times in days and magnitudes: one curve, (n_points,); many curves in flat arrays with
        `offsets`; or a list with an array for each curve. Any order, real dtype and byte order.
        Points that are NaN, infinite or masked are left out. With CuPy arrays,
        pairs are counted on their GPU, on the current stream.
    offsets : array_like of int, (n + 1,), optional
        Curve i holds the points ``offsets[i]:offsets[i + 1]``.
    magerr : array_like or list of array_like, optional
        1 sigma errors of the magnitudes. With them each pair is spread along dm as a Gaussian
        of variance ``magerr[i]**2 + magerr[j]**2``; what falls outside the grid is lost.
        A pair without error counts in its cell.
    grid : str or Grid
        A name in `GRIDS` ("mahabal2017", "new1", "new2", "new3", "ztf"), or any edges. The
        paper's grids begin at dt = 0 and have both -0 and +0 as edges, so that the middle row
        holds dm exactly 0; edges below zero count downwards (`Grid.symmetric`).
    norm : {"paper", "counts", "l2", "dt", "max"}
        With n pairs in a cell and p = n_points (n_points - 1) / 2 of a curve, those outside
        the grid included: "paper", int(255 n / p + 0.99999); "counts", n; "l2", n over the
        square root of the sum of n**2; "dt", n over the pairs in the column, at any dm; "max",
        n over the greatest n.
    smooth : {"fast", "exact"}
        The normal distribution that `magerr` is spread by: within 2e-7 (4e-7 for the share of
        a pair in a cell), or the error function.
    return_flags : bool
        Whether to return flags as well.
    threads : int, optional
        CPU threads; all cores by default.

    Returns
    -------
    images : array, (n, n_dm, n_dt)
        A NumPy array, or a CuPy array if CuPy arrays came. Row 0 has the lowest dm (brightening),
        column 0 the shortest dt. uint8 for "paper", int64 for "counts" (float64 with `magerr`),
        else float32. A curve of fewer than two points, and one without a pair in the grid, gives
        zeros: see the flags.
    flags : array of uint8, (n,)
        If asked for, an array of the same kind. Bits `FEW` (fewer than 20 points, which the paper
        leaves out), `DROPPED`, `EMPTY` and `CONSTANT_TIME` of `fastdiff.lightcurves.curves`.

    Raises
    ------
    TypeError
        If an array is not of real numbers, or arrays lie on several devices.
    ValueError
        If lengths differ, `offsets` do not fit, an error is negative, or a name is unknown.

    Warns
    -----
    UserWarning
        If float32 times reach 10,000 days: pairs change cells.

    Notes
    -----
    Cost per pair and core: 2 ns; less for curves of more than 2000 points, where it grows like
    n_points**1.5; with errors 30 ns (fast) or 300 ns. Arrays of a GPU are copied to the CPU once,
    where the door checks and sorts them, and back. Memory: the images, and a few MB, on a GPU 64.

    References
    ----------
    .. [1] Mahabal et al. 2017, arXiv:1709.06257, sections III and V.

    Examples
    --------
    Three pairs, one of them fainter by 0.15 mag after 2 days:

    >>> images = dmdt_images([0.0, 2.0, 50.0], [15.0, 15.15, 15.0])
    >>> images.shape, images.dtype.name, images[0].nonzero()
    ((1, 23, 24), 'uint8', (array([ 9, 11, 13]), array([16, 16,  8])))
    """
    grid = _check_options(grid, norm, smooth)
    curves = read_curves(time, mag, offsets, magerr, threads=threads)
    images = images_of(curves, grid=grid, norm=norm, smooth=smooth, threads=threads)
    return (images, np.asarray(curves.flags, like=images)) if return_flags else images


def images_of(
    curves: Curves,
    *,
    grid: str | Grid = "mahabal2017",
    norm: str = "paper",
    smooth: str = "fast",
    threads: int | None = None,
) -> Any:
    """Images of curves that came through the door, as `dmdt_images` makes them."""
    from fastdiff.kernels.curve import dmdt_norm  # Numba takes a second to import

    grid = _check_options(grid, norm, smooth)
    dtype = np.dtype(NORMS[norm])
    if norm == "counts" and curves.magerr is not None:
        dtype = np.dtype(np.float64)
    n_rows, n_columns = grid.shape
    images = np.empty_like(curves.time, dtype, shape=(len(curves), n_rows, n_columns))
    n_pairs = curves.n_points * (curves.n_points - 1) // 2
    on_cpu = arrays.namespace(images) is np
    group = (_GROUP_BYTES if on_cpu else _GPU_GROUP_BYTES) // (8 * (n_rows + 2) * n_columns)
    for first in range(0, len(curves), max(1, group)):
        own = slice(first, first + max(1, group))
        counts = _count(curves.part(first, own.stop), grid, smooth, threads)
        if norm == "counts":
            images[own] = counts[:, :, 1:-1].transpose(0, 2, 1)
        else:
            pairs = np.asarray(n_pairs[own], like=images)
            dmdt_norm.normalise(counts, pairs, _KERNEL_NORMS[norm], images[own], threads=threads)
    return images


def _check_options(grid: str | Grid, norm: str, smooth: str) -> Grid:
    """The grid that was meant; an error for a name that is unknown."""
    if norm not in NORMS:
        known = ", ".join(repr(name) for name in NORMS)
        raise ValueError(f"norm is {norm!r}; known normalisations are {known}")
    if smooth not in ("fast", "exact"):
        raise ValueError(f"smooth is {smooth!r}; it must be 'fast' or 'exact'")
    if isinstance(grid, str):
        if grid not in GRIDS:
            known = ", ".join(repr(name) for name in GRIDS)
            raise ValueError(f"grid is {grid!r}; known grids are {known}, or pass a `Grid`")
        return GRIDS[grid]
    if not isinstance(grid, Grid):
        raise TypeError(f"grid is a {type(grid).__name__}; it must be a name or a `Grid(dm, dt)`")
    return grid


def _count(curves: Curves, grid: Grid, smooth: str, threads: int | None) -> Any:
    """Pairs of curves, (n, n_dt, n_dm + 2): also those below and above all rows."""
    from fastdiff.kernels.curve import dmdt, dmdt_smooth  # Numba takes a second to import

    thresholds, parts = grid.thresholds, []
    for dt in _blocks_of_columns(grid.dt, thresholds.size + 1, dmdt.MAX_CELLS):
        cells = curves.offsets, dt, thresholds
        if curves.magerr is None:
            parts.append(dmdt.count_pairs(curves.time, curves.mag, *cells, threads))
        else:
            points, exact = (curves.time, curves.mag, curves.magerr), smooth == "exact"
            parts.append(dmdt_smooth.smooth_pairs(*points, *cells, exact, threads))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _blocks_of_columns(
    dt: NDArray[np.float64], n_rows: int, max_cells: int
) -> Iterator[NDArray[np.float64]]:
    """Edges of blocks of columns that are small enough for the kernels' tables."""
    if n_rows > max_cells:
        raise ValueError(f"the grid has {n_rows - 2} rows; it may have {max_cells - 2}")
    n_columns = max_cells // n_rows
    for first in range(0, dt.size - 1, n_columns):
        yield dt[first : first + n_columns + 1].copy()
