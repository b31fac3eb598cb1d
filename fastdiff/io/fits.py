"""FITS in and out: frames with their masks, variances and WCS; differences; candidates; pictures.

Files are written aside and renamed when complete, so that an interrupted run leaves either
the whole file or none.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastdiff.core.files import whole_file

if TYPE_CHECKING:
    from astropy.io.fits import HDUList, Header
    from astropy.table import Table
    from astropy.wcs import WCS

# Extension names that surveys use, and how each becomes a variance.
MASK_NAMES = ("MASK", "DQ", "BPM")
VARIANCE_FROM = {
    **dict.fromkeys(("VARIANCE", "VAR"), lambda x: x),
    **dict.fromkeys(("ERR", "ERROR", "NOISE", "SIGMA", "RMS"), np.square),
    **dict.fromkeys(("WEIGHT", "WHT", "IVAR"), lambda x: 1 / np.where(x > 0, x, np.nan)),
}

# Rubin masks (their headers say MP_NAME = bit) also mark every detected source: only these
# planes mean a pixel that cannot be used.
BAD_PLANES = ("MP_BAD", "MP_SAT", "MP_NO_DATA", "MP_UNMASKEDNAN", "MP_CR")

# Cards that describe how the pixels of the input were stored, or other extensions of it.
_STORAGE_CARDS = (
    "BLANK",
    "SATURATE",
    "CHECKSUM",
    "DATASUM",
    "EXTNAME",
    "EXTVER",
    "INHERIT",
    "BUNIT",
)

MAX_GRID_OFFSET = 0.5
"""Pixels by which two WCS may disagree and still be one grid."""


class Frame(NamedTuple):
    """One image of the sky and what its file says about it.

    Attributes
    ----------
    image : (ny, nx) float32 (float64 where the file has that)
        Counts; NaN where the file has no value.
    header : astropy.io.fits.Header
        Header of the image's extension, with the primary header's cards that it lacks.
        ``SATURATE`` is set where 16-bit integers limit the counts.
    wcs : astropy.wcs.WCS or None
        None where the header has no celestial coordinates.
    mask : (ny, nx) bool or None
        True where a pixel must not be used: from a mask extension, a weight of zero, or
        saturation (``SATURATE`` of the header; the largest value of 16-bit integers).
    variance : (ny, nx) float32 or None
        Counts squared.
    """

    image: np.ndarray
    header: Header
    wcs: WCS | None
    mask: np.ndarray | None
    variance: np.ndarray | None


def split_extension(path: str | os.PathLike[str]) -> tuple[Path, int | tuple[str, int] | None]:
    """Split ``file.fits[1]``, ``file.fits[SCI]`` or ``file.fits[SCI,2]`` into file and extension.

    Examples
    --------
    >>> split_extension("night.fits[SCI,2]")[1]
    ('SCI', 2)
    >>> split_extension("night.fits[1]")[1]
    1
    >>> split_extension("night.fits")[1] is None
    True
    """
    text = os.fspath(path)
    match = re.fullmatch(r"(.+)\[([^\[\]]+)\]", text)
    if match is None or Path(text).exists():
        return Path(text), None
    name, _, version = (part.strip() for part in match[2].partition(","))
    if version and not version.isdigit():
        raise ValueError(f"extension [{match[2]}] of {text!r}: use [NUMBER], [NAME] or [NAME,VER]")
    if name.isdigit() and not version:
        return Path(match[1]), int(name)
    return Path(match[1]), (name.upper(), int(version or 1))


def read_image(path: str | os.PathLike[str]) -> Frame:
    """Read an image, with the mask, variance and WCS that stand in its file.

    Parameters
    ----------
    path : path
        A FITS file, plain, ``.gz`` or tile-compressed (``.fz``). ``file.fits[1]``,
        ``file.fits[SCI]`` or ``file.fits[SCI,2]`` chooses an extension; otherwise the first
        2-D image that is no mask or variance is taken.

    Returns
    -------
    Frame
        A tuple ``(image, header, wcs, mask, variance)``. Mask (MASK, DQ, BPM: non-zero is
        bad) and variance (VARIANCE, VAR; ERR, NOISE, ...; WEIGHT, ...) come from extensions
        of those names, of the image's shape, with the image's EXTVER before others.

    Raises
    ------
    FileNotFoundError, PermissionError
        The file is missing or may not be read.
    ValueError
        Not FITS, damaged, without a 2-D image, or without the extension that was asked for.
    """
    with _open(path) as (hdus, extension):
        index = _find_image(hdus, extension, path)
        hdu = hdus[index]
        stored = hdu.header.get("ZBITPIX", hdu.header.get("BITPIX"))
        zero = hdu.header.get("BZERO", 0)
        scale = hdu.header.get("BSCALE", 1)
        image = _pixels(hdu, path)
        header = _merged_header(hdu, hdus[0])
        wcs = _celestial(header, hdus)
        mask = None
        variance = None
        for sibling in _siblings(hdus, index, image.shape):
            if mask is None and sibling.name in MASK_NAMES:
                mask = _bad_pixels(sibling, path)
            elif variance is None and sibling.name in VARIANCE_FROM:
                values = _pixels(sibling, path)
                variance = VARIANCE_FROM[sibling.name](values).astype(np.float32)

    bad = np.zeros(image.shape, bool) if mask is None else mask
    saturated = header.get("SATURATE")
    if stored == 16 and scale == 1:
        largest = 32767 + zero  # the converter, or the 16-bit format, is full
        saturated = min(saturated, largest) if _is_number(saturated) else largest
        header["SATURATE"] = saturated
    bad |= saturated_pixels(Frame(image, header, wcs, None, None))
    if variance is not None:
        bad |= ~np.isfinite(variance)
        variance[bad & ~np.isfinite(variance)] = 0
    return Frame(image, header, wcs, bad if mask is not None or bad.any() else None, variance)


def read_mask(path: str | os.PathLike[str], shape: tuple[int, int]) -> np.ndarray:
    """Read a mask file for an image of `shape`: bool (ny, nx), True (non-zero) is bad."""
    with _open(path) as (hdus, extension):
        hdu = hdus[_find_image(hdus, extension, path, any_name=True)]
        mask = _bad_pixels(hdu, path)
    return _of_shape(mask, shape, path, "mask")


def read_noise(path: str | os.PathLike[str], shape: tuple[int, int]) -> np.ndarray:
    """Read a map of the 1 sigma noise in counts for an image of `shape`, as (ny, nx) float32."""
    with _open(path) as (hdus, extension):
        noise = _pixels(hdus[_find_image(hdus, extension, path, any_name=True)], path)
    return _of_shape(noise, shape, path, "noise map").astype(np.float32)


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
        if coarser and order == "bicubic":
            return reproject_adaptive((values, ref.wcs), **grid, kernel="gaussian")
        return reproject_interp((values, ref.wcs), **grid, order=order)

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


def saturated_pixels(frame: Frame) -> np.ndarray:
    """Where the counts reach the ``SATURATE`` of the header: (ny, nx) bool."""
    level = frame.header.get("SATURATE")
    if not (_is_number(level) and level > 0):
        return np.zeros(frame.image.shape, bool)
    return frame.image >= level


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


def write_difference(
    path: str | os.PathLike[str],
    image: np.ndarray,
    noise: np.ndarray,
    mask: np.ndarray,
    header: Header | None = None,
    history: tuple[str, ...] | list[str] = (),
    cards: dict[str, Any] | None = None,
    significance: np.ndarray | None = None,
    extensions: Sequence[Any] = (),
) -> Path:
    """Write one difference as FITS with the extensions DIFFERENCE, NOISE and MASK.

    Parameters
    ----------
    path : path
        Replaced if it exists, in one step, once the new file is complete.
    image, noise : (ny, nx) float
        Counts of the science image; NaN where masked.
    mask : (ny, nx) bool
        Written as 0 and 1.
    header : astropy.io.fits.Header, optional
        Of the science image: its WCS and its observation's cards are kept.
    history : sequence of str
        HISTORY lines: where the file comes from.
    cards : dict, optional
        Further cards of the DIFFERENCE extension, ``{"FDMODEL": "transinet-lite"}``.
    significance : (ny, nx) float, optional
        S/N of a point source at each pixel: the extension SIGNIFICANCE.
    extensions : sequence of astropy HDUs
        Written after the others, for example the matching kernel.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    OSError
        The folder does not exist or may not be written to.
    """
    from astropy.io import fits

    kept = fits.Header() if header is None else header.copy(strip=True)
    for card in _STORAGE_CARDS:
        kept.remove(card, ignore_missing=True, remove_all=True)
    main = kept.copy()
    for key, value in (cards or {}).items():
        main[key] = value
    for line in history:
        main.add_history(line)
    unit = None if header is None else header.get("BUNIT")
    if unit is not None:
        main["BUNIT"] = kept["BUNIT"] = unit
    hdus = fits.HDUList(
        [
            fits.PrimaryHDU(),
            fits.ImageHDU(np.asarray(image, np.float32), main, "DIFFERENCE"),
            fits.ImageHDU(np.asarray(noise, np.float32), kept.copy(), "NOISE"),
            fits.ImageHDU(np.asarray(mask, np.uint8), kept.copy(), "MASK"),
        ]
    )
    if significance is not None:
        hdus.append(
            fits.ImageHDU(np.asarray(significance, np.float32), kept.copy(), "SIGNIFICANCE")
        )
    for name in ("MASK", "SIGNIFICANCE"):
        if name in hdus:
            hdus[name].header.remove("BUNIT", ignore_missing=True)
    hdus.extend(extensions)
    with whole_file(path) as aside, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # non-standard cards of the input are kept as they are
        hdus.writeto(aside, output_verify="silentfix+ignore")
    return Path(path)


def write_image(
    path: str | os.PathLike[str],
    image: np.ndarray,
    header: Header | None = None,
    mask: np.ndarray | None = None,
) -> Path:
    """Write one (ny, nx) image as float32, with a MASK extension if there is a mask."""
    from astropy.io import fits

    hdus = fits.HDUList([fits.PrimaryHDU(np.asarray(image, np.float32), header)])
    if mask is not None:
        hdus.append(fits.ImageHDU(np.asarray(mask, np.uint8), name="MASK"))
    with whole_file(path) as aside:
        hdus.writeto(aside)
    return Path(path)


class Cube(NamedTuple):
    """What `read_cube` finds; `time` is the number of the epoch where the file has none."""

    cube: np.ndarray
    """(n_epochs, ny, nx)"""
    time: np.ndarray
    """(n_epochs,)"""
    mask: np.ndarray
    """(n_epochs,): True where the quality flags or a missing time say that an epoch is bad."""
    error: np.ndarray | None
    """(n_epochs, ny, nx), 1 sigma."""
    header: Header | None


def read_cube(path: str | os.PathLike[str], quality: bool = True) -> Cube:
    """Read a cube of epochs.

    Parameters
    ----------
    path : path
        Target pixels of Kepler, K2 or TESS (also cut-outs of full frames), a FITS file with a 3-D
        image, (n_epochs, ny, nx) in the order of NumPy, or an array in a .npy file. Arrays, and
        images that are neither compressed nor scaled, are mapped and not read.
    quality : bool
        Whether epochs whose QUALITY is not 0 are masked.

    Raises
    ------
    FileNotFoundError
    ValueError
        If the file holds no cube.
    """
    file = Path(path)
    if file.suffix == ".npy":
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}")
        try:
            cube = np.load(file, mmap_mode="r")
        except Exception as error:
            raise ValueError(f"{file} cannot be read as an array ({error})") from error
        if cube.ndim != 3:
            raise ValueError(f"{file} has shape {cube.shape}; a cube is (n_epochs, ny, nx)")
        n = len(cube)
        return Cube(cube, np.arange(float(n)), np.zeros(n, bool), None, None)
    with _open(path) as (hdus, _):
        for hdu in hdus:
            names = getattr(getattr(hdu, "columns", None), "names", None) or ()
            if "FLUX" in names and np.ndim(hdu.data["FLUX"]) == 3:
                cube = np.array(hdu.data["FLUX"], np.float32)
                n = len(cube)
                time = np.array(hdu.data["TIME"], float) if "TIME" in names else np.arange(n) * 1.0
                bad = ~np.isfinite(time)
                if quality and "QUALITY" in names:
                    bad |= np.asarray(hdu.data["QUALITY"]) != 0
                error = np.array(hdu.data["FLUX_ERR"], np.float32) if "FLUX_ERR" in names else None
                return Cube(cube, time, bad, error, _merged_header(hdu, hdus[0]))
            if len(_shape(hdu)) == 3:
                cube = _mapped(hdu)
                if cube is None:
                    cube = np.array(hdu.data)
                    cube = cube.astype(cube.dtype.newbyteorder("="), copy=False)
                n = len(cube)
                return Cube(cube, np.arange(float(n)), np.zeros(n, bool), None, hdu.header.copy())
    raise ValueError(f"{path} holds no cube: neither target pixels (FLUX) nor a 3-D image")


def _mapped(hdu: Any) -> np.memmap | None:
    """A memory map of an image, big-endian; None where its values have to be computed."""
    from astropy.io import fits

    header, place = hdu.header, hdu.fileinfo()
    computed = isinstance(hdu, fits.CompImageHDU) or {"BSCALE", "BZERO", "BLANK"} & set(header)
    if computed or place is None or place["file"].compression or 0 in _shape(hdu):
        return None
    kind = "f" if header["BITPIX"] < 0 else "u" if header["BITPIX"] == 8 else "i"
    dtype = np.dtype(f">{kind}{abs(header['BITPIX']) // 8}")
    return np.memmap(place["file"].name, dtype, "r", place["datLoc"], _shape(hdu))


def write_cpm(path: str | os.PathLike[str], result: Any, cube: Cube, history: list[str]) -> Path:
    """Write DIFFERENCE (cube), RMS, VARIABILITY, NPRED (maps) and EPOCHS (time, masked)."""
    from astropy.io import fits
    from astropy.table import Table

    primary = fits.PrimaryHDU()
    for line in history:
        primary.header.add_history(line)
    ridge = result.ridge
    if np.ndim(ridge) == 0:
        primary.header["RIDGE"] = (float(ridge), "strength of the penalty")
    epochs = Table({"time": cube.time, "masked": cube.mask})
    images = {
        "DIFFERENCE": result.image.astype(np.float32), "RMS": result.rms.astype(np.float32),
        "VARIABILITY": result.variability.astype(np.float32),
        "NPRED": result.n_predictors.astype(np.int32),
    }  # fmt: skip
    hdus = [fits.ImageHDU(data, name=name) for name, data in images.items()]
    with whole_file(path) as aside:
        fits.HDUList([primary, *hdus, fits.BinTableHDU(epochs, name="EPOCHS")]).writeto(aside)
    return Path(path)


def write_dmdt(
    path: str | os.PathLike[str],
    images: np.ndarray,
    names: np.ndarray,
    flags: np.ndarray,
    dm: np.ndarray,
    dt: np.ndarray,
    norm: str,
) -> Path:
    """Write dm-dt images: extensions DMDT (the cube), CURVES (name, flags), DM and DT (edges)."""
    from astropy.io import fits
    from astropy.table import Table

    cube = fits.ImageHDU(images, name="DMDT")
    cube.header["NORM"] = (norm, "normalisation of the images")
    tables = [
        fits.BinTableHDU(Table({"name": names.astype(str), "flags": flags}), name="CURVES"),
        fits.BinTableHDU(Table({"edge": dm}, units=["mag"]), name="DM"),
        fits.BinTableHDU(Table({"edge": dt}, units=["d"]), name="DT"),
    ]
    with whole_file(path) as aside:
        fits.HDUList([fits.PrimaryHDU(), cube, *tables]).writeto(aside)
    return Path(path)


def write_candidates(path: str | os.PathLike[str], candidates: Table) -> Path:
    """Write a table, such as that of the candidates, as ECSV."""
    with whole_file(path) as aside:
        text = io.StringIO()
        candidates.write(text, format="ascii.ecsv")
        aside.write(text.getvalue().encode())
    return Path(path)


@contextlib.contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[tuple[HDUList, Any]]:
    from astropy.io import fits

    file, extension = split_extension(path)
    if not file.exists():
        raise FileNotFoundError(f"there is no file {file}")
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder; a FITS file is needed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            hdus = fits.open(file, memmap=False)
            len(hdus)  # reads on to the last extension
        except PermissionError:
            raise
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(f"{file} is not a readable FITS file: {error}") from error
        with hdus:
            yield hdus, extension


def _shape(hdu: Any) -> tuple[int, ...]:
    """Shape of an image HDU without its leading axes of length 1; () for anything else."""
    if not hdu.is_image:
        return ()
    shape = hdu.shape
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _find_image(hdus: HDUList, extension: Any, path: Any, any_name: bool = False) -> int:
    shapes = [_shape(hdu) for hdu in hdus]
    listing = ", ".join(
        f"[{i}] {hdu.name or 'unnamed'} {shape or 'no image'}"
        for i, (hdu, shape) in enumerate(zip(hdus, shapes, strict=True))
    )
    if extension is not None:
        try:
            index = hdus.index_of(extension)
            shape = shapes[index]
        except (KeyError, IndexError):
            raise ValueError(f"{path}: no such extension; the file has {listing}") from None
        if len(shape) != 2:
            raise ValueError(f"{path}: a 2-D image is needed; the file has {listing}")
        return index
    others = () if any_name else (*MASK_NAMES, *VARIANCE_FROM)
    for index, (hdu, shape) in enumerate(zip(hdus, shapes, strict=True)):
        if len(shape) == 2 and hdu.name not in others:
            return index
    raise ValueError(f"{path}: no 2-D image found; the file has {listing}")


def _siblings(hdus: HDUList, index: int, shape: tuple[int, ...]) -> list[Any]:
    """Other images of this shape, those of the same EXTVER first."""
    found = [hdu for i, hdu in enumerate(hdus) if i != index and _shape(hdu) == shape]
    return sorted(found, key=lambda hdu: hdu.ver != hdus[index].ver)


def _pixels(hdu: Any, path: Any) -> np.ndarray:
    # Read before the pixels: astropy drops these cards when it scales them. It knows no BLANK
    # of 0, nor one in unsigned integers.
    header = hdu.header
    blank, bits = header.get("BLANK"), header.get("ZBITPIX", header["BITPIX"])
    zero, scale = header.get("BZERO", 0), header.get("BSCALE", 1)
    try:
        data = hdu.data
    except Exception as error:  # damaged pixels fail in many ways, by compression
        raise ValueError(f"{path}: the pixels of [{hdu.name}] cannot be read: {error}") from error
    data = data.reshape(_shape(hdu))
    dtype = np.float64 if data.dtype.kind == "f" and data.dtype.itemsize == 8 else np.float32
    image = np.array(data, dtype)
    if blank is not None and bits > 0:
        image[data == data.dtype.type(blank * scale + zero)] = np.nan
    return image


def _bad_pixels(hdu: Any, path: Any) -> np.ndarray:
    try:
        values = hdu.data.reshape(_shape(hdu))
    except Exception as error:
        raise ValueError(f"{path}: the pixels of [{hdu.name}] cannot be read: {error}") from error
    planes = [hdu.header[name] for name in BAD_PLANES if name in hdu.header]
    if planes and values.dtype.kind in "iu":
        return (values & sum(1 << plane for plane in planes)) != 0
    return np.array(values != 0)


def _of_shape(values: np.ndarray, shape: tuple[int, int], path: Any, what: str) -> np.ndarray:
    if values.shape != tuple(shape):
        raise ValueError(
            f"the {what} {path} has shape {values.shape}; its image has {tuple(shape)}"
        )
    return values


def _merged_header(hdu: Any, primary: Any) -> Header:
    """Cards of the extension, then those of the primary header that it lacks."""
    header = hdu.header.copy()
    if hdu is not primary:
        taken = {*header, "COMMENT", "HISTORY", "", "NEXTEND"}
        header.extend(
            [c for c in primary.header.copy(strip=True).cards if c.keyword not in taken],
            bottom=True,
        )
    return header


def _celestial(header: Header, hdus: HDUList) -> WCS | None:
    from astropy.wcs import WCS

    try:
        wcs = WCS(header, fobj=hdus)
        return wcs.celestial if wcs.has_celestial else None
    except Exception as error:  # wcslib, astropy and missing distortion tables raise many kinds
        raise ValueError(f"the WCS in the header cannot be understood: {error}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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
            return pixel_to_pixel(source, target, x, y)
        except NoConvergence:  # far outside of where a distortion was fitted
            return np.full(x.shape, np.nan), np.full(y.shape, np.nan)


def _covers(inner: Frame, outer: Frame) -> bool:
    """Whether any of a grid of pixels of `inner` lies on `outer`."""
    ny, nx = outer.image.shape
    y, x = _grid(inner.image.shape, 33)
    x, y = _to_pixels(inner.wcs, outer.wcs, x, y)
    return bool(np.any((x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)))


def _centre(frame: Frame) -> str:
    ny, nx = frame.image.shape
    return frame.wcs.pixel_to_world((nx - 1) / 2, (ny - 1) / 2).icrs.to_string("decimal")


def _pixel_area(frame: Frame) -> float:
    from astropy.wcs.utils import proj_plane_pixel_area

    return float(proj_plane_pixel_area(frame.wcs))
