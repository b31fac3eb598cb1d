"""Arrays, bad pixels and what is wrong with them."""

import threading

import numpy as np
import pytest

from fastdiff import subtract_batch
from fastdiff.difference import api as batch
from tests import tiny
from tests.difference.frames import SKY_SCI, make, same


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
            "no option 'satuation' for method 'transinet'; its options are backend, cosmic_rays, "
            "gain, model, saturation, scale, symmetry, tile",
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
        with pytest.raises(TypeError, match="`out` is not taken for images on a GPU, cuda:0"):
            subtract_batch(*images, model=minus, out=np.empty_like(images[0]))
    with monkeypatch.context() as patch:
        patch.setattr(batch.arrays, "device_of", lambda x: "cpu" if x is images[1] else "cuda:0")
        with pytest.raises(TypeError, match="must be on one device"):
            subtract_batch(*images, model=minus)
