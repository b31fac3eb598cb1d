"""What the pictures share: figures, stretches, circles, smaller frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastdiff.core.stats import mad_sigma

if TYPE_CHECKING:
    from astropy.table import Table
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PANEL = 1024
"""Larger frames are averaged down to at most this many pixels a side."""
STAMP = 31
"""Side of a stamp in pixels."""
BRIGHTER, FAINTER = "#e8590c", "#1971c2"
"""Colours of what brightened and of what faded."""


def new_figure(width: float, height: float) -> Figure:
    """A white figure of so many inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'fastdiff-astro[plot]'") from error
    return Figure((width, height), layout="constrained", facecolor="white")


def sky_limits(data: np.ndarray) -> tuple[float, float]:
    """Lower limit of zscale and a high percentile, on at most a million pixels."""
    step = max(1, int(np.sqrt(data.size / 1e6)))
    good = data[::step, ::step]
    good = good[np.isfinite(good)]
    if good.size == 0:
        return 0.0, 1.0
    from astropy.visualization import ZScaleInterval

    low, middle = ZScaleInterval().get_limits(good) if good.size > 4 else (good.min(), good.max())
    high = max(middle, np.percentile(good, 99.9))
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1)


def show_sky(axes: Axes, data: np.ndarray, limit: tuple[float, float], extent: Any) -> None:
    """Show a sky image in an asinh stretch between two limits."""
    low, high = limit
    stretched = np.arcsinh(10 * np.clip((data - low) / (high - low), 0, 1)) / np.arcsinh(10)
    axes.imshow(
        np.ma.masked_invalid(stretched),
        cmap=colour_map("gray"),
        vmin=0,
        vmax=1,
        origin="lower",
        extent=extent,
        interpolation="nearest",
    )


def show_pull(axes: Axes, pull: np.ndarray, extent: Any) -> Any:
    """Show a difference in units of its noise; what a colour bar needs."""
    # Limits by the noise of what is shown: a shrunken frame has less.
    good = pull[np.isfinite(pull)]
    spread = mad_sigma(good, centre=0) if good.size else 1.0
    limit = 8 * max(spread, 0.5)
    return axes.imshow(
        np.ma.masked_invalid(pull),
        cmap=colour_map("RdBu_r"),
        vmin=-limit,
        vmax=limit,
        origin="lower",
        extent=extent,
        interpolation="nearest",
    )


def colour_map(name: str) -> Any:
    """A colour map in which NaN is grey."""
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad="#868e96")


def circle_candidates(axes: Axes, candidates: Table, radius: float, numbered: Any) -> None:
    """Circle all candidates, and number those whose rows `numbered` gives, from 1."""
    from matplotlib.collections import EllipseCollection

    xy = np.column_stack([np.asarray(candidates[name], float) for name in ("x", "y")])
    colours = [BRIGHTER if flux > 0 else FAINTER for flux in candidates["flux"]]
    axes.add_collection(
        EllipseCollection(
            2 * radius,
            2 * radius,
            0,
            units="xy",
            offsets=xy.reshape(-1, 2),
            offset_transform=axes.transData,
            facecolors="none",
            edgecolors=colours,
            linewidths=1.3,
        )
    )
    for number, index in enumerate(numbered, 1):
        axes.annotate(
            str(number),
            xy[index] + 0.75 * radius,
            color=colours[index],
            fontsize=9,
            fontweight="bold",
            annotation_clip=True,
        )


def shrink(data: np.ndarray) -> np.ndarray:
    """Average over blocks so that no side exceeds MAX_PANEL; NaN pixels do not count."""
    factor = -(-max(data.shape) // MAX_PANEL)
    if factor == 1:
        return data
    ny, nx = (n // factor * factor for n in data.shape)
    blocks = data[:ny, :nx].reshape(ny // factor, factor, nx // factor, factor)
    good = np.isfinite(blocks)
    n_good = good.sum(axis=(1, 3))
    total = np.where(good, blocks, 0).sum(axis=(1, 3))
    return np.where(n_good > 0, total / np.maximum(n_good, 1), np.nan)


def cut_stamp(data: np.ndarray, x: float, y: float) -> np.ndarray:
    """Stamp of STAMP pixels around (x, y); NaN outside of the frame."""
    half = STAMP // 2
    stamp = np.full((STAMP, STAMP), np.nan)
    x0, y0 = round(x) - half, round(y) - half
    ny, nx = data.shape
    ys = slice(max(0, y0), min(ny, y0 + STAMP))
    xs = slice(max(0, x0), min(nx, x0 + STAMP))
    stamp[ys.start - y0 : ys.stop - y0, xs.start - x0 : xs.stop - x0] = data[ys, xs]
    return stamp
