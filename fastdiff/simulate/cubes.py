"""Mock cubes of a field whose stars move and blur from epoch to epoch, with known variables."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.kernels import jit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astropy.table import Table

__all__ = ["CUBE_PRESETS", "Cubes", "cubes"]

# Sections 3.2 and 3.3 of the paper. It gives no width for the space-based PRF: Fig. 9 has 2.5.
CUBE_PRESETS: dict[str, dict[str, Any]] = {
    "space": {"pointing": 1.0, "rotation": 0.5, "fwhm": (2.5, 2.5)},
    "ground": {"pointing": 1.0, "rotation": 0.5, "fwhm": (2.0, 3.0)},
}
EVENTS = ("sinusoid", "microlensing", "transit")

_DENSITY = 1500 / 6400  # stars a pixel: every pixel sees some
_SLOPE = 0.3  # N(< m) ~ 10^(0.3 m), over ...
_MAGNITUDES = 8.0
_REACH = 4.5  # sigma at which a star ends, 4e-5 of its peak
_EVENT_RANK = 0.9  # of the stars by flux, that which varies
_FWHM = 2.354820045


@dataclass(frozen=True)
class Cubes:
    """A mock cube and what is true of it.

    Attributes
    ----------
    cube : ndarray of float64, (n_epochs, ny, nx)
        The images; the median pixel of the mean image is 1.
    signal : ndarray of float32, (n_epochs, ny, nx)
        What the variable stars add to it, flat field and all, without noise.
    events : Table
        `kind`, `y`, `x` (mean place, 0-based pixels), `flux` (of the constant star), `amplitude`
        (relative: of the sinusoid, magnification less 1 at the peak, depth), `epoch` (of phase 0,
        peak, or middle), `duration` (period, Einstein time, or length; epochs).
    flat : ndarray of float64, (ny, nx)
        The flat-field error.
    motion : ndarray of float64, (n_epochs, 3)
        tx, ty (pixels) and theta (radians) of eq. 5.
    prf : ndarray of float64, (n_epochs, 3)
        fx, fy (FWHM, pixels) and phi (radians) of eq. 8.
    """

    cube: NDArray[np.float64]
    signal: NDArray[np.float32]
    events: Table
    flat: NDArray[np.float64]
    motion: NDArray[np.float64]
    prf: NDArray[np.float64]


def cubes(
    n_epochs: int = 1000,
    shape: tuple[int, int] = (80, 80),
    *,
    seed: int = 0,
    preset: str = "space",
    pointing: float | None = None,
    rotation: float | None = None,
    fwhm: tuple[float, float] | None = None,
    flat: float = 0.01,
    noise: float = 1e-4,
    density: float = _DENSITY,
    events: Sequence[str] = ("sinusoid",),
    amplitude: float = 0.2,
    threads: int | None = None,
) -> Cubes:
    """Simulate a cube as Wang et al. 2017 (arXiv 1710.02428) do, eqs. 5-8.

    Stars are moved and turned from epoch to epoch (eq. 5), spread by a Gaussian pixel response
    function (eqs. 6-8), multiplied by a flat-field error and given Gaussian noise. Their fluxes
    follow N(< m) ~ 10^(0.3 m) over 8 magnitudes, where the paper has a model of the Galaxy.

    Parameters
    ----------
    n_epochs : int
    shape : (int, int)
        Pixels (ny, nx).
    seed : int
        The same seed gives the same cube, whatever `threads`.
    preset : {"space", "ground"}
        "space": fixed PRF of 2.5 pixels FWHM; "ground": both widths uniform in 2-3 pixels, any
        orientation. Both: tx and ty uniform in 0-1 pixels, theta in 0-0.5 degrees.
    pointing, rotation : float, optional
        Largest tx and ty in pixels and theta in degrees (the amplitudes of Figs. 7-9).
    fwhm : (float, float), optional
        Range of the widths of the PRF in pixels (Figs. 10, 11).
    flat, noise : float
        Standard deviations of the flat-field error (relative) and of the noise.
    density : float
        Stars a pixel.
    events : sequence of {"sinusoid", "microlensing", "transit"}
        What varies: a star each, of the upper tenth in flux.
    amplitude : float
        Relative: of the sinusoid; of the peak of a microlensing event (Paczynski 1986, ApJ 304,
        1) above the constant flux; depth of a transit.
    threads : int, optional

    Returns
    -------
    Cubes

    Raises
    ------
    ValueError
        For an unknown preset or event, or a value out of its range.

    Examples
    --------
    >>> made = cubes(20, (24, 24), seed=1, events=["transit"])
    >>> made.cube.shape, len(made.events), bool(made.signal.max() <= 0)
    ((20, 24, 24), 1, True)
    """
    if preset not in CUBE_PRESETS:
        raise ValueError(f"preset is {preset!r}; it must be one of {', '.join(CUBE_PRESETS)}")
    own = {"pointing": pointing, "rotation": rotation, "fwhm": fwhm}
    values = CUBE_PRESETS[preset] | {k: v for k, v in own.items() if v is not None}
    ny, nx = shape
    low, high = values["fwhm"]
    if n_epochs < 1 or min(ny, nx) < 1:
        raise ValueError(f"n_epochs is {n_epochs} and shape is {shape}; all must be at least 1")
    if not 0.5 <= low <= high:
        raise ValueError(f"fwhm is {values['fwhm']}; it must be (low, high), at least 0.5 pixels")
    for name, value in (
        ("pointing", values["pointing"]), ("rotation", values["rotation"]), ("flat", flat),
        ("noise", noise), ("amplitude", amplitude),
    ):  # fmt: skip
        if not value >= 0:
            raise ValueError(f"{name} is {value}; it must be 0 or more")
    if not density > 0:
        raise ValueError(f"density is {density}; it must be positive (stars a pixel)")
    for kind in events:
        if kind not in EVENTS:
            raise ValueError(f"events has {kind!r}; each must be one of {', '.join(EVENTS)}")

    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    turn = np.deg2rad(values["rotation"])
    border = 3 * high + values["pointing"] + np.sin(min(turn, np.pi / 2)) * max(ny, nx)
    height, width = ny + 2 * border, nx + 2 * border
    n_stars = max(round(density * height * width), len(events), 1)
    y, x = rng.uniform(-border, ny + border, n_stars), rng.uniform(-border, nx + border, n_stars)
    magnitude = np.log10(rng.uniform(1, 10 ** (_SLOPE * _MAGNITUDES), n_stars)) / _SLOPE
    flux = 10 ** (-0.4 * (magnitude - _MAGNITUDES))
    flats = rng.normal(1, flat, shape)
    motion = np.stack([
        *rng.uniform(0, values["pointing"], (2, n_epochs)), rng.uniform(0, turn, n_epochs)
    ], axis=1)  # fmt: skip
    prf = np.stack(
        [*rng.uniform(low, high, (2, n_epochs)), rng.uniform(0, np.pi, n_epochs)], axis=1
    )
    table, stars, curves = _events(rng, events, amplitude, n_epochs, y, x, flux, motion, (ny, nx))

    cube = np.empty((n_epochs, ny, nx))
    signal = np.zeros((n_epochs, ny, nx), np.float32)

    def one(i: int) -> None:
        tx, ty, theta = motion[i]
        xs = np.cos(theta) * x + np.sin(theta) * y + tx
        ys = -np.sin(theta) * x + np.cos(theta) * y + ty
        cube[i] = flats * render(ys, xs, flux, prf[i], (ny, nx))
        if len(stars):
            signal[i] = flats * render(
                ys[stars], xs[stars], flux[stars] * curves[:, i], prf[i], (ny, nx)
            )

    with ThreadPoolExecutor(threads or jit.cpu_count()) as pool:
        list(pool.map(one, range(n_epochs)))
    scale = float(np.median(cube.mean(0))) or 1.0
    cube /= scale
    signal /= np.float32(scale)
    table["flux"] /= scale
    cube += signal
    for i in range(n_epochs):
        cube[i] += np.random.Generator(np.random.Philox(key=[seed, 1 + i])).normal(0, noise, shape)
    return Cubes(cube, signal, table, flats, motion, prf)


def render(
    y: NDArray[Any], x: NDArray[Any], flux: NDArray[Any], prf: Any, shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Image of stars, eqs. 6-8, with A = 1; `prf` is (fx, fy, phi), `shape` (ny, nx)."""
    fx, fy, phi = prf
    sx, sy = fx / _FWHM, fy / _FWHM  # eq. 8 calls them widths at half maximum
    a = (np.cos(phi) / sx) ** 2 + (np.sin(phi) / sy) ** 2
    b = np.sin(2 * phi) / 2 * (1 / sy**2 - 1 / sx**2)
    c = (np.sin(phi) / sx) ** 2 + (np.cos(phi) / sy) ** 2
    half = int(np.ceil(_REACH * max(sx, sy)))
    steps = np.arange(-half, half + 1)
    j, i = np.rint(y).astype(np.int64), np.rint(x).astype(np.int64)
    dy = (j - y)[:, None] + steps
    dx = (i - x)[:, None] + steps
    q = a * dx[:, None, :] ** 2 + 2 * b * dx[:, None, :] * dy[:, :, None] + c * dy[:, :, None] ** 2
    values = flux[:, None, None] * np.exp(-0.5 * q)
    # Into a frame with a border, so that no star has to be cut.
    ny, nx = shape[0] + 2 * half, shape[1] + 2 * half
    rows, columns = (j[:, None] + steps + half), (i[:, None] + steps + half)
    inside = ((rows >= 0) & (rows < ny))[:, :, None] & ((columns >= 0) & (columns < nx))[:, None, :]
    index = rows[:, :, None] * nx + columns[:, None, :]
    frame = np.bincount(index[inside], values[inside], ny * nx).reshape(ny, nx)
    return frame[half : half + shape[0], half : half + shape[1]]


def _events(
    rng: Any, events: Sequence[str], amplitude: float, n_epochs: int, y: NDArray[Any],
    x: NDArray[Any], flux: NDArray[Any], motion: NDArray[Any], shape: tuple[int, int],
) -> tuple[Table, NDArray[np.int64], NDArray[np.float64]]:  # fmt: skip
    """Table of the events, their stars, and the relative change of each at each epoch."""
    from astropy.table import Table

    ny, nx = shape
    tx, ty, theta = motion.mean(0)
    mean_x = np.cos(theta) * x + np.sin(theta) * y + tx
    mean_y = -np.sin(theta) * x + np.cos(theta) * y + ty
    inner = np.flatnonzero(
        (np.abs(mean_y - (ny - 1) / 2) < 0.35 * ny) & (np.abs(mean_x - (nx - 1) / 2) < 0.35 * nx)
    )
    inner = inner if len(inner) >= len(events) else np.arange(len(y))
    inner = inner[np.argsort(flux[inner], kind="stable")]
    # Of alike brightness, from a given rank on, and as far as the field allows from each other.
    first = min(int(_EVENT_RANK * len(inner)), len(inner) - len(events))
    candidates, chosen = list(inner[first:]), []
    while len(chosen) < len(events):
        apart = [
            min([np.hypot(mean_y[c] - mean_y[k], mean_x[c] - mean_x[k]) for k in chosen] or [0.0])
            for c in candidates
        ]
        chosen.append(candidates.pop(int(np.argmax(apart))))
    stars = np.array(chosen, np.int64)
    t = np.arange(n_epochs)
    rows, curves = [], np.zeros((len(events), n_epochs))
    for k, kind in enumerate(events):
        epoch = rng.uniform(0.3, 0.7) * n_epochs
        if kind == "sinusoid":
            duration = n_epochs / rng.uniform(20, 30)
            curves[k] = amplitude * np.sin(2 * np.pi * (t - epoch) / duration)
        elif kind == "microlensing":
            duration = n_epochs * rng.uniform(0.03, 0.06)
            # Closest approach u0 with the magnification 1 + amplitude: A(u), eq. of u^2.
            peak = 1 + amplitude
            u0 = np.sqrt(2 * peak / np.sqrt(peak**2 - 1) - 2) if amplitude > 0 else np.inf
            u2 = u0**2 + ((t - epoch) / duration) ** 2
            curves[k] = (u2 + 2) / np.sqrt(u2 * (u2 + 4)) - 1 if amplitude > 0 else 0.0
        else:
            duration = n_epochs * rng.uniform(0.01, 0.03)
            curves[k] = -amplitude * (np.abs(t - epoch) <= duration / 2)
        star = stars[k]
        rows.append((kind, mean_y[star], mean_x[star], flux[star], amplitude, epoch, duration))
    names = ("kind", "y", "x", "flux", "amplitude", "epoch", "duration")
    kinds = ("U12", *["f8"] * 6)
    table = Table(rows=rows or None, names=names, dtype=kinds)
    return table, stars, curves
