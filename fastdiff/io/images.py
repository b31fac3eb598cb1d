"""Images in FITS files: pixels with their masks, variances and WCS."""

from __future__ import annotations

import contextlib
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from astropy.io.fits import HDUList, Header
    from astropy.wcs import WCS

# Extension names that surveys use, and how each becomes a variance.
MASK_NAMES = ("MASK", "DQ", "BPM")
VARIANCE_FROM: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **dict.fromkeys(("VARIANCE", "VAR"), lambda x: x),
    **dict.fromkeys(("ERR", "ERROR", "NOISE", "SIGMA", "RMS"), np.square),
    **dict.fromkeys(("WEIGHT", "WHT", "IVAR"), lambda x: 1 / np.where(x > 0, x, np.nan)),
}

# Rubin masks (their headers say MP_NAME = bit) also mark every detected source: only these
# planes mean a pixel that cannot be used.
BAD_PLANES = ("MP_BAD", "MP_SAT", "MP_NO_DATA", "MP_UNMASKEDNAN", "MP_CR")


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
    with open_fits(path) as (hdus, extension):
        index = _find_image(hdus, extension, path)
        hdu = hdus[index]
        stored = hdu.header.get("ZBITPIX", hdu.header.get("BITPIX"))
        zero = hdu.header.get("BZERO", 0)
        scale = hdu.header.get("BSCALE", 1)
        image = _pixels(hdu, path)
        header = merged_header(hdu, hdus[0])
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
        saturated = min(saturated, largest) if is_number(saturated) else largest
        header["SATURATE"] = saturated
    bad |= saturated_pixels(Frame(image, header, wcs, None, None))
    if variance is not None:
        bad |= ~np.isfinite(variance)
        variance[bad & ~np.isfinite(variance)] = 0
    return Frame(image, header, wcs, bad if mask is not None or bad.any() else None, variance)


def read_mask(path: str | os.PathLike[str], shape: tuple[int, int]) -> np.ndarray:
    """Read a mask file for an image of `shape`: bool (ny, nx), True (non-zero) is bad."""
    with open_fits(path) as (hdus, extension):
        hdu = hdus[_find_image(hdus, extension, path, any_name=True)]
        mask = _bad_pixels(hdu, path)
    return _of_shape(mask, shape, path, "mask")


def read_noise(path: str | os.PathLike[str], shape: tuple[int, int]) -> np.ndarray:
    """Read a map of the 1 sigma noise in counts for an image of `shape`, as (ny, nx) float32."""
    with open_fits(path) as (hdus, extension):
        noise = _pixels(hdus[_find_image(hdus, extension, path, any_name=True)], path)
    return _of_shape(noise, shape, path, "noise map").astype(np.float32)


def saturated_pixels(frame: Frame) -> np.ndarray:
    """Where the counts reach the ``SATURATE`` of the header: (ny, nx) bool."""
    level = frame.header.get("SATURATE")
    if not (is_number(level) and level > 0):
        return np.zeros(frame.image.shape, bool)
    full: np.ndarray = frame.image >= level
    return full


@contextlib.contextmanager
def open_fits(path: str | os.PathLike[str]) -> Iterator[tuple[HDUList, Any]]:
    """Open a FITS file, whole; its extensions, and the one that the path asks for or None."""
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


def image_shape(hdu: Any) -> tuple[int, ...]:
    """Shape of an image HDU without its leading axes of length 1; () for anything else."""
    if not hdu.is_image:
        return ()
    shape: tuple[int, ...] = hdu.shape
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _find_image(hdus: HDUList, extension: Any, path: Any, any_name: bool = False) -> int:
    shapes = [image_shape(hdu) for hdu in hdus]
    listing = ", ".join(
        f"[{i}] {hdu.name or 'unnamed'} {shape or 'no image'}"
        for i, (hdu, shape) in enumerate(zip(hdus, shapes, strict=True))
    )
    if extension is not None:
        try:
            index: int = hdus.index_of(extension)
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
    found = [hdu for i, hdu in enumerate(hdus) if i != index and image_shape(hdu) == shape]
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
    data = data.reshape(image_shape(hdu))
    dtype = np.float64 if data.dtype.kind == "f" and data.dtype.itemsize == 8 else np.float32
    image = np.array(data, dtype)
    if blank is not None and bits > 0:
        image[data == data.dtype.type(blank * scale + zero)] = np.nan
    return image


def _bad_pixels(hdu: Any, path: Any) -> np.ndarray:
    try:
        values: np.ndarray = hdu.data.reshape(image_shape(hdu))
    except Exception as error:
        raise ValueError(f"{path}: the pixels of [{hdu.name}] cannot be read: {error}") from error
    planes = [hdu.header[name] for name in BAD_PLANES if name in hdu.header]
    if planes and values.dtype.kind in "iu":
        bits: int = sum(1 << plane for plane in planes)
        marked: np.ndarray = (values & bits) != 0
        return marked
    return np.array(values != 0)


def _of_shape(values: np.ndarray, shape: tuple[int, int], path: Any, what: str) -> np.ndarray:
    if values.shape != tuple(shape):
        raise ValueError(
            f"the {what} {path} has shape {values.shape}; its image has {tuple(shape)}"
        )
    return values


def merged_header(hdu: Any, primary: Any) -> Header:
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


def is_number(value: Any) -> bool:
    """Whether a card's value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
