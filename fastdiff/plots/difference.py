"""Picture of a subtraction and its candidates."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdiff.core.files import whole_file

from .drawing import (
    circle_candidates,
    cut_stamp,
    new_figure,
    show_pull,
    show_sky,
    shrink,
    sky_limits,
)

if TYPE_CHECKING:
    from astropy.table import Table

N_STAMPS = 8
"""Candidates of which stamps are shown."""


def draw_difference(
    path: str | os.PathLike[str],
    ref: np.ndarray,
    sci: np.ndarray,
    image: np.ndarray,
    noise: np.ndarray,
    candidates: Table,
    title: str = "",
) -> Path:
    """Write a PNG: reference, science and difference, and stamps of the strongest candidates.

    Reference and science are shown in an asinh stretch between the limits of zscale and the
    99.9th percentile, the difference in units of its noise. Orange circles: brighter in the
    science image; blue: fainter.

    Parameters
    ----------
    path : path
    ref, sci, image, noise : (ny, nx) float
        NaN is drawn grey.
    candidates : astropy.table.Table
        With `x`, `y`, `flux` and `snr`.
    title : str

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    order = np.argsort(-np.abs(np.asarray(candidates["snr"], float)))[:N_STAMPS]
    with np.errstate(all="ignore"):
        pull = np.where(noise > 0, image / noise, np.nan)

    n_rows = 3 if len(order) else 0
    ny, nx = image.shape
    panels_high = 1.3 + min(max(4.4 * ny / nx, 1.5), 9.0)  # inches; a panel is 4.4 wide
    stamps_high = 1.7 * n_rows
    figure = new_figure(15, panels_high + stamps_high)
    top, *bottom = figure.subfigures(
        2 if n_rows else 1,
        1,
        height_ratios=[panels_high, stamps_high] if n_rows else [1],
        squeeze=False,
    ).ravel()
    figure.suptitle(title, fontsize=11)
    _draw_frames(top, ref, sci, pull, candidates, order)
    if n_rows:
        _draw_stamps(bottom[0], ref, sci, pull, candidates, order)
    with whole_file(path) as aside:
        figure.savefig(aside, format="png", dpi=110)
    return Path(path)


def _draw_frames(
    figure: Any,
    ref: np.ndarray,
    sci: np.ndarray,
    pull: np.ndarray,
    candidates: Table,
    order: np.ndarray,
) -> None:
    """Reference, science and difference side by side, with the candidates circled."""
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    extent = (-0.5, pull.shape[1] - 0.5, -0.5, pull.shape[0] - 0.5)
    for axes, name, data in zip(panels[:2], ("reference", "science"), (ref, sci), strict=True):
        show_sky(axes, shrink(data), sky_limits(data), extent)
        axes.set_title(name)
    bar = show_pull(panels[2], shrink(pull), extent)
    panels[2].set_title("difference")
    colorbar = figure.colorbar(bar, ax=panels[2], shrink=0.75, pad=0.01)
    colorbar.set_label("difference / noise per pixel")
    radius = max(8.0, (0.018 if len(candidates) <= 100 else 0.008) * max(pull.shape))
    for axes in panels[1:]:
        circle_candidates(axes, candidates, radius, order if axes is panels[2] else ())
    for axes in panels:
        axes.set_xlabel("x [px]")
    panels[0].set_ylabel("y [px]")


def _draw_stamps(
    figure: Any,
    ref: np.ndarray,
    sci: np.ndarray,
    pull: np.ndarray,
    candidates: Table,
    order: np.ndarray,
) -> None:
    """Stamps of the candidates of these rows, a column each."""
    rows = figure.subplots(3, N_STAMPS, squeeze=False)
    for axes in rows.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
        axes.axis("off")
    for column, index in enumerate(order):
        x, y = float(candidates["x"][index]), float(candidates["y"][index])
        stamps = [cut_stamp(data, x, y) for data in (ref, sci, pull)]
        for row, data in enumerate(stamps):
            axes = rows[row, column]
            axes.axis("on")
            if row < 2:
                show_sky(axes, data, sky_limits(data), None)
            else:
                show_pull(axes, data, None)
        snr = float(candidates["snr"][index])
        rows[0, column].set_title(f"{column + 1}: ({x:.0f}, {y:.0f})\nS/N {snr:.1f}", fontsize=9)
    for row, name in enumerate(("ref", "sci", "diff")):
        rows[row, 0].set_ylabel(name)
