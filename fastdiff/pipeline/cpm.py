"""Files with cubes of epochs to differences, maps, light curves and pictures."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdiff.core.version import version
from fastdiff.cubes.cpm import cpm_subtract
from fastdiff.io import cubes, products

if TYPE_CHECKING:
    from astropy.table import Table

    from fastdiff.cubes.cpm import CPMResult

__all__ = ["CpmSettings", "subtract_cube"]


@dataclass(frozen=True)
class CpmSettings:
    """How a cube is subtracted and what is written of it.

    Attributes
    ----------
    holdout : int
        Runs of epochs that are predicted by the others; 0 for none.
    predictors : int
        Pixels that predict each pixel.
    penalty : float or None
        Strength of the penalty; None chooses it by generalised cross-validation.
    quality_bitmask : int or str
        Bits of the quality flag that leave an epoch out, as `fastdiff.io.cubes.read_cube` has it.
    threshold : float
        Sigmas by which a variable stands out.
    aperture : int
        Side of the square of a light curve, odd.
    png : bool
        Draw the variables and their light curves.
    threads : int, optional
        CPU threads; all cores by default.
    """

    holdout: int = 10
    predictors: int = 400
    penalty: float | None = None
    quality_bitmask: int | str = "default"
    threshold: float = 5.0
    aperture: int = 3
    png: bool = True
    threads: int | None = None


def subtract_cube(
    cube_file: Path,
    out_file: Path,
    settings: CpmSettings = CpmSettings(),
    *,
    progress: Callable[[int, int], Any] | bool = False,
    tell: Callable[[str], Any] = lambda text: None,
) -> tuple[CPMResult, Table]:
    """Subtract from every pixel of a cube what far-away pixels predict of it, and write it.

    Parameters
    ----------
    cube_file : Path
        As `fastdiff.io.cubes.read_cube` takes it.
    out_file : Path
        OUT.fits; beside it OUT.variables.ecsv and OUT.png. Meanwhile the difference is in
        OUT.part.npy, and OUT.part.npz tells what is done: an interrupted run goes on from there.
    settings : CpmSettings, optional
    progress : callable or bool
        As in `fastdiff.cpm_subtract`.
    tell : callable
        Called with a line of text when a run goes on, or keeps what is done.

    Returns
    -------
    result : CPMResult
    variables : astropy.table.Table
        Pixels that vary.

    Raises
    ------
    OSError, ValueError, TypeError, ImportError
        If files cannot be read or written, or a setting is wrong.
    """
    cube = cubes.read_cube(cube_file, settings.quality_bitmask)
    with _resumable(out_file, cube.cube.shape, tell) as (image, saved):
        result = cpm_subtract(
            cube.cube,
            mask=cube.mask,
            n_predictors=settings.predictors,
            holdout=settings.holdout or None,
            ridge="gcv" if settings.penalty is None else settings.penalty,
            out=image,
            checkpoint=saved,
            threads=settings.threads,
            progress=progress,
        )
        history = [
            f"fastdiff {version()} cpm of {cube_file.name}",
            f"holdout {settings.holdout or None}, predictors {settings.predictors}, "
            f"ridge {result.ridge:.4g}",
            f"excluded around a pixel (rows, distance): {result.meta['exclusion']}",
            f"quality bitmask {settings.quality_bitmask}: {int(cube.mask.sum())} of "
            f"{len(cube.mask)} epochs masked",
            f"predictors are means of {result.meta['smooth']} epochs",
        ]
        products.write_cpm(out_file, result, cube, history)
    variables = result.variables(settings.threshold)
    base = out_file.with_suffix("")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        curves = _light_curves(result, cube, variables, settings.aperture)
        curves.meta = {
            "history": history,
            "variables": [{name: float(row[name]) for name in row.colnames} for row in variables],
            "time": cube.times._asdict(),
        }
        products.write_candidates(f"{base}.variables.ecsv", curves)
        if settings.png:
            from fastdiff.plots.cube import draw_cpm

            label = f"{cube.times.name} [{cube.times.unit}]" if cube.times.unit else "epoch"
            draw_cpm(f"{base}.png", result, cube.time, variables, settings.aperture, label)
    for text in dict.fromkeys(str(each.message) for each in said):
        tell(text)
    return result, variables


def _light_curves(result: CPMResult, cube: cubes.Cube, variables: Table, aperture: int) -> Table:
    """Flux, its error and the raw sum of each variable, NaN at masked epochs."""
    from astropy.table import Table

    curves = Table({"time": cube.time, "masked": cube.mask})
    curves["time"].unit = cube.times.unit or None
    for row in variables:
        curve = result.light_curve(int(row["y"]), int(row["x"]), aperture)
        for name in ("flux", "flux_err", "raw"):
            column = f"{name}_y{row['y']}_x{row['x']}"
            curves[column] = np.where(cube.mask, np.nan, curve[name])
            curves[column].unit = cube.unit or None
    return curves


@contextlib.contextmanager
def _resumable(
    out_file: Path, shape: tuple[int, ...], tell: Callable[[str], Any]
) -> Iterator[tuple[Any, Path]]:
    """Memory map of the difference and its checkpoint, of an interrupted run where there is one."""
    base = out_file.with_suffix("")
    whole, saved = Path(f"{base}.part.npy"), Path(f"{base}.part.npz")
    if not whole.parent.is_dir():
        raise FileNotFoundError(f"the folder {whole.parent} does not exist")
    if whole.is_file() and saved.is_file():
        tell(f"going on from {saved}")
        image = np.lib.format.open_memmap(whole, "r+")
    else:
        saved.unlink(missing_ok=True)
        image = np.lib.format.open_memmap(whole, "w+", np.float32, shape)
    try:
        if image.shape != shape:
            raise ValueError(
                f"{whole} has shape {image.shape} and the cube {shape}: it is of another run; "
                f"remove it and {saved.name} to begin again"
            )
        yield image, saved
    except BaseException:
        if saved.is_file():
            tell(f"what is done is kept in {saved} for the same command")
        else:
            whole.unlink()
        raise
    whole.unlink()
