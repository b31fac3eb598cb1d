"""The user's own images behind synthetic pairs: turned, shifted, and seen through each PSF."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays

__all__ = ["Backgrounds", "psf_image"]


class Backgrounds:
    """Electrons of the user's images under eqs 5 and 6, convolved with each sample's PSFs."""

    def __init__(self, images: Any, seed: int, shape: tuple[int, int]) -> None:
        self.images = [np.asarray(image, np.float32) for image in images]
        if not self.images or any(image.ndim != 2 for image in self.images):
            raise ValueError(
                "`backgrounds` must be one or more 2-D images, a list of them or (n, ny, nx)"
            )
        self.images = [np.nan_to_num(image, posinf=0.0, neginf=0.0) for image in self.images]
        self.seed, self.shape = seed, shape

    def __call__(self, frame: Any, psf: Any, first: int) -> Any:
        """Electrons to add to ref and sci, (n, 2, ny + 1, nx + 1), where `frame` lies.

        Parameters
        ----------
        frame, psf : array
            Tables of `fastdiff.kernels.synth.tables`.
        first : int
            Number of the first sample, which tells the random numbers of its background.
        """
        frames, psfs = arrays.on_host(frame), arrays.on_host(psf)
        ny, nx = self.shape[0] + 1, self.shape[1] + 1
        out = np.empty((len(frames), 2, ny, nx), np.float32)
        for k, (own, terms) in enumerate(zip(frames, psfs, strict=True)):
            rng = np.random.Generator(np.random.Philox(key=[self.seed, first + k]))
            image = self.images[rng.integers(len(self.images))]
            angle = rng.uniform(0, 2 * np.pi)  # eq 5
            shift = rng.normal(0, math.sqrt(0.03), 2) * image.shape  # eq 6
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            centre = (np.array(image.shape) - 1) / 2 + shift
            for j in range(2):
                out[k, j] = _seen(image, turn, centre, own, terms[j], j, (ny, nx))
        return np.asarray(np.maximum(out, 0), like=frame)


def _seen(
    image: NDArray[Any],
    turn: NDArray[Any],
    centre: NDArray[Any],
    frame: NDArray[Any],
    psf: NDArray[Any],
    which: int,
    shape: tuple[int, int],
) -> NDArray[Any]:
    """A background turned about `centre` and convolved with the PSF of ref (0) or sci (1)."""
    from scipy.ndimage import affine_transform
    from scipy.signal import fftconvolve

    from fastdiff.kernels.synth.tables import FX_REF, FY_REF, REF, THROUGHPUT

    shifted = np.array([frame[FY_REF + 2 * which], frame[FX_REF + 2 * which]])
    origin = centre - turn @ ((np.array(shape) - 2) / 2 + shifted)
    warped = affine_transform(image, turn, origin, output_shape=shape, order=1, mode="reflect")
    kernel = psf_image(psf)
    brightness = frame[THROUGHPUT] if which == REF else 1.0
    reach = kernel.shape[0] // 2
    padded = np.pad(warped, reach, mode="reflect") * brightness
    return np.asarray(fftconvolve(padded, kernel, mode="valid"))


def psf_image(terms: NDArray[Any], half: int = 20) -> NDArray[np.float64]:
    """A PSF, (PSF_TERMS, PSF_COLUMNS) of `kernels.synth.tables`, as an image of unit sum."""
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    image = np.zeros(x.shape)
    for weight, ox, oy, xx, xy, yy in terms.astype(float):
        if weight > 0:
            inverse = np.linalg.inv([[xx + 1 / 12, xy], [xy, yy + 1 / 12]])
            dx, dy = x - ox, y - oy
            q = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2
            image += weight * np.sqrt(np.linalg.det(inverse)) * np.exp(-q / 2)
    return np.asarray(image / image.sum())
