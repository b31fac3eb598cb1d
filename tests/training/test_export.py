"""Exported files against PyTorch."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the train extra (PyTorch)")
onnx = pytest.importorskip("onnx", reason="export needs the train extra (onnx)")

from fastdiff.training import export  # noqa: E402
from fastdiff.training.networks import TransiNet, TransiNetLite  # noqa: E402

# Small networks: threads would only wait for each other.
torch.set_num_threads(1)


def run(path, pair):
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["difference"], {"pair": pair.numpy()})[0]


def network(seed=0):
    torch.manual_seed(seed)
    return TransiNetLite((8, 16, 16, 32))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (3, 4, 48, 96)])
def test_exported_file_gives_pytorchs_output_at_any_size(tmp_path, shape, half):
    net = network()
    path = export.export_onnx(net, tmp_path / "n.onnx", matched=True, half=half)
    pair = torch.randn(shape) * 5
    with torch.no_grad():
        expected = net(pair).numpy()
    tolerance = 1e-2 if half else 1e-4
    np.testing.assert_allclose(run(path, pair), expected, rtol=tolerance, atol=tolerance)


def test_half_precision_is_used_only_when_nothing_is_lost(tmp_path):
    kinds, sizes = {}, {}
    for name, options in {
        "full": {"half": False},
        "half": {},
        "strict": {"half_tolerance": 0.0},
    }.items():
        path = tmp_path / f"{name}.onnx"
        export.export_onnx(network(), path, matched=True, **options)
        sizes[name] = path.stat().st_size
        entries = {p.key: p.value for p in onnx.load(path).metadata_props}
        kinds[name] = entries["fastdiff.weights"]
    assert kinds == {"full": "float32", "half": "float16", "strict": "float32"}
    assert sizes["half"] < 0.6 * sizes["full"]


def test_flux_scale_and_metadata(tmp_path):
    pair = torch.randn(1, 4, 32, 32)
    plain = export.export_onnx(network(), tmp_path / "plain.onnx", matched=True)
    scaled = export.export_onnx(
        network(),
        tmp_path / "new folder" / "scaled.onnx",
        {"pixel_threshold": "0.7", "other.name": "kept"},
        matched=True,
        flux_scale=1.25,
    )
    np.testing.assert_allclose(run(scaled, pair), 1.25 * run(plain, pair), rtol=1e-5)
    entries = {p.key: p.value for p in onnx.load(scaled).metadata_props}
    assert entries["fastdiff.flux_scale"] == "1.25"
    assert entries["fastdiff.pixel_threshold"] == "0.7" and entries["other.name"] == "kept"
    assert entries["fastdiff.normalisation"] == "tile-match-v1"
    assert [p.name for p in scaled.parent.iterdir()] == ["scaled.onnx"]
    with pytest.raises(ValueError, match="flux_scale is nan"):
        export.export_onnx(network(), plain, matched=True, flux_scale=float("nan"))


def test_a_graph_that_differs_is_not_written(tmp_path, monkeypatch):
    right = export._run
    monkeypatch.setattr(export, "_run", lambda *args: right(*args) + 1)
    with pytest.raises(RuntimeError, match="not exported faithfully"):
        export.export_onnx(network(), tmp_path / "n.onnx", matched=True)
    assert list(tmp_path.iterdir()) == []


def test_transinet_exports_with_its_padding(tmp_path):
    torch.manual_seed(0)
    net = TransiNet(0.02)
    path = export.export_onnx(net, tmp_path / "t.onnx", half=False)
    pair = torch.randn(2, 2, 70, 140)
    with torch.no_grad():
        np.testing.assert_allclose(run(path, pair), net(pair).numpy(), rtol=1e-4, atol=1e-5)
