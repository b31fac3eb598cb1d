"""Labelled light curves of periodic variables: CRTS for training, SDSS Stripe 82 for transfer.

The CRTS file has what Mahabal et al. (2017) used: the light curves of the Catalina surveys with
the classes of Drake et al. (2014). The same star may stand in it twice, so that it is split into
training, validation and test parts by position on the sky, not by row.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CLASSES",
    "SKY_NUMBERS",
    "SPLITS",
    "LabelledCurves",
    "load_crts",
    "load_sdss_periods",
    "load_sdss_rrlyrae",
    "position_groups",
    "split_of",
]

SKY_NUMBERS = {
    "EW": 30743,
    "EA": 4683,
    "RRab": 2420,
    "RRc": 5469,
    "RRd": 502,
    "RS_CVn": 1522,
    "LPV": 512,
}
"""Objects of each class in the survey (Mahabal et al. 2017, Table I)."""

CLASSES = tuple(SKY_NUMBERS)
"""The seven classes, in the order in which probabilities are given."""

SPLITS = {"train": 0.70, "val": 0.85, "test": 1.0}
"""Parts and the upper ends of their shares of the hash."""

_FIRST_TIME = 50000.0  # MJD; smaller times are faults of the file
_MISSING_MAG = 90.0  # SDSS writes 100 where it measured nothing


@dataclass(frozen=True)
class LabelledCurves:
    """Light curves one after the other, with the class of each.

    Attributes
    ----------
    time : ndarray of float64
        Days, in no order.
    mag, magerr : ndarray of float64
        Magnitudes and their standard errors.
    offsets : ndarray of int64, (n + 1,)
        Curve i has the points ``offsets[i]:offsets[i + 1]``.
    label : ndarray of int64, (n,)
        Index into `classes`.
    classes : tuple of str
        Names of the classes.
    ids : ndarray of int64, (n,)
        The survey's numbers of the objects.
    """

    time: NDArray[np.float64]
    mag: NDArray[np.float64]
    magerr: NDArray[np.float64]
    offsets: NDArray[np.int64]
    label: NDArray[np.int64]
    classes: tuple[str, ...]
    ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: NDArray[np.int64]) -> LabelledCurves:
        """Those curves, in that order; a row may be taken several times."""
        points, offsets = _points_of(self.offsets, np.asarray(rows))
        return LabelledCurves(
            self.time[points],
            self.mag[points],
            self.magerr[points],
            offsets,
            self.label[rows],
            self.classes,
            self.ids[rows],
        )


def position_groups(
    ra: NDArray[np.float64], dec: NDArray[np.float64], radius: float = 3.0
) -> NDArray[np.int64]:
    """Number of the group of each position; groups are chains of neighbours within `radius`.

    Parameters
    ----------
    ra, dec : ndarray
        Degrees.
    radius : float
        Arcseconds.

    Returns
    -------
    ndarray of int64

    Examples
    --------
    >>> position_groups([10.0, 359.9999, 10.0005, 0.0001], [0.0, 0.0, 0.0, 0.0]).tolist()
    [0, 1, 0, 1]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    ra, dec = np.radians(ra), np.radians(dec)
    towards = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], 1)
    pairs = cKDTree(towards).query_pairs(np.radians(radius / 3600), output_type="ndarray")
    n = len(towards)
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    labels: NDArray[np.int32] = connected_components(links, directed=False)[1]
    return labels.astype(np.int64)


def split_of(number: int) -> str:
    """The part of a group of objects, given the smallest of their numbers in the survey.

    70 % train, 15 % val, 15 % test, by a hash: it depends neither on the order of a file nor on
    what else is in it.
    """
    share = int(hashlib.sha256(str(int(number)).encode()).hexdigest()[:8], 16) / 2**32
    return next(split for split, end in SPLITS.items() if share < end)


def load_crts(
    path: str | os.PathLike[str],
    split: str | None = None,
    classes: Sequence[str] = CLASSES,
) -> LabelledCurves:
    """Read the CRTS light curves of one split.

    Parameters
    ----------
    path : path
        ``crts_train.npz``, with ``t`` (MJD), ``mag``, ``magerr``, ``offsets``, ``label``, ``ids``,
        ``ra`` and ``dec``; or a folder with ``crts/crts_train.npz``.
    split : str, optional
        "train", "val" or "test"; all three by default.
    classes : sequence of str
        Labels to keep, in the order of their indices.

    Returns
    -------
    LabelledCurves
        Without the points before MJD 50000, which are faults.

    Raises
    ------
    ValueError
        If the split is unknown or a class is not in the file.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}, or None")
    path = Path(path)
    if path.is_dir():
        path = path / "crts" / "crts_train.npz"
    data = dict(np.load(path))
    missing = set(classes) - set(data["label"])
    if missing:
        raise ValueError(
            f"classes has {sorted(missing)}, which {path.name} does not; it has "
            + ", ".join(sorted(set(data["label"].tolist())))
        )
    keep = np.isin(data["label"], classes)
    if split is not None:
        group = position_groups(data["ra"], data["dec"])
        first = np.full(group.max() + 1, np.iinfo(np.int64).max)
        np.minimum.at(first, group, data["ids"])
        keep &= np.array([split_of(number) == split for number in first])[group]
    rows = np.flatnonzero(keep)
    points, offsets = _points_of(data["offsets"], rows)
    good = data["t"][points] >= _FIRST_TIME
    points = points[good]
    offsets = np.concatenate([[0], np.cumsum(good)])[offsets]
    number = {name: k for k, name in enumerate(classes)}
    return LabelledCurves(
        data["t"][points],
        data["mag"][points],
        data["magerr"][points].astype(np.float64),
        offsets,
        np.array([number[name] for name in data["label"][rows].tolist()], np.int64),
        tuple(classes),
        data["ids"][rows],
    )


def load_sdss_rrlyrae(path: str | os.PathLike[str], band: str = "g") -> LabelledCurves:
    """Read the RR Lyrae of SDSS Stripe 82 (Sesar et al. 2010) in one band.

    Parameters
    ----------
    path : path
        ``RRLyrae.tar.gz``, or a folder with ``sdss_rrlyrae/RRLyrae.tar.gz``.
    band : str
        One of "u", "g", "r", "i", "z".

    Returns
    -------
    LabelledCurves
        Classes RRab and RRc, with their indices in `CLASSES`.

    Raises
    ------
    ValueError
        If there is no such band.
    """
    if band not in tuple("ugriz"):
        raise ValueError(f"band is {band!r}; it must be one of u, g, r, i, z")
    tables = _sdss_tables(path)
    points, offsets, label, ids = [], [0], [], []
    for star in tables["periods.csv"]:
        if f"{star['Num']}.csv" not in tables:
            continue
        points += [
            (float(row["time"]), float(row["mag"]), float(row["magerr"]))
            for row in tables[f"{star['Num']}.csv"]
            if row["band"] == band and float(row["mag"]) < _MISSING_MAG
        ]
        offsets.append(len(points))
        label.append(CLASSES.index("RRab" if star["Type"] == "ab" else "RRc"))
        ids.append(int(star["Num"]))
    time, mag, magerr = np.array(points).T
    return LabelledCurves(
        time, mag, magerr, np.array(offsets), np.array(label), CLASSES, np.array(ids)
    )


def load_sdss_periods(path: str | os.PathLike[str]) -> dict[int, float]:
    """Periods in days of the RR Lyrae of SDSS Stripe 82, by their numbers.

    Sesar et al. (2010) found them by templates in all bands together. `path` is that of
    `load_sdss_rrlyrae`.
    """
    stars = _sdss_tables(path)["periods.csv"]
    return {int(star["Num"]): float(star["Per"]) for star in stars}


def _sdss_tables(path: str | os.PathLike[str]) -> dict[str, list[dict[str, str]]]:
    """Rows of every CSV file in the archive of SDSS, by its name."""
    path = Path(path)
    if path.is_dir():
        path = path / "sdss_rrlyrae" / "RRLyrae.tar.gz"
    tables = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".csv"):
                file = archive.extractfile(member)
                assert file is not None
                text = io.StringIO(file.read().decode())
                tables[member.name.split("/")[-1]] = list(csv.DictReader(text))
    return tables


def _points_of(
    offsets: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the points of those curves, and the offsets among them."""
    length = np.diff(offsets)[rows]
    ends = np.concatenate([[0], np.cumsum(length)])
    points = np.arange(ends[-1]) + np.repeat(offsets[rows] - ends[:-1], length)
    return points, ends
