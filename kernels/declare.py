"""One declaration of a kernel; its loops for the CPU and for CUDA are made from it.

    @kernel(
        over="n, ny, nx",
        image="float32|float64 (n, ny, nx)",
        gain="float64",
        out="out float32 (n, ny, nx)",
    )
    def scaled(frame, y, first, last, image, gain, out):
        for x in range(first, last):
            out[frame, y, x] = gain * image[frame, y, x]

    scaled(image, gain, out, threads=2)

The function is plain arithmetic over a range of the last axis: a row on the CPU, where loops over
rows vectorise, one pixel on CUDA. Without ``first, last`` among its parameters it is of one item.
A call with NumPy's arrays runs the CPU loop on threads (`jit.run`), one with CuPy's the CUDA loop.

The loops are written as Python source, at first use, into `jit.CACHE_FOLDER`: there tracebacks,
profilers and Numba's cache find them. Where no folder can be written they live in memory.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import hashlib
import inspect
import itertools
import linecache
import math
import os
import pathlib
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from . import jit

LOCAL_BYTES = 1024
"""Scratch of a fixed size up to this is memory of a CUDA thread's own (`cuda.local.array`).

It costs no launch more, and the hardware lays it out so that neighbouring threads share cache
lines. The driver reserves it for every thread that the device can hold, some 270,000 of them:
larger scratch, and what depends on a shape, is a row of an array that the launch allocates.
"""

_RESERVED = {"np", "cuda", "start", "stop", "item", "first", "last"}  # names in written loops
_TYPE = re.compile(r"(?:(out|inout) )?([\w|]+)(?: ?\((.*)\))?")
_lock = threading.RLock()


@dataclasses.dataclass(frozen=True)
class Argument:
    """What a declaration says of an argument or of a scratch array.

    `dtypes` are the choices; of a scratch array it may be the name of the argument that has the
    same. `shape` has an expression for each axis; None is a scalar. `role` is "in", "out" or
    "inout".
    """

    name: str
    role: str
    dtypes: tuple[str, ...]
    shape: tuple[str, ...] | None

    @classmethod
    def parse(cls, name: str, text: str) -> Argument:
        """From ``"[out |inout ]DTYPE[|DTYPE] [(axis, ...)]"``."""
        found = _TYPE.fullmatch(text)
        if found is None:
            raise TypeError(f'`{name}` is "{text}"; it must be like "out float32 (ny, nx)"')
        role, dtypes, shape = found.groups()
        return cls(
            name, role or "in", tuple(dtypes.split("|")), None if shape is None else _split(shape)
        )


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _names(expressions: Iterable[str]) -> set[str]:
    """Variables of Python expressions."""
    trees = (ast.walk(ast.parse(each, mode="eval")) for each in expressions)
    return {node.id for node in itertools.chain(*trees) if isinstance(node, ast.Name)}


def _factor(expression: str) -> str:
    """An expression as a factor of a product."""
    return expression if expression.isalnum() or expression.isidentifier() else f"({expression})"


def _product(expressions: Sequence[str]) -> str:
    return " * ".join(map(_factor, expressions)) or "1"


def _indices(axes: Sequence[str]) -> str:
    """Places on the axes of the item of a number, the last axis fastest."""
    places = []
    for k, axis in enumerate(axes):
        inner = axes[k + 1 :]
        place = "item" if not inner else f"item // {_factor(_product(inner))}"
        places.append(place if k == 0 else f"{place} % {_factor(axis)}")
    return ", ".join(places)


class Kernel:
    """What `kernel` makes of a function.

    Attributes
    ----------
    name, module : str
        Of the function; the module as seen from the folder of the kernels.
    over : tuple of str
        Length of each axis.
    arguments, scratch : tuple of Argument
    outputs : tuple of str
        Names of the arguments that are written.
    globals : dict
        Names of the function's module, some of which may be constants in lengths.
    """

    def __init__(
        self,
        function: Callable[..., None],
        over: str,
        scratch: dict[str, str],
        arguments: dict[str, str],
    ):
        functools.update_wrapper(self, function, updated=())
        self.name = function.__name__
        self.module = function.__module__.removeprefix(f"{__package__}.")
        self.globals = getattr(function, "cpu", function).__globals__
        self.over = _split(over)
        self.arguments = tuple(itertools.starmap(Argument.parse, arguments.items()))
        self.scratch = tuple(itertools.starmap(Argument.parse, scratch.items()))
        self.outputs = tuple(a.name for a in self.arguments if a.role != "in")
        self._scalars = [
            (k, np.dtype(a.dtypes[0]).type)
            for k, a in enumerate(self.arguments)
            if a.shape is None and len(a.dtypes) == 1
        ]
        self._places: dict[str, str] = {}  # of the lengths of axes, by name
        for a in self.arguments:
            for k, axis in enumerate(a.shape or ()):
                if axis.isidentifier() and axis not in arguments:
                    self._places.setdefault(axis, f"{a.name}.shape[{k}]")
        self._check(function)
        self._first_array = next(k for k, a in enumerate(self.arguments) if a.shape)

    def _check(self, function: Callable[..., None]) -> None:
        """TypeError for a declaration that does not fit its function."""
        declared = (*self.arguments, *self.scratch)
        names = [each.name for each in declared]
        parameters = list(inspect.signature(function).parameters)
        own, rest = parameters[: -len(names)], parameters[-len(names) :]
        if rest != names:
            raise TypeError(
                f"`{self.name}` ends with the parameters {', '.join(rest)}; they must be as "
                f"declared: {', '.join(names)}"
            )
        self.has_range = own[-2:] == ["first", "last"]
        self._item_names = own[:-2] if self.has_range else own
        if len(self._item_names) != len(self.over) - self.has_range:
            raise TypeError(
                f"`{self.name}` begins with the parameters {', '.join(own)}; over {len(self.over)} "
                "axes it must have an index for each, or `first, last` for the last one"
            )
        if reserved := _RESERVED & {*self._item_names, *names}:
            raise TypeError(f"`{self.name}` uses the names {reserved}, which the loops have")
        for each in declared:
            for dtype in each.dtypes:
                if dtype not in names:
                    np.dtype(dtype)
        lengths = [*self.over, *(each for s in self.scratch for each in s.shape)]
        self._find_constants(lengths)

    def _find_constants(self, lengths: Iterable[str]) -> None:
        """Values of the names in lengths that are constants of the module; TypeError for others."""
        known = {*self._places, *(a.name for a in self.arguments if a.shape is None)}
        unknown = _names(lengths) - known
        if missing := unknown - self.globals.keys():
            raise TypeError(
                f"`{self.name}` has the lengths {', '.join(sorted(missing))}; each must "
                "be an axis of an array, a scalar argument, or a constant above the kernel"
            )
        self._constants = {name: self.globals[name] for name in sorted(unknown)}

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    # ------------------------------------------------------------------ what runs

    def __call__(self, *arguments: Any, threads: int | None = None) -> None:
        """Run on the CPU, or for arrays of CuPy on their GPU.

        Parameters
        ----------
        *arguments
            As declared, without scratch.
        threads : int, optional
            CPU threads; all cores by default.
        """
        if jit.on_cpu(arguments[self._first_array]):
            arguments = self._typed(arguments)
            axes, _ = self._made["sizes"](*arguments)
            rows = axes[:-1] if self.has_range and len(axes) > 1 else axes
            jit.run(self.cpu, math.prod(rows), threads, *arguments)
        else:
            self.launch(*arguments)

    def launch(self, *arguments: Any) -> None:
        """Run the CUDA loop, a thread an item, whatever the arrays are.

        On CuPy's, on its current stream; on NumPy's in Numba's simulator, and on a GPU too, to
        which Numba copies them and back.
        """
        arguments = self._typed(arguments)
        axes, scratch = self._made["sizes"](*arguments)
        if n_items := math.prod(axes):
            like = arguments[self._first_array]
            own = (np.empty_like(like, dtype, order="C", shape=shape) for shape, dtype in scratch)
            jit.launch(self.cuda, n_items, *arguments, *own)

    def _typed(self, arguments: Sequence[Any]) -> list[Any]:
        """Arguments with the scalars of their declared types: others would compile again."""
        typed = list(arguments)
        for k, dtype in self._scalars:
            typed[k] = dtype(typed[k])
        return typed

    @property
    def cpu(self) -> Callable[..., None]:
        """The compiled CPU loop, ``cpu(start, stop, *arguments)``."""
        return self._made["cpu"]

    @property
    def cuda(self) -> jit.CudaKernel:
        """The CUDA loop; scratch that is no thread's own comes after the arguments."""
        return self._made["cuda"]

    def ptx(self, compute_capability: tuple[int, int]) -> dict[str, str]:
        """PTX of the CUDA loop for each choice of dtypes; needs no GPU.

        Arguments that are declared with the same choices have the same dtype.
        """
        choices = sorted({a.dtypes for a in self.arguments if len(a.dtypes) > 1})
        texts = {}
        for picked in itertools.product(*choices):
            dtypes = dict(zip(choices, picked, strict=True))
            of = {a.name: dtypes.get(a.dtypes, a.dtypes[0]) for a in self.arguments}
            example = [
                np.empty((1,) * len(a.shape), of[a.name])
                if a.shape
                else np.dtype(of[a.name]).type(0)
                for a in self.arguments
            ]
            example += [
                np.empty((1,) * (1 + len(s.shape)), of.get(s.dtypes[0], s.dtypes[0]))
                for s in self._of_launch
            ]
            texts[", ".join(picked) or "as declared"] = self.cuda.ptx(example, compute_capability)
        return texts

    # ------------------------------------------------------------------ how the loops are made

    @functools.cached_property
    def source(self) -> str:
        """The loops, in Python."""
        loops = self._sizes_source(), self._cpu_source(), self._cuda_source()
        return self._head + "".join("\n\n" + "\n".join(lines) + "\n" for lines in loops)

    @property
    def _head(self) -> str:
        """The version of the function's file: Numba's cache looks at the file of the loop only."""
        with contextlib.suppress(OSError, TypeError):
            version = hashlib.sha256(pathlib.Path(inspect.getfile(self.__wrapped__)).read_bytes())
            return (
                f'"""Loops of `{self.name}`, written by fastdiff/kernels/declare.py.\n\n'
                f'For {self.__module__}, sha256 {version.hexdigest()}.\n"""\n'
            )
        return f'"""Loops of `{self.name}`."""\n'

    @property
    def _made(self) -> dict[str, Any]:
        """The loops; they are made by the thread that first asks for one."""
        made = self.__dict__.get("_loops")
        if made is None:
            with _lock:
                made = self.__dict__.get("_loops") or self._make()
                self._loops = made
        return made

    def _make(self) -> dict[str, Any]:
        item = jit.body(self.__wrapped__)
        made = self._run_source({"np": np, "cuda": jit.cuda, f"{self.name}_item": item})
        return {
            "sizes": made[f"{self.name}_sizes"],
            "cpu": jit.cpu_loop(made[f"{self.name}_cpu"]),
            "cuda": jit.cuda_kernel(made[f"{self.name}_cuda"]),
        }

    def _run_source(self, names: dict[str, Any]) -> dict[str, Any]:
        """What the source defines."""
        path = _stored(str(self), self.source)
        namespace = {"__name__": self.__module__, **self._constants, **names}
        exec(compile(self.source, path, "exec"), namespace)
        return namespace

    @functools.cached_property
    def _of_launch(self) -> list[Argument]:
        """Scratch that on CUDA is not memory of a thread's own: large, or of a size unknown."""
        arguments, found = {a.name for a in self.arguments}, []
        for s in self.scratch:
            fixed = s.dtypes[0] not in arguments and _names(s.shape) <= self._constants.keys()
            if fixed:
                lengths = (eval(each, dict(self._constants)) for each in s.shape)
                fixed = np.dtype(s.dtypes[0]).itemsize * math.prod(lengths) <= LOCAL_BYTES
            if not fixed:
                found.append(s)
        return found

    def _lengths(self, expressions: Iterable[str]) -> list[str]:
        """Lines that give the names in the expressions."""
        used = _names(expressions)
        return [f"    {name} = {at}" for name, at in self._places.items() if name in used]

    def _dtype(self, scratch: Argument) -> str:
        dtype = scratch.dtypes[0]
        if dtype in (a.name for a in self.arguments):
            return f"{dtype}.dtype"
        name = np.dtype(dtype).name
        return "np.bool_" if name == "bool" else f"np.{name}"

    def _along_row(self, scratch: Argument) -> bool:
        """Whether the items of a row share it, each in a place of its own."""
        return self.has_range and self.over[-1] in scratch.shape

    def _sizes_source(self) -> list[str]:
        names = ", ".join(a.name for a in self.arguments)
        rows, items = _product(self.over[:-1]), _product(self.over)
        of_scratch = [
            f"(({rows if self._along_row(s) else items}, {', '.join(s.shape)}), {self._dtype(s)}),"
            for s in self._of_launch
        ]
        expressions = [*self.over, *(e for s in self._of_launch for e in s.shape)]
        return [
            f"def {self.name}_sizes({names}):",
            '    """Lengths of the axes; shape and dtype of scratch that a launch allocates."""',
            *self._lengths(expressions),
            f"    return ({', '.join(self.over)},), ({' '.join(of_scratch)})",
        ]

    def _cpu_source(self) -> list[str]:
        names = [a.name for a in self.arguments]
        rows = self.over[:-1] if self.has_range else self.over
        passed = ", ".join((*names, *(s.name for s in self.scratch)))
        call = f"{self.name}_item({', '.join(self._item_names)}{', ' * bool(self._item_names)}"
        scratch = [
            f"    {s.name} = np.empty(({', '.join(s.shape)},), {self._dtype(s)})"
            for s in self.scratch
        ]
        if not rows:
            loop = [f"    {self.name}_item(start, stop, {passed})"]
        else:
            own = ", ".join(self._item_names)
            ends = f"0, {self.over[-1]}, " if self.has_range else ""
            if len(rows) == 1:
                loop = [f"    for {own} in range(start, stop):"]
            else:
                loop = [
                    "    for item in range(start, stop):",
                    f"        {own} = {_indices(rows)}",
                ]
            loop.append(f"        {call}{ends}{passed})")
        used = [
            *rows[1:],
            *(self.over[-1:] if self.has_range and rows else ()),
            *(e for s in self.scratch for e in s.shape),
        ]
        return [
            f"def {self.name}_cpu(start, stop, {', '.join(names)}):",
            f'    """Item: one of {" x ".join(rows or self.over)}."""',
            *self._lengths(used),
            *scratch,
            *loop,
        ]

    def _cuda_source(self) -> list[str]:
        names = [a.name for a in self.arguments]
        scratch = [s.name for s in self._of_launch]
        local = [
            f"    {s.name} = cuda.local.array(({', '.join(s.shape)},), {self._dtype(s)})"
            for s in self.scratch
            if s not in self._of_launch
        ]
        row = f"item // {_factor(self.over[-1])}"
        own = [*self._item_names, *(["first"] if self.has_range else [])]
        passed = [*self._item_names, *(["first", "first + 1"] if self.has_range else []), *names]
        for s in self.scratch:
            place = "" if s not in self._of_launch else row if self._along_row(s) else "item"
            passed.append(f"{s.name}[{place}]" if place else s.name)
        return [
            f"def {self.name}_cuda({', '.join(names + scratch)}):",
            f'    """Thread: one of {" x ".join(self.over)}."""',
            *self._lengths(self.over),
            *local,
            "    item = cuda.grid(1)",
            f"    if item < {_product(self.over)}:",
            f"        {', '.join(own)} = {_indices(self.over)}",
            f"        {self.name}_item({', '.join(passed)})",
        ]


class Pair(Kernel):
    """What `kernel` makes of a class: a kernel whose loops `cpu` and `cuda` are written by hand."""

    def __init__(
        self, loops: type, over: str, grid: tuple[str, int] | None, arguments: dict[str, str]
    ):
        self._blocks, self._block = grid or (None, None)
        super().__init__(loops, over, {}, arguments)

    def _check(self, function: type) -> None:
        names = [a.name for a in self.arguments]
        self.has_range = False
        for loop, wanted in ("cpu", ["start", "stop", *names]), ("cuda", names):
            own = list(inspect.signature(getattr(function, loop)).parameters)
            if own != wanted:
                raise TypeError(
                    f"`{self.name}.{loop}` has the parameters {', '.join(own)}; they must be "
                    f"{', '.join(wanted)}"
                )
        self._find_constants([*self.over, self._blocks or "1"])

    def launch(self, *arguments: Any) -> None:
        """Run the CUDA loop on the grid that the declaration gives."""
        arguments = self._typed(arguments)
        axes, n_blocks = self._made["sizes"](*arguments)
        if self._blocks is None:
            jit.launch(self.cuda, math.prod(axes), *arguments)
        elif math.prod(axes):
            jit.launch_blocks(self.cuda, n_blocks, self._block, *arguments)

    @functools.cached_property
    def source(self) -> str:
        """How many items and blocks there are, in Python."""
        return self._head + "\n\n" + "\n".join(self._sizes_source()) + "\n"

    def _sizes_source(self) -> list[str]:
        names, blocks = ", ".join(a.name for a in self.arguments), self._blocks or "0"
        return [
            f"def {self.name}_sizes({names}):",
            '    """Lengths of the axes; number of CUDA blocks."""',
            *self._lengths([*self.over, blocks]),
            f"    return ({', '.join(self.over)},), {blocks}",
        ]

    def _make(self) -> dict[str, Any]:
        made = {"sizes": self._run_source({})[f"{self.name}_sizes"]}
        for loop, compiled in ("cpu", jit.cpu_loop), ("cuda", jit.cuda_kernel):
            function = getattr(self.__wrapped__, loop)
            function.__name__ = f"{self.name}_{loop}"  # for tracebacks and profilers
            made[loop] = compiled(function)
        return made


def _stored(name: str, source: str) -> str:
    """Path of a file with the source; a name that `linecache` knows where none can be written.

    Processes may do so at the same time: each moves a whole file of the same content into place.
    The time of the file follows from its content, because Numba may tell versions by it.
    """
    if jit.CACHE_FOLDER is not None:
        path = jit.CACHE_FOLDER / f"{name}.py"
        try:
            if not path.is_file() or path.read_text() != source:
                _replace(path, source)
            return str(path)
        except OSError:
            pass
    path = f"<fastdiff {name}>"
    linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
    return path


def _replace(path: pathlib.Path, source: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(source)
        age = int(hashlib.sha256(source.encode()).hexdigest()[:7], 16)
        os.utime(temporary, (age, age))
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def kernel(
    *,
    over: str,
    scratch: dict[str, str] | None = None,
    grid: tuple[str, int] | None = None,
    **arguments: str,
) -> Callable[[Any], Kernel]:
    """Declare a kernel: the decorated function is its arithmetic.

    Its parameters are an index for each axis but the last, ``first, last`` (the range of the last
    axis to be done), the arguments and the scratch arrays, in the order of the declaration.
    Instead of ``first, last`` there may be an index of the last axis. Results must not depend on
    how ranges are cut: an item writes to places of its own.

    A kernel that has a shape of its own on CUDA (shared memory, a block for an item) is a class
    with two functions instead, ``cpu(start, stop, *arguments)`` and ``cuda(*arguments)``: loops
    over the same items, declared, called and checked like the others.

    Parameters
    ----------
    over : str
        Length of each axis, such as ``"n, ny, nx"``: Python expressions of axes of the arguments,
        scalar arguments and constants of the module. All but the last are shared out to threads
        on the CPU; the last one is, where it is alone.
    scratch : dict of str, optional
        Arrays for intermediate values, declared like arguments; their contents are undefined.
        On the CPU they are made once a range of items. On CUDA each thread has its own, but for
        those with the last axis in their shape: a row of pixels shares one, in which each
        touches its own places. The dtype may be the name of an argument, which has the same.
    grid : tuple of (str, int), optional
        Of a class: number of CUDA blocks, an expression like those of `over`, and the threads of
        each. By default there is a thread for each item.
    **arguments : str
        ``"float32 (ny, nx)"``: dtype and axes of an array; an axis has the length that the first
        array with its name has. ``"int64"``: a scalar. ``"float32|float64 (n,)"``: either;
        arguments with the same choices have the same dtype in `Kernel.ptx`. ``"out ..."`` is
        written, ``"inout ..."`` read and written.

    Returns
    -------
    decorator
        It makes a `Kernel` of the function, a `Pair` of a class.

    Raises
    ------
    TypeError
        If the parameters are not as declared, or a length is unknown.
    """

    def declared(function: Any) -> Kernel:
        if inspect.isclass(function):
            return Pair(function, over, grid, arguments)
        return Kernel(function, over, scratch or {}, arguments)

    return declared
