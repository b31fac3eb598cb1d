"""What is written: whole or not at all, readable by others."""

import os
import stat

import numpy as np
import pytest
from astropy.io import fits as afits
from astropy.wcs import WCS

from fastdiff.io import images, products
from tests.io.frames import SHAPE, tan_header


@pytest.fixture
def result(image):
    mask = np.zeros(SHAPE, bool)
    mask[0, :3] = True
    return np.where(mask, np.nan, image - 1000), np.full(SHAPE, 3.5, np.float32), mask


def test_difference_file_reads_back(tmp_path, result):
    difference, noise, mask = result
    header = tan_header()
    header["OBSERVER"] = "Annie"
    header["BUNIT"] = "adu"
    header["BLANK"] = -1
    header["EXTNAME"] = "SCI"
    path = products.write_difference(
        tmp_path / "d.fits", difference, noise, mask,
        header=header, history=["made by hand"], cards={"FDMODEL": "m"},
    )  # fmt: skip
    with afits.open(path) as hdus:
        hdus.verify("exception")
        assert [h.name for h in hdus] == ["PRIMARY", "DIFFERENCE", "NOISE", "MASK"]
        main = hdus["DIFFERENCE"].header
        assert main["OBSERVER"] == "Annie"
        assert main["FDMODEL"] == "m"
        assert "made by hand" in str(main["HISTORY"])
        assert "BLANK" not in main
        assert [h.header.get("BUNIT") for h in hdus[1:]] == ["adu", "adu", None]
        for hdu in hdus[1:]:
            sky = WCS(hdu.header).pixel_to_world_values(3, 4)
            np.testing.assert_allclose(sky, WCS(header).pixel_to_world_values(3, 4))
    back = images.read_image(path)
    np.testing.assert_array_equal(back.image, difference.astype(np.float32))
    np.testing.assert_array_equal(back.mask, mask)
    np.testing.assert_allclose(back.variance, noise**2)


def test_a_header_that_breaks_the_standard_does_not_stop_the_writing(tmp_path, result, image):
    afits.writeto(tmp_path / "odd.fits", image)
    raw = (tmp_path / "odd.fits").read_bytes()
    card = b"COMMENT odd"
    odd = b"bad key = not a value".ljust(80) + b"END".ljust(80)
    raw = raw.replace(b"END".ljust(80) + b" " * 80, odd, 1)
    assert card not in raw
    (tmp_path / "odd.fits").write_bytes(raw)
    sci = images.read_image(tmp_path / "odd.fits")
    path = products.write_difference(tmp_path / "d.fits", *result, header=sci.header)
    np.testing.assert_array_equal(images.read_image(path).image, result[0].astype(np.float32))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path, result, monkeypatch, error
):
    path = tmp_path / "d.fits"
    products.write_difference(path, *result)
    before = path.read_bytes()

    def half(self, file, **_):
        file.write(b"SIMPLE  =")
        raise error

    monkeypatch.setattr(afits.HDUList, "writeto", half)
    with pytest.raises(error):
        products.write_difference(path, *result)
    with pytest.raises(error):
        products.write_difference(tmp_path / "new.fits", *result)
    assert os.listdir(tmp_path) == ["d.fits"]
    assert path.read_bytes() == before


def test_written_files_have_the_usual_permissions(tmp_path, result):
    (tmp_path / "usual").touch()
    path = products.write_difference(tmp_path / "d.fits", *result)
    usual, made = (stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "usual", path))
    assert made == usual


def test_significance_and_kernel_are_extensions(tmp_path, result):
    kernel = afits.ImageHDU(np.eye(5), name="KERNEL")
    path = products.write_difference(
        tmp_path / "d.fits",
        *result,
        significance=np.full(result[0].shape, 7.5),
        extensions=[kernel],
    )
    with afits.open(path) as hdus:
        assert [hdu.name for hdu in hdus][1:] == [
            "DIFFERENCE", "NOISE", "MASK", "SIGNIFICANCE", "KERNEL",
        ]  # fmt: skip
        assert (hdus["SIGNIFICANCE"].data == 7.5).all()
        np.testing.assert_array_equal(hdus["KERNEL"].data, np.eye(5))


def test_writing_into_an_absent_folder(tmp_path, result):
    with pytest.raises(FileNotFoundError, match=r"the folder .*absent of d\.fits does not exist"):
        products.write_difference(tmp_path / "absent" / "d.fits", *result)
