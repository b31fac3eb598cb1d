"""Pixels: noise about the sum of the tables, bands, and the CUDA kernels in simulator and PTX."""

import subprocess
import sys

import numpy as np
import pytest

from fastdiff.kernels.synth import draw, profiles, render, synth, tables
from tests.kernels.synth import scenes
from tests.kernels.synth.reference import synth as reference


def test_pixels_are_the_sum_of_the_table_with_the_stated_noise():
    ny, nx, n = 40, 48, 6
    calm = {"p_missing": 0.0, "p_mask_saturated": 0.0, "cosmic_rays": 0.0, "hot_pixels": 0.0}
    made = scenes.drawn(n, ny, nx, **calm)
    batch = synth.synthesise(scenes.scene(**calm), n, (ny, nx), 3)
    for i in range(n):
        frame = made["frame"][i].astype(float)
        expected = reference.electrons(frame, made["sources"][i], made["n_sources"][i], ny, nx)
        fx, fy = frame[tables.FX_SCI], frame[tables.FY_SCI]
        truth = reference.resample(expected[2], fx, fy) / frame[tables.GAIN_SCI]
        noise = np.sqrt(np.median(batch.variance[i]))
        np.testing.assert_allclose(batch.truth[i], truth, rtol=1e-3, atol=0.02 * noise)
        for j, image in enumerate((batch.ref[i], batch.sci[i])):
            fx, fy = frame[tables.FX_REF + 2 * j], frame[tables.FY_REF + 2 * j]
            stack = frame[tables.EXPOSURES] if j == 0 else 1.0
            weights = ((1 - fx) ** 2 + fx**2) * ((1 - fy) ** 2 + fy**2)
            variance = (expected[j] + frame[tables.READ_NOISE] ** 2) / stack
            model = reference.resample(np.minimum(expected[j], frame[tables.FULL_WELL]), fx, fy)
            pull = image * frame[tables.GAIN_REF + j] - model
            pull /= np.sqrt(weights * variance[:-1, :-1])
            y, x = np.indices((ny + 1, nx + 1)).astype(float)
            stray = reference.defects(made["defects"][i, j, : made["n_defects"][i, j]], y, x)
            # away from defects, saturation and steep profiles, where the variance is even
            quiet = (stray[:-1, :-1] < 1e-3) & (stray[1:, 1:] < 1e-3)
            quiet &= expected[j][:-1, :-1] < 1.5 * frame[tables.SKY_REF + j]
            assert quiet.sum() > 100
            # mean and width of a unit normal, within five of their standard errors
            assert abs(pull[quiet].mean()) < 5 * np.sqrt(3 / quiet.sum()) + 0.05
            assert abs(np.std(pull[quiet]) - 1) < 5 * np.sqrt(2 / quiet.sum()) + 0.03


def test_bands_do_not_show():
    parameters = scenes.scene()
    one = synth.synthesise(parameters, 2, (70, 64), 1, rows=70)
    many = synth.synthesise(parameters, 2, (70, 64), 1, rows=16)
    for name in ("ref", "sci", "truth", "variance"):
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name))


MANY_SOURCES = {
    "galaxy_density": (1.0, 1.1),
    "star_density": (1500.0, 2000.0),
    "p_resampled": 0.5,
    "transient_density": 800.0,
    "star_snr": (3.0, 300.0),
}


def test_simulator_and_cpu_agree(run_in_cuda_simulator):
    """The CUDA kernels, run in Numba's simulator, give the CPU's samples."""
    code = """
from fastdiff.kernels.synth import draw, profiles, render, tables
from fastdiff.kernels.synth.scene import Scene, as_float32
from fastdiff.simulate import PRESETS
scene = as_float32(Scene(**PRESETS["survey"] | MANY_SOURCES))
n, ny, nx = 1, 8, 10
made = tables.empty_tables(scene, n, (ny, nx), np.empty(0))
size = np.float32(nx), np.float32(ny), np.float32(ny * nx / 4096)
seed = np.uint64(3)
draw.draw_scenes_cuda.launch(1, n, scene, seed, 0, size, profiles.profile_tables(), made)
images = render.Rendered(*(np.empty((n, ny, nx), np.float32) for _ in range(4)))
nothing = np.empty((0, 2, 1, 1), np.float32)
render.render_cuda.launch(n * ny, nx, seed, 0, made, nothing, images)
np.savez(OUT, frame=made.frame, n=made.n_sources, **images._asdict())
"""
    made = run_in_cuda_simulator(f"MANY_SOURCES = {MANY_SOURCES}\n{code}")
    batch = synth.synthesise(scenes.scene(**MANY_SOURCES), 1, (8, 10), 3)
    np.testing.assert_allclose(made["frame"], batch.frame, rtol=1e-4, atol=1e-5)
    assert made["n"].sum() > 10
    for name in ("truth", "variance"):
        np.testing.assert_allclose(made[name], getattr(batch, name), rtol=1e-2, atol=1e-2)
    for name in ("ref", "sci"):
        a, b = made[name], getattr(batch, name)
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        # a Poisson count may round the other way in the last bit of its mean
        assert np.nanmean(np.abs(a - b) > 1e-3 * np.abs(b) + 1e-2) < 0.02


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_compiles_to_ptx(capability):
    parameters = scenes.scene()
    made = tables.empty_tables(parameters, 1, (16, 16), np.empty(0))
    size = (np.float32(16),) * 3
    target = f".target sm_{capability[0]}{capability[1]}"
    text = draw.draw_scenes_cuda.ptx(
        (parameters, np.uint64(1), 0, size, profiles.profile_tables(), made), capability
    )
    assert target in text
    images = render.Rendered(*(np.empty((1, 16, 16), np.float32),) * 4)
    background = np.empty((1, 2, 17, 17), np.float32)
    text = render.render_cuda.ptx((np.uint64(1), 0, made, background, images), capability)
    assert target in text
    assert ".f64" not in text.split(".entry")[1], "float64 arithmetic crept into the pixel loop"


def test_uninstalled_kernels_need_no_gpu():
    code = "from fastdiff.kernels.synth import render; print(render.render_cuda.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "render_cuda"
