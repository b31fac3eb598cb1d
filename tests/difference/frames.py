"""Small frames with stars."""

import numpy as np
from scipy import ndimage

SKY_REF, SKY_SCI, SIGMA_REF, SIGMA_SCI = 300.0, 500.0, 3.0, 5.0


def make(shape=(96, 80), n=None, seed=0, scale=1.0, stars=12):
    """Reference and science images, float32: Gaussian stars on flat sky and white noise."""
    rng = np.random.default_rng(seed)
    batch_shape = (1 if n is None else n, *shape)
    signal = np.zeros(batch_shape)
    for image in signal:
        image[rng.integers(8, shape[0] - 8, stars), rng.integers(8, shape[1] - 8, stars)] = 30000
    signal = ndimage.gaussian_filter(signal, (0, 1.5, 1.5))
    ref = SKY_REF + signal + SIGMA_REF * rng.normal(size=batch_shape)
    sci = SKY_SCI + scale * signal + SIGMA_SCI * rng.normal(size=batch_shape)
    if n is None:
        ref, sci = ref[0], sci[0]
    return ref.astype(np.float32), sci.astype(np.float32)


def same(a, b):
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.noise, b.noise)
    np.testing.assert_array_equal(a.mask, b.mask)
