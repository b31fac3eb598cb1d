"""kernels/curve/nufft.py: its turns, its spreading and its FFT, a part at a time."""

import numpy as np
import pytest

from fastdiff.kernels.curve import nufft as kernel
from tests.kernels.curve import inputs


def test_turns():
    for x in (*np.linspace(-2, 2, 41), 1e6 + 0.3):
        angle = 2 * np.pi * (x - np.round(x))
        np.testing.assert_allclose(kernel.turn(x), (np.cos(angle), np.sin(angle)), atol=1e-11)


def test_passes_make_a_fourier_transform(rng):
    """Powers of random grids in two lanes, each mode in its row, less the kernel's."""
    grid = np.zeros((kernel.GRID + kernel.WIDTH, 2, kernel.LANES), np.float32)
    grid[:, :, :2] = rng.normal(size=(len(grid), 2, 2))
    given = grid[: kernel.GRID, 0] + 1j * grid[: kernel.GRID, 1]
    flat, lanes = grid.reshape(-1), np.uintp(2)
    for each in (kernel._fft_1024, kernel._fft_256, kernel._fft_64, kernel._fft_16):
        each(flat, lanes)
    kernel.last_pass(flat, lanes, np.float32(1))
    expected = np.abs(np.fft.fft(given[:, :2], axis=0)) ** 2
    modes = np.arange(kernel.USED) - kernel.USED // 2
    made = grid[kernel._ROWS, 0, :2] / kernel._DECONVOLUTION[kernel._ROWS, None]
    np.testing.assert_allclose(made, expected[modes], rtol=1e-3, atol=1e-2)


def test_spectrum_agrees_with_direct_sums(rng):
    """More than one group of lanes; the last is not full."""
    time, mag, _, _ = inputs.flat([inputs.periodic(rng, inputs.sinusoid, 0.7, 8, 40)])
    value = (mag - mag.mean()).astype(np.float32)
    n = kernel.USED * 3
    power = np.empty(kernel.BLOCK, np.float32)
    kernel.spectrum(time, value, np.float32(2), n, kernel.grids_for(8), power)
    frequency = np.arange(n) / (kernel.OVERSAMPLING * time[-1])
    expected = 2 * np.abs(np.exp(-2j * np.pi * np.outer(frequency, time)) @ value) ** 2
    error = np.abs(np.sqrt(power[:n]) - np.sqrt(expected)).max()
    assert error < 2e-3 * np.sqrt(expected.max())


def test_spreading_kernel_is_symmetric():
    table = kernel._KERNEL
    np.testing.assert_allclose(table, table[::-1, ::-1], rtol=1e-5, atol=1e-7)
    assert table.max() == pytest.approx(1, abs=1e-3)
