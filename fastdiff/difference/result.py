"""What a subtraction gives: difference images with their noise, masks and maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays

__all__ = ["LISTS", "MAPS", "Difference"]

# Values of `Difference.meta` with one entry an image.
_PER_IMAGE = (
    "scale", "scale_boxes", "sky", "sky_noise", "astrometric_noise", "n_stars", "noise_factor",
    "fwhm", "stamps", "shift", "missing", "saturation", "cosmic_rays",
)  # fmt: skip
# Attributes of `Difference` that only some methods fill: maps, and lists with one entry an image.
MAPS = ("significance", "flux", "flux_err", "systematic")
LISTS = ("kernel", "psf")


@dataclasses.dataclass
class Difference:
    """Difference images with their noise and masks.

    Attributes
    ----------
    image : array, (n, ny, nx) or (ny, nx), float32
        What changed, in counts of the science image: positive where it is brighter, negative
        where it is fainter than the reference. NaN at masked pixels and nowhere else.
    noise : array of the same shape, float32
        1 sigma per pixel in counts: for TransiNet, whose difference has no noise, that of the
        science image; for the other methods that of the difference. NaN where it is unknown: at
        pixels whose variance is missing, and all over an image without a good pixel.
    mask : array of the same shape, bool
        True at bad pixels: not finite, masked, saturated or without variance in either image.
    meta : dict
        "method", "version", "seconds" (wall time by stage), "notes" (image index -> what was
        unusual), what was found in the frames ("missing", "saturation", "cosmic_rays", "shift",
        "units": see `fastdiff.subtract_batch`), "saturated" ((m, 3) indices of
        saturated pixels); for TransiNet also "model", "backend", "threads", "pixel_threshold",
        and one value an image of "scale" (flux in science over flux in reference; "scale_boxes"
        says on how many patches it rests, 0 is not measured, -1 is given), "sky" and "sky_noise"
        (medians, counts).
    significance : array of the same shape, float32, or None
        S/N of a point source at each pixel: flux / flux_err (zogy: S_corr, which also knows the
        error of the registration).
    flux, flux_err : array of the same shape, float32, or None
        Flux of a point source at each pixel of the PSF-matched difference and its error, in
        counts: docs/errors.md. At bad pixels too where most of a source would be on good ones.
    systematic : array of the same shape, float32, or None
        The part of `flux_err` that what is left of other sources makes; 0 away from them.
    kernel, psf : object or list of n objects, or None
        The matching kernel (psf-match: callable at (x, y)) and the PSF of the difference
        (an odd, square array of sum 1), of each image.

    Notes
    -----
    ``np.asarray(difference)`` is the image. ``difference[i]`` is the difference of one image,
    ``difference[a:b]`` that of several; nothing is copied.
    """

    image: Any
    noise: Any
    mask: Any
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)
    significance: Any = None
    flux: Any = None
    flux_err: Any = None
    systematic: Any = None
    kernel: Any = None
    psf: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image."""
        return tuple(self.image.shape)

    def __repr__(self) -> str:
        of = f" by {self.meta['method']}" if "method" in self.meta else ""
        return f"<Difference {self.shape}{of}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        image = arrays.to_numpy(self.image, "difference", images=False)
        return np.array(image, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.image) if len(self.shape) == 3 else 1

    def __iter__(self) -> Iterator[Difference]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int | slice) -> Difference:
        if len(self.shape) == 2:
            if index in (0, -1):
                return self
            raise IndexError(f"index {index!r} into a difference of a single image; use [0]")
        if isinstance(index, slice):
            chosen = list(range(*index.indices(len(self))))
        else:
            chosen = [range(len(self))[index]]
        meta = dict(self.meta)
        for name in _PER_IMAGE:
            if name in meta:
                meta[name] = meta[name][chosen]
        place = {old: new for new, old in enumerate(chosen)}
        if "notes" in meta:
            meta["notes"] = {place[i]: v for i, v in meta["notes"].items() if i in place}
        if "saturated" in meta:
            kept = meta["saturated"][np.isin(meta["saturated"][:, 0], chosen)]
            meta["saturated"] = kept.copy()
            meta["saturated"][:, 0] = [place[i] for i in kept[:, 0]]
        extras: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[index]
            for name in (*MAPS, *LISTS)
        }
        return Difference(self.image[index], self.noise[index], self.mask[index], meta, **extras)
