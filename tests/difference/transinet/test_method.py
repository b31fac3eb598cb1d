"""The method "transinet": tiles, noise, averages over turns."""

import numpy as np
import pytest
from scipy import ndimage

import fastdiff
from fastdiff import subtract_batch
from fastdiff.difference.result import MAPS
from tests import pretend_cupy, tiny
from tests.difference.frames import SIGMA_REF, SIGMA_SCI, SKY_SCI, make
from tests.difference.psfmatch.pairs import Pair
from tests.difference.transinet.reference import transinet as reference


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
    d = subtract_batch(ref, sci, model=minus, cosmic_rays=False)
    assert d.image[40, 40] < -900
    assert d.image[20, 20] > 900


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
    without = subtract_batch(ref, sci, model=blur, cosmic_rays=False)
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
    options = {"model": minus, "cosmic_rays": False}
    assert not subtract_batch(ref, sci, **options).mask.any()
    assert not subtract_batch(ref, sci, **options, saturation=None).mask.any()
    d = subtract_batch(ref, sci, model=minus, saturation=65535.0)
    np.testing.assert_array_equal(np.argwhere(d.mask), where)
    one = subtract_batch(ref[0], sci, model=minus, saturation=60000)
    np.testing.assert_array_equal(np.argwhere(one.mask[:, 10, 11]), [[0], [1]])


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


# -------------------------------------------------------------------- on a GPU


@pytest.mark.parametrize(
    "case", ["minus", "matched", "symmetry", "gain", "variances", "bad pixels"]
)
def test_arrays_of_a_gpu_stay_there(minus, cupy, case):
    """To the memory of the CPU go tiles, for the network, and sums of pixels; each frame once."""
    ref, sci = make((150, 131), n=3)
    options = {"model": minus, "tile": 64, "measure": False}
    if case == "matched":
        options["model"] = tiny.channel(minus.with_name("matched.onnx"), 2)
    elif case == "symmetry":
        options["symmetry"] = "dihedral"
    elif case == "gain":
        options["gain"] = 2.0
    elif case == "variances":
        options["sci_variances"] = np.random.default_rng(0).uniform(1, 9, sci.shape)
    elif case == "bad pixels":
        ref[0, 5, 5], sci[1, 100:120, 30:50] = np.nan, np.inf
        sci[2], ref = np.nan, ref[:1]
        options["sci_masks"] = np.random.default_rng(0).random(sci.shape) < 1e-3
    expected = subtract_batch(ref, sci, **options)
    there = {k: cupy.asarray(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    arrays = cupy.asarray(ref), cupy.asarray(sci)
    pretend_cupy.copies.clear()
    made = subtract_batch(*arrays, **there)
    copied = [shape for shape in pretend_cupy.copies if len(shape) > 1 and shape[-1] > 4]
    for name in ("image", "noise", "mask"):
        map_, wanted = getattr(made, name), getattr(expected, name)
        assert isinstance(map_, cupy.ndarray), name
        np.testing.assert_allclose(map_.get(), wanted, rtol=1e-4, atol=0.01 * SIGMA_SCI)
    assert made.meta["notes"] == expected.meta["notes"]
    np.testing.assert_allclose(made.meta["scale"], expected.meta["scale"], rtol=1e-5)
    n_channels = 4 if case == "matched" else 2
    blocks = (3, ref.shape[1] // 4, ref.shape[2] // 4)  # sums of 4 x 4 pixels, for the scale
    assert {shape[1:] for shape in copied if len(shape) == 4} == {(n_channels, 64, 64), blocks}
    whole = [shape for shape in copied if shape[-2:] == ref.shape[-2:]]
    masked = case in ("bad pixels", "variances")
    assert sum(shape[0] for shape in whole) == len(ref) + len(sci) * (1 + masked), whole


def test_a_gpu_finds_the_constant_images_too(minus, cupy):
    ref, sci = make((64, 64), n=3)
    ref[0], sci[1] = 5, 7
    expected = subtract_batch(ref, sci, model=minus)
    made = subtract_batch(cupy.asarray(ref), cupy.asarray(sci), model=minus)
    assert made.meta["notes"] == expected.meta["notes"]
    np.testing.assert_allclose(made.image.get(), expected.image, atol=0.01 * SIGMA_SCI)


def test_measured_on_a_gpu(minus, cupy):
    pair = Pair(side=160, n_stars=40, n_new=2)
    expected = subtract_batch(pair.ref, pair.sci, model=minus)
    made = subtract_batch(cupy.asarray(pair.ref), cupy.asarray(pair.sci), model=minus)
    for name in MAPS:
        map_ = getattr(made, name)
        assert isinstance(map_, cupy.ndarray), name
        np.testing.assert_allclose(map_.get(), getattr(expected, name), rtol=0.01, atol=0.5)
