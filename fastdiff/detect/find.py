"""From difference images to a table of candidates.

Connected regions above a threshold as in Sedaghat & Mahabal 2018, section 5.1.1 (eq. 15, full
connectivity), split where they hold several peaks, then grown so that the sum over a region is
the flux of its source. No loop over pixels: after one labelling of the frame everything runs on
the few pixels that belong to regions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdiff.core import arrays

if TYPE_CHECKING:
    from astropy.table import Table

    from fastdiff.difference.api import Difference

__all__ = ["BLENDED", "EDGE", "FLAGS", "MASKED", "SATURATED", "find_transients"]

EDGE = 1
"""Flag: the grown region touches the edge of the image, so that flux may be missing."""
MASKED = 2
"""Flag: masked pixels lie in or beside the region; their flux is missing."""
SATURATED = 4
"""Flag: saturated pixels lie in or beside the region."""
BLENDED = 8
"""Flag: the source was separated from another one in the same connected region."""
FLAGS = {"EDGE": EDGE, "MASKED": MASKED, "SATURATED": SATURATED, "BLENDED": BLENDED}

# In sigmas of the science image; used where the model's metadata give no threshold.
_PIXEL_THRESHOLD = 0.5
# Images are worked on in groups of about so many pixels.
_GROUP_PIXELS = 2**24
# A Gaussian holds its flux inside of 3.5 sigma, a Moffat profile needs more.
_GROWN_SIGMAS = 4.5
_MIN_GROWTH, _MAX_GROWTH = 2, 16
# Of a region with more peaks than this only the highest are looked at.
_MAX_PEAKS = 64
# A second peak must stand out of the saddle towards a higher one by this part of its height.
_PEAK_CONTRAST = 0.2
_FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]

_COLUMNS = {
    "image": "index of the image in the batch",
    "x": "flux-weighted centre along the second axis, 0-based pixel centres",
    "y": "flux-weighted centre along the first axis, 0-based pixel centres",
    "flux": "sum over the grown region, in counts of the science image; negative if it faded",
    "flux_err": "1 sigma error of flux",
    "snr": "flux / flux_err",
    "flags": "sum of " + ", ".join(f"{bit} ({name.lower()})" for name, bit in FLAGS.items()),
    "n_pixels": "pixels above the pixel threshold",
    "peak": "value of the pixel that stands out most, in counts",
    "fwhm": "full width at half maximum from the second moments, in pixels",
    "ellipticity": "1 - minor axis / major axis, from the second moments",
    "theta": "angle of the major axis from +x towards +y, in degrees, -90 to 90",
}
_INTEGERS = ("image", "flags", "n_pixels")


def find_transients(
    difference: Difference | ArrayLike,
    threshold: float = 5.0,
    *,
    sign: Literal["positive", "negative", "both"] = "positive",
    min_pixels: int = 3,
    pixel_threshold: float | None = None,
    noise: ArrayLike | None = None,
    noise_free: bool | None = None,
) -> Table:
    r"""Table of what changed, one row a candidate.

    Pixels above `pixel_threshold` times the noise form 8-connected regions
    [1]_ (section 5.1.1, eq. 15). Regions with several peaks are split; each is grown by as
    much as a Gaussian of its height and area needs to hold its whole flux, without taking
    pixels from its neighbours. Then, over the grown region of profile :math:`p`,

    .. math:: F = \sum_i p_i, \qquad
              \sigma_F = F \frac{\sqrt{\sum_i p_i^2 \sigma_i^2}}{\sum_i p_i^2},

    which is the error of an optimally weighted flux; with equal noise it is
    :math:`\sigma \sqrt{A}` with the effective area :math:`A = (\sum p)^2 / \sum p^2`.

    A difference with a map of significance ("psf-match", "zogy") is searched in that map: a
    region is what lies above `threshold` in it, ``snr`` is its highest value, and flux and error
    are those of a point source there.

    Parameters
    ----------
    difference : Difference or array_like
        What `fastdiff.subtract_batch` gives, or images (ny, nx) or (n, ny, nx) in counts;
        NaN marks bad pixels. Arrays need `noise`.
    threshold : float
        Smallest ``|snr|`` of a candidate.
    sign : {"positive", "negative", "both"}
        Whether to report what brightened, what faded (negative fluxes), or both.
    min_pixels : int
        Smallest number of pixels above the pixel threshold.
    pixel_threshold : float, optional
        In units of the noise per pixel. By default that of the model
        (``difference.meta["pixel_threshold"]``), else 0.5, which suits a noise-free difference
        such as TransiNet's. A difference with noise in it needs 2 to 4. Not used, nor are
        `min_pixels` and `noise_free`, where a map of significance is searched.
    noise : array_like, optional
        1 sigma per pixel in counts: a number or an array that broadcasts against the images.
        By default that of `difference`.
    noise_free : bool, optional
        Whether the difference is an estimate without noise, as a network makes it. By default
        ``difference.meta["noise_free"]``; True for arrays. With noise in the image its square
        adds to :math:`\sum p^2`, so the error is that of the plain sum,
        :math:`\sqrt{\sum \sigma_i^2}`.

    Returns
    -------
    astropy.table.Table
        Columns image, x, y, flux, flux_err, snr, flags, n_pixels, peak, fwhm, ellipticity,
        theta, sorted by image and then by falling ``|snr|``; their descriptions say more.
        The flags are `EDGE`, `MASKED`, `SATURATED` and `BLENDED` of this module.

    Raises
    ------
    TypeError
        If `difference` is neither a Difference nor real images.
    ValueError
        If a parameter is out of its range, or arrays come without `noise`.

    References
    ----------
    .. [1] Sedaghat & Mahabal 2018, MNRAS 476, 5365.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[:64, :64]
    >>> image = 50 * np.exp(-((x - 20) ** 2 + (y - 40) ** 2) / (2 * 1.5**2))
    >>> table = find_transients(image, noise=1.0)
    >>> print(len(table), round(table["x"][0], 2), round(table["y"][0], 2))
    1 20.0 40.0
    """
    signs = {"positive": (1,), "negative": (-1,), "both": (1, -1)}
    if sign not in signs:
        raise ValueError(f"sign is {sign!r}; it must be 'positive', 'negative' or 'both'")
    meta: dict[str, Any] = getattr(difference, "meta", None) or {}
    if noise is None:
        noise = getattr(difference, "noise", None)
    if noise is None:
        raise ValueError(
            "noise is missing: `difference` is an array without one; pass noise= as a number "
            "or an array, 1 sigma per pixel in counts"
        )
    if pixel_threshold is None:
        pixel_threshold = float(meta.get("pixel_threshold", _PIXEL_THRESHOLD))
    if noise_free is None:
        noise_free = bool(meta.get("noise_free", True))
    for name, value in (("threshold", threshold), ("pixel_threshold", pixel_threshold)):
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be positive (in units of the noise)")
    if min_pixels < 1:
        raise ValueError(f"min_pixels is {min_pixels}; it must be at least 1")

    images = arrays.to_numpy(getattr(difference, "image", difference), "difference")
    try:
        noises = np.broadcast_to(arrays.to_numpy(noise, "noise", images=False), images.shape)
    except ValueError as error:
        raise ValueError(
            f"`noise` has shape {np.shape(noise)}; it must broadcast against the images, "
            f"{images.shape}"
        ) from error
    mask = getattr(difference, "mask", None) if meta else None
    masks = None if mask is None else np.broadcast_to(arrays.to_numpy(mask, "mask"), images.shape)
    saturated = np.asarray(meta.get("saturated", np.empty((0, 3))), dtype=np.int64)

    significance = getattr(difference, "significance", None)
    if significance is not None:
        significance = arrays.to_numpy(significance, "significance", images=False)
        significance = significance.reshape(images.shape)
        pixel_threshold, min_pixels = float(threshold), 1

    parts = []
    for first, last in _groups(images.shape):
        here = saturated[(saturated[:, 0] >= first) & (saturated[:, 0] < last)]
        group = _Group(
            images[first:last],
            noises[first:last],
            None if masks is None else masks[first:last],
            here - [first, 0, 0],
        )
        searched = group
        if significance is not None:
            one = np.broadcast_to(np.float32(1), group.shape)
            searched = _Group(significance[first:last], one, group.masks, here - [first, 0, 0])
        for factor in signs[sign]:
            part = searched.find(factor, pixel_threshold, int(min_pixels), noise_free)
            if significance is not None:
                _as_point_sources(part, group, searched, difference, first)
            part["image"] += first
            parts.append(part)
    columns = {name: np.concatenate([p[name] for p in parts] or [[]]) for name in _COLUMNS}
    return _table(columns, threshold, pixel_threshold, sign)


def _as_point_sources(
    part: dict[str, NDArray[Any]], group: _Group, searched: _Group, difference: Any, first: int
) -> None:
    """Turn what was measured in a map of significance into measures of point sources."""
    top = part.pop("top")
    image, y, x = group.positions(top)
    # The top of a parabola through the peak and its neighbours: other sources do not pull on it.
    part["y"], part["x"] = y + searched.vertex(top, 1, 0), x + searched.vertex(top, 0, 1)
    part["snr"] = part["peak"]
    part["peak"] = group.images[top].astype(np.float64)
    part["flux"], part["flux_err"] = (
        arrays.to_numpy(getattr(difference, name), name, images=False)
        .reshape(-1, *group.shape[1:])[image + first, y, x]
        .astype(np.float64)
        for name in ("flux", "flux_err")
    )
    # The map is the difference correlated with its PSF: sqrt(2) times as wide.
    part["fwhm"] = part["fwhm"] / np.sqrt(2.0)


def _groups(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    n_images, ny, nx = shape
    step = max(1, _GROUP_PIXELS // max(1, ny * nx))
    for first in range(0, n_images, step):
        yield first, min(n_images, first + step)


def _table(
    columns: dict[str, NDArray[Any]], threshold: float, pixel_threshold: float, sign: str
) -> Table:
    from astropy.table import Table

    keep = np.abs(columns["snr"]) >= threshold
    order = np.lexsort((-np.abs(columns["snr"][keep]), columns["image"][keep]))
    table = Table()
    for name, description in _COLUMNS.items():
        kind = np.int64 if name in _INTEGERS else np.float64
        table[name] = columns[name][keep][order].astype(kind)
        table[name].description = description
    for name, form in {"x": ".2f", "y": ".2f", "flux": ".5g", "flux_err": ".4g", "snr": ".2f",
                       "peak": ".5g", "fwhm": ".2f", "ellipticity": ".2f",
                       "theta": ".1f"}.items():  # fmt: skip
        table[name].info.format = form
    table.meta.update(threshold=threshold, pixel_threshold=pixel_threshold, sign=sign)
    return table


class _Group:
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
        self.noises, self.masks = noises, masks
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

    def vertex(self, pixels: NDArray[np.int64], dy: int, dx: int) -> NDArray[np.float64]:
        """Where between -0.5 and 0.5 the parabola through three pixels in a line has its top."""
        values = np.full((3, len(pixels)), np.nan)
        values[1] = self.images[pixels]
        for row, step in ((0, -1), (2, 1)):
            inside, near = self.neighbours(pixels, step * dy, step * dx)
            values[row, inside] = self.images[near]
        left, middle, right = values
        bend = 2.0 * middle - left - right
        offset = np.divide(right - left, 2.0 * bend, out=np.zeros(len(pixels)), where=bend != 0)
        return np.clip(np.nan_to_num(offset), -0.5, 0.5)

    def noise_at(self, pixels: NDArray[np.int64]) -> NDArray[Any]:
        return self.noises[self.positions(pixels)]

    def find(
        self, factor: int, pixel_threshold: float, min_pixels: int, noise_free: bool
    ) -> dict[str, NDArray[Any]]:
        """Columns of the candidates whose value times `factor` is positive."""
        from scipy import ndimage

        structure = np.zeros((3, 3, 3), bool)
        structure[1] = True  # images do not touch each other
        hot = factor * self.images.reshape(self.shape) > pixel_threshold * self.noises
        labels = np.empty(self.shape, np.int32)
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
        top = _argmax(ratio, owner, n_regions)
        # Area above a threshold T of a Gaussian of height P: A = 2 pi sigma^2 ln(P/T).
        contrast = np.log(np.maximum(ratio[top] / pixel_threshold, 1.1))
        sigma = np.sqrt(n_pixels / (2.0 * np.pi * contrast))
        growth = np.ceil(_GROWN_SIGMAS * sigma - np.sqrt(n_pixels / np.pi))
        growth = np.clip(growth, _MIN_GROWTH, _MAX_GROWTH).astype(np.int64)
        peak, pixels_at_top = factor * value[top], pixels[top]
        pixels, touches = self.grow(labels, pixels, growth, factor, pixel_threshold)
        columns = self.measure(pixels, labels[pixels] - 1, n_regions, factor, noise_free)
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

    def measure(
        self,
        pixels: NDArray[np.int64],
        owner: NDArray[np.int64],
        n_regions: int,
        factor: int,
        noise_free: bool,
    ) -> dict[str, NDArray[Any]]:
        """Sums over the grown regions: `pixels`, each of region `owner`."""

        def total(weights: NDArray[Any]) -> NDArray[np.float64]:
            return np.bincount(owner, weights, n_regions)

        image, y, x = self.positions(pixels)
        value = factor * self.images[pixels].astype(np.float64)
        noise = self.noise_at(pixels).astype(np.float64)
        bad = ~(np.isfinite(value) & np.isfinite(noise))
        if self.masks is not None:
            bad |= self.masks[image, y, x]
        value[bad] = noise[bad] = 0.0
        saturated = np.isin(pixels, self.saturated)
        flux, square = total(value), total(value**2)
        if noise_free:
            flux_err = np.abs(flux) * np.sqrt(total((value * noise) ** 2)) / square
        else:
            flux_err = np.sqrt(total(noise**2))

        # Moments about the region's own corner: no cancellation in a large image.
        y0, x0 = _minimum(y, owner, n_regions), _minimum(x, owner, n_regions)
        weight = np.maximum(value, 0.0)
        dy, dx = y - y0[owner], x - x0[owner]
        norm = total(weight)
        my, mx = total(weight * dy) / norm, total(weight * dx) / norm
        # A pixel is a square, not a point: its own second moment of 1/12 is not added, so
        # that a sampled Gaussian gives back its sigma.
        syy = total(weight * dy**2) / norm - my**2
        sxx = total(weight * dx**2) / norm - mx**2
        sxy = total(weight * dy * dx) / norm - mx * my
        mean, half = (sxx + syy) / 2, np.hypot((sxx - syy) / 2, sxy)
        major, minor = mean + half, np.maximum(mean - half, 0.0)
        first = _argmax(np.ones(len(pixels)), owner, n_regions)
        return {
            "image": image[first],
            "x": x0 + mx,
            "y": y0 + my,
            "flux": factor * flux,
            "flux_err": flux_err,
            "snr": factor * flux / flux_err,
            "flags": MASKED * (total(bad) > 0) + SATURATED * (total(saturated) > 0),
            "fwhm": _FWHM_PER_SIGMA * np.sqrt(np.maximum(mean, 0.0)),
            "ellipticity": 1.0 - np.sqrt(minor / np.maximum(major, 1e-30)),
            "theta": np.degrees(np.arctan2(2 * sxy, sxx - syy) / 2),
        }


def _minimum(values: NDArray[Any], owner: NDArray[Any], n_regions: int) -> NDArray[Any]:
    result = np.full(n_regions, np.iinfo(np.int64).max)
    np.minimum.at(result, owner, values)
    return result


def _argmax(values: NDArray[Any], owner: NDArray[Any], n_regions: int) -> NDArray[np.int64]:
    """Index of the highest of `values` in each region."""
    order = np.lexsort((values, owner))
    return order[np.searchsorted(owner[order], np.arange(n_regions), side="right") - 1]
