"""ONNX Runtime as a back end: sessions on the CPU and on CUDA devices."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PROVIDERS = {
    "onnxruntime-cpu": "CPUExecutionProvider",
    "onnxruntime-cuda": "CUDAExecutionProvider",
}
# Fatal only: what matters comes back as an exception and is said once.
_LOG_FATAL = 4
# What ONNX Runtime raises when a provider, not the file, is at fault.
_DEVICE_ERRORS = ("EPFail", "RuntimeException")


def unavailable(backend: str) -> str | None:
    """Why `backend` cannot run in this installation, or None if it can be tried."""
    try:
        import onnxruntime
    except ImportError as error:
        return f"onnxruntime cannot be imported ({error}); run `pip install onnxruntime`"
    if _PROVIDERS[backend] in onnxruntime.get_available_providers():
        return None
    return (
        f"this build of onnxruntime {onnxruntime.__version__} has no {_PROVIDERS[backend]}; "
        "run `pip uninstall onnxruntime` and `pip install onnxruntime-gpu`"
    )


class Session:
    """One ONNX file opened by ONNX Runtime; `run` may be called from several threads.

    Parameters
    ----------
    path : pathlib.Path
        The ONNX file.
    backend : str
        "onnxruntime-cpu" or "onnxruntime-cuda".
    threads : int
        CPU threads of one run.

    Raises
    ------
    ValueError
        If the file is not a readable ONNX model.
    RuntimeError
        If the CUDA provider does not start.
    """

    def __init__(self, path: pathlib.Path, backend: str, threads: int):
        import onnxruntime

        provider = _PROVIDERS[backend]
        if backend == "onnxruntime-cuda":
            # Finds the CUDA libraries of the nvidia-* packages, which are on no search path.
            onnxruntime.preload_dlls()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _LOG_FATAL
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=[provider]
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            if backend != "onnxruntime-cpu" and type(error).__name__ in _DEVICE_ERRORS:
                raise RuntimeError(f"{backend} cannot run {path}: {error}") from error
            raise ValueError(
                f"{path} is not an ONNX model that onnxruntime {onnxruntime.__version__} can "
                f"read ({error}); copy or export the file again, or update onnxruntime"
            ) from error
        # ONNX Runtime itself falls back to the CPU without an exception.
        if self._session.get_providers()[0] != provider:
            raise RuntimeError(
                f"{backend} did not start on this machine (ONNX Runtime gave "
                f"{', '.join(self._session.get_providers())} instead); see that the driver and "
                "the CUDA and cuDNN libraries fit this onnxruntime-gpu"
            )
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ValueError(
                f"{path} has {len(inputs)} inputs ({', '.join(i.name for i in inputs)}); "
                "a fastdiff model has one"
            )
        self.input_name: str = inputs[0].name
        self.input_shape: tuple[Any, ...] = tuple(inputs[0].shape)
        self.input_dtype = _numpy_dtype(inputs[0].type)
        self._output_names = [self._session.get_outputs()[0].name]

    def run(self, array: NDArray[Any]) -> NDArray[Any]:
        """First output of the model for a C-contiguous array of `input_dtype`."""
        output: NDArray[Any] = self._session.run(self._output_names, {self.input_name: array})[0]
        return output


def _numpy_dtype(onnx_type: str) -> np.dtype[Any]:
    """NumPy's dtype of, say, "tensor(float)"."""
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(name, name))
