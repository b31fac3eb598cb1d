"""kernels/image/tile.py against its twin, and what the whole promises."""

import numpy as np
import pytest

from fastdiff.kernels import jit
from fastdiff.kernels.image import photometry as kernel_photometry
from fastdiff.kernels.image import tile
from tests.kernels.image.reference import photometry
from tests.kernels.image.reference import tile as reference

TOLERANCE = {"rtol": 2e-5, "atol": 2e-4}  # float32 channels, in units of sigma


def gaussian_star(shape, y, x, flux, fwhm):
    """A Gaussian integrated over pixels by summing a grid 5 times as fine."""
    sigma = fwhm / 2.3548
    fine = [(np.arange(5 * n) + 0.5) / 5 - 0.5 for n in shape]
    profiles = [
        np.exp(-0.5 * ((axis - centre) / sigma) ** 2).reshape(-1, 5).mean(axis=1)
        for axis, centre in zip(fine, (y, x), strict=True)
    ]
    return flux / (2 * np.pi * sigma**2) * np.outer(*profiles)


def star_field(rng, shape, n_stars, scale=0.5, fwhm=(2.5, 2.5), shift=0.0, transient=0.0):
    """(ref, sci), float32: stars over noise; `transient` is its share of its host's flux."""
    ref, sci = np.zeros(shape), np.zeros(shape)
    for i in range(n_stars):
        y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        flux = 10 ** rng.uniform(3, 5)
        ref += gaussian_star(shape, y, x, flux, fwhm[0])
        sci += gaussian_star(shape, y + shift, x + shift, flux * scale, fwhm[1])
        if i == 0:
            sci += gaussian_star(shape, y + 1, x, flux * scale * transient, fwhm[1])
    ref += rng.normal(100, 10, shape)
    sci += rng.normal(300, 20, shape)
    return ref.astype(np.float32), sci.astype(np.float32)


def frames(rng, n, shape, dtype=np.float32, n_bad=20):
    """Star fields with NaN, infinities and masks in both images."""
    pairs = [star_field(rng, shape, max(3, shape[0] * shape[1] // 800)) for _ in range(n)]
    refs, scis = (np.stack(part).astype(dtype) for part in zip(*pairs, strict=True))
    masks = []
    for images in (refs, scis):
        for value in (np.nan, np.inf, -np.inf, 2e30):
            y, x = rng.integers(0, shape, (n_bad, 2)).T
            images[rng.integers(0, n, n_bad), y, x] = value
        masks.append(rng.random(images.shape) < 0.01)
    refs[0, :5, :7] = np.nan
    scis[0, :5, :7] = np.nan
    return refs, scis, *masks


def cut_all(refs, scis, bad_refs, bad_scis, origins, shape, threads=None):
    """(tiles, frame of each, tile of each, stats, scale) of all tiles of all frames."""
    stats = tile.measure_tiles(refs, scis, bad_refs, bad_scis, origins, shape, threads)
    scale, _ = tile.photometric_scale(
        refs, scis, bad_refs, bad_scis, origins, shape, stats, threads
    )
    frame, number = (a.ravel() for a in np.indices((len(scis), len(origins))))
    out = np.full((len(frame), 2, *shape), np.nan, np.float32)
    tile.cut_tiles(
        refs, scis, bad_refs, bad_scis, frame, number, origins, stats, scale, out, threads
    )
    return out, frame, number, stats, scale


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "size"), [((64, 64), 64), ((63, 63), 64), ((33, 47), 64), ((150, 104), 64)]
)
def test_tiles_agree_with_reference(rng, shape, size, dtype):
    refs, scis, bad_refs, bad_scis = frames(rng, 2, shape, dtype)
    origins, (h, w) = tile.plan_tiles(*shape, tile=size, overlap=16)
    tiles, frame, number, stats, scale = cut_all(refs, scis, bad_refs, bad_scis, origins, (h, w))
    assert np.isfinite(tiles).all()
    for f in range(2):
        for image, bad, columns in (
            (refs, bad_refs, stats[f, :, :2]),
            (scis, bad_scis, stats[f, :, 2:]),
        ):
            expected = reference.measure(image[f], bad[f], origins, (h, w))
            np.testing.assert_allclose(columns, expected, rtol=1e-6)
    for j, (f, t) in enumerate(zip(frame, number, strict=True)):
        y, x = origins[t]
        cut = [
            reference.padded(plane[f], y, x, h, w, fill)
            for plane, fill in ((refs, np.nan), (scis, np.nan), (bad_refs, True), (bad_scis, True))
        ]
        expected, _ = reference.normalise(*cut, *stats[f, t], scale[f])
        np.testing.assert_allclose(tiles[j], expected, **TOLERANCE)


@pytest.mark.parametrize("shape", [(63, 63), (200, 216)])
def test_scale_agrees_with_reference(rng, shape):
    refs, scis, bad_refs, bad_scis = frames(rng, 2, shape)
    origins, size = tile.plan_tiles(*shape, tile=256)
    stats = tile.measure_tiles(refs, scis, bad_refs, bad_scis, origins, size)
    scale, n_used = tile.photometric_scale(refs, scis, bad_refs, bad_scis, origins, size, stats)
    for f in range(2):
        sky_r, sigma_r, sky_s, sigma_s = stats[f, 0]
        blocks = reference.blocks(refs[f], scis[f], bad_refs[f], bad_scis[f], sky_r, sky_s)
        sigma = np.ones(blocks.shape[1:])
        expected, n_expected = photometry.fit_scale(blocks, sigma_r * sigma, sigma_s * sigma)
        assert n_used[f] == n_expected > 0
        assert scale[f] == pytest.approx(expected, rel=1e-3)


def test_large_frame_samples_the_lattice(rng):
    """1000 x 700 in tiles of more than 4096 pixels: the same pixels are taken."""
    refs, scis, bad_refs, bad_scis = frames(rng, 1, (1000, 700))
    origins, shape = tile.plan_tiles(1000, 700)
    assert shape[0] * shape[1] > tile.MAX_SAMPLES
    stats = tile.measure_tiles(refs, scis, bad_refs, bad_scis, origins, shape)
    np.testing.assert_allclose(
        stats[0, :, 2:], reference.measure(scis[0], bad_scis[0], origins, shape), rtol=1e-6
    )


def test_samples_spread_over_columns():
    for shape in ((256, 256), (272, 272), (496, 496), (64, 64), (720, 1088)):
        step = tile.sample_step(shape)
        taken = np.arange(0, shape[0] * shape[1], step)
        assert len(taken) <= tile.MAX_SAMPLES
        assert np.ptp(np.bincount(taken % shape[1], minlength=shape[1])) <= 1


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
    refs, scis, bad_refs, bad_scis = frames(rng, 2, (150, 200), dtype)
    origins, shape = tile.plan_tiles(150, 200, tile=64, overlap=16)
    weights = tile.blend_weights(origins, shape)
    images = []
    for threads in (1, 2):
        tiles, frame, number, stats, scale = cut_all(
            refs, scis, bad_refs, bad_scis, origins, shape, threads
        )
        image = np.empty((2, 150, 200), np.float32)
        tile.blank_image(refs, scis, bad_refs, bad_scis, image, threads)
        tile.stitch_tiles(
            tiles[:, 1:], frame, number, origins, weights, tile.tile_noise(stats, scale), image,
            threads,
        )  # fmt: skip
        images.append((tiles, image))
    np.testing.assert_array_equal(images[0][0], images[1][0])
    np.testing.assert_array_equal(images[0][1], images[1][1])


# ------------------------------------------------------------------------ sky and noise


def measured(image, bad=None):
    image = image[None]
    origins = np.zeros((1, 2), np.int64)
    bad = None if bad is None else bad[None]
    return tile.measure_tiles(image, image, bad, bad, origins, image.shape[1:])[0, 0, 2:]


@pytest.mark.parametrize("offset", [0.0, 1e4, -300.0])
def test_noise_of_gaussian(rng, offset):
    sky, sigma = measured(rng.normal(offset, 7, (64, 64)).astype(np.float32))
    assert sky == pytest.approx(offset, abs=5 * 7 * 1.25 / 64)
    assert sigma == pytest.approx(7, rel=0.08)


@pytest.mark.parametrize("true_sigma", [0.3, 0.5, 0.8, 1.5, 2.5, 6.0])
@pytest.mark.parametrize("phase", [0.0, 0.25, 0.5])
def test_noise_of_quantised_image(rng, true_sigma, phase):
    """The noise of rounded data is that of the data and of the rounding, 1/12 of a step squared."""
    image = np.rint(rng.normal(100 + phase, true_sigma, (64, 64))).astype(np.float32)
    sky, sigma = measured(image)
    assert sigma == pytest.approx(image.std(), rel=0.1)
    assert sky == pytest.approx(100 + phase, abs=0.15 * max(true_sigma, 1))


def test_sources_hardly_move_sky_and_noise(rng):
    ref, _ = star_field(rng, (128, 128), 10)
    sky, sigma = measured(ref)
    assert sky == pytest.approx(100, abs=1.5)
    assert sigma == pytest.approx(10, rel=0.08)


def test_float64_keeps_small_noise_on_a_large_sky(rng):
    _, sigma = measured(rng.normal(1e9, 1e-2, (64, 64)))
    assert sigma == pytest.approx(1e-2, rel=0.08)


def test_gradient_is_followed_by_tiles(rng):
    """On a slope of 1 sigma in 10 pixels each tile has the sky of its middle."""
    y = np.mgrid[:512, :512][0]
    image = (1000 + 0.5 * y + rng.normal(0, 5, (512, 512))).astype(np.float32)[None]
    origins, shape = tile.plan_tiles(512, 512, tile=128)
    sky = tile.measure_tiles(image, image, None, None, origins, shape)[0, :, 2]
    middle = 1000 + 0.5 * (origins[:, 0] + (shape[0] - 1) / 2)
    np.testing.assert_allclose(sky, middle, atol=2)


@pytest.mark.parametrize("value", [0.0, 1234.5, -3e5])
def test_constant_image(value):
    image = np.full((48, 48), value, np.float32)
    np.testing.assert_array_equal(measured(image), [value, 0])
    pairs, sigma_d, scale = tile.normalise_pairs(image[None], image[None])
    assert not pairs.any()
    assert (sigma_d[0], scale[0]) == (1, 1)


def test_hot_pixel_gives_a_constant_image_no_noise():
    image = np.zeros((64, 64), np.float32)
    image[3, 5] = 6e4
    np.testing.assert_array_equal(measured(image), [0, 0])


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


def test_few_good_pixels_take_the_noise_of_the_frame(rng):
    """The rim of a mosaic: 5 good pixels of a tile cannot tell the noise."""
    image = rng.normal(100, 10, (1, 256, 128)).astype(np.float32)
    image[:, :130] = np.nan
    image[0, 5, 5:10] = 1e4
    origins, shape = tile.plan_tiles(256, 128, tile=64, overlap=0)
    stats = tile.measure_tiles(image, image, None, None, origins, shape)[0]
    np.testing.assert_allclose(stats[:, 2], 100, atol=1)
    np.testing.assert_allclose(stats[:, 3], 10, rtol=0.1)


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


# ------------------------------------------------------------------------------- scale


@pytest.mark.parametrize("scale", [0.05, 0.8, 1.0, 20.0])
@pytest.mark.parametrize(
    ("fwhm", "shift", "transient"),
    [((2.5, 2.5), 0, 0), ((2, 4), 0, 0), ((4, 2), 0.5, 0), ((3, 6), 0, 0), ((2, 4), 0.5, 2.0)],
)
def test_scale_is_measured(rng, scale, fwhm, shift, transient):
    """Within 6 % with other seeing, misregistration and a transient brighter than its host."""
    ref, sci = star_field(rng, (256, 256), 60, scale, fwhm, shift, transient)
    origins, shape = tile.plan_tiles(256, 256)
    frame = ref[None], sci[None], None, None, origins, shape
    measured_scale, n_used = tile.photometric_scale(*frame, tile.measure_tiles(*frame))
    assert measured_scale[0] == pytest.approx(scale, rel=0.06 if scale > 0.1 else 0.1)
    assert n_used[0] > 20


def test_scale_with_gradients_and_missing_pixels(rng):
    """Another slope of the sky in each image; a tenth of the pixels is missing."""
    ref, sci = star_field(rng, (256, 256), 60, 0.7)
    y, x = np.mgrid[:256, :256]
    ref += (0.5 * y).astype(np.float32)
    sci += (0.8 * x).astype(np.float32)
    ref[rng.random(ref.shape) < 0.05] = np.nan
    bad = rng.random((1, 256, 256)) < 0.05
    origins, shape = tile.plan_tiles(256, 256)
    frame = ref[None], sci[None], None, bad, origins, shape
    scale, _ = tile.photometric_scale(*frame, tile.measure_tiles(*frame))
    assert scale[0] == pytest.approx(0.7, rel=0.03)


def test_scale_without_sources_is_one(rng):
    refs, scis = rng.normal(1000, 10, (2, 5, 64, 64)).astype(np.float32)
    origins = np.zeros((1, 2), np.int64)
    frame = refs, scis * 3, None, None, origins, (64, 64)
    scale, n_used = tile.photometric_scale(*frame, tile.measure_tiles(*frame))
    np.testing.assert_array_equal(scale, 1)
    np.testing.assert_array_equal(n_used, 0)


def test_sources_without_counterpart_tell_no_scale(rng):
    """Where science shows holes in place of stars, the scale is 1 and said to be unmeasured."""
    ref, _ = star_field(rng, (64, 64), 3)
    sci = (300 - 0.2 * (ref - 100)).astype(np.float32)
    origins = np.zeros((1, 2), np.int64)
    frame = ref[None], sci[None], None, None, origins, (64, 64)
    scale, n_used = tile.photometric_scale(*frame, tile.measure_tiles(*frame))
    assert (scale[0], n_used[0]) == (1, 0)


@pytest.mark.parametrize("scale", [1e-2, 1e2, 1e5])
def test_scale_of_other_units(rng, scale):
    ref, _ = star_field(rng, (64, 64), 5)
    _, _, measured_scale = tile.normalise_pairs(ref[None], (scale * ref).astype(np.float32)[None])
    limit = kernel_photometry.SCALE_LIMITS[1]
    assert measured_scale[0] == pytest.approx(min(scale, limit), rel=2e-3)


# --------------------------------------------------------------------- plan and stitch


@pytest.mark.parametrize(
    ("ny", "nx", "size", "overlap"),
    [(32, 32, 256, 32), (63, 63, 256, 32), (33, 47, 256, 32), (1000, 700, 256, 32),
     (4096, 4096, 512, 32), (289, 257, 256, 32), (10000, 9, 256, 32), (500, 500, 64, 31)],
)  # fmt: skip
def test_plan_covers_the_frame(ny, nx, size, overlap):
    origins, shape = tile.plan_tiles(ny, nx, size, overlap)
    for axis, n in enumerate((ny, nx)):
        starts = np.unique(origins[:, axis])
        assert shape[axis] % 16 == 0
        assert starts[0] == 0
        if len(starts) == 1:
            assert n <= shape[axis] < n + 16
        else:
            assert shape[axis] <= size
            assert starts[-1] + shape[axis] == n
            assert (starts[:-1] + shape[axis] - starts[1:]).min() >= overlap
    assert len(np.unique(origins, axis=0)) == len(origins)


@pytest.mark.parametrize("arguments", [(0, 5), (5, 5, 100), (5, 5, 64, 32), (5, 5, 64, -1)])
def test_plan_refuses(arguments):
    with pytest.raises(ValueError, match="must be"):
        tile.plan_tiles(*arguments)


@pytest.mark.parametrize(
    ("ny", "nx", "size", "overlap"),
    [(63, 63, 64, 16), (1000, 700, 256, 32), (200, 130, 64, 30), (300, 100, 64, 0)],
)
def test_stitching_cut_tiles_gives_the_frame_back(rng, ny, nx, size, overlap):
    """With one sky, noise and scale for all tiles, the science channel is the frame again."""
    scis = rng.normal(0, 3, (2, ny, nx)).astype(np.float32)
    scis[1, 5, 6] = np.nan
    origins, shape = tile.plan_tiles(ny, nx, size, overlap)
    stats = np.tile([0.0, 1.0, 0.0, 2.0], (2, len(origins), 1))
    scale = np.ones(2, np.float32)
    frame, number = (a.ravel() for a in np.indices((2, len(origins))))
    out = np.empty((len(frame), 2, *shape), np.float32)
    tile.cut_tiles(scis, scis, None, None, frame, number, origins, stats, scale, out)
    image = tile.blank_image(scis, scis, None, None, np.empty_like(scis))
    weights = tile.blend_weights(origins, shape)
    sigma_d = tile.tile_noise(stats, scale)
    for part in np.array_split(np.arange(len(frame)), 3):  # in several calls
        tile.stitch_tiles(
            out[part, 1:], frame[part], number[part], origins, weights, sigma_d, image
        )
    np.testing.assert_allclose(image, scis, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.isnan(image), np.isnan(scis))
    # Tiles that disagree: a mean with falling weights, as the reference makes it.
    other = rng.normal(0, 1, (len(origins), 1, *shape)).astype(np.float32)
    zeros = np.zeros((1, ny, nx), np.float32)
    tile.stitch_tiles(
        other, np.zeros(len(origins), np.int64), np.arange(len(origins)), origins, weights,
        np.ones_like(sigma_d), zeros,
    )  # fmt: skip
    expected = reference.stitch(other[:, 0], origins, *weights, (ny, nx))
    np.testing.assert_allclose(zeros[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("n", "size", "overlap"), [(1000, 256, 32), (300, 64, 20), (90, 64, 30), (50, 32, 15)]
)
def test_weights_sum_to_one_and_fall_towards_the_edge(n, size, overlap):
    origins, shape = tile.plan_tiles(n, 16, size, overlap)
    weights, _ = tile.blend_weights(origins, shape)
    total = np.zeros(n)
    for start, row in zip(origins[:, 0], weights, strict=True):
        total[start : start + shape[0]] += row
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    assert weights.min() >= 0
    if len(origins) > 1:
        assert weights[0, -1] == 0
        assert weights[-1, 0] == 0
        assert (np.diff(weights[0]) <= 1e-6).all()


# -------------------------------------------------------------------------------- CUDA


def launch_all(refs, scis, bad_refs, bad_scis, origins, shape, put=np.asarray):
    """All CUDA kernels in turn; `put` brings an array to the device."""
    n, ny, nx = scis.shape
    step = tile.sample_step(shape)
    n_slots = -(-shape[0] * shape[1] // step)
    device = [put(x) for x in (refs, scis, bad_refs, bad_scis)]
    origins_d = put(origins)
    sky = []
    for images, bad in (device[::2], device[1::2]):
        part = put(np.zeros((images.shape[0] * len(origins), 3)))
        tile.measure_cuda.launch(
            part.shape[0], 4, images, bad, origins_d, shape, step, n_slots, part
        )
        sky.append(to_host(part).reshape(-1, len(origins), 3))
    stats = np.empty((n, len(origins), 4))
    stats[:, :, :2], stats[:, :, 2:] = (tile.fill_unmeasured(part) for part in sky)
    stats_d = put(stats)
    tile_y, tile_x = (put(a) for a in tile.block_tiles(ny, nx, origins, shape))
    blocks = put(np.zeros((n, 3, ny // 4, nx // 4), np.float32))
    n_blocks = (ny // 4) * (nx // 4)
    tile.blocks_cuda.launch(-(-n * n_blocks // 32), 32, *device, stats_d, tile_y, tile_x, blocks)
    sigma = np.ascontiguousarray(
        stats[:, tile.block_tiles(ny, nx, origins, shape)[0][:, None] + to_host(tile_x), 1::2]
        .transpose(0, 3, 1, 2).astype(np.float32)
    )  # fmt: skip
    smooth, wide = (put(np.zeros(blocks.shape, np.float32)) for _ in range(2))
    scale = put(np.zeros(n, np.float32))
    kernel_photometry.widen_cuda.launch(-(-n * n_blocks // 32), 32, blocks, wide)
    kernel_photometry.smooth_cuda.launch(-(-n * n_blocks // 32), 32, blocks, wide, smooth)
    kernel_photometry.fit_cuda.launch(
        1, n, smooth, put(sigma), put(np.zeros((n, 8, 5))),
        put(np.zeros((n, kernel_photometry.BINS))), scale, put(np.zeros(n, np.int64)),
    )  # fmt: skip
    frame, number = (put(a.ravel()) for a in np.indices((n, len(origins))))
    out = put(np.full((n * len(origins), 2, *shape), np.nan, np.float32))
    tile.cut_cuda.launch(
        -(-out.shape[0] * shape[0] * shape[1] // 64), 64, *device, frame, number, origins_d,
        stats_d, scale, out,
    )  # fmt: skip
    image = put(np.zeros(scis.shape, np.float32))
    grid = -(-n * ny * nx // 64)
    tile.blank_cuda.launch(grid, 64, *device, image)
    sigma_d = put(tile.tile_noise(stats, to_host(scale)))
    ramps = [put(a) for a in tile.blend_weights(origins, shape)]
    outputs = put(np.ascontiguousarray(to_host(out)[:, 1:]))
    tile.stitch_cuda.launch(
        grid, 64, outputs, frame, number, origins_d, *ramps, sigma_d, 0, n, image
    )
    made = {"sky_r": sky[0], "sky_s": sky[1], "stats": stats, "blocks": blocks, "scale": scale,
            "tiles": out, "image": image}  # fmt: skip
    return {name: to_host(value) for name, value in made.items()}


def to_host(array):
    return array.copy_to_host() if hasattr(array, "copy_to_host") else np.asarray(array)


def check_launched(made, refs, scis, bad_refs, bad_scis, origins, shape):
    """What the CUDA kernels made is what the CPU makes."""
    tiles, frame, number, stats, scale = cut_all(refs, scis, bad_refs, bad_scis, origins, shape)
    np.testing.assert_allclose(made["stats"], stats, rtol=1e-9)
    np.testing.assert_allclose(made["scale"], scale, rtol=1e-5)
    np.testing.assert_allclose(made["tiles"], tiles, **TOLERANCE)
    image = tile.blank_image(refs, scis, bad_refs, bad_scis, np.empty(scis.shape, np.float32))
    weights = tile.blend_weights(origins, shape)
    tile.stitch_tiles(
        np.ascontiguousarray(tiles[:, 1:]), frame, number, origins, weights,
        tile.tile_noise(stats, scale), image,
    )  # fmt: skip
    np.testing.assert_allclose(made["image"], image, rtol=1e-4, atol=1e-3)
    assert np.isnan(image).any()


def cuda_example(rng, shape=(28, 52)):
    ref, sci = star_field(rng, shape, 3, 0.7, (2.5, 2.5))
    ref += gaussian_star(shape, 14, 26, 3e4, 2.5).astype(np.float32)
    sci += gaussian_star(shape, 14, 26, 2.1e4, 2.5).astype(np.float32)
    refs, scis = ref[None], np.stack([sci, sci[::-1]])
    refs[0, 3, 4] = np.nan
    scis[1, 8, 9] = np.inf
    bad_scis = rng.random(scis.shape) < 0.02
    origins, size = tile.plan_tiles(*shape, tile=32, overlap=8)
    return refs, scis, np.empty((0, 0, 0), np.bool_), bad_scis, origins, size


def test_simulator_and_cpu_agree(rng, run_in_cuda_simulator):
    import inspect

    refs, scis, none, bad_scis, origins, shape = cuda_example(rng)
    source = inspect.getsource(launch_all) + inspect.getsource(to_host)
    made = run_in_cuda_simulator(
        "from fastdiff.kernels.image import photometry as kernel_photometry\n"
        "from fastdiff.kernels.image import tile\n"
        + source
        + "np.savez(OUT, **launch_all(refs, scis, none, bad_scis, origins, tuple(shape.tolist())))",
        refs=refs, scis=scis, none=none, bad_scis=bad_scis, origins=origins, shape=shape,
    )  # fmt: skip
    assert (made["scale"][0] != 1) & np.isfinite(made["tiles"]).all()
    check_launched(made, refs, scis, None, bad_scis, origins, shape)


def test_gpu_and_cpu_agree(rng):
    if not jit.cuda_available():
        pytest.skip("no CUDA device: the kernels were checked in the simulator and as PTX")
    refs, scis, none, bad_scis, origins, shape = cuda_example(rng)
    made = launch_all(refs, scis, none, bad_scis, origins, shape, put=jit.cuda.to_device)
    check_launched(made, refs, scis, None, bad_scis, origins, shape)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_compiles_to_ptx(capability, dtype):
    image, mask = np.empty((1, 8, 8), dtype), np.empty((1, 8, 8), np.bool_)
    index, origins, table = np.empty(1, np.int64), np.empty((1, 2), np.int64), np.empty((1, 1, 4))
    float1, float2, float3, float4 = (np.empty((1,) * k, np.float32) for k in (1, 2, 3, 4))
    pair = image, image, mask, mask
    signatures = {
        tile.measure_cuda: (image, mask, origins, (8, 8), 1, 64, np.empty((1, 3))),
        tile.blocks_cuda: (*pair, table, index, index, float4),
        kernel_photometry.widen_cuda: (float4, float4),
        kernel_photometry.smooth_cuda: (float4, float4, float4),
        kernel_photometry.fit_cuda: (
            float4,
            float4,
            np.empty((1, 1, 1)),
            np.empty((1, 1)),
            float1,
            index,
        ),
        tile.cut_cuda: (*pair, index, index, origins, table, float1, float4),
        tile.blank_cuda: (*pair, float3),
        tile.stitch_cuda: (float4, index, index, origins, float2, float2, float2, 0, 1, float3),
    }
    for kernel, signature in signatures.items():
        text = kernel.ptx(signature, capability)
        assert f".target sm_{capability[0]}{capability[1]}" in text, kernel.__name__
