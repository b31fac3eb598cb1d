"""kernels/image/tile.py against its twin, and what the whole promises."""

import numpy as np
import pytest

from fastdiff.kernels import jit
from fastdiff.kernels.image import plan, tile
from fastdiff.kernels.image.blocks import photometric_scale
from fastdiff.kernels.image.measure import SIGMA_REF, SKY_SCI, measure_tiles
from tests.kernels.image.fields import frames, gaussian_star, measured, star_field
from tests.kernels.image.reference import tile as reference
from tests.kernels.image.reference.measure import measure
from tests.kernels.image.reference.pixels import padded

TOLERANCE = {"rtol": 2e-5, "atol": 2e-4}  # float32 channels, in units of sigma


def cut_all(pixels, origins, shape, threads=None):
    """(tiles, their places, stats, scale) of all tiles of all frames."""
    stats = measure_tiles(pixels, origins, shape, threads)
    scale, _ = photometric_scale(pixels, origins, shape, stats, threads)
    frame, number = (a.ravel() for a in np.indices((len(pixels[1]), len(origins))))
    places = plan.places_of(frame, number, origins)
    return tile.cut_tiles(pixels, places, shape, stats, scale, threads), places, stats, scale


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "size"), [((64, 64), 64), ((63, 63), 64), ((33, 47), 64), ((150, 104), 64)]
)
def test_tiles_agree_with_reference(rng, shape, size, dtype):
    refs, scis, bad_refs, bad_scis = frames(rng, 2, shape, dtype)
    origins, (h, w) = plan.plan_tiles(*shape, tile=size, overlap=16)
    tiles, places, stats, scale = cut_all((refs, scis, bad_refs, bad_scis), origins, (h, w))
    assert np.isfinite(tiles).all()
    for f in range(2):
        for image, bad, columns in (
            (refs, bad_refs, stats[f, :, : SIGMA_REF + 1]),
            (scis, bad_scis, stats[f, :, SKY_SCI:]),
        ):
            expected = measure(image[f], bad[f], origins, (h, w))
            np.testing.assert_allclose(columns, expected, rtol=1e-6)
    for made, (f, t, y, x) in zip(tiles, places, strict=True):
        cut = [
            padded(plane[f], y, x, h, w, fill)
            for plane, fill in ((refs, np.nan), (scis, np.nan), (bad_refs, True), (bad_scis, True))
        ]
        expected, _ = reference.normalise(*cut, *stats[f, t], scale[f])
        np.testing.assert_allclose(made, expected, **TOLERANCE)


def test_reference_image_is_broadcast(rng):
    refs, scis, bad_refs, bad_scis = frames(rng, 3, (63, 63))
    one = tile.normalise_pairs(refs[:1], scis, bad_refs[:1], bad_scis)
    many = tile.normalise_pairs(
        np.repeat(refs[:1], 3, axis=0), scis, np.repeat(bad_refs[:1], 3, axis=0), bad_scis
    )
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a, b)
    own_masks = tile.normalise_pairs(refs[:1], scis, bad_refs, bad_scis)
    many = tile.normalise_pairs(np.repeat(refs[:1], 3, axis=0), scis, bad_refs, bad_scis)
    for a, b in zip(own_masks, many, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_do_not_change_a_bit(rng, dtype):
    pixels = frames(rng, 2, (150, 200), dtype)
    origins, shape = plan.plan_tiles(150, 200, tile=64, overlap=16)
    weights = plan.blend_weights(origins, shape)
    images = []
    for threads in (1, 2):
        tiles, places, stats, scale = cut_all(pixels, origins, shape, threads)
        image = np.empty((2, 150, 200), np.float32)
        tile.blank_image(pixels, image, threads)
        sigma_d = tile.tile_noise(stats, scale)
        tile.stitch_tiles(tiles[:, 1:], places, weights, sigma_d, image, threads)
        images.append((tiles, image))
    np.testing.assert_array_equal(images[0][0], images[1][0])
    np.testing.assert_array_equal(images[0][1], images[1][1])


@pytest.mark.parametrize("value", [0.0, 1234.5, -3e5])
def test_constant_image(value):
    image = np.full((48, 48), value, np.float32)
    np.testing.assert_array_equal(measured(image), [value, 0])
    pairs, sigma_d, scale = tile.normalise_pairs(image[None], image[None])
    assert not pairs.any()
    assert (sigma_d[0], scale[0]) == (1, 1)


def test_noise_free_reference_leaves_the_noise_of_science(rng):
    ref = gaussian_star((64, 64), 30, 31, 1e5, 3) + 50
    sci = 2 * (ref - 50) + rng.normal(300, 20, (64, 64))
    _, sigma_d, scale = tile.normalise_pairs(
        np.maximum(ref, 50.001).astype(np.float32)[None], sci.astype(np.float32)[None]
    )
    assert sigma_d[0] == pytest.approx(20, rel=0.1)
    assert scale[0] == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("which", ["ref", "sci", "both"])
def test_all_bad(rng, which):
    ref, sci = (image[None] for image in star_field(rng, (48, 48), 4))
    if which != "sci":
        ref[:] = np.nan
    bad_sci = np.full(sci.shape, which != "ref")
    pairs, sigma_d, scale = tile.normalise_pairs(ref, sci, None, bad_sci)
    assert np.isfinite(pairs).all()
    np.testing.assert_array_equal(pairs[:, 0], pairs[:, 1])
    assert pairs.any() == (which != "both")
    assert sigma_d[0] > 0
    assert scale[0] == 1


@pytest.mark.parametrize("factor", [1e-25, 1e-6, 1e6, 1e24])
def test_channels_do_not_depend_on_the_unit(rng, factor):
    ref, sci = star_field(rng, (64, 64), 5)
    expected, *_ = tile.normalise_pairs(ref[None], sci[None])
    made, *_ = tile.normalise_pairs(*((x * factor).astype(np.float32)[None] for x in (ref, sci)))
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-3)


def test_extremes_stay_finite(rng):
    """Good pixels as far from the sky as they can be; noise too small for float32 squares."""
    refs, scis = rng.normal(0, 1e-12, (2, 1, 64, 64)).astype(np.float32)
    scis[0, 5, 5], scis[0, 6, 6] = 9e29, -9e29
    pairs, _, _ = tile.normalise_pairs(refs, scis)
    assert np.isfinite(pairs).all()
    assert pairs[0, 1, 5, 5] == -pairs[0, 1, 6, 6] > 1e8
    pairs, sigma_d, _ = tile.normalise_pairs(*rng.normal(0, 1e-34, (2, 1, 64, 64)))
    assert np.isfinite(pairs).all()
    assert sigma_d[0] == 1


def test_bad_pixels_take_the_other_channel(rng):
    ref, sci = star_field(rng, (48, 48), 4)
    ref[10, 10] = np.nan
    sci[20, 20] = np.inf
    ref[30, 30] = sci[30, 30] = np.nan
    pair = tile.normalise_pairs(ref[None], sci[None])[0][0]
    assert pair[0, 10, 10] == pair[1, 10, 10] != 0
    assert pair[0, 20, 20] == pair[1, 20, 20] != 0
    assert pair[0, 30, 30] == pair[1, 30, 30] == 0
    assert np.count_nonzero(pair[0] == pair[1]) == 3


def test_empty_batch():
    empty = np.empty((0, 64, 64), np.float32)
    pairs, sigma_d, scale = tile.normalise_pairs(empty, empty)
    assert pairs.shape == (0, 2, 64, 64)
    assert sigma_d.shape == scale.shape == (0,)


@pytest.mark.parametrize(
    ("ny", "nx", "size", "overlap"),
    [(63, 63, 64, 16), (1000, 700, 256, 32), (200, 130, 64, 30), (300, 100, 64, 0)],
)
def test_stitching_cut_tiles_gives_the_frame_back(rng, ny, nx, size, overlap):
    """With one sky, noise and scale for all tiles, the science channel is the frame again."""
    scis = rng.normal(0, 3, (2, ny, nx)).astype(np.float32)
    scis[1, 5, 6] = np.nan
    origins, shape = plan.plan_tiles(ny, nx, size, overlap)
    stats = np.tile([0.0, 1.0, 0.0, 2.0], (2, len(origins), 1))
    scale = np.ones(2, np.float32)
    frame, number = (a.ravel() for a in np.indices((2, len(origins))))
    places = plan.places_of(frame, number, origins)
    out = tile.cut_tiles((scis, scis), places, shape, stats, scale)
    image = tile.blank_image((scis, scis), np.empty_like(scis))
    weights = plan.blend_weights(origins, shape)
    sigma_d = tile.tile_noise(stats, scale)
    for part in np.array_split(np.arange(len(places)), 3):  # in several calls
        tile.stitch_tiles(out[part, 1:], places[part], weights, sigma_d, image)
    np.testing.assert_allclose(image, scis, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.isnan(image), np.isnan(scis))
    # Tiles that disagree: a mean with falling weights, as the reference makes it.
    other = rng.normal(0, 1, (len(origins), 1, *shape)).astype(np.float32)
    zeros = np.zeros((1, ny, nx), np.float32)
    first = places[places[:, plan.FRAME] == 0]
    tile.stitch_tiles(other, first, weights, np.ones_like(sigma_d), zeros)
    expected = reference.stitch(other[:, 0], origins, *weights, (ny, nx))
    np.testing.assert_allclose(zeros[0], expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------ on a GPU


def everything(put, pixels, origins, shape):
    """What all steps make of pixels on a device, to which `put` brings arrays."""
    pixels = [None if each is None else put(each) for each in pixels]
    tiles, places, stats, scale = cut_all(pixels, origins, shape)
    image = tile.blank_image(pixels, np.empty_like(pixels[1], np.float32))
    outputs = put(np.ascontiguousarray(jit.to_host(tiles)[:, 1:]))
    sigma_d = tile.tile_noise(stats, scale)
    tile.stitch_tiles(outputs, places, plan.blend_weights(origins, shape), sigma_d, image)
    return {"stats": stats, "scale": scale, "tiles": tiles, "image": image}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("one_reference", [False, True])
def test_arrays_of_a_gpu_give_the_same(rng, cupy, dtype, one_reference):
    refs, scis, bad_refs, bad_scis = frames(rng, 2, (150, 140), dtype)
    if one_reference:
        refs, bad_scis = refs[:1], None
    origins, shape = plan.plan_tiles(150, 140, tile=64, overlap=16)
    pixels = refs, scis, bad_refs, bad_scis
    expected = everything(np.asarray, pixels, origins, shape)
    made = everything(cupy.asarray, pixels, origins, shape)
    for name in ("tiles", "image"):
        assert isinstance(made[name], cupy.ndarray)
    made = {name: jit.to_host(value) for name, value in made.items()}
    np.testing.assert_allclose(made["stats"], expected["stats"], rtol=1e-6)
    np.testing.assert_allclose(made["scale"], expected["scale"], rtol=1e-5)
    np.testing.assert_allclose(made["tiles"], expected["tiles"], **TOLERANCE)
    np.testing.assert_allclose(made["image"], expected["image"], rtol=1e-4, atol=1e-3)
    assert expected["scale"][0] != 1  # it was measured
    assert np.isnan(expected["image"]).any()
