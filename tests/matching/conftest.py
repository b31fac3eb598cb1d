"""A pair that is subtracted in many ways."""

import pytest

from tests.difference.psfmatch.pairs import Pair


@pytest.fixture(scope="module")
def pair():
    return Pair()
