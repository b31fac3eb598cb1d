"""Picture of a dm-dt image."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fastdiff.core.files import whole_file

from .drawing import new_figure


def draw_dmdt(
    path: str | os.PathLike[str], image: np.ndarray, dm: np.ndarray, dt: np.ndarray, title: str = ""
) -> Path:
    """Write a PNG of a dm-dt image; cells are drawn alike, the edges at the axes say their sizes.

    Parameters
    ----------
    path : path
    image : (n_dm, n_dt)
        As `fastdiff.dmdt_images` gives it; drawn in a square-root stretch, 0 in white.
    dm, dt : (n_dm + 1,), (n_dt + 1,)
        Edges in magnitudes and days.
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
    figure = new_figure(8.5, 7.5)
    from matplotlib.colors import PowerNorm

    values = np.where(image > 0, image.astype(float), np.nan)
    highest = float(np.nanmax(values, initial=1.0)) if np.isfinite(values).any() else 1.0
    axes = figure.subplots()
    shown = axes.pcolormesh(values, norm=PowerNorm(0.5, 0, highest), cmap="viridis_r")
    for axis, edges, label in (
        (axes.xaxis, dt, "dt [days]"), (axes.yaxis, dm, "dm [mag], later - earlier; up is fainter"),
    ):  # fmt: skip
        axis.set_ticks(range(len(edges)), [f"{edge:.4g}" for edge in edges], fontsize=7)
        axis.set_label_text(label)
    axes.tick_params(axis="x", rotation=90)
    axes.set_title(title)
    figure.colorbar(shown, ax=axes, label="intensity", shrink=0.8)
    with whole_file(path) as aside:
        figure.savefig(aside, format="png", dpi=110)
    return Path(path)
