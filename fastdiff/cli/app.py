"""The command ``fastdiff``: subtract, cpm, dmdt, classify, simulate, demo, doctor, train."""

from __future__ import annotations

from typing import Annotated

import typer

from fastdiff.core.version import version as installed_version

# Importing a module adds its commands, and --help lists them in this order.
from . import cpm, curves, doctor, simulate, subtract, train  # noqa: F401
from .shared import app, out


def main() -> None:
    """Entry point of the command ``fastdiff``."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"fastdiff {installed_version()}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print and leave."),
    ] = False,
) -> None:
    pass
