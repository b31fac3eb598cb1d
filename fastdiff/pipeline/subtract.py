"""Pairs of FITS files to differences, candidates and pictures."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fastdiff.core.version import version
from fastdiff.detect.find import find_transients
from fastdiff.difference.api import subtract_batch
from fastdiff.io import images, products, wcs

from .products import name_of_image

if TYPE_CHECKING:
    from astropy.table import Table

    from fastdiff.difference.result import Difference

__all__ = ["PairFiles", "SubtractSettings", "SubtractedPair", "read_list", "subtract_pair"]

MIN_SIDE = 32
"""Smallest side of an image, in pixels."""


@dataclass(frozen=True)
class PairFiles:
    """Files of one subtraction, and the name of what it writes.

    Attributes
    ----------
    ref, sci : str
        Images: FILE, FILE[1] or FILE[NAME].
    name : str
        Results are NAME.diff.fits, NAME.candidates.ecsv and NAME.png.
    ref_mask, sci_mask, ref_noise, sci_noise : Path, optional
        Masks (non-zero is bad) and maps of the 1 sigma noise that stand in files of their own.
    """

    ref: str
    sci: str
    name: str
    ref_mask: Path | None = None
    sci_mask: Path | None = None
    ref_noise: Path | None = None
    sci_noise: Path | None = None


@dataclass(frozen=True)
class SubtractSettings:
    """What all pairs of one run share.

    Attributes
    ----------
    folder : Path
        Where the results go.
    align : bool
        Reproject the reference where the grids differ.
    threshold : float
        Smallest S/N of a candidate.
    threads : int, optional
        CPU threads; all cores by default.
    png : bool
        Draw a picture.
    sign : {"positive", "negative", "both"}
        Which changes become candidates.
    method : str
        As in `fastdiff.subtract_batch`.
    options : dict
        Further options of `fastdiff.subtract_batch`.
    """

    folder: Path
    align: bool = False
    threshold: float = 5.0
    threads: int | None = None
    png: bool = True
    sign: Literal["positive", "negative", "both"] = "positive"
    method: str = "transinet"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SubtractedPair:
    """What became of one pair.

    Attributes
    ----------
    candidates : astropy.table.Table
    difference_file : Path
        NAME.diff.fits.
    notes : tuple of str
        What was unusual.
    no_picture : str or None
        Why a picture that was asked for could not be drawn.
    seconds : float
        Wall time.
    """

    candidates: Table
    difference_file: Path
    notes: tuple[str, ...]
    no_picture: str | None
    seconds: float


def subtract_pair(files: PairFiles, settings: SubtractSettings) -> SubtractedPair:
    """Read one pair, subtract, and write the results; existing ones are replaced.

    Raises
    ------
    OSError, ValueError, TypeError, ImportError
        If files cannot be read or written, do not belong together, or an option is wrong.
    """
    begun = time.perf_counter()
    ref, sci, aligned = _read_pair(files, settings.align)
    difference = subtract_batch(
        ref.image,
        sci.image,
        method=settings.method,
        ref_masks=ref.mask,
        sci_masks=sci.mask,
        ref_variances=ref.variance,
        sci_variances=sci.variance,
        threads=settings.threads,
        **settings.options,
    )
    full = images.saturated_pixels(sci)
    if not aligned:
        full |= images.saturated_pixels(ref)
    # They are masked already; remembered as saturated, they give candidates beside them a flag.
    difference.meta["saturated"] = np.insert(np.argwhere(full), 0, 0, axis=1)
    candidates = find_transients(difference, threshold=settings.threshold, sign=settings.sign)
    candidates = wcs.add_sky_positions(candidates, sci.wcs)
    history, cards = _provenance(files, settings, difference, len(candidates))
    if aligned:
        history.insert(3, "reference reprojected onto the science grid")
    candidates.meta["history"] = history
    base = settings.folder / files.name
    products.write_difference(
        f"{base}.diff.fits",
        difference.image,
        difference.noise,
        difference.mask,
        header=sci.header,
        history=history,
        cards=cards,
        significance=difference.significance,
        extensions=[] if difference.kernel is None else [difference.kernel.to_hdu()],
    )
    products.write_candidates(f"{base}.candidates.ecsv", candidates)
    return SubtractedPair(
        candidates,
        Path(f"{base}.diff.fits"),
        tuple(difference.meta.get("notes", {}).get(0, ())),
        _draw(files, settings, ref.image, sci.image, difference, candidates),
        time.perf_counter() - begun,
    )


def _read_pair(files: PairFiles, align: bool) -> tuple[images.Frame, images.Frame, bool]:
    """Reference and science image on one grid, and whether the reference was reprojected."""
    sci = images.read_image(files.sci)
    ref = images.read_image(files.ref)
    for path, frame in ((files.ref, ref), (files.sci, sci)):
        if min(frame.image.shape) < MIN_SIDE:
            raise ValueError(
                f"{path} has shape {frame.image.shape}; at least {MIN_SIDE} x {MIN_SIDE} is needed"
            )
    ref = _with_maps(ref, files.ref_mask, files.ref_noise)
    sci = _with_maps(sci, files.sci_mask, files.sci_noise)
    matched = wcs.match_grids(ref, sci, align)
    return matched, sci, matched is not ref


def _with_maps(frame: images.Frame, mask: Path | None, noise: Path | None) -> images.Frame:
    shape = frame.image.shape
    if mask is not None:
        bad = images.read_mask(mask, shape)
        frame = frame._replace(mask=bad if frame.mask is None else frame.mask | bad)
    if noise is not None:
        frame = frame._replace(variance=images.read_noise(noise, shape) ** 2)
    return frame


def _network(difference: Difference, settings: SubtractSettings) -> str:
    return str(difference.meta.get("model", settings.method))


def _provenance(
    files: PairFiles, settings: SubtractSettings, difference: Difference, n_candidates: int
) -> tuple[list[str], dict[str, Any]]:
    """HISTORY lines and cards that say where a difference comes from."""
    model = _network(difference, settings)
    backend = str(difference.meta.get("backend", ""))
    history = [
        f"fastdiff {version()} subtract: science - reference",
        f"reference {files.ref}",
        f"science {files.sci}",
        f"method {settings.method}, model {model}, back end {backend}",
        f"{n_candidates} candidates with S/N >= {settings.threshold:g}",
    ]
    cards = {
        "FDVERS": (version(), "version of fastdiff"),
        "FDMETHOD": (settings.method, "method of subtraction"),
        "FDMODEL": (model[:60], "network"),
        "FDBACK": (backend[:60], "back end that ran it"),
        "FDREF": (Path(files.ref).name[:60], "reference image"),
        "FDTHRESH": (settings.threshold, "S/N threshold of the candidates"),
        "FDNCAND": (n_candidates, "candidates"),
    }
    return history, cards


def _draw(
    files: PairFiles,
    settings: SubtractSettings,
    ref: np.ndarray,
    sci: np.ndarray,
    difference: Difference,
    candidates: Table,
) -> str | None:
    """Draw NAME.png if asked for; give the reason where matplotlib is missing."""
    if not settings.png:
        return None
    from fastdiff.plots.difference import draw_difference

    title = (
        f"{Path(files.sci).name} - {Path(files.ref).name}   |   {_network(difference, settings)}"
        f"   |   {len(candidates)} candidates with S/N >= {settings.threshold:g}"
    )
    try:
        draw_difference(
            f"{settings.folder / files.name}.png", ref, sci, difference.image, difference.noise,
            candidates, title,
        )  # fmt: skip
    except ImportError as error:
        return str(error)
    return None


def read_list(path: Path) -> tuple[list[PairFiles], list[tuple[str, str]]]:
    """Pairs of a list file, one REF SCI [NAME] a line, and the lines that are none.

    Relative paths start at the folder of the list; # begins a comment. Two results never have
    one name: the second gets NAME-2.

    Returns
    -------
    pairs : list of PairFiles
    failures : list of (str, str)
        Place and reason of each line that cannot be read.

    Raises
    ------
    OSError, UnicodeDecodeError
        If the file cannot be read.
    """
    pairs: list[PairFiles] = []
    failures: list[tuple[str, str]] = []
    names: set[str] = set()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
            if not words:
                continue
            if len(words) not in (2, 3):
                raise ValueError(f"REF SCI [NAME] is needed, not {len(words)} words")
        except ValueError as error:
            failures.append((f"{path} line {number}", str(error)))
            continue
        ref, sci = (str(path.parent / word) for word in words[:2])
        wanted = name = words[2] if len(words) == 3 else name_of_image(sci)
        count = 1
        while name in names:  # the same science image in two folders, or with two references
            count += 1
            name = f"{wanted}-{count}"
        names.add(name)
        pairs.append(PairFiles(ref, sci, name))
    return pairs, failures
