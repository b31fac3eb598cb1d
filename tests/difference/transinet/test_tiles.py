"""The tiles of "transinet": their calls, seams and memory."""

import numpy as np

from fastdiff import subtract_batch
from fastdiff.difference.transinet import network as transinet_network
from fastdiff.difference.transinet.tiles import TransinetTiles
from tests import tiny
from tests.difference.frames import SIGMA_SCI, make, same


def test_seams_are_invisible(minus):
    blur = tiny.convolve(minus.with_name("blur.onnx"), np.full((7, 7), 1 / 49))
    ref, sci = make((500, 420), seed=2, scale=0.8, stars=60)
    whole = subtract_batch(ref, sci, model=blur, tile=512)
    tiled = subtract_batch(ref, sci, model=blur, tile=128)
    assert whole.meta["n_tiles"] == 1
    assert tiled.meta["n_tiles"] > 12
    # A tile measures its sky to about sigma / sqrt(4096 samples).
    step = tiled.image - whole.image
    assert np.abs(step).max() < 0.15 * SIGMA_SCI
    part = subtract_batch(ref[100:350, 90:340], sci[100:350, 90:340], model=blur, tile=128)
    inside = np.s_[10:-10, 10:-10]
    left = part.image[inside] - tiled.image[100:350, 90:340][inside]
    assert np.abs(left).max() < 0.25 * SIGMA_SCI


def test_threads_batches_and_tiles_in_a_call_change_nothing(minus, monkeypatch):
    ref, sci = make((100, 90), n=5)
    want = subtract_batch(ref, sci, model=minus, tile=64, threads=1)
    for threads in (2, 3, 8):
        same(subtract_batch(ref, sci, model=minus, tile=64, threads=threads), want)
    for i in range(5):
        same(subtract_batch(ref[i], sci[i], model=minus, tile=64), want[i])
    monkeypatch.setitem(transinet_network._PIXELS_PER_CALL, "onnxruntime-cpu", 1)
    same(subtract_batch(ref, sci, model=minus, tile=64), want)


def test_small_frames_share_calls_and_memory_holds_few_tiles(minus, monkeypatch):
    shapes, cut, stitched, ahead = [], [], [], []
    real_cut, real_stitch = TransinetTiles.cut, TransinetTiles.stitch

    def spy_cut(self, places):
        cut.append(len(places))
        ahead.append(sum(cut) - sum(stitched))
        pairs = real_cut(self, places)
        shapes.append(pairs.shape)
        return pairs

    def spy_stitch(self, outputs, places):
        stitched.append(len(places))
        real_stitch(self, outputs, places)

    monkeypatch.setattr(TransinetTiles, "cut", spy_cut)
    monkeypatch.setattr(TransinetTiles, "stitch", spy_stitch)
    images = make((32, 32), n=150)
    subtract_batch(*images, model=minus, threads=2)
    assert {shape[0] for shape in shapes} == {64, 150 - 128}
    for each in (shapes, cut, stitched, ahead):
        each.clear()
    subtract_batch(*make((1024, 256)), model=minus, tile=64, threads=2)
    tiles_per_call = 2**16 // 64**2
    assert sum(stitched) == sum(cut) > 80
    # Two at work, five waiting or done, and one being stitched.
    assert max(ahead) <= 8 * tiles_per_call
