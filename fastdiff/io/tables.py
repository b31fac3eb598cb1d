"""Light curves from files: tables with a row a point, and npz archives with ragged arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["LightCurves", "read_light_curve_files", "read_light_curves"]

# Names of columns that are understood, in lower case; the first that a file has is taken.
_NAMES = {
    "time": ("time", "t", "mjd", "hjd", "bjd", "jd", "date", "hmjd"),
    "mag": ("mag", "magnitude", "m", "magpsf", "mag_auto", "psfmag"),
    "magerr": ("magerr", "mag_err", "e_mag", "err", "error", "sigma", "dmag", "sigmapsf", "merr"),
    "curve": ("id", "objectid", "objid", "oid", "object", "name", "star", "source_id", "num"),
}
_NEEDED = ("time", "mag")


@dataclass(frozen=True)
class LightCurves:
    """Light curves of files, as `fastdiff.dmdt_images` and others take them.

    Attributes
    ----------
    names : ndarray of str, (n,)
        Name of each curve: what its column says, or that of its file.
    time, mag : ndarray of float64, (n_points,)
    magerr : ndarray of float64, (n_points,), or None
    offsets : ndarray of int64, (n + 1,)
    columns : dict
        Which column was taken for "time", "mag", "magerr" and "curve", by its name in the file.
    """

    names: NDArray[np.str_]
    time: NDArray[np.float64]
    mag: NDArray[np.float64]
    magerr: NDArray[np.float64] | None
    offsets: NDArray[np.int64]
    columns: dict[str, str]


def read_light_curves(
    path: str | os.PathLike[str], columns: Mapping[str, str] | None = None
) -> LightCurves:
    """Read light curves from a file.

    Parameters
    ----------
    path : path
        A table with a row a point (CSV, ECSV, FITS, Parquet or what else astropy reads by the
        suffix), of one curve or with a column that names the curve; or an npz archive with flat
        arrays of points, an array "offsets" (n + 1,) and names of the curves, if any.
    columns : mapping, optional
        Which column is "time", "mag", "magerr" or "curve"; guessed from its name by default.

    Returns
    -------
    LightCurves
        Curves in the order of their first points; masked entries are NaN.

    Raises
    ------
    FileNotFoundError
    ValueError
        If the file cannot be read, or a column is missing or cannot be guessed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    unknown = set(columns or ()) - set(_NAMES)
    if unknown:
        raise ValueError(f"columns has {sorted(unknown)}; it may have {', '.join(_NAMES)}")
    if path.suffix == ".npz":
        return _read_archive(path, columns or {})
    table = _read_table(path)
    found = _choose(table.colnames, columns or {}, path)
    points = {role: _numbers(table[name], name, path) for role, name in found.items()
              if role != "curve"}  # fmt: skip
    if "curve" not in found:
        names, offsets = np.array([path.stem]), np.array([0, len(table)])
    else:
        labels = np.asarray(table[found["curve"]]).astype(str)
        names, first, which = np.unique(labels, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))[which]  # in the order of their first points
        order = np.argsort(rank, kind="stable")
        points = {role: values[order] for role, values in points.items()}
        names = names[np.argsort(first)]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rank, minlength=len(names)))])
    return LightCurves(
        names, points["time"], points["mag"], points.get("magerr"), offsets.astype(np.int64), found
    )


def read_light_curve_files(
    paths: Iterable[str | os.PathLike[str]], columns: Mapping[str, str] | None = None
) -> LightCurves:
    """Light curves of several files, one after the other.

    Errors are kept if all files have them. `columns` of the result are those of the first file.
    """
    parts = [read_light_curves(path, columns) for path in paths]
    if not parts:
        raise ValueError("no file of light curves: give at least one")
    if len(parts) == 1:
        return parts[0]
    errors = [part.magerr for part in parts if part.magerr is not None]
    shifts = np.cumsum([0, *(part.offsets[-1] for part in parts)])
    return LightCurves(
        np.concatenate([part.names for part in parts]),
        np.concatenate([part.time for part in parts]),
        np.concatenate([part.mag for part in parts]),
        np.concatenate(errors) if len(errors) == len(parts) else None,
        np.concatenate([
            [0], *(part.offsets[1:] + shift for part, shift in zip(parts, shifts, strict=False))
        ]).astype(np.int64),
        parts[0].columns,
    )  # fmt: skip


def _read_table(path: Path) -> Table:
    from astropy.table import Table

    try:
        return Table.read(path)
    except ImportError as error:
        raise ValueError(f"{path} needs a library that is not installed: {error}") from error
    except Exception as error:  # readers of many formats raise errors of many kinds
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{path} cannot be read as a table ({reason}); CSV, ECSV, FITS, Parquet and npz can"
        ) from error


def _read_archive(path: Path, columns: Mapping[str, str]) -> LightCurves:
    try:
        # An npz decompresses at every access. Labels of objects would need pickles: left alone.
        with np.load(path, allow_pickle=False) as archive:
            arrays = {}
            for name in archive.files:
                try:
                    arrays[name] = archive[name]
                except ValueError:
                    continue
    except Exception as error:
        raise ValueError(f"{path} cannot be read as an npz archive ({error})") from error
    found = _choose(list(arrays), columns, path)
    points = {role: _numbers(arrays[name], name, path) for role, name in found.items()
              if role != "curve"}  # fmt: skip
    n_points = len(points["time"])
    offsets = np.asarray(arrays.get("offsets", [0, n_points]))
    n = max(len(offsets) - 1, 0)
    names = np.asarray(arrays[found["curve"]]).astype(str) if "curve" in found else None
    if names is None or names.shape != (n,):
        found.pop("curve", None)
        names = np.array([path.stem]) if n == 1 else np.arange(n).astype(str)
    return LightCurves(names, points["time"], points["mag"], points.get("magerr"), offsets, found)


def _choose(names: list[str], columns: Mapping[str, str], path: Path) -> dict[str, str]:
    """Column of each role, those that were asked for and those that are guessed."""
    lower = {name.lower(): name for name in reversed(names)}
    found = {}
    for role, known in _NAMES.items():
        if role in columns:
            if columns[role] not in names:
                raise ValueError(
                    f"{path} has no column {columns[role]!r} for {role}; it has {', '.join(names)}"
                )
            found[role] = columns[role]
        else:
            guess = next((lower[name] for name in known if name in lower), None)
            if guess is not None:
                found[role] = guess
            elif role in _NEEDED:
                raise ValueError(
                    f"{path} has no column that looks like {role}; it has {', '.join(names)}: "
                    f"name it (--{role} NAME)"
                )
    return found


def _numbers(column: Any, name: str, path: Path) -> NDArray[np.float64]:
    """Values of a column, NaN where it is masked."""
    values = column.filled(np.nan) if np.ma.isMaskedArray(column) and (
        np.asarray(column).dtype.kind == "f") else column  # fmt: skip
    try:
        return np.array(np.asarray(values), dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"column {name!r} of {path} holds no numbers") from None
