"""What the commands share: the app, consoles, progress bars, messages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

app = typer.Typer(
    name="fastdiff",
    help="Find what changes in the sky: transients in pairs of images, classes of light curves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")]
Threshold = Annotated[
    float, typer.Option("--threshold", "-t", min=0.0, help="Smallest S/N of a candidate.")
]
NetworkName = Annotated[str | None, typer.Option(help="Network: a shipped name or an ONNX file.")]


def example(*lines: str) -> str:
    """Epilogue of a --help text."""
    return "Example:\n" + "\n".join(f"\n    {line}" for line in lines)


def reason_of(error: Exception) -> str:
    """An error in one line; one that nobody expects is named."""
    expected = (OSError, ValueError, TypeError, ImportError, MemoryError)
    text = " ".join(str(error).split())
    return text if text and isinstance(error, expected) else f"{type(error).__name__}: {text}"


def new_progress() -> Progress:
    """A bar on the terminal that goes when it is done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
    )


def need_folder(folder: Path) -> None:
    """Make the folder of the results, or leave with exit code 1."""
    from fastdiff.pipeline.products import make_folder

    try:
        make_folder(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        err.print(f"[red]cannot write to the folder[/red] {escape(str(folder))}: {reason}")
        raise typer.Exit(1) from None


def parameters_of(words: list[str]) -> dict[str, int | float | str | tuple[int | float | str, ...]]:
    """``NAME=VALUE`` words as keyword arguments; VALUE is a number, LOW,HIGH or text."""
    parsed: dict[str, int | float | str | tuple[int | float | str, ...]] = {}
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
