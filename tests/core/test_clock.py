"""Wall time of stages."""

import threading
import time

import pytest

from fastdiff.core.clock import Clock


def test_stages_add_up_over_threads_and_errors():
    clock = Clock(["never"])

    def spend():
        with clock("busy"):
            time.sleep(0.02)

    workers = [threading.Thread(target=spend) for _ in range(4)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    with pytest.raises(RuntimeError), clock("failed"):
        raise RuntimeError
    assert clock.seconds["never"] == 0
    assert clock.seconds["busy"] >= 4 * 0.019
    assert clock.seconds["failed"] >= 0


def test_stops_divide_the_time_without_a_gap():
    begun = time.perf_counter()
    clock = Clock()
    time.sleep(0.01)
    clock.stop("first")
    time.sleep(0.01)
    clock.stop("second")
    spent = time.perf_counter() - begun
    assert min(clock.seconds.values()) >= 0.009
    assert sum(clock.seconds.values()) <= spent
