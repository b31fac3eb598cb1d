"""Detections against true sources by position, and recall in bins of S/N."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdiff.core.stats import mad_sigma

from .regions import Counts

__all__ = ["Matches", "by_snr", "match_positions"]


@dataclass(frozen=True)
class Matches:
    """Result of `match_positions`: indices into the detections and the truth, and distances."""

    detection: NDArray[np.int64]
    truth: NDArray[np.int64]
    distance: NDArray[np.float64]
    n_detections: int
    n_truth: int

    @property
    def counts(self) -> Counts:
        """Pairs are true positives, detections left over false, truth left over missed."""
        tp = len(self.detection)
        return Counts(tp, self.n_detections - tp, self.n_truth - tp, tp)

    @property
    def found(self) -> NDArray[np.bool_]:
        """For each true source, whether it was detected."""
        found = np.zeros(self.n_truth, bool)
        found[self.truth] = True
        return found

    @property
    def false(self) -> NDArray[np.bool_]:
        """For each detection, whether it belongs to no true source."""
        false = np.ones(self.n_detections, bool)
        false[self.detection] = False
        return false


def match_positions(detections: Any, truth: Any, radius: float = 3.0) -> Matches:
    """Pair detections with true sources of the same image, nearest pairs first.

    Parameters
    ----------
    detections, truth : mapping
        Tables (or dicts of arrays) with columns ``x`` and ``y`` in pixels and optionally
        ``image``, as `fastdiff.find_transients` and ``simulate.pairs(...).transients`` give.
    radius : float
        Largest distance of a pair, pixels.

    Returns
    -------
    Matches
        Each detection and each source is used once.
    """
    from scipy.spatial import cKDTree

    if not radius > 0:
        raise ValueError(f"radius is {radius}; it must be a positive number of pixels")
    where_d, where_t = _positions(detections, "detections"), _positions(truth, "truth")
    empty = np.zeros(0, np.int64)
    if not len(where_d) or not len(where_t):
        return Matches(empty, empty, np.zeros(0), len(where_d), len(where_t))
    # Images are set apart along a third axis, further than the radius.
    scale = np.array([1.0, 1.0, 4.0 * radius])
    pairs = cKDTree(where_d * scale).sparse_distance_matrix(
        cKDTree(where_t * scale), radius, output_type="ndarray"
    )
    order = np.lexsort((pairs["j"], pairs["i"], pairs["v"]))
    used_d, used_t = np.zeros(len(where_d), bool), np.zeros(len(where_t), bool)
    kept = []
    for k in order:
        i, j = pairs["i"][k], pairs["j"][k]
        if not used_d[i] and not used_t[j]:
            used_d[i] = used_t[j] = True
            kept.append(k)
    chosen = pairs[kept]
    return Matches(
        chosen["i"].astype(np.int64),
        chosen["j"].astype(np.int64),
        chosen["v"].astype(float),
        len(where_d),
        len(where_t),
    )


def by_snr(
    snr: ArrayLike,
    found: ArrayLike,
    flux_ratio: ArrayLike | None = None,
    edges: ArrayLike = (5, 7, 10, 15, 20, 30, 60),
) -> list[dict[str, float]]:
    """Recall and flux error in bins of S/N.

    Parameters
    ----------
    snr, found : array (n,)
        True S/N (its absolute value is used) of each source and whether it was detected.
    flux_ratio : array (n,), optional
        Measured / true flux; only values of detected sources are used.
    edges : sequence of float
        Edges of the bins, the lower one inside.

    Returns
    -------
    list of dict
        ``low``, ``high``, ``n``, ``recall``, ``flux_bias`` (median of ratio - 1) and
        ``flux_scatter`` (1.4826 times the median absolute deviation); NaN for an empty bin.
    """
    size: NDArray[np.float64] = np.abs(np.asarray(snr, float))
    found = np.asarray(found, bool)
    if size.shape != found.shape or size.ndim != 1:
        raise ValueError(f"snr {size.shape} and found {found.shape} must be of one length")
    ratio = np.full(len(size), np.nan) if flux_ratio is None else np.asarray(flux_ratio, float)
    edges = np.asarray(edges, float)
    rows = []
    for low, high in itertools.pairwise(edges):
        inside = (size >= low) & (size < high)
        error = ratio[inside & found & np.isfinite(ratio)] - 1.0
        bias = float(np.median(error)) if len(error) else float("nan")
        rows.append(
            {
                "low": float(low),
                "high": float(high),
                "n": int(inside.sum()),
                "recall": float(found[inside].mean()) if inside.any() else float("nan"),
                "flux_bias": bias,
                "flux_scatter": float(mad_sigma(error, bias)) if len(error) else float("nan"),
            }
        )
    return rows


def _positions(table: Any, name: str) -> NDArray[np.float64]:
    columns = table.colnames if hasattr(table, "colnames") else list(table)
    for column in ("x", "y"):
        if column not in columns:
            raise ValueError(f"{name} has the columns {columns}; x and y are needed")
    x, y = np.asarray(table["x"], float), np.asarray(table["y"], float)
    image = np.asarray(table["image"], float) if "image" in columns else np.zeros(len(x))
    return np.stack([x, y, image], axis=1)
