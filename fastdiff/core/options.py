"""Checks of options: each error names the option, what came and what is needed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np

__all__ = ["one_of", "whole_number"]

Choice = TypeVar("Choice")


def whole_number(
    name: str, value: Any, least: int | None = None, most: int | None = None, unit: str = ""
) -> int:
    """A whole number within its limits.

    Parameters
    ----------
    name : str
        Name of the option, for messages.
    value : int
        What came.
    least, most : int, optional
        Smallest and largest value.
    unit : str
        What it counts, for messages: "pixels".

    Raises
    ------
    TypeError
        If it is no whole number; a bool is none.
    ValueError
        If it is out of its limits.

    Examples
    --------
    >>> whole_number("stamps", 0, least=1)
    Traceback (most recent call last):
      ...
    ValueError: stamps is 0; it must be at least 1
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        of = f" of {unit}" if unit else ""
        raise TypeError(f"{name} is a {type(value).__name__}; it must be a whole number{of}")
    if (least is not None and value < least) or (most is not None and value > most):
        limits = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} is {value}; it must be {limits}" + (f" {unit}" if unit else ""))
    return int(value)


def one_of(name: str, value: Any, known: Iterable[Choice]) -> Choice:
    """A value that is among those known.

    Raises
    ------
    ValueError
        If it is not.

    Examples
    --------
    >>> one_of("fit", "star", ("auto", "stars"))
    Traceback (most recent call last):
      ...
    ValueError: fit is 'star'; it must be one of 'auto', 'stars'
    """
    known = tuple(known)
    if value not in known:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, known))}")
    choice: Choice = value
    return choice
