"""One scene: its PSFs, its frame, the maps between its images, its sources and its defects."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .. import jit
from ..jit import cuda
from .defects import draw_artefacts, draw_missing, draw_trails
from .profiles import Profiles
from .psf import draw_psfs, psf_concentration
from .random import draw, draw_log_range, draw_normal, draw_range, start_stream
from .scene import Scene
from .sources import draw_galaxies, draw_stars, draw_transients
from .tables import (
    EXPOSURES,
    FULL_WELL,
    FX_REF,
    FY_REF,
    GAIN_REF,
    GAIN_SCI,
    GRADIENT_X,
    GRADIENT_Y,
    HIDE_SATURATED,
    M_X,
    M_XX,
    M_XY,
    M_Y,
    M_YX,
    M_YY,
    READ_NOISE,
    REF,
    SCI,
    SKY_REF,
    SKY_SCI,
    THROUGHPUT,
    Tables,
    sample_of,
)

f32 = np.float32
u64 = np.uint64


class Field(NamedTuple):
    """Numbers of one sample by which its sources and defects are drawn; pixels and electrons."""

    width: np.float32
    height: np.float32
    areas: np.float32  # of 64 x 64 pixels, in the frame
    fwhm_ref: np.float32
    fwhm_sci: np.float32
    read_variance: np.float32
    flux_unit: np.float32  # the flux with S/N = 1
    faintest: np.float32  # Gaussians whose peak is below are left out
    jitter: np.float32  # standard deviation of a source's own displacement
    flicker: np.float32  # standard deviation of its own relative flux error


@jit.item
def draw_scene(scene, seed, sample, size, profiles, own):
    """Draw everything that makes sample number `sample`; see `Scene` for the distributions.

    `size` is (width, height, areas) as in `Field`; `own` are the sample's own `Tables`. The order
    of the draws is part of what a seed means: a draw that is added goes to the end.
    """
    state = own.state
    start_stream(state, seed, sample)
    for plane in range(3):
        own.n_sources[plane] = 0
    for image in range(2):
        own.n_defects[image] = 0
    own.n_changes[0] = 0
    fwhm_ref, fwhm_sci = draw_psfs(scene, profiles.moffat, own)
    draw_frame(scene, state, own.frame)
    read_variance, flux_unit, faintest = noise_limits(own)
    draw_maps(scene, size, own)
    jitter = draw_log_range(state, scene.source_jitter)
    flicker = draw_log_range(state, scene.flux_jitter)
    width, height, areas = size
    field = Field(
        width, height, areas, fwhm_ref, fwhm_sci, read_variance, flux_unit, faintest, jitter,
        flicker,
    )  # fmt: skip
    n_galaxies, cluster = draw_galaxies(scene, field, profiles.sersic, own)
    draw_stars(scene, field, cluster, own)
    draw_transients(scene, field, n_galaxies, own)
    draw_artefacts(scene, field, own)
    draw_missing(scene, field, own)
    draw_trails(scene, field, own)


@jit.item
def draw_frame(scene, state, frame):
    """Sky, noise and detector of both images."""
    sky = draw_log_range(state, scene.sky)
    frame[SKY_SCI] = sky
    frame[SKY_REF] = sky * draw_log_range(state, scene.sky_ratio)
    frame[READ_NOISE] = draw_range(state, scene.read_noise)
    frame[GAIN_SCI] = draw_log_range(state, scene.gain)
    frame[GAIN_REF] = frame[GAIN_SCI] * draw_log_range(state, scene.gain_ratio)
    frame[EXPOSURES] = f32(math.floor(draw_log_range(state, scene.n_exposures) + f32(0.5)))
    frame[THROUGHPUT] = draw_log_range(state, scene.throughput)
    # a star never saturates below the sky
    frame[FULL_WELL] = max(
        draw_log_range(state, scene.full_well), f32(3) * max(frame[SKY_SCI], frame[SKY_REF])
    )
    frame[HIDE_SATURATED] = f32(1) if draw(state) < scene.p_mask_saturated else f32(0)
    frame[GRADIENT_X] = scene.gradient * (f32(2) * draw(state) - f32(1))
    frame[GRADIENT_Y] = scene.gradient * (f32(2) * draw(state) - f32(1))
    for image in range(2):
        resampled = draw(state) < scene.p_resampled
        fx, fy = draw(state), draw(state)
        frame[FX_REF + 2 * image] = fx if resampled else f32(0)
        frame[FY_REF + 2 * image] = fy if resampled else f32(0)


@jit.item
def noise_limits(own):
    """(variance of the read noise, flux with S/N = 1, peak of the faintest Gaussian kept).

    The noise is that of a pixel of sci - ref, in electrons of sci.
    """
    frame = own.frame
    read_variance = frame[READ_NOISE] * frame[READ_NOISE]
    thr = frame[THROUGHPUT]
    variance = (
        frame[SKY_SCI]
        + read_variance
        + (frame[SKY_REF] + read_variance) / (frame[EXPOSURES] * thr * thr)
    )
    noise = f32(math.sqrt(variance))
    flux_unit = noise / f32(math.sqrt(psf_concentration(own.psf[SCI])))
    faintest = f32(0.03) * min(
        noise, f32(math.sqrt((frame[SKY_REF] + read_variance) / frame[EXPOSURES])) / thr
    )
    return read_variance, flux_unit, faintest


@jit.item
def draw_maps(scene, size, own):
    """The map D{} of eq 3 about the frame's centre: one half of it on each image."""
    state, frame = own.state, own.frame
    width, height, _ = size
    turn = scene.rotation * draw_normal(state)
    grow = scene.scaling * draw_normal(state)
    dx, dy = scene.shift * draw_normal(state), scene.shift * draw_normal(state)
    cx, cy = f32(0.5) * (width - f32(1)), f32(0.5) * (height - f32(1))
    for image in range(2):
        m = own.maps[image]
        half = f32(-0.5) if image == REF else f32(0.5)
        cos = f32(math.cos(half * turn)) * (f32(1) + half * grow)
        sin = f32(math.sin(half * turn)) * (f32(1) + half * grow)
        m[M_XX] = cos
        m[M_XY] = -sin
        m[M_YX] = sin
        m[M_YY] = cos
        # the bilinear shift that follows is made up for here
        m[M_X] = cx - cos * cx + sin * cy + half * dx + frame[FX_REF + 2 * image]
        m[M_Y] = cy - sin * cx - cos * cy + half * dy + frame[FY_REF + 2 * image]


# ---------------------------------------------------------------- a batch


@jit.cpu_loop
def draw_scenes_cpu(start, stop, scene, seed, first, size, profiles, tables):
    """Draw samples ``first + start`` to ``first + stop - 1``."""
    for i in range(start, stop):
        draw_scene(scene, seed, first + i, size, profiles, sample_of(tables, i))


@jit.cuda_kernel
def draw_scenes_cuda(scene, seed, first, size, profiles, tables):
    """One thread a sample."""
    i = cuda.grid(1)
    if i < tables.frame.shape[0]:
        draw_scene(scene, seed, first + i, size, profiles, sample_of(tables, i))


def draw_scenes(
    scene: Scene,
    seed: int,
    first: int,
    shape: tuple[int, int],
    profiles: Profiles,
    tables: Tables,
    threads: int | None = None,
) -> None:
    """Fill the tables of samples ``first``, ``first + 1``, ... where they lie.

    Parameters
    ----------
    scene : Scene
        In float32; see `as_float32`.
    seed, first : int
    shape : (int, int)
        Pixels (ny, nx).
    profiles : Profiles
        Where the tables lie.
    tables : Tables
        NumPy's or CuPy's arrays, from `empty_tables`.
    threads : int, optional
        Of the CPU; all cores by default.
    """
    ny, nx = shape
    size = (f32(nx), f32(ny), f32(ny * nx) * f32(1 / 4096))
    n = tables.frame.shape[0]
    arguments: tuple[Any, ...] = (scene, u64(seed), first, size, profiles, tables)
    if jit.on_cpu(tables.frame):
        jit.run(draw_scenes_cpu, n, threads, *arguments)
    else:
        jit.launch(draw_scenes_cuda, n, *arguments)
