import logging
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import fastdiff
from fastdiff.kernels import jit
from fastdiff.models import list_models, load_model, model, onnxruntime
from tests import tiny

PAIR = np.random.default_rng(1).normal(size=(3, 2, 32, 48)).astype(np.float32)


@pytest.fixture
def minus(tmp_path):
    return tiny.minus(tmp_path / "minus.onnx")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder of packaged models with two in it."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(model, "WEIGHTS", folder)
    for name in ("transinet-lite", "other"):
        tiny.minus(folder / f"{name}.onnx")
    return folder


def test_run_and_what_a_model_says_of_itself(minus):
    loaded = fastdiff.load_model(minus, threads=2)
    assert (loaded.name, loaded.path, loaded.threads) == ("minus", minus, 2)
    assert loaded.backend in ("onnxruntime-cpu", "onnxruntime-cuda")
    assert loaded.metadata == tiny.METADATA
    out = loaded.run(PAIR)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, PAIR[:, 1:] - PAIR[:, :1], atol=1e-6)


def test_run_takes_any_layout_byte_order_and_real_dtype(minus):
    loaded = load_model(minus)
    want = loaded.run(PAIR)
    for other in (PAIR.astype(">f8"), np.asfortranarray(PAIR), PAIR[..., ::-1].copy()[..., ::-1]):
        np.testing.assert_array_equal(loaded.run(other), want)
    counts = np.arange(2 * 16 * 16, dtype=np.uint16).reshape(1, 2, 16, 16)
    np.testing.assert_array_equal(loaded.run(counts), np.full((1, 1, 16, 16), 256.0))


def test_names_are_those_in_the_folder(weights):
    assert list_models() == ["other", "transinet-lite"]
    assert load_model("other").path == weights / "other.onnx"
    with pytest.raises(ValueError, match=r"no model named 'transient'.*: other, transinet-lite"):
        load_model("transient")


def test_a_path_without_suffix_is_still_a_path(minus, tmp_path):
    bare = minus.rename(tmp_path / "bare")
    assert load_model(bare).run(PAIR).shape == (3, 1, 32, 48)
    assert load_model(str(bare)).path == bare


def test_missing_file(tmp_path):
    for missing in (tmp_path / "no.onnx", tmp_path / "no", "no.onnx"):
        with pytest.raises(FileNotFoundError, match=r"no(\.onnx)? does not exist; give the path"):
            load_model(missing)
    with pytest.raises(FileNotFoundError, match="is a folder; give the path of an ONNX file"):
        load_model(tmp_path)


def test_not_a_path():
    with pytest.raises(TypeError, match="name_or_path is a int; it must be the name"):
        load_model(3)


@pytest.mark.parametrize("damage", ["text", "empty", "cut short"])
def test_corrupt_file(minus, damage):
    whole = minus.read_bytes()
    minus.write_bytes({"text": b"not onnx", "empty": b"", "cut short": whole[:80]}[damage])
    with pytest.raises(ValueError, match=r"minus\.onnx is not an ONNX model .* can read"):
        load_model(minus)


def test_a_model_of_another_kind(tmp_path):
    stamps = tiny.minus(tmp_path / "stamps.onnx", kind="stamps")
    assert load_model(stamps).metadata["fastdiff.kind"] == "stamps"
    with pytest.raises(ValueError, match=r"is a model of kind 'stamps'.*'transinet' is needed"):
        load_model(stamps, kind="transinet")


def test_wrong_input(minus):
    loaded = load_model(minus)
    expected = r"takes \(n, 2, h, w\) with h and w multiples of 16"
    for shape in ((3, 32, 48), (3, 3, 32, 48), (3, 2, 32, 40)):
        with pytest.raises(ValueError, match=expected) as error:
            loaded.run(np.zeros(shape))
        assert str(shape) in str(error.value)
    with pytest.raises(TypeError, match="`array` has dtype complex128; the model 'minus' takes"):
        loaded.run(PAIR.astype(complex))


def test_backends_by_name(minus, monkeypatch):
    assert load_model(minus, "onnxruntime-cpu").backend == "onnxruntime-cpu"
    with pytest.raises(ValueError, match="backend is 'gpu'; known back ends are 'auto', 'onnx"):
        load_model(minus, "gpu")
    monkeypatch.setattr(onnxruntime, "unavailable", lambda backend: "the moon is full")
    with pytest.raises(RuntimeError, match="'onnxruntime-cuda' was asked for, but the moon is"):
        load_model(minus, "onnxruntime-cuda")


def test_a_provider_that_does_not_start_never_falls_back(minus, monkeypatch):
    import onnxruntime as runtime

    monkeypatch.setattr(runtime.InferenceSession, "get_providers", lambda self: ["CPU"])
    with pytest.raises(RuntimeError, match=r"onnxruntime-cuda did not start .*gave CPU instead"):
        onnxruntime.Session(minus, "onnxruntime-cuda", 1)


@pytest.fixture
def no_memory_of_warnings(monkeypatch):
    monkeypatch.setattr(model, "_reported", set())


@pytest.mark.usefixtures("no_memory_of_warnings")
def test_falling_back_is_told_once_with_the_reason(minus, monkeypatch, caplog):
    monkeypatch.setattr(jit, "cuda_available", lambda: True)
    monkeypatch.setattr(
        onnxruntime, "unavailable", lambda name: None if name.endswith("cpu") else "no provider"
    )
    for _ in range(3):
        assert load_model(minus).backend == "onnxruntime-cpu"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "onnxruntime-cuda to onnxruntime-cpu: no provider" in record.message


@pytest.mark.usefixtures("no_memory_of_warnings")
def test_falling_back_from_a_provider_that_fails(minus, monkeypatch, caplog):
    class Broken(onnxruntime.Session):
        def __init__(self, path, backend, threads):
            if backend == "onnxruntime-cuda":
                raise RuntimeError("no libcudnn")
            super().__init__(path, backend, threads)

    monkeypatch.setattr(onnxruntime, "Session", Broken)
    monkeypatch.setattr(onnxruntime, "unavailable", lambda backend: None)
    assert load_model(minus).backend == "onnxruntime-cpu"
    assert ["no libcudnn" in r.message for r in caplog.records] == [True]
    with pytest.raises(RuntimeError, match="no libcudnn"):
        load_model(minus, "onnxruntime-cuda")


@pytest.mark.usefixtures("no_memory_of_warnings")
def test_a_machine_without_a_device_does_not_warn(minus, monkeypatch, caplog):
    monkeypatch.setattr(jit, "cuda_available", lambda: False)
    monkeypatch.setattr(
        onnxruntime, "unavailable", lambda name: None if name.endswith("cpu") else "no provider"
    )
    assert load_model(minus).backend == "onnxruntime-cpu"
    assert not caplog.records


def test_sessions_are_kept_until_the_file_changes(minus):
    first = load_model(minus, threads=1)
    assert load_model(minus, threads=1)._session is first._session
    assert load_model(minus, threads=2)._session is not first._session
    tiny.convolve(minus, [[2]])
    os.utime(minus, ns=(1, 1))
    changed = load_model(minus, threads=1)
    np.testing.assert_allclose(changed.run(PAIR), 2 * first.run(PAIR), atol=1e-5)


def test_threads_are_obeyed(minus, monkeypatch):
    import onnxruntime as runtime

    seen = []
    real = runtime.InferenceSession

    def spy(*args, sess_options, **kwargs):
        seen.append((sess_options.intra_op_num_threads, sess_options.inter_op_num_threads))
        return real(*args, sess_options=sess_options, **kwargs)

    monkeypatch.setattr(runtime, "InferenceSession", spy)
    load_model(minus, threads=3)
    load_model(minus)
    assert seen == [(3, 1), (jit.cpu_count(), 1)]
    for wrong, error, text in (
        (0, ValueError, "threads is 0; it must be at least 1"),
        (1.5, TypeError, "threads is a float; it must be a whole number"),
        (True, TypeError, "threads is a bool"),
    ):
        with pytest.raises(error, match=text):
            load_model(minus, threads=wrong)


def test_one_session_from_many_threads(minus):
    loaded = [None] * 8
    results = [None] * 8
    start = threading.Barrier(8)

    def work(i):
        start.wait()
        loaded[i] = load_model(minus, threads=1)
        results[i] = [loaded[i].run(PAIR + i + k) for k in range(20)]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len({id(each._session) for each in loaded}) == 1
    want = PAIR[:, 1:] - PAIR[:, :1]
    for each in results:
        for result in each:
            np.testing.assert_allclose(result, want, atol=1e-5)


def test_a_model_goes_to_another_process_as_its_path(minus):
    loaded = load_model(minus, "onnxruntime-cpu", threads=3)
    copy = pickle.loads(pickle.dumps(loaded))
    assert (copy.path, copy.backend, copy.threads) == (minus, "onnxruntime-cpu", 3)
    np.testing.assert_array_equal(copy.run(PAIR), loaded.run(PAIR))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_opens_its_own_sessions(minus):
    # In a process of its own: the child must not inherit the state of other tests.
    script = f"""
import os
import numpy as np
from fastdiff import load_model

pair = np.zeros((2, 2, 32, 32), np.float32)
loaded = [load_model({str(minus)!r}, threads=n) for n in (1, 2, 3)]
for each in loaded:
    each.run(pair)
child = os.fork()
if child == 0:
    load_model({str(minus)!r}, threads=2).run(pair)
    for each in loaded:
        each.run(pair)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "7"
