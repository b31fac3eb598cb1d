"""Mock cubes of a field whose stars move and blur from epoch to epoch, with known variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core.stats import FWHM_PER_SIGMA
from fastdiff.core.threads import check_threads, ordered_map

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
    values = _checked_values(preset, pointing=pointing, rotation=rotation, fwhm=fwhm)
    _check(n_epochs, shape, values, {"flat": flat, "noise": noise, "amplitude": amplitude})
    if not density > 0:
        raise ValueError(f"density is {density}; it must be positive (stars a pixel)")
    for kind in events:
        if kind not in EVENTS:
            raise ValueError(f"events has {kind!r}; each must be one of {', '.join(EVENTS)}")

    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    sky = _draw_sky(rng, values, density, len(events), shape)
    flats = rng.normal(1, flat, shape)
    motion, prf = _draw_pointings(rng, values, n_epochs)
    places = sky.moved(motion.mean(0))
    stars = _choose_stars(places, sky.flux, len(events), shape)
    table, curves = _draw_events(rng, events, amplitude, n_epochs, stars, places, sky.flux)
    cube, signal = _expose(sky, flats, motion, prf, stars, curves, threads)
    scale = float(np.median(cube.mean(0))) or 1.0
    cube /= scale
    signal /= np.float32(scale)
    table["flux"] /= scale
    cube += signal
    for i in range(n_epochs):
        cube[i] += np.random.Generator(np.random.Philox(key=[seed, 1 + i])).normal(0, noise, shape)
    return Cubes(cube, signal, table, flats, motion, prf)


@dataclass(frozen=True)
class _Sky:
    """Stars: their places before the telescope moves (pixels), and their fluxes."""

    y: NDArray[np.float64]
    x: NDArray[np.float64]
    flux: NDArray[np.float64]

    def moved(self, motion: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Places (y, x) under one row of `Cubes.motion`, eq. 5."""
        tx, ty, theta = motion
        x = np.cos(theta) * self.x + np.sin(theta) * self.y + tx
        y = -np.sin(theta) * self.x + np.cos(theta) * self.y + ty
        return y, x


def _checked_values(preset: str, **own: Any) -> dict[str, Any]:
    """The preset's values, and the caller's own in place of them."""
    if preset not in CUBE_PRESETS:
        raise ValueError(f"preset is {preset!r}; it must be one of {', '.join(CUBE_PRESETS)}")
    return CUBE_PRESETS[preset] | {k: v for k, v in own.items() if v is not None}


def _check(
    n_epochs: int, shape: tuple[int, int], values: dict[str, Any], spreads: dict[str, float]
) -> None:
    """Raise ValueError for sizes, widths and spreads out of their range."""
    low, high = values["fwhm"]
    if n_epochs < 1 or min(shape) < 1:
        raise ValueError(f"n_epochs is {n_epochs} and shape is {shape}; all must be at least 1")
    if not 0.5 <= low <= high:
        raise ValueError(f"fwhm is {values['fwhm']}; it must be (low, high), at least 0.5 pixels")
    named = {"pointing": values["pointing"], "rotation": values["rotation"]} | spreads
    for name, value in named.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}; it must be 0 or more")


def _draw_sky(
    rng: Any, values: dict[str, Any], density: float, least: int, shape: tuple[int, int]
) -> _Sky:
    """Stars on the frame and as far around it as any epoch reaches; at least `least` of them."""
    ny, nx = shape
    turn = np.deg2rad(values["rotation"])
    border = 3 * values["fwhm"][1] + values["pointing"] + np.sin(min(turn, np.pi / 2)) * max(ny, nx)
    n_stars = max(round(density * (ny + 2 * border) * (nx + 2 * border)), least, 1)
    y, x = rng.uniform(-border, ny + border, n_stars), rng.uniform(-border, nx + border, n_stars)
    magnitude = np.log10(rng.uniform(1, 10 ** (_SLOPE * _MAGNITUDES), n_stars)) / _SLOPE
    return _Sky(y, x, 10 ** (-0.4 * (magnitude - _MAGNITUDES)))


def _draw_pointings(
    rng: Any, values: dict[str, Any], n_epochs: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`Cubes.motion` and `Cubes.prf` of all epochs."""
    low, high = values["fwhm"]
    turn = np.deg2rad(values["rotation"])
    motion = np.stack([
        *rng.uniform(0, values["pointing"], (2, n_epochs)), rng.uniform(0, turn, n_epochs)
    ], axis=1)  # fmt: skip
    prf = np.stack(
        [*rng.uniform(low, high, (2, n_epochs)), rng.uniform(0, np.pi, n_epochs)], axis=1
    )
    return motion, prf


def _expose(
    sky: _Sky,
    flats: NDArray[np.float64],
    motion: NDArray[np.float64],
    prf: NDArray[np.float64],
    stars: NDArray[np.int64],
    curves: NDArray[np.float64],
    threads: int | None,
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Images of all stars, and of the change of `stars` by `curves`, under the flat field."""
    n_epochs, shape = len(motion), flats.shape
    cube = np.empty((n_epochs, *shape))
    signal = np.zeros((n_epochs, *shape), np.float32)

    def expose(i: int) -> None:
        y, x = sky.moved(motion[i])
        cube[i] = flats * render(y, x, sky.flux, prf[i], shape)
        if len(stars):
            change = sky.flux[stars] * curves[:, i]
            signal[i] = flats * render(y[stars], x[stars], change, prf[i], shape)

    for _ in ordered_map(expose, range(n_epochs), check_threads(threads or None)):
        pass
    return cube, signal


def render(
    y: NDArray[Any], x: NDArray[Any], flux: NDArray[Any], prf: Any, shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Image of stars, eqs. 6-8, with A = 1; `prf` is (fx, fy, phi), `shape` (ny, nx)."""
    fx, fy, phi = prf
    sx, sy = fx / FWHM_PER_SIGMA, fy / FWHM_PER_SIGMA  # eq. 8 calls them widths at half maximum
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
    return frame[half : half + shape[0], half : half + shape[1]].astype(np.float64, copy=False)


def _choose_stars(
    places: tuple[NDArray[Any], NDArray[Any]],
    flux: NDArray[Any],
    n_events: int,
    shape: tuple[int, int],
) -> NDArray[np.int64]:
    """Stars that vary: of alike brightness, and as far from each other as the field allows."""
    (y, x), (ny, nx) = places, shape
    inner = np.flatnonzero(
        (np.abs(y - (ny - 1) / 2) < 0.35 * ny) & (np.abs(x - (nx - 1) / 2) < 0.35 * nx)
    )
    inner = inner if len(inner) >= n_events else np.arange(len(y))
    inner = inner[np.argsort(flux[inner], kind="stable")]
    first = min(int(_EVENT_RANK * len(inner)), len(inner) - n_events)
    candidates: list[int] = list(inner[first:])
    chosen: list[int] = []
    while len(chosen) < n_events:
        apart = [
            min([np.hypot(y[c] - y[k], x[c] - x[k]) for k in chosen] or [0.0]) for c in candidates
        ]
        chosen.append(candidates.pop(int(np.argmax(apart))))
    return np.array(chosen, np.int64)


def _draw_events(
    rng: Any,
    events: Sequence[str],
    amplitude: float,
    n_epochs: int,
    stars: NDArray[np.int64],
    places: tuple[NDArray[Any], NDArray[Any]],
    flux: NDArray[Any],
) -> tuple[Table, NDArray[np.float64]]:
    """Table of the events, one a star, and the relative change of each at each epoch."""
    from astropy.table import Table

    y, x = places
    t = np.arange(n_epochs)
    rows, curves = [], np.zeros((len(events), n_epochs))
    for k, (kind, star) in enumerate(zip(events, stars, strict=True)):
        epoch = rng.uniform(0.3, 0.7) * n_epochs
        if kind == "sinusoid":
            duration = n_epochs / rng.uniform(20, 30)
            curves[k] = amplitude * np.sin(2 * np.pi * (t - epoch) / duration)
        elif kind == "microlensing":
            duration = n_epochs * rng.uniform(0.03, 0.06)
            curves[k] = _microlensing((t - epoch) / duration, amplitude)
        else:
            duration = n_epochs * rng.uniform(0.01, 0.03)
            curves[k] = -amplitude * (np.abs(t - epoch) <= duration / 2)
        rows.append((kind, y[star], x[star], flux[star], amplitude, epoch, duration))
    names = ("kind", "y", "x", "flux", "amplitude", "epoch", "duration")
    kinds = ("U12", *["f8"] * 6)
    return Table(rows=rows or None, names=names, dtype=kinds), curves


def _microlensing(t: NDArray[Any], amplitude: float) -> Any:
    """Magnification less 1, `t` Einstein times after a peak of ``1 + amplitude``."""
    if not amplitude > 0:
        return 0.0
    # The magnification A(u) = (u^2 + 2) / (u sqrt(u^2 + 4)), solved for the closest approach u0.
    peak = 1 + amplitude
    u0 = np.sqrt(2 * peak / np.sqrt(peak**2 - 1) - 2)
    u2 = u0**2 + t**2
    return (u2 + 2) / np.sqrt(u2 * (u2 + 4)) - 1
