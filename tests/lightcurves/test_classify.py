"""classify_light_curves: contract, flags, invariances, shipped models, real CRTS curves."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fastdiff.lightcurves import classify
from fastdiff.lightcurves.classify import LightCurveClasses, classify_light_curves
from fastdiff.lightcurves.curves import CONSTANT_TIME, DROPPED, EMPTY, FEW
from fastdiff.models import list_models, load_model
from fastdiff.training import crts
from tests import pretend_cupy

CLASSES = crts.CLASSES
SHIPPED = ["dmdt-best", "dmdt-shallow"]


def simulate(period, amplitude, shape, n=250, seed=0, noise=0.05, span=2800):
    """A periodic variable as CRTS sees it: visits of four exposures in half an hour."""
    rng = np.random.default_rng(seed)
    nights = np.sort(rng.choice(span, n // 4, replace=False)) + rng.normal(0, 0.06, n // 4)
    time = (54000 + nights[:, None] + np.arange(4) / 144 + rng.normal(0, 2e-4, (n // 4, 4))).ravel()
    mag = 16 + amplitude * shape(2 * np.pi * time / period) + rng.normal(0, noise, len(time))
    return time, mag, np.full(len(time), noise)


def eclipses(phase):
    """Two eclipses of different depth, flat in between."""
    phase = (phase / (2 * np.pi)) % 1
    primary = np.exp(-0.5 * ((phase - 0.25) / 0.025) ** 2)
    return primary + 0.4 * np.exp(-0.5 * ((phase - 0.75) / 0.025) ** 2)


def sawtooth(phase):
    """A fast rise and a slow decline, as RR Lyrae of type ab have it."""
    phase = (phase / (2 * np.pi)) % 1
    return np.where(phase < 0.15, 1 - phase / 0.15, (phase - 0.15) / 0.85) - 0.5


@pytest.fixture
def batch():
    """Flat arrays and offsets of a few curves of different lengths."""
    parts = [
        simulate(0.6123, 0.9, sawtooth, 240, 1),
        simulate(0.3321, 0.2, np.cos, 160, 2),
        simulate(310.0, 0.8, np.cos, 300, 3),
        simulate(1.7345, 0.6, eclipses, 400, 4),
    ]
    offsets = np.concatenate([[0], np.cumsum([len(p[0]) for p in parts])])
    return *(np.concatenate(columns) for columns in zip(*parts, strict=True)), offsets


def save(path, columns, values, classes="A,B", **metadata):
    """A classifier whose logits are (0, sum of its input times `values`)."""
    weights = np.zeros((columns, 2), np.float32)
    weights[:, 1] = values
    nodes = [
        helper.make_node("IsNaN", ["curves"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "curves"], ["known"]),
        helper.make_node("MatMul", ["known", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("curves", TensorProto.FLOAT, ("n", columns))],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ("n", 2))],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.float32(0), "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    metadata = {"kind": classify.KIND, "classes": classes, "proportions": "0.5,0.5"} | metadata
    helper.set_model_props(model, {f"fastdiff.{k}": v for k, v in metadata.items()})
    onnx.save(model, path)
    return path


# --- what any model gets and gives ------------------------------------------------------


def test_a_model_is_fed_with_what_its_file_says(tmp_path, batch):
    time, mag, magerr, offsets = batch
    model = save(tmp_path / "mine.onnx", 2, [1.0, -2.0], features="std,amplitude")
    found = classify_light_curves(time, mag, offsets, magerr=magerr, model=model)
    pieces = [mag[a:b] for a, b in itertools.pairwise(offsets)]
    logit = np.array([m.std() - (m.max() - m.min()) for m in pieces])
    odds = found.probabilities[:, 1] / found.probabilities[:, 0]
    # Whether std divides by n or by n - 1 is the feature's own affair.
    np.testing.assert_allclose(np.log(odds), logit, atol=0.01)
    assert found.classes == ("A", "B") and found.model == "mine"
    assert found.probabilities.dtype == np.float32


def test_the_image_comes_before_the_features(tmp_path, batch):
    time, mag, _, offsets = batch
    values = np.zeros(23 * 24 + 1)
    values[-1] = 3.0
    model = save(
        tmp_path / "m.onnx", len(values), values,
        grid="mahabal2017", norm="paper", features="amplitude",
    )  # fmt: skip
    found = classify_light_curves(time, mag, offsets, model=model)
    pieces = [mag[a:b] for a, b in itertools.pairwise(offsets)]
    wanted = [1 / (1 + np.exp(-1.5 * (m.max() - m.min()))) for m in pieces]
    np.testing.assert_allclose(found.probabilities[:, 1], wanted, rtol=1e-4)


def test_chunks_change_nothing(monkeypatch, batch):
    time, mag, magerr, offsets = batch
    whole = classify_light_curves(time, mag, offsets, magerr=magerr)
    monkeypatch.setattr(classify, "_CHUNK", 3)
    parts = classify_light_curves(time, mag, offsets, magerr=magerr)
    np.testing.assert_allclose(parts.probabilities, whole.probabilities, atol=1e-6)


def test_a_file_without_a_contract(tmp_path):
    path = save(tmp_path / "m.onnx", 2, [1, 1])
    with pytest.raises(ValueError, match=r"does not say what it is fed with.*export_classifier"):
        classify_light_curves([1.0, 2.0], [3.0, 4.0], model=path)


def test_a_model_of_another_kind():
    with pytest.raises(ValueError, match="kind 'transinet'"):
        classify_light_curves([1.0, 2.0], [3.0, 4.0], model="transinet-lite")


def test_an_unknown_model():
    with pytest.raises((ValueError, FileNotFoundError), match="no-such"):
        classify_light_curves([1.0, 2.0], [3.0, 4.0], model="no-such")


# --- probabilities for other proportions ------------------------------------------------


def made(p, proportions=(0.5, 0.3, 0.2)):
    p = np.asarray(p, np.float32)
    return LightCurveClasses(p, ("a", "b", "c"), np.zeros(len(p), np.uint8), proportions, "m")


def test_other_proportions_follow_bayes(rng):
    """Draw from known densities: the adjusted posterior is the exact one."""
    likelihood = rng.random((50, 3))
    old, new = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.1, 0.8])

    def posterior(prior):
        joint = likelihood * prior
        return joint / joint.sum(1, keepdims=True)

    adjusted = made(posterior(old)).for_proportions({"a": 1, "b": 1, "c": 8})
    np.testing.assert_allclose(adjusted.probabilities, posterior(new), rtol=1e-5)
    back = adjusted.for_proportions(dict(zip("abc", old, strict=True)))
    np.testing.assert_allclose(back.probabilities, posterior(old), rtol=1e-4)


def test_a_class_that_is_not_named_has_no_share():
    adjusted = made([[0.2, 0.3, 0.5]]).for_proportions({"a": 2, "b": 1})
    assert adjusted.probabilities[0, 2] == 0
    assert adjusted.probabilities.sum() == pytest.approx(1)


@pytest.mark.parametrize("shares", [{"z": 1}, {"a": -1, "b": 2}, {"a": 0}, {"a": float("nan")}])
def test_bad_proportions(shares):
    with pytest.raises(ValueError, match="`proportions`"):
        made([[1, 0, 0]]).for_proportions(shares)


def test_labels():
    found = made([[0.1, 0.7, 0.2], [np.nan] * 3])
    assert found.labels.tolist() == ["b", ""]
    assert len(found) == 2


@pytest.mark.parametrize("model", ["best", "shallow"])
def test_curves_of_a_gpu(model, batch, monkeypatch):
    """Classes are those of the CPU, and lie there."""
    cupy = pretend_cupy.install(monkeypatch)
    time, mag, magerr, offsets = batch
    expected = classify_light_curves(time, mag, offsets, magerr=magerr, model=model)
    time, mag, magerr = map(cupy.asarray, (time, mag, magerr))
    found = classify_light_curves(time, mag, offsets, magerr=magerr, model=model)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_array_equal(found.flags, expected.flags)


# --- the shipped models -----------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_says_what_it_is(name):
    assert name in list_models()
    metadata = load_model(name).metadata
    assert metadata["fastdiff.kind"] == classify.KIND
    assert metadata["fastdiff.classes"].split(",") == list(CLASSES)
    shares = [float(share) for share in metadata["fastdiff.proportions"].split(",")]
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert "seed" in metadata["fastdiff.provenance"]
    assert not any("/work" in v or "/home" in v or "/tmp" in v for v in metadata.values())
    card = (load_model(name).path).with_suffix(".md").read_text()
    assert name in card and "Licence" in card


@pytest.mark.parametrize("model", ["best", "shallow"])
def test_textbook_stars(model, batch):
    time, mag, magerr, offsets = batch
    found = classify_light_curves(time, mag, offsets, magerr=magerr, model=model)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-5)
    assert not found.flags.any()
    assert found.labels[2] == "LPV"
    if model == "best":
        assert found.labels.tolist() == ["RRab", "RRc", "LPV", "EA"]


@pytest.mark.parametrize("model", ["best", "shallow"])
@pytest.mark.parametrize("errors", [True, False])
def test_order_origin_and_layout_do_not_matter(model, errors, batch, rng):
    time, mag, magerr, offsets = batch
    whole = classify_light_curves(
        time, mag, offsets, magerr=magerr if errors else None, model=model
    ).probabilities
    for i, (a, b) in enumerate(itertools.pairwise(offsets)):
        order = a + rng.permutation(b - a)
        one = classify_light_curves(
            time[order] - 1234.5,
            (mag[order] + 1.25).astype(">f8"),
            magerr=magerr[order] if errors else None,
            model=model,
        )
        assert one.probabilities.shape == (1, len(CLASSES))
        # The shift of the times is rounded, so that single pairs may change cells.
        np.testing.assert_allclose(one.probabilities[0], whole[i], atol=0.02)
    lists = [[x[a:b] for a, b in itertools.pairwise(offsets)] for x in (time, mag)]
    listed = classify_light_curves(*lists, model=model)
    if not errors:
        np.testing.assert_allclose(listed.probabilities, whole, atol=1e-6)


@pytest.mark.parametrize("model", ["best", "shallow"])
def test_curves_too_short_or_bad_are_flagged(model):
    nan, inf = float("nan"), float("inf")
    time = [[], [5.0], [5.0, 6.0], [5.0, 5.0, 5.0], [1.0, 2.0, nan, 4.0], np.arange(30.0)]
    mag = [[], [15.0], [15.0, 15.5], [15.0, 15.1, 15.2], [nan, inf, 3.0, 15.0], np.full(30, 15.0)]
    found = classify_light_curves(time, mag, model=model)
    known = np.isfinite(found.probabilities).all(1)
    assert known.tolist() == [False, False, True, True, False, True]
    assert np.isnan(found.probabilities[~known]).all()
    assert found.flags.tolist() == [
        FEW | EMPTY,
        FEW | EMPTY,
        FEW,
        FEW | CONSTANT_TIME,
        FEW | DROPPED | EMPTY,
        0,
    ]
    np.testing.assert_allclose(found.probabilities[known].sum(1), 1, atol=1e-5)
    assert found.labels[0] == ""


def test_no_curves():
    found = classify_light_curves([], [])
    assert found.probabilities.shape == (0, len(CLASSES)) and len(found.labels) == 0


def test_lengths_that_differ():
    with pytest.raises(ValueError, match="mag"):
        classify_light_curves([1.0, 2.0, 3.0], [15.0, 15.0])


@pytest.mark.parametrize(
    ("model", "accuracy", "recall"), [("shallow", 0.66, 0.62), ("best", 0.8, 0.8)]
)
@pytest.mark.parametrize("errors", [True, False])
def test_real_crts_curves(data_folder, model, accuracy, recall, errors):
    d = crts.load_crts(data_folder, "val")
    magerr = d.magerr if errors else None
    found = classify_light_curves(d.time, d.mag, d.offsets, magerr=magerr, model=model)
    best = found.probabilities.argmax(1)
    assert (best == d.label).mean() > accuracy
    assert np.mean([(best[d.label == k] == k).mean() for k in range(len(CLASSES))]) > recall
    # Calibration: the mean of the largest probabilities is the share of right answers.
    sure = found.probabilities.max(1).mean()
    assert sure == pytest.approx((best == d.label).mean(), abs=0.04)
