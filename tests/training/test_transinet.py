"""The sample stream and the recipes of TransiNet and TransiNetLite."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the train extra (PyTorch)")
onnx = pytest.importorskip("onnx", reason="export needs the train extra (onnx)")

from fastdiff.kernels.image import match  # noqa: E402
from fastdiff.training import transinet  # noqa: E402

# Small networks: threads would only wait for each other.
torch.set_num_threads(1)


def rows(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def run(path, pair):
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["difference"], {"pair": pair.numpy()})[0]


def test_sample_stream_is_a_function_of_seed_and_step():
    make_batches = transinet.samples(4, (32, 32), seed=5, preset="survey")
    first = make_batches(0)
    third = [next(first) for _ in range(3)][2]
    again = next(make_batches(2))
    other = next(transinet.samples(4, (32, 32), seed=6, preset="survey")(2))
    assert all(torch.equal(third[name], again[name]) for name in third)
    assert not torch.equal(third["pair"], other["pair"])
    assert third["pair"].shape == (4, 4, 32, 32) and third["target"].shape == (4, 1, 32, 32)
    assert torch.isfinite(third["pair"]).all() and torch.isfinite(third["target"]).all()


def stamps(n, start, gain=1.0):
    """Flat pairs with one star each: what a caller's `extra` returns."""
    rng = np.random.default_rng([start, 11])
    y, x = np.mgrid[:32, :32]
    truth = np.repeat(500 * np.exp(-((y - 16) ** 2 + (x - 16) ** 2) / 8)[None], n, 0)
    ref, sci = rng.normal(100, 5, (2, n, 32, 32))
    bad = np.zeros((n, 32, 32), bool)
    bad[:, 3, 4] = True
    sci += truth
    sci[:, 7, 9] = np.nan
    as_float = [np.asarray(a * gain, np.float32) for a in (ref, sci, truth)]
    ref, sci, truth = as_float
    return SimpleNamespace(ref=ref, sci=sci, truth=truth, ref_mask=~bad & False, sci_mask=bad)


def test_to_batch_gives_the_target_in_sigma_whatever_the_unit():
    a, b = transinet.to_batch(stamps(3, 0)), transinet.to_batch(stamps(3, 0, gain=1000.0))
    torch.testing.assert_close(a["target"], b["target"], rtol=1e-3, atol=1e-3)
    # Both images have a noise of 5, their difference one of 5 sqrt(2).
    peak = float(a["target"].max())
    assert peak == pytest.approx(500 / np.hypot(5, 5), rel=0.1)
    invalid = np.argwhere(a["valid"][0, 0].numpy() == 0).tolist()
    assert invalid == [[3, 4], [7, 9]]


def test_samples_are_matched_or_not():
    pairs = [transinet.to_batch(stamps(2, 0), matched=matched)["pair"] for matched in (True, False)]
    assert pairs[1].shape == (2, 2, 32, 32)
    np.testing.assert_array_equal(pairs[0], match.match_psfs(pairs[1].numpy()))


def test_extra_samples_are_their_fraction_of_a_batch():
    starts = []

    def extra(n, start):
        starts.append((n, start))
        return stamps(n, start)

    stream = transinet.samples(
        8, (32, 32), seed=5, preset="survey", extra=extra, extra_fraction=0.25
    )(3)
    batch = next(stream)
    next(stream)
    assert starts == [(2, 6), (2, 8)]
    assert torch.equal(batch["target"][6:], transinet.to_batch(stamps(2, 6))["target"])
    only = next(transinet.samples(6, (32, 32), seed=5, preset="survey")(3))
    assert torch.equal(batch["pair"][:6], only["pair"])


def test_lite_recipe_writes_a_model_and_can_be_loaded_back(tmp_path):
    options = {
        "batch": 4,
        "size": 32,
        "channels": (8, 8, 8, 16),
        "n_validation": 8,
        "evaluate_every": 2,
        "warm_up": 1,
        "progress": False,
    }
    path = transinet.train_transinet_lite(tmp_path, steps=3, seed=1, **options)
    model = onnx.load(path)
    entries = {p.key: p.value for p in model.metadata_props}
    assert entries["fastdiff.kind"] == "transinet" and entries["fastdiff.stride"] == "16"
    assert "seed 1" in entries["fastdiff.provenance"]
    assert {"f1", "recall_snr10", "flux_bias"} <= set().union(*rows(tmp_path))
    network = transinet.load_transinet_lite(tmp_path / "checkpoint.pt")
    assert network.channels == (8, 8, 8, 16)
    pair = torch.randn(1, 4, 32, 32)
    with torch.no_grad():
        expected = network(pair).numpy()
    np.testing.assert_allclose(run(path, pair), expected, rtol=0.02, atol=0.02)
    with pytest.raises(ValueError, match="schedule is 'steep'"):
        transinet.train_transinet_lite(tmp_path, schedule="steep")
    with pytest.raises(ValueError, match="size is 40"):
        transinet.train_transinet_lite(tmp_path, size=40)


def test_paper_recipe_writes_a_model(tmp_path):
    path = transinet.train_transinet(
        tmp_path,
        steps=2,
        round_two=1,
        width=0.02,
        batch=2,
        size=40,
        extra=lambda n, start: SimpleNamespace(
            **{k: v[:, :40, :40] for k, v in vars(wide(n, start)).items()}
        ),
        extra_fraction=0.5,
        progress=False,
    )
    assert run(path, torch.randn(1, 2, 50, 70)).shape == (1, 1, 50, 70)
    with pytest.raises(ValueError, match="does not hold a TransiNetLite"):
        transinet.load_transinet_lite(tmp_path / "checkpoint.pt")


def wide(n, start):
    return SimpleNamespace(**{k: np.tile(v, (1, 2, 2)) for k, v in vars(stamps(n, start)).items()})
