"""The command ``fastdiff``: subtract, cpm, dmdt, classify, simulate, demo, doctor, train."""

from __future__ import annotations

from typing import Annotated

import typer

from fastdiff.core.version import version as installed_version

# Importing a module adds its commands, and --help lists them in this order.
# isort: off
from . import subtract  # noqa: F401
from . import cpm  # noqa: F401
from . import curves  # noqa: F401
from . import simulate  # noqa: F401
from . import doctor  # noqa: F401
from . import train  # noqa: F401

# isort: on
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
