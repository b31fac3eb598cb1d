"""The one door for light curves: ragged batches, checked, finite and in the order of time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdiff.core import arrays

__all__ = [
    "CONSTANT_TIME",
    "DROPPED",
    "EMPTY",
    "FEW",
    "MIN_POINTS",
    "Curves",
    "describe_flags",
    "read_curves",
]

MIN_POINTS = 20
"""A light curve with fewer points is flagged `FEW` (Mahabal et al. 2017, section III)."""

FEW = 1
"""Flag: fewer than `MIN_POINTS` points are left."""
DROPPED = 2
"""Flag: points without a finite time, magnitude or (where errors came) error were dropped."""
EMPTY = 4
"""Flag: fewer than two points are left, so there is no pair."""
CONSTANT_TIME = 8
"""Flag: all points have one time."""

_NAMES = {FEW: "FEW", DROPPED: "DROPPED", EMPTY: "EMPTY", CONSTANT_TIME: "CONSTANT_TIME"}
_FLOAT32_DAYS = 1e4  # float32 times beyond this are no better than 84 s


@dataclass(frozen=True)
class Curves:
    """Light curves that came through the door; curve i is ``offsets[i]:offsets[i + 1]``.

    Attributes
    ----------
    time : ndarray of float64, (n_points,)
        Days since the first point of each curve, ascending within it.
    mag : ndarray of float64, (n_points,)
        Finite magnitudes. It may share memory with the caller's array: do not write to it.
    magerr : ndarray of float64, (n_points,), or None
        Their errors, finite and not negative. The same holds.
    offsets : ndarray of int64, (n + 1,)
        Where each curve starts; the last entry is n_points.
    flags : ndarray of uint8, (n,)
        Bits `FEW`, `DROPPED`, `EMPTY`, `CONSTANT_TIME`.
    """

    time: NDArray[np.float64]
    mag: NDArray[np.float64]
    magerr: NDArray[np.float64] | None
    offsets: NDArray[np.int64]
    flags: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_points(self) -> NDArray[np.int64]:
        """Points of each curve, (n,)."""
        return np.diff(self.offsets)


def describe_flags(flag: int) -> str:
    """Names of the bits of a flag.

    Examples
    --------
    >>> describe_flags(5), describe_flags(0)
    ('FEW, EMPTY', '')
    """
    return ", ".join(name for bit, name in _NAMES.items() if flag & bit)


def read_curves(
    time: ArrayLike | Sequence[ArrayLike],
    mag: ArrayLike | Sequence[ArrayLike],
    offsets: ArrayLike | None = None,
    magerr: ArrayLike | Sequence[ArrayLike] | None = None,
    *,
    need_magerr: bool = False,
    threads: int | None = None,
) -> Curves:
    """Let light curves through the door.

    Parameters
    ----------
    time, mag : array_like or list of array_like
        Times in days and magnitudes: one curve, (n_points,); many curves in flat arrays with
        `offsets`; a list with an array for each curve; or (n, n_points) for curves of one
        length. Any order, real dtype and byte order. Points that are NaN, infinite or masked
        are dropped. An empty list holds no curves, an empty array is a curve without points.
    offsets : array_like of int, (n + 1,), optional
        Curve i holds the points ``offsets[i]:offsets[i + 1]`` of the flat arrays; from 0,
        ascending, to the number of points.
    magerr : array_like or list of array_like, optional
        1 sigma errors of the magnitudes, laid out like them; none may be negative. Points
        whose error is not finite are dropped.
    need_magerr : bool
        Whether `magerr` must be there.
    threads : int, optional
        CPU threads; all cores by default.

    Returns
    -------
    Curves
        Sorted by time within each curve; points at equal times keep their order.

    Raises
    ------
    TypeError
        If an array is not of real numbers, `offsets` are not integers, or `magerr` is missing.
    ValueError
        If lengths differ, `offsets` do not ascend or do not fit, or an error is negative.

    Warns
    -----
    UserWarning
        If float32 times reach 10,000 days: they were rounded to minutes before they came
        (MJD: 340 s), so that pairs change cells.

    Notes
    -----
    Cost: some 10 ns a point, 50 ns where a curve is not sorted. Memory: what comes
    back, 8 bytes a point and array.

    Examples
    --------
    >>> curves = read_curves([58002.5, 58000.0, 58001.0], [15.2, 15.0, float("nan")])
    >>> curves.time, curves.mag, describe_flags(curves.flags[0])
    (array([0. , 2.5]), array([15. , 15.2]), 'FEW, DROPPED')
    """
    from fastdiff.kernels.curve import curves as kernel  # Numba takes a second to import

    if need_magerr and magerr is None:
        raise TypeError("`magerr` is None; this needs the error of every magnitude: pass `magerr`")
    flat_time, lengths, dtype = _read(time, "time", offsets is not None)
    _check_resolution(flat_time, dtype)
    flat_mag, mag_lengths, _ = _read(mag, "mag", offsets is not None)
    _check_lengths("mag", mag_lengths, lengths)
    flat_err = np.empty(0)
    if magerr is not None:
        flat_err, err_lengths, _ = _read(magerr, "magerr", offsets is not None)
        _check_lengths("magerr", err_lengths, lengths)
    if offsets is None:
        starts = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    else:
        starts = _read_offsets(offsets, flat_time.size)

    flat = flat_time, flat_mag, flat_err, starts
    n_good, state = kernel.inspect_curves(*flat, threads)
    if (state & kernel.NEGATIVE).any():
        first = int(np.flatnonzero(flat_err < 0)[0])
        curve = int(np.searchsorted(starts, first, "right")) - 1
        raise ValueError(
            f"`magerr` of curve {curve} holds {flat_err[first]:g}; errors must be 0 or positive: "
            "mark unknown ones by NaN"
        )
    missing = (state & kernel.MISSING) != 0
    arranged = kernel.arrange_curves(*flat, n_good, state, threads)
    flags = FEW * (n_good < MIN_POINTS) | DROPPED * missing | EMPTY * (n_good < 2)
    flags |= CONSTANT_TIME * ((state & kernel.CONSTANT_TIME) != 0)
    return Curves(
        arranged[0],
        arranged[1],
        None if magerr is None else arranged[2],
        arranged[3],
        flags.astype(np.uint8),
    )


def _read(
    x: Any, name: str, flat: bool
) -> tuple[NDArray[np.float64], NDArray[np.int64], np.dtype[Any]]:
    """Points of all curves in one array, the number of points of each curve, the dtype."""
    if isinstance(x, (list, tuple)) and not flat and (not x or np.ndim(x[0]) > 0):
        parts = [_read(part, f"{name}[{i}]", flat=True) for i, part in enumerate(x)]
        lengths = np.array([part[0].size for part in parts], np.int64)
        coarsest = min((part[2] for part in parts), key=_resolution, default=np.dtype(np.float64))
        return np.concatenate([np.empty(0), *(part[0] for part in parts)]), lengths, coarsest
    array, mask, _, device = arrays.open_array(x, name)
    if device != "cpu":
        raise TypeError(
            f"`{name}` is on {device}; light curves are taken from the memory of the CPU: call "
            "`.cpu()` on a tensor, `.get()` on a CuPy array"
        )
    array = np.asarray(array)
    if array.dtype.kind not in "fui":
        raise TypeError(
            f"`{name}` has dtype {array.dtype}; it must be real numbers: convert it with "
            "`.astype('float64')`, times of astropy with `.mjd`"
        )
    if array.ndim != 1 and (flat or array.ndim != 2):
        raise ValueError(
            f"`{name}` has shape {array.shape}; it must be (n_points,): one curve, or many with "
            "`offsets`, or a list with one array for each curve"
        )
    lengths = np.full(len(array) if array.ndim == 2 else 1, array.shape[-1], np.int64)
    dtype = array.dtype
    array = array.astype(np.float64, copy=mask is not None)
    if mask is not None:
        array[mask] = np.nan
    return np.require(array.reshape(-1), np.float64, ["C", "A", "W", "E"]), lengths, dtype


def _resolution(dtype: np.dtype[Any]) -> int:
    """Digits of a dtype in bytes; integers have all of theirs."""
    return dtype.itemsize if dtype.kind == "f" else 8


def _check_resolution(time: NDArray[np.float64], dtype: np.dtype[Any]) -> None:
    if _resolution(dtype) >= 8:
        return
    largest = np.max(np.abs(time), initial=0, where=np.isfinite(time))
    if largest >= _FLOAT32_DAYS:
        step = float(np.spacing(dtype.type(largest))) * 86400
        warnings.warn(
            f"`time` has dtype {dtype} and reaches {largest:.0f} days, where it is rounded to "
            f"steps of {step:.0f} s: pairs change cells; pass float64, or subtract the first "
            "time before narrowing",
            UserWarning,
            stacklevel=4,
        )


def _check_lengths(name: str, lengths: NDArray[np.int64], wanted: NDArray[np.int64]) -> None:
    if lengths.size != wanted.size:
        raise ValueError(
            f"`{name}` has {lengths.size} curves and `time` {wanted.size}; they must be laid out "
            "alike: one array for each curve in both"
        )
    if (lengths != wanted).any():
        i = int(np.flatnonzero(lengths != wanted)[0])
        of = f" of curve {i}" if wanted.size > 1 else ""
        raise ValueError(
            f"`{name}`{of} has {lengths[i]} points and `time` {wanted[i]}; each time needs one "
            "value: mark missing ones by NaN"
        )


def _read_offsets(x: Any, n_points: int) -> NDArray[np.int64]:
    array = np.asarray(arrays.open_array(x, "offsets")[0])
    if array.dtype.kind not in "ui":
        raise TypeError(
            f"`offsets` has dtype {array.dtype}; it must be integers: convert it with "
            "`.astype('int64')`"
        )
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"`offsets` has shape {array.shape}; it must be (n + 1,): where each curve starts, "
            "and the number of points at the end"
        )
    starts = np.require(array, np.int64, ["C", "A", "W", "E"])
    if (np.diff(starts) < 0).any():
        i = int(np.flatnonzero(np.diff(starts) < 0)[0])
        raise ValueError(
            f"`offsets` falls from {starts[i]} to {starts[i + 1]} at {i + 1}; it must ascend: "
            "put the points of each curve together, as in `numpy.cumsum` of their numbers"
        )
    if starts[0] != 0 or starts[-1] != n_points:
        raise ValueError(
            f"`offsets` runs from {starts[0]} to {starts[-1]}; it must run from 0 to the "
            f"{n_points} points of `time`: it has n + 1 entries for n curves"
        )
    return starts
