import gzip
import os
import stat

import numpy as np
import pytest
from astropy.io import fits as afits
from astropy.table import Table
from astropy.wcs import WCS

from fastdiff.io import fits

SHAPE = (48, 40)


@pytest.fixture
def image():
    return np.random.default_rng(5).normal(1000, 50, SHAPE).round().astype(np.float32)


def tan_header(shape=SHAPE, ra=150.0, dec=2.0, scale=0.5, turn=0.0):
    """TAN header; `turn` in degrees, `scale` in arcsec, reference pixel at the centre."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    wcs.wcs.cd = scale / 3600 * np.array([[-c, s], [s, c]])
    return wcs.to_header()


def frame(image, header=None, mask=None, variance=None):
    wcs = None if header is None else WCS(header)
    return fits.Frame(image, header or afits.Header(), wcs, mask, variance)


def spot(wcs, shape, sky, fwhm_arcsec, scale):
    """Surface brightness of a Gaussian star of peak 100 at the position `sky`."""
    x0, y0 = wcs.world_to_pixel_values(*sky)
    y, x = np.indices(shape)
    sigma = fwhm_arcsec / scale / 2.3548
    return (100 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma**2))).astype(np.float32)


def places(mask):
    return [tuple(map(int, place)) for place in np.argwhere(mask)]


def centroid(image):
    y, x = np.indices(image.shape)
    light = np.nan_to_num(image)
    return (x * light).sum() / light.sum(), (y * light).sum() / light.sum()


# ---------------------------------------------------------------- reading


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

    got = fits.read_image(path)

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
        got = fits.read_image(f"{path}{extension}")
        np.testing.assert_array_equal(got.image, image + offset, err_msg=extension)
        # each image goes with the mask of its own version
        np.testing.assert_array_equal(got.mask, np.eye(*SHAPE, dtype=bool) & bool(offset))


def test_a_file_whose_name_has_brackets(tmp_path, image):
    path = tmp_path / "night[3]"
    afits.writeto(path, image)
    np.testing.assert_array_equal(fits.read_image(path).image, image)


@pytest.mark.parametrize(
    ("name", "stored"),
    [("VAR", 9.0), ("VARIANCE", 9.0), ("ERR", 3.0), ("NOISE", 3.0), ("WEIGHT", 1 / 9)],
)
def test_variance_from_what_surveys_store(tmp_path, image, name, stored):
    path = tmp_path / "image.fits"
    values = np.full(SHAPE, stored, np.float32)
    values[3, 4] = 0
    afits.HDUList([afits.PrimaryHDU(image), afits.ImageHDU(values, name=name)]).writeto(path)
    got = fits.read_image(path)
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
    bad = fits.read_image(path).mask
    assert places(bad) == [(1, 1), (2, 2)]


def test_saturated_pixels_are_masked(tmp_path, image):
    full = image.astype(np.uint16)
    full[5, 6] = 65535
    afits.writeto(tmp_path / "full.fits", full)
    assert places(fits.read_image(tmp_path / "full.fits").mask) == [(5, 6)]

    said = image.copy()
    said[7, 8] = 30000
    header = afits.Header([("SATURATE", 30000.0)])
    afits.writeto(tmp_path / "said.fits", said, header)
    assert places(fits.read_image(tmp_path / "said.fits").mask) == [(7, 8)]


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_blank_is_nan(tmp_path, image, dtype):
    data = image.astype(dtype)
    data[9, 9] = 0
    hdu = afits.PrimaryHDU(data)
    hdu.header["BLANK"] = 0 if dtype == np.int16 else -32768
    hdu.writeto(tmp_path / "blank.fits")
    got = fits.read_image(tmp_path / "blank.fits").image
    assert places(np.isnan(got)) == [(9, 9)]


def test_leading_axes_of_length_one_are_dropped(tmp_path, image):
    afits.writeto(tmp_path / "radio.fits", image[None, None])
    np.testing.assert_array_equal(fits.read_image(tmp_path / "radio.fits").image, image)


def test_primary_cards_reach_the_header_of_an_extension(tmp_path, image):
    primary = afits.PrimaryHDU()
    primary.header["OBSERVER"] = "Henrietta"
    primary.header["FILTER"] = "wrong"
    hdu = afits.ImageHDU(image, tan_header())
    hdu.header["FILTER"] = "r"
    afits.HDUList([primary, hdu]).writeto(tmp_path / "two.fits")
    got = fits.read_image(tmp_path / "two.fits")
    assert got.header["OBSERVER"] == "Henrietta"
    assert got.header["FILTER"] == "r"
    assert got.wcs.has_celestial


def test_files_that_hold_no_image_say_what_they_hold(tmp_path, image):
    table = afits.BinTableHDU.from_columns([afits.Column("a", "E", array=[1.0])], name="CAT")
    afits.HDUList([afits.PrimaryHDU(), table]).writeto(tmp_path / "table.fits")
    with pytest.raises(ValueError, match=r"no 2-D image found.*\[1\] CAT no image"):
        fits.read_image(tmp_path / "table.fits")
    with pytest.raises(ValueError, match=r"2-D image is needed"):
        fits.read_image(f"{tmp_path / 'table.fits'}[CAT]")

    afits.writeto(tmp_path / "cube.fits", np.stack([image, image]))
    with pytest.raises(ValueError, match=r"no 2-D image found.*\(2, 48, 40\)"):
        fits.read_image(tmp_path / "cube.fits")

    afits.writeto(tmp_path / "good.fits", image)
    with pytest.raises(ValueError, match=r"no such extension"):
        fits.read_image(f"{tmp_path / 'good.fits'}[7]")
    with pytest.raises(ValueError, match=r"use \[NUMBER\], \[NAME\] or \[NAME,VER\]"):
        fits.read_image(f"{tmp_path / 'good.fits'}[SCI,x]")


def test_missing_damaged_and_foreign_files(tmp_path, image):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.fits"):
        fits.read_image(tmp_path / "absent.fits")
    with pytest.raises(IsADirectoryError, match="a FITS file is needed"):
        fits.read_image(tmp_path)
    (tmp_path / "text.fits").write_text("not a picture")
    with pytest.raises(ValueError, match="not a readable FITS file"):
        fits.read_image(tmp_path / "text.fits")
    (tmp_path / "empty.fits").write_bytes(b"")
    with pytest.raises(ValueError, match="not a readable FITS file"):
        fits.read_image(tmp_path / "empty.fits")
    afits.writeto(tmp_path / "whole.fits", image)
    (tmp_path / "cut.fits").write_bytes((tmp_path / "whole.fits").read_bytes()[:4000])
    with pytest.raises(ValueError, match=r"cut\.fits"):
        fits.read_image(tmp_path / "cut.fits")


def test_mask_and_noise_files_must_fit_the_image(tmp_path, image):
    bad = np.zeros(SHAPE, np.uint8)
    bad[2, 3] = 4
    afits.writeto(tmp_path / "mask.fits", bad)
    assert places(fits.read_mask(tmp_path / "mask.fits", SHAPE)) == [(2, 3)]
    with pytest.raises(ValueError, match=r"shape \(48, 40\); its image has \(48, 41\)"):
        fits.read_mask(tmp_path / "mask.fits", (48, 41))
    afits.writeto(tmp_path / "noise.fits", np.full(SHAPE, 2.5))
    np.testing.assert_array_equal(fits.read_noise(tmp_path / "noise.fits", SHAPE), np.float32(2.5))
    with pytest.raises(ValueError, match="noise map"):
        fits.read_noise(tmp_path / "noise.fits", (10, 10))


# ---------------------------------------------------------------- grids


def test_grids_that_agree_to_half_a_pixel_are_one(image):
    step = 0.5 / 3600
    sci = frame(image, tan_header())
    near = frame(image, tan_header(dec=2.0 + 0.4 * step))
    assert fits.grid_offset(near, sci) == pytest.approx(0.4, abs=1e-3)
    assert fits.match_grids(near, sci) is near
    far = frame(image, tan_header(dec=2.0 + 3 * step))
    assert fits.grid_offset(far, sci) == pytest.approx(3, abs=1e-3)
    with pytest.raises(ValueError, match=r"up to 3\.00 px apart.*--align"):
        fits.match_grids(far, sci)


def test_a_turn_is_measured_at_the_corners(image):
    sci = frame(image, tan_header())
    turned = frame(image, tan_header(turn=1.0))
    corner = np.hypot(*((n - 1) / 2 for n in SHAPE))
    assert fits.grid_offset(turned, sci) == pytest.approx(corner * np.radians(1.0), rel=1e-3)


@pytest.mark.parametrize("dec", [2.1, -70.0])
def test_fields_without_overlap(image, dec):
    sci = frame(image, tan_header())
    other = frame(image, tan_header(dec=dec))
    assert fits.grid_offset(other, sci) == np.inf
    for align in (False, True):
        with pytest.raises(ValueError, match="do not overlap"):
            fits.match_grids(other, sci, align)


def test_without_wcs_the_shapes_must_agree(image):
    assert fits.match_grids(frame(image), frame(image)).image is image
    with pytest.raises(ValueError, match="REF and SCI has no WCS"):
        fits.match_grids(frame(image[1:]), frame(image))
    with pytest.raises(ValueError, match="REF has no WCS"):
        fits.match_grids(frame(image[1:]), frame(image, tan_header()))


@pytest.mark.parametrize("scale", [0.5, 0.2])
def test_align_puts_stars_where_the_sky_says(scale):
    pytest.importorskip("reproject")
    shape_sci, shape_ref = (64, 60), (150, 160)
    sci_header = tan_header(shape_sci)
    ref_header = tan_header(shape_ref, ra=150.0005, scale=scale, turn=30)
    sky = (150.001, 2.0015)
    ref = frame(spot(WCS(ref_header), shape_ref, sky, 2.0, scale), ref_header)
    sci = frame(np.zeros(shape_sci, np.float32), sci_header)

    aligned = fits.match_grids(ref, sci, align=True)

    assert aligned.image.shape == shape_sci
    assert aligned.image.dtype == np.float32
    expected = tuple(map(float, WCS(sci_header).world_to_pixel_values(*sky)))
    assert centroid(aligned.image) == pytest.approx(expected, abs=0.02)
    # surface brightness times pixels: the light of the star in units of the science grid
    light = ref.image.sum() * (scale / 0.5) ** 2
    assert np.nansum(aligned.image) == pytest.approx(light, rel=0.01)


def test_aligned_bad_pixels_stay_local_and_the_outside_is_masked():
    pytest.importorskip("reproject")
    shape = (64, 64)
    sci = frame(np.zeros(shape, np.float32), tan_header(shape))
    image = np.full(shape, 7, np.float32)
    image[30, 30] = np.nan
    bad = np.zeros(shape, bool)
    bad[10, 40] = True
    image[10, 40] = 1e6
    header = tan_header(shape, dec=2.0 + 10.5 * 0.5 / 3600)  # ref lies 10.5 pixels further up
    ref = frame(image, header, bad, np.full(shape, 4.0, np.float32))

    aligned = fits.match_grids(ref, sci, align=True)

    y, x = np.argwhere(aligned.mask).T
    outside = y <= 10
    assert aligned.mask[:10].all()
    inside = {(int(a), int(b)) for a, b in zip(y[~outside], x[~outside], strict=True)}
    # half a pixel between rows: each bad pixel touches two
    assert inside == {(40, 30), (41, 30), (20, 40), (21, 40)}
    np.testing.assert_array_equal(np.isnan(aligned.image), aligned.mask)
    np.testing.assert_allclose(aligned.image[~aligned.mask], 7, rtol=1e-5)
    np.testing.assert_allclose(aligned.variance[~aligned.mask], 4, rtol=1e-5)


# ---------------------------------------------------------------- writing


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
    path = fits.write_difference(
        tmp_path / "d.fits", difference, noise, mask, header, ["made by hand"], {"FDMODEL": "m"}
    )
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
    back = fits.read_image(path)
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
    sci = fits.read_image(tmp_path / "odd.fits")
    path = fits.write_difference(tmp_path / "d.fits", *result, sci.header)
    np.testing.assert_array_equal(fits.read_image(path).image, result[0].astype(np.float32))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path, result, monkeypatch, error
):
    path = tmp_path / "d.fits"
    fits.write_difference(path, *result)
    before = path.read_bytes()

    def half(self, file, **_):
        file.write(b"SIMPLE  =")
        raise error

    monkeypatch.setattr(afits.HDUList, "writeto", half)
    with pytest.raises(error):
        fits.write_difference(path, *result)
    with pytest.raises(error):
        fits.write_difference(tmp_path / "new.fits", *result)
    assert os.listdir(tmp_path) == ["d.fits"]
    assert path.read_bytes() == before


def test_written_files_have_the_usual_permissions(tmp_path, result):
    (tmp_path / "usual").touch()
    path = fits.write_difference(tmp_path / "d.fits", *result)
    usual, made = (stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "usual", path))
    assert made == usual


def test_significance_and_kernel_are_extensions(tmp_path, result):
    kernel = afits.ImageHDU(np.eye(5), name="KERNEL")
    path = fits.write_difference(
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
        fits.write_difference(tmp_path / "absent" / "d.fits", *result)


def test_candidates_get_sky_positions_and_read_back(tmp_path):
    table = Table({"image": [0, 0], "x": [3.0, 10.5], "y": [4.0, 20.25], "flux": [5.0, -6.0]})
    wcs = WCS(tan_header())
    with_sky = fits.add_sky_positions(table, wcs)
    assert with_sky.colnames == ["image", "x", "y", "ra", "dec", "flux"]
    assert "ra" not in table.colnames
    path = fits.write_candidates(tmp_path / "c.ecsv", with_sky)
    back = Table.read(path)
    np.testing.assert_allclose(
        wcs.world_to_pixel_values(back["ra"], back["dec"]), [table["x"], table["y"]], atol=1e-6
    )
    assert str(back["ra"].unit) == "deg"
    assert fits.add_sky_positions(table, None) is table
    empty = fits.add_sky_positions(table[:0], wcs)
    assert len(empty) == 0
    assert "dec" in empty.colnames


def test_picture_circles_the_candidates(tmp_path, result):
    pytest.importorskip("matplotlib")
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    from fastdiff.plots import difference as picture

    difference, noise, _ = result
    table = Table({"x": [20.0], "y": [30.0], "flux": [900.0], "snr": [12.0]})
    orange = np.array(to_rgb(picture.BRIGHTER))

    def count(candidates):
        path = picture.draw_difference(
            tmp_path / "p.png", difference, difference, difference, noise, candidates, "title"
        )
        pixels = imread(path)[..., :3]
        return int((np.abs(pixels - orange) < 0.02).all(-1).sum())

    assert count(table) > 50
    assert count(table[:0]) == 0
    assert os.listdir(tmp_path) == ["p.png"]
    all_bad = np.full(SHAPE, np.nan)
    picture.draw_difference(tmp_path / "p.png", all_bad, all_bad, all_bad, noise, table)


def test_shrinking_keeps_means_and_ignores_nan(monkeypatch):
    from fastdiff.plots import difference as picture

    monkeypatch.setattr(picture, "MAX_PANEL", 4)
    data = np.arange(64.0).reshape(8, 8)
    data[0, 0] = np.nan
    small = picture._shrink(data)
    assert small.shape == (4, 4)
    assert small[0, 0] == pytest.approx(np.mean([1, 8, 9]))
    assert small[3, 3] == pytest.approx(data[6:, 6:].mean())
