"""Files with light curves to dm-dt images and to classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdiff.core.files import whole_file
from fastdiff.io import products
from fastdiff.lightcurves.classify import classify_light_curves
from fastdiff.lightcurves.dmdt import GRIDS, dmdt_images

if TYPE_CHECKING:
    from astropy.table import Table

    from fastdiff.io.tables import LightCurves

__all__ = ["DmdtSettings", "classify_curves", "write_dmdt_images"]


@dataclass(frozen=True)
class DmdtSettings:
    """Which dm-dt images are made, and which one is drawn.

    Attributes
    ----------
    grid, norm : str
        As in `fastdiff.dmdt_images`.
    smooth : bool
        Spread pairs along dm by their errors.
    png : Path, optional
        Picture of one image.
    draw : str, optional
        Name of the curve that is drawn; the first by default.
    threads : int, optional
        CPU threads; all cores by default.
    """

    grid: str = "mahabal2017"
    norm: str = "paper"
    smooth: bool = False
    png: Path | None = None
    draw: str | None = None
    threads: int | None = None


def write_dmdt_images(
    curves: LightCurves, out_file: Path, settings: DmdtSettings = DmdtSettings()
) -> tuple[np.ndarray, np.ndarray]:
    """Write the images (n, n_dm, n_dt), names and flags of the curves, and edges of the cells.

    Parameters
    ----------
    curves : LightCurves
        As `fastdiff.io.tables.read_light_curve_files` gives them.
    out_file : Path
        A .npz or .fits file.
    settings : DmdtSettings, optional

    Returns
    -------
    images : ndarray, (n, n_dm, n_dt)
    flags : ndarray of int, (n,)

    Raises
    ------
    OSError, ValueError, TypeError, ImportError
        If the file cannot be written or a setting does not fit the curves.
    """
    if settings.smooth and curves.magerr is None:
        raise ValueError("--smooth needs errors, and no column looks like them: --magerr NAME")
    chosen = _index_of(curves.names, settings.draw) if settings.png else 0
    images, flags = dmdt_images(
        curves.time,
        curves.mag,
        curves.offsets,
        magerr=curves.magerr if settings.smooth else None,
        grid=settings.grid,
        norm=settings.norm,
        return_flags=True,
        threads=settings.threads,
    )
    cells = GRIDS[settings.grid]
    if out_file.suffix == ".npz":
        with whole_file(out_file) as aside:
            np.savez_compressed(
                aside, images=images, names=curves.names, flags=flags, dm=cells.dm, dt=cells.dt
            )
    else:
        products.write_dmdt(
            out_file, images, curves.names, flags, dm=cells.dm, dt=cells.dt, norm=settings.norm
        )
    if settings.png:
        from fastdiff.plots.dmdt import draw_dmdt

        title = f"{curves.names[chosen]}, {settings.norm}"
        draw_dmdt(settings.png, images[chosen], cells.dm, cells.dt, title)
    return images, flags


def _index_of(names: Any, wanted: str | None) -> int:
    if not len(names):
        raise ValueError("there is no curve to draw")
    if wanted is None:
        return 0
    places = [i for i, name in enumerate(names) if name == wanted]
    if not places:
        raise ValueError(f"--draw is {wanted!r}; there is no such curve")
    return places[0]


def classify_curves(
    curves: LightCurves,
    out_file: Path | None = None,
    *,
    model: str = "best",
    threads: int | None = None,
) -> Table:
    """Table of classes: "curve", "class", "flags", and a probability for each class.

    Parameters
    ----------
    curves : LightCurves
        As `fastdiff.io.tables.read_light_curve_files` gives them.
    out_file : Path, optional
        Where the table goes, as ECSV.
    model, threads
        As in `fastdiff.classify_light_curves`.

    Raises
    ------
    OSError, ValueError, TypeError
        If the file cannot be written or the model does not fit.
    """
    from astropy.table import Table

    found = classify_light_curves(
        curves.time,
        curves.mag,
        curves.offsets,
        magerr=curves.magerr,
        model=model,
        threads=threads,
    )
    table = Table({"curve": curves.names, "class": found.labels, "flags": found.flags})
    for name, column in zip(found.classes, found.probabilities.T, strict=True):
        table[name] = column
        table[name].info.format = ".3f"
    table.meta["model"] = found.model
    if out_file:
        products.write_candidates(out_file, table)
    return table
