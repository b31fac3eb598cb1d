"""The command ``fastdiff subtract``."""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table as Listing

from .shared import (
    NetworkName,
    Threads,
    Threshold,
    app,
    err,
    example,
    need_folder,
    new_progress,
    out,
    reason_of,
)

if TYPE_CHECKING:
    from astropy.table import Table

    from fastdiff.pipeline.subtract import PairFiles, SubtractedPair, SubtractSettings


class Sign(enum.StrEnum):
    """Which changes become candidates."""

    positive = "positive"
    negative = "negative"
    both = "both"


class Symmetry(enum.StrEnum):
    """Turns and flips over which the network is averaged."""

    none = "none"
    cyclic = "cyclic"
    dihedral = "dihedral"


@app.command(
    epilog=example(
        "fastdiff subtract ref.fits sci.fits -o results",
        "fastdiff subtract deep.fits.fz[SCI] night.fits[1] -o results --align --threshold 6",
        "fastdiff subtract ref.fits sci.fits --method psf-match -o results",
        "fastdiff subtract --list pairs.txt -o results",
    )
)
def subtract(
    ref: Annotated[
        str | None,
        typer.Argument(help="Reference image; FILE[1] or FILE[NAME] for an extension."),
    ] = None,
    sci: Annotated[str | None, typer.Argument(help="Science image of the same field.")] = None,
    *,
    out_dir: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results; made if absent.")
    ] = Path("."),
    list_file: Annotated[
        Path | None,
        typer.Option(
            "--list",
            help="Text file with one pair a line: REF SCI [NAME]. Relative paths start at its "
            "folder; # begins a comment.",
        ),
    ] = None,
    align: Annotated[
        bool, typer.Option("--align", help="Reproject the reference onto the science grid by WCS.")
    ] = False,
    method: Annotated[
        str, typer.Option(help="Method of subtraction: transinet, psf-match or zogy.")
    ] = "transinet",
    model: NetworkName = None,
    symmetry: Annotated[
        Symmetry, typer.Option(help="Average the network over turns and flips (slower).")
    ] = Symmetry.none,
    threshold: Threshold = 5.0,
    sign: Annotated[
        Sign, typer.Option(help="Sources that are brighter in the science image, fainter, or both.")
    ] = Sign.positive,
    threads: Threads = None,
    png: Annotated[
        bool, typer.Option("--png/--no-png", help="Draw a picture of each pair.")
    ] = True,
    ref_mask: Annotated[
        Path | None, typer.Option(help="Mask of the reference, non-zero is bad.")
    ] = None,
    sci_mask: Annotated[
        Path | None, typer.Option(help="Mask of the science image, non-zero is bad.")
    ] = None,
    ref_noise: Annotated[
        Path | None, typer.Option(help="1 sigma noise map of the reference.")
    ] = None,
    sci_noise: Annotated[
        Path | None, typer.Option(help="1 sigma noise map of the science image.")
    ] = None,
) -> None:
    """Subtract a reference from a science image and list what changed.

    Writes NAME.diff.fits (extensions DIFFERENCE, NOISE, MASK; SIGNIFICANCE and KERNEL where the
    method has them), NAME.candidates.ecsv and NAME.png, where NAME is the name of the science
    image. Existing results are replaced.
    Masks and variances in extensions (MASK, DQ, BPM; VARIANCE, ERR, WEIGHT, ...) are used.
    Exit code: 0, or 1 where a pair failed; the other pairs are done all the same.
    """
    if (list_file is None) == (ref is None or sci is None):
        raise typer.BadParameter("give REF and SCI, or --list FILE")
    from fastdiff.pipeline.products import name_of_image
    from fastdiff.pipeline.subtract import PairFiles, SubtractSettings

    failures: list[tuple[str, str]] = []
    maps = (ref_mask, sci_mask, ref_noise, sci_noise)
    if list_file is not None:
        if ref is not None or any(maps):
            raise typer.BadParameter("REF, SCI, masks and noise maps do not go with --list")
        pairs, failures = _pairs_of(list_file)
    elif ref is not None and sci is not None:
        pairs = [PairFiles(ref, sci, name_of_image(sci), *maps)]
    options: dict[str, Any] = {} if model is None else {"model": model}
    if symmetry is not Symmetry.none:
        options["symmetry"] = symmetry.value
    need_folder(out_dir)
    _subtract_all(
        pairs,
        SubtractSettings(out_dir, align, threshold, threads, png, sign.value, method, options),
        failures,
    )


def _subtract_all(
    pairs: list[PairFiles], settings: SubtractSettings, failures: list[tuple[str, str]]
) -> None:
    """Subtract pair by pair; exit code 1 if any failed, or `failures` has any already."""
    from fastdiff.pipeline.subtract import subtract_pair

    single = len(pairs) == 1 and not failures
    with new_progress() as progress:
        task = progress.add_task("subtracting", total=len(pairs), visible=not single)
        for pair in pairs:
            progress.update(task, description=pair.name)
            try:
                done = subtract_pair(pair, settings)
            except Exception as error:  # one bad pair must not stop a night
                failures.append((f"{pair.ref} {pair.sci}", reason_of(error)))
                err.print(f"[red]failed[/red] {escape(pair.name)}: {escape(reason_of(error))}")
            else:
                settings = tell_pictures(done, settings)
                out.print(f"{escape(pair.name)}: {escape(_message(done))}")
                if single:
                    _print_candidates(done.candidates)
            progress.advance(task)
    if failures:
        if not single and len(pairs) + len(failures) > 1:
            err.print(f"[red]{len(failures)} failed[/red]:")
            for files, reason in failures:
                err.print(f"  {escape(files)}: {escape(reason)}")
        raise typer.Exit(1)


def tell_pictures(done: SubtractedPair, settings: SubtractSettings) -> SubtractSettings:
    """Say once why there is no picture; settings that ask for no more then."""
    if done.no_picture is None:
        return settings
    err.print(f"[yellow]no picture:[/yellow] {escape(done.no_picture)} (or use --no-png)")
    return dataclasses.replace(settings, png=False)


def _message(done: SubtractedPair) -> str:
    text = f"{len(done.candidates)} candidates -> {done.difference_file} ({done.seconds:.1f} s)"
    return "; ".join([text, *done.notes])


def _pairs_of(path: Path) -> tuple[list[PairFiles], list[tuple[str, str]]]:
    """Pairs of a list file, and the lines that are none; exit code 1 if there is nothing."""
    from fastdiff.pipeline.subtract import read_list

    try:
        pairs, failures = read_list(path)
    except (OSError, UnicodeDecodeError) as error:
        err.print(f"[red]cannot read the list[/red] {escape(str(path))}: {escape(str(error))}")
        raise typer.Exit(1) from None
    for place, reason in failures:
        err.print(f"[red]failed[/red] {escape(f'{place}: {reason}')}")
    if not pairs and not failures:
        err.print(f"[red]the list {escape(str(path))} is empty[/red]: one REF SCI a line")
        raise typer.Exit(1)
    return pairs, failures


def _print_candidates(table: Table, limit: int = 20) -> None:
    if len(table) == 0:
        return
    sky = "ra" in table.colnames
    listing = Listing(box=None, pad_edge=False)
    for name in ("x", "y", *(("ra", "dec") if sky else ()), "flux", "flux_err", "snr", "flags"):
        listing.add_column(name, justify="right")
    rows = sorted(table, key=lambda row: -abs(row["snr"]))
    for row in rows[:limit]:
        listing.add_row(
            f"{row['x']:.1f}",
            f"{row['y']:.1f}",
            *((f"{row['ra']:.6f}", f"{row['dec']:+.6f}") if sky else ()),
            f"{row['flux']:.5g}",
            f"{row['flux_err']:.5g}",
            f"{row['snr']:.1f}",
            str(row["flags"]),
        )
    out.print(listing)
    if len(table) > limit:
        out.print(f"... and {len(table) - limit} more in the file")
