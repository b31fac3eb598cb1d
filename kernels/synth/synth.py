r"""Synthetic pairs of a reference and a science image, with the truth between them.

The generative model of TransiNet (Sedaghat & Mahabal 2018, MNRAS 476, 5365), eqs 1-12:

    ref = (I0 * psf_ref + S_ref) with noise,
    sci = D{(I0 + It) * psf_sci} + S_sci with noise,        truth = D{It * psf_sci}

Everything in the sky and every PSF is a sum of two-dimensional Gaussians, so that a
convolution is a sum of covariances, exact at any sub-pixel position and under any affine
map D, and no FFT is needed (`gaussians`, `profiles`).

Random numbers are counter-based (Philox 4x32-10, Salmon et al. 2011): every draw is a
function of (seed, sample, purpose, index), so that a sample is the same whatever the batch
size, the number of threads or the device (`random`).

A batch is made in two passes: `draw_scenes` (one item a sample) fills the tables of Gaussians and
defects; `render` (one item a sample and band of rows; on CUDA one item a pixel) adds them up,
applies the noise and the detector. `render` says what a pixel costs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .draw import draw_scenes
from .profiles import Profiles, profile_tables
from .render import render
from .scene import Scene, as_float32
from .tables import empty_tables


class SyntheticBatch(NamedTuple):
    """A batch of samples: images in counts, what changed, and the numbers behind them."""

    ref: Any  # (n, ny, nx) float32, NaN where missing
    sci: Any
    truth: Any  # counts of sci
    variance: Any  # expected variance of sci - scale ref, counts^2 of sci
    changes: Any  # (n, max_changes, CHANGE_COLUMNS) float32
    n_changes: Any  # (n, 1) int64
    frame: Any  # (n, FRAME_COLUMNS) float32
    psf: Any  # (n, 2, PSF_TERMS, PSF_COLUMNS) float32


def synthesise(
    scene: Scene,
    n: int,
    shape: tuple[int, int],
    seed: int,
    first: int = 0,
    *,
    threads: int | None = None,
    background: Callable[[Any, Any, int], Any] | None = None,
    rows: int = 128,
    like: Any = None,
) -> SyntheticBatch:
    """Samples ``first`` to ``first + n - 1`` of the stream `seed`.

    Parameters
    ----------
    scene : Scene
    n : int
    shape : (int, int)
        Pixels (ny, nx).
    seed, first : int
    threads : int, optional
        Of the CPU; all cores by default.
    background : callable, optional
        Called with (frame, psf, first) after the scenes are drawn; gives electrons to add,
        (n, 2, ny + 1, nx + 1) float32, of the kind of `frame`.
    rows : int
        Rows of a band, the CPU's unit of work; the result does not depend on it.
    like : array, optional
        Any array where the batch shall be made and stay: NumPy's (the default) or CuPy's.

    Returns
    -------
    SyntheticBatch
    """
    like = np.empty(0, np.float32) if like is None else like
    scene = as_float32(scene)
    tables = empty_tables(scene, n, shape, like)
    profiles = Profiles(*(np.asarray(table, like=like) for table in profile_tables()))
    draw_scenes(scene, seed, first, shape, profiles, tables, threads)
    extra = None if background is None else background(tables.frame, tables.psf, first)
    images = render(seed, first, shape, tables, extra, threads=threads, rows=rows)
    return SyntheticBatch(*images, tables.changes, tables.n_changes, tables.frame, tables.psf)
