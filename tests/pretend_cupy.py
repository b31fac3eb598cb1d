"""A stand-in for CuPy without a GPU: its arrays never become NumPy's behind one's back.

As in CuPy, functions and operators take arrays of this kind and scalars; a NumPy array with axes,
or a function that CuPy does not have, is a TypeError. `asarray` copies to the "device" and `get`
back; `copies` lists the latter, so that a test can tell how often, and how much, came back.

CUDA kernels run too: compiled for the CPU, block after block and thread after thread. They may ask
for their place in the grid, for local and shared arrays and for atomic additions; barriers
(`cuda.syncthreads()`) must stand outside loops and branches, and a kernel with one ends at its end.
"""

import ast
import contextlib
import copy
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
    "cumsum", "divide", "empty", "empty_like", "exp", "eye", "flatnonzero", "full", "full_like",
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
        values = [_values(each) for each in given]
        return type(given)(*values) if hasattr(given, "_fields") else type(given)(values)
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


_NAMES = {
    "cuda.grid(1)": "_block * _n_threads + _thread",
    "cuda.blockIdx.x": "_block",
    "cuda.threadIdx.x": "_thread",
    "cuda.gridDim.x": "_n_blocks",
    "cuda.blockDim.x": "_n_threads",
    "cuda.local.array": "np.empty",
    "cuda.shared.array": "np.empty",
}


class _OnCpu(ast.NodeTransformer):
    """What stands in for CUDA's names where blocks and threads run one after the other."""

    def visit(self, node):
        if isinstance(node, (ast.Call, ast.Attribute)) and ast.unparse(node) in _NAMES:
            return ast.parse(_NAMES[ast.unparse(node)], mode="eval").body
        return super().visit(node)

    def visit_Expr(self, node):  # the names that ast wants
        if ast.unparse(node).startswith("cuda.atomic.add("):
            array, place, value = map(self.visit, node.value.args)
            return ast.AugAssign(ast.Subscript(array, place, ast.Store()), ast.Add(), value)
        return self.generic_visit(node)

    def visit_Return(self, _node):
        return ast.Continue()

    def visit_For(self, node):
        if any(isinstance(each, ast.Return) for each in ast.walk(node)):
            raise RuntimeError("returns from within a loop")
        return self.generic_visit(node)


def _phases(function):
    """(statements that make shared arrays, lists of those between `cuda.syncthreads()`)."""
    shared, phases, names = [], [[]], []
    for statement in function.body:
        text = ast.unparse(statement)
        if text == "cuda.syncthreads()":
            phases.append(list(names))  # each thread has its names again
        elif "cuda.syncthreads" in text:
            raise RuntimeError(f"{function.name} has a barrier in a loop or branch")
        elif "cuda.shared.array" in text:
            shared.append(statement)
        else:
            phases[-1].append(statement)
            if isinstance(statement, ast.Assign) and "[" not in text.partition(" = ")[0]:
                names.append(statement)
    if len(phases) > 1 and any(isinstance(each, ast.Return) for each in ast.walk(function)):
        raise RuntimeError(f"{function.name} has a barrier and returns")
    return shared, phases


@functools.cache
def _loop_of(kernel):
    """A CUDA kernel as a compiled loop over its blocks and, between barriers, their threads."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kernel.function)))
    function = tree.body[0]
    function.decorator_list = []
    function.args.args[:0] = ast.arg("_n_blocks"), ast.arg("_n_threads")
    shared, phases = _phases(function)
    blocks = ast.parse("for _block in range(_n_blocks): pass").body[0]
    blocks.body = [_OnCpu().visit(statement) for statement in shared]
    for phase in phases:
        threads = ast.parse("for _thread in range(_n_threads): pass").body[0]
        threads.body = [_OnCpu().visit(copy.deepcopy(statement)) for statement in phase]
        blocks.body.append(threads)
    function.body = [blocks]
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
    _loop_of(kernel)(grid, block, *_values(arguments))


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
    for name in ("label", "maximum_filter", "uniform_filter"):
        setattr(scipy_ndimage, name, _on_device(getattr(scipy.ndimage, name)))
    cupy.cuda = types.SimpleNamespace(
        get_current_stream=lambda: types.SimpleNamespace(ptr=0),
        Device=lambda: ndarray.device,
        is_available=lambda: True,
    )
    monkeypatch.setattr(jit.CudaKernel, "launch", _launch)
    for module in (cupy, fft, linalg, cupyx, lapack, cupyx_scipy, scipy_fft, scipy_ndimage):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    copies.clear()
    return cupy
