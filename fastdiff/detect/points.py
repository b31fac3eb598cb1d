"""Candidates as point sources: what the maps of a difference say at the places of regions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays

from .group import ImageGroup

__all__ = ["PointMaps"]

_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
_REACH = 2  # pixels, from the middle of a region to the top of its point source


class PointMaps:
    """Maps of point sources of a few images: their significance, fluxes and errors.

    Parameters
    ----------
    difference : Searchable
        With maps (n, ny, nx) or (ny, nx).
    first, last : int
        Images of the batch.
    group : ImageGroup
        The difference itself.
    """

    def __init__(self, difference: Any, first: int, last: int, group: ImageGroup):
        self.group, self.first = group, first
        self.psfs = getattr(difference, "psf", None)
        self.maps = {
            name: np.ascontiguousarray(
                arrays.to_numpy(values, name, images=False).reshape(-1, *group.shape[1:])[
                    first:last
                ]
            ).reshape(-1)
            for name in ("significance", "flux", "flux_err", "systematic")
            if (values := getattr(difference, name, None)) is not None
        }

    @property
    def significance(self) -> NDArray[Any]:
        """(n, ny, nx)"""
        return self.maps["significance"].reshape(self.group.shape)

    def near(self, part: dict[str, NDArray[Any]], factor: int) -> NDArray[np.int64]:
        """Pixel where the significance, times `factor`, is highest near the middle of each region.

        That is the top of its point source; -1 where the maps know nothing of the middle.
        """
        shape = self.group.shape
        y0, x0 = (np.rint(part[name]).astype(np.int64) for name in ("y", "x"))
        best, value = np.full(len(y0), -1), np.full(len(y0), -np.inf)
        unknown = np.zeros(len(y0), bool)
        for dy in range(-_REACH, _REACH + 1):
            for dx in range(-_REACH, _REACH + 1):
                y, x = np.clip(y0 + dy, 0, shape[1] - 1), np.clip(x0 + dx, 0, shape[2] - 1)
                pixel = (part["image"].astype(np.int64) * shape[1] + y) * shape[2] + x
                here = factor * self.maps["significance"][pixel].astype(np.float64)
                if (dy, dx) == (0, 0):
                    unknown = np.isnan(here)
                higher = here > value  # False for NaN
                best[higher], value[higher] = pixel[higher], here[higher]
        best[unknown] = -1
        return best

    def climb(self, top: NDArray[np.int64], factor: int) -> NDArray[np.int64]:
        """Pixel where the flux, times `factor`, is highest near each of `top`.

        Where the noise rises, as towards the middle of a galaxy, the significance is highest beside
        the source.
        """
        flux = self.maps["flux"]
        for _ in range(_REACH):
            best, value = top.copy(), factor * flux[top].astype(np.float64)
            for dy, dx in _NEIGHBOURS:
                inside, near = self.group.neighbours(top, dy, dx)
                here = np.full(len(top), -np.inf)
                here[inside] = factor * flux[near]
                higher = here > value
                best[higher] = top[higher] + dy * self.group.shape[2] + dx
                value[higher] = here[higher]
            top = best
        return top

    def measure(self, top: NDArray[np.int64], factor: int) -> dict[str, NDArray[Any]]:
        """Columns of the point sources whose most significant pixels are `top`.

        Between pixels maps are parabolas along each axis, through a pixel and its neighbours: the
        top of that of the flux is the place of the source.
        """
        top = self.climb(top, factor)
        image, y, x = self.group.positions(top)
        dx, dy = self.offset(top, 0, 1), self.offset(top, 1, 0)
        flux = self.between("flux", top, dx, dy)
        error = self.maps["flux_err"][top].astype(np.float64)
        # The significance may know of errors that the fluxes do not (ZOGY: of the registration).
        pixel = self.maps["flux"][top].astype(np.float64)
        ratio = np.divide(flux, pixel, out=np.ones(len(top)), where=pixel != 0)
        columns = {
            "x": x + dx, "y": y + dy, "flux": flux, "flux_err": error,
            "snr": self.maps["significance"][top] * ratio,
            "peak": self.group.images[top].astype(np.float64),
        }  # fmt: skip
        if "systematic" in self.maps:
            columns["flux_err_systematic"] = self.maps["systematic"][top].astype(np.float64)
        slopes = np.array([self.position_error(i) for i in range(self.group.shape[0])])
        relative = np.abs(error / np.where(flux == 0, np.nan, flux))
        columns["x_err"], columns["y_err"] = (slopes[image, k] * relative for k in range(2))
        return columns

    def offset(self, pixels: NDArray[np.int64], dy: int, dx: int) -> NDArray[np.float64]:
        """Where between -0.5 and 0.5 the parabola of the flux has its top."""
        left, middle, right = self.line("flux", pixels, dy, dx)
        bend = 2.0 * middle - left - right
        offset = np.divide(right - left, 2.0 * bend, out=np.zeros(len(pixels)), where=bend != 0)
        within: NDArray[np.float64] = np.clip(np.nan_to_num(offset), -0.5, 0.5)
        return within

    def between(
        self, name: str, pixels: NDArray[np.int64], dx: NDArray[Any], dy: NDArray[Any]
    ) -> NDArray[np.float64]:
        """Value of a map at `pixels` + (dx, dy)."""
        value = self.maps[name][pixels].astype(np.float64)
        change = np.zeros(len(pixels))
        for shift, (step_y, step_x) in ((dx, (0, 1)), (dy, (1, 0))):
            left, middle, right = self.line(name, pixels, step_y, step_x)
            slope, bend = (right - left) / 2, 2 * middle - left - right
            change += np.nan_to_num(slope * shift - bend / 2 * shift**2)
        return value + change

    def line(self, name: str, pixels: NDArray[np.int64], dy: int, dx: int) -> NDArray[np.float64]:
        """(3, n): values of a map at the pixel before, at each and at that after; NaN beyond."""
        values = np.full((3, len(pixels)), np.nan)
        values[1] = self.maps[name][pixels]
        for row, step in ((0, -1), (2, 1)):
            inside, near = self.group.neighbours(pixels, step * dy, step * dx)
            values[row, inside] = self.maps[name][near]
        return values

    def position_error(self, image: int) -> tuple[float, float]:
        """Error of x and y, in pixels, of a source whose flux has an error of its own size.

        In white noise the errors are sigma / (F sqrt(sum (dP/dx)^2)) and sigma / sqrt(sum P^2) of
        the place and of the flux (King 1983, PASP 95, 163).
        """
        psf = self.psfs
        if isinstance(psf, (list, tuple)):
            psf = psf[self.first + image]
        psf = np.asarray(psf, np.float64) if psf is not None else np.empty((0, 0))
        if psf.ndim != 2 or min(psf.shape) < 3:
            return np.nan, np.nan
        along_y, along_x = np.gradient(psf)
        square = (psf**2).sum()
        return (
            float(np.sqrt(square / (along_x**2).sum())),
            float(np.sqrt(square / (along_y**2).sum())),
        )
