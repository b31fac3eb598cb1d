"""PSFs of a pair, tile by tile, given or measured, for ZOGY.

Proper subtraction sees each image through the PSF of the other, so that errors of the two PSFs
show in every source unless they agree. Where one is to be measured it is therefore the other
convolved by the kernel that matches the images (`kernel_fit`, which all sources of both tell):
what is wrong with the sharper PSF is then wrong with the broader one too, and cancels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastdiff.core.stats import mad_sigma
from fastdiff.matching import fit as kernel_fit
from fastdiff.matching.apply import seen_through
from fastdiff.matching.images import ENOUGH_STARS, MatchedImage, NoFit
from fastdiff.matching.kernel import MatchingKernel
from fastdiff.stars.find import fwhm_of
from fastdiff.stars.psf import ASSUMED_FWHM, measure_psf, moffat

from .stars import MIN_MATCHED, STARS_OF_A_PSF, StarPair, centre_of, shifted, stars_near
from .tiles import ZogyImage, ZogyTile

__all__ = ["TilePSFs", "psfs_of_tiles"]

_PSF_FWHM = 3.0  # half the side of a measured PSF, in FWHM
# An order above 1 is noise at the middles of tiles near the edges.
_KERNEL = kernel_fit.PsfMatchOptions(kernel_order=1)
_HALF = (6, 40)  # pixels, least and most of it


@dataclasses.dataclass
class TilePSFs:
    """PSFs of both images, and what was learnt with them."""

    ref: list[NDArray[np.float64]]
    sci: list[NDArray[np.float64]]
    shifts: list[NDArray[np.float64]]
    """(x, y) of a star in ref less that in sci, of each tile, which the PSFs have in them."""
    kernel: MatchingKernel | None = None
    """What ties them together, where one was measured by it."""
    n_stamps: int = 0
    """On how many stamps it rests."""
    notes: list[str] = dataclasses.field(default_factory=list)


def psfs_of_tiles(
    ref: ZogyImage,
    sci: ZogyImage,
    pair: StarPair | None,
    tiles: Sequence[ZogyTile],
    given: dict[str, list[NDArray[np.float64]] | None],
    size: int | None,
) -> TilePSFs:
    """PSFs of every tile.

    Parameters
    ----------
    ref, sci : ZogyImage
    pair : StarPair or None
        Their common stars; may be None where both PSFs are given.
    tiles : sequence of ZogyTile
    given : dict
        "ref", "sci" -> PSF of each tile, or None where it is to be measured.
    size : int or None
        Side of the PSFs that are measured; by default 6 FWHM.

    Raises
    ------
    ValueError
        If no PSF can be measured from the stars that are there.
    """
    images = {"ref": ref, "sci": sci}
    made = {name: psfs for name, psfs in given.items() if psfs is not None}
    notes: list[str] = []
    missing = [name for name in images if name not in made and not images[name].constant]
    side = (_size(images) if missing else 0) if size is None else size

    def measured(name: str) -> list[NDArray[np.float64]]:
        stars = images[name].find_stars()
        if pair is not None and len(pair.dx) >= STARS_OF_A_PSF:
            stars = pair.ref if name == "ref" else pair.sci
        if not len(stars.x):
            notes.append(
                f"no star shows the PSF of {name}: one of {ASSUMED_FWHM} pixels FWHM is assumed; "
                f"give `{name}_psfs`"
            )
            return [moffat(ASSUMED_FWHM, side)] * len(tiles)
        data, blank = images[name].data, images[name].blank
        near = [stars.take(stars_near(stars, tile)) for tile in tiles]
        return [measure_psf(data, blank, some, size=side, sky=0.0) for some in near]

    if missing and not ref.constant:
        kernel, n_stamps = _matching_kernel(ref, sci)
        sharp, broad = "ref", "sci"
        if kernel is not None and kernel.convolved == "sci":
            sharp, broad = broad, sharp
        if kernel is not None and broad in missing:
            if sharp in missing:
                made[sharp] = measured(sharp)
            made[broad] = [
                seen_through(psf, kernel(*tile.middle))
                for tile, psf in zip(tiles, made[sharp], strict=True)
            ]
            both = zip(made["ref"], made["sci"], strict=True)
            shifts = [centre_of(r) - centre_of(s) for r, s in both]
            return TilePSFs(made["ref"], made["sci"], shifts, kernel, n_stamps, notes)
    for name in missing:
        made[name] = measured(name)
    made.setdefault("ref", made["sci"])  # nothing is seen through it where ref is constant
    shifts = _shifts(tiles, pair, made["ref"], made["sci"])
    moved = [shifted(psf, shift) for psf, shift in zip(made["ref"], shifts, strict=True)]
    return TilePSFs(moved, made["sci"], shifts, notes=notes)


def _size(images: dict[str, ZogyImage]) -> int:
    widths = [fwhm_of(image.find_stars()) for image in images.values() if not image.constant]
    widest = max([width for width in widths if np.isfinite(width)], default=2 * ASSUMED_FWHM)
    half = int(np.clip(np.ceil(_PSF_FWHM * widest), *_HALF))
    return int(2 * min(half, (min(images["sci"].data.shape) - 1) // 2) + 1)


def _matching_kernel(ref: ZogyImage, sci: ZogyImage) -> tuple[MatchingKernel | None, int]:
    """Kernel between the images and the number of its stamps; None where nothing tells it."""
    try:
        pair, way = kernel_fit.match(_to_match("ref", ref), _to_match("sci", sci), _KERNEL, 1)
    except NoFit:
        return None, 0
    return (None if way == "none" else pair.kernel), pair.n_stamps


def _to_match(name: Literal["ref", "sci"], image: ZogyImage) -> MatchedImage:
    """The image as the fit of a kernel takes it."""
    stars, variance = image.find_stars(), image.variance
    if variance is not None:
        variance = np.where(image.blank, image.sigma**2, variance).astype(np.float32)
    return MatchedImage(
        name=name, data=image.data, bad=image.blank, sky=image.sky, sigma=image.sigma,
        variance=variance, floor=0.25 * image.sigma**2, stars=stars, psf=None,
        fwhm=fwhm_of(stars) if len(stars.x) >= ENOUGH_STARS else float("nan"),
        host=(image.data, image.blank),
    )  # fmt: skip


def _shifts(
    tiles: Sequence[ZogyTile], pair: StarPair | None, refs: Any, scis: Any
) -> list[NDArray[np.float64]]:
    """(x, y) of a star in ref less that in sci, beyond what the PSFs' own centres tell."""
    nothing = np.zeros(2)
    if pair is None or len(pair.dx) < MIN_MATCHED:
        return [nothing] * len(refs)
    shifts = []
    for tile, ref, sci in zip(tiles, refs, scis, strict=True):
        near = stars_near(pair.sci, tile)
        shift = []
        for delta in (pair.dx[near], pair.dy[near]):
            error = 1.25 * mad_sigma(delta) / len(delta) ** 0.5
            shift.append(np.median(delta) if abs(np.median(delta)) > 3 * error else 0.0)
        significant = any(shift)
        shifts.append(shift - (centre_of(ref) - centre_of(sci)) if significant else nothing)
    return shifts
