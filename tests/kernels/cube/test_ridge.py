"""Ridge regressions that share a Gram matrix: the kernel against fits of their own."""

import inspect

import numpy as np
import pytest

from fastdiff.kernels import jit
from fastdiff.kernels.cube import ridge
from tests.kernels.cube.reference import ridge as reference

N_EPOCHS = 61


def problem(rng, k, n_free=2, n_series=70):
    """Series of common trends and noise, polynomials behind them, and lists of predictors."""
    trends = rng.normal(size=(4, N_EPOCHS)).cumsum(1)
    series = rng.normal(size=(n_series, 4)) @ trends + 0.1 * rng.normal(size=(n_series, N_EPOCHS))
    free = np.polynomial.legendre.legvander(np.linspace(-1, 1, N_EPOCHS), n_free - 1).T
    targets = np.arange(3)
    lists = np.zeros((3, k + n_free), np.int32)
    counts = np.array([k, max(k - 3, 1), 1]) + n_free
    for row, count in zip(lists, counts, strict=True):
        chosen = rng.choice(np.arange(3, n_series), count - n_free, replace=False)
        row[:count] = [*np.sort(chosen), *range(n_series, n_series + n_free)]
    return np.concatenate([series, free]), targets, lists, counts


def run(kernel, series, targets, lists, counts, *, n_free=2, strength=0.3, roots=None, own=None,
        which=None, blocks=(), threads=1, gram=None):  # fmt: skip
    """(prediction, freedom, leverage, coefficients)"""
    n = len(targets)
    roots = np.ones(N_EPOCHS) if roots is None else roots
    weighted = series * roots
    gram = weighted @ weighted.T if gram is None else gram
    outputs = (
        np.empty((n, N_EPOCHS)), np.empty(n), np.empty((n, N_EPOCHS)), np.zeros(lists.shape)
    )  # fmt: skip
    blocks = np.array(blocks, np.int64).reshape(-1, 4)
    jit.run(
        getattr(ridge, f"{kernel}_cpu"), n, threads, series, *([gram] * (kernel == "single")),
        targets, lists, counts, n_free, np.full(n, strength), roots,
        np.empty((0, N_EPOCHS)) if own is None else own,
        np.full(n, -1) if which is None else which, blocks, runs(blocks), *outputs,
    )  # fmt: skip
    return outputs


def runs(blocks, most=5):
    """Up to so many neighbours each, where they overlap."""
    out, begin = [], 0
    for end in range(1, len(blocks) + 1):
        if end == len(blocks) or end - begin == most or blocks[end, 0] >= blocks[end - 1, 1]:
            out.append((begin, end, blocks[begin, 0], blocks[end - 1, 1]))
            begin = end
    return np.array(out, np.int64).reshape(-1, 4)


def penalties(count, n_free=2, strength=0.3):
    return np.r_[np.full(count - n_free, strength), np.zeros(n_free)]


FOLDS = [(a, min(a + 13, N_EPOCHS), a, min(a + 13, N_EPOCHS)) for a in range(0, N_EPOCHS, 13)]
WINDOWS = [(max(t - 4, 0), min(t + 5, N_EPOCHS), t, t + 1) for t in range(N_EPOCHS)]
SINGLE = [(t, t + 1, t, t + 1) for t in range(N_EPOCHS)]


@pytest.mark.parametrize("kernel", ["single", "dual"])
@pytest.mark.parametrize("k", [1, 6, 8, 9, 30, 80])
@pytest.mark.parametrize(
    "blocks", [(), FOLDS, WINDOWS, SINGLE], ids=["all", "folds", "windows", "1"]
)
def test_kernel_agrees_with_fits_of_their_own(rng, kernel, k, blocks):
    """Also with more predictors than epochs."""
    series, targets, lists, counts = problem(rng, k, n_series=100)
    weights = rng.uniform(0.5, 2, N_EPOCHS)
    weights[[5, 40]] = 0
    made = run(kernel, series, targets, lists, counts, roots=np.sqrt(weights), blocks=blocks)
    for i, target in enumerate(targets):
        count = counts[i]
        x, y, penalty = series[lists[i, :count]], series[target], penalties(counts[i])
        expected = reference.predict(x, y, weights, penalty, blocks)
        np.testing.assert_allclose(made[0][i], expected, atol=1e-8 * np.abs(y).max())
        hat = reference.hat(x, weights, penalty)
        np.testing.assert_allclose(made[1][i], np.trace(hat), rtol=1e-8)
        np.testing.assert_allclose(made[2][i], np.diag(hat), atol=1e-9)
        fitted = reference.coefficients(x, y, weights, penalty)
        known = count if kernel == "single" else count - 2
        np.testing.assert_allclose(
            made[3][i, :known], fitted[:known], atol=1e-7 * np.abs(fitted).max()
        )


@pytest.mark.parametrize("kernel", ["single", "dual"])
@pytest.mark.parametrize("gap", [3, 10, 45])
@pytest.mark.parametrize("given", [True, False])
def test_weights_of_its_own_are_a_fit_of_its_own(rng, kernel, gap, given):
    """Whether the lost epochs are taken from a Gram matrix, or it is made from those that stay."""
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
        np.testing.assert_allclose(made[0][i], expected, atol=1e-8 * np.abs(y).max())


def neighbours(rng, n, k, n_series=120):
    """Targets whose lists move along the series: all of a run, some of it, or one has a series."""
    trends = rng.normal(size=(4, N_EPOCHS)).cumsum(1)
    series = rng.normal(size=(n_series, 4)) @ trends + 0.1 * rng.normal(size=(n_series, N_EPOCHS))
    free = np.polynomial.legendre.legvander(np.linspace(-1, 1, N_EPOCHS), 1).T
    counts = k - np.arange(n) % 3 + 2
    lists = np.zeros((n, k + 2), np.int32)
    for i, count in enumerate(counts):
        lists[i, : count - 2] = n + 2 * i + np.arange(count - 2)
        lists[i, count - 2 : count] = n_series, n_series + 1
    return np.concatenate([series, free]), np.arange(n), lists, counts


@pytest.mark.parametrize("k", [3, 12, 40, 52])
@pytest.mark.parametrize("n", [1, 2, 5, 16, 17, 23])
def test_runs_that_share_a_factor_are_fits_of_their_own(rng, k, n):
    series, targets, lists, counts = neighbours(rng, n, k)
    weights = rng.uniform(0.5, 2, N_EPOCHS)
    weighted = series * np.sqrt(weights)
    prediction, coefficients = np.full((n, N_EPOCHS), np.nan), np.zeros(lists.shape)
    jit.run(
        ridge.shared_cpu, -(-n // ridge.RUN), 1, series, weighted @ weighted.T, targets, lists,
        counts, 2, 0.3, 3, 58, prediction, coefficients,
    )  # fmt: skip
    assert np.isnan(prediction[:, :3]).all()
    assert np.isnan(prediction[:, 58:]).all()
    for i, target in enumerate(targets):
        x, y = series[lists[i, : counts[i]]], series[target]
        fitted = reference.coefficients(x, y, weights, penalties(counts[i]))
        scale = np.abs(fitted).max()
        np.testing.assert_allclose(coefficients[i, : counts[i]], fitted, atol=1e-9 * scale)
        expected = (fitted @ x)[3:58]
        np.testing.assert_allclose(prediction[i, 3:58], expected, atol=1e-9 * np.abs(y).max())


def test_scores_are_those_of_the_fit(rng):
    series, targets, lists, counts = problem(rng, 25)
    roots = rng.uniform(0.5, 2, N_EPOCHS)
    weighted = series * roots
    ridges = np.array([1e-4, 0.1, 30.0])
    square, freedom = np.empty((2, len(targets), 3))
    jit.run(
        ridge.scores_cpu, len(targets), 1, weighted @ weighted.T, targets, lists, counts, 2, ridges,
        square, freedom,
    )  # fmt: skip
    for i, target in enumerate(targets):
        x, y = series[lists[i, : counts[i]]], series[target]
        for j, strength in enumerate(ridges):
            penalty = penalties(counts[i], strength=strength)
            hat = reference.hat(x, roots**2, penalty)
            rest = roots * y - hat @ (roots * y)
            assert square[i, j] == pytest.approx(rest @ rest, rel=1e-6)
            assert freedom[i, j] == pytest.approx(np.trace(hat), rel=1e-8)


@pytest.mark.parametrize("kernel", ["single", "dual"])
def test_same_bits_whatever_the_threads(rng, kernel):
    problem_ = problem(rng, 30)
    one, three = (run(kernel, *problem_, blocks=FOLDS, threads=n) for n in (1, 3))
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a, b)


# -------------------------------------------------------------------------------- CUDA


def gather_all(gram, targets, lists, counts, n_free, strength, put=np.asarray):
    n, size = len(targets), lists.shape[1] + 3
    matrix, right = put(np.zeros((n, size, size))), put(np.zeros((n, size)))
    n_items = n * size * size
    ridge.gather_cuda.launch(
        -(-n_items // 64), 64, put(gram), put(targets), put(lists), put(counts), n_free,
        put(np.full(n, strength)), matrix, right,
    )  # fmt: skip
    copy = getattr(matrix, "copy_to_host", lambda: matrix)
    return copy(), getattr(right, "copy_to_host", lambda: right)()


def check_gathered(made, series, targets, lists, counts):
    matrix, right = made
    for i, target in enumerate(targets):
        k = counts[i]
        x = series[lists[i, :k]]
        np.testing.assert_allclose(matrix[i, :k, :k], x @ x.T + np.diag(penalties(k)), rtol=1e-12)
        np.testing.assert_array_equal(matrix[i, k:, k:], np.eye(matrix.shape[1] - k))
        assert not matrix[i, k:, :k].any()
        assert not matrix[i, :k, k:].any()
        np.testing.assert_allclose(right[i, :k], x @ series[target], rtol=1e-9, atol=1e-9)
        assert not right[i, k:].any()


def test_gather_in_the_simulator(rng, run_in_cuda_simulator):
    series, targets, lists, counts = problem(rng, 6)
    made = run_in_cuda_simulator(
        "from fastdiff.kernels.cube import ridge\n"
        + inspect.getsource(gather_all)
        + "m, r = gather_all(gram, targets, lists, counts, 2, 0.3)\nnp.savez(OUT, m=m, r=r)",
        gram=series @ series.T, targets=targets, lists=lists, counts=counts,
    )  # fmt: skip
    check_gathered((made["m"], made["r"]), series, targets, lists, counts)


def test_gather_on_a_gpu(rng):
    if not jit.cuda_available():
        pytest.skip("no CUDA device: the kernel was checked in the simulator and as PTX")
    series, targets, lists, counts = problem(rng, 6)
    made = gather_all(series @ series.T, targets, lists, counts, 2, 0.3, put=jit.cuda.to_device)
    check_gathered(made, series, targets, lists, counts)


def systems(rng):
    """Factors, columns, series, lists, counts, coefficients, and which epochs are bad."""
    factor = np.tril(rng.uniform(0.5, 1.5, (2, 5, 5)))
    factor[:, np.triu_indices(5, 1)[0], np.triu_indices(5, 1)[1]] = np.nan  # never read
    columns, series = rng.normal(size=(2, 5, 3)), rng.normal(size=(6, 7))
    lists, counts = np.array([[0, 2, 5], [3, 4, 0]], np.int32), np.array([3, 2])
    bad = np.zeros(series.shape, bool)
    bad[1, :2] = bad[1, 4] = bad[3, 5:] = bad[5] = True
    return factor, columns, series, lists, counts, rng.normal(size=(2, 3)), bad


def solve_all(factor, columns, series, lists, counts, coefficients, bad, put=np.asarray):
    """(L^-1 columns, predictions of the first 4 epochs, series without their bad values)"""
    copy = lambda x: getattr(x, "copy_to_host", lambda: x)()  # noqa: E731
    columns, prediction, bridged = put(columns.copy()), put(np.zeros((2, 4))), put(series.copy())
    ridge.forward_cuda.launch(1, 64, put(factor), columns)
    ridge.predict_cuda.launch(
        1, 64, put(series), put(lists), put(counts), put(coefficients), prediction
    )
    ridge.bridge_cuda.launch(1, 64, put(np.flatnonzero(bad.any(1))), bridged, put(bad))
    return copy(columns), copy(prediction), copy(bridged)


def check_solved(made, factor, columns, series, lists, counts, coefficients, bad):
    np.testing.assert_allclose(made[0], np.linalg.solve(np.tril(np.nan_to_num(factor)), columns))
    for row, index, count, values in zip(made[1], lists, counts, coefficients, strict=True):
        np.testing.assert_allclose(row, values[:count] @ series[index[:count], :4])
    check_bridged(made[2], series, bad)


def check_bridged(made, series, bad):
    for row, given, lost in zip(made, series, bad, strict=True):
        good = np.flatnonzero(~lost)
        expected = np.interp(np.arange(len(given)), good, given[good]) if len(good) else given
        np.testing.assert_allclose(row, expected, rtol=1e-12)


def test_solutions_in_the_simulator(rng, run_in_cuda_simulator):
    given = systems(rng)
    names = ("factor", "columns", "series", "lists", "counts", "coefficients", "bad")
    made = run_in_cuda_simulator(
        "from fastdiff.kernels.cube import ridge\n" + inspect.getsource(solve_all)
        + f"a, b, c = solve_all({', '.join(names)})\nnp.savez(OUT, a=a, b=b, c=c)",
        **dict(zip(names, given, strict=True)),
    )  # fmt: skip
    check_solved((made["a"], made["b"], made["c"]), *given)


def test_solutions_on_a_gpu(rng):
    if not jit.cuda_available():
        pytest.skip("no CUDA device: the kernels were checked in the simulator and as PTX")
    given = systems(rng)
    check_solved(solve_all(*given, put=jit.cuda.to_device), *given)


def test_bad_epochs_are_bridged(rng):
    series, bad = rng.normal(size=(40, 30)), rng.random((40, 30)) < rng.random((40, 1))
    bad[3], bad[4] = True, False
    made = series.copy()
    jit.run(ridge.bridge_cpu, 39, 2, np.delete(np.arange(40), 7), made, bad)
    np.testing.assert_array_equal(made[7], series[7])  # not one of the rows
    check_bridged(np.delete(made, 7, 0), np.delete(series, 7, 0), np.delete(bad, 7, 0))


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_compiles_to_ptx(capability):
    one, two, three = np.empty(1), np.empty((1, 1)), np.empty((1, 1, 1))
    index, lists = np.empty(1, np.int64), np.empty((1, 1), np.int32)
    for kernel, signature in [
        (ridge.gather_cuda, (two, index, lists, index, 2, one, three, two)),
        (ridge.forward_cuda, (three, three)),
        (ridge.predict_cuda, (two, lists, index, two, two)),
        (ridge.bridge_cuda, (index, two.T, np.empty((1, 1), bool).T)),
    ]:
        text = kernel.ptx(signature, capability)
        assert f".target sm_{capability[0]}{capability[1]}" in text
