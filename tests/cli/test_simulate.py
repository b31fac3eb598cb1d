"""The commands `fastdiff simulate` and `fastdiff demo`."""

import re

import numpy as np
import pytest
from astropy.table import Table

import fastdiff
from fastdiff.cli.simulate import MAX_FALSE
from fastdiff.io import images
from tests.cli.run import run


def test_simulated_files_are_the_sample(sims):
    sample = fastdiff.simulate.pairs(
        1, (128, 128), seed=3, start=1, n_transients=(3, 3), n_vanished=0, p_variable=0,
        amplitude=(40, 100), fwhm_ref=(2.5, 3.5), fwhm_sci=(2.5, 3.5), star_density=(2, 4),
        p_missing=0,
    )  # fmt: skip
    for kind in ("ref", "sci", "truth"):
        got = images.read_image(sims / f"pair-0001.{kind}.fits")
        np.testing.assert_array_equal(got.image, getattr(sample, kind)[0])
        if kind != "truth":
            bad = getattr(sample, f"{kind}_mask")[0]
            np.testing.assert_array_equal(np.zeros_like(bad) if got.mask is None else got.mask, bad)
    truth = Table.read(sims / "pair-0001.transients.ecsv")
    np.testing.assert_allclose(truth["flux"], sample.transients["flux"], rtol=1e-6)
    assert (sims / "pairs.txt").read_text().splitlines() == [
        f"pair-000{i}.ref.fits pair-000{i}.sci.fits pair-000{i}" for i in (0, 1)
    ]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--preset", "nonsense"], 1, "nonsense"),
        (["--set", "nonsense=1"], 1, "nonsense"),
        (["--set", "nonsense"], 2, "NAME=VALUE is needed"),
        (["--shape", "4", "4"], 1, "shape"),
    ],
)
def test_what_is_wrong_with_a_simulation(args, code, says, tmp_path):
    done = run("simulate", "-o", tmp_path, *args)
    assert done.exit_code == code
    assert says in done.output


def test_demo_counts_its_twenty(tmp_path):
    done = run("demo", "--out", tmp_path, "--size", 512, "--no-png")
    assert done.exit_code == 0, done.output
    found, missed, false = map(
        int, re.search(r"found (\d+) of 20, missed (\d+), false (\d+)", done.output).groups()
    )
    last_words = [line.split()[-1:] for line in done.output.splitlines()]
    assert last_words.count(["found"]) == found > 8
    assert last_words.count(["missed"]) == missed == 20 - found
    assert last_words.count(["false"]) == min(false, MAX_FALSE)
    assert f"{tmp_path / 'demo.diff.fits'}" in done.output
    table = Table.read(tmp_path / "demo.candidates.ecsv")
    assert len(table) == found + false
