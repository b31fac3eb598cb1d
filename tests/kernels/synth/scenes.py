"""Scenes for tests: one without artefacts, and the tables that were drawn of a batch."""

import numpy as np

from fastdiff.kernels.synth.draw import draw_scenes
from fastdiff.kernels.synth.profiles import profile_tables
from fastdiff.kernels.synth.scene import Scene, as_float32
from fastdiff.kernels.synth.tables import empty_tables
from fastdiff.simulate import PRESETS

# One PSF, no artefact and no registration error: what a pixel holds is then simple to say.
PLAIN = {
    "ecc_max_ref": 0.0,
    "ecc_max_sci": 0.0,
    "p_moffat": 0.0,
    "p_asymmetry": 0.0,
    "p_spikes": 0.0,
    "gradient": 0.0,
    "p_resampled": 0.0,
    "shift": 0.0,
    "rotation": 0.0,
    "scaling": 0.0,
    "source_jitter": (1e-9, 1e-8),
    "flux_jitter": (1e-9, 1e-8),
    "p_variable": 0.0,
    "n_vanished": 0.0,
    "cosmic_rays": 0.0,
    "hot_pixels": 0.0,
    "bad_columns": 0.0,
    "p_missing": 0.0,
    "trails": 0.0,
    "full_well": (1e9, 1e9),
}


def scene(preset="survey", **values):
    """Parameters in float32."""
    return as_float32(Scene(**(PRESETS[preset] | values)))


def drawn(n, ny, nx, seed=3, **values):
    """The tables of n samples, by their names."""
    parameters = scene(**values)
    tables = empty_tables(parameters, n, (ny, nx), np.empty(0, np.float32))
    draw_scenes(parameters, seed, 0, (ny, nx), profile_tables(), tables, 1)
    return tables._asdict()
