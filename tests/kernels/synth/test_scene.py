"""Parameters of scenes in float32."""

import numpy as np

from fastdiff.kernels.synth.scene import Scene, as_float32
from fastdiff.simulate import PRESETS


def test_parameters_become_float32_and_keep_their_values():
    scene = Scene(**PRESETS["survey"])
    for value, made in zip(scene, as_float32(scene), strict=True):
        assert isinstance(made, tuple) == isinstance(value, tuple)
        assert all(type(each) is np.float32 for each in np.atleast_1d(made))
        np.testing.assert_allclose(made, value, rtol=1e-7)
