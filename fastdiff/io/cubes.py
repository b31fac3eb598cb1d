"""Cubes of epochs: target pixels of Kepler, K2 and TESS, images in FITS files, arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastdiff.core.options import one_of, whole_number

from .images import image_shape, merged_header, open_fits

if TYPE_CHECKING:
    from astropy.io.fits import Header


# As lightkurve names them (utils.KeplerQualityFlags, TessQualityFlags), after the Kepler Archive
# Manual (KDMC-10008, table 2-3) and the TESS Science Data Products Description Document (table 32).
_KEPLER_DEFAULT = 1 | 2 | 4 | 8 | 32 | 256 | 16384 | 65536 | 1048576
_TESS_DEFAULT = 1 | 2 | 4 | 8 | 16 | 32 | 128 | 512 | 16384
QUALITY_BITMASKS: dict[str, dict[str, int]] = {
    "Kepler": {
        "none": 0,
        "default": _KEPLER_DEFAULT,
        "hard": _KEPLER_DEFAULT | 128 | 1024 | 8192 | 524288,
        "hardest": 2096639,
    },
    "TESS": {
        "none": 0,
        "default": _TESS_DEFAULT,
        "hard": _TESS_DEFAULT | 64 | 1024 | 2048 | 4096,
        "hardest": 65535,
    },
}
"""Bits of QUALITY that make an epoch bad, by mission (Kepler's are K2's too) and name."""
_NAMED = {2454833.0: "BKJD", 2457000.0: "BTJD", 0.0: "BJD"}
_UNITS = {"e-/s": "electron/s", "e-": "electron"}  # as these files call them


class TimeSystem(NamedTuple):
    """What the times of a cube are."""

    name: str
    """"BKJD", "BTJD", "BJD", "BJD - zero", or "epoch", the number of an epoch"""
    unit: str
    """"d", or "" for numbers"""
    scale: str
    """"tdb" or what the file says, in small letters; "" where it says nothing"""
    zero: float
    """Julian date of time 0; NaN where the file says nothing"""


NUMBERS = TimeSystem("epoch", "", "", float("nan"))


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
    unit: str = ""
    """Of the pixels, as FITS spells it; "" where the file says nothing."""
    times: TimeSystem = NUMBERS


def read_cube(path: str | os.PathLike[str], quality_bitmask: int | str = "default") -> Cube:
    """Read a cube of epochs.

    Parameters
    ----------
    path : path
        Target pixels of Kepler, K2 or TESS (also cut-outs of full frames), a FITS file with a 3-D
        image, (n_epochs, ny, nx) in the order of NumPy, or an array in a .npy file. Arrays, and
        images that are neither compressed nor scaled, are mapped and not read.
    quality_bitmask : int or {"default", "none", "hard", "hardest"}
        Bits of QUALITY of which any masks an epoch. The names are those of lightkurve and have
        their bits: of Kepler and K2 1130799, 0, 1664431 and 2096639, of TESS 17087, 0, 24319 and
        65535 (`QUALITY_BITMASKS`). Of other telescopes all names but "none" mean any bit.

    Raises
    ------
    FileNotFoundError
    ValueError
        If the file holds no cube, or a bitmask is unknown.

    Notes
    -----
    Epochs without a time, and those of target pixels that are 0 in every pixel, as TESSCut fills
    what is missing, are masked whatever the bits.
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
    with open_fits(path) as (hdus, _):
        for hdu in hdus:
            names = getattr(getattr(hdu, "columns", None), "names", None) or ()
            if "FLUX" in names and np.ndim(hdu.data["FLUX"]) == 3:
                cube = np.array(hdu.data["FLUX"], np.float32)
                n = len(cube)
                time = np.array(hdu.data["TIME"], float) if "TIME" in names else np.arange(n) * 1.0
                header = merged_header(hdu, hdus[0])
                bad = ~np.isfinite(time) | ~np.nan_to_num(cube, nan=1.0).any((1, 2))
                bits = _bits(quality_bitmask, str(header.get("TELESCOP", "")).strip())
                if "QUALITY" in names:
                    bad |= (np.asarray(hdu.data["QUALITY"]).astype(np.int64) & bits) != 0
                given = "FLUX_ERR" in names
                flux_err = np.array(hdu.data["FLUX_ERR"], np.float32) if given else None
                unit = str(hdu.columns["FLUX"].unit or "").strip()
                times = _times(header) if "TIME" in names else NUMBERS
                return Cube(cube, time, bad, flux_err, header, _UNITS.get(unit, unit), times)
            if len(image_shape(hdu)) == 3:
                cube = _mapped(hdu)
                if cube is None:
                    cube = np.array(hdu.data)
                    cube = cube.astype(cube.dtype.newbyteorder("="), copy=False)
                n, header = len(cube), hdu.header.copy()
                unit = str(header.get("BUNIT", "")).strip()
                return Cube(cube, np.arange(float(n)), np.zeros(n, bool), None, header, unit)
    raise ValueError(f"{path} holds no cube: neither target pixels (FLUX) nor a 3-D image")


def _bits(bitmask: int | str, telescope: str) -> int:
    """The bits that a number or a name means for a telescope."""
    if isinstance(bitmask, str):
        name = one_of("quality_bitmask", bitmask, QUALITY_BITMASKS["Kepler"])
        every = {"none": 0}.get(name, -1)
        return QUALITY_BITMASKS.get(telescope, {}).get(name, every)
    return whole_number("quality_bitmask", bitmask, 0)


def _times(header: Header) -> TimeSystem:
    """What the header of target pixels says of its times."""
    zero = float("nan")
    if "BJDREFI" in header:
        zero = float(header["BJDREFI"]) + float(header.get("BJDREFF", 0.0))
    name = _NAMED.get(zero, f"BJD - {zero}" if np.isfinite(zero) else "time")
    unit, scale = str(header.get("TIMEUNIT", "d")), str(header.get("TIMESYS", "")).lower()
    return TimeSystem(name, unit.strip(), scale.strip(), zero)


def _mapped(hdu: Any) -> np.memmap | None:
    """A memory map of an image, big-endian; None where its values have to be computed."""
    from astropy.io import fits

    header, place = hdu.header, hdu.fileinfo()
    computed = isinstance(hdu, fits.CompImageHDU) or {"BSCALE", "BZERO", "BLANK"} & set(header)
    if computed or place is None or place["file"].compression or 0 in image_shape(hdu):
        return None
    kind = "f" if header["BITPIX"] < 0 else "u" if header["BITPIX"] == 8 else "i"
    dtype = np.dtype(f">{kind}{abs(header['BITPIX']) // 8}")
    return np.memmap(place["file"].name, dtype, "r", place["datLoc"], image_shape(hdu))
