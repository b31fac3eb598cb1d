"""Presets: each names every parameter of a scene."""

import pytest

from fastdiff.kernels.synth.scene import Scene
from fastdiff.simulate import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole(name):
    scene = Scene(**PRESETS[name])
    assert all(low <= high for low, high in (v for v in scene if isinstance(v, tuple))) or (
        scene.amplitude_rule == 2  # its amplitude is (mean, standard deviation)
    )
