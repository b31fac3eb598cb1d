"""The command `fastdiff doctor`."""

import numpy as np

import fastdiff
from tests.cli.run import run


def test_doctor_reports_what_is_at_hand():
    done = run("doctor")
    assert done.exit_code == 0, done.output
    assert fastdiff.__version__ in done.output
    assert np.__version__ in done.output
    assert "transinet-lite" in done.output
    assert "onnxruntime-cpu" in done.output
    assert "cache" in done.output
    assert "broken" not in done.output


def test_doctor_survives_what_is_broken(monkeypatch, tmp_path):
    from fastdiff.models import model

    (tmp_path / "torn.onnx").write_bytes(b"not a model")
    monkeypatch.setattr(model, "WEIGHTS", tmp_path)
    done = run("doctor")
    assert done.exit_code == 1
    assert "torn" in done.output
    assert "kernels" in done.output  # the sections after it are still there
