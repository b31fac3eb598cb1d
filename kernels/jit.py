"""The only file that imports Numba: how every kernel is compiled, threaded and launched.

A kernel is written once, as functions of one item (a pixel, a tile, a sample), marked
``@item``. Two thin loops call them: one marked ``@cpu_loop``, which takes a half-open
range of items as its first two arguments, and one marked ``@cuda_kernel``; `declare` makes
both from one declaration.

Threads are Python threads over ranges of items (the compiled loops release the GIL),
not ``numba.prange``: the number of threads then belongs to the call and not to the
process, calls from several threads of the caller's cannot collide (Numba's built-in
threading layer aborts the process when they do), a fork is harmless, and a loop compiles
in a third of the time.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pathlib
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np


def _source_key() -> str:
    """Hash of all sources of the kernels, those in folders too."""
    digest = hashlib.sha256(__name__.encode())  # cached code imports its module by name
    root = pathlib.Path(__file__).parent
    for source in sorted(root.rglob("*.py")):
        digest.update(source.relative_to(root).as_posix().encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def _own_temporary_folder() -> pathlib.Path:
    """A folder beside other users' temporary files that no one else can have put code into."""
    folder = pathlib.Path(tempfile.gettempdir()) / f"fastdiff-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise PermissionError(f"{folder} is open to other users")
    return folder


def _home_cache() -> pathlib.Path:
    """The user's cache folder; RuntimeError where there is no home."""
    given = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    return pathlib.Path(given) if given else pathlib.Path.home() / ".cache"


def _find_cache_folder() -> pathlib.Path | None:
    """A folder named after the kernels' sources that can be written, or None."""
    for base in (_home_cache, _own_temporary_folder):
        try:
            folder = base() / "fastdiff" / f"numba-{_source_key()}"
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except (OSError, RuntimeError):
            continue
        return folder
    return None


CACHE_FOLDER = _find_cache_folder()
"""Where compiled code and generated sources are kept; None if nothing can be written.

Its name is a hash of the kernels' sources: Numba's own key is the caller's file only, so that
after a change in another file it would run stale machine code.
"""

import numba  # noqa: E402

if CACHE_FOLDER is not None and not os.environ.get("NUMBA_CACHE_DIR"):
    numba.config.CACHE_DIR = str(CACHE_FOLDER)

from numba import cuda  # noqa: E402  (kernels take it from here)
from numba.core import event  # noqa: E402
from numba.extending import register_jitable  # noqa: E402

item = register_jitable
"""Mark a function of one item: plain Python, compiled into whichever loop calls it."""

body = register_jitable(forceinline=True)
"""The same for the body of a loop: it becomes part of the loop, as if it stood there."""

# Reassociation and fused multiply-add let loops vectorise; NaN and infinity keep their
# meaning, because bad pixels are told by them.
FAST_MATH = frozenset({"nsz", "arcp", "contract", "afn", "reassoc"})


def cpu_loop(function: Callable[..., None]) -> Callable[..., None]:
    """Compile ``function(start, stop, *arrays)`` for the CPU, without the GIL, cached on disk."""
    cache = CACHE_FOLDER is not None and os.path.exists(function.__code__.co_filename)
    compiled = numba.njit(
        nogil=True, cache=cache, fastmath=set(FAST_MATH), error_model="numpy", boundscheck=False
    )(function)
    _compile_clock.seconds[compiled] = 0.0
    return compiled


class _CompileClock(event.Listener):
    """Seconds that each loop took to compile, with the items that it calls.

    Numba's own timers of a loop come to nothing where a second thread waits for it meanwhile.
    """

    def __init__(self) -> None:
        self.seconds: dict[Any, float] = {}

    def on_start(self, compiling: event.Event) -> None:
        if compiling.data["dispatcher"] in self.seconds:
            self._begun = time.perf_counter()  # no other loop: the compiler is locked

    def on_end(self, compiling: event.Event) -> None:
        if compiling.data["dispatcher"] in self.seconds:
            self.seconds[compiling.data["dispatcher"]] += time.perf_counter() - self._begun


_compile_clock = _CompileClock()
event.register("numba:compile", _compile_clock)

_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def _forget_pool() -> None:
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_pool)


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(loop: Callable[..., None], n_items: int, threads: int | None, *args: Any) -> None:
    """Call ``loop(start, stop, *args)`` over ``range(n_items)`` on `threads` threads.

    Ranges are a few per thread, so that uneven items balance. The result must not depend
    on how items are grouped: items write to places of their own.
    """
    threads = max(1, min(threads or cpu_count(), n_items))
    if threads == 1:
        if n_items:
            loop(0, n_items, *args)
        return
    n_ranges = min(n_items, 8 * threads)
    bounds = [n_items * i // n_ranges for i in range(n_ranges + 1)]
    ranges = iter(list(zip(bounds[:-1], bounds[1:], strict=True)))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                bound = next(ranges, None)
            if bound is None:
                return
            loop(*bound, *args)

    futures = [_get_pool().submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        for future in futures:
            future.result()


def _get_pool() -> ThreadPoolExecutor:
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(64, cpu_count()), thread_name_prefix="fastdiff")
        return _pool


def compile_seconds() -> dict[str, float]:
    """Seconds that each CPU loop called so far took to compile (0 where the cache had it)."""
    seconds: dict[str, float] = {}
    for loop, spent in _compile_clock.seconds.items():
        if getattr(loop, "signatures", ()):  # none under NUMBA_DISABLE_JIT
            seconds[loop.__name__] = seconds.get(loop.__name__, 0.0) + spent
    return seconds


class CudaKernel:
    """A CUDA kernel that is compiled at its first launch, so that no GPU is needed to import it."""

    def __init__(self, function: Callable[..., None]):
        self.function = function
        functools.update_wrapper(self, function)

    @functools.cached_property
    def _compiled(self) -> Any:
        return cuda.jit(self.function, fastmath=True)

    def launch(
        self, grid: int | tuple[int, ...], block: int | tuple[int, ...], *args: Any, stream: int = 0
    ) -> None:
        """Launch on `stream` (a CUDA stream handle, 0 for the default stream)."""
        handle = cuda.external_stream(stream) if stream else 0
        with warnings.catch_warnings():
            # Small frames have small grids, and nothing can be done about it.
            warnings.filterwarnings("ignore", "Grid size")
            configured = self._compiled[grid, block, handle]
        configured(*args)

    def ptx(self, signature: tuple[Any, ...], compute_capability: tuple[int, int]) -> str:
        """PTX of this kernel for example arguments or Numba types; needs no GPU.

        Numba asks the driver for the device while it compiles an ``@item``; there is none
        here, so the question is answered with `compute_capability`.
        """
        from types import SimpleNamespace
        from unittest import mock

        from numba.cuda import dispatcher

        types = tuple(a if isinstance(a, numba.types.Type) else numba.typeof(a) for a in signature)
        device = SimpleNamespace(compute_capability=compute_capability)
        with mock.patch.object(dispatcher, "get_current_device", return_value=device):
            text, _ = cuda.compile_ptx(self.function, types, cc=compute_capability, fastmath=True)
        return text


cuda_kernel = CudaKernel

_BLOCK = 128  # threads


def on_cpu(array: Any) -> bool:
    """Whether an array is NumPy's, so that the CPU's loop takes it; else it is CuPy's."""
    return isinstance(array, np.ndarray)


def to_host(array: Any) -> Any:
    """An array of NumPy or CuPy in the memory of the CPU."""
    return array if on_cpu(array) else array.get()


def launch(kernel: CudaKernel, n_items: int, *args: Any) -> None:
    """Launch a kernel with one thread for each of `n_items`, on CuPy's current stream."""
    if n_items:
        launch_blocks(kernel, -(-int(n_items) // _BLOCK), _BLOCK, *args)


def launch_blocks(kernel: CudaKernel, n_blocks: int, n_threads: int, *args: Any) -> None:
    """Launch blocks of threads on CuPy's current stream, or without CuPy on the default one."""
    if n_blocks:
        cupy = sys.modules.get("cupy")
        stream = cupy.cuda.get_current_stream().ptr if cupy else 0
        kernel.launch(n_blocks, n_threads, *args, stream=stream)


def cuda_available() -> bool:
    """Whether Numba finds a CUDA device."""
    try:
        return bool(cuda.is_available())
    except Exception:  # a missing or broken driver raises errors of many kinds
        return False
