"""Write a network as an ONNX file that `fastdiff.load_model` accepts.

Input ``pair`` float32 (n, 2 or 4, h, w), output ``difference`` float32 (n, 1, h, w), n, h and w
free. Weights are stored in half precision, and cast up again when the file is loaded, where
that changes the output by less than a stated tolerance.
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

__all__ = ["INPUT", "INPUT_MATCHED", "OUTPUT", "export_onnx", "provenance"]

OPSET = 18
INPUT = (
    "pair float32 (n, 2, h, w): reference and science image, sky subtracted, the reference "
    "scaled to the science image's photometry, both divided by the noise of the difference"
)
INPUT_MATCHED = (
    "pair float32 (n, 4, h, w): reference and science image, sky subtracted, the reference "
    "scaled to the science image's photometry, both divided by the noise of the difference; "
    "then science - K * reference and L * science - reference, K and L fitted kernels "
    "(fastdiff.kernels.match.match_psfs makes the four channels of the first two)"
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
        Whether its input has the four channels of `fastdiff.kernels.match`.
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
    import onnx

    from fastdiff.kernels.match import match_psfs

    if not (np.isfinite(flux_scale) and flux_scale > 0):
        raise ValueError(f"flux_scale is {flux_scale}; it must be a positive number")
    path = Path(path)
    network = network.eval().to("cpu", memory_format=torch.contiguous_format)
    wrapped = _WithFluxScale(network, flux_scale) if flux_scale != 1.0 else network
    pairs = _test_input(size)
    test = torch.from_numpy(match_psfs(pairs, 1) if matched else pairs)
    with torch.no_grad():
        expected = wrapped(test).numpy()
    model = onnx.load_from_string(_to_onnx(wrapped, test))
    entries = {
        "kind": "transinet",
        "input": INPUT_MATCHED if matched else INPUT,
        "output": OUTPUT,
        "normalisation": "tile-match-v1" if matched else "tile-v1",
        "stride": "16",
        "pixel_threshold": "0.5",
        "flux_scale": repr(float(flux_scale)),
        "provenance": "",
        "licence": "BSD-3-Clause",
        **(metadata or {}),
    }
    entries = {k if "." in k else f"fastdiff.{k}": str(v) for k, v in entries.items()}
    entries["fastdiff.weights"] = "float32"
    got = _run(model.SerializeToString(), test)
    if not np.allclose(got, expected, rtol=1e-3, atol=1e-4):
        raise RuntimeError(
            f"ONNX Runtime and PyTorch differ by up to {np.abs(got - expected).max():.3g} sigma: "
            "the graph was not exported faithfully"
        )
    if half:
        smaller = onnx.ModelProto()
        smaller.CopyFrom(model)
        halve_weights(smaller)
        got = _run(smaller.SerializeToString(), test)
        if np.allclose(got, expected, rtol=half_tolerance, atol=half_tolerance):
            model = smaller
            entries["fastdiff.weights"] = "float16"
    onnx.helper.set_model_props(model, entries)
    onnx.checker.check_model(model)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        aside.write_bytes(model.SerializeToString())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
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


def _to_onnx(network: nn.Module, test: Tensor) -> bytes:
    buffer = io.BytesIO()
    free = {0: "n", 2: "h", 3: "w"}
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
                input_names=["pair"],
                output_names=["difference"],
                dynamic_axes={"pair": free, "difference": free},
                opset_version=OPSET,
                dynamo=False,
            )
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
    return buffer.getvalue()


def halve_weights(model: Any) -> None:
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


def _run(model: bytes, test: Tensor) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"pair": test.numpy()})[0]
