"""One object with one ``run``, for every trained network and every back end."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import pathlib
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdiff.core.threads import check_threads
from fastdiff.kernels import jit

if TYPE_CHECKING:
    from .onnxruntime import Session

__all__ = ["WEIGHTS", "Model", "list_models", "load_model"]

WEIGHTS = pathlib.Path(__file__).parent / "weights"
"""Folder of the models that come with the package, NAME.onnx and its card NAME.md."""

# Back end -> the module that has its `unavailable(backend)` and `Session(path, backend, threads)`.
# "auto" takes the first that starts; the CPU comes last.
BACKENDS = {
    "onnxruntime-cuda": "fastdiff.models.onnxruntime",
    "onnxruntime-cpu": "fastdiff.models.onnxruntime",
}

_log = logging.getLogger("fastdiff.models")
_lock = threading.Lock()
_sessions: dict[tuple[Any, ...], Session] = {}
_reported: set[str] = set()


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def unavailable(backend: str) -> str | None:
    """Why a back end cannot run in this installation, or None if it can be tried."""
    reason: str | None = importlib.import_module(BACKENDS[backend]).unavailable(backend)
    return reason


class Model:
    """A trained network that is ready to run; made by `load_model`.

    Attributes
    ----------
    name : str
        Stem of the file's name.
    path : pathlib.Path
        The ONNX file.
    backend : str
        What runs it: "onnxruntime-cpu" or "onnxruntime-cuda".
    threads : int
        CPU threads of one `run`.
    metadata : dict of str to str
        The file's own metadata: contract of input and output, normalisation, provenance.
    """

    def __init__(self, path: pathlib.Path, backend: str, threads: int, session: Session):
        self.name = path.stem
        self.path = path
        self.backend = backend
        self.threads = threads
        self.metadata: dict[str, str] = dict(session.metadata)
        self._session = session
        self._process = os.getpid()

    def __repr__(self) -> str:
        return f"<Model {self.name!r} on {self.backend}, {self.threads} threads>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process opens the file for itself.
        return functools.partial(load_model, threads=self.threads), (self.path, self.backend)

    def run(self, array: ArrayLike) -> NDArray[Any]:
        """Run the network.

        Parameters
        ----------
        array : array_like
            Input as the file's metadata describe it, for example (n, 2, h, w) for a
            TransiNet; converted to the dtype of the model.

        Returns
        -------
        ndarray
            First output of the network. Safe to call from several threads.

        Raises
        ------
        TypeError
            If `array` does not hold real numbers.
        ValueError
            If its shape is not one that the model takes.
        """
        array = np.asarray(array)
        if array.dtype.kind not in "fiu":
            raise TypeError(
                f"`array` has dtype {array.dtype}; the model {self.name!r} takes real numbers "
                f"({self._session.input_dtype}): convert it first"
            )
        self._check_shape(array.shape)
        if self._process != os.getpid():
            self._session = _open(self.path, self.backend, self.threads)
            self._process = os.getpid()
        return self._session.run(np.ascontiguousarray(array, self._session.input_dtype))

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        wanted = self._session.input_shape
        stride = int(self.metadata.get("fastdiff.stride", 1))
        fits = len(shape) == len(wanted) and all(
            got == want for got, want in zip(shape, wanted, strict=True) if isinstance(want, int)
        )
        if not fits or (len(shape) == 4 and any(side % stride for side in shape[2:])):
            sides = f" with h and w multiples of {stride}" if stride > 1 else ""
            axes = ", ".join(str(side) for side in wanted)
            raise ValueError(
                f"`array` has shape {shape}; the model {self.name!r} takes ({axes}){sides}"
            )


def list_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.stem for path in WEIGHTS.glob("*.onnx"))


def load_model(
    name_or_path: str | os.PathLike[str],
    backend: str = "auto",
    *,
    threads: int | None = None,
    kind: str | None = None,
) -> Model:
    """Open a trained network.

    Parameters
    ----------
    name_or_path : str or path
        Name of a model that comes with the package (`list_models`), such as
        "transinet-lite", or the path of an ONNX file.
    backend : str
        "onnxruntime-cpu", "onnxruntime-cuda", or "auto": CUDA where it starts, else the CPU.
        A machine that has a CUDA device but cannot use it falls back to the CPU with one
        WARNING, which says why. A back end asked for by name never falls back.
    threads : int, optional
        CPU threads of one run; all cores by default.
    kind : str, optional
        Refuse a file whose metadata "fastdiff.kind" say something else.

    Returns
    -------
    Model
        With `run`, `backend` and `metadata`. The opened session is kept: loading the same
        file again costs nothing until the file changes.

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If the name or the back end is unknown, the file is not an ONNX model, or it is a
        model of another kind.
    RuntimeError
        If a back end that was asked for by name does not run here.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(
            f"backend is {backend!r}; known back ends are 'auto', "
            + ", ".join(repr(known) for known in BACKENDS)
        )
    threads = check_threads(threads)
    path = _resolve(name_or_path)
    if backend == "auto":
        used, session = _open_first(path, threads)
    else:
        used, session = backend, _open(path, backend, threads)
    found = session.metadata.get("fastdiff.kind")
    if kind is not None and found != kind:
        says = f"is a model of kind {found!r}" if found else "does not say of what kind it is"
        raise ValueError(
            f"{path} {says} (metadata 'fastdiff.kind'); a model of kind {kind!r} is needed here"
        )
    return Model(path, used, threads, session)


def _resolve(name_or_path: str | os.PathLike[str]) -> pathlib.Path:
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise TypeError(
            f"name_or_path is a {type(name_or_path).__name__}; it must be the name of a model "
            "or the path of an ONNX file"
        )
    text = os.fspath(name_or_path)
    if text in list_models():
        return WEIGHTS / f"{text}.onnx"
    path = pathlib.Path(text).expanduser()
    if path.is_file():
        return path.resolve()
    if isinstance(name_or_path, str) and path.name == text and path.suffix != ".onnx":
        names = ", ".join(list_models()) or "none"
        raise ValueError(
            f"there is no model named {text!r}; the models that come with fastdiff are: {names} "
            "(in " + str(WEIGHTS) + "). For a file of your own give its path, NAME.onnx"
        )
    what = "is a folder" if path.is_dir() else "does not exist"
    raise FileNotFoundError(f"the model file {path} {what}; give the path of an ONNX file")


def _open(path: pathlib.Path, backend: str, threads: int) -> Session:
    module = importlib.import_module(BACKENDS[backend])
    reason = module.unavailable(backend)
    if reason is not None:
        raise RuntimeError(f"backend {backend!r} was asked for, but {reason}")
    stat = path.stat()
    # The threads of a session do not survive a fork: a child opens its own, and leaves the
    # inherited ones alone (to close them would wait for their threads for ever).
    key = (os.getpid(), path, stat.st_mtime_ns, stat.st_size, backend, threads)
    with _lock:
        if key not in _sessions:
            for old in [k for k in _sessions if k[:2] == key[:2] and k[2:4] != key[2:4]]:
                del _sessions[old]
            _sessions[key] = module.Session(path, backend, threads)
        return _sessions[key]


def _open_first(path: pathlib.Path, threads: int) -> tuple[str, Session]:
    *preferred, last = BACKENDS
    for backend in preferred:
        reason = unavailable(backend)
        # Without a device the CPU is no fallback but what the machine has.
        tell = reason is None or jit.cuda_available()
        if reason is None:
            try:
                return backend, _open(path, backend, threads)
            except RuntimeError as error:
                reason = str(error)
        if tell:
            with _lock:
                first = reason not in _reported
                _reported.add(reason)
            if first:
                _log.warning("falling back from %s to %s: %s", backend, last, reason)
    return last, _open(path, last, threads)
