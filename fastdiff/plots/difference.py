"""Pictures: of a subtraction and its candidates, of a cube's variables, of a dm-dt image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdiff.core.files import whole_file

if TYPE_CHECKING:
    from astropy.table import Table
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PANEL = 1024
"""Larger frames are averaged down to at most this many pixels a side."""

N_STAMPS = 8
STAMP = 31
BRIGHTER, FAINTER = "#e8590c", "#1971c2"


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
    limits = [_limits(ref), _limits(sci)]

    n_rows = 3 if len(order) else 0
    ny, nx = image.shape
    panels_high = 1.3 + min(max(4.4 * ny / nx, 1.5), 9.0)  # inches; a panel is 4.4 wide
    stamps_high = 1.7 * n_rows
    figure = _figure(15, panels_high + stamps_high)
    top, *bottom = figure.subfigures(
        2 if n_rows else 1,
        1,
        height_ratios=[panels_high, stamps_high] if n_rows else [1],
        squeeze=False,
    ).ravel()
    figure.suptitle(title, fontsize=11)

    panels = top.subplots(1, 3, sharex=True, sharey=True)
    extent = (-0.5, image.shape[1] - 0.5, -0.5, image.shape[0] - 0.5)
    for axes, name, data, limit in zip(
        panels[:2], ("reference", "science"), (ref, sci), limits, strict=True
    ):
        _show_sky(axes, _shrink(data), limit, extent)
        axes.set_title(name)
    bar = _show_pull(panels[2], _shrink(pull), extent)
    panels[2].set_title("difference")
    colorbar = top.colorbar(bar, ax=panels[2], shrink=0.75, pad=0.01)
    colorbar.set_label("difference / noise per pixel")
    radius = max(8.0, (0.018 if len(candidates) <= 100 else 0.008) * max(image.shape))
    for axes in panels[1:]:
        _circle(axes, candidates, radius, order if axes is panels[2] else ())
    for axes in panels:
        axes.set_xlabel("x [px]")
    panels[0].set_ylabel("y [px]")

    if n_rows:
        rows = bottom[0].subplots(n_rows, N_STAMPS, squeeze=False)
        for axes in rows.ravel():
            axes.set_xticks([])
            axes.set_yticks([])
            axes.axis("off")
        for column, index in enumerate(order):
            x, y = float(candidates["x"][index]), float(candidates["y"][index])
            stamps = [_cut(data, x, y) for data in (ref, sci, pull)]
            for row, data in enumerate(stamps):
                axes = rows[row, column]
                axes.axis("on")
                if row < 2:
                    _show_sky(axes, data, _limits(data), None)
                else:
                    _show_pull(axes, data, None)
            rows[0, column].set_title(
                f"{column + 1}: ({x:.0f}, {y:.0f})\nS/N {float(candidates['snr'][index]):.1f}",
                fontsize=9,
            )
        for row, name in enumerate(("ref", "sci", "diff")):
            rows[row, 0].set_ylabel(name)

    with whole_file(path) as aside:
        figure.savefig(aside, format="png", dpi=110)
    return Path(path)


def draw_cpm(
    path: str | os.PathLike[str], result: Any, time: np.ndarray, variables: Table, aperture: int
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
    figure = _figure(13, max(4.5, 1.5 * n))
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
        good = ~result.mask[:, y, x]
        flux = np.asarray(curve["flux"])[good]
        panels[k].plot(time[good], flux, ".", ms=2, color="#1971c2")
        if len(flux):  # single points far off would hide all others
            low, high = np.percentile(flux, [0.1, 99.9])
            panels[k].set_ylim(low - 0.3 * (high - low) - 1e-30, high + 0.3 * (high - low) + 1e-30)
        panels[k].axhline(0, color="grey", lw=0.5)
        panels[k].set_ylabel(f"{k + 1}: ({x}, {y})")
    if not n:
        panels[0].text(0.5, 0.5, "no variable pixel", ha="center", transform=panels[0].transAxes)
    panels[-1].set_xlabel("time")
    with whole_file(path) as aside:
        figure.savefig(aside, format="png", dpi=110)
    return Path(path)


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
    figure = _figure(8.5, 7.5)
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


def _figure(width: float, height: float) -> Figure:
    """A white figure of so many inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'fastdiff-astro[plot]'") from error
    return Figure((width, height), layout="constrained", facecolor="white")


def _limits(data: np.ndarray) -> tuple[float, float]:
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


def _show_sky(axes: Axes, data: np.ndarray, limit: tuple[float, float], extent: Any) -> None:
    low, high = limit
    stretched = np.arcsinh(10 * np.clip((data - low) / (high - low), 0, 1)) / np.arcsinh(10)
    axes.imshow(
        np.ma.masked_invalid(stretched),
        cmap=_colours("gray"),
        vmin=0,
        vmax=1,
        origin="lower",
        extent=extent,
        interpolation="nearest",
    )


def _show_pull(axes: Axes, pull: np.ndarray, extent: Any) -> Any:
    # Limits by the noise of what is shown: a shrunken frame has less.
    good = pull[np.isfinite(pull)]
    spread = 1.4826 * np.median(np.abs(good)) if good.size else 1.0
    limit = 8 * max(spread, 0.5)
    return axes.imshow(
        np.ma.masked_invalid(pull),
        cmap=_colours("RdBu_r"),
        vmin=-limit,
        vmax=limit,
        origin="lower",
        extent=extent,
        interpolation="nearest",
    )


def _colours(name: str) -> Any:
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad="#868e96")


def _circle(axes: Axes, candidates: Table, radius: float, numbered: Any) -> None:
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


def _shrink(data: np.ndarray) -> np.ndarray:
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


def _cut(data: np.ndarray, x: float, y: float) -> np.ndarray:
    """Stamp of STAMP pixels around (x, y); NaN outside of the frame."""
    half = STAMP // 2
    stamp = np.full((STAMP, STAMP), np.nan)
    x0, y0 = round(x) - half, round(y) - half
    ny, nx = data.shape
    ys = slice(max(0, y0), min(ny, y0 + STAMP))
    xs = slice(max(0, x0), min(nx, x0 + STAMP))
    stamp[ys.start - y0 : ys.stop - y0, xs.start - x0 : xs.stop - x0] = data[ys, xs]
    return stamp
