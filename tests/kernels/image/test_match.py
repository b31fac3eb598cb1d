"""kernels/image/match.py against its twin, and what matching promises."""

import inspect

import numpy as np
import pytest

import fastdiff
from fastdiff.kernels import jit
from fastdiff.kernels.image import match, tile
from tests.kernels.image.reference import match as reference


def stars(shape, places, fluxes, fwhm):
    """Gaussian stars, sampled at the pixels' centres."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    sigma = fwhm / 2.3548
    image = np.zeros(shape)
    for (cy, cx), flux in zip(places, fluxes, strict=True):
        image += (
            flux
            / (2 * np.pi * sigma**2)
            * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * sigma**2))
        )
    return image


def star_pair(rng, shape, fwhm, n_stars=8, noise=0.7):
    """(2, ny, nx): the same stars with two PSFs, and noise of unit variance in the difference."""
    places = rng.uniform(4, np.array(shape) - 4, (n_stars, 2))
    fluxes = 10 ** rng.uniform(2, 4, n_stars)
    pair = np.stack([stars(shape, places, fluxes, width) for width in fwhm])
    return (pair + noise * rng.normal(size=pair.shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(64, 64), (48, 80), (33, 47), (16, 16), (9, 9), (8, 30), (2, 3)])
@pytest.mark.parametrize("fwhm", [(2.5, 4.0), (5.0, 2.0)])
def test_kernel_agrees_with_reference(rng, shape, fwhm):
    pairs = np.stack([star_pair(rng, (max(shape[0], 9), max(shape[1], 9)), fwhm) for _ in range(3)])
    pairs = np.ascontiguousarray(pairs[:, :, : shape[0], : shape[1]])
    made = match.match_psfs(pairs, threads=2)
    np.testing.assert_array_equal(made[:, :2], pairs)
    for pair, got in zip(pairs, made, strict=True):
        expected = reference.match(*pair)
        brightest = np.abs(pair).max()
        np.testing.assert_allclose(got[2:], expected, atol=2e-3 + 5e-5 * brightest)


def test_agrees_on_simulated_pairs():
    made = fastdiff.simulate.pairs(8, (64, 64), seed=3)
    pairs, _, _ = tile.normalise_pairs(made.ref, made.sci, made.ref_mask, made.sci_mask)
    for pair, got in zip(pairs, match.match_psfs(pairs), strict=True):
        expected = np.stack(reference.match(*pair))
        signal = np.abs(pair).max(0)
        assert (np.abs(got[2:] - expected) < 0.01 * (1 + 0.03 * signal)).all()


@pytest.mark.parametrize(("fwhm", "matched"), [((2.5, 4.5), 0), ((4.5, 2.5), 1)])
def test_what_is_left_of_stars_is_noise(rng, fwhm, matched):
    """In the difference whose kernel broadens, star cores are as quiet as the sky."""
    places = rng.uniform(10, 118, (30, 2))
    fluxes = 10 ** rng.uniform(2.5, 3.5, 30)
    pair = np.stack([stars((128, 128), places, fluxes, width) for width in fwhm])
    pair = (pair + rng.normal(0, 0.5**0.5, pair.shape)).astype(np.float32)
    left = match.match_psfs(pair[None])[0, 2 + matched]
    near = np.zeros((128, 128), bool)
    for cy, cx in np.round(places).astype(int):
        near[cy - 2 : cy + 3, cx - 2 : cx + 3] = True
    plain = (pair[1] - pair[0])[near].std()
    assert left[near].std() < 1.6
    assert plain > 10 * left[near].std()


def test_transients_stay(rng):
    """A source in sci alone keeps its flux in sci - K * ref, among stars that drive the fit."""
    pair = star_pair(rng, (96, 96), (3.0, 4.0), n_stars=20)
    new = stars((96, 96), [(47.3, 50.8)], [2000.0], 4.0)
    before = match.match_psfs(pair[None])[0, 2]
    pair[1] += new.astype(np.float32)
    change = match.match_psfs(pair[None])[0, 2] - before
    support = new > 1
    assert change[support].sum() == pytest.approx(new[support].sum(), rel=0.03)


def test_empty_sky_is_never_noisier(rng):
    """Of noise alone the fit may only leave out some of the image that is convolved."""
    pair = rng.normal(0, 0.5**0.5, (4, 2, 64, 64)).astype(np.float32)
    made = match.match_psfs(pair)
    plain = pair[:, 1] - pair[:, 0]
    for channel, image, sign in ((2, pair[:, 1], 1), (3, pair[:, 0], -1)):
        assert 0.65 < made[:, channel].std() < plain.std()
        # the image that is not convolved is in the difference as it was
        slope = (sign * made[:, channel] * image).mean() / (image**2).mean()
        assert slope == pytest.approx(1, abs=0.05)


def test_extremes_stay_finite():
    pairs = np.zeros((4, 2, 32, 32), np.float32)
    pairs[1, 0] = 1e6  # constant images
    pairs[2, :, 10, 10] = 1e6  # single pixels
    pairs[3, 1, ::2] = -1e6
    made = match.match_psfs(pairs)
    assert np.isfinite(made).all()
    np.testing.assert_array_equal(made[0], 0)
    assert match.match_psfs(pairs[:0]).shape == (0, 4, 32, 32)


def test_same_bits_whatever_the_batch_and_the_threads(rng):
    pairs = np.stack([star_pair(rng, (40, 40), (3.0, 4.0)) for _ in range(5)])
    whole = match.match_psfs(pairs, threads=3)
    np.testing.assert_array_equal(whole, match.match_psfs(pairs, threads=1))
    np.testing.assert_array_equal(whole[3:4], match.match_psfs(pairs[3:4]))


# -------------------------------------------------------------------------------- CUDA


def launch_all(pairs, put=np.asarray):
    """All CUDA kernels in turn; `put` brings an array to the device."""
    n, _, ny, nx = pairs.shape
    m, half_y, half_x = 2 * n, (ny + 1) // 2, (nx + 1) // 2
    rows, columns = ny + 18, nx + 18

    def empty(*shape, dtype=np.float32):
        return put(np.zeros(shape, dtype))

    device = put(pairs)
    padded, split = empty(m, rows, columns), empty(m, 2, rows, half_x + 9)
    narrow, wide = empty(m, 5, rows, nx), empty(m, 4, rows, half_x)
    half, basis = empty(m, 6, half_y, half_x), empty(m, match.N_BASIS, ny, nx)
    missing, weight, left, huber = (empty(m, ny, nx) for _ in range(4))
    normal, scratch = (empty(m, match.N_BASIS, match.N_BASIS, dtype=float) for _ in range(2))
    right, solution = (empty(m, match.N_BASIS, dtype=float) for _ in range(2))

    def launch(kernel, n_items, *arguments):
        kernel.launch(-(-n_items // 64), 64, *arguments)

    launch(match.pad_cuda, m * rows * columns, device, padded, split)
    launch(match.across_cuda, m * rows * nx, padded, split, narrow, wide)
    launch(match.down_cuda, m * ny * nx, device, narrow, wide, half, basis)
    launch(match.enlarge_cuda, m * ny, device, half, basis, missing)
    launch(match.weigh_cuda, n * ny * nx, device, basis, weight)
    for used in (weight, huber):
        n_entries = m * match.N_BASIS * (match.N_BASIS + 1)
        launch(match.normal_cuda, n_entries, basis, missing, used, normal, right)
        launch(match.solve_cuda, m, normal, right, scratch, solution)
        launch(match.remainder_cuda, m * ny * nx, basis, solution, missing, weight, left, huber)
    left = left.copy_to_host() if hasattr(left, "copy_to_host") else left
    return left.reshape(n, 2, ny, nx) * np.array([1, -1], np.float32).reshape(1, 2, 1, 1)


def test_simulator_and_cpu_agree(rng, run_in_cuda_simulator):
    pairs = star_pair(rng, (11, 14), (2.0, 3.0), n_stars=2)[None]
    made = run_in_cuda_simulator(
        "from fastdiff.kernels.image import match\n"
        + inspect.getsource(launch_all)
        + "np.savez(OUT, left=launch_all(pairs))",
        pairs=pairs,
    )
    expected = match.match_psfs(pairs)[:, 2:]
    np.testing.assert_allclose(made["left"], expected, atol=5e-5 * np.abs(pairs).max())


def test_gpu_and_cpu_agree(rng):
    if not jit.cuda_available():
        pytest.skip("no CUDA device: the kernels were checked in the simulator and as PTX")
    pairs = np.stack([star_pair(rng, (64, 64), (2.0, 3.0)) for _ in range(3)])
    made = launch_all(pairs, put=jit.cuda.to_device)
    expected = match.match_psfs(pairs)[:, 2:]
    np.testing.assert_allclose(made, expected, atol=1e-3 + 5e-5 * np.abs(pairs).max())


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_compiles_to_ptx(capability):
    three, four = np.empty((1, 1, 1), np.float32), np.empty((1, 1, 1, 1), np.float32)
    matrix, vector = np.empty((1, 1, 1)), np.empty((1, 1))
    signatures = {
        match.pad_cuda: (four, three, four),
        match.across_cuda: (three, four, four, four),
        match.down_cuda: (four, four, four, four, four),
        match.enlarge_cuda: (four, four, four, three),
        match.weigh_cuda: (four, four, three),
        match.normal_cuda: (four, three, three, matrix, vector),
        match.solve_cuda: (matrix, vector, matrix, vector),
        match.remainder_cuda: (four, vector, three, three, three, three),
    }
    for kernel, signature in signatures.items():
        text = kernel.ptx(signature, capability)
        assert f".target sm_{capability[0]}{capability[1]}" in text, kernel.__name__
