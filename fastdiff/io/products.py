"""What fastdiff writes: differences, images, cubes, dm-dt images, tables.

Files are written aside and renamed when complete, so that an interrupted run leaves either the
whole file or none.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdiff.core.files import whole_file

from .cubes import Cube

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from astropy.table import Table

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


def write_difference(
    path: str | os.PathLike[str],
    image: np.ndarray,
    noise: np.ndarray,
    mask: np.ndarray,
    *,
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


def write_cpm(path: str | os.PathLike[str], result: Any, cube: Cube, history: list[str]) -> Path:
    """Write DIFFERENCE (cube), RMS, VARIABILITY, NPRED (maps) and EPOCHS (time, masked).

    The unit of the pixels is BUNIT; EPOCHS has TIMESYS, TIMEUNIT, BJDREFI and BJDREFF as the
    target pixels of Kepler and TESS have them.
    """
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
    if cube.unit:
        for hdu in hdus[:2]:
            hdu.header["BUNIT"] = cube.unit
    table = fits.BinTableHDU(epochs, name="EPOCHS")
    if cube.times.unit:
        table.header["TUNIT1"] = cube.times.unit
        table.header["TIMEUNIT"] = cube.times.unit
    if cube.times.scale:
        table.header["TIMESYS"] = cube.times.scale.upper()
    if np.isfinite(cube.times.zero):
        whole = int(np.floor(cube.times.zero))
        table.header["BJDREFI"] = (whole, f"{cube.times.name} is BJD less BJDREFI and BJDREFF")
        table.header["BJDREFF"] = cube.times.zero - whole
    with whole_file(path) as aside:
        fits.HDUList([primary, *hdus, table]).writeto(aside)
    return Path(path)


def write_dmdt(
    path: str | os.PathLike[str],
    images: np.ndarray,
    names: np.ndarray,
    flags: np.ndarray,
    *,
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
