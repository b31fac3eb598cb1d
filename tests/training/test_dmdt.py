"""Samples, training, calibration and export of the classifiers."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the train extra (PyTorch)")
onnx = pytest.importorskip("onnx", reason="export needs the train extra (onnx)")

from fastdiff.lightcurves.classify import Contract, classify_light_curves  # noqa: E402
from fastdiff.lightcurves.curves import read_curves  # noqa: E402
from fastdiff.models import load_model  # noqa: E402
from fastdiff.training import classifiers, crts, dmdt  # noqa: E402

torch.set_num_threads(1)


def test_augmented_curves_are_the_same_with_fewer_points_and_more_noise(made):
    d = crts.load_crts(made)
    one, again, other = (dmdt.augment(d, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.mag, again.mag)
    assert len(one.time) != len(other.time) or (one.mag != other.mag).any()
    assert np.diff(one.offsets).min() >= 15  # a random number about 24
    full = 0
    for i in range(len(d)):
        mine = slice(one.offsets[i], one.offsets[i + 1])
        whole = slice(d.offsets[i], d.offsets[i + 1])
        at = {t: m for t, m in zip(d.time[whole], d.mag[whole], strict=True)}
        moved = [abs(m - at[t]) for t, m in zip(one.time[mine], one.mag[mine], strict=True)]
        assert max(moved) < 0.3 * 0.05 * 6
        full += len(moved) == len(at)
    assert 0.2 < full / len(d) < 0.5
    still = dmdt.augment(d, 1, whole=1.0, jitter=0.0)
    np.testing.assert_array_equal(still.mag, d.mag)


def test_the_temperature_undoes_a_wrong_scale(rng):
    logits = rng.normal(0, 2, (20_000, 3))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    label = (rng.random(20_000)[:, None] > p.cumsum(1)).sum(1)
    scaled = (3 * logits).astype(np.float32)
    assert dmdt.calibrate(torch.nn.Identity(), scaled, label) == pytest.approx(3, rel=0.05)


def test_figures():
    p = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.9, 0.1]])
    got = dmdt.figures(p, np.array([0, 0, 0, 1]))
    assert got["accuracy"] == 0.5
    assert got["recall"] == pytest.approx((2 / 3 + 0) / 2)
    assert got["nll"] == pytest.approx(-np.log([0.8, 0.6, 0.3, 0.1]).mean())


@pytest.mark.parametrize(("balance", "wanted"), [(0.0, 0.8), (1.0, 0.5)])
def test_balance_sets_what_is_predicted_without_knowledge(tmp_path, balance, wanted):
    """From inputs that say nothing, a network learns the weighted shares of the classes."""
    label = np.repeat([0, 1], [80, 20])
    x = np.ones((1, 100, 1), np.float32)
    network = dmdt.fit(
        torch.nn.Linear(1, 2), x, label, out=tmp_path, steps=400, learning_rate=0.03,
        smoothing=0.0, balance=balance, weight_decay=0.0, progress=False,
    )  # fmt: skip
    with torch.no_grad():
        p = network(torch.ones(1, 1)).softmax(1)[0, 0]
    assert float(p) == pytest.approx(wanted, abs=0.04)


def test_samples_start_with_the_curves_as_they_are(made):
    d = crts.load_crts(made, "val")
    contract = Contract(crts.CLASSES, features=("amplitude", "stetson_j"))
    x = dmdt.samples(d, contract, 4)
    plain = contract.network_input(read_curves(d.time, d.mag, d.offsets, d.magerr))
    np.testing.assert_array_equal(x[0], plain)
    assert np.isnan(x[1::2, :, 1]).all() and np.isfinite(x[::2, :, 1]).all()
    np.testing.assert_array_equal(x[1, :, 0], plain[:, 0])
    np.testing.assert_array_equal(x, dmdt.samples(d, contract, 4))
    images = dmdt.samples(d, dmdt.PAPER, 2)
    assert images.shape == (2, len(d), 23, 24) and (images[0] != images[1]).any()


@pytest.mark.parametrize("name", ["shallow", "deep", "best"])
def test_a_recipe_ends_with_a_file_that_classifies(tmp_path, made, name):
    recipe = getattr(dmdt, f"train_dmdt_{name}")
    options = {"members": 2, "width": 16} if name == "best" else {}
    path = recipe(tmp_path, made, steps=3, copies=2, batch=16, seed=1, progress=False, **options)
    assert path.name == f"dmdt-{name}.onnx"
    d = crts.load_crts(made, "test")
    found = classify_light_curves(d.time, d.mag, d.offsets, magerr=d.magerr, model=path)
    assert found.classes == crts.CLASSES
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-4)
    learn = crts.load_crts(made, "train")
    np.testing.assert_allclose(found.proportions, np.bincount(learn.label) / len(learn), atol=1e-5)
    provenance = load_model(path).metadata["fastdiff.provenance"]
    assert "seed 1" in provenance and str(made) not in provenance


def test_the_file_gives_what_pytorch_gives(tmp_path, rng):
    names = ("period", "phase_21", "stetson_j")
    known = np.abs(rng.normal(size=(200, 3))).astype(np.float32)
    known[rng.random((200, 3)) < 0.2] = np.nan
    network = classifiers.DeepAndWide(classifiers.EncodeFeatures(names, known), 0, 2, 2, 64)
    classifier = classifiers.Classifier(network, 1.7).eval()
    contract = Contract(("a", "b"), features=names, proportions=(0.5, 0.5))
    path = dmdt.export_classifier(classifier, tmp_path / "m.onnx", contract, known[:8], {"x": "y"})
    with torch.no_grad():
        wanted = classifier(torch.from_numpy(known)).numpy()
    model = load_model(path)
    np.testing.assert_allclose(model.run(known), wanted, atol=0.005)
    assert Contract.of(model) == contract and model.metadata["fastdiff.x"] == "y"
    exact = dmdt.export_classifier(
        classifier, tmp_path / "exact.onnx", contract, known[:8], half=False
    )
    np.testing.assert_allclose(load_model(exact).run(known), wanted, atol=1e-5)
