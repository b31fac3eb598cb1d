r"""A fast Fourier transform of points at any times, in bands of frequencies side by side.

Powers of sum_j v_j exp(-2 pi i f t_j) at f = i / (OVERSAMPLING * span), i = 0, 1, 2 ...: a
non-uniform Fourier transform (Greengard & Lee 2004, SIAM Rev. 46, 443), cut into bands of USED
frequencies. The points, turned by the frequency at which their band starts, are spread over a grid
of GRID cells by the kernel exp(beta (sqrt(1 - z^2) - 1)) of Barnett et al. (2019, SISC 41, C479),
WIDTH cells wide, and the FFT of the grid is divided by the kernel's. LANES bands go side by side
as lanes of vectors: every operation of the FFT is one of a whole vector, and all of it stays in
cache. Amplitudes are right to 1e-3 of the highest.

Shapes: time, value (n_points,), times ascending from 0; power (n_frequencies,) float32, rounded up
to whole blocks of `BLOCK`. Cost: for each frequency some 55 operations of the radix-4 FFT and
4 n WIDTH / USED of the spreading, in float32; 130 KB of scratch, and 170 bytes a point.
`tests/kernels/curve/reference/periodogram.py` says the same in NumPy.
"""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np

from .. import jit

f32 = np.float32

OVERSAMPLING = 2
"""Frequencies in 1 / span."""
GRID = 1024
"""Cells of a grid, 4^5: for each power there is a pass of the FFT."""
USED = 768
"""Frequencies taken from a grid: at the ends of its band the kernel leaves little."""
WIDTH = 6
"""Cells over which a point is spread."""
LANES = 16
"""Bands side by side: 8 bands of USED / span, each at OVERSAMPLING phases."""
TABLE = 256
"""Places in a cell at which the spreading kernel is tabled."""
ROW = 2 * LANES
"""Numbers that a cell of the grids holds: real parts of all lanes, then imaginary ones."""
BLOCK = USED * LANES
"""Frequencies that one group of lanes gives."""
RE, IM = range(2)
"""Places of the real and the imaginary part of a complex number."""

_BETA = 0.976 * math.pi * WIDTH * (1 - 0.5 * USED / GRID)


def _rows() -> np.ndarray:
    """Rows of the grid in which the modes -USED / 2 ... USED / 2 stand after the FFT."""
    mode = (np.arange(USED) - USED // 2) % GRID
    row, rest = np.zeros(USED, np.int64), GRID
    while rest > 1:
        row, mode, rest = 4 * row + mode % 4, mode // 4, rest // 4
    return row


def _deconvolution() -> np.ndarray:
    """1 / |Fourier transform of the spreading kernel|^2 in each row of the grid after the FFT."""
    z, weight = np.polynomial.legendre.leggauss(64)
    kernel = weight * np.exp(_BETA * (np.sqrt(1 - z * z) - 1)) * WIDTH / 2
    modes = np.arange(USED) - USED / 2
    transform = np.cos(np.pi * WIDTH / GRID * np.outer(modes, z)) @ kernel
    result = np.zeros(GRID, np.float32)
    result[_ROWS] = 1 / transform**2
    return result


def _kernel() -> np.ndarray:
    """The spreading kernel, (TABLE + 1, WIDTH): a row for each place of a point in its cell."""
    z = (np.arange(TABLE + 1)[:, None] / TABLE + np.arange(WIDTH)) * (2 / WIDTH) - 1
    return np.exp(_BETA * (np.sqrt(np.maximum(1 - z * z, 0)) - 1)).astype(np.float32)


def _twiddles() -> np.ndarray:
    """exp(-2 pi i p / GRID), (2, GRID): real parts, imaginary parts."""
    angle = -2 * np.pi / GRID * np.arange(GRID)
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


_ROWS = _rows()
_DECONVOLUTION = _deconvolution()
_KERNEL = _kernel()
_TWIDDLES = _twiddles()

Grids = namedtuple("Grids", "cell taps turned step grid")
"""Scratch memory of `spectrum`, for points and for the grids of all lanes.

cell (n_points,): first cell of a point; taps (n_points, WIDTH): its shares in the cells; turned
(n_points, ROW): its value in each lane; step (n_points, 2): by what it turns from one group of
lanes to the next; grid ((GRID + WIDTH) * ROW,).
"""


# ---------------------------------------------------------------- spreading


@jit.item
def turn(x):
    """(cos, sin) of 2 pi x, right to 1e-11; polynomials of half the angle vectorise."""
    half = math.pi * (x - math.floor(x + 0.5))
    z = half * half
    s = half * (
        1
        + z * (-1 / 6 + z * (1 / 120 + z * (-1 / 5040 + z * (1 / 362880 + z * (-1 / 39916800
        + z * (1 / 6227020800 - z * (1 / 1307674368000)))))))
    )  # fmt: skip
    c = 1 + z * (-1 / 2 + z * (1 / 24 + z * (-1 / 720 + z * (1 / 40320 + z * (-1 / 3628800
        + z * (1 / 479001600 + z * (-1 / 87178291200 + z * (1 / 20922789888000))))))))  # fmt: skip
    return 1 - 2 * s * s, 2 * s * c


@jit.item
def place_points(time, value, grids):
    """Fill in cells and taps of the points, and their values in the first group of lanes."""
    cell, taps, turned, step, _ = grids
    span = time[-1]
    for j in range(np.uintp(0), np.uintp(len(time))):
        x = time[j] / span
        place = x * GRID - WIDTH / 2
        start = math.ceil(place)
        cell[j] = (int(start) + GRID) % GRID
        where = (start - place) * TABLE
        row = min(int(where), TABLE - 1)
        share = f32(where - row)
        for tap in range(WIDTH):
            low = _KERNEL[row, tap]
            taps[j, tap] = low + share * (_KERNEL[row + 1, tap] - low)
        c, s = turn(x * (USED / 2))
        re, im = f32(value[j] * c), f32(-value[j] * s)
        c, s = turn(x / OVERSAMPLING)
        phase_re, phase_im = f32(c), f32(-s)
        c, s = turn(x * USED)
        band_re, band_im = f32(c), f32(-s)
        for band in range(0, LANES, OVERSAMPLING):
            a, b = re, im
            for phase in range(OVERSAMPLING):
                turned[j, band + phase] = a
                turned[j, band + phase + LANES] = b
                a, b = a * phase_re - b * phase_im, a * phase_im + b * phase_re
            re, im = re * band_re - im * band_im, re * band_im + im * band_re
        c, s = turn(x * (USED * (LANES // OVERSAMPLING)))
        step[j, RE], step[j, IM] = c, -s


@jit.item
def spread(n_points, grids, lanes):
    """Add the points to the grids of the lanes and turn them to the bands of the next group.

    `lanes` is LANES: loops to a number that the compiler knows are unrolled, not vectorised.
    """
    cell, taps, turned, step, grid = grids
    grid[:] = 0
    for j in range(np.uintp(0), np.uintp(n_points)):
        row = np.uintp(cell[j]) * np.uintp(ROW)
        for tap in range(np.uintp(0), np.uintp(WIDTH)):
            k = taps[j, tap]
            for x in range(np.uintp(0), lanes + lanes):
                grid[row + x] += k * turned[j, x]
            row += np.uintp(ROW)
        cr, ci = step[j, RE], step[j, IM]
        for x in range(np.uintp(0), lanes):
            ar, ai = turned[j, x], turned[j, x + lanes]
            turned[j, x] = ar * cr - ai * ci
            turned[j, x + lanes] = ar * ci + ai * cr
    beyond = np.uintp(GRID * ROW)  # the grid is periodic
    for x in range(np.uintp(0), np.uintp(WIDTH * ROW)):
        grid[x] += grid[beyond + x]


# ---------------------------------------------------------------- passes of the FFT


def _fft_pass(n):
    """Make one pass of the radix-4 FFT in place; the compiler vectorises by known distances."""
    quarter = n // 4
    jump, imaginary = np.uintp(quarter * ROW), np.uintp(LANES)

    @jit.item
    def fft_pass(grid, lanes):
        for p in range(quarter):
            w = p * (GRID // n)
            w1r, w1i = _TWIDDLES[RE, w], _TWIDDLES[IM, w]
            w2r, w2i = _TWIDDLES[RE, 2 * w], _TWIDDLES[IM, 2 * w]
            w3r, w3i = _TWIDDLES[RE, 3 * w], _TWIDDLES[IM, 3 * w]
            for block in range(p * ROW, GRID * ROW, n * ROW):
                first = np.uintp(block)
                for i in range(first, first + lanes):
                    ar, ai = grid[i], grid[i + imaginary]
                    br, bi = grid[i + jump], grid[i + jump + imaginary]
                    cr, ci = grid[i + jump + jump], grid[i + jump + jump + imaginary]
                    dr, di = grid[i + jump + jump + jump], grid[i + jump + jump + jump + imaginary]
                    sr, si, tr, ti = ar + cr, ai + ci, ar - cr, ai - ci
                    ur, ui, vr, vi = br + dr, bi + di, br - dr, bi - di
                    grid[i] = sr + ur
                    grid[i + imaginary] = si + ui
                    pr, pi = tr + vi, ti - vr
                    grid[i + jump] = w1r * pr - w1i * pi
                    grid[i + jump + imaginary] = w1r * pi + w1i * pr
                    pr, pi = sr - ur, si - ui
                    grid[i + jump + jump] = w2r * pr - w2i * pi
                    grid[i + jump + jump + imaginary] = w2r * pi + w2i * pr
                    pr, pi = tr - vi, ti + vr
                    grid[i + jump + jump + jump] = w3r * pr - w3i * pi
                    grid[i + jump + jump + jump + imaginary] = w3r * pi + w3i * pr

    return fft_pass


_fft_1024, _fft_256, _fft_64, _fft_16 = (_fft_pass(n) for n in (1024, 256, 64, 16))


@jit.item
def last_pass(grid, lanes, scale):
    """Make the last pass of the FFT, which needs no factors, and leave powers as real parts."""
    jump, imaginary = np.uintp(ROW), np.uintp(LANES)
    for block in range(GRID // 4):
        first = np.uintp(4 * block) * jump
        k0, k1 = scale * _DECONVOLUTION[4 * block], scale * _DECONVOLUTION[4 * block + 1]
        k2, k3 = scale * _DECONVOLUTION[4 * block + 2], scale * _DECONVOLUTION[4 * block + 3]
        for i in range(first, first + lanes):
            ar, ai = grid[i], grid[i + imaginary]
            br, bi = grid[i + jump], grid[i + jump + imaginary]
            cr, ci = grid[i + jump + jump], grid[i + jump + jump + imaginary]
            dr, di = grid[i + jump + jump + jump], grid[i + jump + jump + jump + imaginary]
            sr, si, tr, ti = ar + cr, ai + ci, ar - cr, ai - ci
            ur, ui, vr, vi = br + dr, bi + di, br - dr, bi - di
            pr, pi = sr + ur, si + ui
            grid[i] = k0 * (pr * pr + pi * pi)
            pr, pi = tr + vi, ti - vr
            grid[i + jump] = k1 * (pr * pr + pi * pi)
            pr, pi = sr - ur, si - ui
            grid[i + jump + jump] = k2 * (pr * pr + pi * pi)
            pr, pi = tr - vi, ti + vr
            grid[i + jump + jump + jump] = k3 * (pr * pr + pi * pi)


@jit.item
def write_power(grid, n_bands, power, block):
    """Write the powers of the frequencies from `block` on, in their order."""
    for mode in range(USED):
        row = np.uintp(_ROWS[mode] * ROW)
        for band in range(n_bands):
            at = np.uintp(block + OVERSAMPLING * (USED * band + mode))
            for phase in range(np.uintp(0), np.uintp(OVERSAMPLING)):
                power[at + phase] = grid[row + phase]
            row += np.uintp(OVERSAMPLING)


# ---------------------------------------------------------------- one curve


@jit.item
def grids_for(n_points):
    """Scratch memory for curves of up to so many points."""
    return Grids(
        np.empty(n_points, np.int64),
        np.empty((n_points, WIDTH), np.float32),
        np.empty((n_points, ROW), np.float32),
        np.empty((n_points, 2), np.float32),
        np.empty((GRID + WIDTH) * ROW, np.float32),
    )


@jit.item
def spectrum(time, value, scale, n_frequencies, grids, power):
    """Powers of one curve times `scale`; `power` ends at a multiple of BLOCK."""
    place_points(time, value, grids)
    grid = grids.grid
    for block in range(0, n_frequencies, BLOCK):
        spread(len(time), grids, np.uintp(LANES))
        n_lanes = min(LANES, -(-(n_frequencies - block) // (8 * USED)) * 8)  # whole vectors
        lanes = np.uintp(n_lanes)
        _fft_1024(grid, lanes)
        _fft_256(grid, lanes)
        _fft_64(grid, lanes)
        _fft_16(grid, lanes)
        last_pass(grid, lanes, scale)
        write_power(grid, n_lanes // OVERSAMPLING, power, block)
