"""Stars that both images of a pair show: offsets, error of registration, photometric scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core.stats import mad_sigma, nonnegative
from fastdiff.stars.find import Stars, fwhm_of
from fastdiff.stars.moments import adaptive_moments, cut_stamps, shift_matrix
from fastdiff.stars.psf import normed

from .tiles import ZogyImage, ZogyTile

__all__ = [
    "MIN_MATCHED", "STARS_OF_A_PSF", "StarPair", "centre_of", "fit_scale", "match_stars",
    "registration_error", "shifted", "stars_near", "tile_of",
]  # fmt: skip

MIN_MATCHED = 3  # stars that tell scale and registration
STARS_OF_A_PSF = 25  # the nearest ones, where a tile has fewer
_SCALE_STARS = 150  # at most, of the highest S/N
_SCALE_ERROR = 0.01  # of a star, beside its noise


@dataclasses.dataclass
class StarPair:
    """Stars that both images show."""

    ref: Stars
    sci: Stars

    def __post_init__(self) -> None:
        self.dx, self.dy = self.ref.x - self.sci.x, self.ref.y - self.sci.y


def match_stars(ref: ZogyImage, sci: ZogyImage) -> StarPair:
    """Nearest neighbours within a FWHM."""
    from scipy.spatial import cKDTree

    a, b = ref.find_stars(), sci.find_stars()
    if not (len(a.x) and len(b.x)):
        return StarPair(a.take(slice(0)), b.take(slice(0)))
    reach = max(2.0, 0.7 * max(fwhm_of(a), fwhm_of(b)))
    distance, nearest = cKDTree(np.column_stack([a.x, a.y])).query(np.column_stack([b.x, b.y]))
    _, first = np.unique(np.where(distance < reach, nearest, -1), return_index=True)
    first = first[distance[first] < reach]
    first = first[np.lexsort((-b.flux[first], ~b.isolated[first]))]
    return StarPair(a.take(nearest[first]), b.take(first))


def registration_error(delta: Any, error: Any, flux: Any) -> float:
    """Scatter of offsets (2, n) beyond the `error` from the sky and the stars' own noise.

    The latter falls with the flux: what is left for infinite flux is the registration's. By
    medians over groups of stars of like flux, so that a few moving or blended ones do not count.
    """
    order = np.argsort(flux)
    rows, values = [], []
    for part in np.array_split(order, np.clip(len(order) // 8, 1, 10)):
        scatter = mad_sigma(delta[:, part], 0) ** 2
        expected = np.median(error[part]) ** 2
        weight = np.sqrt(len(part)) / max(scatter, expected, 1e-12)
        rows.append([weight, weight * flux[order[-1]] / np.median(flux[part])])
        values.append(weight * (scatter - expected))
    design = np.array(rows) if len(rows) > 2 else np.array(rows)[:, :1]
    variance = nonnegative(design, np.array(values))[0]
    # A squared median of 2 n values has an error of 1.6 / sqrt(n): below twice that it is chance.
    chance = 1.6 * np.sqrt(np.linalg.pinv(design.T @ design)[0, 0])
    return float(np.sqrt(variance)) if variance > 2 * chance else 0.0


def stars_near(stars: Stars, tile: ZogyTile) -> NDArray[np.int64]:
    """Indices of the stars in and around the tile, or the nearest ones, in their own order."""
    (ny, nx), y, x = tile.shape, (tile.y0 + tile.y1 - 1) / 2, (tile.x0 + tile.x1 - 1) / 2
    distance = np.maximum(np.abs(stars.y - y) / ny, np.abs(stars.x - x) / nx)
    n = max(np.count_nonzero(distance < 0.6), min(STARS_OF_A_PSF, len(distance)))
    return np.sort(np.argsort(distance, kind="stable")[:n])


def tile_of(tiles: Sequence[ZogyTile], stars: Stars) -> NDArray[np.int64]:
    """Index of the tile that each star is in."""
    ys, xs = (sorted({getattr(t, name) for t in tiles}) for name in ("y0", "x0"))
    row, column = (
        np.maximum(np.searchsorted(begins, np.round(place), side="right") - 1, 0)
        for begins, place in ((ys, stars.y), (xs, stars.x))
    )
    return row * len(xs) + column


def centre_of(psf: NDArray[np.float64]) -> NDArray[np.float64]:
    """(x, y) of a PSF from its middle pixel, as positions of stars are measured."""
    _, dx, dy, _ = adaptive_moments(psf[None], 1.5)
    return np.array([dx[0], dy[0]])


def shifted(psf: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """The PSF moved by `shift` (x, y)."""
    if not any(shift):
        return psf
    x, y = (shift_matrix(np.array([-each]), psf.shape[0])[0] for each in shift)
    padded = np.pad(psf, (x.shape[1] - x.shape[0]) // 2)
    return normed(y @ padded @ x.T)


def fit_scale(
    ref: ZogyImage, sci: ZogyImage, pair: StarPair, tiles: Sequence[ZogyTile], psfs: Any
) -> tuple[float, int]:
    """Scale, and the stars that it rests on, of the images each seen through the other's PSF.

    There both have the same PSF: (N through P_r) = a (R through P_n) in the core of every star.
    """
    core = 2
    best = np.argsort(-np.minimum(pair.ref.snr, pair.sci.snr), kind="stable")[:_SCALE_STARS]
    x, y = pair.sci.x[best], pair.sci.y[best]
    which = tile_of(tiles, pair.sci.take(best))
    slopes, errors = [], []
    for t in np.unique(which):
        seen, clean = [], np.ones(np.count_nonzero(which == t), bool)
        for image, psf in ((sci, psfs[t][0]), (ref, psfs[t][1])):
            half = psf.shape[0] // 2 + core
            stamps, _ = cut_stamps(image.data, x[which == t], y[which == t], half)
            dirty, _ = cut_stamps(image.blank, x[which == t], y[which == t], half)
            view = np.lib.stride_tricks.sliding_window_view(stamps, psf.shape, axis=(1, 2))
            # Not by BLAS, whose threads would then wait for more at full speed.
            seen.append(np.einsum("syxij,ij->syx", view, psf[::-1, ::-1].astype(np.float32)))
            clean &= ~dirty.any((1, 2))
        n, r = (each[clean].reshape(np.count_nonzero(clean), -1) for each in seen)
        square = (r**2).sum(1)
        slope = (n * r).sum(1) / np.maximum(square, 1e-30)
        psf_r, psf_n = psfs[t]
        noise = sci.sigma**2 * (psf_r**2).sum() + slope**2 * ref.sigma**2 * (psf_n**2).sum()
        slopes.append(slope)
        errors.append(np.sqrt(noise / np.maximum(square / r.shape[1], 1e-30)))
    slope, error = np.concatenate(slopes), np.concatenate(errors)
    use = slope > 0
    if use.sum() < MIN_MATCHED:
        return 1.0, 0
    scale = float(np.median(slope[use]))
    for _ in range(4):
        total = np.hypot(error, _SCALE_ERROR * scale)
        pull = (slope - scale) / total
        spread = max(1.0, float(mad_sigma(pull[use], 0)))
        use = np.abs(pull) < 3 * spread
        if not use.any():
            return 1.0, 0
        scale = float(np.average(slope[use], weights=total[use] ** -2))
    return scale, int(use.sum())
