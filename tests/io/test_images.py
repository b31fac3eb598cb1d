"""Reading images: whatever surveys store, and what is no image."""

import gzip

import numpy as np
import pytest
from astropy.io import fits as afits

from fastdiff.io import images
from tests.io.frames import SHAPE, tan_header


def places(mask):
    return [tuple(map(int, place)) for place in np.argwhere(mask)]


@pytest.mark.parametrize("store", ["float", "double", "uint16", "scaled", "int32", "gz", "fz"])
def test_pixels_come_back_native_whatever_the_file_stores(tmp_path, image, store):
    path = tmp_path / "image.fits"
    if store == "double":
        afits.writeto(path, image.astype(np.float64))
    elif store == "uint16":
        afits.writeto(path, image.astype(np.uint16))
        assert afits.getheader(path)["BZERO"] == 32768
    elif store == "scaled":
        hdu = afits.PrimaryHDU(image.astype(np.float64))
        hdu.scale("int16", bzero=1000, bscale=0.5)
        hdu.writeto(path)
    elif store == "int32":
        afits.writeto(path, image.astype(np.int32))
    elif store == "gz":
        plain = tmp_path / "plain.fits"
        afits.writeto(plain, image)
        path = tmp_path / "image.fits.gz"
        path.write_bytes(gzip.compress(plain.read_bytes()))
    elif store == "fz":
        path = tmp_path / "image.fits.fz"
        hdu = afits.CompImageHDU(image.astype(np.int16), compression_type="RICE_1")
        afits.HDUList([afits.PrimaryHDU(), hdu]).writeto(path)
    else:
        afits.writeto(path, image)

    got = images.read_image(path)

    assert got.image.dtype == (np.float64 if store == "double" else np.float32)
    assert got.image.dtype.isnative
    assert got.image.flags.c_contiguous
    assert got.image.flags.writeable
    np.testing.assert_array_equal(got.image, image)
    assert got.mask is None
    assert got.variance is None
    assert got.wcs is None


def test_extension_by_number_name_and_version(tmp_path, image):
    path = tmp_path / "many.fits"
    afits.HDUList(
        [
            afits.PrimaryHDU(),
            afits.ImageHDU(image, name="SCI", ver=1),
            afits.ImageHDU(image + 1, name="SCI", ver=2),
            afits.ImageHDU(np.zeros(SHAPE, np.uint8), name="DQ", ver=1),
            afits.ImageHDU(np.eye(*SHAPE, dtype=np.uint8), name="DQ", ver=2),
        ]
    ).writeto(path)
    for extension, offset in (("", 0), ("[1]", 0), ("[2]", 1), ("[sci]", 0), ("[SCI,2]", 1)):
        got = images.read_image(f"{path}{extension}")
        np.testing.assert_array_equal(got.image, image + offset, err_msg=extension)
        # each image goes with the mask of its own version
        np.testing.assert_array_equal(got.mask, np.eye(*SHAPE, dtype=bool) & bool(offset))


def test_a_file_whose_name_has_brackets(tmp_path, image):
    path = tmp_path / "night[3]"
    afits.writeto(path, image)
    np.testing.assert_array_equal(images.read_image(path).image, image)


@pytest.mark.parametrize(
    ("name", "stored"),
    [("VAR", 9.0), ("VARIANCE", 9.0), ("ERR", 3.0), ("NOISE", 3.0), ("WEIGHT", 1 / 9)],
)
def test_variance_from_what_surveys_store(tmp_path, image, name, stored):
    path = tmp_path / "image.fits"
    values = np.full(SHAPE, stored, np.float32)
    values[3, 4] = 0
    afits.HDUList([afits.PrimaryHDU(image), afits.ImageHDU(values, name=name)]).writeto(path)
    got = images.read_image(path)
    expected = np.full(SHAPE, 9.0)
    expected[3, 4] = 0
    np.testing.assert_allclose(got.variance, expected, rtol=1e-6)
    if name == "WEIGHT":  # no weight: no information
        assert got.mask.sum() == 1
        assert got.mask[3, 4]
    else:
        assert got.mask is None


def test_only_bad_planes_of_a_rubin_mask_count(tmp_path, image):
    path = tmp_path / "image.fits"
    planes = np.zeros(SHAPE, np.int32)
    planes[1, 1], planes[2, 2], planes[3, 3] = 1 << 0, 1 << 1, 1 << 5
    mask = afits.ImageHDU(planes, name="MASK")
    for name, bit in (("MP_BAD", 0), ("MP_SAT", 1), ("HIERARCH MP_DETECTED", 5)):
        mask.header[name] = bit
    afits.HDUList([afits.PrimaryHDU(), afits.ImageHDU(image, name="IMAGE"), mask]).writeto(path)
    bad = images.read_image(path).mask
    assert places(bad) == [(1, 1), (2, 2)]


def test_saturated_pixels_are_masked(tmp_path, image):
    full = image.astype(np.uint16)
    full[5, 6] = 65535
    afits.writeto(tmp_path / "full.fits", full)
    assert places(images.read_image(tmp_path / "full.fits").mask) == [(5, 6)]

    said = image.copy()
    said[7, 8] = 30000
    header = afits.Header([("SATURATE", 30000.0)])
    afits.writeto(tmp_path / "said.fits", said, header)
    assert places(images.read_image(tmp_path / "said.fits").mask) == [(7, 8)]


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_blank_is_nan(tmp_path, image, dtype):
    data = image.astype(dtype)
    data[9, 9] = 0
    hdu = afits.PrimaryHDU(data)
    hdu.header["BLANK"] = 0 if dtype == np.int16 else -32768
    hdu.writeto(tmp_path / "blank.fits")
    got = images.read_image(tmp_path / "blank.fits").image
    assert places(np.isnan(got)) == [(9, 9)]


def test_leading_axes_of_length_one_are_dropped(tmp_path, image):
    afits.writeto(tmp_path / "radio.fits", image[None, None])
    np.testing.assert_array_equal(images.read_image(tmp_path / "radio.fits").image, image)


def test_primary_cards_reach_the_header_of_an_extension(tmp_path, image):
    primary = afits.PrimaryHDU()
    primary.header["OBSERVER"] = "Henrietta"
    primary.header["FILTER"] = "wrong"
    hdu = afits.ImageHDU(image, tan_header())
    hdu.header["FILTER"] = "r"
    afits.HDUList([primary, hdu]).writeto(tmp_path / "two.fits")
    got = images.read_image(tmp_path / "two.fits")
    assert got.header["OBSERVER"] == "Henrietta"
    assert got.header["FILTER"] == "r"
    assert got.wcs.has_celestial


def test_files_that_hold_no_image_say_what_they_hold(tmp_path, image):
    table = afits.BinTableHDU.from_columns([afits.Column("a", "E", array=[1.0])], name="CAT")
    afits.HDUList([afits.PrimaryHDU(), table]).writeto(tmp_path / "table.fits")
    with pytest.raises(ValueError, match=r"no 2-D image found.*\[1\] CAT no image"):
        images.read_image(tmp_path / "table.fits")
    with pytest.raises(ValueError, match=r"2-D image is needed"):
        images.read_image(f"{tmp_path / 'table.fits'}[CAT]")

    afits.writeto(tmp_path / "cube.fits", np.stack([image, image]))
    with pytest.raises(ValueError, match=r"no 2-D image found.*\(2, 48, 40\)"):
        images.read_image(tmp_path / "cube.fits")

    afits.writeto(tmp_path / "good.fits", image)
    with pytest.raises(ValueError, match=r"no such extension"):
        images.read_image(f"{tmp_path / 'good.fits'}[7]")
    with pytest.raises(ValueError, match=r"use \[NUMBER\], \[NAME\] or \[NAME,VER\]"):
        images.read_image(f"{tmp_path / 'good.fits'}[SCI,x]")


def test_missing_damaged_and_foreign_files(tmp_path, image):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.fits"):
        images.read_image(tmp_path / "absent.fits")
    with pytest.raises(IsADirectoryError, match="a FITS file is needed"):
        images.read_image(tmp_path)
    (tmp_path / "text.fits").write_text("not a picture")
    with pytest.raises(ValueError, match="not a readable FITS file"):
        images.read_image(tmp_path / "text.fits")
    (tmp_path / "empty.fits").write_bytes(b"")
    with pytest.raises(ValueError, match="not a readable FITS file"):
        images.read_image(tmp_path / "empty.fits")
    afits.writeto(tmp_path / "whole.fits", image)
    (tmp_path / "cut.fits").write_bytes((tmp_path / "whole.fits").read_bytes()[:4000])
    with pytest.raises(ValueError, match=r"cut\.fits"):
        images.read_image(tmp_path / "cut.fits")


def test_mask_and_noise_files_must_fit_the_image(tmp_path, image):
    bad = np.zeros(SHAPE, np.uint8)
    bad[2, 3] = 4
    afits.writeto(tmp_path / "mask.fits", bad)
    assert places(images.read_mask(tmp_path / "mask.fits", SHAPE)) == [(2, 3)]
    with pytest.raises(ValueError, match=r"shape \(48, 40\); its image has \(48, 41\)"):
        images.read_mask(tmp_path / "mask.fits", (48, 41))
    afits.writeto(tmp_path / "noise.fits", np.full(SHAPE, 2.5))
    np.testing.assert_array_equal(
        images.read_noise(tmp_path / "noise.fits", SHAPE), np.float32(2.5)
    )
    with pytest.raises(ValueError, match="noise map"):
        images.read_noise(tmp_path / "noise.fits", (10, 10))
