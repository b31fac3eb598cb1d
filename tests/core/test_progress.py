"""Telling how far a call has come."""

import pytest

from fastdiff.core.progress import reporting


def test_a_callable_is_called_and_a_bar_takes_the_same():
    told = []
    with reporting(lambda done, total: told.append((done, total))) as report:
        report(1, 2)
    assert told == [(1, 2)]
    for progress in (None, False, True):
        with reporting(progress) as report:
            report(1, 2)


def test_anything_else_is_refused():
    with pytest.raises(TypeError, match="progress is a str"), reporting("yes"):
        pass
