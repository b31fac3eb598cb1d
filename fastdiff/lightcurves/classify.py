"""Classes of light curves, by networks on dm-dt images, features and periods."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdiff.core import arrays
from fastdiff.core.threads import check_threads
from fastdiff.models.model import Model, load_model

from .curves import EMPTY, Curves, read_curves

__all__ = ["KIND", "MODELS", "Contract", "LightCurveClasses", "classify_light_curves"]

KIND = "light-curve-classes"
"""What the metadata "fastdiff.kind" of a classifier of light curves say."""

MODELS = {"best": "dmdt-best", "shallow": "dmdt-shallow"}
"""Short names of the models that come with the package."""

_CHUNK = 20_000  # curves at a time: their images and features take some 20 MB


@dataclass(frozen=True)
class Contract:
    """What a classifier is fed with, as the metadata of its file say.

    Attributes
    ----------
    classes : tuple of str
        Classes, in the order of the probabilities.
    grid, norm : str
        Of `fastdiff.dmdt_images`; without a grid the network sees no image.
    features : tuple of str
        Of `fastdiff.light_curve_features`.
    proportions : tuple of float
        Share of each class among the curves that the network learnt from.
    """

    classes: tuple[str, ...]
    grid: str = ""
    norm: str = ""
    features: tuple[str, ...] = ()
    proportions: tuple[float, ...] = ()

    @classmethod
    def of(cls, model: Model) -> Contract:
        """Read the metadata of a model.

        Raises
        ------
        ValueError
            If they do not say what the model needs.
        """

        def words(name: str) -> tuple[str, ...]:
            return tuple(filter(None, model.metadata.get(f"fastdiff.{name}", "").split(",")))

        contract = cls(
            words("classes"),
            model.metadata.get("fastdiff.grid", ""),
            model.metadata.get("fastdiff.norm", ""),
            words("features"),
            tuple(float(share) for share in words("proportions")),
        )
        if not contract.classes or not (contract.grid or contract.features):
            raise ValueError(
                f"{model.path} does not say what it is fed with (metadata 'fastdiff.classes', and "
                "'fastdiff.grid' or 'fastdiff.features'); export it with "
                "fastdiff.training.dmdt.export_classifier"
            )
        return contract

    @property
    def metadata(self) -> dict[str, str]:
        """The same as metadata of a file."""
        return {
            "kind": KIND,
            "classes": ",".join(self.classes),
            "grid": self.grid,
            "norm": self.norm,
            "features": ",".join(self.features),
            "proportions": ",".join(f"{share:.6g}" for share in self.proportions),
        }

    def network_input(self, curves: Curves, threads: int | None = None) -> NDArray[np.float32]:
        """What the network sees of `curves`.

        Returns
        -------
        ndarray of float32
            (n, n_dm, n_dt) for a network that sees images only, else (n, n_columns): the cells
            of the image row by row, if there is one, then the features. Unknown features are NaN.
        """
        parts = []
        if self.grid:
            from .dmdt import images_of

            sharp = replace(curves, magerr=None)
            made = images_of(sharp, grid=self.grid, norm=self.norm, threads=threads)
            images = arrays.on_host(made).astype(np.float32)
            if not self.features:
                return images
            parts.append(images.reshape(len(curves), -1))
        from .features import columns_of

        columns = columns_of(curves, self.features, threads=threads)
        parts.append(np.stack([np.asarray(columns[name], np.float32) for name in self.features], 1))
        whole = np.concatenate(parts, 1)
        whole[~np.isfinite(whole)] = np.nan
        return whole


@dataclass(frozen=True)
class LightCurveClasses:
    """Probabilities of the classes of light curves; made by `classify_light_curves`.

    Attributes
    ----------
    probabilities : ndarray of float32, (n, n_classes)
        Each row sums to 1; NaN for a curve that is flagged `EMPTY`.
    classes : tuple of str
        Names of the columns.
    flags : ndarray of uint8, (n,)
        Bits of `fastdiff.lightcurves.curves`: `FEW`, `DROPPED`, `EMPTY`, `CONSTANT_TIME`.
    proportions : tuple of float
        Shares of the classes for which the probabilities hold.
    model : str
        Name of the model.
    """

    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]
    flags: NDArray[np.uint8]
    proportions: tuple[float, ...] = field(repr=False)
    model: str

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def labels(self) -> NDArray[np.str_]:
        """Most probable class of each curve, (n,); "" for a curve without probabilities."""
        known = np.isfinite(self.probabilities.sum(axis=1))
        best = np.where(known[:, None], self.probabilities, 0).argmax(1)
        return np.where(known, np.array(self.classes)[best], "")

    def for_proportions(self, proportions: Mapping[str, float]) -> LightCurveClasses:
        """Probabilities where the classes have other shares than in the training data.

        Parameters
        ----------
        proportions : mapping of str to float
            Share, or number, of each class among the objects at hand; classes that are not
            named have none.

        Returns
        -------
        LightCurveClasses
            By Bayes' theorem: probabilities times new over old share, summing to 1 again.

        Raises
        ------
        ValueError
            If a class is unknown, a share is negative or none is positive, or the model does
            not say on which proportions it was trained.

        Examples
        --------
        >>> made = LightCurveClasses(
        ...     np.float32([[0.5, 0.5]]), ("EW", "LPV"), np.zeros(1, np.uint8), (0.5, 0.5), "mine"
        ... )
        >>> made.for_proportions({"EW": 3, "LPV": 1}).probabilities
        array([[0.75, 0.25]], dtype=float32)
        """
        unknown = set(proportions) - set(self.classes)
        if unknown:
            raise ValueError(
                f"`proportions` has {sorted(unknown)}; the classes are {', '.join(self.classes)}"
            )
        new = np.array([proportions.get(name, 0.0) for name in self.classes], float)
        if not (np.isfinite(new).all() and (new >= 0).all() and new.sum() > 0):
            raise ValueError(
                f"`proportions` is {dict(proportions)}; shares must be finite, 0 or more, and one "
                "of them positive"
            )
        if len(self.proportions) != len(self.classes):
            raise ValueError(
                f"the model {self.model!r} does not say the proportions of its training data "
                "(metadata 'fastdiff.proportions')"
            )
        new /= new.sum()
        odds = self.probabilities * (new / np.array(self.proportions))
        with np.errstate(invalid="ignore"):
            odds /= odds.sum(1, keepdims=True)
        return LightCurveClasses(
            odds.astype(np.float32), self.classes, self.flags, tuple(new.tolist()), self.model
        )


def classify_light_curves(
    time: ArrayLike | Sequence[ArrayLike],
    mag: ArrayLike | Sequence[ArrayLike],
    offsets: ArrayLike | None = None,
    *,
    magerr: ArrayLike | Sequence[ArrayLike] | None = None,
    model: str | os.PathLike[str] = "best",
    threads: int | None = None,
) -> LightCurveClasses:
    """Probabilities of the classes of variable stars, from light curves in one band.

    Parameters
    ----------
    time, mag : array_like or list of array_like
        Times in days and magnitudes, in any order: one curve, (n_points,); many curves in flat
        arrays with `offsets`; or a list with an array for each curve. Points that are NaN or
        infinite are dropped, with the flag `DROPPED`. With CuPy arrays images and features of the
        curve are made on their GPU; periods and the network are work for the CPU.
    offsets : array_like of int, (n + 1,), optional
        Curve i holds the points ``offsets[i]:offsets[i + 1]`` of the flat arrays.
    magerr : array_like or list of array_like, optional
        1 sigma errors of the magnitudes. The networks learnt from curves without errors too.
    model : str or path
        "best" (dm-dt image, features and periods: slower, much better), "shallow" (the dm-dt
        image alone, by the small network of the paper), or the path of an ONNX file that
        `fastdiff.training.dmdt` wrote.
    threads : int, optional
        CPU threads; all cores by default.

    Returns
    -------
    LightCurveClasses
        With ``probabilities`` (n, n_classes), ``classes``, ``flags`` and ``labels``, in the memory
        of the CPU. Curves of fewer than two points have NaN; those of fewer than 20 are classified
        and flagged `FEW`.

    Raises
    ------
    TypeError, ValueError
        As `fastdiff.lightcurves.curves.read_curves`; also if `model` is no classifier of light
        curves.
    FileNotFoundError
        If there is no such model.

    Notes
    -----
    The networks know the seven classes of Mahabal et al. (2017, section II) and nothing else: a
    star of another kind, or one that does not vary, gets the class that it resembles most.
    Their probabilities are calibrated for the proportions of the training data, in which common
    classes are capped; see `LightCurveClasses.for_proportions`. Cost: see the models' cards.

    Examples
    --------
    A sinusoid of a third of a day, observed on 300 nights:

    >>> rng = np.random.default_rng(1)
    >>> time = 54000 + np.sort(rng.uniform(0, 2500, 300))
    >>> mag = 16 + 0.2 * np.cos(2 * np.pi * time / 0.3321) + rng.normal(0, 0.05, 300)
    >>> found = classify_light_curves(time, mag, magerr=np.full(300, 0.05))
    >>> found.classes
    ('EW', 'EA', 'RRab', 'RRc', 'RRd', 'RS_CVn', 'LPV')
    >>> found.labels
    array(['RRc'], dtype='<U6')
    """
    threads = check_threads(threads)
    name = MODELS.get(model, model) if isinstance(model, str) else model
    network = load_model(name, threads=threads, kind=KIND)
    contract = Contract.of(network)
    curves = read_curves(time, mag, offsets, magerr, threads=threads)
    probabilities = np.empty((len(curves), len(contract.classes)), np.float32)
    for start in range(0, len(curves), _CHUNK):
        some = curves.part(start, start + _CHUNK)
        made = network.run(contract.network_input(some, threads))
        if made.shape != (len(some), len(contract.classes)):
            raise ValueError(
                f"{network.path} gave shape {made.shape} for {len(some)} curves and "
                f"{len(contract.classes)} classes; its metadata do not fit its graph"
            )
        probabilities[start : start + _CHUNK] = made
    probabilities[(curves.flags & EMPTY) != 0] = np.nan
    return LightCurveClasses(
        probabilities, contract.classes, curves.flags, contract.proportions, Path(network.path).stem
    )
