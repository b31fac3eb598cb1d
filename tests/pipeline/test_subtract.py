"""Pairs of files to products, without the command line."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import fastdiff
from fastdiff.io.images import read_image
from fastdiff.pipeline.products import write_sample
from fastdiff.pipeline.subtract import PairFiles, SubtractSettings, read_list, subtract_pair
from fastdiff.simulate import pairs


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    sample = pairs(1, (96, 96), seed=3, n_transients=(1, 1), amplitude=(300, 300))
    ref, sci = write_sample(folder, "s", sample)
    return PairFiles(str(ref), str(sci), "s")


def test_products_hold_what_the_api_gives(files, tmp_path):
    settings = SubtractSettings(tmp_path, method="psf-match", png=False, threads=1)
    done = subtract_pair(files, settings)
    ref, sci = read_image(files.ref), read_image(files.sci)
    expected = fastdiff.subtract_batch(
        ref.image, sci.image, method="psf-match", ref_masks=ref.mask, sci_masks=sci.mask
    )
    assert done.difference_file == tmp_path / "s.diff.fits"
    with fits.open(done.difference_file) as hdus:
        np.testing.assert_array_equal(hdus["DIFFERENCE"].data, expected.image)
        np.testing.assert_array_equal(hdus["SIGNIFICANCE"].data, expected.significance)
        assert hdus["DIFFERENCE"].header["FDMETHOD"] == "psf-match"
        assert hdus["DIFFERENCE"].header["FDNCAND"] == len(done.candidates)
    table = Table.read(tmp_path / "s.candidates.ecsv")
    np.testing.assert_allclose(table["flux"], done.candidates["flux"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.candidates.ecsv", "s.diff.fits"]
    assert done.no_picture is None and done.seconds > 0


def test_bad_pairs_raise_and_write_nothing(files, tmp_path):
    small = tmp_path / "small.fits"
    fits.writeto(small, np.zeros((8, 8), np.float32))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ValueError, match="at least 32 x 32 is needed"):
        subtract_pair(PairFiles(files.ref, str(small), "x"), SubtractSettings(out))
    with pytest.raises(FileNotFoundError, match="there is no file"):
        subtract_pair(PairFiles(files.ref, "absent.fits", "x"), SubtractSettings(out))
    with pytest.raises(TypeError, match="no option 'modle'"):
        subtract_pair(files, SubtractSettings(out, options={"modle": "x"}))
    assert not list(out.iterdir())


def test_lists_give_each_result_a_name_of_its_own(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text(
        "# ref sci name\n"
        "ref.fits a/night.fits\n"
        "ref.fits b/night.fits\n\n"
        "ref.fits 'c d/night.fits' third  # named\n"
        "ref.fits\n"
        "ref.fits 'open\n"
    )
    found, failures = read_list(path)
    assert [each.name for each in found] == ["night", "night-2", "third"]
    assert found[2].sci == str(tmp_path / "c d/night.fits")
    assert [place for place, _ in failures] == [f"{path} line 6", f"{path} line 7"]
    assert failures[0][1] == "REF SCI [NAME] is needed, not 1 words"
