"""Telling how far a call has come."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["reporting", "silent"]


def silent(done: int, total: int) -> None:
    """Tell nobody."""


@contextlib.contextmanager
def reporting(progress: Any) -> Iterator[Callable[[int, int], Any]]:
    """What to call with (done, total) for `progress`, a bool or a callable."""
    if callable(progress):
        yield progress
    elif progress is True:
        from rich.progress import Progress

        with Progress() as bar:
            task = bar.add_task("subtracting", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    elif progress is False or progress is None:
        yield silent
    else:
        raise TypeError(
            f"progress is a {type(progress).__name__}; it must be True, False or a callable "
            "that takes (done, total)"
        )
