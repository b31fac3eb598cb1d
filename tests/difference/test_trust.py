"""Fluxes, errors and candidates of every method on frames whose answers are known."""

import numpy as np
import pytest

from tests.difference import known_sources

METHODS = ("transinet", "psf-match", "zogy")
KINDS = [*known_sources.KINDS, *known_sources.SEEING]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_fluxes_mean_what_they_say(method, kind):
    pairs = [known_sources.build(kind, seed) for seed in (1, 2)]
    got = known_sources.judge(method, pairs)
    assert got.n_bright >= 20
    # A source whose middle is on a dead column may be lost: docs/errors.md.
    assert got.n_bright_found >= (0.75 if kind == "dead-columns" else 0.9) * got.n_bright
    assert got.n_false <= 3 * len(pairs)
    assert np.median(got.ratios) == pytest.approx(1, abs=0.05)
    assert 0.5 < got.width < 1.5
