"""Slow, readable twin of `fastdiff.difference.transinet.method` for one pair, in NumPy."""

import numpy as np

from fastdiff.kernels.image import plan
from tests.kernels.image.reference.measure import measure
from tests.kernels.image.reference.pixels import good_pixels
from tests.kernels.image.reference.tile import normalise, stitch


def subtract(ref, sci, network, scale=1.0, ref_bad=None, sci_bad=None, tile=256, overlap=32):
    """Image of one pair in counts; `network` maps a pair (2, h, w) to (h, w)."""
    good = good_pixels(ref, ref_bad) & good_pixels(sci, sci_bad)
    origins, shape = plan.plan_tiles(*sci.shape, tile, overlap)
    skies_r = measure(ref, ref_bad, origins, shape)
    skies_s = measure(sci, sci_bad, origins, shape)
    outputs = []
    for (y, x), (sky_r, sigma_r), (sky_s, sigma_s) in zip(origins, skies_r, skies_s, strict=True):
        box = np.s_[y : y + shape[0], x : x + shape[1]]
        bad = [None if each is None else each[box] for each in (ref_bad, sci_bad)]
        pair, sigma_d = normalise(ref[box], sci[box], *bad, sky_r, sigma_r, sky_s, sigma_s, scale)
        outside = [(0, 0), (0, shape[0] - pair.shape[1]), (0, shape[1] - pair.shape[2])]
        outputs.append(network(np.pad(pair, outside)) * sigma_d)
    weights = plan.blend_weights(origins, shape)
    image = stitch(outputs, origins, *weights, sci.shape)
    return np.where(good, image, np.nan)
