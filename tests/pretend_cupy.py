"""A stand-in for CuPy without a GPU: its arrays never become NumPy's behind one's back.

As in CuPy, functions and operators take arrays of this kind and scalars; a NumPy array with axes,
or a function that CuPy does not have, is a TypeError. `asarray` copies to the "device" and `get`
back; `copies` lists the latter, so that a test can tell how often, and how much, came back.

CUDA kernels that ask for nothing but `cuda.grid(1)` and local arrays run too: compiled for the
CPU, item by item.
"""

import ast
import contextlib
import functools
import inspect
import sys
import textwrap
import types

import numba
import numpy as np
import scipy.fft
import scipy.ndimage

from fastdiff.kernels import jit

# What the tests may use of CuPy, each with the arguments of NumPy's function of that name.
_FUNCTIONS = (
    "abs", "arange", "argwhere", "ascontiguousarray", "broadcast_to", "concatenate", "copyto",
    "divide", "empty", "empty_like", "exp", "eye", "flatnonzero", "full", "full_like",
    "gradient", "isfinite", "logical_not", "maximum", "may_share_memory", "median", "minimum",
    "ones", "outer", "reciprocal", "sqrt", "subtract", "where", "zeros", "zeros_like",
)  # fmt: skip
_TRANSFORMS = ("fft", "rfft", "rfft2", "irfft2")

copies = []
"""Shape of each copy to the memory of the CPU."""


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):  # the name that CuPy has
    """An array on the pretended device."""

    device = types.SimpleNamespace(id=0)

    def __init__(self, values):
        self._values = values

    def get(self):
        copies.append(self._values.shape)
        return self._values.copy()

    def __array__(self, *_args, **_options):
        raise TypeError("implicit conversion to a NumPy array is not allowed: call `.get()`")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if method != "__call__" or options.keys() - {"out", "dtype", "casting"}:
            return NotImplemented
        return _wrapped(ufunc(*_values(inputs), **_values(options)))

    def __array_function__(self, function, _types, arguments, options):
        if function is np.asarray:  # by `like=`
            return asarray(*arguments, **options)
        if function.__name__ not in _FUNCTIONS:
            return NotImplemented
        return _wrapped(function(*_values(arguments), **_values(options)))

    def __getitem__(self, key):
        return _wrapped(self._values[_values(key)])

    def __setitem__(self, key, value):
        self._values[_values(key)] = _values(value)

    def __len__(self):
        return len(self._values)

    def __bool__(self):
        return bool(self._values)

    def __float__(self):
        return float(self._values)

    def __int__(self):
        return int(self._values)

    @property
    def __cuda_array_interface__(self):
        return self._values.__array_interface__ | {"version": 3}

    @property
    def flags(self):
        names = "c_contiguous", "f_contiguous", "owndata"
        return types.SimpleNamespace(**{n: getattr(self._values.flags, n) for n in names})

    @property
    def T(self):  # the name that CuPy has
        return _wrapped(self._values.T)

    @property
    def real(self):
        return _wrapped(self._values.real)

    @property
    def imag(self):
        return _wrapped(self._values.imag)


def _attribute(name):
    return property(lambda self: getattr(self._values, name))


def _method(name):
    def call(self, *arguments, **options):
        if options.keys() & {"where", "initial"}:
            raise TypeError(f"{name} got an unexpected keyword argument")
        return _wrapped(getattr(self._values, name)(*_values(arguments), **_values(options)))

    return call


def _sort(self, axis=-1):
    """In place; CuPy's takes no kind."""
    self._values.sort(axis=axis)


ndarray.sort = _sort
for _name in ("dtype", "ndim", "shape", "size"):
    setattr(ndarray, _name, _attribute(_name))
for _name in (
    "all", "any", "astype", "conj", "copy", "max", "mean", "min", "ravel", "reshape", "sum",
    "swapaxes", "take", "transpose",
):  # fmt: skip
    setattr(ndarray, _name, _method(_name))


def _values(given):
    """NumPy arrays of those on the device; TypeError for what never was there."""
    if isinstance(given, ndarray):
        return given._values
    if isinstance(given, np.ndarray):
        raise TypeError(f"unsupported type {type(given)}: `cupy.asarray` brings it to the device")
    if isinstance(given, (tuple, list)):
        return type(given)(_values(each) for each in given)
    if isinstance(given, dict):
        return {name: _values(each) for name, each in given.items()}
    return given


def _wrapped(made):
    if isinstance(made, (np.ndarray, np.generic)):
        return ndarray(np.asarray(made))  # a sum is an array without axes, as in CuPy
    if isinstance(made, (tuple, list)):
        return type(made)(_wrapped(each) for each in made)
    return made


def _on_device(function):
    def call(*arguments, **options):
        return _wrapped(function(*_values(arguments), **_values(options)))

    return call


def asarray(x, dtype=None):
    """To the device."""
    if isinstance(x, ndarray):
        return x if dtype is None else x.astype(dtype)
    return ndarray(np.array(x, dtype=dtype))


_raises = [False]


@contextlib.contextmanager
def _errstate(*, linalg):
    _raises.append(linalg == "raise")
    try:
        yield
    finally:
        _raises.pop()


def _cholesky(a):
    """Factors of positive matrices; as in CuPy what means nothing, and no error, for others."""
    try:
        return np.linalg.cholesky(a)
    except np.linalg.LinAlgError:
        if _raises[-1]:
            raise
        return np.ones_like(a)


def _posv(a, b):
    """Solve positive systems (n, k, k), one right-hand side (n, k) each."""
    factor = _cholesky(a)
    forward = np.linalg.solve(factor, b[..., None])
    return np.linalg.solve(factor.swapaxes(-1, -2), forward)[..., 0]


@functools.cache
def _loop_of(kernel):
    """A CUDA kernel as a compiled loop over its items, of which `cuda.grid(1)` is the number."""

    class Loop(ast.NodeTransformer):
        def visit_Call(self, node):  # the names that ast wants
            if ast.unparse(node) == "cuda.grid(1)":
                return ast.Name("_item", ast.Load())
            if ast.unparse(node.func) == "cuda.local.array":
                node.func = ast.parse("np.empty", mode="eval").body
            return self.generic_visit(node)

        def visit_Return(self, _node):
            return ast.Continue()

        def visit_For(self, node):
            if any(isinstance(each, ast.Return) for each in ast.walk(node)):
                raise RuntimeError(f"{kernel.__name__} returns from within a loop")
            return self.generic_visit(node)

    tree = Loop().visit(ast.parse(textwrap.dedent(inspect.getsource(kernel.function))))
    function = tree.body[0]
    function.decorator_list = []
    function.args.args.insert(0, ast.arg("_n"))
    loop = ast.parse("for _item in range(_n): pass").body[0]
    loop.body, function.body = function.body, [loop]
    namespace = dict(kernel.function.__globals__)
    exec(compile(ast.fix_missing_locations(tree), __file__, "exec"), namespace)
    return numba.njit(namespace[function.name], error_model="numpy")


def _transform(function):
    def call(x, *arguments, axis=None, overwrite_x=False, **options):
        if options.keys() - {"n", "s", "axes", "norm"}:
            raise TypeError(f"{function.__name__} got an unexpected keyword argument, {options}")
        made = function(x, *arguments, **options | ({} if axis is None else {"axis": axis}))
        return np.asfortranarray(made) if axis == 0 else made

    return call


def _launch(kernel, grid, block, *arguments, stream=0):
    if type(grid) is not int:
        raise ValueError(f"grid is a {type(grid)}; it must be an int")
    for array in arguments:
        if isinstance(array, np.ndarray):
            raise TypeError(f"a kernel for a GPU got an array of the CPU, {array.shape}")
    _loop_of(kernel)(grid * block, *_values(arguments))


def install(monkeypatch):
    """Make `import cupy` find the stand-in; its module."""
    cupy, fft = types.ModuleType("cupy"), types.ModuleType("cupy.fft")
    for name in _FUNCTIONS:
        setattr(cupy, name, _on_device(getattr(np, name)))
    cupy.ndarray, cupy.asarray, cupy.fft = ndarray, asarray, fft
    fft.fftshift = _on_device(np.fft.fftshift)
    linalg, lapack = types.ModuleType("cupy.linalg"), types.ModuleType("cupyx.lapack")
    cupy.linalg, linalg.cholesky = linalg, _on_device(_cholesky)
    lapack.posv = _on_device(_posv)
    cupyx, cupyx_scipy = types.ModuleType("cupyx"), types.ModuleType("cupyx.scipy")
    cupyx.errstate = _errstate
    scipy_fft = types.ModuleType("cupyx.scipy.fft")
    scipy_ndimage = types.ModuleType("cupyx.scipy.ndimage")
    for name in _TRANSFORMS:
        setattr(scipy_fft, name, _on_device(_transform(getattr(scipy.fft, name))))
    scipy_fft.next_fast_len = scipy.fft.next_fast_len
    for name in ("label", "maximum_filter"):
        setattr(scipy_ndimage, name, _on_device(getattr(scipy.ndimage, name)))
    cupy.cuda = types.SimpleNamespace(
        get_current_stream=lambda: types.SimpleNamespace(ptr=0),
        Device=lambda: ndarray.device,
    )
    monkeypatch.setattr(jit.CudaKernel, "launch", _launch)
    for module in (cupy, fft, linalg, cupyx, lapack, cupyx_scipy, scipy_fft, scipy_ndimage):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    copies.clear()
    return cupy
