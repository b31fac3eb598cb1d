"""The training loop: resumption, interruption, averages, the log."""

import json
import os
import signal
import threading
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the train extra (PyTorch)")
onnx = pytest.importorskip("onnx", reason="export needs the train extra (onnx)")

from fastdiff.training import loop  # noqa: E402

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
