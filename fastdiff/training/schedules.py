"""How the learning rate changes over the steps of a run."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["Schedule", "constant", "cosine", "stepped", "trapezoid"]

Schedule = Callable[[int, int], float]
"""Factor on the learning rate, from the step and the number of steps."""


def constant(step: int, steps: int) -> float:
    """No change of the learning rate."""
    return 1.0


def cosine(warm_up: int = 500, floor: float = 0.01) -> Schedule:
    """Linear warm-up over `warm_up` steps, then half a cosine down to `floor`."""

    def factor(step: int, steps: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        done = (step - warm_up) / max(1, steps - warm_up)
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

    return factor


def trapezoid(warm_up: int = 500, decay: float = 0.3, floor: float = 0.01) -> Schedule:
    """Warm-up, a plateau, and a linear fall to `floor` over the last fraction `decay`.

    A run on the plateau may be continued with more steps without loss; a cosine may not.
    """

    def factor(step: int, steps: int) -> float:
        left = (steps - step) / max(1.0, decay * steps)
        return min((step + 1) / max(1, warm_up), 1.0, floor + (1.0 - floor) * left)

    return factor


def stepped(every: int, factor: float, start: int = 0) -> Schedule:
    """Multiply by `factor` at `start` + every, `start` + 2 every, ... steps."""

    def at(step: int, steps: int) -> float:
        return factor ** max(0, (step - start) // every)

    return at
