"""How loops are compiled, threaded and timed."""

import threading
import time

import numpy as np

from fastdiff.kernels import jit

SOURCE = """
def fresh(start, stop, values):
    for i in range(start, stop):
        values[i] = np.median(np.sort(values[: i + 1]))
"""


def test_compiling_is_timed_though_a_thread_waits_for_it():
    names = {"np": np}
    exec(compile(SOURCE, "<no file>", "exec"), names)  # from no file: the cache does not have it
    loop, seconds = jit.cpu_loop(names["fresh"]), []
    begin = threading.Barrier(2)

    def call():
        begin.wait()
        begun = time.perf_counter()
        loop(0, 1, np.zeros(1))
        seconds.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < jit.compile_seconds()["fresh"] <= max(seconds)


def test_a_loop_that_was_not_called_was_not_compiled():
    @jit.cpu_loop
    def idle(start, stop):
        pass

    assert "idle" not in jit.compile_seconds()
