"""How the learning rate changes."""

import numpy as np
import pytest

from fastdiff.training import schedules


def test_schedules():
    factor = schedules.stepped(20, 0.3, 90)
    found = [factor(step, 200) for step in (0, 89, 109, 110, 130)]
    assert found == pytest.approx([1, 1, 1, 0.3, 0.09])
    for schedule in (schedules.cosine(10, 0.01), schedules.trapezoid(10, 0.5, 0.01)):
        rates = np.array([schedule(s, 100) for s in range(101)])
        np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10, rtol=1e-12)
        assert rates[-1] == pytest.approx(0.01)
        assert (np.diff(rates[11:]) <= 1e-12).all() and rates.max() == 1.0
    assert schedules.cosine(0, 0.0)(50, 100) == pytest.approx(0.5)
    assert schedules.trapezoid(10, 0.5)(50, 100) == 1.0
    assert schedules.constant(5, 10) == 1.0
