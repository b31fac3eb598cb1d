"""The one door for arrays: kind, dtype, byte order, memory layout, shape, device and masks.

Whatever stands behind this file sees C-contiguous, aligned, writable float32 or float64 in
native byte order, of shape (n, ny, nx). Nothing else in the package inspects types.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_CURES = {
    "c": "take its real part, or `abs` of it",
    "b": "masks go in `ref_masks` and `sci_masks`; convert an image with `.astype('float32')`",
    "O": "convert it with `.astype('float32')`, or stack images of one shape with `numpy.stack`",
    "U": "read the image first, for example with `astropy.io.fits.getdata(path)`",
    "S": "read the image first, for example with `astropy.io.fits.getdata(path)`",
    "V": "take one column of it",
}


@dataclass(frozen=True)
class Images:
    """Images that came through the door.

    Attributes
    ----------
    data : array, (n, ny, nx), float32 or float64
        Counts; C order, aligned, writable, native byte order. A NumPy array for what lies in
        the memory of the CPU, a CuPy array or CUDA tensor for what lies on a GPU. It shares
        memory with the caller's array where that was possible: do not write to it.
    mask : ndarray of bool, (n, ny, nx), or None
        True = bad, from a masked array or an NDData; None if nothing is masked there.
    kind : str
        What came: "numpy" (and everything that NumPy reads), "torch" or "cupy".
    device : str
        "cpu", or "cuda:0" and so on.
    single : bool
        Whether (ny, nx) came, without an axis for the batch.
    dtype : str
        Name of the dtype that came, for example "uint16".
    """

    data: Any
    mask: NDArray[np.bool_] | None = field(repr=False)
    kind: str
    device: str
    single: bool
    dtype: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, ny, nx)."""
        n, ny, nx = (int(size) for size in self.data.shape)
        return n, ny, nx

    @property
    def stream(self) -> int:
        """Handle of the caller's current CUDA stream (0: the default stream, or no GPU)."""
        if self.device == "cpu":
            return 0
        if self.kind == "torch":
            torch = sys.modules["torch"]
            return int(torch.cuda.current_stream(self.data.device).cuda_stream)
        return int(sys.modules["cupy"].cuda.get_current_stream().ptr)

    def like(self, array: Any) -> Any:
        """Give a result back as the caller's kind of array, on the caller's device.

        Parameters
        ----------
        array : array, (n, ...)
            NumPy, or already of the caller's kind; memory is shared where possible.

        Returns
        -------
        array
            Without the axis of the batch if the images came without one.
        """
        if self.single:
            array = array[0]
        if self.kind == "torch" and isinstance(array, np.ndarray):
            return sys.modules["torch"].from_numpy(array).to(self.device)
        if self.kind == "cupy" and isinstance(array, np.ndarray):
            return sys.modules["cupy"].asarray(array)
        return array


def as_images(x: Any, name: str, *, dtype: DTypeLike | None = None) -> Images:
    """Let images through the door.

    Parameters
    ----------
    x : array_like, (n, ny, nx) or (ny, nx)
        NumPy, CuPy or torch (CPU or CUDA), any strides and byte order; masked arrays, astropy
        Quantity (its unit is dropped) and NDData; lists of images of one shape. float32 and
        float64 stay what they are; integers and float16 become float32.
    name : str
        Name of the argument, for messages.
    dtype : dtype, optional
        float32 or float64, if it must be one of them.

    Returns
    -------
    Images

    Raises
    ------
    TypeError
        If `x` is complex, boolean, text, objects or no array, or lies on a device that cannot
        be read here.
    ValueError
        If it has neither 2 nor 3 axes, or is a list of images of several shapes.

    Examples
    --------
    >>> images = as_images([[0, 1, 2], [3, 4, 5]], "scis")
    >>> images.data.shape, images.data.dtype.name, images.single
    ((1, 2, 3), 'float32', True)
    >>> as_images([1j], "refs")
    Traceback (most recent call last):
      ...
    TypeError: `refs` has dtype complex128; it must be real numbers: take its real part, or ...
    """
    array, mask, kind, device = open_array(x, name)
    came = _dtype_name(array)
    wanted = image_dtype(array, name)
    if dtype is not None:
        wanted = np.dtype(dtype)
    if array.ndim not in (2, 3):
        raise ValueError(
            f"`{name}` has shape {tuple(array.shape)}; it must be (ny, nx) or (n, ny, nx): "
            + (
                "give it the axes of an image, for example with `.reshape`"
                if array.ndim < 2
                else "join the axes before the last two with `.reshape(-1, ny, nx)`"
            )
        )
    single = array.ndim == 2
    if single:
        array = array[None]
    if mask is not None:
        mask = _mask_of(mask, array.shape, name)
    return Images(_in_order(array, wanted, kind), mask, kind, device, single, came)


def as_masks(mask: Any, name: str, shape: tuple[int, int, int]) -> NDArray[np.bool_] | None:
    """Let masks through the door.

    Parameters
    ----------
    mask : array_like of bool or integer, or None
        True, or any bit set (a data-quality plane), = bad; (n, ny, nx), or (ny, nx) or
        (1, ny, nx) for all images.
    name : str
        Name of the argument, for messages.
    shape : tuple of int
        (n, ny, nx) of the images.

    Returns
    -------
    ndarray of bool, (n, ny, nx), C order, or None
        On the device on which it came.

    Raises
    ------
    TypeError
        If it is neither boolean nor integer.
    ValueError
        If its shape does not fit.

    Examples
    --------
    >>> as_masks([[0, 4]], "sci_masks", (2, 1, 2)).tolist()
    [[[False, True]], [[False, True]]]
    """
    if mask is None:
        return None
    array, hidden, kind, _ = open_array(mask, name)
    if _dtype_kind(array) not in "bui":
        raise TypeError(
            f"`{name}` has dtype {_dtype_name(array)}; it must be boolean or integer, with True "
            f"or non-zero for a bad pixel: pass `{name} != 0`, or `~numpy.isfinite(...)`"
        )
    n, ny, nx = (int(size) for size in shape)
    shape = n, ny, nx
    if tuple(array.shape) not in (shape, shape[1:], (1, *shape[1:])):
        raise ValueError(
            f"`{name}` has shape {tuple(array.shape)}; it must be {shape}, or {shape[1:]} for all "
            "images: cut it like the images"
        )
    bad = array != 0
    if hidden is not None:
        bad = bad | hidden  # a masked entry of a mask is no good pixel
    masks: NDArray[np.bool_]
    if isinstance(bad, np.ndarray):
        masks = np.require(np.broadcast_to(bad, shape), np.bool_, ["C", "A", "W", "E"])
    elif kind == "torch":
        masks = bad.expand(shape).contiguous()
    else:
        cupy = sys.modules["cupy"]
        masks = cupy.ascontiguousarray(cupy.broadcast_to(bad, shape))
    return masks


def to_numpy(x: Any, name: str, *, images: bool = True) -> NDArray[Any]:
    """Bring real numbers or booleans of any kind of array into the memory of the CPU.

    For work that is done there whatever came, such as a table of candidates. Masked entries
    of floats come as NaN.

    Parameters
    ----------
    x : array_like
        As in `as_images`; booleans are let through too.
    name : str
        Name of the argument, for messages.
    images : bool
        Whether it must be (ny, nx) or (n, ny, nx); it comes out with three axes.

    Returns
    -------
    ndarray
        Native byte order; integers and float16 as float32, booleans as they are.

    Raises
    ------
    TypeError, ValueError
        As `as_images`.
    """
    array, mask, _, device = open_array(x, name)
    if device != "cpu":
        array = array.cpu().numpy() if hasattr(array, "cpu") else array.get()
    dtype = np.dtype(bool) if array.dtype.kind == "b" else image_dtype(array, name)
    if images and array.ndim not in (2, 3):
        raise ValueError(
            f"`{name}` has shape {array.shape}; it must be (ny, nx) or (n, ny, nx): "
            "give it the axes of images with `.reshape`"
        )
    numbers: NDArray[Any] = array.astype(dtype, copy=mask is not None and dtype.kind == "f")
    if mask is not None and dtype.kind == "f":
        numbers[np.broadcast_to(mask, numbers.shape)] = np.nan
    return numbers[None] if images and numbers.ndim == 2 else numbers


def namespace(x: Any) -> Any:
    """The module whose functions work on an array: `numpy`, or `cupy` for one on a GPU.

    Examples
    --------
    >>> namespace(np.zeros(3)).__name__
    'numpy'
    """
    return np if isinstance(x, np.ndarray) else sys.modules["cupy"]


def scipy_of(x: Any, name: str) -> Any:
    """A module of SciPy for an array: `scipy.fft`, or `cupyx.scipy.fft` for one on a GPU."""
    prefix = "scipy" if isinstance(x, np.ndarray) else "cupyx.scipy"
    return importlib.import_module(f"{prefix}.{name}")


def cholesky(matrices: Any) -> Any:
    """Lower factors of positive matrices (n, k, k) on a GPU; LinAlgError if one has none."""
    from cupyx import errstate

    with errstate(linalg="raise"):  # by default what has no factor gets one all the same
        return namespace(matrices).linalg.cholesky(matrices)


def solve_positive(matrices: Any, right: Any) -> Any:
    """Solve positive systems (n, k, k) on a GPU, one right-hand side (n, k) each.

    Raises
    ------
    numpy.linalg.LinAlgError
        If a matrix is not positive.
    """
    from cupyx import errstate
    from cupyx.lapack import posv

    with errstate(linalg="raise"):
        return posv(matrices, right)


def on_host(x: Any) -> NDArray[Any]:
    """An array of NumPy or CuPy in the memory of the CPU, of the dtype that it has.

    Examples
    --------
    >>> on_host(np.arange(3)).tolist()
    [0, 1, 2]
    """
    host: NDArray[Any] = x if isinstance(x, np.ndarray) else x.get()
    return host


def empty_on(device: str) -> Any:
    """An array of no elements on a device, for the argument ``like`` of functions that make arrays.

    Parameters
    ----------
    device : {"cpu", "cuda"}
        "cpu": NumPy's; "cuda": CuPy's, on its current device.

    Raises
    ------
    ValueError
        If it is another device.
    ImportError
        For "cuda" without CuPy.
    RuntimeError
        For "cuda" where CuPy finds no GPU.

    Examples
    --------
    >>> empty_on("cpu").shape
    (0,)
    """
    from .options import one_of

    if one_of("device", device, ("cpu", "cuda")) == "cpu":
        return np.empty(0, np.float32)
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            "device is 'cuda', for which CuPy is needed, and it is not installed: "
            "pip install 'fastdiff-astro[cuda13]', or pass device='cpu'"
        ) from error
    try:
        found, why = bool(cupy.cuda.is_available()), "no CUDA device"
    except Exception as error:  # a missing or broken driver raises errors of many kinds
        found, why = False, str(error)
    if not found:
        raise RuntimeError(
            f"device is 'cuda', for which a GPU is needed, and CuPy finds none ({why}): "
            "pass device='cpu'"
        )
    return cupy.empty(0, np.float32)


def device_of(x: Any) -> str:
    """Where an array lies: "cpu", or "cuda:0" and so on.

    Examples
    --------
    >>> device_of([[1.0, 2.0]])
    'cpu'
    """
    if _is_torch(x):
        return "cpu" if x.device.type == "cpu" else f"{x.device.type}:{x.device.index or 0}"
    if hasattr(x, "__cuda_array_interface__"):
        number = getattr(getattr(x, "device", None), "id", 0)
        return f"cuda:{number}"
    return "cpu"


def check_same_device(**arguments: Any) -> str:
    """Device of all arguments that are not None.

    Raises
    ------
    TypeError
        If they lie on several devices: nothing is moved behind the caller's back.

    Examples
    --------
    >>> check_same_device(refs=[[1.0]], scis=[[2.0]], ref_masks=None)
    'cpu'
    """
    return check_devices({name: device_of(x) for name, x in arguments.items() if x is not None})


def check_devices(where: Mapping[str, str]) -> str:
    """The device of all arguments, of which `where` has the names and devices.

    Raises
    ------
    TypeError
        If there are several.

    Examples
    --------
    >>> check_devices({"time": "cuda:0", "mag": "cuda:0"})
    'cuda:0'
    """
    if len(set(where.values())) > 1:
        first, other = next(
            (a, b) for a in where for b in where if where[a] == next(iter(where.values()))
            and where[b] != where[a]
        )  # fmt: skip
        raise TypeError(
            f"`{other}` is on {where[other]} and `{first}` on {where[first]}; all arrays must be "
            f"on one device: move `{other}` to {where[first]} first"
        )
    return next(iter(where.values()), "cpu")


def check_current_device(device: str) -> None:
    """That a GPU is the one on which CuPy and Numba allocate and launch.

    Raises
    ------
    TypeError
        If another one is current.
    """
    if device == "cpu" or "cupy" not in sys.modules:
        return
    current = int(sys.modules["cupy"].cuda.Device().id)
    if device != f"cuda:{current}":
        raise TypeError(
            f"the arrays are on {device}, and cuda:{current} is the current device: call within "
            f"`with cupy.cuda.Device({device.partition(':')[2]}):`"
        )


def _is_torch(x: Any) -> bool:
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    return torch is not None and isinstance(x, torch.Tensor)


def open_array(x: Any, name: str) -> tuple[Any, Any, str, str]:
    """(array, mask or None, kind, device) of whatever came; dtype and layout as they came."""
    if x is None:
        raise TypeError(f"`{name}` is None; it must be an array of images, (n, ny, nx) or (ny, nx)")
    if isinstance(x, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(x)
        return np.asarray(x.data), mask if mask.any() else None, "numpy", "cpu"
    if isinstance(x, np.ndarray):
        return np.asarray(x), None, "numpy", "cpu"
    if _is_torch(x):
        return _open_torch(x, name)
    device = device_of(x)
    if device != "cpu":
        return _open_cuda(x, name), None, "cupy", device
    if hasattr(x, "uncertainty") and hasattr(x, "data") and hasattr(x, "mask"):  # NDData
        array, mask, kind, device = open_array(x.data, name)
        hidden = [m for m in (mask, x.mask) if m is not None]
        return array, np.logical_or.reduce(hidden) if hidden else None, kind, device
    if isinstance(x, (str, bytes)):
        raise TypeError(f"`{name}` is text, {x!r:.60}; it must be an array: {_CURES['U']}")
    try:
        array = np.asarray(x)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`{name}`, a {type(x).__name__}, makes no array ({error}); it must be (n, ny, nx): "
            "pass images of one shape, or call once for each shape"
        ) from error
    return array, None, "numpy", "cpu"


def _open_torch(x: Any, name: str) -> tuple[Any, None, str, str]:
    torch = sys.modules["torch"]
    if x.layout is not torch.strided:
        raise TypeError(f"`{name}` is a sparse tensor; it must be dense: call `.to_dense()` first")
    if x.device.type not in ("cpu", "cuda"):
        raise TypeError(
            f"`{name}` is a tensor on {x.device}; it must be on the CPU or a CUDA device: "
            "call `.cpu()` first"
        )
    x = x.detach().resolve_neg().resolve_conj()
    if x.is_floating_point() and x.dtype not in (torch.float32, torch.float64):
        x = x.float()  # NumPy knows no bfloat16
    device = device_of(x)
    return (x.numpy() if device == "cpu" else x), None, "torch", device


def _open_cuda(x: Any, name: str) -> Any:
    """A CuPy array of anything with ``__cuda_array_interface__``."""
    try:
        import cupy
    except ImportError as error:
        raise TypeError(
            f"`{name}` is a CUDA array ({type(x).__name__}); CuPy is needed to use it and is not "
            "installed: pip install 'fastdiff-astro[cuda13]', or copy the array to the CPU"
        ) from error
    return cupy.asarray(x)


def _dtype_name(array: Any) -> str:
    return str(array.dtype).removeprefix("torch.")


def _dtype_kind(array: Any) -> str:
    """NumPy's letter for the kind of dtype, also of a torch tensor."""
    if isinstance(array.dtype, np.dtype):
        return array.dtype.kind
    if array.is_complex():
        return "c"
    if array.is_floating_point():
        return "f"
    return "b" if "bool" in str(array.dtype) else "i"


def image_dtype(array: Any, name: str) -> np.dtype[Any]:
    """Dtype in which images of that dtype are worked on."""
    kind = _dtype_kind(array)
    if kind not in "fui":
        cure = _CURES.get(kind, "convert it with `.astype('float32')`")
        raise TypeError(f"`{name}` has dtype {_dtype_name(array)}; it must be real numbers: {cure}")
    wide = kind == "f" and array.dtype.itemsize >= 8
    return np.dtype(np.float64 if wide else np.float32)


def _in_order(array: Any, dtype: np.dtype[Any], kind: str) -> Any:
    """Memory as the compiled loops want it, copied only if it is not so already.

    Each other layout (Fortran, strided, read-only) would be compiled anew, for a second or more.
    """
    if isinstance(array, np.ndarray):
        return np.require(array, dtype, ["C", "A", "W", "E"])
    if kind == "torch":
        torch = sys.modules["torch"]
        return array.to(torch.float64 if dtype == np.float64 else torch.float32).contiguous()
    return sys.modules["cupy"].ascontiguousarray(array, dtype=dtype)


def _mask_of(mask: Any, shape: tuple[int, ...], name: str) -> NDArray[np.bool_]:
    """The mask that came inside of an image container, (n, ny, nx)."""
    try:
        full = np.broadcast_to(mask, shape)
    except ValueError as error:
        raise ValueError(
            f"the mask inside of `{name}` has shape {np.shape(mask)}; it must be "
            f"{tuple(shape)}, as its data"
        ) from error
    return np.require(full, np.bool_, ["C", "A", "W", "E"])
