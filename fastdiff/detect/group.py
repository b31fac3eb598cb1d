"""Connected regions of a few images at once: found, split where they hold several peaks, grown."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .measure import BLENDED, EDGE, RegionPixels, highest, measure_regions

__all__ = ["ImageGroup"]

# A Gaussian holds its flux inside of 3.5 sigma, a Moffat profile needs more.
_GROWN_SIGMAS = 4.5
_MIN_GROWTH, _MAX_GROWTH = 2, 16
# Of a region with more peaks than this only the highest are looked at.
_MAX_PEAKS = 64
# A second peak must stand out of the saddle towards a higher one by this part of its height.
_PEAK_CONTRAST = 0.2
_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


class ImageGroup:
    """A few images of one shape: regions are found in all of them at once.

    Pixels are named by their flat index into the (n, ny, nx) array.
    """

    def __init__(
        self,
        images: NDArray[Any],
        noises: NDArray[Any],
        masks: NDArray[np.bool_] | None,
        saturated: NDArray[np.int64],
    ):
        self.shape = images.shape
        self.images = np.ascontiguousarray(images).reshape(-1)
        self.noises, self.masks, self.saturated_pixels = noises, masks, saturated
        self.saturated = np.sort(saturated @ [self.shape[1] * self.shape[2], self.shape[2], 1])

    def positions(self, pixels: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        """Indices (image, y, x) of `pixels`."""
        return np.unravel_index(pixels, self.shape)

    def neighbours(
        self, pixels: NDArray[np.int64], dy: int, dx: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which `pixels` have a neighbour at (dy, dx) in their image, and those neighbours."""
        _, y, x = self.positions(pixels)
        inside = (y + dy >= 0) & (y + dy < self.shape[1]) & (x + dx >= 0) & (x + dx < self.shape[2])
        return inside, pixels[inside] + (dy * self.shape[2] + dx)

    def noise_at(self, pixels: NDArray[np.int64]) -> NDArray[Any]:
        """Noise, 1 sigma, of `pixels`."""
        noise: NDArray[Any] = self.noises[self.positions(pixels)]
        return noise

    def find(
        self, factor: int, pixel_threshold: float, min_pixels: int, noise_free: bool
    ) -> dict[str, NDArray[Any]]:
        """Columns of the candidates whose value times `factor` is positive."""
        from scipy import ndimage

        structure = np.zeros((3, 3, 3), bool)
        structure[1] = True  # images do not touch each other
        hot = factor * self.images.reshape(self.shape) > pixel_threshold * self.noises
        labels: NDArray[np.int32] = np.empty(self.shape, np.int32)
        n_regions = ndimage.label(hot, structure, output=labels)
        del hot
        labels = labels.reshape(-1)
        pixels = np.flatnonzero(labels)
        area = np.bincount(labels[pixels], minlength=n_regions + 1)
        big = area >= min_pixels
        big[0] = False
        number = np.cumsum(big, dtype=np.int32) * big
        labels[pixels] = number[labels[pixels]]
        pixels = pixels[labels[pixels] > 0]
        n_regions = int(big.sum())

        n_regions, blended = self.split(labels, pixels, n_regions, factor, pixel_threshold)
        owner = labels[pixels] - 1
        n_pixels = np.bincount(owner, minlength=n_regions)
        value = factor * self.images[pixels].astype(np.float64)
        ratio = value / self.noise_at(pixels)
        top = highest(ratio, owner, n_regions)
        # Area above a threshold T of a Gaussian of height P: A = 2 pi sigma^2 ln(P/T).
        contrast = np.log(np.maximum(ratio[top] / pixel_threshold, 1.1))
        sigma = np.sqrt(n_pixels / (2.0 * np.pi * contrast))
        growth = np.ceil(_GROWN_SIGMAS * sigma - np.sqrt(n_pixels / np.pi))
        growth = np.clip(growth, _MIN_GROWTH, _MAX_GROWTH).astype(np.int64)
        peak, pixels_at_top = factor * value[top], pixels[top]
        pixels, touches = self.grow(labels, pixels, growth, factor, pixel_threshold)
        sample = self.sample(pixels, labels[pixels] - 1, factor)
        columns = measure_regions(sample, n_regions, factor=factor, noise_free=noise_free)
        columns.update(n_pixels=n_pixels, peak=peak, top=pixels_at_top)
        columns["flags"] += EDGE * touches + BLENDED * blended
        return columns

    def split(
        self,
        labels: NDArray[np.int32],
        pixels: NDArray[np.int64],
        n_regions: int,
        factor: int,
        pixel_threshold: float,
    ) -> tuple[int, NDArray[np.bool_]]:
        """Give each distinct peak of a region a label of its own: its nearest pixels.

        `labels` is changed in place; returns the number of regions and which were split.
        """
        value = factor * self.images[pixels].astype(np.float64)
        is_peak = np.ones(len(pixels), bool)
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                if (dy, dx) == (0, 0):
                    continue
                inside, near = self.neighbours(pixels, dy, dx)
                other = factor * self.images[near]
                # Of equal pixels one is the peak: the last.
                wins = value[inside] > other if (dy, dx) > (0, 0) else value[inside] >= other
                is_peak[inside] &= wins | np.isnan(other) | (labels[near] == 0)
        peaks = np.flatnonzero(is_peak)
        owner = labels[pixels]
        several = np.bincount(owner[peaks], minlength=n_regions + 1) > 1
        blended = [False] * n_regions
        if not several.any():
            return n_regions, np.array(blended, bool)
        peaks = peaks[several[owner[peaks]]]
        peaks = peaks[np.lexsort((-value[peaks], owner[peaks]))]
        members = np.flatnonzero(several[owner])
        members = members[np.argsort(owner[members], kind="stable")]
        for region in np.flatnonzero(several):
            begin, end = np.searchsorted(owner[peaks], [region, region + 1])
            here = peaks[begin : min(end, begin + _MAX_PEAKS)]
            image, y, x = self.positions(pixels[here])
            kept = [0]
            for i in range(1, len(here)):
                depth = max(
                    _PEAK_CONTRAST * value[here[i]],
                    pixel_threshold * float(self.noise_at(pixels[here[i : i + 1]])[0]),
                )
                if all(
                    value[here[i]] - self.saddle(image[i], y[[i, j]], x[[i, j]], factor) > depth
                    for j in kept
                ):
                    kept.append(i)
            if len(kept) == 1:
                continue
            begin, end = np.searchsorted(owner[members], [region, region + 1])
            mine = pixels[members[begin:end]]
            _, my_y, my_x = self.positions(mine)
            distance = (my_y[:, None] - y[kept]) ** 2 + (my_x[:, None] - x[kept]) ** 2
            nearest = distance.argmin(1)
            labels[mine] = np.where(nearest == 0, region, n_regions + nearest)
            n_regions += len(kept) - 1
            blended[region - 1] = True
            blended += [True] * (len(kept) - 1)
        return n_regions, np.array(blended, bool)

    def saddle(self, image: int, y: NDArray[Any], x: NDArray[Any], factor: int) -> float:
        """Lowest value, times `factor`, on the straight line between two pixels."""
        steps = np.linspace(0.0, 1.0, int(max(abs(y[1] - y[0]), abs(x[1] - x[0]))) + 1)
        rows = np.rint(y[0] + steps * (y[1] - y[0])).astype(np.int64)
        columns = np.rint(x[0] + steps * (x[1] - x[0])).astype(np.int64)
        line = factor * self.images.reshape(self.shape)[image, rows, columns]
        return float(np.nan_to_num(line).min())

    def grow(
        self,
        labels: NDArray[np.int32],
        pixels: NDArray[np.int64],
        growth: NDArray[np.int64],
        factor: int,
        pixel_threshold: float,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Grow each region by its number of steps into free pixels; `labels` in place.

        Pixels beyond the threshold with the other sign are not free: another source's.
        Returns all pixels of the regions, and which regions touch the edge of their image.
        """
        touches = np.zeros(len(growth), bool)
        grown, front = [pixels], pixels
        for step in range(int(growth.max(initial=0)) + 1):
            _, y, x = self.positions(front)
            edge = (y == 0) | (y == self.shape[1] - 1) | (x == 0) | (x == self.shape[2] - 1)
            touches[labels[front[edge]] - 1] = True
            front = front[growth[labels[front] - 1] > step]
            fresh = []
            # Steps to 4 and to 8 neighbours by turns make an octagon, nearly a circle.
            for dy, dx in _NEIGHBOURS:
                if step % 2 == 0 and dy and dx:
                    continue
                inside, near = self.neighbours(front, dy, dx)
                other = -factor * self.images[near] > pixel_threshold * self.noise_at(near)
                free = (labels[near] == 0) & ~other
                labels[near[free]] = labels[front[inside][free]]
                fresh.append(near[free])
            front = np.concatenate(fresh)
            grown.append(front)
        return np.concatenate(grown), touches

    def sample(
        self, pixels: NDArray[np.int64], owner: NDArray[np.int32], factor: int
    ) -> RegionPixels:
        """What is measured of `pixels`, each of region `owner`."""
        image, y, x = self.positions(pixels)
        value = factor * self.images[pixels].astype(np.float64)
        noise = self.noise_at(pixels).astype(np.float64)
        bad = ~(np.isfinite(value) & np.isfinite(noise))
        if self.masks is not None:
            bad |= self.masks[image, y, x]
        value[bad] = noise[bad] = 0.0
        saturated = np.isin(pixels, self.saturated)
        return RegionPixels(image, y, x, value, noise, bad, saturated, owner)
