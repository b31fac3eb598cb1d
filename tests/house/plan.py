"""The plan: rooms and their floors, lowest first, and how long things may be."""

from __future__ import annotations

# Room -> floor. A room is a folder (or a file) of fastdiff/, and of kernels/, which is installed as
# fastdiff.kernels. A file imports its own room and rooms of lower floors. A new room is a new line.
ROOMS = {
    "kernels.jit": 0.0,
    "kernels.declare": 0.1,
    "kernels.linalg": 0.2,
    "kernels.image": 0.3,
    "kernels.cube": 0.3,
    "kernels.curve": 0.3,
    "kernels.synth": 0.3,
    "core": 1,
    "stars": 2,
    "models": 2,
    "simulate": 2,
    "evaluate": 2,
    "defects": 3,
    "matching": 3,
    "difference": 4,
    "cubes": 4,
    "lightcurves": 4,
    "detect": 4,
    "training": 5,
    "io": 5,
    "plots": 5,
    "pipeline": 6,
    "cli": 7,
}
ROOF = "fastdiff/__init__.py"  # the public names: imports anything
REGISTRY = "fastdiff/difference/registry.py"  # the only file that names the methods, by strings
NUMBA = "kernels/jit.py"  # the only file that imports Numba
ARRAYS = "fastdiff/core/arrays.py"  # the only file above the kernels that asks for kinds of arrays
NOT_LOOPS = {"is_cuda"}  # end like compiled loops, and are torch's

MAX_LINES = 60  # of a function, without its docstring
MAX_FILE = 500
MAX_ARGUMENTS = 8  # positional ones, without self; keyword-only ones are free
# Functions of one item and loops get every array as an argument: of 228 such functions, 33 had more
# than 8 and 9 more than 12 when this was written (items: 13 and 2 of 157; loops over ranges, which
# begin with (start, stop): 15 and 6 of 33). Beyond 12, scalars belong in one small array.
MAX_KERNEL_ARGUMENTS = 12
MIN_TESTED = 40  # lines of code from which a module needs a test file
# "path::function", "path::Class.method", or "path" of a long file -> why it may break a limit.
EXCEPTIONS: dict[str, str] = {
    "fastdiff/cli/subtract.py::subtract": "the options of the command are its parameters",
    "fastdiff/cli/train.py::train": "the options of the command are its parameters",
    "fastdiff/core/arrays.py": "the one door: all that asks for kinds of arrays stands there",
    "benchmarks/quality_transinet.py::ztf": "one table of a card, row by row",
    "kernels/declare.py": "the declaration and all that is made from it",
}
# Module or folder -> the test file in which it is tested through what calls it.
TESTED_THROUGH = {
    "kernels/cube/ridge.py": "tests/kernels/cube/test_single.py",
    "fastdiff/cubes": "tests/cubes/test_cpm.py",
    "fastdiff/models/onnxruntime.py": "tests/models/test_model.py",
}

# Decorators of compiled functions, from kernels/jit.py and kernels/declare.py.
KERNEL_MARKS = {"item", "cpu_loop", "cuda_kernel", "kernel"}
CUDA_MARKS = {"cuda_kernel", "kernel"}  # those that make a CUDA kernel
KINDS = {"ndarray", "MaskedArray", "Tensor"}  # isinstance of these asks for the kind of an array
LIBRARY = ("kernels", "fastdiff")
AROUND = ("tests", "benchmarks", "examples")
