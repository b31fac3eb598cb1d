"""Write a network as an ONNX file that `fastdiff.load_model` accepts.

TransiNet's (`export_onnx`): input ``pair`` float32 (n, 2 or 4, h, w), output ``difference``
float32 (n, 1, h, w), n, h and w free. Weights are stored in half precision, and cast up again
when the file is loaded, where that changes the output by less than a stated tolerance.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastdiff.core.files import whole_file

__all__ = ["INPUT", "INPUT_MATCHED", "OUTPUT", "export_onnx", "provenance", "write_network"]

OPSET = 18
INPUT = (
    "pair float32 (n, 2, h, w): reference and science image, sky subtracted, the reference "
    "scaled to the science image's photometry, both divided by the noise of the difference"
)
INPUT_MATCHED = (
    "pair float32 (n, 4, h, w): reference and science image, sky subtracted, the reference "
    "scaled to the science image's photometry, both divided by the noise of the difference; "
    "then science - K * reference and L * science - reference, K and L fitted kernels "
    "(fastdiff.kernels.image.match.match_psfs makes the four channels of the first two)"
)
OUTPUT = (
    "difference float32 (n, 1, h, w): noise-free image of what changed, in units of the noise "
    "of the difference; positive is brighter in the science image"
)


class _WithFluxScale(nn.Module):
    def __init__(self, network: nn.Module, scale: float):
        super().__init__()
        self.network, self.scale = network, float(scale)

    def forward(self, pair: Tensor) -> Tensor:
        return self.network(pair) * self.scale


def export_onnx(
    network: nn.Module,
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    matched: bool = False,
    flux_scale: float = 1.0,
    half: bool = True,
    half_tolerance: float = 0.01,
    size: int = 64,
) -> Path:
    """Write `network` to `path` and check the file against PyTorch.

    Parameters
    ----------
    network : torch.nn.Module
        Maps (n, 2 or 4, h, w) to (n, 1, h, w) in evaluation mode, to which it is set.
    path : path
        Written aside and renamed.
    metadata : mapping of str to str, optional
        Entries for the file's metadata, over the defaults; a name without a dot gets the
        prefix ``fastdiff.``.
    matched : bool
        Whether its input has the four channels of `fastdiff.kernels.image.match`.
    flux_scale : float
        Factor on the output, inside the graph: one over a measured flux bias.
    half : bool
        Store weights as float16 if the output differs by no more than `half_tolerance` sigma
        plus the same fraction of its value, on a test input of wide dynamic range.
    size : int
        Side of the test input; the file accepts others.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    RuntimeError
        ONNX Runtime and PyTorch disagree by more than 1e-4 sigma plus 1e-3 of the value.
    """
    from fastdiff.kernels.image.match import match_psfs

    if not (np.isfinite(flux_scale) and flux_scale > 0):
        raise ValueError(f"flux_scale is {flux_scale}; it must be a positive number")
    network = network.eval().to("cpu", memory_format=torch.contiguous_format)
    wrapped = _WithFluxScale(network, flux_scale) if flux_scale != 1.0 else network
    pairs = _test_input(size)
    entries = {
        "kind": "transinet",
        "input": INPUT_MATCHED if matched else INPUT,
        "output": OUTPUT,
        "normalisation": "tile-match-v1" if matched else "tile-v1",
        "stride": "16",
        "pixel_threshold": "0.5",
        "flux_scale": repr(float(flux_scale)),
        "provenance": "",
        **(metadata or {}),
    }
    return write_network(
        wrapped,
        path,
        match_psfs(pairs, 1) if matched else pairs,
        entries,
        names=("pair", "difference"),
        free={0: "n", 2: "h", 3: "w"},
        tolerance=(1e-3, 1e-4),
        half_tolerance=(half_tolerance, half_tolerance) if half else None,
    )


def write_network(
    network: nn.Module,
    path: str | os.PathLike[str],
    test: np.ndarray,
    entries: Mapping[str, str],
    *,
    names: tuple[str, str],
    free: Mapping[int, str],
    tolerance: tuple[float, float],
    half_tolerance: tuple[float, float] | None,
) -> Path:
    """Write a network of one input and one output, checked on `test` against PyTorch.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode, on the CPU.
    path : path
        Written aside and renamed.
    test : ndarray of float32
        An input.
    entries : mapping of str to str
        The file's metadata; a name without a dot gets the prefix ``fastdiff.``. "weights" and,
        where it is missing, "licence" are added.
    names : (str, str)
        Of the input and the output.
    free : mapping of int to str
        Axes of both that may have any size, and their names.
    tolerance, half_tolerance : (float, float)
        Relative and absolute: how far ONNX Runtime may be from PyTorch; within which weights are
        stored as float16, None to store them as they are.

    Raises
    ------
    RuntimeError
        ONNX Runtime and PyTorch disagree by more than `tolerance`.
    """
    import onnx

    path, tensor = Path(path), torch.from_numpy(np.ascontiguousarray(test, np.float32))
    with torch.no_grad():
        expected = network(tensor).numpy()
    model = onnx.load_from_string(_to_onnx(network, tensor, names, free))

    def agrees(candidate: Any, tolerance: tuple[float, float]) -> tuple[bool, float]:
        got = _run(candidate.SerializeToString(), names[0], tensor)
        close = np.allclose(got, expected, rtol=tolerance[0], atol=tolerance[1])
        return close, float(np.abs(got - expected).max())

    same, worst = agrees(model, tolerance)
    if not same:
        raise RuntimeError(
            f"ONNX Runtime and PyTorch differ by up to {worst:.3g}: the graph was not exported "
            "faithfully"
        )
    weights = "float32"
    if half_tolerance is not None:
        smaller = onnx.ModelProto()
        smaller.CopyFrom(model)
        _halve_weights(smaller)
        if agrees(smaller, half_tolerance)[0]:
            model, weights = smaller, "float16"
    entries = {"licence": "BSD-3-Clause", **entries, "weights": weights}
    entries = {k if "." in k else f"fastdiff.{k}": str(v) for k, v in entries.items()}
    onnx.helper.set_model_props(model, entries)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(model.SerializeToString())
    return path


def provenance(recipe: str) -> str:
    """The recipe with the command and the versions that ran it."""
    from importlib import metadata

    try:
        version = metadata.version("fastdiff-astro")
    except metadata.PackageNotFoundError:
        version = "not installed"
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return f"{recipe}; command: {command}; fastdiff {version}, PyTorch {torch.__version__}"


def _test_input(size: int) -> np.ndarray:
    """Noise with point sources of 10 to 10,000 sigma, some of them in one image only."""
    generator = np.random.default_rng(0)
    pair = generator.standard_normal((3, 2, size, size)).astype(np.float32)
    y, x = np.mgrid[:size, :size]
    for image in pair:
        for k, peak in enumerate((10, 100, 1000, 10_000)):
            cy, cx = generator.uniform(0, size, 2)
            star = peak * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 4.5)
            image[1] += star
            if k % 2:
                image[0] += star
    return pair


def _to_onnx(
    network: nn.Module, test: Tensor, names: tuple[str, str], free: Mapping[int, str]
) -> bytes:
    buffer = io.BytesIO()
    level = logging.getLogger("torch.onnx").level
    with warnings.catch_warnings():
        # The exporter that needs no extra package is announced as the old one.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            torch.onnx.export(
                network,
                (test,),
                buffer,
                input_names=[names[0]],
                output_names=[names[1]],
                dynamic_axes={name: dict(free) for name in names},
                opset_version=OPSET,
                dynamo=False,
            )
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
    return buffer.getvalue()


def _halve_weights(model: Any) -> None:
    """Store large float32 initialisers as float16 followed by a Cast, which loading folds away."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < 64:
            continue
        name = tensor.name
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, name + ".half"))
        casts.append(helper.make_node("Cast", [name + ".half"], [name], to=TensorProto.FLOAT))
    nodes = casts + list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _run(model: bytes, name: str, test: Tensor) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    output: np.ndarray = session.run(None, {name: test.numpy()})[0]
    return output
