"""Simulated pairs, and what the command makes of them."""

import pytest

from tests.cli.run import EASY, run


@pytest.fixture(scope="module")
def sims(tmp_path_factory):
    """Folder with two simulated pairs, pair-0000 and pair-0001."""
    folder = tmp_path_factory.mktemp("sims")
    done = run("simulate", "-o", folder, "-n", 2, *EASY)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def results(sims, tmp_path_factory):
    """Folder with what `subtract` wrote for pair-0000, and what it said."""
    folder = tmp_path_factory.mktemp("results")
    done = run("subtract", sims / "pair-0000.ref.fits", sims / "pair-0000.sci.fits", "-o", folder)
    assert done.exit_code == 0, done.output
    return folder, done.output
