"""Threads of a call: how many there are, and work in order on them."""

from __future__ import annotations

import collections
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

__all__ = ["check_threads", "ordered_map"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def check_threads(threads: int | None) -> int:
    """Number of threads to use: `threads`, or all cores that this process may use."""
    if threads is None:
        from fastdiff.kernels import jit  # Numba takes a second to import

        return int(jit.cpu_count())
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)):
        raise TypeError(
            f"threads is a {type(threads).__name__}; it must be a whole number, or None "
            "for all cores"
        )
    if threads < 1:
        raise ValueError(f"threads is {threads}; it must be at least 1, or None for all cores")
    return int(threads)


def ordered_map(
    call: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Generator[Result, None, None]:
    """Results of ``call(item)`` in the order of the items, computed a little ahead on threads.

    With one thread everything runs in the caller's. At most two results a thread wait to be
    taken, so that memory stays bounded. An error, or Ctrl-C, starts nothing more.

    Examples
    --------
    >>> list(ordered_map(abs, [-3, 2, -1], threads=2))
    [3, 2, 1]
    """
    if threads <= 1:
        yield from map(call, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fastdiff-ordered")
    ahead: collections.deque[Future[Any]] = collections.deque()
    try:
        for item in items:
            ahead.append(pool.submit(call, item))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
