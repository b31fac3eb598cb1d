"""The one door for arrays: what comes through, what is refused and how the message helps."""

import ast
import inspect
import sys

import numpy as np
import pytest
from astropy import units
from astropy.nddata import CCDData, NDData

from fastdiff.core import arrays
from fastdiff.core.arrays import (
    as_images,
    as_masks,
    check_devices,
    check_same_device,
    device_of,
    to_numpy,
)
from tests import pretend_cupy


class FakeCudaArray:
    """Says that it lies on a GPU, as a CuPy array does."""

    def __init__(self, shape, number=0):
        self.shape = shape
        self.device = type("Device", (), {"id": number})()
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "<f4",
            "data": (16, False),
            "version": 3,
        }


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed: pip install -e .[train]")


def numbers(dtype, shape=(2, 4, 6)):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize(
    ("came", "inside"),
    [
        ("float32", "float32"), ("float64", "float64"), ("float16", "float32"),
        ("longdouble", "float64"), ("uint8", "float32"), ("uint16", "float32"),
        ("int16", "float32"), ("int64", "float32"), ("uint64", "float32"),
        (">f4", "float32"), (">f8", "float64"), (">i2", "float32"), (">u2", "float32"),
    ],
)  # fmt: skip
def test_dtypes(came, inside):
    images = as_images(numbers(came), "refs")
    assert images.data.dtype == np.dtype(inside)
    assert images.data.dtype.isnative
    np.testing.assert_array_equal(images.data, numbers("float64"))
    assert (images.kind, images.device, images.single, images.mask) == ("numpy", "cpu", False, None)
    assert images.stream == 0


def test_dtype_that_came_is_told():
    assert as_images(numbers("uint16"), "scis").dtype == "uint16"


def test_dtype_can_be_asked_for():
    assert as_images(numbers("float64"), "refs", dtype=np.float32).data.dtype == np.float32
    with pytest.raises(TypeError, match="complex64"):
        as_images(numbers("complex64"), "refs", dtype=np.float32)


def test_large_unsigned_counts_stay_positive():
    assert as_images(np.full((2, 2), 65535, ">u2"), "scis").data.max() == 65535


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def unaligned(x):
    memory = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    memory[:] = x
    return memory


@pytest.mark.parametrize(
    "layout",
    [
        np.asfortranarray, read_only, unaligned,
        lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
        lambda x: x[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
        lambda x: np.ascontiguousarray(x.T).T,
    ],
    ids=["fortran", "read-only", "unaligned", "strided", "negative-strides", "transposed"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", ">f8"])
def test_layouts(layout, dtype):
    images = as_images(layout(numbers(dtype)), "refs").data
    assert images.flags.c_contiguous
    assert images.flags.aligned
    assert images.flags.writeable
    np.testing.assert_array_equal(images, numbers("float64"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_good_arrays_are_not_copied(dtype):
    x = numbers(dtype)
    assert np.shares_memory(as_images(x, "refs").data, x)
    assert np.shares_memory(as_images(x[0], "refs").data, x)


def test_single_image_comes_back_single():
    images = as_images(numbers("float32")[0], "refs")
    assert images.shape == (1, 4, 6)
    assert images.single
    assert images.like(images.data).shape == (4, 6)
    assert as_images(numbers("float32")[:1], "refs").like(images.data).shape == (1, 4, 6)


def test_empty_batch():
    images = as_images(np.empty((0, 32, 32)), "refs")
    assert images.shape == (0, 32, 32)
    assert as_masks(np.zeros((32, 32), bool), "ref_masks", images.shape).shape == (0, 32, 32)


def test_lists():
    image = numbers("float32")[0]
    assert as_images([image, image], "refs").shape == (2, 4, 6)
    assert as_images([[1, 2], [3, 4]], "refs").data.dtype == np.float32
    with pytest.raises(ValueError, match=r"`refs`, a list, makes no array .* images of one shape"):
        as_images([image, image[:2]], "refs")


@pytest.mark.parametrize(
    ("bad", "cure"),
    [
        (numbers("complex64"), "complex64.*real part"),
        (numbers(bool), "bool.*`ref_masks`"),
        (numbers(object), "object.*astype"),
        (np.full((2, 2), "a"), "<U1.*getdata"),
        (np.zeros((2, 2), "M8[s]"), "datetime64.*astype"),
        (np.zeros((2, 2), [("a", "f4")]), "one column"),
        ("frame.fits", "is text, 'frame.fits'.*getdata"),
        (None, "is None"),
        (object(), "object.*astype"),
        ({1: 2}, "object.*astype"),
    ],
    ids=["complex", "bool", "object", "str", "dates", "table", "path", "None", "thing", "dict"],
)
def test_kinds_that_are_refused(bad, cure):
    with pytest.raises(TypeError, match=f"`scis` .*{cure}"):
        as_images(bad, "scis")


@pytest.mark.parametrize("shape", [(), (5,), (1, 2, 3, 4), (1, 1, 2, 3, 4)])
def test_axes_that_are_refused(shape):
    with pytest.raises(ValueError, match=r"`refs` has shape \(.*it must be .*reshape"):
        as_images(np.zeros(shape), "refs")


def test_masked_array():
    x = np.ma.masked_equal(numbers("float32"), 5)
    images = as_images(x, "refs")
    np.testing.assert_array_equal(images.mask, numbers("int") == 5)
    np.testing.assert_array_equal(images.data, numbers("float32"))
    assert as_images(np.ma.array(numbers("float32")), "refs").mask is None
    assert as_images(x[0], "refs").mask.shape == (1, 4, 6)


def test_quantity_and_nddata():
    assert as_images(numbers("float32") * units.adu, "refs").data[0, 1, 1] == 7
    bad = numbers("int")[0] % 5 == 0
    images = as_images(CCDData(numbers("float64")[0], unit="adu", mask=bad), "refs")
    np.testing.assert_array_equal(images.mask[0], bad)
    assert images.single
    assert as_images(CCDData(numbers("float64")[0], unit="adu"), "refs").mask is None
    wrong = NDData(numbers("float64")[0], mask=np.zeros((3, 3), bool))
    with pytest.raises(ValueError, match="mask inside of `refs`"):
        as_images(wrong, "refs")


# ------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("shape", [(2, 4, 6), (4, 6), (1, 4, 6)])
@pytest.mark.parametrize("dtype", [bool, "uint8", ">i4", "int64"])
def test_masks(shape, dtype):
    mask = (numbers("int", shape) % 3 * 2).astype(dtype)
    bad = as_masks(mask, "sci_masks", (2, 4, 6))
    assert bad.dtype == bool
    assert bad.flags.c_contiguous
    assert bad.flags.writeable
    np.testing.assert_array_equal(bad, np.broadcast_to(mask != 0, (2, 4, 6)))


def test_no_mask():
    assert as_masks(None, "ref_masks", (2, 4, 6)) is None


def test_masks_that_are_refused():
    with pytest.raises(TypeError, match=r"`ref_masks` has dtype float64.*`ref_masks != 0`"):
        as_masks(np.zeros((4, 6)), "ref_masks", (2, 4, 6))
    with pytest.raises(ValueError, match=r"`ref_masks` has shape \(6, 4\); it must be \(2, 4, 6\)"):
        as_masks(np.zeros((6, 4), bool), "ref_masks", (2, 4, 6))
    with pytest.raises(ValueError, match=r"shape \(3, 4, 6\)"):
        as_masks(np.zeros((3, 4, 6), bool), "ref_masks", (2, 4, 6))


def test_masked_entry_of_a_mask_is_bad():
    mask = np.ma.array(np.zeros((4, 6), bool), mask=numbers("int")[0] == 3)
    np.testing.assert_array_equal(as_masks(mask, "m", (1, 4, 6))[0], numbers("int")[0] == 3)


# --------------------------------------------------------------------------- to_numpy


def test_to_numpy():
    assert to_numpy(5, "noise", images=False).shape == ()
    assert to_numpy(numbers("float32")[0], "difference").shape == (1, 4, 6)
    assert to_numpy(numbers(bool), "mask").dtype == bool
    assert to_numpy(numbers(">f4"), "difference").dtype == np.float32
    x = np.ma.masked_equal(numbers("float64"), 5)
    np.testing.assert_array_equal(np.isnan(to_numpy(x, "difference")), x.mask)
    assert x.data[0, 0, 5] == 5, "the caller's array was changed"
    with pytest.raises(TypeError, match="`difference` has dtype complex128"):
        to_numpy([[1j]], "difference")
    with pytest.raises(ValueError, match=r"`difference` has shape \(2,\)"):
        to_numpy([1, 2], "difference")


# ------------------------------------------------------------------------------- torch


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int32", "uint8"])
def test_torch_comes_back_as_torch(torch, dtype):
    x = torch.arange(48).reshape(2, 4, 6).to(getattr(torch, dtype))
    images = as_images(x, "refs")
    assert images.kind == "torch"
    assert isinstance(images.data, np.ndarray)
    assert images.data.dtype == (np.float64 if dtype == "float64" else np.float32)
    np.testing.assert_array_equal(images.data, numbers("float64"))
    back = images.like(np.ones((2, 4, 6), np.float32))
    assert isinstance(back, torch.Tensor)
    assert back.dtype == torch.float32
    assert back.shape == (2, 4, 6)
    assert as_images(x[0], "refs").like(np.ones((1, 4, 6), np.float32)).shape == (4, 6)


def test_torch_memory_is_shared_and_gradients_are_left(torch):
    x = torch.zeros(2, 4, 6, requires_grad=True)
    assert np.shares_memory(as_images(x, "refs").data, x.detach().numpy())
    view = torch.arange(48.0).reshape(2, 6, 4).transpose(1, 2)
    images = as_images(view, "refs").data
    assert images.flags.c_contiguous
    np.testing.assert_array_equal(images, view.numpy())
    mask = as_masks(torch.tensor([[True, False]]), "ref_masks", (2, 1, 2))
    np.testing.assert_array_equal(mask, [[[True, False]]] * 2)


def test_torch_that_is_refused(torch):
    with pytest.raises(TypeError, match=r"`refs` has dtype complex64.*real part"):
        as_images(torch.zeros(2, 4, 6, dtype=torch.complex64), "refs")
    with pytest.raises(TypeError, match="`refs` has dtype bool"):
        as_images(torch.zeros(2, 4, 6, dtype=torch.bool), "refs")
    with pytest.raises(TypeError, match=r"sparse.*to_dense"):
        as_images(torch.zeros(4, 6).to_sparse(), "refs")
    with pytest.raises(TypeError, match=r"on meta; .*`.cpu\(\)`"):
        as_images(torch.zeros(4, 6, device="meta"), "refs")


# ------------------------------------------------------------------------------ devices


def test_devices_are_not_mixed():
    on_gpu = FakeCudaArray((2, 4, 6), number=1)
    assert device_of(on_gpu) == "cuda:1"
    image = numbers("float32")
    assert check_same_device(refs=image, scis=image, ref_masks=None) == "cpu"
    assert check_same_device(refs=on_gpu, scis=on_gpu) == "cuda:1"
    with pytest.raises(TypeError, match=r"`scis` is on cuda:1 and `refs` on cpu.*move `scis`"):
        check_same_device(refs=image, scis=on_gpu, ref_masks=None)
    with pytest.raises(TypeError, match="`sci_masks` is on cpu and `refs` on cuda:0"):
        check_same_device(refs=FakeCudaArray((2, 4, 6)), sci_masks=image)


def test_devices_by_name():
    assert check_devices({}) == "cpu"
    assert check_devices({"time": "cuda:1", "mag": "cuda:1"}) == "cuda:1"
    with pytest.raises(TypeError, match=r"`err` is on cpu and `time` on cuda:1.*move `err` to"):
        check_devices({"time": "cuda:1", "mag": "cuda:1", "err": "cpu"})


def test_cuda_array_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it fails
    with pytest.raises(TypeError, match=r"`refs` is a CUDA array .*fastdiff-astro\[cuda13\]"):
        as_images(FakeCudaArray((2, 4, 6)), "refs")


def test_cupy_comes_back_as_cupy(monkeypatch):
    cupy = pretend_cupy.install(monkeypatch)
    images = as_images(cupy.asarray(numbers("uint16")[0]), "refs")
    assert (images.kind, images.device, images.single) == ("cupy", "cuda:0", True)
    assert images.data.dtype == np.float32
    assert images.shape == (1, 4, 6)
    assert isinstance(images.like(images.data), cupy.ndarray)
    assert isinstance(images.like(np.zeros((1, 4, 6))), cupy.ndarray)
    mask = as_masks(cupy.asarray(numbers("uint8")[0]), "ref_masks", (2, 4, 6))
    np.testing.assert_array_equal(mask.get(), np.broadcast_to(numbers("int")[0] != 0, (2, 4, 6)))
    np.testing.assert_array_equal(to_numpy(images.data, "refs"), numbers("float32")[:1])


def test_functions_follow_the_array(monkeypatch):
    cupy = pretend_cupy.install(monkeypatch)
    here, there = numbers("int16"), cupy.asarray(numbers("int16"))
    assert arrays.namespace(here) is np
    assert arrays.namespace(there) is cupy
    assert arrays.scipy_of(here, "fft").__name__ == "scipy.fft"
    assert arrays.scipy_of(there, "fft").__name__ == "cupyx.scipy.fft"
    assert arrays.on_host(here) is here
    back = arrays.on_host(there)
    assert type(back) is np.ndarray
    assert back.dtype == here.dtype
    np.testing.assert_array_equal(back, here)


def test_the_stand_in_for_cupy_refuses_what_cupy_refuses(monkeypatch):
    cupy = pretend_cupy.install(monkeypatch)
    x = cupy.asarray(numbers("float32"))
    for forbidden in (
        lambda: np.asarray(x),
        lambda: x + numbers("float32"),
        lambda: np.multiply(numbers("float32"), x),
        lambda: x.__setitem__(0, numbers("float32")[0]),
        lambda: x[np.array([0, 1])],
        lambda: np.block([x, x]),
        lambda: cupy.where(numbers("float32") > 0, x, x),
    ):
        with pytest.raises(TypeError):
            forbidden()
    assert float((x * 2).sum()) == 2 * numbers("float32").sum()


def test_cuda_tensors(torch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device for torch")
    x = torch.arange(48, device="cuda").reshape(2, 6, 4).transpose(1, 2)
    images = as_images(x, "refs")
    assert (images.kind, images.device) == ("torch", "cuda:0")
    assert images.data.dtype == torch.float32
    assert images.data.is_contiguous()
    assert images.like(images.data).device == x.device
    assert as_masks(x[0], "ref_masks", (2, 4, 6)).is_contiguous()
    np.testing.assert_array_equal(to_numpy(x, "refs"), x.cpu().numpy())


def test_numpy_is_the_only_import():
    tree = ast.parse(inspect.getsource(arrays))
    roots = {
        name.split(".")[0]
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert roots - sys.stdlib_module_names == {"numpy"}


def test_empty_arrays_lie_where_they_are_asked_to(monkeypatch):
    assert isinstance(arrays.empty_on("cpu"), np.ndarray)
    with pytest.raises(ValueError, match="device is 'tpu'; it must be one of 'cpu', 'cuda'"):
        arrays.empty_on("tpu")
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match="CuPy is needed, and it is not installed: pip install"):
        arrays.empty_on("cuda")
    cupy = pretend_cupy.install(monkeypatch)
    assert isinstance(arrays.empty_on("cuda"), pretend_cupy.ndarray)

    def broken():
        raise OSError("driver too old")

    cupy.cuda.is_available = broken
    with pytest.raises(RuntimeError, match=r"CuPy finds none \(driver too old\)"):
        arrays.empty_on("cuda")
