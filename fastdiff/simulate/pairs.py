"""Synthetic pairs of reference and science images with known transients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays

from .backgrounds import Backgrounds
from .presets import PRESETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astropy.table import Table

    from fastdiff.kernels.synth.scene import Scene

__all__ = ["PRESETS", "Pairs", "pairs"]

KINDS = ("new", "variable", "vanished")


@dataclass(frozen=True)
class Pairs:
    """Synthetic pairs and what is true of them.

    Attributes
    ----------
    ref, sci : ndarray or CuPy array, shape (n, ny, nx), float32
        The images in counts. NaN where pixels are missing.
    truth : ndarray or CuPy array, shape (n, ny, nx), float32
        What changed, convolved with the PSF of `sci`, in counts of `sci`; no sky, no noise.
    variance : ndarray or CuPy array, shape (n, ny, nx), float32
        Expected variance of a pixel of sci - scale * ref, in counts of `sci` squared, before
        any PSF is matched.
    ref_mask, sci_mask : ndarray or CuPy array, shape (n, ny, nx), bool
        True where pixels are missing.
    scale : ndarray or CuPy array, shape (n,), float32
        Photometric scale: counts in `sci` over counts in `ref` of an unchanged source.
    seed, start : int
        Samples ``start`` to ``start + n - 1`` of the stream `seed`.
    """

    ref: Any
    sci: Any
    truth: Any
    variance: Any
    scale: Any
    seed: int
    start: int
    _changes: Any
    _n_changes: Any

    def __len__(self) -> int:
        return len(self.ref)

    @property
    def ref_mask(self) -> Any:
        """True where pixels of ref are missing."""
        return ~np.isfinite(self.ref)

    @property
    def sci_mask(self) -> Any:
        """True where pixels of sci are missing."""
        return ~np.isfinite(self.sci)

    @property
    def transients(self) -> Table:
        """What changed: `image`, `x`, `y` (0-based pixel centres in sci), `flux` (counts of
        sci), `snr` (flux over its error by an optimally weighted measurement of the truth's
        profile in the noise of `variance`, host and all) and `kind` (new, variable, vanished).
        """
        from astropy.table import Table

        from fastdiff.kernels.synth.tables import T_FLUX, T_KIND, T_SNR, T_X, T_Y

        counts, changes = arrays.on_host(self._n_changes), arrays.on_host(self._changes)
        image = np.repeat(np.arange(len(self)), counts)
        rows = changes[np.arange(changes.shape[1]) < counts[:, None]].astype(float)
        x, y, flux = rows[:, T_X], rows[:, T_Y], rows[:, T_FLUX]
        of_sky = rows[:, T_SNR]
        snr = [self._snr(*row) for row in zip(image, x, y, flux, of_sky, strict=True)]
        return Table(
            {
                "image": image,
                "x": x,
                "y": y,
                "flux": flux,
                "snr": np.array(snr, float),
                "kind": np.array(KINDS, dtype="U8")[rows[:, T_KIND].astype(int)],
            }
        )

    def _snr(self, image: Any, x: float, y: float, flux: float, sky_snr: float) -> float:
        """S/N over the host: the sky's S/N, with the sky's variance replaced by the local one."""
        ny, nx = self.ref.shape[1:]
        j, i = round(y), round(x)
        if not (0 <= i < nx and 0 <= j < ny):
            return sky_snr
        box = (int(image), slice(max(j - 8, 0), j + 9), slice(max(i - 8, 0), i + 9))
        profile = np.abs(arrays.on_host(self.truth[box]))
        variance = arrays.on_host(self.variance[box])
        total = profile.sum()
        # a source at the frame's edge has only a part of its flux on it; keep that part
        snr = math.sqrt(float((profile**2 / variance).sum())) if total > 0 else abs(sky_snr)
        return math.copysign(snr, flux)


def pairs(
    n: int,
    shape: tuple[int, int] = (64, 64),
    *,
    seed: int = 0,
    preset: str = "survey",
    start: int = 0,
    threads: int | None = None,
    backgrounds: Sequence[NDArray[Any]] | NDArray[Any] | None = None,
    device: str = "cpu",
    **parameters: Any,
) -> Pairs:
    """Simulate pairs of a reference and a science image with known transients.

    The generative model of Sedaghat & Mahabal 2018 (MNRAS 476, 5365), eqs 1-12: background,
    point sources near galaxies, a PSF for each image, sky, Poisson noise, imperfect
    registration; truth = transient convolved with the science PSF. Beyond the paper: Moffat
    and asymmetric PSFs, diffraction spikes, read noise, gain, stacked references,
    photometric scale, variable and vanished sources, cosmic rays, hot pixels, bad columns,
    trails of satellites, saturation and bleeding, sky gradients, correlated noise, missing pixels.

    Parameters
    ----------
    n : int
        Number of pairs; 0 gives empty arrays.
    shape : (int, int), default (64, 64)
        Size (ny, nx) of an image in pixels, each from 16 to 16384.
    seed : int, default 0
        Stream of samples, 0 to 2^64 - 1. Sample number i of a stream is the same whatever
        `n`, `start` and `threads`; on another device it is so within rounding.
    preset : {"survey", "paper"}, default "survey"
        "survey" is wide: sharp to blurred, empty to crowded, deep to shallow references.
        "paper" has the paper's values.
    start : int, default 0
        Number of the first sample.
    threads : int, optional
        Threads of the CPU to use; all cores by default.
    backgrounds : sequence of 2-D arrays, optional
        The user's own images, in electrons per pixel and exposure above the sky. Each sample
        gets one of them under a random rotation and shift (eqs 5, 6), convolved with each
        PSF, in addition to the procedural sources (set ``star_density=(1e-9, 1e-8)`` and
        ``galaxy_density=(1e-9, 1e-8)`` to have none). They are warped on the CPU.
    device : {"cpu", "cuda"}, default "cpu"
        Where the pairs are made and stay. "cuda": CuPy's current device; the arrays of the
        result are CuPy's, and `Pairs.transients` is a table in the memory of the CPU.
    **parameters
        Any field of `fastdiff.kernels.synth.scene.Scene`, to override the preset.

    Returns
    -------
    Pairs

    Raises
    ------
    ValueError
        For an unknown preset or device, a shape out of range, a negative `n` or an inverted
        range.
    TypeError
        For an unknown parameter.
    ImportError, RuntimeError
        For ``device="cuda"`` without CuPy, or without a GPU.

    Examples
    --------
    >>> import fastdiff
    >>> sample = fastdiff.simulate.pairs(2, (64, 64), seed=1)
    >>> sample.sci.shape
    (2, 64, 64)
    """
    from fastdiff.kernels.synth import synth, tables

    if preset not in PRESETS:
        raise ValueError(f"`preset` is {preset!r}; it must be one of {', '.join(PRESETS)}")
    scene = _scene(PRESETS[preset] | parameters, preset)
    ny, nx = _checked_shape(shape)
    if n < 0 or start < 0:
        raise ValueError(f"`n` is {n} and `start` is {start}; neither can be negative")
    if not 0 <= seed < 2**64:
        raise ValueError(f"`seed` is {seed}; it must lie in 0 ... 2^64 - 1")
    background = None if backgrounds is None else Backgrounds(backgrounds, seed, (ny, nx))
    like = arrays.empty_on(device)
    batch = synth.synthesise(
        scene, n, (ny, nx), seed, start, threads=threads, background=background, like=like
    )
    frame = batch.frame
    scale = frame[:, tables.GAIN_REF] / (frame[:, tables.GAIN_SCI] * frame[:, tables.THROUGHPUT])
    return Pairs(
        batch.ref,
        batch.sci,
        batch.truth,
        batch.variance,
        scale,
        seed,
        start,
        batch.changes,
        batch.n_changes[:, 0],
    )


def _checked_shape(shape: Any) -> tuple[int, int]:
    """(ny, nx) as integers within the limits."""
    try:
        ny, nx = (int(size) for size in shape)
    except (TypeError, ValueError):
        raise ValueError(f"`shape` is {shape!r}; it must be two integers, (ny, nx)") from None
    if not (16 <= ny <= 16384 and 16 <= nx <= 16384):
        raise ValueError(f"`shape` is {(ny, nx)}; each side must be 16 to 16384 pixels")
    return ny, nx


def _scene(values: dict[str, Any], preset: str) -> Scene:
    """The parameters of a scene, checked against the kinds of values that the preset has."""
    from fastdiff.kernels.synth.scene import Scene

    unknown = sorted(set(values) - set(Scene._fields))
    if unknown:
        raise TypeError(
            f"unknown parameter {', '.join(unknown)}; the parameters of a scene are "
            f"{', '.join(Scene._fields)}"
        )
    for name, default in PRESETS[preset].items():
        value = values[name]
        if isinstance(default, tuple):
            try:
                low, high = (float(v) for v in value)
            except (TypeError, ValueError):
                raise ValueError(f"`{name}` is {value!r}; it must be (low, high)") from None
            is_mean_and_sigma = name == "amplitude" and values["amplitude_rule"] == 2
            if low > high and not is_mean_and_sigma:
                raise ValueError(f"`{name}` is {value!r}; low must not exceed high")
            values[name] = (low, high)
        else:
            values[name] = float(value)
    return Scene(**values)
