"""Synthetic pairs of reference and science images with known transients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astropy.table import Table

# Parameters of `fastdiff.kernels.synth.scene.Scene`, which says what each one is.
SURVEY: dict[str, Any] = {
    "fwhm_ref": (1.5, 11.0),
    "fwhm_sci": (1.5, 11.0),
    "fwhm_law": 1.0,
    "fwhm_ratio_max": 2.2,
    "ecc_max_ref": 0.25,
    "ecc_max_sci": 0.35,
    "p_moffat": 0.7,
    "p_asymmetry": 0.5,
    "p_spikes": 0.1,
    "sky": (10.0, 5000.0),
    "sky_ratio": (0.3, 3.0),
    "gradient": 0.03,
    "read_noise": (0.0, 12.0),
    "gain": (0.3, 8.0),
    "gain_ratio": (0.4, 2.5),
    "n_exposures": (1.0, 40.0),
    "throughput": (0.4, 2.5),
    "full_well": (3e4, 3e5),
    "p_mask_saturated": 0.5,
    "p_resampled": 0.5,
    "star_density": (0.3, 25.0),
    "star_slope": (0.4, 1.1),
    "star_snr": (2.0, 3e4),
    "galaxy_density": (0.2, 6.0),
    "galaxy_snr": (5.0, 1000.0),
    "galaxy_radius": (1.0, 8.0),
    "p_central_galaxy": 0.25,
    "central_radius": (3.0, 16.0),
    "p_cluster": 0.06,
    "shift": 0.25,
    "rotation": 0.002,
    "scaling": 0.0005,
    "source_jitter": (0.003, 0.08),
    "flux_jitter": (0.0005, 0.015),
    "n_transients": (0.3, 1.5),
    "exact_number": 0.0,
    "transient_density": 0.0,
    "p_near_galaxy": 0.4,
    "near_sigma": 0.0,
    "amplitude_rule": 0.0,
    "amplitude": (3.0, 150.0),
    "p_variable": 0.02,
    "n_vanished": 0.15,
    "signed_truth": 1.0,
    "cosmic_rays": 0.1,
    "hot_pixels": 0.1,
    "bad_columns": 0.02,
    "p_missing": 0.1,
    "trails": 0.01,
    "p_blinking": 0.4,
}

# Section 4.2.2 of the TransiNet paper. Its images are 8-bit pictures of a central galaxy in
# units of counts here; the amplitude 10 of eq 8 is in units of 255 / 2 counts, which gives a
# transient of 1275 counts, 5-20 % of the full scale at its peak for the PSFs of eq 9.
PAPER: dict[str, Any] = SURVEY | {
    "fwhm_ref": (2 * 2.3548, 5 * 2.3548),
    "fwhm_sci": (2 * 2.3548, 5 * 2.3548),
    "fwhm_law": 0.0,
    "fwhm_ratio_max": 0.0,
    "ecc_max_ref": 0.4,
    "ecc_max_sci": 0.6,
    "p_moffat": 0.0,
    "p_asymmetry": 0.0,
    "p_spikes": 0.0,
    "sky": (5.0, 20.0),
    "sky_ratio": (0.5, 2.0),
    "gradient": 0.0,
    "read_noise": (0.0, 0.0),
    "gain": (1.0, 1.0),
    "gain_ratio": (1.0, 1.0),
    "n_exposures": (1.0, 20.0),
    "throughput": (1.0, 1.0),
    "full_well": (1e9, 1e9),
    "p_mask_saturated": 0.0,
    "p_resampled": 0.0,
    "star_density": (0.1, 1.0),
    "star_snr": (3.0, 300.0),
    "galaxy_density": (0.1, 1.0),
    "galaxy_snr": (10.0, 300.0),
    "p_central_galaxy": 1.0,
    "central_radius": (6.0, 20.0),
    "p_cluster": 0.0,
    "shift": 0.5,
    "rotation": 0.005,
    "scaling": 0.002,
    "source_jitter": (1e-6, 1e-5),
    "flux_jitter": (1e-6, 1e-5),
    "n_transients": (1.0, 1.0),
    "exact_number": 1.0,
    "p_near_galaxy": 1.0,
    "near_sigma": math.sqrt(0.1),
    "amplitude_rule": 2.0,
    "amplitude": (1275.0, 38.25),
    "p_variable": 0.0,
    "n_vanished": 0.0,
    "cosmic_rays": 0.0,
    "hot_pixels": 0.0,
    "bad_columns": 0.0,
    "p_missing": 0.0,
    "trails": 0.0,
    "p_blinking": 0.0,
}

PRESETS: dict[str, dict[str, Any]] = {"survey": SURVEY, "paper": PAPER}

KINDS = ("new", "variable", "vanished")


@dataclass(frozen=True)
class Pairs:
    """Synthetic pairs and what is true of them.

    Attributes
    ----------
    ref, sci : ndarray, shape (n, ny, nx), float32
        The images in counts. NaN where pixels are missing.
    truth : ndarray, shape (n, ny, nx), float32
        What changed, convolved with the PSF of `sci`, in counts of `sci`; no sky, no noise.
    variance : ndarray, shape (n, ny, nx), float32
        Expected variance of a pixel of sci - scale * ref, in counts of `sci` squared, before
        any PSF is matched.
    ref_mask, sci_mask : ndarray, shape (n, ny, nx), bool
        True where pixels are missing.
    scale : ndarray, shape (n,), float32
        Photometric scale: counts in `sci` over counts in `ref` of an unchanged source.
    seed, start : int
        Samples ``start`` to ``start + n - 1`` of the stream `seed`.
    """

    ref: np.ndarray
    sci: np.ndarray
    truth: np.ndarray
    variance: np.ndarray
    scale: np.ndarray
    seed: int
    start: int
    _changes: np.ndarray
    _n_changes: np.ndarray

    def __len__(self) -> int:
        return len(self.ref)

    @property
    def ref_mask(self) -> np.ndarray:
        """True where pixels of ref are missing."""
        return ~np.isfinite(self.ref)

    @property
    def sci_mask(self) -> np.ndarray:
        """True where pixels of sci are missing."""
        return ~np.isfinite(self.sci)

    @property
    def transients(self) -> Table:
        """What changed: `image`, `x`, `y` (0-based pixel centres in sci), `flux` (counts of
        sci), `snr` (flux over its error by an optimally weighted measurement of the truth's
        profile in the noise of `variance`, host and all) and `kind` (new, variable, vanished).
        """
        from astropy.table import Table

        image = np.repeat(np.arange(len(self)), self._n_changes)
        rows = (
            np.concatenate([c[:k] for c, k in zip(self._changes, self._n_changes, strict=True)])
            if len(self)
            else np.empty((0, 5), np.float32)
        )
        x, y, flux, sky_snr, kind = rows.T.astype(float)
        table = Table(
            {
                "image": image,
                "x": x,
                "y": y,
                "flux": flux,
                "snr": [self._snr(*row) for row in zip(image, x, y, flux, sky_snr, strict=True)],
                "kind": np.array(KINDS, dtype="U8")[kind.astype(int)],
            }
        )
        table["snr"] = table["snr"].astype(float)
        return table

    def _snr(self, image: int, x: float, y: float, flux: float, sky_snr: float) -> float:
        """S/N over the host: the sky's S/N, with the sky's variance replaced by the local one."""
        ny, nx = self.ref.shape[1:]
        j, i = round(y), round(x)
        if not (0 <= i < nx and 0 <= j < ny):
            return sky_snr
        box = (image, slice(max(j - 8, 0), j + 9), slice(max(i - 8, 0), i + 9))
        profile, variance = np.abs(self.truth[box]), self.variance[box]
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
    backgrounds: Sequence[np.ndarray] | np.ndarray | None = None,
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
        `n`, `start` and `threads`.
    preset : {"survey", "paper"}, default "survey"
        "survey" is wide: sharp to blurred, empty to crowded, deep to shallow references.
        "paper" has the paper's values.
    start : int, default 0
        Number of the first sample.
    threads : int, optional
        Threads to use; all cores by default.
    backgrounds : sequence of 2-D arrays, optional
        The user's own images, in electrons per pixel and exposure above the sky. Each sample
        gets one of them under a random rotation and shift (eqs 5, 6), convolved with each
        PSF, in addition to the procedural sources (set ``star_density=(1e-9, 1e-8)`` and
        ``galaxy_density=(1e-9, 1e-8)`` to have none).
    **parameters
        Any field of `fastdiff.kernels.synth.scene.Scene`, to override the preset.

    Returns
    -------
    Pairs

    Raises
    ------
    ValueError
        For an unknown preset, a shape out of range, a negative `n` or an inverted range.
    TypeError
        For an unknown parameter.

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
    background = None
    if backgrounds is not None:
        background = _Backgrounds(backgrounds, seed, (ny, nx))
    batch = synth.synthesise(
        scene, n, (ny, nx), seed, start, threads=threads, background=background
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
    try:
        ny, nx = (int(size) for size in shape)
    except (TypeError, ValueError):
        raise ValueError(f"`shape` is {shape!r}; it must be two integers, (ny, nx)") from None
    if not (16 <= ny <= 16384 and 16 <= nx <= 16384):
        raise ValueError(f"`shape` is {(ny, nx)}; each side must be 16 to 16384 pixels")
    return ny, nx


def _scene(values: dict[str, Any], preset: str) -> Any:
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


class _Backgrounds:
    """Electrons of the user's images under eqs 5 and 6, convolved with each sample's PSFs."""

    def __init__(self, images: Any, seed: int, shape: tuple[int, int]):
        self.images = [np.asarray(image, np.float32) for image in images]
        if not self.images or any(image.ndim != 2 for image in self.images):
            raise ValueError(
                "`backgrounds` must be one or more 2-D images, a list of them or (n, ny, nx)"
            )
        self.images = [np.nan_to_num(image, posinf=0.0, neginf=0.0) for image in self.images]
        self.seed, self.shape = seed, shape

    def __call__(self, frame: np.ndarray, psf: np.ndarray, first: int) -> np.ndarray:
        from scipy.ndimage import affine_transform
        from scipy.signal import fftconvolve

        from fastdiff.kernels.synth import tables

        ny, nx = self.shape[0] + 1, self.shape[1] + 1
        out = np.empty((len(frame), 2, ny, nx), np.float32)
        for k in range(len(frame)):
            rng = np.random.Generator(np.random.Philox(key=[self.seed, first + k]))
            image = self.images[rng.integers(len(self.images))]
            angle = rng.uniform(0, 2 * np.pi)  # eq 5
            shift = rng.normal(0, math.sqrt(0.03), 2) * image.shape  # eq 6
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            centre = (np.array(image.shape) - 1) / 2 + shift
            for j in range(2):
                shifted = np.array([frame[k, tables.FY_REF + 2 * j], frame[k, tables.FX_REF + 2 * j]])
                origin = centre - turn @ ((np.array([ny, nx]) - 2) / 2 + shifted)
                warped = affine_transform(
                    image, turn, origin, output_shape=(ny, nx), order=1, mode="reflect"
                )
                kernel = psf_image(psf[k, j])
                brightness = frame[k, tables.THROUGHPUT] if j == 0 else 1.0
                reach = kernel.shape[0] // 2
                padded = np.pad(warped, reach, mode="reflect") * brightness
                out[k, j] = fftconvolve(padded, kernel, mode="valid")
        return np.maximum(out, 0)


def psf_image(terms: np.ndarray, half: int = 20) -> np.ndarray:
    """A PSF, (PSF_TERMS, 6) of `fastdiff.kernels.synth.tables`, as an image of unit sum."""
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    image = np.zeros(x.shape)
    for weight, ox, oy, xx, xy, yy in terms.astype(float):
        if weight > 0:
            inverse = np.linalg.inv([[xx + 1 / 12, xy], [xy, yy + 1 / 12]])
            dx, dy = x - ox, y - oy
            q = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2
            image += weight * np.sqrt(np.linalg.det(inverse)) * np.exp(-q / 2)
    return image / image.sum()
