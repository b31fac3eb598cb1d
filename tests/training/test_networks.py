"""The networks: the paper's layers, any image size, and the small one's contract."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the train extra (PyTorch)")

from fastdiff.training.networks import ATTENTION, TransiNet, TransiNetLite, compress, expand  # noqa: E402

# Small networks: threads would only wait for each other.
torch.set_num_threads(1)


def count_from_table(width=1.0):
    """Weights and biases, from the table of layers in the authors' material."""

    def m(maps):
        return max(1, round(maps * width))

    def conv(maps, out, kernel):
        return maps * out * kernel * kernel + out

    # Size of the encoder's maps after each level: 1/2, 1/4, 1/8, 1/16, 1/32, 1/64.
    total = conv(2, m(128), 7) + conv(m(128), m(256), 5) + conv(m(256), m(512), 5)
    total += conv(m(512), m(512), 3)
    total += conv(m(512), m(1024), 3) + conv(m(1024), m(1024), 3)
    total += conv(m(1024), m(1024), 3) + conv(m(1024), m(1024), 3)
    total += conv(m(1024), m(2048), 3) + conv(m(2048), m(2048), 3)
    joined = m(2048)
    for up, across in [
        (1024, m(1024)),
        (512, m(1024)),
        (256, m(512)),
        (128, m(256)),
        (64, m(128)),
        (32, 2),
    ]:
        total += conv(joined, 1, 3)  # prediction
        total += conv(joined, m(up), 4)  # up-convolution
        total += conv(1, 1, 4)  # the prediction, up-sampled
        joined = across + m(up) + 1
    return total + conv(joined, 1, 3)


@pytest.mark.parametrize("width", [1.0, 0.5, 0.1])
def test_transinet_has_the_papers_number_of_parameters(width):
    with torch.device("meta"):
        network = TransiNet(width)
    assert sum(p.numel() for p in network.parameters()) == count_from_table(width)


@pytest.mark.parametrize("shape", [(64, 64), (140, 140), (33, 100), (1, 7), (129, 65)])
def test_transinet_takes_any_size(shape):
    torch.manual_seed(0)
    network = TransiNet(0.02)
    pair = torch.randn(2, 2, *shape)
    predictions = network(pair)
    assert [tuple(p.shape) for p in predictions] == [
        (2, 1, int(np.ceil(shape[0] / 2**k)), int(np.ceil(shape[1] / 2**k))) for k in range(7)
    ]
    with torch.no_grad():
        output = network.eval()(pair)
    torch.testing.assert_close(output * ATTENTION, predictions[0])


def test_transinet_pads_by_repeating_the_edge():
    torch.manual_seed(0)
    network = TransiNet(0.02).eval()
    pair = torch.randn(1, 2, 70, 50)
    padded = torch.from_numpy(np.pad(pair.numpy(), ((0, 0), (0, 0), (0, 58), (0, 14)), "edge"))
    with torch.no_grad():
        torch.testing.assert_close(network(pair), network(padded)[..., :70, :50])


def test_transinet_looks_at_everything_and_learns_everywhere():
    torch.manual_seed(0)
    network = TransiNet(0.02)
    sum(p.abs().sum() for p in network(torch.randn(1, 2, 64, 64))).backward()
    silent = [n for n, p in network.named_parameters() if not p.grad.abs().sum() > 0]
    assert silent == []


def test_compress_and_expand_are_inverse_odd_and_finite():
    x = torch.tensor([-1e6, -3.0, -0.1, 0.0, 0.1, 3.0, 1e6], dtype=torch.float64)
    np.testing.assert_allclose(compress(x).numpy(), 2 * np.arcsinh(x.numpy() / 2), rtol=1e-12)
    torch.testing.assert_close(expand(compress(x)), x)
    assert torch.isfinite(expand(torch.tensor([-1e9, 1e9]))).all()


def test_lite_shapes_and_modes():
    torch.manual_seed(0)
    network = TransiNetLite((8, 8, 8, 16))
    pair = torch.randn(3, 4, 48, 80)
    predictions = network(pair)
    assert [tuple(p.shape) for p in predictions] == [(3, 1, 48 // s, 80 // s) for s in (1, 4, 8)]
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(pair), expand(predictions[0]))


def test_lite_moves_with_the_image():
    """A shift by the stride shifts the output: nothing depends on the place in the frame."""
    torch.manual_seed(0)
    network = TransiNetLite((8, 8, 8, 16)).eval()
    pair = torch.randn(1, 4, 352, 352)
    with torch.no_grad():
        a, b = network(pair), network(torch.roll(pair, (16, 32), (2, 3)))
    inside = np.s_[..., 160:192, 160:192]
    torch.testing.assert_close(torch.roll(a, (16, 32), (2, 3))[inside], b[inside])
    assert a[inside].std() > 0


def test_lite_learns_everywhere_at_any_brightness():
    torch.manual_seed(0)
    network = TransiNetLite((8, 8, 8, 16))
    pair = torch.randn(2, 4, 32, 32) * torch.tensor([1.0, 1e6]).reshape(2, 1, 1, 1)
    sum(p.abs().sum() for p in network(pair)).backward()
    gradients = {n: p.grad for n, p in network.named_parameters()}
    assert all(torch.isfinite(g).all() for g in gradients.values())
    assert [n for n, g in gradients.items() if not g.abs().sum() > 0] == []


def test_lite_starts_with_quiet_residuals():
    torch.manual_seed(0)
    block = TransiNetLite().encode4
    ratio = float((block.second.weight.std() / block.first.weight.std()).detach())
    assert ratio == pytest.approx(0.3, rel=0.05)


def test_lite_is_small():
    assert 4e5 < sum(p.numel() for p in TransiNetLite().parameters()) < 1e6


@pytest.mark.parametrize("channels", [(8, 8, 8), (8, 8, 8, 0), ()])
def test_lite_needs_four_levels(channels):
    with pytest.raises(ValueError, match="four positive numbers"):
        TransiNetLite(channels)


@pytest.mark.parametrize("width", [0, -1.0, float("nan")])
def test_width_must_be_positive(width):
    with pytest.raises(ValueError, match="width is"):
        TransiNet(width)
