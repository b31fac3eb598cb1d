"""The command ``fastdiff cpm``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.markup import escape

from .shared import Threads, app, err, example, new_progress, out, reason_of

if TYPE_CHECKING:
    from astropy.table import Table

    from fastdiff.cubes.cpm import CPMResult
    from fastdiff.pipeline.cpm import CpmSettings


@app.command(
    epilog=example(
        "fastdiff cpm ktwo200069960-c92_lpd-targ.fits -o field.fits",
        "fastdiff cpm cube.npy -o field.fits --holdout 20 --predictors 200",
    )
)
def cpm(
    cube_file: Annotated[
        Path,
        typer.Argument(
            metavar="CUBE",
            help="Target pixels of Kepler, K2 or TESS, a FITS file with a 3-D image, or a .npy.",
        ),
    ],
    *,
    out_file: Annotated[
        Path, typer.Option("--out", "-o", help="FITS file for the difference and its maps.")
    ] = Path("cpm.fits"),
    holdout: Annotated[
        int, typer.Option(min=0, help="Runs of epochs that are predicted by the others; 0: none.")
    ] = 10,
    predictors: Annotated[int, typer.Option(min=1, help="Pixels that predict each pixel.")] = 400,
    ridge: Annotated[
        float | None, typer.Option(min=0.0, help="Strength of the penalty; chosen by default.")
    ] = None,
    quality_bitmask: Annotated[
        str,
        typer.Option(
            help="Bits of the quality flag that leave an epoch out: a number, or none, default, "
            "hard or hardest as in lightkurve."
        ),
    ] = "default",
    threshold: Annotated[
        float, typer.Option("--threshold", "-t", help="Sigmas by which a variable stands out.")
    ] = 5.0,
    aperture: Annotated[
        int, typer.Option(min=1, help="Side of the square of a light curve, odd.")
    ] = 3,
    png: Annotated[
        bool, typer.Option("--png/--no-png", help="Draw the variables and their light curves.")
    ] = True,
    threads: Threads = None,
) -> None:
    """Subtract from every pixel of a cube what far-away pixels predict of it (CPM).

    Writes OUT.fits (DIFFERENCE, RMS, VARIABILITY, NPRED, EPOCHS), OUT.variables.ecsv with the
    light curves of the pixels that vary, and OUT.png. Meanwhile the difference is in OUT.part.npy.
    Cubes of more than 8000 pixels are worked on tile by tile, and OUT.part.npz tells which are
    done: interrupted, the same command goes on from there.
    """
    from fastdiff.pipeline.cpm import CpmSettings

    settings = CpmSettings(
        holdout,
        predictors,
        ridge,
        _bitmask(quality_bitmask),
        threshold,
        aperture=aperture,
        png=png,
        threads=threads,
    )
    _run(cube_file, out_file, settings)


def _run(cube_file: Path, out_file: Path, settings: CpmSettings) -> None:
    """Subtract a cube, with a bar, and tell of it."""
    from fastdiff.pipeline.cpm import subtract_cube

    try:
        with new_progress() as progress:
            task = progress.add_task("pixels", total=None)
            result, found = subtract_cube(
                cube_file,
                out_file,
                settings,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
                tell=lambda text: err.print(escape(text)),
            )
    except (ValueError, TypeError, ImportError, OSError) as error:
        err.print(f"[red]failed[/red]: {escape(reason_of(error))}")
        raise typer.Exit(1) from None
    _tell(result, found, out_file)


def _bitmask(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _tell(result: CPMResult, found: Table, out_file: Path) -> None:
    """Lines about a cube, and about the pixels that vary most."""
    rms = result.rms[np.isfinite(result.rms)]
    out.print(
        f"{len(found)} variable pixels, median rms {np.median(rms):.4g}, exclusion "
        f"{result.meta['exclusion']} -> {escape(str(out_file))}"
    )
    for note in result.meta["notes"]:
        err.print(escape(note))
    for row in found[:10]:
        out.print(f"  y {row['y']}, x {row['x']}: {row['excess']:.1f} sigma above the others")
