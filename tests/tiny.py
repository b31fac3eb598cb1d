"""ONNX files whose arithmetic is plain, in place of trained networks."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

METADATA = {
    "fastdiff.kind": "transinet",
    "fastdiff.normalisation": "tile-v1",
    "fastdiff.stride": "16",
    "fastdiff.pixel_threshold": "0.75",
}


def _save(path, nodes, constants, metadata, shape=("n", 2, "h", "w")):
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pair", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("difference", TensorProto.FLOAT, ("n", 1, "h", "w"))],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, METADATA | (metadata or {}))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def minus(path, **metadata):
    """difference = channel 1 - channel 0."""
    metadata = {f"fastdiff.{k}": v for k, v in metadata.items()}
    weights = np.array([-1, 1], np.float32).reshape(1, 2, 1, 1)
    return _save(
        path,
        [helper.make_node("Conv", ["pair", "w"], ["difference"], kernel_shape=[1, 1])],
        {"w": weights},
        metadata,
    )


def channel(path, number):
    """difference = one of the four channels of a matched pair."""
    weights = np.zeros((1, 4, 1, 1), np.float32)
    weights[0, number] = 1
    return _save(
        path,
        [helper.make_node("Conv", ["pair", "w"], ["difference"], kernel_shape=[1, 1])],
        {"w": weights},
        {"fastdiff.normalisation": "tile-match-v1"},
        shape=("n", 4, "h", "w"),
    )


def convolve(path, kernel):
    """difference = (channel 1 - channel 0) cross-correlated with an odd, square `kernel`."""
    kernel = np.asarray(kernel, np.float32)
    side = len(kernel)
    node = helper.make_node(
        "Conv", ["pair", "w"], ["difference"], kernel_shape=[side, side], pads=[side // 2] * 4
    )
    return _save(path, [node], {"w": np.stack([-kernel, kernel])[None]}, None)


def constant(path, value):
    """difference = value everywhere."""
    nodes = [
        helper.make_node("ReduceSum", ["pair", "axis"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "zero"], ["none"]),
        helper.make_node("Add", ["none", "value"], ["difference"]),
    ]
    constants = {
        "axis": np.array([1], np.int64),
        "zero": np.float32(0),
        "value": np.float32(value),
    }
    return _save(path, nodes, constants, None)
