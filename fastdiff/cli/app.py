"""The command ``fastdiff``: subtract, cpm, dmdt, classify, simulate, demo, doctor, train."""

from __future__ import annotations

import contextlib
import enum
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as Listing

if TYPE_CHECKING:
    from astropy.table import Table

app = typer.Typer(
    name="fastdiff",
    help="Find what changes in the sky: transients in pairs of images, classes of light curves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

N_DEMO = 20
MAX_FALSE = 10  # rows of the demo's table
DEMO_SKY = {
    "preset": "survey",
    "n_transients": (N_DEMO, N_DEMO),
    "exact_number": 1,
    "n_vanished": 0,
    "p_variable": 0,
    "amplitude": (6, 100),
    "star_density": (2, 4),
    "fwhm_ref": (2.5, 3.5),
    "fwhm_sci": (2.5, 4.5),
    "p_central_galaxy": 0,
    "p_cluster": 0,
    # The preset has the artefacts that a network must learn from; a reduced frame has fewer.
    "cosmic_rays": 0.05,
    "hot_pixels": 0.02,
    "bad_columns": 0.002,
    "trails": 0.0,
    # The preset's turns and scales are those of small stamps; these move a corner by 0.15 px.
    "rotation": 1e-4,
    "scaling": 1e-4,
}
"""The demo's sky: the survey preset at good seeing, and nothing changes but new sources."""


class Sign(enum.StrEnum):
    """Which changes become candidates."""

    positive = "positive"
    negative = "negative"
    both = "both"


class Recipe(enum.StrEnum):
    """Networks that can be trained: `train_NAME` of fastdiff.training.transinet or .dmdt."""

    transinet_lite = "transinet-lite"
    transinet = "transinet"
    dmdt_shallow = "dmdt-shallow"
    dmdt_deep = "dmdt-deep"
    dmdt_best = "dmdt-best"


class Symmetry(enum.StrEnum):
    """Turns and flips over which the network is averaged."""

    none = "none"
    cyclic = "cyclic"
    dihedral = "dihedral"


@dataclass
class Pair:
    """Files of one subtraction and the name of what it writes."""

    ref: str
    sci: str
    name: str
    ref_mask: Path | None = None
    sci_mask: Path | None = None
    ref_noise: Path | None = None
    sci_noise: Path | None = None


@dataclass
class Settings:
    """What all pairs of one call share."""

    folder: Path
    align: bool = False
    threshold: float = 5.0
    threads: int | None = None
    png: bool = True
    sign: str = "positive"
    method: str = "transinet"
    options: dict[str, Any] | None = None


def main() -> None:
    """Entry point of the command ``fastdiff``."""
    app()


def _example(*lines: str) -> str:
    """Epilogue of a --help text."""
    return "Example:\n" + "\n".join(f"\n    {line}" for line in lines)


def _print_version(wanted: bool) -> None:
    if wanted:
        import fastdiff

        out.print(f"fastdiff {fastdiff.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print and leave."),
    ] = False,
) -> None:
    pass


# ---------------------------------------------------------------- subtract


@app.command(
    epilog=_example(
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
    model: Annotated[
        str | None, typer.Option(help="Network: a shipped name or an ONNX file.")
    ] = None,
    symmetry: Annotated[
        Symmetry, typer.Option(help="Average the network over turns and flips (slower).")
    ] = Symmetry.none,
    threshold: Annotated[
        float, typer.Option("--threshold", "-t", min=0.0, help="Smallest S/N of a candidate.")
    ] = 5.0,
    sign: Annotated[
        Sign, typer.Option(help="Sources that are brighter in the science image, fainter, or both.")
    ] = Sign.positive,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; all cores by default.")
    ] = None,
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
    failures: list[tuple[str, str]] = []
    if list_file is None:
        pairs = [Pair(ref, sci, _stem(sci), ref_mask, sci_mask, ref_noise, sci_noise)]
    elif ref is not None or any((ref_mask, sci_mask, ref_noise, sci_noise)):
        raise typer.BadParameter("REF, SCI, masks and noise maps do not go with --list")
    else:
        pairs, failures = _read_list(list_file)

    options: dict[str, Any] = {}
    if model is not None:
        options["model"] = model
    if symmetry is not Symmetry.none:
        options["symmetry"] = symmetry.value
    settings = Settings(out_dir, align, threshold, threads, png, sign.value, method, options)
    _make_folder(out_dir)

    single = len(pairs) == 1 and not failures
    with _progress() as progress:
        task = progress.add_task("subtracting", total=len(pairs), visible=not single)
        for pair in pairs:
            progress.update(task, description=pair.name)
            try:
                table, message = subtract_pair(pair, settings)
            except Exception as error:  # one bad pair must not stop a night
                failures.append((f"{pair.ref} {pair.sci}", _reason(error)))
                err.print(f"[red]failed[/red] {escape(pair.name)}: {escape(_reason(error))}")
            else:
                out.print(f"{escape(pair.name)}: {escape(message)}")
                if single:
                    _print_candidates(table)
            progress.advance(task)
    if failures:
        if not single and len(pairs) + len(failures) > 1:
            err.print(f"[red]{len(failures)} failed[/red]:")
            for files, reason in failures:
                err.print(f"  {escape(files)}: {escape(reason)}")
        raise typer.Exit(1)


def subtract_pair(pair: Pair, settings: Settings) -> tuple[Table, str]:
    """Read one pair, subtract, write the results; the candidates and a line about them."""
    import numpy as np

    import fastdiff
    from fastdiff.io import fits

    begun = time.perf_counter()
    sci = fits.read_image(pair.sci)
    ref = fits.read_image(pair.ref)
    for path, frame in ((pair.ref, ref), (pair.sci, sci)):
        if min(frame.image.shape) < 32:
            raise ValueError(f"{path} has shape {frame.image.shape}; at least 32 x 32 is needed")
    ref = _with_maps(ref, pair.ref_mask, pair.ref_noise)
    sci = _with_maps(sci, pair.sci_mask, pair.sci_noise)
    matched = fits.match_grids(ref, sci, settings.align)
    aligned, ref = matched is not ref, matched

    difference = fastdiff.subtract_batch(
        ref.image,
        sci.image,
        method=settings.method,
        ref_masks=ref.mask,
        sci_masks=sci.mask,
        ref_variances=ref.variance,
        sci_variances=sci.variance,
        threads=settings.threads,
        **(settings.options or {}),
    )
    full = fits.saturated_pixels(sci)
    if not aligned:
        full |= fits.saturated_pixels(ref)
    # They are masked already; remembered as saturated, they give candidates beside them a flag.
    places = np.argwhere(full)
    difference.meta["saturated"] = np.insert(places, 0, 0, axis=1)
    candidates = fastdiff.find_transients(
        difference, threshold=settings.threshold, sign=settings.sign
    )
    candidates = fits.add_sky_positions(candidates, sci.wcs)
    model = str(difference.meta.get("model", settings.method))
    backend = str(difference.meta.get("backend", ""))
    history = [
        f"fastdiff {fastdiff.__version__} subtract: science - reference",
        f"reference {pair.ref}",
        f"science {pair.sci}",
        f"method {settings.method}, model {model}, back end {backend}",
        f"{len(candidates)} candidates with S/N >= {settings.threshold:g}",
    ]
    if aligned:
        history.insert(3, "reference reprojected onto the science grid")
    candidates.meta["history"] = history
    cards = {
        "FDVERS": (fastdiff.__version__, "version of fastdiff"),
        "FDMETHOD": (settings.method, "method of subtraction"),
        "FDMODEL": (model[:60], "network"),
        "FDBACK": (backend[:60], "back end that ran it"),
        "FDREF": (Path(pair.ref).name[:60], "reference image"),
        "FDTHRESH": (settings.threshold, "S/N threshold of the candidates"),
        "FDNCAND": (len(candidates), "candidates"),
    }
    base = settings.folder / pair.name
    fits.write_difference(
        f"{base}.diff.fits",
        difference.image,
        difference.noise,
        difference.mask,
        sci.header,
        history,
        cards,
        difference.significance,
        [] if difference.kernel is None else [difference.kernel.to_hdu()],
    )
    fits.write_candidates(f"{base}.candidates.ecsv", candidates)
    _draw(base, pair, settings, ref, sci, difference, candidates, model)
    seconds = time.perf_counter() - begun
    message = f"{len(candidates)} candidates -> {base}.diff.fits ({seconds:.1f} s)"
    for note in difference.meta.get("notes", {}).get(0, ()):
        message += f"; {note}"
    return candidates, message


def _with_maps(frame: Any, mask: Path | None, noise: Path | None) -> Any:
    from fastdiff.io import fits

    shape = frame.image.shape
    if mask is not None:
        bad = fits.read_mask(mask, shape)
        frame = frame._replace(mask=bad if frame.mask is None else frame.mask | bad)
    if noise is not None:
        frame = frame._replace(variance=fits.read_noise(noise, shape) ** 2)
    return frame


def _draw(
    base: Path,
    pair: Pair,
    settings: Settings,
    ref: Any,
    sci: Any,
    difference: Any,
    candidates: Any,
    model: str,
) -> None:
    if not settings.png:
        return
    from fastdiff.plots.difference import draw_difference

    title = (
        f"{Path(pair.sci).name} - {Path(pair.ref).name}   |   {model}   |   "
        f"{len(candidates)} candidates with S/N >= {settings.threshold:g}"
    )
    try:
        draw_difference(
            f"{base}.png", ref.image, sci.image, difference.image, difference.noise,
            candidates, title,
        )  # fmt: skip
    except ImportError as error:
        err.print(f"[yellow]no picture:[/yellow] {escape(str(error))} (or use --no-png)")
        settings.png = False


def _stem(path: str) -> str:
    """Name of the results: the file's, without .fits, .fz and .gz, with its extension."""
    from fastdiff.io.fits import split_extension

    file, extension = split_extension(path)
    name = file.name
    for suffix in (".gz", ".fz", ".fits", ".fit", ".fts"):
        name = name.removesuffix(suffix)
    if extension is not None:
        parts = extension if isinstance(extension, tuple) else (extension,)
        name += "." + ".".join(str(part) for part in parts)
    return name


def _read_list(path: Path) -> tuple[list[Pair], list[tuple[str, str]]]:
    """Pairs of a list file, and the lines that are none."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        err.print(f"[red]cannot read the list[/red] {escape(str(path))}: {escape(str(error))}")
        raise typer.Exit(1) from None
    pairs: list[Pair] = []
    failures = []
    names: set[str] = set()
    for number, line in enumerate(lines, 1):
        try:
            words = shlex.split(line, comments=True)
            if not words:
                continue
            if len(words) not in (2, 3):
                raise ValueError(f"REF SCI [NAME] is needed, not {len(words)} words")
        except ValueError as error:
            failures.append((f"{path} line {number}", str(error)))
            err.print(f"[red]failed[/red] {escape(f'{path} line {number}: {error}')}")
            continue
        ref, sci = (str(path.parent / word) for word in words[:2])
        wanted = name = words[2] if len(words) == 3 else _stem(sci)
        count = 1
        while name in names:  # the same science image in two folders, or with two references
            count += 1
            name = f"{wanted}-{count}"
        names.add(name)
        pairs.append(Pair(ref, sci, name))
    if not pairs and not failures:
        err.print(f"[red]the list {escape(str(path))} is empty[/red]: one REF SCI a line")
        raise typer.Exit(1)
    return pairs, failures


def _make_folder(folder: Path) -> None:
    """Make the folder and try to write in it, before minutes of work are lost."""
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        err.print(f"[red]cannot write to the folder[/red] {escape(str(folder))}: {reason}")
        raise typer.Exit(1) from None


def _reason(error: Exception) -> str:
    expected = (OSError, ValueError, TypeError, ImportError, MemoryError)
    text = " ".join(str(error).split())
    return text if text and isinstance(error, expected) else f"{type(error).__name__}: {text}"


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
    )


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


# ---------------------------------------------------------------- cpm


@app.command(
    epilog=_example(
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
    quality: Annotated[
        bool, typer.Option("--quality/--no-quality", help="Leave out epochs with a quality flag.")
    ] = True,
    threshold: Annotated[
        float, typer.Option("--threshold", "-t", help="Sigmas by which a variable stands out.")
    ] = 5.0,
    aperture: Annotated[
        int, typer.Option(min=1, help="Side of the square of a light curve, odd.")
    ] = 3,
    png: Annotated[
        bool, typer.Option("--png/--no-png", help="Draw the variables and their light curves.")
    ] = True,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; all cores by default.")
    ] = None,
) -> None:
    """Subtract from every pixel of a cube what far-away pixels predict of it (CPM).

    Writes OUT.fits (DIFFERENCE, RMS, VARIABILITY, NPRED, EPOCHS), OUT.variables.ecsv with the
    light curves of the pixels that vary, and OUT.png. Meanwhile the difference is in OUT.part.npy.
    Cubes of more than 8000 pixels are worked on tile by tile, and OUT.part.npz tells which are
    done: interrupted, the same command goes on from there.
    """
    import numpy as np
    from astropy.table import Table

    import fastdiff
    from fastdiff.io import fits

    try:
        cube = fits.read_cube(cube_file, quality)
        with _resumable(out_file, cube.cube.shape) as (image, saved), _progress() as progress:
            task = progress.add_task("pixels", total=None)
            result = fastdiff.cpm_subtract(
                cube.cube,
                mask=cube.mask,
                n_predictors=predictors,
                holdout=holdout or None,
                ridge="gcv" if ridge is None else ridge,
                out=image,
                checkpoint=saved,
                threads=threads,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
            history = [
                f"fastdiff {fastdiff.__version__} cpm of {cube_file.name}",
                f"holdout {holdout or None}, predictors {predictors}, ridge {result.ridge:.4g}",
                f"excluded around a pixel (rows, distance): {result.meta['exclusion']}",
            ]
            fits.write_cpm(out_file, result, cube, history)
        found = result.variables(threshold)
        base = out_file.with_suffix("")
        curves = Table({"time": cube.time, "masked": cube.mask})
        for row in found:
            curve = result.light_curve(int(row["y"]), int(row["x"]), aperture)
            curves[f"flux_y{row['y']}_x{row['x']}"] = np.where(cube.mask, np.nan, curve["flux"])
        curves.meta = {
            "history": history,
            "variables": [{name: float(row[name]) for name in found.colnames} for row in found],
        }
        fits.write_candidates(f"{base}.variables.ecsv", curves)
        if png:
            from fastdiff.plots.difference import draw_cpm

            draw_cpm(f"{base}.png", result, cube.time, found, aperture)
    except (ValueError, TypeError, ImportError, OSError) as error:
        err.print(f"[red]failed[/red]: {escape(_reason(error))}")
        raise typer.Exit(1) from None
    rms = result.rms[np.isfinite(result.rms)]
    out.print(
        f"{len(found)} variable pixels, median rms {np.median(rms):.4g}, exclusion "
        f"{result.meta['exclusion']} -> {escape(str(out_file))}"
    )
    for note in result.meta["notes"]:
        err.print(escape(note))
    for row in found[:10]:
        out.print(f"  y {row['y']}, x {row['x']}: {row['excess']:.1f} sigma above the others")


@contextlib.contextmanager
def _resumable(out_file: Path, shape: tuple[int, ...]) -> Iterator[tuple[Any, Path]]:
    """Memory map of the difference and its checkpoint, of an interrupted run where there is one."""
    import numpy as np

    base = out_file.with_suffix("")
    whole, saved = Path(f"{base}.part.npy"), Path(f"{base}.part.npz")
    if not whole.parent.is_dir():
        raise FileNotFoundError(f"the folder {whole.parent} does not exist")
    if whole.is_file() and saved.is_file():
        err.print(f"going on from {escape(str(saved))}")
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
            err.print(f"what is done is kept in {escape(str(saved))} for the same command")
        else:
            whole.unlink()
        raise
    whole.unlink()


# ---------------------------------------------------------------- dmdt, classify

_Files = Annotated[
    list[Path],
    typer.Argument(help="Light curves: CSV, ECSV, FITS, Parquet, or npz with offsets."),
]
_TimeColumn = Annotated[
    str | None, typer.Option("--time", help="Column of the times in days; guessed by default.")
]
_MagColumn = Annotated[str | None, typer.Option("--mag", help="Column of the magnitudes.")]
_ErrorColumn = Annotated[str | None, typer.Option("--magerr", help="Column of their errors.")]
_CurveColumn = Annotated[
    str | None, typer.Option("--curve", help="Column that says which curve a point belongs to.")
]
_Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")]


@app.command(
    epilog=_example(
        "fastdiff dmdt curves.csv -o images.npz",
        "fastdiff dmdt star.ecsv -o star.fits --mag V --grid new1 --png star.png",
    )
)
def dmdt(
    files: _Files,
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
    time_column: _TimeColumn = None,
    mag_column: _MagColumn = None,
    magerr_column: _ErrorColumn = None,
    curve_column: _CurveColumn = None,
    threads: _Threads = None,
) -> None:
    """Make dm-dt images of light curves: all pairs of points by their differences.

    Writes the images (n, n_dm, n_dt), the names and flags of the curves and the edges of the
    cells. Exit code 1 where a file cannot be read.
    """
    import numpy as np

    from fastdiff.core.files import whole_file
    from fastdiff.io import fits
    from fastdiff.lightcurves.dmdt import GRIDS, dmdt_images

    try:
        if out_file.suffix not in (".npz", ".fits"):
            raise ValueError(f"--out is {out_file}; it must end in .npz or .fits")
        curves = _light_curves(files, time_column, mag_column, magerr_column, curve_column)
        if smooth and curves.magerr is None:
            raise ValueError("--smooth needs errors, and no column looks like them: --magerr NAME")
        chosen = _index_of(curves.names, draw) if png else 0
        images, flags = dmdt_images(
            curves.time,
            curves.mag,
            curves.offsets,
            magerr=curves.magerr if smooth else None,
            grid=grid,
            norm=norm,
            return_flags=True,
            threads=threads,
        )
        cells = GRIDS[grid]
        if out_file.suffix == ".npz":
            with whole_file(out_file) as aside:
                np.savez_compressed(
                    aside, images=images, names=curves.names, flags=flags, dm=cells.dm, dt=cells.dt
                )
        else:
            fits.write_dmdt(out_file, images, curves.names, flags, cells.dm, cells.dt, norm)
        if png:
            from fastdiff.plots.difference import draw_dmdt

            draw_dmdt(png, images[chosen], cells.dm, cells.dt, f"{curves.names[chosen]}, {norm}")
    except (ValueError, TypeError, ImportError, OSError) as error:
        err.print(f"[red]failed[/red]: {escape(_reason(error))}")
        raise typer.Exit(1) from None
    out.print(f"{len(images)} images of {images.shape[1]} x {images.shape[2]} -> {out_file}")
    _tell_flags(flags)


@app.command(
    epilog=_example(
        "fastdiff classify curves.csv -o classes.ecsv",
        "fastdiff classify *.csv --model shallow",
    )
)
def classify(
    files: _Files,
    out_file: Annotated[
        Path | None, typer.Option("--out", "-o", help="Table of the probabilities, ECSV.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Classifier: best, shallow, or an ONNX file.")
    ] = "best",
    time_column: _TimeColumn = None,
    mag_column: _MagColumn = None,
    magerr_column: _ErrorColumn = None,
    curve_column: _CurveColumn = None,
    threads: _Threads = None,
) -> None:
    """Classify light curves of periodic variables: EW, EA, RRab, RRc, RRd, RS_CVn or LPV.

    Prints a line a curve, or writes a table with the probabilities of all classes.
    Exit code 1 where a file cannot be read.
    """
    from astropy.table import Table

    import fastdiff
    from fastdiff.io import fits

    try:
        curves = _light_curves(files, time_column, mag_column, magerr_column, curve_column)
        found = fastdiff.classify_light_curves(
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
            fits.write_candidates(out_file, table)
    except (ValueError, TypeError, ImportError, OSError) as error:
        err.print(f"[red]failed[/red]: {escape(_reason(error))}")
        raise typer.Exit(1) from None
    if out_file:
        out.print(f"{len(table)} curves -> {out_file}")
    else:
        for row in table:
            best = row[row["class"]] if row["class"] else float("nan")
            out.print(f"{escape(str(row['curve']))}: {row['class'] or 'unknown'} ({best:.2f})")
    _tell_flags(found.flags)


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


def _index_of(names: Any, wanted: str | None) -> int:
    if not len(names):
        raise ValueError("there is no curve to draw")
    if wanted is None:
        return 0
    places = [i for i, name in enumerate(names) if name == wanted]
    if not places:
        raise ValueError(f"--draw is {wanted!r}; there is no such curve")
    return places[0]


def _tell_flags(flags: Any) -> None:
    """A line for each kind of flag, with the number of curves that have it."""
    import numpy as np

    from fastdiff.lightcurves.curves import describe_flags

    for bit in (1, 2, 4, 8):
        n = int(np.count_nonzero(flags & bit))
        if n:
            err.print(f"{n} flagged {describe_flags(bit)}")


# ---------------------------------------------------------------- simulate, demo


@app.command(
    epilog=_example(
        "fastdiff simulate -o sims --n 8 --shape 512 512 --seed 7",
        "fastdiff simulate -o sims --preset paper --set n_transients=1,1",
        "fastdiff subtract --list sims/pairs.txt -o results",
    )
)
def simulate(
    out_dir: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the files; made if absent.")
    ],
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Number of pairs.")] = 1,
    shape: Annotated[tuple[int, int], typer.Option(help="Pixels in y and x.", metavar="NY NX")] = (
        512,
        512,
    ),
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same files.")] = 0,
    preset: Annotated[str | None, typer.Option(help="Named set of parameters.")] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="One parameter; LOW,HIGH for a range."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; all cores by default.")
    ] = None,
) -> None:
    """Make synthetic pairs of images with known transients.

    Writes, for each pair, NAME.ref.fits and NAME.sci.fits (with a MASK extension),
    NAME.truth.fits (the noise-free difference) and NAME.transients.ecsv, and one pairs.txt for
    `fastdiff subtract --list`.
    """
    import fastdiff

    _make_folder(out_dir)
    options = _parameters(parameters or [])
    if preset is not None:
        options["preset"] = preset
    lines = []
    with _progress() as progress:
        for index in progress.track(range(n), description="simulating"):
            try:
                sample = fastdiff.simulate.pairs(
                    1, shape, seed=seed, start=index, threads=threads, **options
                )
            except (TypeError, ValueError) as error:
                err.print(f"[red]cannot simulate[/red]: {escape(_reason(error))}")
                raise typer.Exit(1) from None
            pair = _write_sample(out_dir, f"pair-{index:04d}", sample)
            lines.append(f"{Path(pair.ref).name} {Path(pair.sci).name} {pair.name}\n")
    list_file = out_dir / "pairs.txt"
    list_file.write_text("".join(lines))
    out.print(f"{n} pairs of {shape[0]} x {shape[1]} in {escape(str(out_dir))}, listed in "
              f"{escape(str(list_file))}")  # fmt: skip


@app.command(epilog=_example("fastdiff demo", "fastdiff demo --seed 5 --out elsewhere"))
def demo(
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")] = Path(
        "demo"
    ),
    size: Annotated[int, typer.Option(min=256, help="Pixels on a side.")] = 2048,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another sky.")] = 1,
    threshold: Annotated[
        float, typer.Option("--threshold", "-t", min=0.0, help="Smallest S/N of a candidate.")
    ] = 5.0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; all cores by default.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Network: a shipped name or an ONNX file.")
    ] = None,
    png: Annotated[bool, typer.Option("--png/--no-png", help="Draw a picture.")] = True,
) -> None:
    """Simulate a survey-like pair with 20 transients, find them, and compare with the truth."""
    import fastdiff

    _make_folder(out_dir)
    begun = time.perf_counter()
    out.print(f"simulating a {size} x {size} pair with {N_DEMO} transients ...")
    sample = fastdiff.simulate.pairs(1, (size, size), seed=seed, threads=threads, **DEMO_SKY)
    pair = _write_sample(out_dir, "demo", sample)
    simulated = time.perf_counter()
    out.print("subtracting ...")
    candidates, _ = subtract_pair(
        pair,
        Settings(
            out_dir,
            threshold=threshold,
            threads=threads,
            png=png,
            options={} if model is None else {"model": model},
        ),
    )
    done = time.perf_counter()

    truth = sample.transients
    found, false = match_truth(truth, candidates)
    listing = Listing(box=None, pad_edge=False)
    for name in ("x", "y", "true flux", "true S/N", "flux", "S/N", "distance [px]", ""):
        listing.add_column(name, justify="right")
    for index in sorted(range(len(truth)), key=lambda i: -abs(truth["snr"][i])):
        row, match = truth[index], found[index]
        measured = ("", "", "", "[red]missed[/red]")
        if match is not None:
            hit = candidates[match]
            distance = ((hit["x"] - row["x"]) ** 2 + (hit["y"] - row["y"]) ** 2) ** 0.5
            measured = (
                f"{hit['flux']:.5g}", f"{hit['snr']:.1f}", f"{distance:.2f}",
                "[green]found[/green]",
            )  # fmt: skip
        listing.add_row(
            f"{row['x']:.1f}", f"{row['y']:.1f}", f"{row['flux']:.5g}", f"{row['snr']:.1f}",
            *measured,
        )  # fmt: skip
    for index in sorted(false, key=lambda k: -abs(candidates["snr"][k]))[:MAX_FALSE]:
        hit = candidates[index]
        listing.add_row(
            f"{hit['x']:.1f}", f"{hit['y']:.1f}", "", "", f"{hit['flux']:.5g}",
            f"{hit['snr']:.1f}", "", "[yellow]false[/yellow]",
        )  # fmt: skip
    out.print(listing)
    if len(false) > MAX_FALSE:
        out.print(f"... and {len(false) - MAX_FALSE} more false ones in the file of candidates")
    n_found = sum(match is not None for match in found)
    out.print(
        f"found {n_found} of {len(truth)}, missed {len(truth) - n_found}, false {len(false)}   "
        f"(simulated in {simulated - begun:.1f} s, subtracted in {done - simulated:.1f} s)"
    )
    out.print("files:")
    for path in sorted(out_dir.glob("demo.*")):
        out.print(f"  {escape(str(path))}")


def match_truth(
    truth: Table, candidates: Table, radius: float = 3.0
) -> tuple[list[int | None], list[int]]:
    """Pair each true transient with the nearest free candidate within `radius` pixels.

    Returns
    -------
    found : list
        For each row of `truth`, the row of `candidates` or None.
    false : list of int
        Rows of `candidates` that belong to none.
    """
    import numpy as np

    found: list[int | None] = [None] * len(truth)
    distance = np.hypot(
        np.subtract.outer(np.asarray(truth["x"], float), np.asarray(candidates["x"], float)),
        np.subtract.outer(np.asarray(truth["y"], float), np.asarray(candidates["y"], float)),
    )
    taken: set[int] = set()
    for flat in np.argsort(distance, axis=None):
        i, j = (int(k) for k in np.unravel_index(flat, distance.shape))
        if distance[i, j] > radius:
            break
        if found[i] is None and j not in taken:
            found[i] = j
            taken.add(j)
    return found, [j for j in range(len(candidates)) if j not in taken]


def _write_sample(folder: Path, name: str, sample: Any) -> Pair:
    """Write the first pair of a simulation as FITS files."""
    from fastdiff.io import fits

    paths = {kind: folder / f"{name}.{kind}.fits" for kind in ("ref", "sci", "truth")}
    header = _simulated_header(sample.sci.shape[1:], sample.seed)
    fits.write_image(paths["ref"], sample.ref[0], header, sample.ref_mask[0])
    fits.write_image(paths["sci"], sample.sci[0], header, sample.sci_mask[0])
    fits.write_image(paths["truth"], sample.truth[0], header)
    truth = sample.transients
    truth = fits.add_sky_positions(truth[truth["image"] == 0], fits.read_image(paths["sci"]).wcs)
    fits.write_candidates(folder / f"{name}.transients.ecsv", truth)
    return Pair(str(paths["ref"]), str(paths["sci"]), name)


def _simulated_header(shape: tuple[int, int], seed: int) -> Any:
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


def _parameters(words: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` words as keyword arguments; VALUE is a number, LOW,HIGH or text."""
    parsed: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise typer.BadParameter(f"--set {word}: NAME=VALUE is needed")
        values = tuple(_number(part) for part in text.split(","))
        parsed[name] = values[0] if len(values) == 1 else values
    return parsed


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


# ---------------------------------------------------------------- doctor, train


@app.command(epilog=_example("fastdiff doctor"))
def doctor() -> None:
    """Print versions, devices, back ends, models and compile times; exit 1 if one is broken."""
    from . import doctor as module

    if not module.examine(out):
        raise typer.Exit(1)


@app.command(
    epilog=_example(
        "fastdiff train transinet-lite --out runs/lite --steps 60000",
        "fastdiff train transinet-lite --out runs/bright --set amplitude=20,500",
        "fastdiff train dmdt-best --out runs/classes --data crts_train.npz",
    )
)
def train(
    network: Annotated[Recipe, typer.Argument(help="Network to train.")],
    out_dir: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder of checkpoint, log and model; a run continues."),
    ],
    steps: Annotated[int | None, typer.Option(min=1, help="Steps in all.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Pairs a step.")] = None,
    size: Annotated[int | None, typer.Option(min=16, help="Side of a pair in pixels.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples and of the weights.")] = 0,
    preset: Annotated[str | None, typer.Option(help="Named set of the simulation.")] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="One parameter of the simulation; LOW,HIGH."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; all cores by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="PyTorch device, such as cuda.")] = "cpu",
    ztf: Annotated[
        Path | None,
        typer.Option(help="Folder of ztf_triplets.npz and .csv: a fifth of each batch is real."),
    ] = None,
    initial: Annotated[
        Path | None, typer.Option(help="Checkpoint whose weights the network starts from.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Labelled light curves, crts_train.npz; for dmdt-NAME.")
    ] = None,
) -> None:
    """Train a network on simulated pairs, or on labelled light curves, and write it as ONNX.

    An interrupted run continues when it is started again with the same folder.
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        err.print(
            "[red]training needs PyTorch[/red], which is not installed: "
            + escape("pip install 'fastdiff-astro[train]'")
        )
        raise typer.Exit(1) from None
    on_curves = network.value.startswith("dmdt")
    of_pairs = {"size": size, "preset": preset, "--set": parameters, "ztf": ztf, "initial": initial}
    wrong = [name for name, value in of_pairs.items() if value] if on_curves else []
    if wrong or (data is None) == on_curves:
        what = ", ".join(wrong) + " is for pairs of images" if wrong else "--data is for dmdt-NAME"
        err.print(f"[red]{escape(what)}[/red]; light curves need --data FILE")
        raise typer.Exit(2)
    _make_folder(out_dir)
    if on_curves:
        from fastdiff.training import dmdt as recipes

        chosen = {"steps": steps, "batch": batch, "threads": threads}
        _train(recipes, network, out_dir, chosen, data=data, seed=seed)
        return
    from fastdiff.training import transinet

    chosen = {"steps": steps, "batch": batch, "size": size, "preset": preset, "threads": threads}
    if network is Recipe.transinet_lite:
        chosen["initial"] = initial
        if ztf is not None:
            from fastdiff.training.real import ZtfInjections

            chosen["extra"] = ZtfInjections(ztf, seed)
    elif ztf or initial:
        err.print("[red]--ztf and --initial are for transinet-lite only[/red]")
        raise typer.Exit(2)
    _train(
        transinet, network, out_dir, chosen,
        seed=seed, device=device, parameters=_parameters(parameters or []),
    )  # fmt: skip


def _train(
    recipes: Any, network: Recipe, folder: Path, chosen: dict[str, Any], **fixed: Any
) -> None:
    """Run ``recipes.train_NAME``; what is None in `chosen` is left to the recipe."""
    options = {name: value for name, value in chosen.items() if value is not None}
    recipe = getattr(recipes, "train_" + network.value.replace("-", "_"))
    try:
        path = recipe(folder, **fixed, **options)
    except (ValueError, TypeError, ImportError, OSError) as error:
        err.print(f"[red]cannot train[/red]: {escape(_reason(error))}")
        raise typer.Exit(1) from None
    out.print(f"{escape(str(path))}")
