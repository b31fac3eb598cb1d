"""The command ``fastdiff train``."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from .shared import Threads, app, err, example, need_folder, out, parameters_of, reason_of


class Recipe(enum.StrEnum):
    """Networks that can be trained: `train_NAME` of fastdiff.training.transinet or .dmdt."""

    transinet_lite = "transinet-lite"
    transinet = "transinet"
    dmdt_shallow = "dmdt-shallow"
    dmdt_deep = "dmdt-deep"
    dmdt_best = "dmdt-best"


@app.command(
    epilog=example(
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
    *,
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
    threads: Threads = None,
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
    need_folder(out_dir)
    chosen: dict[str, Any] = {"steps": steps, "batch": batch, "threads": threads}
    if on_curves:
        from fastdiff.training import dmdt as recipes

        _train(recipes, network, out_dir, chosen, data=data, seed=seed)
        return
    from fastdiff.training import transinet

    chosen |= {"size": size, "preset": preset}
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
        seed=seed, device=device, parameters=parameters_of(parameters or []),
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
        err.print(f"[red]cannot train[/red]: {escape(reason_of(error))}")
        raise typer.Exit(1) from None
    out.print(f"{escape(str(path))}")
