"""The commands ``fastdiff simulate`` and ``fastdiff demo``."""

from __future__ import annotations

import time
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
    parameters_of,
    reason_of,
)
from .subtract import tell_pictures

if TYPE_CHECKING:
    from astropy.table import Table

N_DEMO = 20
MAX_FALSE = 10  # rows of the demo's table
DEMO_SKY: dict[str, Any] = {
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


@app.command(
    epilog=example(
        "fastdiff simulate -o sims --n 8 --shape 512 512 --seed 7",
        "fastdiff simulate -o sims --preset paper --set n_transients=1,1",
        "fastdiff subtract --list sims/pairs.txt -o results",
    )
)
def simulate(
    out_dir: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the files; made if absent.")
    ],
    *,
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
    threads: Threads = None,
) -> None:
    """Make synthetic pairs of images with known transients.

    Writes, for each pair, NAME.ref.fits and NAME.sci.fits (with a MASK extension),
    NAME.truth.fits (the noise-free difference) and NAME.transients.ecsv, and one pairs.txt for
    `fastdiff subtract --list`.
    """
    from fastdiff.pipeline.products import write_sample
    from fastdiff.simulate import pairs

    need_folder(out_dir)
    options: dict[str, Any] = parameters_of(parameters or [])
    if preset is not None:
        options["preset"] = preset
    lines = []
    with new_progress() as progress:
        for index in progress.track(range(n), description="simulating"):
            try:
                sample = pairs(1, shape, seed=seed, start=index, threads=threads, **options)
            except (TypeError, ValueError) as error:
                err.print(f"[red]cannot simulate[/red]: {escape(reason_of(error))}")
                raise typer.Exit(1) from None
            name = f"pair-{index:04d}"
            ref, sci = write_sample(out_dir, name, sample)
            lines.append(f"{ref.name} {sci.name} {name}\n")
    list_file = out_dir / "pairs.txt"
    list_file.write_text("".join(lines))
    out.print(f"{n} pairs of {shape[0]} x {shape[1]} in {escape(str(out_dir))}, listed in "
              f"{escape(str(list_file))}")  # fmt: skip


@app.command(epilog=example("fastdiff demo", "fastdiff demo --seed 5 --out elsewhere"))
def demo(
    *,
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")] = Path(
        "demo"
    ),
    size: Annotated[int, typer.Option(min=256, help="Pixels on a side.")] = 2048,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another sky.")] = 1,
    threshold: Threshold = 5.0,
    threads: Threads = None,
    model: NetworkName = None,
    png: Annotated[bool, typer.Option("--png/--no-png", help="Draw a picture.")] = True,
) -> None:
    """Simulate a survey-like pair with 20 transients, find them, and compare with the truth."""
    from fastdiff.pipeline.products import write_sample
    from fastdiff.pipeline.subtract import PairFiles, SubtractSettings, subtract_pair
    from fastdiff.simulate import pairs

    need_folder(out_dir)
    begun = time.perf_counter()
    out.print(f"simulating a {size} x {size} pair with {N_DEMO} transients ...")
    sample = pairs(1, (size, size), seed=seed, threads=threads, **DEMO_SKY)
    ref, sci = write_sample(out_dir, "demo", sample)
    simulated = time.perf_counter()
    out.print("subtracting ...")
    settings = SubtractSettings(
        out_dir, threshold=threshold, threads=threads, png=png,
        options={} if model is None else {"model": model},
    )  # fmt: skip
    subtracted = subtract_pair(PairFiles(str(ref), str(sci), "demo"), settings)
    tell_pictures(subtracted, settings)
    done = time.perf_counter()
    n_found, n_false = _print_truth(sample.transients, subtracted.candidates)
    n_truth = len(sample.transients)
    out.print(
        f"found {n_found} of {n_truth}, missed {n_truth - n_found}, false {n_false}   "
        f"(simulated in {simulated - begun:.1f} s, subtracted in {done - simulated:.1f} s)"
    )
    out.print("files:")
    for path in sorted(out_dir.glob("demo.*")):
        out.print(f"  {escape(str(path))}")


def _print_truth(truth: Table, candidates: Table) -> tuple[int, int]:
    """Print the true sources and what was found of them; give the numbers found and false."""
    from fastdiff.evaluate.positions import match_positions

    matches = match_positions(
        {name: candidates[name] for name in ("x", "y")}, {name: truth[name] for name in ("x", "y")}
    )
    of_truth = {
        int(t): (int(d), float(distance))
        for d, t, distance in zip(matches.detection, matches.truth, matches.distance, strict=True)
    }
    listing = Listing(box=None, pad_edge=False)
    for name in ("x", "y", "true flux", "true S/N", "flux", "S/N", "distance [px]", ""):
        listing.add_column(name, justify="right")
    for index in sorted(range(len(truth)), key=lambda i: -abs(truth["snr"][i])):
        row = truth[index]
        measured = ("", "", "", "[red]missed[/red]")
        if index in of_truth:
            place, distance = of_truth[index]
            hit = candidates[place]
            measured = (
                f"{hit['flux']:.5g}", f"{hit['snr']:.1f}", f"{distance:.2f}",
                "[green]found[/green]",
            )  # fmt: skip
        listing.add_row(
            f"{row['x']:.1f}", f"{row['y']:.1f}", f"{row['flux']:.5g}", f"{row['snr']:.1f}",
            *measured,
        )  # fmt: skip
    false = matches.false.nonzero()[0].tolist()
    for index in sorted(false, key=lambda k: -abs(candidates["snr"][k]))[:MAX_FALSE]:
        hit = candidates[index]
        listing.add_row(
            f"{hit['x']:.1f}", f"{hit['y']:.1f}", "", "", f"{hit['flux']:.5g}",
            f"{hit['snr']:.1f}", "", "[yellow]false[/yellow]",
        )  # fmt: skip
    out.print(listing)
    if len(false) > MAX_FALSE:
        out.print(f"... and {len(false) - MAX_FALSE} more false ones in the file of candidates")
    return len(of_truth), len(false)
