"""fastdiff/lightcurves/background.py against exact splits and a convex method."""

import numpy as np
import pytest

from fastdiff.lightcurves.dmdt import dmdt_images
from fastdiff.lightcurves.robust_pca import (
    class_backgrounds,
    maximum_background,
    pseudo_cadence_background,
    robust_pca,
)


def made_of(rng, shape, rank, share, size=10.0):
    """(low rank, sparse): a Gaussian product, and gross errors at a share of the entries."""
    low_rank = rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
    errors = rng.uniform(-size, size, shape)
    return low_rank, np.where(rng.random(shape) < share, errors, 0.0)


def principal_component_pursuit(matrix, tolerance=1e-7):
    """Convex robust PCA by inexact augmented Lagrange multipliers (Lin et al. 2010, Algorithm 5).

    Minimises ||L||_* + lambda ||S||_1 with L + S = M and lambda = 1 / sqrt(max(n, m)).
    """
    weight = 1 / np.sqrt(max(matrix.shape))
    norm = np.linalg.norm(matrix, 2)
    dual = matrix / max(norm, np.abs(matrix).max() / weight)
    sparse, mu = np.zeros_like(matrix), 1.25 / norm
    for _ in range(1000):
        u, s, v = np.linalg.svd(matrix - sparse + dual / mu, full_matrices=False)
        low_rank = (u * np.maximum(s - 1 / mu, 0)) @ v
        left = matrix - low_rank + dual / mu
        sparse = np.sign(left) * np.maximum(np.abs(left) - weight / mu, 0)
        gap = matrix - low_rank - sparse
        dual, mu = dual + mu * gap, mu * 1.2
        if np.linalg.norm(gap) < tolerance * np.linalg.norm(matrix):
            break
    return low_rank, sparse


@pytest.mark.parametrize("shape", [(300, 120), (120, 300), (150, 150)])
@pytest.mark.parametrize(("rank", "share"), [(1, 0.05), (3, 0.1), (6, 0.05)])
def test_recovers_exactly(rng, shape, rank, share):
    low_rank, sparse = made_of(rng, shape, rank, share)
    made = robust_pca(low_rank + sparse, rank, tolerance=1e-7)
    assert made.converged and made.rank == rank and made.residual < 1e-7
    scale = np.linalg.norm(low_rank)
    assert np.linalg.norm(made.low_rank - low_rank) < 1e-6 * scale
    assert np.linalg.norm(made.sparse - sparse) < 1e-5 * np.linalg.norm(sparse)
    assert np.linalg.matrix_rank(made.low_rank, tol=1e-6 * scale) == rank


def test_agrees_with_convex_method(rng):
    low_rank, sparse = made_of(rng, (100, 80), 2, 0.08)
    made = robust_pca(low_rank + sparse, 2, tolerance=1e-7)
    expected, errors = principal_component_pursuit(low_rank + sparse)
    np.testing.assert_allclose(made.low_rank, expected, atol=1e-3)
    np.testing.assert_allclose(made.sparse, errors, atol=1e-3)


def test_background_of_images_with_noise(rng):
    """What is neither is left out of both, below the last threshold."""
    low_rank, sparse = made_of(rng, (400, 100), 2, 0.03)
    noise = rng.normal(0, 0.02, low_rank.shape)
    made = robust_pca((low_rank + sparse + noise).reshape(400, 10, 10), 2)
    assert made.low_rank.shape == made.sparse.shape == (400, 10, 10)
    error = made.low_rank.reshape(400, 100) - low_rank
    assert error.std() < 0.02
    found = made.sparse.reshape(400, 100) != 0
    assert (found[np.abs(sparse) > 1]).all()


def test_kinds_of_images(rng):
    images = rng.integers(0, 50, (30, 6, 5))
    assert robust_pca(images.astype(np.uint8), 2).low_rank.dtype == np.float32
    assert robust_pca(images.astype(np.float32), 2).low_rank.dtype == np.float32
    expected = robust_pca(images.astype(float), 2)
    assert expected.low_rank.dtype == np.float64
    made = robust_pca(images.astype(">f8")[:, ::-1][:, ::-1], 2)
    np.testing.assert_allclose(made.low_rank, expected.low_rank, atol=1e-9)


def test_extremes():
    zero = robust_pca(np.zeros((4, 3)), 2)
    assert zero.converged and not zero.low_rank.any() and not zero.sparse.any()
    single = robust_pca(np.ones((1, 5)), 1)
    np.testing.assert_allclose(single.low_rank + single.sparse, 1, atol=1e-3)
    full = robust_pca(np.eye(3), 3)
    np.testing.assert_allclose(full.low_rank + full.sparse, np.eye(3), atol=1e-3)
    stopped = robust_pca(np.random.default_rng(1).normal(size=(50, 40)), 3, max_iterations=2)
    assert stopped.n_iterations == 2 and not stopped.converged


def test_backgrounds(rng):
    """Section V-D: classes apart, classes balanced, all together."""
    shapes = {name: rng.uniform(1, 2, (12, 10)) for name in ("EW", "EA")}
    labels = np.repeat(["EW", "EA"], [150, 60])
    heights = rng.uniform(0.5, 1, 210)
    images = np.stack([h * shapes[name] for h, name in zip(heights, labels, strict=True)])
    for name, background in class_backgrounds(images, labels, rank=1).items():
        highest = heights[labels == name].max()
        np.testing.assert_allclose(background, highest * shapes[name], rtol=1e-3)
    everything = maximum_background(images, rank=2)
    balanced = pseudo_cadence_background(images, labels, rank=2, n_per_class=60, seed=3)
    same = pseudo_cadence_background(images, labels, rank=2, n_per_class=60, seed=3)
    np.testing.assert_array_equal(balanced, same)
    assert everything.shape == balanced.shape == (12, 10)
    assert (balanced <= everything + 0.02).all()
    most = np.max([heights[labels == name].max() * shapes[name] for name in shapes], axis=0)
    np.testing.assert_allclose(everything, most, rtol=1e-2)


def test_real_images_have_a_background(data_folder):
    """dm-dt images of CRTS curves: most of their power is in a few components."""
    data = dict(np.load(data_folder / "crts" / "crts_train.npz", allow_pickle=True))
    chosen = np.flatnonzero(data["label"] == "RRab")[:200]
    parts = [slice(*data["offsets"][i : i + 2]) for i in chosen]
    images = dmdt_images([data["t"][p] for p in parts], [data["mag"][p] for p in parts])
    made = robust_pca(images, 3)
    power = np.linalg.norm(made.low_rank) / np.linalg.norm(images.astype(float))
    assert 0.7 < power < 1.05
    assert np.mean(made.sparse != 0) < 0.2


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.ones(4), {}, r"`images` has shape \(4,\); it must be"),
        (np.ones((0, 4)), {}, r"`images` has shape \(0, 4\); it must be"),
        (np.full((2, 2), np.nan), {"rank": 1}, "`images` has 4 pixels that are not finite"),
        (np.ones((5, 4)), {"rank": 5}, "`rank` is 5; it must be an integer from 1 to 4"),
        (np.ones((5, 4)), {"rank": 1.5}, "`rank` is 1.5; it must be an integer"),
        (np.ones((5, 4)), {"tolerance": 0}, "`tolerance` is 0; it must be positive"),
        (np.ones((5, 4)), {"max_iterations": 0}, "`max_iterations` is 0"),
    ],
)
def test_bad_input(images, options, message):
    with pytest.raises(ValueError, match=message):
        robust_pca(images, **options)


def test_bad_kinds():
    with pytest.raises(TypeError, match="`images` has dtype bool"):
        robust_pca(np.ones((3, 4), bool), 1)
    with pytest.raises(TypeError, match="`images` has dtype complex128"):
        robust_pca(np.ones((3, 4), complex), 1)
    with pytest.raises(ValueError, match=r"`labels` has shape \(2,\); it must be \(3,\)"):
        class_backgrounds(np.ones((3, 4)), ["a", "b"], 1)
    with pytest.raises(ValueError, match="`n_per_class` is 0"):
        pseudo_cadence_background(np.ones((3, 4)), ["a"] * 3, 1, n_per_class=0)
