"""From difference images to a table of candidates.

Connected regions above a threshold as in Sedaghat & Mahabal 2018, section 5.1.1 (eq. 15, full
connectivity), split where they hold several peaks, then grown so that the sum over a region is
the flux of its source. No loop over pixels: after one labelling of the frame everything runs on
the few pixels that belong to regions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdiff.core import arrays

from .group import ImageGroup
from .measure import BLENDED, EDGE, FLAGS, MASKED, SATURATED, UNMEASURED
from .points import PointMaps

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = [
    "BLENDED", "EDGE", "FLAGS", "MASKED", "SATURATED", "UNMEASURED", "Searchable",
    "find_transients",
]  # fmt: skip

# In sigmas of the science image; used where the model's metadata give no threshold.
_PIXEL_THRESHOLD = 0.5
# Images are worked on in groups of about so many pixels.
_GROUP_PIXELS = 2**24
_COLUMNS = {
    "image": "index of the image in the batch",
    "x": "centre along the second axis, 0-based pixel centres",
    "y": "centre along the first axis, 0-based pixel centres",
    "x_err": "1 sigma error of x, in pixels",
    "y_err": "1 sigma error of y, in pixels",
    "flux": "flux of a point source, in counts of the science image; negative if it faded",
    "flux_err": "1 sigma error of flux, the systematic one included",
    "flux_err_systematic": "part of flux_err that what is left of other sources makes",
    "snr": "flux / flux_err",
    "flux_network": "sum of what the network painted over the grown region, in counts",
    "flags": "sum of " + ", ".join(f"{bit} ({name.lower()})" for name, bit in FLAGS.items()),
    "n_pixels": "pixels above the pixel threshold",
    "peak": "value of the pixel that stands out most, in counts",
    "fwhm": "full width at half maximum from the second moments, in pixels",
    "ellipticity": "1 - minor axis / major axis, from the second moments",
    "theta": "angle of the major axis from +x towards +y, in degrees, -90 to 90",
}
_SIGNS = {"positive": (1,), "negative": (-1,), "both": (1, -1)}
_INTEGERS = ("image", "flags", "n_pixels")


class Searchable(Protocol):
    """What `find_transients` reads of a `Difference`; its docstring says what they are."""

    image: Any
    noise: Any
    mask: Any
    meta: dict[str, Any]
    significance: Any
    flux: Any
    flux_err: Any


def find_transients(
    difference: Searchable | ArrayLike,
    threshold: float = 5.0,
    *,
    sign: Literal["positive", "negative", "both"] = "positive",
    min_pixels: int = 3,
    pixel_threshold: float | None = None,
    noise: ArrayLike | None = None,
    noise_free: bool | None = None,
) -> Table:
    r"""Table of what changed, one row a candidate.

    Pixels above `pixel_threshold` times the noise form 8-connected regions
    [1]_ (section 5.1.1, eq. 15). Regions with several peaks are split; each is grown by as
    much as a Gaussian of its height and area needs to hold its whole flux, without taking
    pixels from its neighbours. Then, over the grown region of profile :math:`p`,

    .. math:: F = \sum_i p_i, \qquad
              \sigma_F = F \frac{\sqrt{\sum_i p_i^2 \sigma_i^2}}{\sum_i p_i^2},

    which is the error of an optimally weighted flux; with equal noise it is
    :math:`\sigma \sqrt{A}` with the effective area :math:`A = (\sum p)^2 / \sum p^2`.

    A difference with maps of point sources (what `fastdiff.subtract_batch` gives by default) has
    its candidates measured on them, for all methods alike: a source is where the map of fluxes is
    highest, between pixels; ``flux`` and ``flux_err`` are those of a point source there, and
    ``snr`` is that of the map of significance. Where the difference has noise ("psf-match",
    "zogy") candidates are the regions above `threshold` in that map; where a network painted it
    ("transinet") they are those of its regions that the maps confirm with `threshold`.

    Parameters
    ----------
    difference : Difference or array_like
        What `fastdiff.subtract_batch` gives, or images (ny, nx) or (n, ny, nx) in counts;
        NaN marks bad pixels. Arrays need `noise`.
    threshold : float
        Smallest ``|snr|`` of a candidate.
    sign : {"positive", "negative", "both"}
        Whether to report what brightened, what faded (negative fluxes), or both.
    min_pixels : int
        Smallest number of pixels above the pixel threshold.
    pixel_threshold : float, optional
        In units of the noise per pixel. By default that of the model
        (``difference.meta["pixel_threshold"]``), else 0.5, which suits a noise-free difference
        such as TransiNet's. A difference with noise in it needs 2 to 4. Neither it nor
        `min_pixels` is used where a map of significance is searched.
    noise : array_like, optional
        1 sigma per pixel in counts: a number or an array that broadcasts against the images.
        By default that of `difference`.
    noise_free : bool, optional
        Whether the difference is an estimate without noise, as a network makes it. By default
        ``difference.meta["noise_free"]``; True for arrays. With noise in the image its square
        adds to :math:`\sum p^2`, so the error is that of the plain sum,
        :math:`\sqrt{\sum \sigma_i^2}`.

    Returns
    -------
    astropy.table.Table
        Columns image, x, y, flux, flux_err, snr, flags, n_pixels, peak, fwhm, ellipticity,
        theta, sorted by image and then by falling ``|snr|``; their descriptions say more. With
        maps also x_err, y_err and flux_err_systematic, and flux_network of a network.
        The flags are `EDGE`, `MASKED`, `SATURATED`, `BLENDED` and `UNMEASURED` of this module.

    Raises
    ------
    TypeError
        If `difference` is neither a Difference nor real images.
    ValueError
        If a parameter is out of its range, or arrays come without `noise`.

    References
    ----------
    .. [1] Sedaghat & Mahabal 2018, MNRAS 476, 5365.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[:64, :64]
    >>> image = 50 * np.exp(-((x - 20) ** 2 + (y - 40) ** 2) / (2 * 1.5**2))
    >>> table = find_transients(image, noise=1.0)
    >>> print(len(table), round(table["x"][0], 2), round(table["y"][0], 2))
    1 20.0 40.0
    """
    if sign not in _SIGNS:
        raise ValueError(f"sign is {sign!r}; it must be 'positive', 'negative' or 'both'")
    meta: dict[str, Any] = getattr(difference, "meta", None) or {}
    if pixel_threshold is None:
        pixel_threshold = float(meta.get("pixel_threshold", _PIXEL_THRESHOLD))
    if noise_free is None:
        noise_free = bool(meta.get("noise_free", True))
    images, noises, masks = _open(difference, noise, masked=bool(meta))
    for name, value in (("threshold", threshold), ("pixel_threshold", pixel_threshold)):
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be positive (in units of the noise)")
    if min_pixels < 1:
        raise ValueError(f"min_pixels is {min_pixels}; it must be at least 1")
    saturated = np.asarray(meta.get("saturated", np.empty((0, 3))), dtype=np.int64)
    has_maps = getattr(difference, "significance", None) is not None

    parts = []
    for first, last in _groups(images.shape):
        here = saturated[(saturated[:, 0] >= first) & (saturated[:, 0] < last)]
        here[:, 0] -= first
        some = None if masks is None else masks[first:last]
        group = ImageGroup(images[first:last], noises[first:last], some, here)
        points = PointMaps(difference, first, last, group) if has_maps else None
        for factor in _SIGNS[sign]:
            if points is not None and not noise_free:
                part = _searched(group, points, factor, float(threshold))
            else:
                part = group.find(factor, pixel_threshold, int(min_pixels), noise_free)
                if points is not None:
                    part = _measured(part, points, factor)
            part["image"] += first
            parts.append(part)
    known = parts[0] if parts else _COLUMNS
    columns = {
        name: np.concatenate([part[name] for part in parts] or [np.empty(0)])
        for name in _COLUMNS
        if name in known
    }
    return _table(columns, threshold, pixel_threshold, sign)


def _open(
    difference: Any, noise: Any, *, masked: bool
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_] | None]:
    """Images, noises and masks in the memory of the CPU, (n, ny, nx)."""
    if noise is None:
        noise = getattr(difference, "noise", None)
    if noise is None:
        raise ValueError(
            "noise is missing: `difference` is an array without one; pass noise= as a number "
            "or an array, 1 sigma per pixel in counts"
        )
    images = arrays.to_numpy(getattr(difference, "image", difference), "difference")
    try:
        noises = np.broadcast_to(arrays.to_numpy(noise, "noise", images=False), images.shape)
    except ValueError as error:
        raise ValueError(
            f"`noise` has shape {np.shape(noise)}; it must broadcast against the images, "
            f"{images.shape}"
        ) from error
    mask = getattr(difference, "mask", None) if masked else None
    masks = None if mask is None else np.broadcast_to(arrays.to_numpy(mask, "mask"), images.shape)
    return images, noises, masks


def _searched(
    group: ImageGroup, points: PointMaps, factor: int, threshold: float
) -> dict[str, NDArray[Any]]:
    """Columns of the candidates of a map of significance."""
    one = np.broadcast_to(np.float32(1), group.shape)
    searched = ImageGroup(points.significance, one, group.masks, group.saturated_pixels)
    part = searched.find(factor, threshold, 1, noise_free=False)
    part |= points.measure(part.pop("top"), factor)
    # The map is the difference correlated with its PSF.
    part["fwhm"] = part["fwhm"] / np.sqrt(2.0)
    return part


def _measured(
    part: dict[str, NDArray[Any]], points: PointMaps, factor: int
) -> dict[str, NDArray[Any]]:
    """Candidates that a network found, measured as point sources; one for each of these.

    Where the maps know nothing, as near the edge, what the network painted stays the measurement.
    """
    part = {name: values for name, values in part.items() if name != "top"}
    part["flux_network"] = part["flux"]
    top = points.near(part, factor)
    known = np.flatnonzero(top >= 0)
    brightest = known[np.argsort(-np.abs(part["flux"][known]), kind="stable")]
    _, first = np.unique(top[brightest], return_index=True)
    kept = np.sort(brightest[first])
    measured = points.measure(top[kept], factor)
    unknown = np.flatnonzero(top < 0)
    order = np.concatenate([kept, unknown])
    part = {name: values[order] for name, values in part.items()}
    part["flags"][len(kept) :] |= UNMEASURED
    for name, values in measured.items():
        others = part.get(name, np.full(len(order), np.nan))[len(kept) :]
        part[name] = np.concatenate([values, others])
    return part


def _groups(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    n_images, ny, nx = shape
    step = max(1, _GROUP_PIXELS // max(1, ny * nx))
    for first in range(0, n_images, step):
        yield first, min(n_images, first + step)


def _table(
    columns: dict[str, NDArray[Any]], threshold: float, pixel_threshold: float, sign: str
) -> Table:
    from astropy.table import Table

    keep = np.abs(columns["snr"]) >= threshold
    order = np.lexsort((-np.abs(columns["snr"][keep]), columns["image"][keep]))
    table = Table()
    for name, values in columns.items():
        kind = np.int64 if name in _INTEGERS else np.float64
        table[name] = values[keep][order].astype(kind)
        table[name].description = _COLUMNS[name]
    for name, form in {"x": ".2f", "y": ".2f", "x_err": ".2f", "y_err": ".2f",
                       "flux": ".5g", "flux_err": ".4g", "flux_err_systematic": ".3g",
                       "snr": ".2f", "flux_network": ".5g",
                       "peak": ".5g", "fwhm": ".2f", "ellipticity": ".2f",
                       "theta": ".1f"}.items():  # fmt: skip
        if name in columns:
            table[name].info.format = form
    table.meta.update(threshold=threshold, pixel_threshold=pixel_threshold, sign=sign)
    return table
