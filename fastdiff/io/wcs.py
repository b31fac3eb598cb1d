"""Pixel grids and the sky: whether two frames share a grid, alignment, sky positions."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from .images import Frame

if TYPE_CHECKING:
    from astropy.table import Table
    from astropy.wcs import WCS

MAX_GRID_OFFSET = 0.5
"""Pixels by which two WCS may disagree and still be one grid."""


def grid_offset(ref: Frame, sci: Frame) -> float:
    """Largest distance in reference pixels between the two pixel grids over the science frame.

    Returns
    -------
    float
        0 where neither frame has a WCS (or only one has) and the shapes agree; infinity where
        the frames do not overlap on the sky. Measured at the corners, edges and centre.

    Raises
    ------
    ValueError
        The shapes differ and a WCS is missing, so that nothing says how the frames relate.
    """
    if ref.wcs is None or sci.wcs is None:
        if ref.image.shape == sci.image.shape:
            return 0.0
        lacking = " and ".join(n for n, f in (("REF", ref), ("SCI", sci)) if f.wcs is None)
        raise ValueError(
            f"the reference has shape {ref.image.shape} and the science image "
            f"{sci.image.shape}, and {lacking} has no WCS that would relate them: "
            "cut both to one grid, or add a WCS"
        )
    y, x = _grid(sci.image.shape, 3)
    x_ref, y_ref = _to_pixels(sci.wcs, ref.wcs, x, y)
    distance = np.hypot(x_ref - x, y_ref - y)
    if np.all(distance <= MAX_GRID_OFFSET):
        return float(distance.max())
    if not (_covers(sci, ref) or _covers(ref, sci)):
        return math.inf
    return float(np.nanmax(distance))


def match_grids(ref: Frame, sci: Frame, align: bool = False) -> Frame:
    """Give the reference on the pixel grid of the science image.

    Parameters
    ----------
    ref, sci : Frame
    align : bool
        Reproject the reference where the grids differ (needs ``fastdiff-astro[align]``).
        Pixels outside of it come out masked.

    Raises
    ------
    ValueError
        The frames do not overlap, or their grids differ and `align` is False.
    """
    offset = grid_offset(ref, sci)
    if offset == math.inf:
        raise ValueError(
            "the reference and the science image do not overlap on the sky, by their WCS "
            f"(centres {_centre(ref)} and {_centre(sci)}): check which files belong together"
        )
    if offset <= MAX_GRID_OFFSET and ref.image.shape == sci.image.shape:
        return ref
    if not align:
        raise ValueError(
            f"the pixel grids differ: shapes {ref.image.shape} and {sci.image.shape}, "
            f"WCS up to {offset:.2f} px apart (at most {MAX_GRID_OFFSET} is allowed): use "
            "--align to reproject the reference onto the science grid"
        )
    return _reproject(ref, sci)


def _reproject(ref: Frame, sci: Frame) -> Frame:
    try:
        from reproject import reproject_adaptive, reproject_interp
    except ImportError as error:
        raise ImportError(
            "aligning needs the package reproject: pip install 'fastdiff-astro[align]'"
        ) from error
    from scipy.ndimage import distance_transform_edt

    bad = ~np.isfinite(ref.image)
    if ref.mask is not None:
        bad |= ref.mask
    if bad.all():
        raise ValueError("the reference has no good pixel")
    image = ref.image
    if bad.any():
        # A bad pixel must reach no further than the interpolation's footprint: the spline of
        # a bicubic interpolation would carry a NaN over the whole frame.
        nearest = distance_transform_edt(bad, return_distances=False, return_indices=True)
        image = image[tuple(nearest)]

    def project(values: np.ndarray, order: str) -> tuple[np.ndarray, np.ndarray]:
        grid = {"output_projection": sci.wcs, "shape_out": sci.image.shape}
        made: tuple[np.ndarray, np.ndarray]
        if coarser and order == "bicubic":
            made = reproject_adaptive((values, ref.wcs), **grid, kernel="gaussian")
        else:
            made = reproject_interp((values, ref.wcs), **grid, order=order)
        return made

    # Interpolating onto much coarser pixels would skip light between them.
    coarser = _pixel_area(sci) > 1.5 * _pixel_area(ref)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        aligned, footprint = project(image, "bicubic")
        spread, _ = project(bad.astype(np.float32), "bilinear")
        variance = None
        if ref.variance is not None:
            variance = project(ref.variance, "bilinear")[0].astype(np.float32)
    mask = ~np.isfinite(aligned) | (footprint < 0.5) | ~(spread < 0.01)
    aligned = np.where(mask, np.nan, aligned).astype(ref.image.dtype)
    if variance is not None:
        variance = np.where(np.isfinite(variance), variance, 0)
    return Frame(aligned, ref.header, sci.wcs, mask, variance)


def add_sky_positions(candidates: Table, wcs: WCS | None) -> Table:
    """Add `ra` and `dec` (ICRS, degrees) after `x` and `y`; no change without a WCS.

    `x` and `y` are 0-based pixel centres.
    """
    if wcs is None:
        return candidates
    from astropy import units

    positions = wcs.pixel_to_world(
        np.asarray(candidates["x"], float), np.asarray(candidates["y"], float)
    ).icrs
    column = candidates.colnames.index("y") + 1
    candidates = candidates.copy()
    candidates.add_column(np.atleast_1d(positions.ra.deg), name="ra", index=column)
    candidates.add_column(np.atleast_1d(positions.dec.deg), name="dec", index=column + 1)
    candidates["ra"].unit = candidates["dec"].unit = units.deg
    return candidates


def _grid(shape: tuple[int, ...], n: int) -> tuple[np.ndarray, np.ndarray]:
    ny, nx = shape
    y, x = np.meshgrid(np.linspace(0, ny - 1, n), np.linspace(0, nx - 1, n), indexing="ij")
    return y.ravel(), x.ravel()


def _to_pixels(
    source: WCS, target: WCS, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of `target` at pixels of `source`; NaN where the sky is beyond its projection."""
    from astropy.wcs import NoConvergence
    from astropy.wcs.utils import pixel_to_pixel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            x, y = pixel_to_pixel(source, target, x, y)
        except NoConvergence:  # far outside of where a distortion was fitted
            x, y = np.full(x.shape, np.nan), np.full(y.shape, np.nan)
    return x, y


def _covers(inner: Frame, outer: Frame) -> bool:
    """Whether any of a grid of pixels of `inner` lies on `outer`."""
    ny, nx = outer.image.shape
    y, x = _grid(inner.image.shape, 33)
    x, y = _to_pixels(inner.wcs, outer.wcs, x, y)
    return bool(np.any((x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)))


def _centre(frame: Frame) -> str:
    wcs: Any = frame.wcs
    ny, nx = frame.image.shape
    return str(wcs.pixel_to_world((nx - 1) / 2, (ny - 1) / 2).icrs.to_string("decimal"))


def _pixel_area(frame: Frame) -> float:
    from astropy.wcs.utils import proj_plane_pixel_area

    return float(proj_plane_pixel_area(frame.wcs))
