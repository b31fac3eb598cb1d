"""kernels/image/gram.py against its twin."""

import inspect

import numpy as np
import pytest

from fastdiff.kernels import jit
from fastdiff.kernels.image import gram
from fastdiff.kernels.image.convolve import with_border
from tests import pretend_cupy
from tests.kernels.image.reference import gram as reference


def case(rng, shape=(40, 44), side=(12, 16), n=5, n_taps=3, size=5):
    """Arguments of `gram.normal_equations`, with the taps of a convolution in place of theirs."""
    image, target = rng.normal(size=(2, *shape)).astype(np.float32)
    image += 1  # no sum of products is near 0 by chance
    limits = np.array(shape) - side
    origins = rng.integers(0, limits + 1, (n, 2))
    origins[0], origins[-1] = (0, 0), limits
    weight = (rng.random((n, *side)) * (rng.random((n, *side)) > 0.2)).astype(np.float32)
    taps = rng.normal(size=(n_taps, size)).astype(np.float32)
    down, across = np.meshgrid(range(n_taps), range(n_taps))
    products = np.stack([down.ravel(), across.ravel()], axis=1)
    carrier = len(products) // 2
    shares = rng.normal(size=len(products)).astype(np.float32)
    shares[carrier] = 0
    return image, target, weight, origins, taps, products, shares, carrier


def turned(taps):
    """Taps as the kernel wants them: of a correlation, with zeros to a whole group."""
    spare = -taps.shape[1] % gram.GROUP
    return np.ascontiguousarray(np.pad(taps[:, ::-1], ((0, 0), (0, spare))))


def solve(image, target, weight, origins, taps, *functions):
    bordered = with_border(image, taps.shape[1] // 2)
    return gram.normal_equations(bordered, target, weight, origins, turned(taps), *functions)


@pytest.mark.parametrize(("side", "size"), [((12, 16), 5), ((7, 9), 7), ((40, 44), 3)])
def test_agrees_with_design_matrices(rng, side, size):
    arguments = case(rng, side=side, size=size)
    for made, expected in zip(
        solve(*arguments), reference.normal_equations(*arguments), strict=True
    ):
        np.testing.assert_allclose(made, expected, atol=2e-6 * np.abs(expected).max())


def test_pixels_without_weight_do_not_count(rng):
    image, target, weight, *rest = case(rng, n=1)
    y, x = rest[0][0]
    expected = solve(image, target, weight, *rest)
    target[y : y + 12, x : x + 16][weight[0] == 0] = 1e9
    for made, before in zip(solve(image, target, weight, *rest), expected, strict=True):
        np.testing.assert_array_equal(made, before)


def test_threads_do_not_change_a_bit(rng):
    arguments = case(rng)
    for one, three in zip(solve(*arguments, 1), solve(*arguments, 3), strict=True):
        np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("n_terms", [(1, 1, 1, 1), (3, 3, 3, 1), (1, 6, 6, 3), (6, 1, 3, 6)])
def test_polynomial_coefficients_solve_the_dense_problem(rng, n_terms):
    """The solution is that of one tall design matrix of all pixels of all stamps."""
    n, m = 40, len(n_terms)
    terms = rng.uniform(-1, 1, (n, 6))
    designs = rng.normal(size=(n, 30, m))
    values = rng.normal(size=(n, 30))
    normal = designs.transpose(0, 2, 1) @ designs
    right = (designs.transpose(0, 2, 1) @ values[:, :, None])[:, :, 0]
    matrix, vector = gram.combine(normal, right, terms, np.array(n_terms))
    tall = np.concatenate(
        [reference.with_terms(a, t, n_terms) for a, t in zip(designs, terms, strict=True)]
    )
    np.testing.assert_allclose(np.tril(matrix), np.tril(tall.T @ tall), atol=1e-9)
    np.testing.assert_allclose(vector, tall.T @ values.ravel(), atol=1e-9)
    expected = np.linalg.lstsq(tall, values.ravel(), rcond=None)[0]
    np.testing.assert_allclose(gram.solve_positive(matrix, vector, 0.0), expected, atol=1e-9)


@pytest.mark.parametrize("n_taps", [1, 2, 3, 4])
def test_normal_matrices_are_symmetric(rng, n_taps):
    normal = solve(*case(rng, n_taps=n_taps))[0]
    np.testing.assert_array_equal(normal, normal.transpose(0, 2, 1))


def test_a_function_that_is_zero_gets_zero(rng):
    a = rng.normal(size=(50, 4))
    a[:, 2] = 0
    b = rng.normal(size=50)
    made = gram.solve_positive(a.T @ a, a.T @ b, 0.0)
    np.testing.assert_allclose(made, np.linalg.lstsq(a, b, rcond=None)[0], atol=1e-12)


# -------------------------------------------------------------------------------- CUDA


def launch_all(
    bordered, target, weight, origins, taps, products, shares, carrier, terms, offsets,
    put=np.asarray,
):  # fmt: skip
    """All CUDA kernels in turn; `put` brings an array to the device."""

    def launch(kernel, n_items, *arguments):
        kernel.launch(-(-n_items // 64), 64, *arguments)

    def empty(*shape, dtype=np.float64):
        return put(np.zeros(shape, dtype))

    n, h, w = weight.shape
    n_taps, size = taps.shape
    m, rows, n_all = len(products) + 1, (h + size - 1) * w, offsets[-1]
    bordered, target, weight, origins, taps, products, shares, terms, offsets = map(
        put, (bordered, target, weight, origins, taps, products, shares, terms, offsets)
    )
    across, planes = empty(n, n_taps, rows, dtype=np.float32), empty(n, m, h * w, dtype=np.float32)
    normal, right, square = empty(n, m, m), empty(n, m), empty(n)
    matrix, vector = empty(1, n_all, n_all), empty(1, n_all)
    launch(gram.across_cuda, n * n_taps * rows, bordered, origins, taps, w, across)
    launch(gram.down_cuda, n * m * h * w, across, taps, products, w, planes)
    launch(gram.take_off_cuda, n * m * h * w, planes, shares, int(carrier))
    n_entries = n * (m + 1) ** 2
    launch(gram.gram_cuda, n_entries, planes, target, weight, origins, normal, right, square)
    launch(gram.combine_cuda, m * m, normal, right, terms, offsets, matrix[0], vector[0])
    made = [normal, right, square, matrix, vector]
    made = [np.array(a.copy_to_host() if hasattr(a, "copy_to_host") else a) for a in made]
    launch(gram.solve_cuda, 1, matrix, vector)
    return [*made, vector.copy_to_host() if hasattr(vector, "copy_to_host") else vector]


def tiny(rng):
    image, target, weight, origins, taps, products, shares, carrier = case(
        rng, (14, 12), (5, 6), n=4, n_taps=2, size=3
    )
    n_terms = np.array([1, 3, 3, 3, 3])
    return {
        "bordered": with_border(image, 1),
        "target": target,
        "weight": weight,
        "origins": origins,
        "taps": turned(taps),
        "products": products,
        "shares": shares,
        "carrier": carrier,
        "terms": rng.uniform(-1, 1, (4, 3)),
        "offsets": np.append(0, np.cumsum(n_terms)),
    }


def compare(made, *arguments):
    """All that `launch_all` gives with what the CPU does."""
    *arguments, terms, offsets = arguments
    for got, expected in zip(made[:3], gram.normal_equations(*arguments), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-6 * np.abs(expected).max())
    # Compared on the same stamps, because solutions enlarge what rounding differs.
    matrix, vector = gram.combine(made[0], made[1], terms, np.diff(offsets))
    np.testing.assert_allclose(np.tril(made[3][0]), np.tril(matrix), atol=1e-9)
    np.testing.assert_allclose(made[4][0], vector, atol=1e-9)
    full = np.tril(matrix) + np.tril(matrix, -1).T
    np.testing.assert_allclose(full @ made[5][0], vector, atol=1e-6 * np.abs(vector).max())


def test_simulator_and_cpu_agree(rng, run_in_cuda_simulator):
    arrays = tiny(rng)
    made = run_in_cuda_simulator(
        "from fastdiff.kernels.image import gram\n"
        + inspect.getsource(launch_all)
        + f"made = launch_all({', '.join(arrays)})\n"
        + "np.savez(OUT, **{str(i): a for i, a in enumerate(made)})",
        **arrays,
    )
    compare([made[str(i)] for i in range(6)], *arrays.values())


def test_gpu_and_cpu_agree(rng):
    if not jit.cuda_available():
        pytest.skip("no CUDA device: the kernels were checked in the simulator and as PTX")
    arrays = tiny(rng)
    compare(launch_all(**arrays, put=jit.cuda.to_device), *arrays.values())


@pytest.mark.parametrize("at_a_time", [1, 5000, gram.AT_A_TIME])
def test_arrays_of_a_gpu_give_the_same_equations(rng, monkeypatch, at_a_time):
    """However many stamps go through a GPU at a time."""
    cupy = pretend_cupy.install(monkeypatch)
    monkeypatch.setattr(gram, "AT_A_TIME", at_a_time)
    image, target, weight, *rest = case(rng)
    expected = solve(image, target, weight, *rest)
    made = solve(*map(cupy.asarray, (image, target, weight)), *rest)
    for got, wanted in zip(made, expected, strict=True):
        assert isinstance(got, cupy.ndarray)
        np.testing.assert_allclose(got.get(), wanted, atol=2e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_compiles_to_ptx(capability):
    plane, cube = np.empty((1, 1), np.float32), np.empty((1, 1, 1), np.float32)
    vector32 = np.empty(1, np.float32)
    vector, matrix, matrices = np.empty(1), np.empty((1, 1)), np.empty((1, 1, 1))
    index, pairs = np.empty(1, np.int64), np.empty((1, 2), np.int64)
    signatures = {
        gram.across_cuda: (plane, pairs, plane, 1, cube),
        gram.down_cuda: (cube, plane, pairs, 1, cube),
        gram.take_off_cuda: (cube, vector32, 0),
        gram.gram_cuda: (cube, plane, cube, pairs, matrices, matrix, vector),
        gram.combine_cuda: (matrices, matrix, matrix, index, matrix, vector),
        gram.solve_cuda: (matrices, matrix),
    }
    for kernel, signature in signatures.items():
        text = kernel.ptx(signature, capability)
        assert f".target sm_{capability[0]}{capability[1]}" in text, kernel.__name__
