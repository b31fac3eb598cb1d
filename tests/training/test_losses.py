"""Losses against their slow twins."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the train extra (PyTorch)")
onnx = pytest.importorskip("onnx", reason="export needs the train extra (onnx)")

from fastdiff.training import losses  # noqa: E402
from fastdiff.training.networks import compress  # noqa: E402
from tests.training.reference import training as reference  # noqa: E402

# Small networks: threads would only wait for each other.
torch.set_num_threads(1)


def example(scales, size=24):
    rng = np.random.default_rng(1)
    target = rng.normal(size=(3, size, size)) * 20 * (rng.uniform(size=(3, size, size)) > 0.9)
    target[2] = 0
    valid = (rng.uniform(size=target.shape) > 0.1).astype(float)
    outputs = [rng.normal(size=(3, -(-size // s), -(-size // s))) for s in scales]
    batch = {
        "target": torch.from_numpy(target)[:, None],
        "valid": torch.from_numpy(valid)[:, None],
    }
    return [torch.from_numpy(o)[:, None] for o in outputs], batch, outputs, target, valid


def test_multi_scale_l1_equals_its_reference():
    tensors, batch, *arrays = example((1, 2, 4, 8, 16), size=27)
    total, _ = losses.multi_scale_l1(100.0)(tensors, batch)
    assert float(total) == pytest.approx(reference.multi_scale_l1(*arrays, 100.0), rel=1e-5)


def test_transinet_lite_loss_equals_its_reference():
    tensors, batch, *arrays = example((1, 4, 8))
    total, parts = losses.transinet_lite_loss(20.0, 0.2, 0.7)(tensors, batch)
    expected = reference.transinet_lite_loss(*arrays, 20.0, 0.2, 0.7)
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert set(parts) == {"l1_1", "l1_4", "l1_8", "flux"}


@pytest.mark.parametrize("loss", [losses.multi_scale_l1(), losses.transinet_lite_loss()])
def test_bad_pixels_do_not_count(loss):
    scales = (1, 4, 8) if "lite" in loss.__qualname__ else (1, 2, 4)
    tensors, batch, *_ = example(scales)
    before = loss(tensors, batch)[0]
    bad = batch["valid"] == 0
    batch["target"] = torch.where(bad, batch["target"] + 1000.0, batch["target"])
    assert float(loss(tensors, batch)[0]) == pytest.approx(float(before), rel=1e-6)
    batch["target"] = torch.where(bad, batch["target"], batch["target"] + 1.0)
    assert float(loss(tensors, batch)[0]) != pytest.approx(float(before), rel=1e-3)


def test_the_right_answer_has_no_loss():
    _, batch, *_ = example((1,))
    batch["valid"] = torch.ones_like(batch["valid"])
    pool = torch.nn.functional.avg_pool2d
    answers = [compress(pool(batch["target"], s) * s) for s in (1, 4, 8)]
    total, _ = losses.transinet_lite_loss()(answers, batch)
    assert float(total) < 1e-6
