"""Training: the loop (resumption, interruption), losses, sample stream, recipes, export."""

import json
import os
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the train extra (PyTorch)")
onnx = pytest.importorskip("onnx", reason="export needs the train extra (onnx)")

from fastdiff.kernels.image import match  # noqa: E402
from fastdiff.training import export, loop, transinet  # noqa: E402
from fastdiff.training.networks import TransiNet, TransiNetLite, compress  # noqa: E402
from tests.training.reference import training as reference  # noqa: E402

# Small networks: threads would only wait for each other.
torch.set_num_threads(1)


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Conv2d(2, 4, 3, 1, 1)
        self.b = torch.nn.Conv2d(4, 1, 3, 1, 1)

    def forward(self, pair):
        return self.b(torch.relu(self.a(pair)))


def make(step, n=4):
    """A batch that depends on its number only: stars in noise, some of them new."""
    rng = np.random.default_rng([7, step])
    y, x = np.mgrid[:16, :16]
    stars = np.exp(-((y - rng.uniform(3, 13, (n, 1, 1))) ** 2 + (x - 8) ** 2) / 4)
    target = 10 * stars * (np.arange(n) % 2).reshape(-1, 1, 1)
    pair = np.stack([5 * stars, 5 * stars + target], 1) + rng.normal(size=(n, 2, 16, 16))
    return {
        "pair": torch.from_numpy(pair.astype(np.float32)),
        "target": torch.from_numpy(target.astype(np.float32))[:, None],
    }


def batches(start):
    while True:
        yield make(start)
        start += 1


def l1(output, batch):
    error = (output - batch["target"]).abs().mean()
    return error, {"l1": error}


def fit(out, steps, source=batches, seed=3, **options):
    torch.manual_seed(seed)
    network = Tiny()
    options = {"learning_rate": 1e-2, "average": 0.9, "clip": 1.0, "progress": False} | options
    return loop.train(network, source, l1, steps=steps, out=out, **options), network


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[k], b[k]) for k in a)


def rows(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


# --- the loop ---------------------------------------------------------------------------


def test_training_lowers_the_loss_on_fixed_samples(tmp_path):
    held_out = make(10**6, 32)
    torch.manual_seed(3)
    with torch.no_grad():
        before = float(l1(Tiny()(held_out["pair"]), held_out)[0])
    network, _ = fit(tmp_path, 150)
    with torch.no_grad():
        after = float(l1(network(held_out["pair"]), held_out)[0])
    assert after < 0.5 * before
    assert not network.training


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    whole, whole_last = fit(tmp_path / "whole", 14, checkpoint_every=4, log_every=2)
    fit(tmp_path / "parts", 6, checkpoint_every=4, log_every=2)
    parts, parts_last = fit(tmp_path / "parts", 14, checkpoint_every=4, log_every=2)
    assert same(whole, parts) and same(whole_last, parts_last)
    assert not same(whole, whole_last)  # the average is another network
    losses = [[(r["step"], r["loss"]) for r in rows(tmp_path / n)] for n in ("whole", "parts")]
    assert losses[0] == losses[1] and [s for s, _ in losses[0]] == [2, 4, 6, 8, 10, 12, 14]


def test_a_finished_run_is_not_trained_further(tmp_path):
    first, _ = fit(tmp_path, 5)

    def no_batches(start):
        raise AssertionError("no step is left")
        yield

    again, _ = fit(tmp_path, 5, source=no_batches)
    assert same(first, again)


def test_without_resume_a_run_starts_afresh(tmp_path):
    first, _ = fit(tmp_path, 4, log_every=1)
    again, _ = fit(tmp_path, 4, log_every=1, resume=False)
    assert same(first, again)
    assert [r["step"] for r in rows(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_and_continues_to_the_same_bits(tmp_path, number):
    whole, _ = fit(tmp_path / "whole", 10)
    sent = threading.Event()

    def interrupted(output, batch):
        if not sent.is_set() and torch.equal(batch["pair"], make(4)["pair"]):
            sent.set()
            os.kill(os.getpid(), number)
        return l1(output, batch)

    torch.manual_seed(3)
    options = {"learning_rate": 1e-2, "average": 0.9, "clip": 1.0, "progress": False}
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        loop.train(Tiny(), batches, interrupted, steps=10, out=tmp_path / "cut", **options)
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    state = torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 5
    assert not [t for t in threading.enumerate() if t.name == "fastdiff-samples"]
    again, _ = fit(tmp_path / "cut", 10)
    assert same(whole, again)


def test_a_checkpoint_is_never_half_written(tmp_path, monkeypatch):
    fit(tmp_path, 4, checkpoint_every=4)
    good = (tmp_path / "checkpoint.pt").read_bytes()

    def torn(state, file):
        file.write(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(loop.torch, "save", torn)
        with pytest.raises(OSError, match="No space left"):
            fit(tmp_path, 8, checkpoint_every=4)
    assert (tmp_path / "checkpoint.pt").read_bytes() == good
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pt", "log.jsonl"]
    whole, _ = fit(tmp_path / "whole", 8)
    again, _ = fit(tmp_path, 8)
    assert same(whole, again)


def test_checkpoints_of_something_else_are_refused(tmp_path):
    fit(tmp_path, 2)
    with pytest.raises(ValueError, match="another network"):
        loop.train(torch.nn.Conv2d(2, 1, 3), batches, l1, steps=4, out=tmp_path, progress=False)
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        fit(tmp_path, 4)


def test_a_loss_that_is_not_finite_stops_before_it_spoils_the_weights(tmp_path):
    def source(start):
        for step in range(start, 9):
            batch = make(step)
            if step == 3:
                batch["pair"][0, 0, 0, 0] = np.nan
            yield batch

    with pytest.raises(FloatingPointError, match="step 3"):
        fit(tmp_path, 9, source=source, checkpoint_every=1)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 3
    assert all(torch.isfinite(v).all() for v in state["network"].values())


def test_errors_of_the_sample_thread_arrive(tmp_path):
    def broken(start):
        yield make(0)
        raise ZeroDivisionError("in the simulator")

    with pytest.raises(ZeroDivisionError, match="in the simulator"):
        fit(tmp_path, 5, source=broken)
    with pytest.raises(ValueError, match="ended at step 1"):
        fit(tmp_path / "short", 5, source=lambda start: iter([make(0)]))
    with pytest.raises(ValueError, match="steps is 0"):
        fit(tmp_path, 0)


def test_evaluation_sees_the_averaged_network_and_is_logged(tmp_path):
    seen = []

    def evaluate(network):
        seen.append(network.training)
        return {"figure": float(network.b.bias)}

    network, _ = fit(tmp_path, 6, evaluate=evaluate, evaluate_every=3, log_every=6)
    assert seen == [False, False]
    figures = [r["figure"] for r in rows(tmp_path) if "figure" in r]
    assert figures[-1] == float(network.b.bias) != figures[0]


def test_lines_are_printed_when_there_is_no_terminal(tmp_path, capsys):
    fit(tmp_path, 4, progress=True, log_every=2)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 2", "step 4"]
    fit(tmp_path / "quiet", 4, log_every=2)
    assert capsys.readouterr().err == ""


def test_prefetch_keeps_order_is_bounded_and_ends():
    made = []

    def source():
        for i in range(1000):
            made.append(i)
            yield i

    items = loop.prefetch(source(), depth=3)
    assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
    time.sleep(0.3)
    assert len(made) <= 5 + 3 + 1
    items.close()
    assert not [t for t in threading.enumerate() if t.name == "fastdiff-samples"]
    assert list(loop.prefetch(iter(range(7)), depth=2)) == list(range(7))


def test_schedules():
    assert [loop.stepped(20, 0.3, 90)(s, 200) for s in (0, 89, 109, 110, 130)] == pytest.approx(
        [1, 1, 1, 0.3, 0.09]
    )
    for schedule in (loop.cosine(10, 0.01), loop.trapezoid(10, 0.5, 0.01)):
        rates = np.array([schedule(s, 100) for s in range(101)])
        np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10, rtol=1e-12)
        assert rates[-1] == pytest.approx(0.01)
        assert (np.diff(rates[11:]) <= 1e-12).all() and rates.max() == 1.0
    assert loop.cosine(0, 0.0)(50, 100) == pytest.approx(0.5)
    assert loop.trapezoid(10, 0.5)(50, 100) == 1.0
    assert loop.constant(5, 10) == 1.0


# --- losses -----------------------------------------------------------------------------


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
    total, _ = transinet.multi_scale_l1(100.0)(tensors, batch)
    assert float(total) == pytest.approx(reference.multi_scale_l1(*arrays, 100.0), rel=1e-5)


def test_transinet_lite_loss_equals_its_reference():
    tensors, batch, *arrays = example((1, 4, 8))
    total, parts = transinet.transinet_lite_loss(20.0, 0.2, 0.7)(tensors, batch)
    expected = reference.transinet_lite_loss(*arrays, 20.0, 0.2, 0.7)
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert set(parts) == {"l1_1", "l1_4", "l1_8", "flux"}


@pytest.mark.parametrize("loss", [transinet.multi_scale_l1(), transinet.transinet_lite_loss()])
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
    total, _ = transinet.transinet_lite_loss()(answers, batch)
    assert float(total) < 1e-6


# --- samples and recipes ----------------------------------------------------------------


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


# --- export -----------------------------------------------------------------------------


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
