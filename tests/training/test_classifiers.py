"""The classifiers against the listings of the paper."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the train extra (PyTorch)")
onnx = pytest.importorskip("onnx", reason="export needs the train extra (onnx)")

from fastdiff.training import classifiers  # noqa: E402

torch.set_num_threads(1)


def layers(network, x):
    """(kind, shape of its output) of every layer."""
    seen = []
    for layer in network.eval():
        x = layer(x)
        seen.append((type(layer).__name__, tuple(x.shape[1:])))
    return seen


def test_the_shallow_network_is_listing_2():
    network = classifiers.shallow_network()
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
    network = classifiers.deep_network()
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
    assert classifiers.shallow_network(2, shape).eval()(torch.zeros(3, *shape)).shape == (3, 2)


def test_the_deep_network_needs_room_for_its_convolutions():
    assert classifiers.deep_network(2, (31, 20)).eval()(torch.zeros(3, 31, 20)).shape == (3, 2)
    with pytest.raises(ValueError, match=r"shape is \(31, 16\).*20"):
        classifiers.deep_network(2, (31, 16))


def test_features_become_numbers_of_spread_one_and_gaps_are_said(rng):
    names = ("period", "skew", "phase_21", "stetson_j")
    known = np.stack(
        [10 ** rng.normal(0, 2, 500), rng.normal(3, 0.1, 500), rng.uniform(0, 6.28, 500),
         np.where(rng.random(500) < 0.5, np.nan, rng.normal(0, 1, 500))], 1,
    ).astype(np.float32)  # fmt: skip
    encode = classifiers.EncodeFeatures(names, known)
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
    network = classifiers.DeepAndWide(
        classifiers.EncodeFeatures(("skew", "std"), known), 6, 3, 4, 8, 5, 0.0
    )
    x = torch.from_numpy(rng.random((10, 8)).astype(np.float32))
    for layer in network.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    logits = network.train()(x)
    assert logits.shape == (10, 4, 3)
    wanted = torch.log(logits.softmax(2).mean(1))
    torch.testing.assert_close(network.eval()(x), wanted)
    assert not torch.allclose(logits[:, 0], logits[:, 1])
