"""The method "transinet": tiles, noise, averages over turns."""

import numpy as np
import pytest
from scipy import ndimage

import fastdiff
from fastdiff import subtract_batch
from fastdiff.difference.transinet import method as transinet
from tests import tiny
from tests.difference.frames import SIGMA_REF, SIGMA_SCI, SKY_SCI, make, same
from tests.difference.reference import subtract as reference


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (96, 80), (150, 131), (70, 400)])
def test_any_shape_against_the_reference(minus, shape):
    kernel = np.random.default_rng(3).normal(size=(5, 5))
    model = tiny.convolve(minus.with_name("convolve.onnx"), kernel)
    ref, sci = make(shape, scale=1.3, stars=3)

    def network(pair):
        return ndimage.correlate(pair[1] - pair[0], kernel, mode="constant")

    d = subtract_batch(ref, sci, model=model, tile=64)
    want = reference.subtract(ref, sci, network, d.meta["scale"][0], tile=64, overlap=16)
    # Stars of 2,700 counts go through 25 products in float32.
    np.testing.assert_allclose(d.image, want, atol=0.01)
    assert d.image.shape == d.noise.shape == d.mask.shape == shape
    assert d.image.dtype == d.noise.dtype == np.float32
    assert not d.mask.any()


def test_counts_of_the_science_image(minus):
    ref, sci = make((200, 200), scale=1.7, seed=1)
    transient = np.zeros_like(sci)
    transient[60, 70] = 4000
    transient = ndimage.gaussian_filter(transient, 1.5)
    d = subtract_batch(ref, sci + transient, model=minus)
    # the transient is a tenth of the light around it
    assert d.meta["scale"][0] == pytest.approx(1.7, rel=0.04)
    # Compared with the truth, because the plain difference is full of stars' noise.
    left = d.image - transient
    assert np.abs(left[40:80, 50:90]).mean() < 3 * np.hypot(SIGMA_SCI, 1.7 * SIGMA_REF)
    box = np.s_[54:67, 64:77]
    error = np.hypot(SIGMA_SCI, 1.7 * SIGMA_REF) * 13
    assert left[box].sum() == pytest.approx(0, abs=4 * error)
    assert d.meta["sky"][0] == pytest.approx(SKY_SCI, abs=1)
    assert d.meta["sky_noise"][0] == pytest.approx(SIGMA_SCI, rel=0.06)


def test_what_vanished_is_negative(minus):
    ref, sci = make()
    ref[40, 40] += 1000
    sci[20, 20] += 1000
    d = subtract_batch(ref, sci, model=minus)
    assert d.image[40, 40] < -900
    assert d.image[20, 20] > 900


def test_seams_are_invisible(minus):
    blur = tiny.convolve(minus.with_name("blur.onnx"), np.full((7, 7), 1 / 49))
    ref, sci = make((500, 420), seed=2, scale=0.8, stars=60)
    whole = subtract_batch(ref, sci, model=blur, tile=512)
    tiled = subtract_batch(ref, sci, model=blur, tile=128)
    assert whole.meta["n_tiles"] == 1
    assert tiled.meta["n_tiles"] > 12
    # A tile measures its sky to about sigma / sqrt(4096 samples).
    step = tiled.image - whole.image
    assert np.abs(step).max() < 0.15 * SIGMA_SCI
    part = subtract_batch(ref[100:350, 90:340], sci[100:350, 90:340], model=blur, tile=128)
    inside = np.s_[10:-10, 10:-10]
    left = part.image[inside] - tiled.image[100:350, 90:340][inside]
    assert np.abs(left).max() < 0.25 * SIGMA_SCI


def test_threads_batches_and_tiles_in_a_call_change_nothing(minus, monkeypatch):
    ref, sci = make((100, 90), n=5)
    want = subtract_batch(ref, sci, model=minus, tile=64, threads=1)
    for threads in (2, 3, 8):
        same(subtract_batch(ref, sci, model=minus, tile=64, threads=threads), want)
    for i in range(5):
        same(subtract_batch(ref[i], sci[i], model=minus, tile=64), want[i])
    monkeypatch.setitem(transinet._PIXELS_PER_CALL, "onnxruntime-cpu", 1)
    same(subtract_batch(ref, sci, model=minus, tile=64), want)


def test_small_frames_share_calls_and_memory_holds_few_tiles(minus, monkeypatch):
    shapes, cut, stitched, ahead = [], [], [], []
    real_cut, real_stitch = transinet._Tiles.cut, transinet._Tiles.stitch

    def spy_cut(self, frame, tile):
        cut.append(len(frame))
        ahead.append(sum(cut) - sum(stitched))
        pairs = real_cut(self, frame, tile)
        shapes.append(pairs.shape)
        return pairs

    def spy_stitch(self, outputs, frame, tile):
        stitched.append(len(frame))
        real_stitch(self, outputs, frame, tile)

    monkeypatch.setattr(transinet._Tiles, "cut", spy_cut)
    monkeypatch.setattr(transinet._Tiles, "stitch", spy_stitch)
    images = make((32, 32), n=150)
    subtract_batch(*images, model=minus, threads=2)
    assert {shape[0] for shape in shapes} == {64, 150 - 128}
    for each in (shapes, cut, stitched, ahead):
        each.clear()
    subtract_batch(*make((1024, 256)), model=minus, tile=64, threads=2)
    tiles_per_call = 2**16 // 64**2
    assert sum(stitched) == sum(cut) > 80
    # Two at work, five waiting or done, and one being stitched.
    assert max(ahead) <= 8 * tiles_per_call


def test_an_input_is_left_as_it_was(minus):
    ref, sci = make()
    sci[3, 4] = np.nan
    copies = ref.copy(), sci.copy()
    subtract_batch(ref, sci, model=minus, sci_masks=sci > 1e4)
    np.testing.assert_array_equal(ref, copies[0])
    np.testing.assert_array_equal(sci, copies[1])


def test_bad_pixels_stay_where_they_are(minus):
    ref, sci = make((120, 100), seed=5)
    clean = subtract_batch(ref, sci, model=minus)
    bad = np.zeros(sci.shape, bool)
    ref[5, 5], ref[6, 60] = np.nan, -np.inf
    sci[50, 50], sci[119, 99], sci[51, 50] = np.inf, np.nan, 1e38
    for y, x in ((5, 5), (6, 60), (50, 50), (119, 99), (51, 50), (80, 20), (81, 21), (9, 9)):
        bad[y, x] = True
    ref_mask, sci_mask = np.zeros_like(bad), np.zeros_like(bad)
    ref_mask[80, 20] = sci_mask[81, 21] = True
    variance = np.full(sci.shape, 25.0)
    variance[9, 9] = np.inf
    d = subtract_batch(
        ref, sci, model=minus, ref_masks=ref_mask, sci_masks=sci_mask, sci_variances=variance
    )
    np.testing.assert_array_equal(d.mask, bad)
    np.testing.assert_array_equal(np.isnan(d.image), bad)
    # Eight pixels fewer move the measured sky of the tile by a small part of sigma.
    np.testing.assert_allclose(d.image[~bad], clean.image[~bad], atol=0.1 * SIGMA_SCI)


def test_a_pixel_that_is_bad_in_one_image_shows_no_change_to_the_network(minus):
    blur = tiny.convolve(minus.with_name("blur.onnx"), np.full((7, 7), 1 / 49))
    ref, sci = make(stars=0)
    sci[40, 40] = 1e6
    mask = np.zeros(sci.shape, bool)
    mask[40, 40] = True
    d = subtract_batch(ref, sci, model=blur, sci_masks=mask)
    assert np.abs(d.image[37:44, 37:44][~mask[37:44, 37:44]]).max() < 2 * SIGMA_SCI
    without = subtract_batch(ref, sci, model=blur)
    assert np.abs(without.image[37:44, 37:44]).min() > 1e4


def test_saturated_pixels(minus):
    ref, sci = (image.astype(np.uint16) for image in make(n=2))
    sci[1, 30:33, 40] = 65535
    ref[0, 10, 11] = 65535
    where = [[0, 10, 11], [1, 30, 40], [1, 31, 40], [1, 32, 40]]
    for images in ((ref, sci), (ref.astype(">u2"), sci.astype(">u2"))):
        d = subtract_batch(*images, model=minus)
        np.testing.assert_array_equal(d.meta["saturated"], where)
        np.testing.assert_array_equal(np.argwhere(d.mask), where)
        np.testing.assert_array_equal(d[1].meta["saturated"], [[0, *w[1:]] for w in where[1:]])
    ref, sci = ref.astype("f4"), sci.astype("f4")
    assert not subtract_batch(ref, sci, model=minus).mask.any()
    assert not subtract_batch(ref, sci, model=minus, saturation=None).mask.any()
    d = subtract_batch(ref, sci, model=minus, saturation=65535.0)
    np.testing.assert_array_equal(np.argwhere(d.mask), where)
    one = subtract_batch(ref[0], sci, model=minus, saturation=60000)
    np.testing.assert_array_equal(np.argwhere(one.mask[:, 10, 11]), [[0], [1]])


def test_a_network_that_gives_no_number_is_masked(minus):
    broken = tiny.constant(minus.with_name("broken.onnx"), np.nan)
    d = subtract_batch(*make(), model=broken)
    assert np.isnan(d.image).all()
    assert d.mask.all()


def test_noise_from_variances(minus):
    ref, sci = make(n=2)
    variance = np.random.default_rng(0).uniform(1, 9, sci.shape)
    variance[0, 5, 5] = np.nan
    d = subtract_batch(ref, sci, model=minus, sci_variances=variance)
    np.testing.assert_allclose(d.noise, np.sqrt(variance), rtol=1e-6)
    np.testing.assert_array_equal(np.argwhere(d.mask), [[0, 5, 5]])
    d = subtract_batch(ref, sci, model=minus, sci_variances=variance[1])
    np.testing.assert_allclose(d.noise, np.sqrt(variance[[1, 1]]), rtol=1e-6)


def test_estimated_noise_follows_the_image(minus):
    rng = np.random.default_rng(4)
    sigma = np.linspace(2, 20, 640)
    ref = rng.normal(0, 1, (200, 640))
    sci = rng.normal(1000, sigma, (200, 640))
    d = subtract_batch(ref, sci, model=minus, tile=64)
    assert d.meta["n_tiles"] > 30
    np.testing.assert_allclose(d.noise[:, 32:-32].mean(0), sigma[32:-32], rtol=0.1)
    assert np.abs(np.diff(d.noise, axis=1)).max() < 0.5


def test_gain_adds_the_poisson_noise_of_the_sources(minus):
    ref, sci = make((64, 64), stars=2)
    sci[3, 3] = np.nan
    plain = subtract_batch(ref, sci, model=minus)
    d = subtract_batch(ref, sci, model=minus, gain=2.5)
    above = np.maximum(np.nan_to_num(sci) - d.meta["sky"][0], 0)
    np.testing.assert_allclose(d.noise, np.sqrt(plain.noise**2 + above / 2.5), rtol=1e-4)
    assert np.isfinite(d.noise).all()


@pytest.mark.parametrize("symmetry", ["cyclic", "dihedral"])
def test_symmetry_averages_the_network(minus, symmetry):
    kernel = np.random.default_rng(1).normal(size=(3, 3))
    turned = [np.rot90(kernel, k) for k in range(4)]
    if symmetry == "dihedral":
        turned += [np.rot90(kernel.T, k) for k in range(4)]
    lopsided = tiny.convolve(minus.with_name("lopsided.onnx"), kernel)
    fair = tiny.convolve(minus.with_name("fair.onnx"), np.mean(turned, axis=0))
    ref, sci = make((70, 140), n=2)
    d = subtract_batch(ref, sci, model=lopsided, symmetry=symmetry, tile=64)
    want = subtract_batch(ref, sci, model=fair, tile=64)
    np.testing.assert_allclose(d.image, want.image, atol=0.01)
    assert np.abs(subtract_batch(ref, sci, model=lopsided, tile=64).image - want.image).max() > 1


def test_an_empty_batch(minus):
    for shape in ((0, 64, 64), (0, 0, 0)):
        d = subtract_batch(np.empty(shape), np.empty(shape), model=minus)
        assert d.image.shape == d.noise.shape == d.mask.shape == shape
        assert len(d) == 0
    assert len(subtract_batch(np.ones((64, 64)), np.empty((0, 64, 64)), model=minus)) == 0


@pytest.mark.parametrize("which", ["sci NaN", "ref NaN", "sci masked", "ref masked", "variance"])
def test_no_good_pixel(minus, which):
    ref, sci = make(n=2)
    everywhere = np.zeros(sci.shape, bool)
    everywhere[0] = True
    arguments = {}
    if which.endswith("NaN"):
        (sci if which.startswith("sci") else ref)[0] = np.nan
    elif which.endswith("masked"):
        arguments[f"{which[:3]}_masks"] = everywhere
    else:
        arguments["sci_variances"] = np.where(everywhere, np.nan, 4)
    d = subtract_batch(ref, sci, model=minus, **arguments)
    assert np.isnan(d.image[0]).all()
    assert d.mask[0].all()
    assert d.meta["notes"][0] == ["no pixel is good in both images"]
    assert np.isfinite(d.image[1]).all()
    assert len(fastdiff.find_transients(d[0])) == 0


def test_a_constant_image(minus):
    ref, sci = make(n=3)
    sci[0] = 100
    sci[0, 5, 5] = np.nan
    ref[1] = 0
    d = subtract_batch(ref, sci, model=minus)
    np.testing.assert_array_equal(np.unique(d.image[0]), [0, np.nan])
    np.testing.assert_array_equal(np.argwhere(d.mask), [[0, 5, 5]])
    assert "the science image is constant: its difference is set to 0" in d.meta["notes"][0]
    assert "the reference is constant" in d.meta["notes"][1]
    # Nothing to subtract: what is left is the science image without its sky.
    sky = d.meta["sky"][1]
    np.testing.assert_allclose(d.image[1], sci[1] - sky, atol=0.01)
    both = subtract_batch(np.full((40, 40), 3), np.full((40, 40), 5), model=minus)
    assert not both.image.any()
    assert not both.mask.any()


def test_the_scale_is_assumed_where_nothing_shines(minus):
    d = subtract_batch(*make(stars=0), model=minus)
    assert d.meta["scale"].tolist() == [1.0]
    assert d.meta["scale_boxes"].tolist() == [0]
    assert any("1 assumed" in note for note in d.meta["notes"][0])


@pytest.mark.parametrize("scale", [1.7, [1.7, 0.5]])
def test_a_scale_that_is_known_is_taken(minus, scale):
    ref, sci = make((64, 64), n=2, scale=1.7)
    d = subtract_batch(ref, sci, model=minus, scale=scale)
    np.testing.assert_allclose(d.meta["scale"], np.broadcast_to(np.float32(scale), 2))
    assert d.meta["scale_boxes"].tolist() == [-1, -1]
    kept = abs(np.nanstd(d.image[0]) - np.hypot(SIGMA_SCI, 1.7 * SIGMA_REF))
    assert kept < 0.1 * SIGMA_SCI


@pytest.mark.parametrize(("channel", "kernel"), [(2, "K"), (3, "L")])
def test_a_model_may_ask_for_matched_differences(folder, channel, kernel):
    """Channels 2 and 3 are the differences of kernels/match.py, tile by tile."""
    from fastdiff.kernels.image import match, tile

    made = fastdiff.simulate.pairs(3, (64, 64), seed=4)
    model = tiny.channel(folder / f"{kernel}.onnx", channel)
    d = subtract_batch(made.ref, made.sci, model=model, threads=2)
    pairs, sigma, _ = tile.normalise_pairs(made.ref, made.sci)
    expected = match.match_psfs(pairs)[:, channel] * sigma[:, None, None]
    good = ~d.mask
    np.testing.assert_allclose(d.image[good], expected[good], rtol=1e-3, atol=1e-3 * sigma.min())
