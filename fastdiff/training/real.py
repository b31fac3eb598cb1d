"""Training samples from real image pairs, with point sources of known flux added.

A simulator never has all that real pairs have: the residuals of their registration, their
PSFs, the correlated noise of their templates. The paper mixes real and synthetic samples
(section 4.2); here the real ones are unchanged survey pairs with added sources, so that
their truth is exact. What may truly have changed in them, the alert in the middle of a
stamp, is left out of the loss.
"""

from __future__ import annotations

import csv
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastdiff.core.stats import FWHM_PER_SIGMA, SIGMA_PER_MAD
from fastdiff.simulate.inject import measure_fwhm, point_source

ZTF_GAIN = 6.2  # electrons a count


@dataclass(frozen=True)
class RealSamples:
    """A batch like that of `fastdiff.simulate.pairs`, and the pixels to leave out of the loss."""

    ref: np.ndarray
    sci: np.ndarray
    truth: np.ndarray
    ignore: np.ndarray

    @property
    def ref_mask(self) -> np.ndarray:
        """Pixels that are missing in ref."""
        missing: np.ndarray = ~np.isfinite(self.ref)
        return missing

    @property
    def sci_mask(self) -> np.ndarray:
        """Pixels that are missing in sci."""
        missing: np.ndarray = ~np.isfinite(self.sci)
        return missing


def split_of(object_id: str) -> str:
    """The part of the ZTF stamps that an object belongs to: train (45 %), val (15 %), test (40 %).

    By a hash of the object's name: all stamps of an object fall together, and the split does
    not depend on the order of a file.
    """
    share = int(hashlib.sha256(object_id.encode()).hexdigest()[:8], 16) / 2**32
    return "train" if share < 0.45 else "val" if share < 0.6 else "test"


def ztf_stamps(
    folder: str | os.PathLike[str], split: str
) -> tuple[np.ndarray, list[dict[str, str]]]:
    """ZTF stamps (n, 3, 63, 63) of one split and their rows of the table.

    `folder` holds ``ztf_triplets.npz`` (``stamps``: science, template, difference) and
    ``ztf_triplets.csv`` (row i is stamp i).
    """
    folder = Path(folder)
    with (folder / "ztf_triplets.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    keep = [i for i, row in enumerate(rows) if split_of(row["objectId"]) == split]
    stamps = np.load(folder / "ztf_triplets.npz")["stamps"][keep]
    return stamps, [rows[i] for i in keep]


class ZtfInjections:
    """Real ZTF science and template stamps with added point sources, as 64 x 64 samples.

    Called with (n, start), it gives samples ``start`` to ``start + n - 1``, each a function
    of the seed and its number alone.

    Parameters
    ----------
    folder : path
        See `ztf_stamps`. Only objects of the "train" split are used.
    seed : int
    snr : (float, float)
        Range of the added sources' S/N, log-uniform.
    """

    def __init__(
        self, folder: str | os.PathLike[str], seed: int, snr: tuple[float, float] = (3, 150)
    ):
        stamps, _ = ztf_stamps(folder, "train")
        self.seed, self.snr = seed, snr
        self.pairs = []
        for stamp in stamps:
            sci, ref = stamp[0], stamp[1]
            if min(np.isfinite(sci).mean(), np.isfinite(ref).mean()) > 0.5:
                self.pairs.append((ref, sci, measure_fwhm(ref), measure_fwhm(sci)))

    def __call__(self, n: int, start: int) -> RealSamples:
        """Samples ``start`` to ``start + n - 1``."""
        samples = [self._sample(start + k) for k in range(n)]
        return RealSamples(*(np.stack(part) for part in zip(*samples, strict=True)))

    def _sample(self, number: int) -> tuple[np.ndarray, ...]:
        rng = np.random.Generator(np.random.Philox(key=[self.seed, number]))
        ref, sci, fwhm_ref, fwhm_sci = self.pairs[rng.integers(len(self.pairs))]
        ref, sci = ref.astype(np.float64), sci.astype(np.float64)
        truth = np.zeros_like(sci)
        sigma = SIGMA_PER_MAD * np.nanmedian(np.abs(sci - np.nanmedian(sci)))
        beta = None if rng.random() < 0.3 else rng.uniform(2.5, 5)
        width = fwhm_sci * rng.uniform(0.92, 1.15)
        unit = sigma * np.sqrt(4 * np.pi) * width / FWHM_PER_SIGMA  # flux with S/N = 1
        n_added = rng.poisson(1.0)
        for _ in range(n_added):
            x, y = rng.uniform(0, 63, 2)
            if rng.random() < 0.5:  # on or beside a source, where it is difficult
                weight = np.clip(np.nan_to_num(ref - np.nanmedian(ref)), 0, 50 * sigma).ravel()
                if weight.sum() > 0:
                    j, i = divmod(rng.choice(weight.size, p=weight / weight.sum()), 63)
                    x, y = i + 2 * rng.normal(), j + 2 * rng.normal()
            if np.hypot(x - 31, y - 31) < 7:
                continue
            flux = unit * np.exp(rng.uniform(*np.log(self.snr)))
            image = flux * point_source(sci.shape, x, y, width, beta)
            if rng.random() < 0.15:  # one that vanished: in the template only
                scale = _rough_scale(ref, sci)
                ratio = fwhm_ref * rng.uniform(0.92, 1.15)
                ref += flux / scale * point_source(sci.shape, x, y, ratio, beta)
                truth -= image
            else:
                sci += image
                truth += image
        shot = np.sqrt(np.maximum(truth, 0) / ZTF_GAIN)
        sci += shot * rng.normal(size=sci.shape)
        if rng.random() < 0.3:  # a shallower night
            sci += sigma * rng.uniform(0.3, 2) * rng.normal(size=sci.shape)
        ignore = np.hypot(*(np.indices(sci.shape) - 31)) < 8
        parts = [
            np.full((64, 64), np.nan),
            np.full((64, 64), np.nan),
            np.zeros((64, 64)),
            np.ones((64, 64), bool),
        ]
        oy, ox = rng.integers(0, 2, 2)
        for whole, part in zip(parts, (ref, sci, truth, ignore), strict=True):
            whole[oy : oy + 63, ox : ox + 63] = part
        turns, mirrored = int(rng.integers(4)), rng.integers(2)
        parts = [np.rot90(p, turns) for p in parts]
        parts = [p[:, ::-1] if mirrored else p for p in parts]
        return tuple(
            np.ascontiguousarray(p, p.dtype if p.dtype == bool else np.float32) for p in parts
        )


def _rough_scale(ref: np.ndarray, sci: np.ndarray) -> float:
    """Flux ratio sci / ref of the bright pixels of a stamp, kept within a factor of 5."""
    good = np.isfinite(ref) & np.isfinite(sci)
    r, s = ref[good] - np.median(ref[good]), sci[good] - np.median(sci[good])
    bright = r > np.percentile(r, 90)
    return float(np.clip(s[bright].sum() / max(r[bright].sum(), 1e-9), 0.2, 5))
