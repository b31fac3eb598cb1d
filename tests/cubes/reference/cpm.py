"""What `fastdiff.cpm_subtract` computes: a solve for each pixel and each run of epochs."""

import numpy as np

from tests.kernels.cube.reference import ridge


def predictors(y, x, usable, n_predictors, rows, distance):
    """(n, 2) the closest usable pixels that the paper's rule allows (section 2)."""
    dy, dx = np.mgrid[: usable.shape[0], : usable.shape[1]] - np.array([y, x])[:, None, None]
    square = dy**2 + dx**2
    allowed = usable & (abs(dy) > rows) & (abs(dx) > rows) & (square >= distance**2)
    places = np.argwhere(allowed)
    return places[np.argsort(square[allowed], kind="stable")][:n_predictors]


def bridged(cube):
    """The cube with NaN replaced by what lies before and after."""
    out = cube.copy()
    n, ny, nx = cube.shape
    for y, x in np.ndindex(ny, nx):
        good = np.flatnonzero(np.isfinite(cube[:, y, x]))
        out[:, y, x] = np.interp(np.arange(n), good, cube[good, y, x]) if len(good) else 0.0
    return out


def predict(cube, y, x, strength, blocks=(), weights=None, usable=None, n_predictors=60, rows=3,
            distance=5.0, order=0):  # fmt: skip
    """(prediction (n,), predictors (n, 2)) of one pixel of a cube without NaN.

    `weights` (n,) are those of the epochs of this pixel; see `ridge.predict` for the blocks.
    """
    n, ny, nx = cube.shape
    usable = np.ones((ny, nx), bool) if usable is None else usable
    weights = np.ones(n) if weights is None else weights
    places = predictors(y, x, usable, n_predictors, rows, distance)
    design = np.concatenate([
        cube[:, places[:, 0], places[:, 1]].T,
        np.polynomial.legendre.legvander(np.linspace(-1, 1, n), order).T,
    ])  # fmt: skip
    penalties = np.r_[np.full(len(places), strength), np.zeros(order + 1)]
    return ridge.predict(design, cube[:, y, x], weights, penalties, blocks), places


def subtract(cube, strength, blocks=(), *, mask=None, variance=None, weights=None, **rule):
    """The image, (n_epochs, ny, nx): the cube less its prediction, NaN where a pixel is bad."""
    bad = ~np.isfinite(cube)
    if mask is not None:
        bad |= mask
    weights = np.ones(len(cube)) if weights is None else weights
    cube = bridged(np.where(bad, np.nan, cube))
    counted = weights > 0
    usable = (~bad[counted]).sum(0) >= 0.5 * counted.sum()
    image = np.full(cube.shape, np.nan)
    for y, x in np.ndindex(*cube.shape[1:]):
        own = np.where(bad[:, y, x], 0.0, weights)
        if variance is not None:
            own = own / variance[:, y, x]
        if own.any():
            prediction, _ = predict(cube, y, x, strength, blocks, own, usable, **rule)
            image[:, y, x] = np.where(bad[:, y, x], np.nan, cube[:, y, x] - prediction)
    return image
