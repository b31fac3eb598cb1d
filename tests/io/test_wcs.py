"""Grids, alignment and sky positions."""

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS

from fastdiff.io import products
from fastdiff.io import wcs as grids
from tests.io.frames import SHAPE, frame, tan_header


def spot(wcs, shape, sky, fwhm_arcsec, scale):
    """Surface brightness of a Gaussian star of peak 100 at the position `sky`."""
    x0, y0 = wcs.world_to_pixel_values(*sky)
    y, x = np.indices(shape)
    sigma = fwhm_arcsec / scale / 2.3548
    return (100 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma**2))).astype(np.float32)


def centroid(image):
    y, x = np.indices(image.shape)
    light = np.nan_to_num(image)
    return (x * light).sum() / light.sum(), (y * light).sum() / light.sum()


def places(mask):
    return [tuple(map(int, place)) for place in np.argwhere(mask)]


def test_grids_that_agree_to_half_a_pixel_are_one(image):
    step = 0.5 / 3600
    sci = frame(image, tan_header())
    near = frame(image, tan_header(dec=2.0 + 0.4 * step))
    assert grids.grid_offset(near, sci) == pytest.approx(0.4, abs=1e-3)
    assert grids.match_grids(near, sci) is near
    far = frame(image, tan_header(dec=2.0 + 3 * step))
    assert grids.grid_offset(far, sci) == pytest.approx(3, abs=1e-3)
    with pytest.raises(ValueError, match=r"up to 3\.00 px apart.*--align"):
        grids.match_grids(far, sci)


def test_a_turn_is_measured_at_the_corners(image):
    sci = frame(image, tan_header())
    turned = frame(image, tan_header(turn=1.0))
    corner = np.hypot(*((n - 1) / 2 for n in SHAPE))
    assert grids.grid_offset(turned, sci) == pytest.approx(corner * np.radians(1.0), rel=1e-3)


@pytest.mark.parametrize("dec", [2.1, -70.0])
def test_fields_without_overlap(image, dec):
    sci = frame(image, tan_header())
    other = frame(image, tan_header(dec=dec))
    assert grids.grid_offset(other, sci) == np.inf
    for align in (False, True):
        with pytest.raises(ValueError, match="do not overlap"):
            grids.match_grids(other, sci, align)


def test_without_wcs_the_shapes_must_agree(image):
    assert grids.match_grids(frame(image), frame(image)).image is image
    with pytest.raises(ValueError, match="REF and SCI has no WCS"):
        grids.match_grids(frame(image[1:]), frame(image))
    with pytest.raises(ValueError, match="REF has no WCS"):
        grids.match_grids(frame(image[1:]), frame(image, tan_header()))


@pytest.mark.parametrize("scale", [0.5, 0.2])
def test_align_puts_stars_where_the_sky_says(scale):
    pytest.importorskip("reproject")
    shape_sci, shape_ref = (64, 60), (150, 160)
    sci_header = tan_header(shape_sci)
    ref_header = tan_header(shape_ref, ra=150.0005, scale=scale, turn=30)
    sky = (150.001, 2.0015)
    ref = frame(spot(WCS(ref_header), shape_ref, sky, 2.0, scale), ref_header)
    sci = frame(np.zeros(shape_sci, np.float32), sci_header)

    aligned = grids.match_grids(ref, sci, align=True)

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

    aligned = grids.match_grids(ref, sci, align=True)

    y, x = np.argwhere(aligned.mask).T
    outside = y <= 10
    assert aligned.mask[:10].all()
    inside = {(int(a), int(b)) for a, b in zip(y[~outside], x[~outside], strict=True)}
    # half a pixel between rows: each bad pixel touches two
    assert inside == {(40, 30), (41, 30), (20, 40), (21, 40)}
    np.testing.assert_array_equal(np.isnan(aligned.image), aligned.mask)
    np.testing.assert_allclose(aligned.image[~aligned.mask], 7, rtol=1e-5)
    np.testing.assert_allclose(aligned.variance[~aligned.mask], 4, rtol=1e-5)


def test_candidates_get_sky_positions_and_read_back(tmp_path):
    table = Table({"image": [0, 0], "x": [3.0, 10.5], "y": [4.0, 20.25], "flux": [5.0, -6.0]})
    wcs = WCS(tan_header())
    with_sky = grids.add_sky_positions(table, wcs)
    assert with_sky.colnames == ["image", "x", "y", "ra", "dec", "flux"]
    assert "ra" not in table.colnames
    path = products.write_candidates(tmp_path / "c.ecsv", with_sky)
    back = Table.read(path)
    np.testing.assert_allclose(
        wcs.world_to_pixel_values(back["ra"], back["dec"]), [table["x"], table["y"]], atol=1e-6
    )
    assert str(back["ra"].unit) == "deg"
    assert grids.add_sky_positions(table, None) is table
    empty = grids.add_sky_positions(table[:0], wcs)
    assert len(empty) == 0
    assert "dec" in empty.colnames
