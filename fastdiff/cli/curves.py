"""The commands ``fastdiff dmdt`` and ``fastdiff classify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape

from .shared import Threads, app, err, example, out, reason_of

Files = Annotated[
    list[Path],
    typer.Argument(help="Light curves: CSV, ECSV, FITS, Parquet, or npz with offsets."),
]
TimeColumn = Annotated[
    str | None, typer.Option("--time", help="Column of the times in days; guessed by default.")
]
MagColumn = Annotated[str | None, typer.Option("--mag", help="Column of the magnitudes.")]
ErrorColumn = Annotated[str | None, typer.Option("--magerr", help="Column of their errors.")]
CurveColumn = Annotated[
    str | None, typer.Option("--curve", help="Column that says which curve a point belongs to.")
]


@app.command(
    epilog=example(
        "fastdiff dmdt curves.csv -o images.npz",
        "fastdiff dmdt star.ecsv -o star.fits --mag V --grid new1 --png star.png",
    )
)
def dmdt(
    files: Files,
    *,
    out_file: Annotated[
        Path, typer.Option("--out", "-o", help="Images and edges: a .npz or .fits file.")
    ] = Path("dmdt.npz"),
    grid: Annotated[
        str, typer.Option(help="Grid: mahabal2017, new1, new2, new3 or ztf.")
    ] = "mahabal2017",
    norm: Annotated[
        str, typer.Option(help="Normalisation: paper, counts, l2, dt or max.")
    ] = "paper",
    smooth: Annotated[
        bool, typer.Option("--smooth/--no-smooth", help="Spread pairs along dm by their errors.")
    ] = False,
    png: Annotated[
        Path | None, typer.Option(help="Draw the image of the first curve, or of --draw.")
    ] = None,
    draw: Annotated[str | None, typer.Option(help="Name of the curve that is drawn.")] = None,
    time_column: TimeColumn = None,
    mag_column: MagColumn = None,
    magerr_column: ErrorColumn = None,
    curve_column: CurveColumn = None,
    threads: Threads = None,
) -> None:
    """Make dm-dt images of light curves: all pairs of points by their differences.

    Writes the images (n, n_dm, n_dt), the names and flags of the curves and the edges of the
    cells. Exit code 1 where a file cannot be read.
    """
    from fastdiff.pipeline.curves import DmdtSettings, write_dmdt_images

    try:
        if out_file.suffix not in (".npz", ".fits"):
            raise ValueError(f"--out is {out_file}; it must end in .npz or .fits")
        curves = _light_curves(files, time_column, mag_column, magerr_column, curve_column)
        settings = DmdtSettings(grid, norm, smooth, png, draw, threads)
        images, flags = write_dmdt_images(curves, out_file, settings)
    except (ValueError, TypeError, ImportError, OSError) as error:
        err.print(f"[red]failed[/red]: {escape(reason_of(error))}")
        raise typer.Exit(1) from None
    out.print(f"{len(images)} images of {images.shape[1]} x {images.shape[2]} -> {out_file}")
    _tell_flags(flags)


@app.command(
    epilog=example(
        "fastdiff classify curves.csv -o classes.ecsv",
        "fastdiff classify *.csv --model shallow",
    )
)
def classify(
    files: Files,
    *,
    out_file: Annotated[
        Path | None, typer.Option("--out", "-o", help="Table of the probabilities, ECSV.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Classifier: best, shallow, or an ONNX file.")
    ] = "best",
    time_column: TimeColumn = None,
    mag_column: MagColumn = None,
    magerr_column: ErrorColumn = None,
    curve_column: CurveColumn = None,
    threads: Threads = None,
) -> None:
    """Classify light curves of periodic variables: EW, EA, RRab, RRc, RRd, RS_CVn or LPV.

    Prints a line a curve, or writes a table with the probabilities of all classes.
    Exit code 1 where a file cannot be read.
    """
    from fastdiff.pipeline.curves import classify_curves

    try:
        curves = _light_curves(files, time_column, mag_column, magerr_column, curve_column)
        table = classify_curves(curves, out_file, model=model, threads=threads)
    except (ValueError, TypeError, ImportError, OSError) as error:
        err.print(f"[red]failed[/red]: {escape(reason_of(error))}")
        raise typer.Exit(1) from None
    if out_file:
        out.print(f"{len(table)} curves -> {out_file}")
    else:
        for row in table:
            best = row[row["class"]] if row["class"] else float("nan")
            out.print(f"{escape(str(row['curve']))}: {row['class'] or 'unknown'} ({best:.2f})")
    _tell_flags(np.asarray(table["flags"]))


def _light_curves(
    files: list[Path], time_: str | None, mag: str | None, magerr: str | None, curve: str | None
) -> Any:
    """Curves of all files; says which columns were taken."""
    from fastdiff.io.tables import read_light_curve_files

    given = {"time": time_, "mag": mag, "magerr": magerr, "curve": curve}
    curves = read_light_curve_files(files, {k: v for k, v in given.items() if v is not None})
    taken = ", ".join(f"{role} from {name!r}" for role, name in curves.columns.items())
    err.print(f"{len(curves.names)} curves, {len(curves.time)} points; {escape(taken)}")
    return curves


def _tell_flags(flags: Any) -> None:
    """A line for each kind of flag, with the number of curves that have it."""
    from fastdiff.lightcurves.curves import describe_flags

    for bit in (1, 2, 4, 8):
        n = int(np.count_nonzero(flags & bit))
        if n:
            err.print(f"{n} flagged {describe_flags(bit)}")
