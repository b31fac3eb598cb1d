"""Series, targets and lists of predictors; fits of them by the kernels and by the twin."""

import numpy as np

from fastdiff.kernels.cube import ridge
from fastdiff.kernels.cube.fits import FIRST, STOP, Fits, Fitted, LeftOut, Weights
from tests.kernels.cube.reference import ridge as reference

N_EPOCHS = 61
FOLDS = [(a, min(a + 13, N_EPOCHS), a, min(a + 13, N_EPOCHS)) for a in range(0, N_EPOCHS, 13)]
WINDOWS = [(max(t - 4, 0), min(t + 5, N_EPOCHS), t, t + 1) for t in range(N_EPOCHS)]
SINGLE = [(t, t + 1, t, t + 1) for t in range(N_EPOCHS)]
BLOCKS = {"all": (), "folds": FOLDS, "windows": WINDOWS, "1": SINGLE}


def trends(rng, n_series, n_free=2):
    """Series of common trends and noise, polynomials behind them."""
    common = rng.normal(size=(4, N_EPOCHS)).cumsum(1)
    series = rng.normal(size=(n_series, 4)) @ common + 0.1 * rng.normal(size=(n_series, N_EPOCHS))
    free = np.polynomial.legendre.legvander(np.linspace(-1, 1, N_EPOCHS), n_free - 1).T
    return np.concatenate([series, free])


def problem(rng, k, n_free=2, n_series=70):
    """(series, targets, lists, counts) of three targets with lists of their own."""
    series = trends(rng, n_series, n_free)
    targets = np.arange(3)
    lists = np.zeros((3, k + n_free), np.int32)
    counts = np.array([k, max(k - 3, 1), 1]) + n_free
    for row, count in zip(lists, counts, strict=True):
        chosen = rng.choice(np.arange(3, n_series), count - n_free, replace=False)
        row[:count] = [*np.sort(chosen), *range(n_series, n_series + n_free)]
    return series, targets, lists, counts


def neighbours(rng, n, k, n_series=120):
    """Targets whose lists move along the series: all of a run, some of it, or one has a series."""
    counts = k - np.arange(n) % 3 + 2
    lists = np.zeros((n, k + 2), np.int32)
    for i, count in enumerate(counts):
        lists[i, : count - 2] = n + 2 * i + np.arange(count - 2)
        lists[i, count - 2 : count] = n_series, n_series + 1
    return trends(rng, n_series), np.arange(n), lists, counts


def run(kernel, series, targets, lists, counts, *, n_free=2, strength=0.3, roots=None, own=None,
        which=None, blocks=(), threads=1, gram=None):  # fmt: skip
    """(prediction, freedom, leverage, coefficients) of the kernel "single" or "dual"."""
    n = len(targets)
    roots = np.ones(N_EPOCHS) if roots is None else roots
    own = np.empty((0, N_EPOCHS)) if own is None else own
    which = np.full(n, -1) if which is None else which
    weighted = series * roots
    gram = weighted @ weighted.T if gram is None else gram
    blocks = np.array(blocks, np.int64).reshape(-1, 4)
    fits = Fits(series, targets, lists, counts, n_free, np.full(n, strength))
    rest = Weights(roots, own, which), LeftOut(blocks, runs(blocks))
    fitted = Fitted(
        np.empty((n, N_EPOCHS)), np.empty(n), np.empty((n, N_EPOCHS)), np.zeros(lists.shape)
    )
    if kernel == "single":
        ridge.fit_single(fits, gram, *rest, fitted, threads=threads)
    else:
        ridge.fit_dual(fits, *rest, fitted, threads=threads)
    return fitted


def runs(blocks, most=5):
    """Up to so many neighbours each, where they overlap."""
    out, begin = [], 0
    for end in range(1, len(blocks) + 1):
        apart = end == len(blocks) or blocks[end, FIRST] >= blocks[end - 1, STOP]
        if apart or end - begin == most:
            out.append((begin, end, blocks[begin, FIRST], blocks[end - 1, STOP]))
            begin = end
    return np.array(out, np.int64).reshape(-1, 4)


def penalties(count, n_free=2, strength=0.3):
    return np.r_[np.full(count - n_free, strength), np.zeros(n_free)]


def check_fits(kernel, rng, k, blocks):
    """Fits with shared weights against those of the twin."""
    series, targets, lists, counts = problem(rng, k, n_series=100)
    weights = rng.uniform(0.5, 2, N_EPOCHS)
    weights[[5, 40]] = 0
    made = run(kernel, series, targets, lists, counts, roots=np.sqrt(weights), blocks=blocks)
    for i, target in enumerate(targets):
        count = counts[i]
        x, y, penalty = series[lists[i, :count]], series[target], penalties(counts[i])
        expected = reference.predict(x, y, weights, penalty, blocks)
        np.testing.assert_allclose(made.prediction[i], expected, atol=1e-8 * np.abs(y).max())
        hat = reference.hat(x, weights, penalty)
        np.testing.assert_allclose(made.freedom[i], np.trace(hat), rtol=1e-8)
        np.testing.assert_allclose(made.leverage[i], np.diag(hat), atol=1e-9)
        fitted = reference.coefficients(x, y, weights, penalty)
        known = count if kernel == "single" else count - 2
        np.testing.assert_allclose(
            made.coefficients[i, :known], fitted[:known], atol=1e-7 * np.abs(fitted).max()
        )


def check_own_weights(kernel, rng, gap, given):
    """Fits with weights of their own, all or nothing where a Gram matrix is given."""
    series, targets, lists, counts = problem(rng, 20)
    own = np.ones((2, N_EPOCHS)) if given else rng.uniform(0.2, 3, (2, N_EPOCHS))
    own[0, 10 : 10 + gap] = 0
    which = np.array([1, -1 if given else 0, 0])
    made = run(
        kernel, series, targets, lists, counts, own=own, which=which, blocks=WINDOWS,
        gram=None if given else np.empty((0, 0)),
    )  # fmt: skip
    for i, target in enumerate(targets):
        weights = own[which[i]] ** 2 if which[i] >= 0 else np.ones(N_EPOCHS)
        x, y = series[lists[i, : counts[i]]], series[target]
        expected = reference.predict(x, y, weights, penalties(counts[i]), WINDOWS)
        np.testing.assert_allclose(made.prediction[i], expected, atol=1e-8 * np.abs(y).max())


def check_threads(kernel, rng):
    problem_ = problem(rng, 30)
    one, three = (run(kernel, *problem_, blocks=FOLDS, threads=n) for n in (1, 3))
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a, b)
