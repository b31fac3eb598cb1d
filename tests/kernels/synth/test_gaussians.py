"""The Gaussian's exponential."""

import numpy as np

from fastdiff.kernels.synth import gaussians


def test_exponential_is_as_good_as_said():
    q = np.linspace(0, 20, 2001, dtype=np.float32)
    np.testing.assert_allclose(
        [gaussians.exp_neg(v) for v in q], np.exp(-q.astype(float)), rtol=2e-4
    )
