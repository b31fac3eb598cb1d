"""Picture of a cube's variables and their light curves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdiff.core.files import whole_file

from .drawing import new_figure

if TYPE_CHECKING:
    from astropy.table import Table


def draw_cpm(
    path: str | os.PathLike[str],
    result: Any,
    time: np.ndarray,
    variables: Table,
    aperture: int,
    label: str = "time",
) -> Path:
    """Write a PNG: the map of variability, and light curves of the most variable pixels.

    Parameters
    ----------
    path : path
    result : fastdiff.CPMResult
    time : (n_epochs,)
    variables : Table
        As ``result.variables()`` gives it; the first six are drawn.
    aperture : int
        Side of the square over which the difference is summed.
    label : str
        Of the axis of time.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    n = min(len(variables), 6)
    figure = new_figure(13, max(4.5, 1.5 * n))
    left, right = figure.subfigures(1, 2, width_ratios=[1, 2])
    axes = left.subplots()
    low, high = np.nanpercentile(result.variability, [1, 99.5])
    shown = axes.imshow(result.variability, origin="lower", vmin=low, vmax=high, cmap="magma")
    left.colorbar(shown, ax=axes, shrink=0.7, label="mean |difference / sigma|")
    axes.set_xlabel("x [px]")
    axes.set_ylabel("y [px]")
    panels = right.subplots(max(n, 1), 1, sharex=True, squeeze=False)[:, 0]
    for k in range(n):
        y, x = int(variables["y"][k]), int(variables["x"][k])
        axes.plot(x, y, "o", mfc="none", mec="white", ms=10)
        axes.annotate(str(k + 1), (x, y), color="white", xytext=(6, 4), textcoords="offset points")
        curve = result.light_curve(y, x, aperture)
        good = np.isfinite(curve["flux"])
        flux = np.asarray(curve["flux"])[good]
        panels[k].plot(time[good], flux, ".", ms=2, color="#1971c2")
        if len(flux):  # single points far off would hide all others
            low, high = np.percentile(flux, [0.1, 99.9])
            panels[k].set_ylim(low - 0.3 * (high - low) - 1e-30, high + 0.3 * (high - low) + 1e-30)
        panels[k].axhline(0, color="grey", lw=0.5)
        panels[k].set_ylabel(f"{k + 1}: ({x}, {y})")
    if not n:
        panels[0].text(0.5, 0.5, "no variable pixel", ha="center", transform=panels[0].transAxes)
    panels[-1].set_xlabel(label)
    with whole_file(path) as aside:
        figure.savefig(aside, format="png", dpi=110)
    return Path(path)
