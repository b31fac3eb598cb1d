"""The command `fastdiff train`."""

import sys

import pytest

from tests.cli.run import run


def test_training_without_torch_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    done = run("train", "transinet-lite", "--out", tmp_path)
    assert done.exit_code == 1
    assert "pip install 'fastdiff-astro[train]'" in done.output


def test_train_writes_a_model_that_subtract_uses(sims, tmp_path):
    pytest.importorskip("torch")
    done = run(
        "train", "transinet-lite", "--out", tmp_path / "run", "--steps", 2, "--batch", 2,
        "--size", 32, "--threads", 1,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    model = tmp_path / "run" / "transinet-lite.onnx"
    assert model.is_file()
    done = run(
        "subtract", sims / "pair-0000.ref.fits", sims / "pair-0000.sci.fits", "-o", tmp_path,
        "--no-png", "--model", model,
    )  # fmt: skip
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["dmdt-best"], 2, "light curves need --data FILE"),
        (["dmdt-best", "--data", "x.npz", "--size", 64], 2, "size is for pairs of images"),
        (["transinet-lite", "--data", "x.npz"], 2, "--data is for dmdt-NAME"),
        (["dmdt-shallow", "--data", "absent.npz"], 1, "cannot train"),
    ],
)
def test_train_of_light_curves_says_what_it_needs(tmp_path, words, code, text):
    pytest.importorskip("torch", reason="PyTorch comes with the extra [train]")
    done = run("train", *words, "--out", tmp_path)
    assert done.exit_code == code, done.output
    assert text in " ".join(done.output.split())
