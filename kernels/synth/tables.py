"""The tables of a batch: what is drawn of each sample, with the names of all columns.

Tables are plain arrays, because CuPy has no structured ones; their columns are named here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import jit
from .profiles import DE_VAUCOULEURS, EXPONENTIAL, MOFFAT_TERMS
from .random import N_STATE

if TYPE_CHECKING:
    from .scene import Scene

REF, SCI, TRUTH = 0, 1, 2  # the planes of a scene

PSF_TERMS = 7  # four of the profile, one of asymmetry, two of diffraction spikes
MAX_CLUMPS = 8  # star-forming clumps of a galaxy

# Columns of the table of Gaussians, (n, 3, max_sources, 8): value(x, y) =
# PEAK exp(-(A dx^2 + 2 B dx dy + C dy^2)) inside the box |dx| <= RX, |dy| <= RY.
PEAK, X, Y, A, B, C, RX, RY = range(8)
SOURCE_COLUMNS = 8
# Columns of the table of defects, (n, 2, max_defects, 9): a segment of a Gaussian section. One
# whose D_PERIOD is positive is cut into dashes: D_DASH long, one in each period, D_PHASE off the
# segment's centre, all in pixels.
D_PEAK, D_X, D_Y, D_DX, D_DY, D_WIDTH, D_PERIOD, D_DASH, D_PHASE = range(9)
DEFECT_COLUMNS = 9
# Columns of the table of what changed, (n, max_changes, 5); flux in counts of sci.
T_X, T_Y, T_FLUX, T_SNR, T_KIND = range(5)
CHANGE_COLUMNS = 5
NEW, VARIABLE, VANISHED = 0, 1, 2
# Columns of the PSF table, (n, 2, PSF_TERMS, 6).
P_WEIGHT, P_X, P_Y, P_XX, P_XY, P_YY = range(6)
PSF_COLUMNS = 6
# Columns of a frame's own numbers, (n, FRAME_COLUMNS).
(
    SKY_REF,
    SKY_SCI,
    GAIN_REF,
    GAIN_SCI,
    EXPOSURES,
    READ_NOISE,
    THROUGHPUT,
    FULL_WELL,
    HIDE_SATURATED,
    GRADIENT_X,
    GRADIENT_Y,
    FX_REF,
    FY_REF,
    FX_SCI,
    FY_SCI,
    MISSING_REF,  # X_FIRST, X_STOP, Y_FIRST, Y_STOP of the missing rectangle of ref, then of sci
) = range(16)
X_FIRST, X_STOP, Y_FIRST, Y_STOP = range(4)
MISSING_SCI = MISSING_REF + 4
FRAME_COLUMNS = MISSING_SCI + 4
# Columns of the affine maps from the sky to ref and to sci, (n, 2, 6): x' = M_X + M_XX x + M_XY y,
# y' = M_Y + M_YX x + M_YY y.
M_X, M_Y, M_XX, M_XY, M_YX, M_YY = range(6)
MAP_COLUMNS = 6
# Columns of the galaxies that can be hosts, (n, max_galaxies, 3).
HOST_X, HOST_Y, HOST_RADIUS = range(3)
HOST_COLUMNS = 3


class Tables(NamedTuple):
    """The tables of a batch, or without their first axis those of one sample.

    `state`, `maps` and `hosts` are scratch of `draw_scenes`. Of the last axis but one of the
    tables of Gaussians, defects and changes only the first `n_sources` (a plane), `n_defects` (an
    image) and `n_changes` rows are set.
    """

    state: Any  # (n, N_STATE) uint64
    maps: Any  # (n, 2, MAP_COLUMNS) float32
    psf: Any  # (n, 2, PSF_TERMS, PSF_COLUMNS) float32
    frame: Any  # (n, FRAME_COLUMNS) float32
    sources: Any  # (n, 3, max_sources, SOURCE_COLUMNS) float32
    n_sources: Any  # (n, 3) int64
    hosts: Any  # (n, max_galaxies, HOST_COLUMNS) float32
    defects: Any  # (n, 2, max_defects, DEFECT_COLUMNS) float32
    n_defects: Any  # (n, 2) int64
    changes: Any  # (n, max_changes, CHANGE_COLUMNS) float32
    n_changes: Any  # (n, 1) int64


@jit.item
def sample_of(tables, i):
    """The tables of sample `i` of a batch."""
    return Tables(
        tables.state[i],
        tables.maps[i],
        tables.psf[i],
        tables.frame[i],
        tables.sources[i],
        tables.n_sources[i],
        tables.hosts[i],
        tables.defects[i],
        tables.n_defects[i],
        tables.changes[i],
        tables.n_changes[i],
    )


def _limit(mean: float) -> int:
    """A number that a Poisson variable of this mean exceeds once in a billion draws."""
    return int(mean + 6 * math.sqrt(mean) + 12)


def empty_tables(scene: Scene, n: int, shape: tuple[int, int], like: Any) -> Tables:
    """Tables for `n` samples, big enough for any draw, where the array `like` lies."""
    ny, nx = shape
    areas = ny * nx / 4096
    n_galaxies = _limit(float(scene.galaxy_density[1]) * areas) + 1
    n_points = _limit(float(scene.star_density[1]) * areas) + _limit(
        float(scene.n_vanished) * areas
    )
    n_new = _limit(float(scene.n_transients[1])) + _limit(float(scene.transient_density) * areas)
    per_galaxy = (len(EXPONENTIAL) + len(DE_VAUCOULEURS) + MAX_CLUMPS) * MOFFAT_TERMS
    n_sources = n_galaxies * per_galaxy + (n_points + n_new) * PSF_TERMS
    n_defects = n_points + sum(
        _limit(float(mean) * areas)
        for mean in (scene.cosmic_rays, scene.hot_pixels, scene.bad_columns)
    )
    n_defects += _limit(float(scene.trails) * math.sqrt(areas))

    def empty(*shape: int, dtype: Any = np.float32) -> Any:
        return np.empty_like(like, dtype=dtype, shape=(n, *shape))

    return Tables(
        state=empty(N_STATE, dtype=np.uint64),
        maps=empty(2, MAP_COLUMNS),
        psf=empty(2, PSF_TERMS, PSF_COLUMNS),
        frame=empty(FRAME_COLUMNS),
        sources=empty(3, n_sources, SOURCE_COLUMNS),
        n_sources=empty(3, dtype=np.int64),
        hosts=empty(n_galaxies, HOST_COLUMNS),
        defects=empty(2, n_defects, DEFECT_COLUMNS),
        n_defects=empty(2, dtype=np.int64),
        changes=empty(n_points + n_new, CHANGE_COLUMNS),
        n_changes=empty(1, dtype=np.int64),
    )
