import threading

import numpy as np
import pytest
from scipy import ndimage

import fastdiff
from fastdiff import Difference, load_model, subtract_batch
from fastdiff.difference import api as batch
from fastdiff.difference.transinet import method as transinet
from tests import tiny
from tests.difference.reference import subtract as reference

SKY_REF, SKY_SCI, SIGMA_REF, SIGMA_SCI = 300.0, 500.0, 3.0, 5.0


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def minus(folder):
    """Model whose difference is channel 1 - channel 0."""
    return tiny.minus(folder / "minus.onnx")


def make(shape=(96, 80), n=None, seed=0, scale=1.0, stars=12):
    """Reference and science images, float32: Gaussian stars on flat sky and white noise."""
    rng = np.random.default_rng(seed)
    batch_shape = (1 if n is None else n, *shape)
    signal = np.zeros(batch_shape)
    for image in signal:
        image[rng.integers(8, shape[0] - 8, stars), rng.integers(8, shape[1] - 8, stars)] = 30000
    signal = ndimage.gaussian_filter(signal, (0, 1.5, 1.5))
    ref = SKY_REF + signal + SIGMA_REF * rng.normal(size=batch_shape)
    sci = SKY_SCI + scale * signal + SIGMA_SCI * rng.normal(size=batch_shape)
    if n is None:
        ref, sci = ref[0], sci[0]
    return ref.astype(np.float32), sci.astype(np.float32)


def same(a, b):
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.noise, b.noise)
    np.testing.assert_array_equal(a.mask, b.mask)


# ------------------------------------------------------------------- what comes out


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


# ----------------------------------------------------------------------- arrays


def test_one_reference_for_many_science_images(minus):
    ref, sci = make(n=4)
    want = subtract_batch(np.repeat(ref[:1], 4, axis=0), sci, model=minus)
    same(subtract_batch(ref[0], sci, model=minus), want)
    same(subtract_batch(ref[:1], sci, model=minus), want)
    single = subtract_batch(ref[:1], sci[2], model=minus)
    assert single.shape == sci.shape[1:]
    same(single, want[2])


def test_masks_and_variances_of_one_reference(minus):
    ref, sci = make(n=3)
    bad = np.zeros(ref.shape, bool)
    bad[0, 10, 10] = bad[1, 20, 20] = True
    d = subtract_batch(ref[0], sci, model=minus, ref_masks=bad)
    np.testing.assert_array_equal(d.mask, bad)
    d = subtract_batch(ref[0], sci, model=minus, ref_masks=bad[0])
    np.testing.assert_array_equal(d.mask, np.repeat(bad[:1], 3, axis=0))
    variance = np.where(bad, np.nan, 4.0)
    d = subtract_batch(ref[0], sci, model=minus, ref_variances=variance[1])
    np.testing.assert_array_equal(d.mask, np.repeat(bad[1:2], 3, axis=0))


@pytest.mark.parametrize("dtype", ["float64", "float16", "uint16", "int16", "int32", ">f4", ">i2"])
def test_dtypes(minus, dtype):
    ref, sci = (image.round() for image in make())
    if dtype == "float16":
        ref, sci = ref / 64, sci / 64
    want = subtract_batch(
        ref.astype(dtype).astype("f8"), sci.astype(dtype).astype("f8"), model=minus
    )
    d = subtract_batch(ref.astype(dtype), sci.astype(dtype), model=minus)
    assert d.image.dtype == np.float32
    np.testing.assert_allclose(d.image, want.image, atol=2e-3)


def test_layouts(minus):
    ref, sci = make()
    want = subtract_batch(ref, sci, model=minus)
    read_only = sci.copy()
    read_only.flags.writeable = False
    wide = np.repeat(sci, 2, axis=1)
    for other in (np.asfortranarray(sci), read_only, wide[:, ::2]):
        same(subtract_batch(ref, other, model=minus), want)
    listed = subtract_batch(ref.tolist(), sci.tolist(), model=minus)
    np.testing.assert_allclose(listed.image, want.image, atol=1e-3)


def test_two_dtypes(minus):
    ref, sci = make(n=2)
    want = subtract_batch(ref.astype("f8"), sci.astype("f8"), model=minus)
    same(subtract_batch(ref, sci.astype("f8"), model=minus), want)
    same(subtract_batch(ref.astype("f8"), sci, model=minus), want)


def test_masked_arrays(minus):
    ref, sci = make()
    bad = sci > SKY_SCI + 500
    assert bad.any()
    d = subtract_batch(ref, np.ma.array(sci, mask=bad), model=minus)
    same(d, subtract_batch(ref, sci, model=minus, sci_masks=bad))


def test_tensors_come_back_as_tensors(minus):
    torch = pytest.importorskip("torch")
    ref, sci = make(n=2)
    want = subtract_batch(ref, sci, model=minus)
    d = subtract_batch(torch.from_numpy(ref), torch.from_numpy(sci), model=minus)
    assert all(isinstance(x, torch.Tensor) for x in (d.image, d.noise, d.mask))
    np.testing.assert_array_equal(np.asarray(d), want.image)
    assert d.mask.dtype == torch.bool
    same(d[1], want[1])


def test_several_callers_at_once(minus):
    ref, sci = make(n=6)
    want = [subtract_batch(ref[i], sci[i], model=minus, tile=64) for i in range(6)]
    got = [None] * 6

    def work(i):
        for _ in range(4):
            got[i] = subtract_batch(ref[i], sci[i], model=minus, tile=64, threads=2)

    callers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for a, b in zip(got, want, strict=True):
        same(a, b)


# ------------------------------------------------------------------- bad pixels


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


# ------------------------------------------------------------- noise and variances


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


# ------------------------------------------------------------------------ symmetry


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


# ----------------------------------------------------------------------------- out


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4"])
@pytest.mark.parametrize("n", [None, 3])
def test_out_is_filled(minus, dtype, n):
    ref, sci = make(n=n)
    want = subtract_batch(ref, sci, model=minus)
    out = np.full(sci.shape, -7.0, dtype)
    d = subtract_batch(ref, sci, model=minus, out=out)
    assert d.image is out
    np.testing.assert_array_equal(out, want.image)
    np.testing.assert_array_equal(d.noise, want.noise)


def test_out_of_any_layout_and_over_the_input(minus):
    ref, sci = make(n=2)
    want = subtract_batch(ref, sci, model=minus)
    fortran = np.empty(sci.shape, "f4", order="F")
    strided = np.zeros((2, sci.shape[1], 2 * sci.shape[2]), "f4")
    for out in (fortran, strided[:, :, ::2], sci):
        subtract_batch(ref, sci.copy() if out is not sci else sci, model=minus, out=out)
        np.testing.assert_array_equal(out, want.image)
    assert not strided[:, :, 1::2].any()


def test_out_is_a_difference_of_an_earlier_call(minus):
    ref, sci = make(n=3)
    old = subtract_batch(ref, sci, model=minus)
    arrays = old.image, old.noise, old.mask
    sci[1, 2, 3] = np.nan
    want = subtract_batch(ref, sci + 1, model=minus)
    d = subtract_batch(ref, sci + 1, model=minus, out=old)
    assert d is old
    assert all(a is b for a, b in zip(arrays, (d.image, d.noise, d.mask), strict=True))
    same(d, want)
    assert d.meta["sky"] == pytest.approx(want.meta["sky"])
    empty = subtract_batch(ref[:0], sci[:0], model=minus)
    assert subtract_batch(ref[:0], sci[:0], model=minus, out=empty) is empty


def test_wrong_out(minus):
    ref, sci = make(n=2)
    whole = subtract_batch(ref, sci, model=minus)
    locked = np.empty(sci.shape, "f4")
    locked.flags.writeable = False
    bad_mask = Difference(whole.image, whole.noise, whole.mask.astype(np.uint8))
    for out, error, text in (
        (np.empty((2, 80, 96), "f4"), ValueError, r"`out` has shape \(2, 80, 96\); it must match"),
        (np.empty(sci.shape, "i4"), TypeError, "`out` has dtype int32; it must be float32 or"),
        (locked, ValueError, "`out` is read-only; it must be writeable"),
        ([1.0], TypeError, "`out` is a list; it must be an array"),
        (whole[0], ValueError, r"`out.image` has shape \(96, 80\); it must match `scis`, \(2, 96"),
        (bad_mask, TypeError, r"`out.mask` has dtype uint8; it must be bool"),
    ):
        with pytest.raises(error, match=text):
            subtract_batch(ref, sci, model=minus, out=out)


# ---------------------------------------------------------------------- Difference


def test_difference_as_an_array_and_its_parts(minus):
    ref, sci = make(n=4)
    sci[2] = 7.0
    d = subtract_batch(ref, sci, model=minus)
    assert len(d) == 4
    assert d.shape == sci.shape
    assert np.asarray(d) is not None
    assert np.shares_memory(np.asarray(d), d.image)
    assert np.asarray(d, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(d), d.image)
    assert [part.shape for part in d] == [sci.shape[1:]] * 4
    assert d[-1].meta["scale"] == d.meta["scale"][3:]
    assert d[2].meta["notes"].keys() == {0}
    assert d[0].meta["notes"] == {}
    assert d[1:3].meta["notes"] == {1: d.meta["notes"][2]}
    assert d[1:3].shape == (2, *sci.shape[1:])
    assert d[0][0].shape == d[0].shape
    assert len(d[0]) == 1
    with pytest.raises(IndexError):
        d[4]
    with pytest.raises(IndexError, match="difference of a single image"):
        d[0][1]


def test_meta_says_what_ran(minus):
    d = subtract_batch(*make(n=2), model=minus, threads=3)
    meta = d.meta
    assert (meta["method"], meta["model"], meta["threads"]) == ("transinet", "minus", 3)
    assert meta["backend"] == load_model(minus).backend
    assert meta["version"] == fastdiff.__version__
    assert meta["pixel_threshold"] == float(tiny.METADATA["fastdiff.pixel_threshold"])
    assert meta["noise_free"] is True
    stages = meta["seconds"]
    assert {"measure", "scale", "network", "noise", "total"} == set(stages)
    assert sum(stages.values()) - stages["total"] <= stages["total"]
    assert repr(d) == "<Difference (2, 96, 80) by transinet>"


def test_a_model_that_was_loaded_before(minus):
    ref, sci = make()
    model = load_model(minus, backend="onnxruntime-cpu", threads=1)
    d = subtract_batch(ref, sci, model=model)
    same(d, subtract_batch(ref, sci, model=str(minus)))
    assert d.meta["backend"] == "onnxruntime-cpu"
    with pytest.raises(ValueError, match="backend is 'onnxruntime-cuda', but `model` was loaded"):
        subtract_batch(ref, sci, model=model, backend="onnxruntime-cuda")


# ------------------------------------------------------------------------ progress


def test_progress_counts_tiles(minus):
    calls = []
    subtract_batch(
        *make((100, 100), n=3), model=minus, tile=64, progress=lambda *call: calls.append(call)
    )
    done, total = zip(*calls, strict=True)
    assert set(total) == {3 * 4}
    assert list(done) == sorted(set(done))
    assert done[-1] == 3 * 4


def test_progress_bar(minus, capsys):
    subtract_batch(*make(), model=minus, progress=True)
    assert "subtracting" in capsys.readouterr().out


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interruption_stops_the_work(minus, threads):
    images = make((640, 64))
    calls = []

    def interrupt(done, total):
        calls.append(done)
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        subtract_batch(*images, model=minus, tile=64, threads=threads, progress=interrupt)
    assert len(calls) == 1
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("fastdiff-network")]
    assert threading.active_count() <= before + threads


# ------------------------------------------------------- nothing there to be measured


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


# ------------------------------------------------------------------------ messages


def call_with(minus, **changes):
    ref, sci = make(n=2)
    arguments = {"refs": ref, "scis": sci, "model": minus} | changes
    return subtract_batch(arguments.pop("refs"), arguments.pop("scis"), **arguments)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"refs": np.ones((2, 96, 96)), "scis": np.ones((2, 96, 80))},
            r"`scis` has shape \(2, 96, 80\); it must match `refs`, \(2, 96, 96\)",
        ),
        ({"refs": np.ones((3, 96, 80))}, r"must match `refs`, \(3, 96, 80\)"),
        ({"scis": np.ones((96, 80)), "refs": np.ones((2, 96, 80))}, r"`scis` has shape \(96, 80\)"),
        ({"scis": np.ones(96)}, r"`scis` has shape \(96,\); it must be \(ny, nx\) or"),
        ({"refs": np.ones((1, 2, 96, 80))}, r"`refs` has shape \(1, 2, 96, 80\); it must be"),
        (
            {"refs": np.ones((31, 64)), "scis": np.ones((31, 64))},
            r"`scis` has shape \(31, 64\); images must be at least 32 x 32",
        ),
        ({"sci_masks": np.ones((2, 80, 96), bool)}, r"`sci_masks` has shape \(2, 80, 96\)"),
        ({"ref_masks": np.ones((4, 96, 80), bool)}, r"`ref_masks` has shape \(4, 96, 80\)"),
        ({"sci_variances": np.ones((3, 96, 80))}, r"`sci_variances` has shape \(3, 96, 80\)"),
        (
            {"ref_variances": np.linspace(-1, 1, 7680).reshape(96, 80)},
            r"`ref_variances` is negative in 3840 of 7680 pixels \(lowest -1\)",
        ),
        ({"method": "magic"}, "method is 'magic'; known methods are 'transinet', 'psf-"),
        ({"symmetry": "square"}, "symmetry is 'square'; it must be None, 'cyclic' or 'dihedral'"),
        ({"gain": 0}, "gain is 0; it must be positive"),
        ({"scale": 0.0}, r"scale is 0\.0; it must be positive"),
        ({"scale": [1, 2, 3, 4, 5]}, r"scale has shape \(5,\); it must be a number or"),
        ({"saturation": "full"}, "saturation is 'full'; it must be None, 'auto' or a number"),
        ({"tile": 100}, "`tile` is 100"),
        ({"threads": 0}, "threads is 0; it must be at least 1"),
        ({"backend": "abacus"}, "backend is 'abacus'; known back ends are"),
        ({"model": "no-such-model"}, "there is no model named 'no-such-model'"),
    ],
)
def test_value_errors(minus, changes, text):
    with pytest.raises(ValueError, match=text):
        call_with(minus, **changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"scis": np.ones((2, 96, 80), complex)}, "`scis` has dtype complex128; it must be real"),
        ({"refs": np.ones((2, 96, 80), bool)}, "`refs` has dtype bool; it must be real numbers"),
        ({"refs": None}, "`refs` is None; it must be an array"),
        ({"scis": "image.fits"}, "`scis` is text, 'image.fits'; it must be an array"),
        ({"sci_masks": np.ones((96, 80))}, "`sci_masks` has dtype float64; it must be boolean"),
        ({"sci_variances": np.ones((96, 80), complex)}, "`sci_variances` has dtype complex128"),
        ({"progress": 3}, "progress is a int; it must be True, False or a callable"),
        ({"saturation": [1, 2]}, "saturation is a list"),
        ({"threads": 2.0}, "threads is a float"),
        ({"tile": 64.5}, "tile is a float; it must be a whole number"),
        (
            {"satuation": 3},
            "no option 'satuation' for method 'transinet'; its options are backend, gain, model, "
            "saturation, scale, symmetry, tile",
        ),
    ],
)
def test_type_errors(minus, changes, text):
    with pytest.raises(TypeError, match=text):
        call_with(minus, **changes)


def test_a_missing_or_wrong_model(minus, folder):
    with pytest.raises(FileNotFoundError, match=r"gone\.onnx does not exist"):
        call_with(folder / "gone.onnx")
    stamps = tiny.minus(folder / "stamps.onnx", kind="stamps")
    with pytest.raises(ValueError, match=r"is a model of kind 'stamps'.*'transinet' is needed"):
        call_with(stamps)
    other = tiny.minus(folder / "other.onnx", normalisation="tile-v9")
    with pytest.raises(
        ValueError, match=r"normalisation 'tile-v9'.*this fastdiff has tile-v1, tile-match-v1"
    ):
        call_with(other)
    broken = folder / "broken-file.onnx"
    broken.write_bytes(b"what is this")
    with pytest.raises(ValueError, match=r"broken-file\.onnx is not an ONNX model"):
        call_with(broken)


def test_arrays_on_a_gpu_are_told_from_those_that_are_not(minus, monkeypatch):
    images = make(n=2)
    with monkeypatch.context() as patch:
        patch.setattr(batch.arrays, "device_of", lambda x: "cuda:0")
        with pytest.raises(TypeError, match=r"`scis` is on cuda:0; method 'transinet' takes"):
            subtract_batch(*images, model=minus)
        with pytest.raises(TypeError, match="methods for a GPU are 'psf-match', 'zogy'"):
            subtract_batch(*images, model=minus)
    with monkeypatch.context() as patch:
        patch.setattr(batch.arrays, "device_of", lambda x: "cpu" if x is images[1] else "cuda:0")
        with pytest.raises(TypeError, match="must be on one device"):
            subtract_batch(*images, model=minus)
