"""Between the door and the methods: what nobody said of the frames is found and put right, once.

Missing pixels and saturation are masked, also cosmic rays and hot pixels; a reference that lies
whole pixels off is rolled; units far from counts are scaled (`units`). Where nothing is found
nothing is copied, and the methods see what came.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.core.threads import ordered_map
from fastdiff.defects.inspect import InspectedFrame, Sharp, inspect_frame
from fastdiff.matching.frames import Frames

from .inputs import BatchInputs, pair_of
from .units import UnitScales, scaled, units_of

__all__ = ["Condition", "condition"]

_INFORMS = 1e10  # times less or more than the usual variance is none
_NAMES = "ref", "sci"


class _Seen(NamedTuple):
    """What is kept of a frame once it was looked at."""

    bad: NDArray[np.bool_] | None  # missing, saturated, in bad lines
    saturated: NDArray[np.bool_] | None
    noise: float  # of a pixel, to tell the units
    missing: tuple[int, tuple[float, ...]]  # how many pixels, the values that they hold
    level: float  # of saturation
    cosmic: NDArray[np.int64]
    sampled: bool
    in_lines: int  # pixels of bad columns and rows


@dataclasses.dataclass
class Condition:
    """What was found in a batch.

    Attributes
    ----------
    units : UnitScales
    shifts : ndarray of int64, (n, 2)
        (dx, dy): pixels by which the reference was rolled.
    missing, cosmic_rays : ndarray of int64, (n, 2)
        Pixels of ref and sci that were masked.
    saturation : ndarray of float64, (n, 2)
        Levels of the plateaus in ref and sci; NaN where there is none.
    notes : list of list of str
        For each pair.
    """

    units: UnitScales
    shifts: NDArray[np.int64]
    missing: NDArray[np.int64]
    cosmic_rays: NDArray[np.int64]
    saturation: NDArray[np.float64]
    notes: list[list[str]]

    def tell(self, frames: Frames) -> dict[str, Any]:
        """Notes into the frames; what goes into ``Difference.meta``."""
        for i, texts in enumerate(self.notes):
            for text in texts:
                frames.note(i, text)
        far = np.flatnonzero(np.abs(self.shifts).max(1, initial=0) > 1)
        if len(far):
            named = ", ".join(map(str, far[:5])) + (", ..." if len(far) > 5 else "")
            most = int(np.abs(self.shifts).max())
            warnings.warn(
                f"`refs` are up to {most} pixels off `scis` (images {named}); they were rolled by "
                'whole pixels, meta["shift"]: align them to one pixel grid',
                stacklevel=3,
            )
        return {
            "shift": self.shifts, "missing": self.missing, "cosmic_rays": self.cosmic_rays,
            "saturation": self.saturation, "units": self.units.factors,
        }  # fmt: skip


def condition(
    batch: BatchInputs, *, saturation: bool, cosmic_rays: bool, threads: int
) -> tuple[BatchInputs, Condition]:
    """Look at every frame of a batch; the batch put right, and what was found.

    Parameters
    ----------
    batch : BatchInputs
    saturation, cosmic_rays : bool
        Whether they are looked for.
    threads : int

    Notes
    -----
    Cost: some 40 CPU ms for a pair of 1024 x 1024 pixels. Images on a GPU are looked at one
    after the other in the memory of the CPU.
    """
    came = _without_empty_variances(batch)
    batch = _on_host(came)
    n, shared = batch.shape[0], len(batch.refs.data) == 1
    look = functools.partial(_inspected, batch, saturation=saturation)
    ref = look(0, 0) if shared and n else None
    tops: list[NDArray[np.int64]] = []

    def one(i: int) -> tuple[_Seen | None, _Seen, tuple[int, int], NDArray[np.int64]]:
        sci, own = look(1, i), ref or look(0, i)
        common = own.in_common(sci)
        both = (np.empty(0, np.int64),) * 2 if common is None else (common.ref, common.sci)
        of_ref = None if shared else _seen(own, both[0] if cosmic_rays else None)
        of_sci = _seen(sci, both[1] if cosmic_rays else None)
        return of_ref, of_sci, common.whole if common else (0, 0), both[0]

    seen: tuple[list[_Seen], list[_Seen]] = [], []
    shifts = np.zeros((n, 2), np.int64)
    for i, (own, sci, shift, which) in enumerate(ordered_map(one, range(n), threads)):
        seen[1].append(sci)
        seen[0].extend([] if own is None else [own])
        tops.append(which)
        shifts[i] = shift
    if ref is not None:
        which = functools.reduce(np.union1d, tops)
        seen[0].append(_seen(ref, which if cosmic_rays else None))
    found = _summary(seen, shifts)
    made = _put_right(batch, seen, found)
    return made if batch is came else _back(made, batch, came), found


def _on_host(batch: BatchInputs) -> BatchInputs:
    """Images and masks in the memory of the CPU; the batch itself where they are."""
    if arrays.namespace(batch.scis.data) is np:
        return batch
    refs, scis = (
        dataclasses.replace(door, data=arrays.on_host(door.data))
        for door in (batch.refs, batch.scis)
    )
    bad = pair_of(None if mask is None else arrays.on_host(mask) for mask in batch.bad)
    return dataclasses.replace(batch, refs=refs, scis=scis, bad=bad)


def _back(made: BatchInputs, host: BatchInputs, came: BatchInputs) -> BatchInputs:
    """What was put right in the memory of the CPU, as arrays of the GPU from which it came."""
    xp = arrays.namespace(came.scis.data)
    refs, scis = (
        old if new is seen else dataclasses.replace(old, data=xp.asarray(new.data))
        for new, seen, old in (
            (made.refs, host.refs, came.refs), (made.scis, host.scis, came.scis),
        )
    )  # fmt: skip
    bad, saturated = (
        pair_of(
            old if new is seen else xp.asarray(new) for new, seen, old in zip(*masks, strict=True)
        )
        for masks in (
            (made.bad, host.bad, came.bad),
            (made.saturated, host.saturated, came.saturated),
        )
    )
    copies = made.refs.data, made.scis.data, *made.bad
    return dataclasses.replace(
        made, refs=refs, scis=scis, bad=bad, saturated=saturated, copies=copies
    )


def _inspected(batch: BatchInputs, which: int, i: int, *, saturation: bool) -> InspectedFrame:
    """A frame of the references (0) or of the science images (1)."""
    images, bad = (batch.refs, batch.scis)[which].data, batch.bad[which]
    mask: NDArray[np.bool_] | None = None
    if bad is not None:
        # One reference with a mask for each science image: what is bad in all of them.
        mask = np.all(bad, axis=0) if len(bad) > len(images) else bad[min(i, len(bad) - 1)]
    return inspect_frame(images[i], mask, saturation=saturation)


def _seen(frame: InspectedFrame, common: NDArray[np.int64] | None) -> _Seen:
    """What is kept of a frame; without `common` no cosmic ray is looked for."""
    none = np.empty(0, np.int64)
    sharp = Sharp(none, True) if common is None else frame.sharp(common)
    masks = [part.mask for part in (frame.missing, frame.saturation) if part is not None]
    masks += [] if frame.lines is None else [frame.lines]
    return _Seen(
        functools.reduce(np.logical_or, masks) if masks else None,
        None if frame.saturation is None else frame.saturation.mask,
        float("nan") if frame.sky is None else float(np.median(frame.sky.noise)),
        (0, ()) if frame.missing is None
        else (int(frame.missing.mask.sum()), frame.missing.values),
        float("nan") if frame.saturation is None else frame.saturation.level,
        sharp.places, sharp.sampled, 0 if frame.lines is None else int(frame.lines.sum()),
    )  # fmt: skip


def _summary(seen: tuple[list[_Seen], list[_Seen]], shifts: NDArray[np.int64]) -> Condition:
    n = len(shifts)
    noise = [float(np.nanmedian([s.noise for s in own] or [np.nan])) if any(
        np.isfinite(s.noise) for s in own) else 0.0 for own in seen]  # fmt: skip
    pairs = [[own[min(i, len(own) - 1)] for own in seen] for i in range(n)]
    return Condition(
        units_of(*noise),
        shifts,
        np.array([[s.missing[0] for s in pair] for pair in pairs], np.int64).reshape(n, 2),
        np.array([[len(s.cosmic) for s in pair] for pair in pairs], np.int64).reshape(n, 2),
        np.array([[s.level for s in pair] for pair in pairs], np.float64).reshape(n, 2),
        [_notes(pair, shift) for pair, shift in zip(pairs, shifts, strict=True)],
    )


def _notes(pair: list[_Seen], shift: NDArray[np.int64]) -> list[str]:
    """What is unusual about a pair, and what to do."""
    notes = []
    for name, seen in zip(_NAMES, pair, strict=True):
        if seen.missing[0]:
            values = ", ".join(f"{v:.6g}" for v in seen.missing[1][:3]) or "one value or another"
            notes.append(
                f"{name}: {seen.missing[0]} pixels that repeat {values} are masked as missing: "
                f"mask what is missing by NaN or `{name}_masks`"
            )
        if seen.in_lines:
            notes.append(
                f"{name}: {seen.in_lines} pixels of columns or rows that differ from those beside "
                f"them are masked: mask bad ones in `{name}_masks`"
            )
        if np.isfinite(seen.level):
            notes.append(
                f"{name}: saturated at {seen.level:.6g}, masked: give `saturation`, or None "
                "where that is wrong"
            )
        if not seen.sampled:
            notes.append(
                f"{name}: the PSF is less than 2 pixels wide, so that cosmic rays cannot be told "
                f"from stars: give them in `{name}_masks`"
            )
    if shift.any():
        notes.append(f"ref: rolled by ({shift[0]}, {shift[1]}) pixels in x and y: align it to sci")
    return notes


# ------------------------------------------------------------------------ what is put right


def _without_empty_variances(batch: BatchInputs) -> BatchInputs:
    """Variances of 0 among others, and those beyond all others, are those of bad pixels."""
    bad, variances = list(batch.bad), list(batch.variances)
    for k, planes in enumerate(variances):
        if planes is None:
            continue
        xp = arrays.namespace(planes)
        empty = xp.zeros(planes.shape, bool)
        for plane, out in zip(planes, empty, strict=True):
            some = arrays.on_host(plane[::8, ::8])
            some = some[(some > 0) & np.isfinite(some)]
            if len(some):
                usual = float(np.median(some))
                informs = (plane > 0) & (plane > usual / _INFORMS) & (plane < usual * _INFORMS)
                xp.logical_not(informs, out=out)
        if (empty & xp.isfinite(planes)).any():
            variances[k] = xp.where(empty, xp.asarray(np.nan, planes.dtype), planes)
            bad[k] = empty if bad[k] is None else bad[k] | empty
    return dataclasses.replace(batch, bad=pair_of(bad), variances=pair_of(variances))


def _put_right(
    batch: BatchInputs, seen: tuple[list[_Seen], list[_Seen]], found: Condition
) -> BatchInputs:
    shape, images = batch.shape[1:], [batch.refs, batch.scis]
    bad = [_with_found(old, own, shape) for old, own in zip(batch.bad, seen, strict=True)]
    saturated = [
        _joined(old, [s.saturated for s in own], shape)
        for old, own in zip(batch.saturated, seen, strict=True)
    ]
    variances = list(batch.variances)
    data = [door.data for door in images]
    if found.shifts.any():
        shifts = found.shifts
        data[0] = _rolled(data[0], shifts)
        variances[0], saturated[0] = (
            None if p is None else _rolled(p, shifts) for p in (variances[0], saturated[0])
        )
        bad[0] = _rolled_masks(bad[0], shifts, data[0])
    for k, exponent in enumerate((found.units.ref, found.units.sci)):
        data[k] = scaled(data[k], exponent)
        variance = variances[k]
        if variance is not None:
            variances[k] = scaled(variance, exponent, 2)
    refs, scis = (
        door if door.data is new else dataclasses.replace(door, data=new)
        for door, new in zip(images, data, strict=True)
    )
    return dataclasses.replace(
        batch, refs=refs, scis=scis, bad=pair_of(bad), variances=pair_of(variances),
        saturated=pair_of(saturated),
    )  # fmt: skip


def _with_found(
    old: NDArray[np.bool_] | None, seen: list[_Seen], shape: tuple[int, int]
) -> NDArray[np.bool_] | None:
    """Masks of all images with what was found in them."""
    masks: list[NDArray[np.bool_] | None] = []
    for one in seen:
        mask = one.bad
        if len(one.cosmic):
            mask = np.zeros(shape, bool) if mask is None else mask.copy()
            mask.ravel()[one.cosmic] = True
        masks.append(mask)
    return _joined(old, masks, shape)


def _joined(
    old: NDArray[np.bool_] | None, masks: list[NDArray[np.bool_] | None], shape: tuple[int, int]
) -> NDArray[np.bool_] | None:
    """Union of what was there with the masks of all images; the old ones where none is new."""
    if all(mask is None for mask in masks):
        return old
    none = np.zeros(shape, bool)
    new = np.stack([none if mask is None else mask for mask in masks])
    return new if old is None else arrays.on_host(old) | new


def _rolled(planes: NDArray[Any], shifts: NDArray[np.int64]) -> NDArray[Any]:
    """Planes (n or 1, ny, nx) moved by each shift (n, 2); one plane where one serves all."""
    if len(planes) == 1 and (shifts == shifts[0]).all():
        shifts = shifts[:1]
    xp = arrays.namespace(planes)
    out: NDArray[Any] = xp.empty((len(shifts), *planes.shape[1:]), planes.dtype)
    for i, (dx, dy) in enumerate(shifts):
        out[i] = xp.roll(planes[min(i, len(planes) - 1)], (int(dy), int(dx)), (0, 1))
    return out


def _rolled_masks(
    bad: NDArray[np.bool_] | None, shifts: NDArray[np.int64], data: NDArray[Any]
) -> NDArray[np.bool_]:
    """The same for masks; what came in from beyond the edge is bad."""
    out = np.zeros(data.shape, bool) if bad is None else _rolled(bad, shifts)
    if len(out) < len(data):
        out = np.repeat(out, len(data), axis=0)
    many = shifts if len(out) > 1 else shifts[:1]
    for mask, (dx, dy) in zip(out, many, strict=True):
        mask[slice(0, dy) if dy > 0 else slice(len(mask) + dy, None)] = True
        mask[:, slice(0, dx) if dx > 0 else slice(mask.shape[1] + dx, None)] = True
    return out
