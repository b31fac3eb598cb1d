"""What is done of a cube, in a file from which an interrupted call goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from fastdiff.core.files import whole_file

from .options import CHOICES

__all__ = ["Checkpoint"]


class Checkpoint:
    """The maps of the tiles that are done, in a file that is always whole."""

    NAMES = ("ridge", "freedom", "n_predictors")

    def __init__(self, path: str | os.PathLike[str], fingerprint: str):
        self.path, self.fingerprint = Path(path), fingerprint

    def read(self, maps: dict[str, Any], ridge: float | str) -> tuple[int, float | str]:
        """Number of tiles that are done and the strength; fills the maps in place."""
        if not self.path.exists():
            return 0, ridge
        try:
            with np.load(self.path) as archive:
                found = dict(archive)
        except Exception as error:
            raise ValueError(
                f"checkpoint {self.path} cannot be read ({error}); remove it to begin again"
            ) from error
        if str(found["fingerprint"]) != self.fingerprint:
            raise ValueError(
                f"checkpoint {self.path} is of another cube or of other options; remove it to "
                "begin again"
            )
        for name in self.NAMES:
            if maps[name] is not None:
                maps[name][...] = found[name]
        return int(found["n_tiles"]), float(found["strength"]) if found["chosen"] else ridge

    def write(self, n_tiles: int, maps: dict[str, Any], ridge: float | str) -> None:
        """Replace the file at once, so that no half of it is ever seen."""
        chosen = ridge not in CHOICES
        with whole_file(self.path) as file:
            np.savez(
                file, fingerprint=self.fingerprint, n_tiles=n_tiles, chosen=chosen,
                strength=ridge if chosen else np.nan,
                **{name: maps[name] for name in self.NAMES if maps[name] is not None},
            )  # fmt: skip
