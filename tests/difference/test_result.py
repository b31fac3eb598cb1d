"""A difference as an array, and its parts."""

import numpy as np
import pytest

import fastdiff
from fastdiff import load_model, subtract_batch
from tests import tiny
from tests.difference.frames import make, same


def test_difference_as_an_array_and_its_parts(minus):
    ref, sci = make(n=4)
    sci[2] = 7.0
    d = subtract_batch(ref, sci, model=minus)
    assert len(d) == 4
    assert d.shape == sci.shape
    assert np.asarray(d) is not None
    assert np.shares_memory(np.asarray(d), d.image)
    assert np.asarray(d, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(d), d.image)
    assert [part.shape for part in d] == [sci.shape[1:]] * 4
    assert d[-1].meta["scale"] == d.meta["scale"][3:]
    assert d[2].meta["notes"].keys() == {0}
    assert d[1:3].meta["notes"][1] == d.meta["notes"][2]
    assert d[1:3].shape == (2, *sci.shape[1:])
    assert d[0][0].shape == d[0].shape
    assert len(d[0]) == 1
    with pytest.raises(IndexError):
        d[4]
    with pytest.raises(IndexError, match="difference of a single image"):
        d[0][1]


def test_meta_says_what_ran(minus):
    d = subtract_batch(*make(n=2), model=minus, threads=3)
    meta = d.meta
    assert (meta["method"], meta["model"], meta["threads"]) == ("transinet", "minus", 3)
    assert meta["backend"] == load_model(minus).backend
    assert meta["version"] == fastdiff.__version__
    assert meta["pixel_threshold"] == float(tiny.METADATA["fastdiff.pixel_threshold"])
    assert meta["noise_free"] is True
    stages = meta["seconds"]
    assert {"measure", "scale", "network", "noise", "measurement", "total"} == set(stages)
    assert sum(stages.values()) - stages["total"] <= stages["total"]
    assert repr(d) == "<Difference (2, 96, 80) by transinet>"


def test_a_model_that_was_loaded_before(minus):
    ref, sci = make()
    model = load_model(minus, backend="onnxruntime-cpu", threads=1)
    d = subtract_batch(ref, sci, model=model)
    same(d, subtract_batch(ref, sci, model=str(minus)))
    assert d.meta["backend"] == "onnxruntime-cpu"
    with pytest.raises(ValueError, match="backend is 'onnxruntime-cuda', but `model` was loaded"):
        subtract_batch(ref, sci, model=model, backend="onnxruntime-cuda")
