"""The network of "transinet": what it is given, and averages over turns."""

import numpy as np
import pytest

import fastdiff
from fastdiff import subtract_batch
from tests import tiny
from tests.difference.frames import make


@pytest.mark.parametrize("symmetry", ["cyclic", "dihedral"])
def test_symmetry_averages_the_network(minus, symmetry):
    kernel = np.random.default_rng(1).normal(size=(3, 3))
    turned = [np.rot90(kernel, k) for k in range(4)]
    if symmetry == "dihedral":
        turned += [np.rot90(kernel.T, k) for k in range(4)]
    lopsided = tiny.convolve(minus.with_name("lopsided.onnx"), kernel)
    fair = tiny.convolve(minus.with_name("fair.onnx"), np.mean(turned, axis=0))
    ref, sci = make((70, 140), n=2)
    d = subtract_batch(ref, sci, model=lopsided, symmetry=symmetry, tile=64)
    want = subtract_batch(ref, sci, model=fair, tile=64)
    np.testing.assert_allclose(d.image, want.image, atol=0.01)
    assert np.abs(subtract_batch(ref, sci, model=lopsided, tile=64).image - want.image).max() > 1


@pytest.mark.parametrize(("channel", "kernel"), [(2, "K"), (3, "L")])
def test_a_model_may_ask_for_matched_differences(folder, channel, kernel):
    """Channels 2 and 3 are the differences of kernels/match.py, tile by tile."""
    from fastdiff.kernels.image import match, tile

    made = fastdiff.simulate.pairs(3, (64, 64), seed=4)
    model = tiny.channel(folder / f"{kernel}.onnx", channel)
    d = subtract_batch(made.ref, made.sci, model=model, threads=2)
    pairs, sigma, _ = tile.normalise_pairs(made.ref, made.sci)
    expected = match.match_psfs(pairs)[:, channel] * sigma[:, None, None]
    good = ~d.mask
    np.testing.assert_allclose(d.image[good], expected[good], rtol=1e-3, atol=1e-3 * sigma.min())


def test_a_network_that_gives_no_number_is_masked(minus):
    broken = tiny.constant(minus.with_name("broken.onnx"), np.nan)
    d = subtract_batch(*make(), model=broken)
    assert np.isnan(d.image).all()
    assert d.mask.all()
