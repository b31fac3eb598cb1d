"""The one door for light curves: ragged batches, checked, finite and in the order of time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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
    time : array of float64, (n_points,)
        Days since the first point of each curve, ascending within it. A NumPy array, or a CuPy
        array if the caller's arrays lie on a GPU.
    mag : array of float64, (n_points,)
        Finite magnitudes, on the device of `time`.
    magerr : array of float64, (n_points,), or None
        Their errors, finite and not negative, on the device of `time`.
    offsets : ndarray of int64, (n + 1,)
        Where each curve starts; the last entry is n_points. In the memory of the CPU.
    flags : ndarray of uint8, (n,)
        Bits `FEW`, `DROPPED`, `EMPTY`, `CONSTANT_TIME`. In the memory of the CPU.
    """

    time: Any
    mag: Any
    magerr: Any
    offsets: NDArray[np.int64]
    flags: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_points(self) -> NDArray[np.int64]:
        """Points of each curve, (n,)."""
        return np.diff(self.offsets)

    @property
    def flat(self) -> tuple[Any, Any, Any, NDArray[np.int64]]:
        """(time, mag, magerr, offsets) as kernels take them: `magerr` is empty for None."""
        return (
            self.time,
            self.mag,
            self.time[:0] if self.magerr is None else self.magerr,
            self.offsets,
        )

    def part(self, first: int, last: int) -> Curves:
        """Curves first <= i < last, sharing memory with all."""
        offsets = self.offsets[first : last + 1]
        points = slice(offsets[0], offsets[-1])
        return Curves(
            self.time[points],
            self.mag[points],
            None if self.magerr is None else self.magerr[points],
            offsets - offsets[0],
            self.flags[first:last],
        )

    def on_host(self) -> Curves:
        """The same curves in the memory of the CPU."""
        magerr = None if self.magerr is None else arrays.on_host(self.magerr)
        time, mag = arrays.on_host(self.time), arrays.on_host(self.mag)
        return replace(self, time=time, mag=mag, magerr=magerr)


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
        CuPy arrays are checked and sorted on the CPU and come back to their GPU.
    offsets : array_like of int, (n + 1,), optional
        Curve i holds the points ``offsets[i]:offsets[i + 1]`` of the flat arrays; from 0,
        ascending, to the number of points. On any device.
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
        If an array is not of real numbers, `offsets` are not integers, `magerr` is missing, or
        arrays lie on several devices.
    ValueError
        If lengths differ, `offsets` do not ascend or do not fit, or an error is negative.

    Warns
    -----
    UserWarning
        If float32 times reach 10,000 days: they were rounded to minutes before they came
        (MJD: 340 s), so that pairs change cells.

    Notes
    -----
    Cost: some 10 ns a point, 50 ns where a curve is not sorted, and for arrays of a GPU two
    copies. Memory: what comes back, 8 bytes a point and array.

    Examples
    --------
    >>> curves = read_curves([58002.5, 58000.0, 58001.0], [15.2, 15.0, float("nan")])
    >>> curves.time, curves.mag, describe_flags(curves.flags[0])
    (array([0. , 2.5]), array([15. , 15.2]), 'FEW, DROPPED')
    """
    from fastdiff.kernels.curve import curves as kernel  # Numba takes a second to import

    if need_magerr and magerr is None:
        raise TypeError("`magerr` is None; this needs the error of every magnitude: pass `magerr`")
    times = _read(time, "time", offsets is not None)
    _check_resolution(times.values, times.dtype)
    given = {"time": times, "mag": _read(mag, "mag", offsets is not None)}
    if magerr is not None:
        given["magerr"] = _read(magerr, "magerr", offsets is not None)
    for name, read in given.items():
        _check_lengths(name, read.lengths, times.lengths)
    device = arrays.check_devices({name: read.device for name, read in given.items()})
    arrays.check_current_device(device)
    if offsets is None:
        starts = np.concatenate(([0], np.cumsum(times.lengths, dtype=np.int64)))
    else:
        starts = _read_offsets(offsets, times.values.size)

    errors = given["magerr"].values if magerr is not None else np.empty(0)
    flat = times.values, given["mag"].values, errors, starts
    n_good, state = kernel.inspect_curves(*flat, threads)
    if (state & kernel.NEGATIVE).any():
        first = int(np.flatnonzero(errors < 0)[0])
        curve = int(np.searchsorted(starts, first, "right")) - 1
        raise ValueError(
            f"`magerr` of curve {curve} holds {errors[first]:g}; errors must be 0 or positive: "
            "mark unknown ones by NaN"
        )
    missing = (state & kernel.MISSING) != 0
    flags = FEW * (n_good < MIN_POINTS) | DROPPED * missing | EMPTY * (n_good < 2)
    flags |= CONSTANT_TIME * ((state & kernel.CONSTANT_TIME) != 0)
    *points, starts = kernel.arrange_curves(*flat, n_good, state, threads)
    if device != "cpu":
        points = [np.asarray(each, like=times.origin) for each in points]
    kept = None if magerr is None else points[2]
    return Curves(points[0], points[1], kept, starts, flags.astype(np.uint8))


class _Points(NamedTuple):
    """One argument: the values of all curves, in the memory of the CPU, and what came.

    `lengths` are the numbers of points of the curves; `origin` is an array of the caller's.
    """

    values: NDArray[np.float64]
    lengths: NDArray[np.int64]
    dtype: np.dtype[Any]
    device: str
    origin: Any


def _read(x: Any, name: str, flat: bool) -> _Points:
    """Read one argument; with `flat` it is one array of all curves."""
    if isinstance(x, (list, tuple)) and not flat and (not x or _has_axes(x[0])):
        return _read_list(x, name)
    array, mask, device, origin = _open(x, name)
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
    values = np.require(array.reshape(-1), np.float64, ["C", "A", "W", "E"])
    return _Points(values, lengths, dtype, device, origin)


def _has_axes(x: Any) -> bool:
    return bool(x.ndim > 0 if hasattr(x, "ndim") else np.ndim(x) > 0)


def _open(x: Any, name: str) -> tuple[NDArray[Any], NDArray[np.bool_] | None, str, Any]:
    """(values in the memory of the CPU, mask or None, device that they came from, what came)."""
    array, mask, kind, device = arrays.open_array(x, name)
    if device == "cpu":
        return np.asarray(array), mask, device, array
    if kind == "torch":
        raise TypeError(
            f"`{name}` is on {device}; light curves are CuPy arrays, or lie in the memory of the "
            "CPU: pass `cupy.asarray(tensor)`, or call `.cpu()`"
        )
    return arrays.on_host(array), mask, device, array


def _read_list(x: Sequence[Any], name: str) -> _Points:
    """Read a list with an array for each curve."""
    parts = [_read(part, f"{name}[{i}]", flat=True) for i, part in enumerate(x)]
    device = arrays.check_devices({f"{name}[{i}]": part.device for i, part in enumerate(parts)})
    lengths = np.array([part.values.size for part in parts], np.int64)
    values = np.concatenate([np.empty(0), *(part.values for part in parts)])
    coarsest = min((part.dtype for part in parts), key=_resolution, default=np.dtype(np.float64))
    return _Points(values, lengths, coarsest, device, parts[0].origin if parts else None)


def _resolution(dtype: np.dtype[Any]) -> int:
    """Digits of a dtype in bytes; integers have all of theirs."""
    return dtype.itemsize if dtype.kind == "f" else 8


def _check_resolution(time: NDArray[np.float64], dtype: np.dtype[Any]) -> None:
    """Warn of times that were rounded before they came."""
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
    """ValueError unless an argument has the curves of `time`."""
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
    """Where curves start in flat arrays, checked."""
    array, _, _, _ = _open(x, "offsets")
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
