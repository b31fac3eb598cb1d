"""Classifiers of light curves: the data's split, the paper's networks, recipes, export."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the train extra (PyTorch)")
onnx = pytest.importorskip("onnx", reason="export needs the train extra (onnx)")

from fastdiff.lightcurves.classify import Contract, classify_light_curves  # noqa: E402
from fastdiff.lightcurves.curves import read_curves  # noqa: E402
from fastdiff.models import load_model  # noqa: E402
from fastdiff.training import crts, dmdt  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A file like the real one: sinusoids whose class is their period."""
    rng = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("data")
    n = 20 * len(crts.CLASSES)
    label = np.repeat(crts.CLASSES, 20)
    length = rng.integers(40, 60, n)
    offsets = np.concatenate([[0], np.cumsum(length)])
    time, mag = [], []
    for i, k in enumerate(length):
        t = 54000 + rng.uniform(0, 300, k)
        t[0] = 123.0  # a fault as in the real file
        period = 0.31 * 2.3 ** crts.CLASSES.index(label[i])
        time.append(t)
        mag.append(15 + 0.4 * np.cos(2 * np.pi * t / period) + rng.normal(0, 0.05, k))
    (folder / "crts").mkdir()
    np.savez(
        folder / "crts" / "crts_train.npz",
        t=np.concatenate(time),
        mag=np.concatenate(mag),
        magerr=np.full(offsets[-1], 0.05, np.float32),
        offsets=offsets,
        label=label,
        ids=np.arange(n) + 1000,
        ra=rng.uniform(0, 360, n),
        dec=rng.uniform(-80, 80, n),
    )
    return folder


# --- data -------------------------------------------------------------------------------


def test_groups_are_chains_of_neighbours(rng):
    ra = rng.uniform(0, 0.05, 150) + 359.98
    dec = 60 + rng.uniform(0, 0.03, 150)
    radius = 8.0
    group = crts.position_groups(ra % 360, dec, radius)
    # By hand: labels spread along pairs until nothing changes.
    a, d = np.radians(ra), np.radians(dec)
    cosine = np.sin(d) * np.sin(d[:, None]) + np.cos(d) * np.cos(d[:, None]) * np.cos(
        a - a[:, None]
    )
    near = np.degrees(np.arccos(np.clip(cosine, -1, 1))) * 3600 < radius
    np.fill_diagonal(near, True)
    slow = np.arange(150)
    while True:
        new = np.where(near, slow, 999).min(1)
        if (new == slow).all():
            break
        slow = new
    assert 1 < len(np.unique(slow)) < 150
    assert ((group[:, None] == group) == (slow[:, None] == slow)).all()


def test_the_split_has_its_shares():
    parts = [crts.split_of(number) for number in range(20_000)]
    shares = [parts.count(name) / 20_000 for name in ("train", "val", "test")]
    np.testing.assert_allclose(shares, [0.7, 0.15, 0.15], atol=0.01)


def test_the_parts_of_the_real_data(data_folder):
    whole = crts.load_crts(data_folder)
    parts = [crts.load_crts(data_folder, split) for split in ("train", "val", "test")]
    assert sorted(np.concatenate([p.ids for p in parts])) == sorted(whole.ids)
    assert (whole.time > 50_000).all() and np.diff(whole.offsets).min() >= 20
    with np.load(data_folder / "crts" / "crts_train.npz") as data:
        ra, dec = data["ra"], data["dec"]
        where = {number: i for i, number in enumerate(data["ids"].tolist())}
        label = data["label"]
    part = np.full(len(ra), -1)
    for k, some in enumerate(parts):
        rows = [where[number] for number in some.ids.tolist()]
        part[rows] = k
        assert (label[rows] == np.array(some.classes)[some.label]).all()
    # No two curves within 3 arcseconds are in different parts.
    for i in range(len(ra)):
        close = (np.abs(dec - dec[i]) * 3600 < 3) & (
            np.abs(ra - ra[i]) * np.cos(np.radians(dec[i])) * 3600 < 3
        )
        assert len(set(part[close & (part >= 0)].tolist())) <= 1


def test_faults_are_left_out_and_parts_add_up(made):
    whole = crts.load_crts(made)
    assert whole.time.min() > 50_000
    assert len(whole) == sum(len(crts.load_crts(made, s)) for s in ("train", "val", "test"))
    two = crts.load_crts(made, classes=("LPV", "EW"))
    assert two.classes == ("LPV", "EW") and np.bincount(two.label).tolist() == [20, 20]


def test_what_is_asked_for_must_exist(made):
    with pytest.raises(ValueError, match=r"split is 'dev'; it must be one of train, val, test"):
        crts.load_crts(made, "dev")
    with pytest.raises(ValueError, match="Mira"):
        crts.load_crts(made, classes=("EW", "Mira"))


def test_take_repeats_and_reorders(made):
    d = crts.load_crts(made)
    some = d.take(np.array([5, 0, 5]))
    for row, i in enumerate((5, 0, 5)):
        a, b = some.offsets[row : row + 2]
        np.testing.assert_array_equal(some.time[a:b], d.time[d.offsets[i] : d.offsets[i + 1]])
        assert some.ids[row] == d.ids[i] and some.label[row] == d.label[i]


def test_sdss(data_folder):
    d = crts.load_sdss_rrlyrae(data_folder, "g")
    # Sesar et al. (2010): 379 RR Lyrae of type ab and 104 of type c.
    number = np.bincount(d.label, minlength=7)
    assert (number[crts.CLASSES.index("RRab")], number[crts.CLASSES.index("RRc")]) == (379, 104)
    assert d.mag.max() < 30 and np.diff(d.offsets).min() > 0
    periods = np.array([crts.load_sdss_periods(data_folder)[number] for number in d.ids])
    overtone = d.label == crts.CLASSES.index("RRc")
    assert periods.min() > 0.2 and periods[overtone].max() < 0.5 < periods.max() < 1
    assert np.median(periods[overtone]) < np.median(periods[~overtone])
    with pytest.raises(ValueError, match="band is 'y'"):
        crts.load_sdss_rrlyrae(data_folder, "y")


# --- augmentation -----------------------------------------------------------------------


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


# --- networks ---------------------------------------------------------------------------


def layers(network, x):
    """(kind, shape of its output) of every layer."""
    seen = []
    for layer in network.eval():
        x = layer(x)
        seen.append((type(layer).__name__, tuple(x.shape[1:])))
    return seen


def test_the_shallow_network_is_listing_2():
    network = dmdt.shallow_network()
    assert layers(network, torch.zeros(2, 23, 24))[1:] == [
        ("Conv2d", (32, 21, 22)),
        ("ReLU", (32, 21, 22)),
        ("Dropout", (32, 21, 22)),
        ("Flatten", (32 * 21 * 22,)),
        ("Linear", (128,)),
        ("ReLU", (128,)),
        ("Dropout", (128,)),
        ("Linear", (128,)),
        ("ReLU", (128,)),
        ("Linear", (7,)),
    ]
    assert [x.p for x in network if isinstance(x, torch.nn.Dropout)] == [0.1, 0.25]


def test_the_deep_network_is_listing_1():
    network = dmdt.deep_network()
    assert layers(network, torch.zeros(2, 23, 24))[1:] == [
        ("Conv2d", (64, 21, 22)),
        ("ReLU", (64, 21, 22)),
        ("MaxPool2d", (64, 10, 11)),
        ("Dropout", (64, 10, 11)),
        ("Conv2d", (128, 6, 7)),
        ("ReLU", (128, 6, 7)),
        ("Conv2d", (256, 2, 3)),
        ("ReLU", (256, 2, 3)),
        ("Flatten", (256 * 2 * 3,)),
        ("Linear", (512,)),
        ("ReLU", (512,)),
        ("Dropout", (512,)),
        ("Linear", (512,)),
        ("ReLU", (512,)),
        ("Linear", (7,)),
    ]
    assert [x.p for x in network if isinstance(x, torch.nn.Dropout)] == [0.1, 0.5]


@pytest.mark.parametrize("shape", [(23, 24), (31, 24), (31, 16), (23, 16)])
def test_the_shallow_network_takes_the_grids_of_table_3(shape):
    assert dmdt.shallow_network(2, shape).eval()(torch.zeros(3, *shape)).shape == (3, 2)


def test_the_deep_network_needs_room_for_its_convolutions():
    assert dmdt.deep_network(2, (31, 20)).eval()(torch.zeros(3, 31, 20)).shape == (3, 2)
    with pytest.raises(ValueError, match=r"shape is \(31, 16\).*20"):
        dmdt.deep_network(2, (31, 16))


def test_features_become_numbers_of_spread_one_and_gaps_are_said(rng):
    names = ("period", "skew", "phase_21", "stetson_j")
    known = np.stack(
        [10 ** rng.normal(0, 2, 500), rng.normal(3, 0.1, 500), rng.uniform(0, 6.28, 500),
         np.where(rng.random(500) < 0.5, np.nan, rng.normal(0, 1, 500))], 1,
    ).astype(np.float32)  # fmt: skip
    encode = dmdt.EncodeFeatures(names, known)
    made = encode(torch.from_numpy(known)).numpy()
    # log period, skew, stetson_j; cos and sin of the phase; stetson_j is missing
    assert made.shape == (500, 6) == (500, encode.n_columns)
    assert np.isfinite(made).all() and np.abs(np.median(made[:, :2], 0)).max() < 0.05
    np.testing.assert_allclose(np.sinh(made[:, 0]).std(), 1, rtol=0.15)
    np.testing.assert_allclose(made[:, 3], np.cos(known[:, 2]), atol=1e-6)
    np.testing.assert_allclose(made[:, 4], np.sin(known[:, 2]), atol=1e-6)
    gap = np.isnan(known[:, 3])
    np.testing.assert_array_equal(made[:, 5], gap)
    assert (made[gap, 2] == 0).all()
    nothing = encode(torch.full((1, 4), float("nan"))).numpy()
    np.testing.assert_array_equal(nothing, [[0, 0, 0, 0, 0, 1]])


def test_members_are_trained_apart_and_averaged(rng):
    known = rng.normal(size=(50, 2)).astype(np.float32)
    network = dmdt.DeepAndWide(dmdt.EncodeFeatures(("skew", "std"), known), 6, 3, 4, 8, 5, 0.0)
    x = torch.from_numpy(rng.random((10, 8)).astype(np.float32))
    for layer in network.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    logits = network.train()(x)
    assert logits.shape == (10, 4, 3)
    wanted = torch.log(logits.softmax(2).mean(1))
    torch.testing.assert_close(network.eval()(x), wanted)
    assert not torch.allclose(logits[:, 0], logits[:, 1])


# --- training ---------------------------------------------------------------------------


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
    network = dmdt.DeepAndWide(dmdt.EncodeFeatures(names, known), 0, 2, 2, 64)
    classifier = dmdt.Classifier(network, 1.7).eval()
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
