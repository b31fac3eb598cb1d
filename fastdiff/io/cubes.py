"""Cubes of epochs: target pixels of Kepler, K2 and TESS, images in FITS files, arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .images import image_shape, merged_header, open_fits

if TYPE_CHECKING:
    from astropy.io.fits import Header


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
    with open_fits(path) as (hdus, _):
        for hdu in hdus:
            names = getattr(getattr(hdu, "columns", None), "names", None) or ()
            if "FLUX" in names and np.ndim(hdu.data["FLUX"]) == 3:
                cube = np.array(hdu.data["FLUX"], np.float32)
                n = len(cube)
                time = np.array(hdu.data["TIME"], float) if "TIME" in names else np.arange(n) * 1.0
                bad = ~np.isfinite(time)
                if quality and "QUALITY" in names:
                    bad |= np.asarray(hdu.data["QUALITY"]) != 0
                noise = np.array(hdu.data["FLUX_ERR"], np.float32) if "FLUX_ERR" in names else None
                return Cube(cube, time, bad, noise, merged_header(hdu, hdus[0]))
            if len(image_shape(hdu)) == 3:
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
    if computed or place is None or place["file"].compression or 0 in image_shape(hdu):
        return None
    kind = "f" if header["BITPIX"] < 0 else "u" if header["BITPIX"] == 8 else "i"
    dtype = np.dtype(f">{kind}{abs(header['BITPIX']) // 8}")
    return np.memmap(place["file"].name, dtype, "r", place["datLoc"], image_shape(hdu))
