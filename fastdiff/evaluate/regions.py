"""Detections against truth, as in section 5.1.1 of Sedaghat & Mahabal 2018, and by position.

The paper counts objects as connected regions (8 neighbours) of the thresholded output (eq. 15)
and calls those that intersect a region of the thresholded truth true positives (eqs 16-22).
Catalogues are compared by position instead (`fastdiff.evaluate.positions`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Counts",
    "Curve",
    "Regions",
    "count",
    "detected",
    "is_blank",
    "label",
    "precision_recall",
    "sum_regions",
    "thresholds",
    "truth_regions",
]

BLANK_SIGMA = 1e-3
"""The paper's outputs with a smaller standard deviation count as blank."""
TRUTH_THRESHOLD = 1e-3
"""The paper's threshold on the ground truth."""


def label(binary: ArrayLike) -> tuple[NDArray[np.int32], int]:
    """Number the connected regions of ``(ny, nx)`` or ``(n, ny, nx)`` images, 8-connected.

    Parameters
    ----------
    binary : array of bool
        One image, or a stack whose images are not connected with each other.

    Returns
    -------
    labels : ndarray of int32
        0 outside of regions, else 1, 2, ... in the order of the images.
    n : int
        Number of regions.
    """
    from scipy import ndimage

    binary = np.asarray(binary, bool)
    if binary.ndim not in (2, 3):
        raise ValueError(f"binary has shape {binary.shape}; it must be (ny, nx) or (n, ny, nx)")
    structure = np.ones((3,) * binary.ndim, bool)
    if binary.ndim == 3:
        structure[[0, 2]] = False
    labels, n = ndimage.label(binary, structure)
    return labels, int(n)


@dataclass(frozen=True)
class Counts:
    """True positives, false positives and false negatives (eqs 16-18) and their ratios.

    ``tp`` counts output regions, ``found`` the truth regions that they hit (TP'). The two
    are equal unless an output region covers two truth regions or the other way round; the
    ratios take each from its own side, so that neither can be gained by splitting or merging.
    """

    tp: int
    fp: int
    fn: int
    found: int

    @property
    def precision(self) -> float:
        """Eq. 19; NaN when nothing was detected."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else float("nan")

    @property
    def recall(self) -> float:
        """Eq. 20, also called completeness (eq. 21); NaN when there is nothing to find."""
        return self.found / (self.found + self.fn) if self.found + self.fn else float("nan")

    @property
    def contamination(self) -> float:
        """Eq. 22, ``1 - precision``."""
        return 1.0 - self.precision


def detected(binary: ArrayLike, labels: ArrayLike) -> NDArray[np.bool_]:
    """Which of the regions 1 ... n of `labels` have a pixel in `binary` (same shape)."""
    binary, labels = _same_shape(np.asarray(binary, bool), "binary", np.asarray(labels), "labels")
    hit = np.zeros(int(labels.max(initial=0)) + 1, bool)
    hit[labels[binary]] = True
    return hit[1:]


def count(binary: ArrayLike, truth: ArrayLike) -> Counts:
    """Match the regions of two binary images (or stacks) by intersection, eqs 16-18."""
    binary, truth = np.asarray(binary, bool), np.asarray(truth, bool)
    _same_shape(binary, "binary", truth, "truth")
    hits = detected(truth, label(binary)[0])
    found = detected(binary, label(truth)[0])
    return Counts(int(hits.sum()), int((~hits).sum()), int((~found).sum()), int(found.sum()))


@dataclass(frozen=True)
class Curve:
    """Counts and ratios at each threshold; arrays of one length."""

    threshold: NDArray[np.float64]
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    fn: NDArray[np.int64]
    found: NDArray[np.int64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


def thresholds(output: ArrayLike, n: int = 101) -> NDArray[np.float64]:
    """The paper's thresholds: `n`, logarithmic from 1e-4 to 100 times the standard deviation.

    One row for each image of a stack ``(n_images, ny, nx)``: the shape is (n_images, n).
    """
    output = np.asarray(output, float)
    sigma = np.atleast_1d(output.std(axis=(-2, -1)))
    return sigma[:, None] * np.geomspace(1e-4, 100.0, n)


def is_blank(output: ArrayLike, sigma: float = BLANK_SIGMA) -> NDArray[np.bool_]:
    """Whether each image's standard deviation is below `sigma` (NaN pixels left out)."""
    output = np.asarray(output, float)
    good = ~np.isnan(output)
    n = np.maximum(good.sum((-2, -1), keepdims=True), 1)
    mean = np.where(good, output, 0).sum((-2, -1), keepdims=True) / n
    variance = (np.where(good, output - mean, 0) ** 2 / n).sum((-2, -1))
    blank: NDArray[np.bool_] = np.sqrt(variance) < sigma
    return blank


def precision_recall(
    output: ArrayLike,
    truth: ArrayLike,
    threshold: ArrayLike | None = None,
    *,
    truth_threshold: float = TRUTH_THRESHOLD,
    blank: float | None = None,
) -> Curve:
    """Precision and recall at a series of thresholds on the pixels of `output`.

    Parameters
    ----------
    output, truth : array (n, ny, nx) or (ny, nx)
        Difference images and their noise-free truth. Take absolute values first if sources
        that fade count too.
    threshold : array, optional
        Thresholds for all images; by default the paper's, which are relative to the standard
        deviation of each image (`Curve.threshold` then holds those of unit deviation).
    truth_threshold : float
        Threshold on `truth`, the same for all.
    blank : float, optional
        Images of `output` with a smaller standard deviation have no detections (the paper
        leaves them out as blank: 0.001 for its units).

    Returns
    -------
    Curve
        Summed over the images. Precision is NaN where nothing is above the threshold.
    """
    output, truth = _same_shape(np.asarray(output, float), "output", np.asarray(truth), "truth")
    if output.ndim == 2:
        output, truth = output[None], truth[None]
    if threshold is None:
        unit = np.geomspace(1e-4, 100.0, 101)
        levels = thresholds(output)
    else:
        unit = np.atleast_1d(np.asarray(threshold, float))
        levels = np.broadcast_to(unit, (len(output), len(unit)))
    truth_binary = truth >= truth_threshold
    truth_labels, n_truth = label(truth_binary)
    shown = np.ones(len(output), bool) if blank is None else ~is_blank(output, blank)
    rows = []
    for column in levels.T:
        binary = (output >= column[:, None, None]) & shown[:, None, None]
        labels, n = label(binary)
        hits = int(detected(truth_binary, labels).sum())
        n_found = int(detected(binary, truth_labels).sum())
        rows.append((hits, n - hits, n_truth - n_found, n_found))
    tp, fp, fn, found = np.array(rows, np.int64).reshape(-1, 4).T
    with np.errstate(invalid="ignore"):
        precision, recall = tp / (tp + fp), found / (found + fn)
    return Curve(unit, tp, fp, fn, found, precision, recall)


@dataclass(frozen=True)
class Regions:
    """The regions of truth images; arrays of one length but for `labels`."""

    labels: NDArray[np.int32]
    """Shape of the images; 0 or the number of the region, from 1."""
    image: NDArray[np.int64]
    """Index of the image."""
    flux: NDArray[np.float64]
    """Sum of the truth over the region."""
    snr: NDArray[np.float64]
    """``sqrt(sum(truth**2))``: the matched-filter S/N in white noise of sigma 1."""


def truth_regions(
    truth: ArrayLike, threshold: float = TRUTH_THRESHOLD, values: ArrayLike | None = None
) -> Regions:
    """Regions of ``truth >= threshold`` with their fluxes and S/N.

    Parameters
    ----------
    truth : array (n, ny, nx)
        Noise-free truth, in units of the noise per pixel if `snr` is to be used.
    values : array, optional
        What to sum, by default `truth`: the signed truth where `truth` is its absolute value.
    """
    truth = np.asarray(truth)
    if truth.ndim != 3:
        raise ValueError(f"truth has shape {truth.shape}; it must be (n, ny, nx)")
    values = truth if values is None else np.asarray(values)
    labels, n = label(truth >= threshold)
    image = np.zeros(n + 1, np.int64)
    inside = np.nonzero(labels)
    image[labels[inside]] = inside[0]
    flux = sum_regions(values, labels, n)
    snr = np.sqrt(sum_regions(np.asarray(values, float) ** 2, labels, n))
    return Regions(labels, image[1:], flux, snr)


def sum_regions(
    values: ArrayLike, labels: NDArray[Any], n: int | None = None
) -> NDArray[np.float64]:
    """Sum of `values` over each of the regions 1 ... n of `labels`."""
    values, labels = _same_shape(np.asarray(values), "values", np.asarray(labels), "labels")
    n = int(labels.max(initial=0)) if n is None else n
    sums: NDArray[Any] = np.bincount(labels.ravel(), np.asarray(values, float).ravel(), n + 1)
    return sums[1:]


def _same_shape(
    a: NDArray[Any], name_a: str, b: NDArray[Any], name_b: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    if a.shape != b.shape:
        raise ValueError(f"{name_a} has shape {a.shape} but {name_b} {b.shape}; they must be equal")
    return a, b
