"""The network: which model, on which back end, and how tiles go through it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastdiff.core import arrays
from fastdiff.models.model import Model, load_model

if TYPE_CHECKING:
    import os

__all__ = [
    "KIND", "NORMALISATIONS", "SYMMETRIES", "SymmetryGroup", "load_network", "run_network",
    "tiles_per_call", "wants_matched",
]  # fmt: skip

KIND = "transinet"
"""Value of the metadata "fastdiff.kind" of the models that this method runs."""
NORMALISATIONS = {"tile-v1": False, "tile-match-v1": True}
"""Values of "fastdiff.normalisation": the two channels of `fastdiff.kernels.image.tile`, or the
four of `fastdiff.kernels.image.match` made from them."""
SymmetryGroup = Literal["cyclic", "dihedral"] | None
SYMMETRIES: dict[SymmetryGroup, list[tuple[int, bool]]] = {
    None: [(0, False)],
    "cyclic": [(turns, False) for turns in range(4)],
    "dihedral": [(turns, flip) for flip in (False, True) for turns in range(4)],
}
"""Quarter turns and whether to flip, of the groups C4 and D4."""

# Small frames go to the network together: fewer pixels than this in a call waste its overhead,
# more leave the cache. A GPU wants more at once.
_PIXELS_PER_CALL = {"onnxruntime-cpu": 2**16}
_PIXELS_PER_CALL_GPU = 2**22


def load_network(model: str | os.PathLike[str] | Model, backend: str) -> Model:
    """The model on one thread.

    Parameters
    ----------
    model : str, path or Model
        A name, an ONNX file, or what `load_model` gave.
    backend : str
        As in `load_model`; "auto" takes that of a `Model`.

    Raises
    ------
    ValueError
        If `backend` is not that of the `Model`, or the model is of another kind or was made for
        another normalisation.
    """
    if isinstance(model, Model):
        if backend not in ("auto", model.backend):
            raise ValueError(
                f"backend is {backend!r}, but `model` was loaded on {model.backend!r}; leave out "
                "one of the two"
            )
        backend = model.backend
        model = model.path
    # Sessions are kept: loading again with one thread costs an open file at the first call.
    network = load_model(model, backend, threads=1, kind=KIND)
    found = network.metadata.get("fastdiff.normalisation")
    if found not in NORMALISATIONS:
        raise ValueError(
            f"{network.path} was made for the normalisation {found!r} (metadata "
            f"'fastdiff.normalisation'); this fastdiff has {', '.join(NORMALISATIONS)}: use the "
            "model and the version of fastdiff that belong together"
        )
    return network


def wants_matched(network: Model) -> bool:
    """Whether the network takes the four channels of `fastdiff.kernels.image.match`."""
    return NORMALISATIONS[network.metadata["fastdiff.normalisation"]]


def tiles_per_call(network: Model, shape: tuple[int, int]) -> int:
    """How many tiles of (h, w) pixels go to the network together."""
    pixels = _PIXELS_PER_CALL.get(network.backend, _PIXELS_PER_CALL_GPU)
    return max(1, pixels // (shape[0] * shape[1]))


def run_network(network: Model, pairs: NDArray[np.float32], symmetry: SymmetryGroup) -> Any:
    """Output of the network, with test-time averaging over a group of symmetries.

    The back ends of ONNX Runtime take arrays in the memory of the CPU: tiles of a GPU go there
    and the outputs come back. Nothing else in this method leaves the device.

    Parameters
    ----------
    pairs : array of float32, (m, c, h, w)
        Of NumPy or CuPy.
    symmetry : None, "cyclic" or "dihedral"
        Average over the 4 quarter turns, or also over their mirror images.

    Returns
    -------
    array of float32, (m, 1, h, w)
        Where `pairs` are.
    """
    outputs = _average(network, arrays.on_host(pairs), SYMMETRIES[symmetry])
    return arrays.namespace(pairs).asarray(outputs)


def _average(
    network: Model, pairs: NDArray[np.float32], symmetries: list[tuple[int, bool]]
) -> NDArray[np.float32]:
    """Mean of the outputs for turned and mirrored copies, turned back."""
    total: Any = None
    for turns, flip in symmetries:
        turned = np.rot90(pairs[..., ::-1] if flip else pairs, turns, axes=(2, 3))
        output = np.rot90(network.run(turned), -turns, axes=(2, 3))
        output = output[..., ::-1] if flip else output
        total = output if total is None else total + output
    if len(symmetries) > 1:
        total = np.ascontiguousarray(total * np.float32(1.0 / len(symmetries)))
    mean: NDArray[np.float32] = total
    return mean
