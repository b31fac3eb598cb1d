"""An image of sky noise."""

import numpy as np
import pytest

from tests.io.frames import SHAPE


@pytest.fixture
def image():
    return np.random.default_rng(5).normal(1000, 50, SHAPE).round().astype(np.float32)
