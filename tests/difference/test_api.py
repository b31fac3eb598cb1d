"""subtract_batch: progress, interruption."""

import threading

import pytest

from fastdiff import subtract_batch
from tests.difference.frames import make


def test_progress_counts_tiles(minus):
    calls = []
    subtract_batch(
        *make((100, 100), n=3), model=minus, tile=64, progress=lambda *call: calls.append(call)
    )
    done, total = zip(*calls, strict=True)
    assert set(total) == {3 * 4}
    assert list(done) == sorted(set(done))
    assert done[-1] == 3 * 4


def test_progress_bar(minus, capsys):
    subtract_batch(*make(), model=minus, progress=True)
    assert "subtracting" in capsys.readouterr().out


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interruption_stops_the_work(minus, threads):
    images = make((640, 64))
    calls = []

    def interrupt(done, total):
        calls.append(done)
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        subtract_batch(*images, model=minus, tile=64, threads=threads, progress=interrupt)
    assert len(calls) == 1
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("fastdiff-network")]
    assert threading.active_count() <= before + threads
