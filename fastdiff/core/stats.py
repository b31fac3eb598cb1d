"""Robust statistics and the widths of Gaussians."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["FWHM_PER_SIGMA", "SIGMA_PER_MAD", "mad_sigma", "nonnegative"]

FWHM_PER_SIGMA: float = 2.0 * np.sqrt(2.0 * np.log(2.0))
"""Full width at half maximum of a Gaussian of standard deviation 1."""
SIGMA_PER_MAD = 1.4826
"""Standard deviation of a Gaussian whose median absolute deviation is 1."""


def mad_sigma(values: ArrayLike, centre: Any = None, axis: int | None = None) -> Any:
    """Standard deviation by the median absolute deviation, which outliers hardly change.

    Parameters
    ----------
    values : array_like
        Without NaN.
    centre : float or array_like, optional
        What deviations are counted from; the median of `values` by default.
    axis : int, optional
        Along which axis; over all values by default.

    Returns
    -------
    float or ndarray
        1.4826 times the median of ``|values - centre|``; NaN for no values.

    Examples
    --------
    >>> float(mad_sigma([1.0, 2.0, 3.0, 4.0, 100.0]))
    1.4826
    """
    values = np.asarray(values)
    if centre is None:
        centre = np.median(values, axis=axis, keepdims=axis is not None)
    return SIGMA_PER_MAD * np.median(np.abs(values - centre), axis=axis)


def nonnegative(design: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares of one or two unknowns that are 0 or more."""
    found: NDArray[Any] = np.linalg.lstsq(design, values, rcond=None)[0]
    if (found < 0).any():
        # The best is on an edge then: one of them is 0.
        product = design.T @ values
        alone = np.maximum(product, 0) / (design**2).sum(0)
        found = np.where(np.arange(len(alone)) == np.argmax(alone * product), alone, 0.0)
    return found
