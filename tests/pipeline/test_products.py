"""Folders, names and simulated inputs of a run."""

import numpy as np
import pytest
from astropy.table import Table

from fastdiff.io.images import read_image
from fastdiff.pipeline.products import make_folder, name_of_image, write_sample
from fastdiff.simulate import pairs


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/night.fits", "night"),
        ("night.fits.gz", "night"),
        ("deep.fits.fz[SCI,2]", "deep.SCI.2"),
        ("night.v2.fit[3]", "night.v2.3"),
    ],
)
def test_names_tell_files_and_extensions_apart(path, name):
    assert name_of_image(path) == name


def test_a_folder_is_made_with_its_parents_and_must_be_one(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        make_folder(tmp_path / "file")


def test_a_sample_reads_back(tmp_path):
    sample = pairs(1, (64, 48), seed=4)
    ref, sci = write_sample(tmp_path, "s", sample)
    for path, kind in ((ref, "ref"), (sci, "sci")):
        frame = read_image(path)
        np.testing.assert_array_equal(frame.image, getattr(sample, kind)[0])
        assert frame.wcs is not None
    truth = Table.read(tmp_path / "s.transients.ecsv")
    np.testing.assert_allclose(truth["flux"], sample.transients["flux"])
    assert {"ra", "dec"} <= set(truth.colnames)
