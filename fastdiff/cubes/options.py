"""What `cpm_subtract` was asked for, checked."""

from __future__ import annotations

import functools
import zlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdiff.core import arrays
from fastdiff.core.options import one_of, whole_number

from .exclusion import EXCLUSION, default_exclusion

_MAX_TIME_ORDER = 5
_RULES = ("nearest", "brightness", "cosine", "random")
CHOICES = ("gcv", "loo", "cv")
NO_BLOCKS = np.empty((0, 4), np.int64)


class CpmOptions:
    """A cube with all that was asked for.

    What has the shape of the cube lies where the cube lies, all else in the memory of the CPU.
    """

    def __init__(
        self, data: Any, *, mask: Any, variance: Any, weights: Any, predictors: str,
        n_predictors: int, holdout: Any, ridge: float | str, ridge_per: str, exclusion: Any,
        exclude: Any, time_order: int, smooth: Any, coefficients: bool, leverage: bool, seed: int,
        threads: int | None,
    ):  # fmt: skip
        n, ny, nx = self.shape = data.shape
        self.data, self.threads = data, threads
        self.rule = one_of("predictors", predictors, _RULES)
        self.wanted = whole_number("n_predictors", n_predictors, 1)
        self.time_order = whole_number("time_order", time_order, 0, _MAX_TIME_ORDER)
        self.seed = whole_number("seed", seed, 0)
        self.ridge_per = one_of("ridge_per", ridge_per, ("image", "pixel"))
        self.coefficients, self.leverage = bool(coefficients), bool(leverage)
        self.mask = _check_mask(mask, data.shape)
        self.variance = _check_variance(variance, data.shape)
        self.roots = _check_weights(weights, n)
        if self.mask is not None and self.mask.ndim == 1:
            self.roots[arrays.on_host(self.mask)] = 0
            self.mask = self.mask[:, None, None]
        if self.mask is not None:
            self.mask = arrays.namespace(data).broadcast_to(self.mask, data.shape)
        if n and not (self.roots > 0).sum() > self.time_order + 1:
            raise ValueError(
                f"{int((self.roots > 0).sum())} epochs have a weight and are not masked; a fit "
                f"with time_order {self.time_order} needs at least {self.time_order + 2}"
            )
        self.ridge = _check_ridge(ridge)
        self.smooth = _check_smooth(smooth)
        self.width = 1 if self.smooth == "auto" else int(self.smooth)
        self.holdout, self.blocks = _check_holdout(holdout, n, self.roots)
        self.excluded = np.zeros((ny, nx), bool)
        if exclude is not None:
            given = arrays.to_numpy(exclude, "exclude", images=False)
            if given.shape != (ny, nx):
                raise ValueError(
                    f"`exclude` has shape {given.shape}; it must match the pixels of `cube`, "
                    f"{(ny, nx)}"
                )
            self.excluded |= given.astype(bool)
        self.exclusion_given = exclusion is not None
        self.exclusion = _check_exclusion(exclusion, self.wanted, (ny, nx))
        self.notes: list[str] = []
        if exclusion is None and self.exclusion != EXCLUSION:
            self.notes.append(
                f"{ny} x {nx} pixels are small: a smaller exclusion, {self.exclusion}, may let the "
                "wings of a star predict the star; take a larger cut-out if there is one"
            )

    @functools.cached_property
    def free(self) -> NDArray[np.float64]:
        """(time_order + 1, n_epochs): polynomials, orthonormal under the weights."""
        n = self.shape[0]
        powers = np.polynomial.legendre.legvander(np.linspace(-1, 1, n), self.time_order)
        _, r = np.linalg.qr(powers * self.roots[:, None])
        return np.ascontiguousarray(np.linalg.solve(r.T, powers.T))

    @property
    def fingerprint(self) -> str:
        """What a checkpoint must agree with: the options, and of what has epochs the first."""
        given = [self.roots, self.excluded, self.data[:1]]
        given += [x[:1] for x in (self.mask, self.variance) if x is not None]
        return repr((
            self.shape, self.rule, self.wanted, self.holdout, self.ridge, self.ridge_per,
            self.exclusion, self.time_order, self.smooth, self.seed,
            [zlib.crc32(x.tobytes()) for x in given],
        ))  # fmt: skip


def as_cube(cube: ArrayLike) -> Any:
    """A NumPy or CuPy array (n_epochs, ny, nx) of numbers.

    That of a CPU is what came, of any byte order: a memory map may be larger than the memory.
    """
    data = cube
    if arrays.device_of(cube) == "cpu":
        data, masked, *_ = arrays.open_array(cube, "cube")
        if masked is not None:
            data = arrays.to_numpy(cube, "cube", images=False)
        elif data.dtype.kind != "b":
            arrays.image_dtype(data, "cube")  # an error for what are no numbers
    else:
        data = _opened(cube, "cube")
        if data.dtype.kind != "b" and data.ndim == 3:
            data = arrays.as_images(data, "cube").data
    if data.dtype.kind == "b" or data.ndim != 3:
        raise ValueError(
            f"`cube` has shape {data.shape} and dtype {data.dtype}; it must be numbers "
            "(n_epochs, ny, nx): for (ny, nx, n_epochs) use np.moveaxis(cube, -1, 0)"
        )
    n, ny, nx = data.shape
    if data.size and n < 2:
        raise ValueError(f"`cube` has {n} epoch; at least 2 are needed")
    if data.size and nx > 8 * max(n, ny) and nx > 100:
        raise ValueError(
            f"`cube` has shape {data.shape}, which looks like (ny, nx, n_epochs); it must be "
            "(n_epochs, ny, nx): use np.moveaxis(cube, -1, 0)"
        )
    return data


def _opened(x: Any, name: str) -> Any:
    """An array of NumPy or CuPy."""
    if arrays.device_of(x) == "cpu":
        return arrays.to_numpy(x, name, images=False)
    array, _, kind, device = arrays.open_array(x, name)
    if kind == "torch":
        raise TypeError(
            f"`{name}` is a tensor on {device}; cpm_subtract takes CuPy arrays: pass "
            "`cupy.asarray(tensor)`, and make tensors of the results by `torch.as_tensor`"
        )
    return array


def check_out(out: Any, shape: tuple[int, int, int], device: str) -> None:
    """Whether the image can be written there."""
    if out is None:
        return
    if device != "cpu":
        raise TypeError(f"`out` is not taken for a cube on a GPU, {device}: use what is returned")
    if getattr(out, "shape", None) != shape or getattr(out.dtype, "kind", "") != "f":
        raise ValueError(
            f"`out` has shape {getattr(out, 'shape', None)} and dtype "
            f"{getattr(out, 'dtype', None)}; it must be floats of shape {shape}"
        )
    if not out.flags.writeable:
        raise ValueError("`out` is read-only; a memory map has to be opened with mode 'r+' or 'w+'")


def _check_mask(mask: Any, shape: tuple[int, int, int]) -> Any:
    if mask is None:
        return None
    given = _opened(mask, "mask")
    if given.shape not in (shape, shape[1:], shape[:1]):
        raise ValueError(
            f"`mask` has shape {given.shape}; it must be {shape}, {shape[1:]} for pixels or "
            f"{shape[:1]} for epochs"
        )
    return given.astype(bool)


def _check_variance(variance: Any, shape: tuple[int, int, int]) -> Any:
    if variance is None:
        return None
    given = _opened(variance, "variance")
    try:
        given = arrays.namespace(given).broadcast_to(given, shape)
    except ValueError:
        raise ValueError(
            f"`variance` has shape {given.shape}; it must broadcast to that of `cube`, {shape}"
        ) from None
    if (given < 0).any():
        raise ValueError("`variance` has negative values; it must be positive")
    return given


def _check_weights(weights: Any, n: int) -> NDArray[np.float64]:
    """(n,) square roots."""
    if weights is None:
        return np.ones(n)
    given = arrays.to_numpy(weights, "weights", images=False).astype(np.float64)
    if given.shape != (n,):
        raise ValueError(f"`weights` has shape {given.shape}; it must be ({n},), one an epoch")
    if not (np.isfinite(given).all() and (given >= 0).all()):
        raise ValueError("`weights` has values that are negative or not finite; 0 leaves one out")
    roots: NDArray[np.float64] = np.sqrt(given)
    return roots


def _check_ridge(ridge: Any) -> float | str:
    if isinstance(ridge, str):
        return one_of("ridge", ridge, CHOICES)
    if isinstance(ridge, bool) or not isinstance(ridge, (int, float, np.integer, np.floating)):
        raise TypeError(f"ridge is a {type(ridge).__name__}; it must be a number or 'gcv'")
    if not (np.isfinite(ridge) and ridge >= 0):
        raise ValueError(f"ridge is {ridge}; it must be 0 or more, or one of {CHOICES}")
    return float(ridge)


def _check_smooth(smooth: Any) -> int | str:
    if isinstance(smooth, str):
        return one_of("smooth", smooth, ("auto",))
    width = whole_number("smooth", smooth, 1)
    if width % 2 == 0:
        raise ValueError(f"smooth is {width}; it must be an odd number of epochs, or 'auto'")
    return width


def _check_holdout(
    holdout: Any, n: int, roots: NDArray[np.float64]
) -> tuple[Any, NDArray[np.int64]]:
    """What was asked for, and (first, stop, from, to) of what is left out and predicted."""
    if holdout is None or not n:
        return holdout, NO_BLOCKS
    if isinstance(holdout, tuple):
        if len(holdout) != 2 or holdout[0] != "window":
            raise ValueError(
                f"holdout is {holdout!r}; it must be folds, ('window', epochs) or None"
            )
        width = whole_number("holdout[1]", holdout[1], 0)
        middle = np.arange(n)
        first, stop = np.maximum(middle - width, 0), np.minimum(middle + width + 1, n)
        blocks = np.stack([first, stop, middle, middle + 1], axis=1)
    else:
        folds = whole_number("holdout", holdout, 2)
        if folds > n:
            raise ValueError(
                f"holdout is {holdout} folds; `cube` has only {n} epochs: use at most as many"
            )
        edges = n * np.arange(folds + 1) // folds
        blocks = np.stack([edges[:-1], edges[1:], edges[:-1], edges[1:]], axis=1)
    weighted = np.concatenate([[0], np.cumsum(roots > 0)])
    left = weighted[-1] - (weighted[blocks[:, 1]] - weighted[blocks[:, 0]])
    if (left < 2).any():
        first, stop = blocks[int(left.argmin()), :2]
        raise ValueError(
            f"holdout {holdout!r} leaves no epoch to fit outside of epochs {first} to {stop - 1}: "
            "use more folds, a narrower window, or None"
        )
    return holdout, blocks.astype(np.int64)


def _check_exclusion(exclusion: Any, wanted: int, shape: tuple[int, int]) -> tuple[int, float]:
    if exclusion is None:
        return default_exclusion(wanted, shape)
    try:
        rows, distance = exclusion
        rows, distance = whole_number("exclusion[0]", rows, -1), float(distance)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"exclusion is {exclusion!r}; it must be (rows, distance) in pixels, rows a whole "
            "number (-1 for none)"
        ) from None
    if not distance >= 0:
        raise ValueError(f"exclusion is {exclusion!r}; the distance must be 0 or more pixels")
    return rows, distance
