"""Work in order on threads."""

import threading
import time

import numpy as np
import pytest

from fastdiff.core.threads import check_threads, ordered_map
from fastdiff.kernels import jit


def test_number_of_threads():
    assert check_threads(None) == jit.cpu_count()
    assert check_threads(np.int32(3)) == 3
    for value in (True, 2.0, "2"):
        with pytest.raises(TypeError, match="threads is a"):
            check_threads(value)
    with pytest.raises(ValueError, match="threads is 0"):
        check_threads(0)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order_though_the_first_takes_longest(threads):
    def call(i):
        time.sleep(0.02 if i % 4 == 0 else 0)
        return i * i

    assert list(ordered_map(call, range(20), threads)) == [i * i for i in range(20)]


def test_one_thread_is_the_callers():
    (name,) = ordered_map(lambda _: threading.current_thread(), [0], 1)
    assert name is threading.current_thread()


def test_few_results_wait_to_be_taken():
    begun = []
    results = ordered_map(begun.append, range(100), 2)
    next(results)
    time.sleep(0.05)
    assert len(begun) <= 6
    results.close()
    assert len(begun) <= 6


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_reaches_the_caller_and_stops_the_work(threads):
    begun = []

    def call(i):
        begun.append(i)
        if i == 3:
            raise RuntimeError("three")
        return i

    results = ordered_map(call, range(1000), threads)
    with pytest.raises(RuntimeError, match="three"):
        list(results)
    assert len(begun) < 20
