"""What the products of one pipeline share: their folder, their names, and simulated inputs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdiff.io import images, products, wcs

if TYPE_CHECKING:
    from astropy.io.fits import Header

__all__ = ["make_folder", "name_of_image", "write_sample"]


def make_folder(folder: Path) -> None:
    """Make a folder and try to write in it, before minutes of work are lost.

    Raises
    ------
    OSError
        If it cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def name_of_image(path: str) -> str:
    """Name of an image for its products: without .fits, .fz and .gz, with its extension.

    Examples
    --------
    >>> name_of_image("nights/deep.fits.fz[SCI]")
    'deep.SCI.1'
    """
    file, extension = images.split_extension(path)
    name = file.name
    for suffix in (".gz", ".fz", ".fits", ".fit", ".fts"):
        name = name.removesuffix(suffix)
    if extension is not None:
        parts = extension if isinstance(extension, tuple) else (extension,)
        name += "." + ".".join(str(part) for part in parts)
    return name


def write_sample(folder: Path, name: str, sample: Any) -> tuple[Path, Path]:
    """Write the first pair of a simulation as FITS files.

    Parameters
    ----------
    folder : Path
    name : str
        The files are NAME.ref.fits, NAME.sci.fits, NAME.truth.fits and NAME.transients.ecsv.
    sample : fastdiff.simulate.Pairs

    Returns
    -------
    ref, sci : Path
    """
    paths = {kind: folder / f"{name}.{kind}.fits" for kind in ("ref", "sci", "truth")}
    header = _simulated_header(sample.sci.shape[1:], sample.seed)
    products.write_image(paths["ref"], sample.ref[0], header, sample.ref_mask[0])
    products.write_image(paths["sci"], sample.sci[0], header, sample.sci_mask[0])
    products.write_image(paths["truth"], sample.truth[0], header)
    truth = sample.transients
    truth = wcs.add_sky_positions(truth[truth["image"] == 0], images.read_image(paths["sci"]).wcs)
    products.write_candidates(folder / f"{name}.transients.ecsv", truth)
    return paths["ref"], paths["sci"]


def _simulated_header(shape: tuple[int, int], seed: int) -> Header:
    """WCS of 0.4 arcsec pixels at an arbitrary place of the sky."""
    from astropy.io.fits import Header

    ny, nx = shape
    scale = 0.4 / 3600
    header = Header()
    for key, value in (
        ("CTYPE1", "RA---TAN"), ("CTYPE2", "DEC--TAN"), ("CUNIT1", "deg"), ("CUNIT2", "deg"),
        ("CRVAL1", 150.1), ("CRVAL2", 2.2), ("CRPIX1", (nx + 1) / 2), ("CRPIX2", (ny + 1) / 2),
        ("CDELT1", -scale), ("CDELT2", scale), ("RADESYS", "ICRS"),
        ("OBJECT", "simulated"), ("FDSEED", seed),
    ):  # fmt: skip
        header[key] = value
    return header
