"""Wall time of the stages of a call."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator

__all__ = ["Clock"]


class Clock:
    """Seconds of stages, summed over the threads that spend them.

    Parameters
    ----------
    stages : iterable of str
        Stages that are listed even if no time is spent on them.

    Attributes
    ----------
    seconds : dict
        Stage -> wall seconds.

    Examples
    --------
    >>> clock = Clock()
    >>> with clock("fit"):
    ...     pass
    >>> list(clock.seconds)
    ['fit']
    """

    def __init__(self, stages: Iterable[str] = ()) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(stages, 0.0)
        self._last = time.perf_counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time within the block."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - begun)

    def stop(self, stage: str) -> None:
        """Count the time since the last stop, or since the clock was made."""
        now = time.perf_counter()
        self.add(stage, now - self._last)
        self._last = now

    def add(self, stage: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere."""
        with self._lock:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
