r"""Periods of unevenly sampled light curves: a fast periodogram, then fits of Fourier series.

The classical periodogram of the weighted, mean-subtracted magnitudes y,

    P(f) = 2 |sum_j w_j y_j exp(-2 pi i f t_j)|^2 / sum_j w_j y_j^2,      sum_j w_j = 1,

the share of the variance that a sinusoid of frequency f explains (where the sampling does not
prefer phases), at f = i / (OVERSAMPLING * span), i = 0, 1, 2 ...: at OVERSAMPLING = 2 these
powers determine all others. It is a non-uniform Fourier transform (Greengard & Lee 2004, SIAM
Rev. 46, 443), cut into bands of USED frequencies: the points, turned by the frequency at which
their band starts, are spread over a grid of GRID cells by the kernel exp(beta (sqrt(1 - z^2) -
1)) of Barnett et al. (2019, SISC 41, C479), WIDTH cells wide, and the FFT of the grid is divided
by the kernel's. LANES bands go side by side as lanes of vectors: every operation of the FFT is
one of a whole vector, and all of it stays in cache. Amplitudes are right to 1e-3 of the highest.

What the highest peaks mean is told by weighted least-squares fits of

    y = a_0 + sum_{k=1}^{h} (a_k cos 2 pi k f t + b_k sin 2 pi k f t),

for h = 1 ... H at once, since the Cholesky factors of the smaller normal matrices stand in that
of the largest. The matrix is made of sums of w exp(2 pi i k f t), k <= 2 H (Palmer 2009, ApJ
695, 496), plus a ridge that keeps harmonics small where phases were not observed (VanderPlas &
Ivezic 2015, ApJ 812, 18).

Cost of the periodogram: for each frequency some 55 operations of the radix-4 FFT and
4 n WIDTH / USED of the spreading, in float32; of a fit: 40 + 20 H operations a point in float32
and 3 H^3 in float64.
`tests/kernels/curve/reference/periodogram.py` says the same in NumPy.
"""

from __future__ import annotations

import math

import numpy as np

from .. import jit
from ..jit import cuda

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
CHUNK = 512
"""Points that are worked on at a time."""
GLANCE = 64
"""Frequencies that are looked at together for anything high."""
LOWERED = 0.75
"""Least share of a peak's height that is found beside it at one of the frequencies."""
BLOCK = USED * LANES
"""Frequencies that one group of lanes gives."""

HARMONICS = 8
"""Harmonics of the fits, where there are points enough."""
RIDGE = 3e-4
"""Ridge of harmonic k is k^2 times this; the diagonal of the normal matrix is about 1/2."""
PENALTY = 1.5
"""Weight of the number of parameters in the choice of period and order."""
PEAKS = 12
"""Highest peaks of the periodogram that are looked at."""
SUBHARMONICS = 6
"""Each as the harmonics 1 ... SUBHARMONICS of a longer period."""
ABOVE = 2
"""Harmonics above that of the peak that are fitted at first."""
CYCLES = 3
"""Cycles that must have been seen for each harmonic."""
FINALISTS = 4
"""Periods that are improved before the best of them is taken."""
PHASES = 64
"""Phases at which a Fourier series is looked at."""
TINY = 1e-30

FEATURES = (
    "period", "period_significance", "sinusoid_period", "sinusoid_power", "harmonics",
    "explained", "explained_sinusoid", "explained_double", "explained_half",
    "harmonic_amplitude_1", "harmonic_amplitude_2", "harmonic_amplitude_3",
    "harmonic_amplitude_4", "phase_21", "phase_31", "phase_41",
    "folded_amplitude", "rise_fraction", "folded_skew", "minima_depth_ratio",
    "minima_separation", "roughness", "roughness_double", "residual_std",
    "second_period", "second_explained",
)  # fmt: skip
"""What `periods_cpu` writes, column by column."""

(
    PERIOD, SIGNIFICANCE, SINUSOID_PERIOD, SINUSOID_POWER, ORDER,
    EXPLAINED, EXPLAINED_SINUSOID, EXPLAINED_DOUBLE, EXPLAINED_HALF,
    AMPLITUDE_1, _, _, _, PHASE_21, _, _,
    FOLDED_AMPLITUDE, RISE_FRACTION, FOLDED_SKEW, DEPTH_RATIO,
    SEPARATION, ROUGHNESS, ROUGHNESS_DOUBLE, RESIDUAL_STD,
    SECOND_PERIOD, SECOND_EXPLAINED,
) = range(len(FEATURES))  # fmt: skip
N_COEFFICIENTS = 2 * HARMONICS + 1

_BETA = 0.976 * math.pi * WIDTH * (1 - 0.5 * USED / GRID)


def _rows() -> np.ndarray:
    """Row of the grid in which each mode -USED / 2 ... USED / 2 stands after the FFT."""
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
    """The spreading kernel (TABLE + 1, WIDTH): rows for where in its cell a point lies."""
    z = (np.arange(TABLE + 1)[:, None] / TABLE + np.arange(WIDTH)) * (2 / WIDTH) - 1
    return np.exp(_BETA * (np.sqrt(np.maximum(1 - z * z, 0)) - 1)).astype(np.float32)


def _twiddles() -> np.ndarray:
    """exp(-2 pi i p / GRID) as (2, GRID): real, imaginary."""
    angle = -2 * np.pi / GRID * np.arange(GRID)
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


_ROWS = _rows()
_DECONVOLUTION = _deconvolution()
_KERNEL = _kernel()
_TWIDDLES = _twiddles()
_PHASES = np.array(
    [np.cos(2 * np.pi / PHASES * np.arange(PHASES)), np.sin(2 * np.pi / PHASES * np.arange(PHASES))]
)


# ---------------------------------------------------------------- items: periodogram


@jit.item
def turn(x):
    """(cos, sin) of 2 pi x, right to 1e-11: as polynomials of half the angle, they vectorise."""
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
def place_points(time, value, cell, taps, turned, step):
    """Cells and taps of the points, and what they are in the lanes of the first group."""
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
        step[j, 0], step[j, 1] = c, -s


@jit.item
def spread(cell, taps, turned, step, lanes, grid):
    """Add the points to the grids of the lanes and turn them to the bands of the next group.

    `lanes` is LANES; a number that the compiler knows would be unrolled and not vectorised.
    """
    grid[:] = 0
    for j in range(np.uintp(0), np.uintp(len(cell))):
        row = np.uintp(cell[j]) * np.uintp(ROW)
        for tap in range(np.uintp(0), np.uintp(WIDTH)):
            k = taps[j, tap]
            for x in range(np.uintp(0), lanes + lanes):
                grid[row + x] += k * turned[j, x]
            row += np.uintp(ROW)
        cr, ci = step[j, 0], step[j, 1]
        for x in range(np.uintp(0), lanes):
            ar, ai = turned[j, x], turned[j, x + lanes]
            turned[j, x] = ar * cr - ai * ci
            turned[j, x + lanes] = ar * ci + ai * cr
    beyond = np.uintp(GRID * ROW)  # the grid is periodic
    for x in range(np.uintp(0), np.uintp(WIDTH * ROW)):
        grid[x] += grid[beyond + x]


def _fft_pass(n):
    """One pass of the radix-4 FFT in place: distances that the compiler knows let it vectorise."""
    quarter = n // 4
    jump, imaginary = np.uintp(quarter * ROW), np.uintp(LANES)

    @jit.item
    def fft_pass(grid, lanes):
        for p in range(quarter):
            w = p * (GRID // n)
            w1r, w1i = _TWIDDLES[0, w], _TWIDDLES[1, w]
            w2r, w2i = _TWIDDLES[0, 2 * w], _TWIDDLES[1, 2 * w]
            w3r, w3i = _TWIDDLES[0, 3 * w], _TWIDDLES[1, 3 * w]
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
    """The last pass of the FFT, which needs no factors; leaves powers in the real part."""
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
    """Powers of the frequencies from `block` on, in their order."""
    for mode in range(USED):
        row = np.uintp(_ROWS[mode] * ROW)
        for band in range(n_bands):
            at = np.uintp(block + OVERSAMPLING * (USED * band + mode))
            for phase in range(np.uintp(0), np.uintp(OVERSAMPLING)):
                power[at + phase] = grid[row + phase]
            row += np.uintp(OVERSAMPLING)


@jit.item
def direct_power(time, value, first, last, scale, f):
    """The power at one frequency, summed point by point: what a GPU does."""
    re, im = 0.0, 0.0
    for j in range(first, last):
        c, s = turn(f * time[j])
        re += value[j] * c
        im += value[j] * s
    return scale * (re * re + im * im)


@jit.item
def highest_peaks(power, lowest, n_frequencies, places, heights):
    """Places, in steps, and powers of the highest maxima in falling order; how many there are.

    Between the frequencies the square root of the power is taken for a parabola.
    """
    found, last = 0, len(places) - 1
    heights[:] = 0
    for start in range(max(lowest, 1), n_frequencies - 1, GLANCE):
        stop = min(start + GLANCE, n_frequencies - 1)
        least, high = f32(LOWERED) * heights[last], False
        for i in range(np.uintp(start), np.uintp(stop)):  # first all at once: hardly any counts
            high |= power[i] > least
        if not high:
            continue
        for i in range(start, stop):
            here = power[i]
            if here <= least or here <= power[i - 1] or here < power[i + 1]:
                continue
            below, here, above = math.sqrt(power[i - 1]), math.sqrt(here), math.sqrt(power[i + 1])
            shift = vertex(below, here, above)
            top = here + 0.25 * shift * (above - below)
            height = min(top * top, f32(1))
            if height <= heights[last]:
                continue
            k = last
            while k > 0 and heights[k - 1] < height:
                heights[k], places[k] = heights[k - 1], places[k - 1]
                k -= 1
            heights[k], places[k] = height, i + shift
            found = min(found + 1, last + 1)
    return found


@jit.item
def vertex(below, here, above):
    """Place of the top of a parabola through three values, in steps, at most one away."""
    curve = below - 2 * here + above
    if curve >= 0:
        return 0.0 if below == above else (1.0 if above > below else -1.0)
    return min(max(0.5 * (below - above) / curve, -1.0), 1.0)


# ---------------------------------------------------------------- items: Fourier series


@jit.item
def short_turn(x):
    """(cos, sin) of 2 pi x in float32, for |x| <= 1/2: right to 3e-7."""
    half = f32(math.pi) * x
    z = half * half
    s = half * (
        f32(1) + z * (f32(-1 / 6) + z * (f32(1 / 120) + z * (f32(-1 / 5040)
        + z * (f32(1 / 362880) - z * f32(1 / 39916800)))))
    )  # fmt: skip
    c = f32(1) + z * (f32(-1 / 2) + z * (f32(1 / 24) + z * (f32(-1 / 720)
        + z * (f32(1 / 40320) + z * (f32(-1 / 3628800) + z * f32(1 / 479001600))))))  # fmt: skip
    return f32(1) - f32(2) * s * s, f32(2) * s * c


@jit.item
def harmonic_sums(time, value, weight, f, n_harmonics, waves, sums):
    """Sums of w cos, w sin (k <= 2 H) and w y cos, w y sin (k <= H) of 2 pi k f t.

    By cos k x = 2 cos x cos (k - 1) x - cos (k - 2) x, two harmonics at a time; `waves` holds
    2 cos x and the last two harmonics of a chunk of points.
    """
    sums[:] = 0.0
    double, cos_0, cos_1, sin_0, sin_1 = waves
    for start in range(0, len(time), CHUNK):
        stop = min(start + CHUNK, len(time))
        t, w, wy = time[start:stop], weight[start:stop], value[start:stop]
        n = np.uintp(stop - start)
        for j in range(np.uintp(0), n):
            x = f * t[j]
            c, s = short_turn(f32(x - math.floor(x + 0.5)))
            double[j] = c + c
            cos_0[j], cos_1[j] = c, f32(1)
            sin_0[j], sin_1[j] = -s, f32(0)
        for k in range(1, 2 * n_harmonics + 1, 2):
            c1, s1, c2, s2 = f32(0), f32(0), f32(0), f32(0)
            yc1, ys1, yc2, ys2 = f32(0), f32(0), f32(0), f32(0)
            if k <= n_harmonics:
                for j in range(np.uintp(0), n):
                    a = double[j] * cos_1[j] - cos_0[j]
                    b = double[j] * sin_1[j] - sin_0[j]
                    c1 += w[j] * a
                    s1 += w[j] * b
                    yc1 += wy[j] * a
                    ys1 += wy[j] * b
                    cos_0[j], sin_0[j] = a, b
                    a = double[j] * a - cos_1[j]
                    b = double[j] * b - sin_1[j]
                    c2 += w[j] * a
                    s2 += w[j] * b
                    yc2 += wy[j] * a
                    ys2 += wy[j] * b
                    cos_1[j], sin_1[j] = a, b
            else:
                for j in range(np.uintp(0), n):
                    a = double[j] * cos_1[j] - cos_0[j]
                    b = double[j] * sin_1[j] - sin_0[j]
                    c1 += w[j] * a
                    s1 += w[j] * b
                    cos_0[j], sin_0[j] = a, b
                    a = double[j] * a - cos_1[j]
                    b = double[j] * b - sin_1[j]
                    c2 += w[j] * a
                    s2 += w[j] * b
                    cos_1[j], sin_1[j] = a, b
            sums[0, k] += c1
            sums[1, k] += s1
            sums[2, k] += yc1
            sums[3, k] += ys1
            sums[0, k + 1] += c2
            sums[1, k + 1] += s2
            sums[2, k + 1] += yc2
            sums[3, k + 1] += ys2
    sums[0, 0] = 1.0


@jit.item
def harmonic_sums_of_thread(time, value, weight, first, last, f, n_harmonics, sums):
    """The same with the points outside and nothing stored of them: what a thread of a GPU does."""
    for k in range(2 * n_harmonics + 1):
        for row in range(4):
            sums[row, k] = 0.0
    for j in range(first, last):
        c_1, s_1 = turn(f * time[j])
        c_k, s_k = 1.0, 0.0
        for k in range(1, 2 * n_harmonics + 1):
            c_k, s_k = c_k * c_1 - s_k * s_1, c_k * s_1 + s_k * c_1
            sums[0, k] += weight[j] * c_k
            sums[1, k] += weight[j] * s_k
            sums[2, k] += value[j] * c_k
            sums[3, k] += value[j] * s_k
    sums[0, 0] = 1.0


@jit.item
def normal_rows(sums, k, factor):
    """Rows of a_k and b_k of the normal matrix for a_0, a_1, b_1, a_2 ..., up to the diagonal."""
    a, b = max(2 * k - 1, 0), 2 * k
    factor[b, 0], factor[a, 0] = sums[1, k], sums[0, k]
    for m in range(1, k + 1):
        cos_low, cos_high = 0.5 * sums[0, k - m], 0.5 * sums[0, k + m]
        sin_low, sin_high = 0.5 * sums[1, k - m], 0.5 * sums[1, k + m]
        factor[b, 2 * m - 1], factor[b, 2 * m] = sin_high + sin_low, cos_low - cos_high
        factor[a, 2 * m - 1] = cos_low + cos_high
        if m < k:
            factor[a, 2 * m] = sin_high - sin_low


@jit.item
def solve_nested(sums, n_harmonics, variance, factor, z, explained):
    """Cholesky factor of the normal matrix; `explained[h]` by the first h harmonics alone.

    The factor is below the diagonal, its transpose above, on the diagonal are inverses.
    """
    total = 0.0
    explained[0] = 0.0
    for i in range(2 * n_harmonics + 1):
        k = (i + 1) // 2
        if i % 2 == 1 or i == 0:
            normal_rows(sums, k, factor)
        x = sums[3 if i % 2 == 0 else 2, k] if i > 0 else 0.0
        for j in range(i):
            here = factor[i, j] * factor[j, j]
            factor[i, j] = here
            factor[j, i] = here
            x -= here * z[j]
            for m in range(np.uintp(j + 1), np.uintp(i + 1)):
                factor[i, m] -= here * factor[j, m]
        factor[i, i] = 1 / math.sqrt(max(factor[i, i] + RIDGE * k * k, 1e-9))
        z[i] = x * factor[i, i]
        total += z[i] * z[i]
        if i % 2 == 0:
            explained[k] = total / variance


@jit.item
def coefficients(factor, z, n_harmonics, solution):
    """Back substitution for the first `n_harmonics`: a_0, a_1, b_1 ..."""
    for i in range(2 * n_harmonics, -1, -1):
        x = z[i]
        for m in range(i + 1, 2 * n_harmonics + 1):
            x -= factor[i, m] * solution[m]
        solution[i] = x * factor[i, i]


@jit.item
def score_of(explained, order, n_points):
    """Bayesian information criterion of a fit."""
    unexplained = max(1 - explained, 1e-6)
    return n_points * math.log(unexplained) + PENALTY * 2 * order * math.log(n_points)


@jit.item
def most_believed(cycles):
    """Harmonics that so many cycles can show: with few, a series follows anything."""
    return max(1, min(HARMONICS, int(cycles / CYCLES)))


@jit.item
def best_order(explained, n_harmonics, n_points):
    """Order with the lowest criterion."""
    best, order = math.inf, 1
    for h in range(1, n_harmonics + 1):
        score = score_of(explained[h], h, n_points)
        if score < best:
            best, order = score, h
    return order


@jit.item
def n_harmonics_of(n_points):
    """Harmonics that so many points can carry."""
    return max(1, min(HARMONICS, n_points // 6))


# ---------------------------------------------------------------- items: one curve


@jit.item
def prepare(mag, magerr, first, last, weight, value):
    """Weights of unit sum and weighted magnitudes less their mean; returns the variance.

    w = 1 / (err^2 + mean err^2): what a Fourier series leaves out is about as large as the
    errors, so that a few small ones do not rule. No errors (an empty array): all weights equal.
    """
    n = last - first
    typical = 0.0
    if len(magerr) > 0:
        for j in range(first, last):
            typical += magerr[j] / n
    total, mean, variance = 0.0, 0.0, 0.0
    for j in range(first, last):
        w = 1.0
        if typical > 0:
            w = 1 / (magerr[j] * magerr[j] + typical * typical)
        weight[j - first] = w
        total += w
        mean += w * mag[j]
    mean /= total
    for j in range(n):
        weight[j] /= total
        y = mag[first + j] - mean
        value[j] = weight[j] * y
        variance += value[j] * y
    return variance


@jit.item
def fit(curve, f, n_harmonics, work):
    """All orders up to `n_harmonics` at one frequency; afterwards `work` holds
    what they explain and the factor for `coefficients`.
    """
    time, value, weight, variance = curve
    waves, sums, factor, z, explained = work
    harmonic_sums(time, value, weight, f, n_harmonics, waves, sums)
    solve_nested(sums, n_harmonics, variance, factor, z, explained)


@jit.item
def improve(curve, f, step, order, work):
    """The frequency within a step and a half at which `order` harmonics explain most."""
    explained = work[-1]
    for _ in range(2):
        below, here, above = 0.0, 0.0, 0.0
        for k in range(-1, 2):
            fit(curve, f + k * step, order, work)
            below, here, above = here, above, explained[order]
        f += step * vertex(below, here, above)
        step *= 0.5
    return f


@jit.item
def related(f, g, width):
    """Whether one frequency is a simple multiple of the other."""
    for k in range(1, SUBHARMONICS + 1):
        if abs(f - k * g) < k * width or abs(g - k * f) < k * width:
            return True
    return False


@jit.item
def model_shape(solution, order, series, out):
    """Of a Fourier series: amplitude, rise fraction, skewness; depth ratio, separation of minima.

    Magnitudes: the faintest phase is the largest value.
    """
    faint, bright, faint_at, bright_at = -math.inf, math.inf, 0, 0
    mean, square, cube = 0.0, 0.0, 0.0
    for p in range(PHASES):
        value = 0.0
        for k in range(1, order + 1):
            at = k * p % PHASES
            value += solution[2 * k - 1] * _PHASES[0, at] + solution[2 * k] * _PHASES[1, at]
        series[p] = value
        if value > faint:
            faint, faint_at = value, p
        if value < bright:
            bright, bright_at = value, p
        mean += value / PHASES
    for p in range(PHASES):
        d = series[p] - mean
        square += d * d / PHASES
        cube += d * d * d / PHASES
    second, second_at = -math.inf, 0
    for p in range(PHASES // 4, 3 * PHASES // 4 + 1):
        value = series[(faint_at + p) % PHASES]
        if value > second:
            second, second_at = value, p
    amplitude = faint - bright
    out[0] = amplitude
    out[1] = ((bright_at - faint_at) % PHASES) / PHASES
    out[2] = cube / max(square, TINY) ** 1.5
    out[3] = (second - bright) / max(amplitude, TINY)
    out[4] = second_at / PHASES


@jit.item
def folded_roughness(time, mag, f, phases, row):
    """Mean squared step between neighbours in phase over twice the variance: noise gives 1.

    At half the frequency the points of even cycles come first, then those of odd ones, both in
    the same order as at the frequency itself.
    """
    n = len(time)
    mean, square = 0.0, 0.0
    for j in range(n):
        x = f * time[j]
        phases[j] = x - math.floor(x)
        mean += mag[j] / n
    for j in range(n):
        square += (mag[j] - mean) ** 2
    order = np.argsort(phases[:n])
    steps, double = 0.0, 0.0
    before = mag[order[n - 1]]
    first, last, seen = np.zeros(2), np.zeros(2), np.zeros(2, np.bool_)
    for j in order:
        here, odd = mag[j], int(f * time[j]) % 2
        steps += (here - before) ** 2
        before = here
        if seen[odd]:
            double += (here - last[odd]) ** 2
        else:
            first[odd], seen[odd] = here, True
        last[odd] = here
    if seen[0] and seen[1]:
        double += (first[1] - last[0]) ** 2 + (first[0] - last[1]) ** 2
    else:
        double = steps
    row[ROUGHNESS] = steps / max(2 * square, TINY)
    row[ROUGHNESS_DOUBLE] = double / max(2 * square, TINY)


@jit.item
def best_fit(curve, places, found, lowest, tried, work):
    """Index of the best of the fits at the peaks and their subharmonics, and their number.

    A row of `tried`: frequency, score, order, share explained.
    """
    time, explained = curve[0], work[-1]
    n, span = len(time), time[-1]
    n_harmonics, df = n_harmonics_of(n), 1 / (OVERSAMPLING * span)
    n_tried = 0
    for p in range(found):
        for m in range(1, SUBHARMONICS + 1):
            if places[p] / m < lowest:
                break
            f = places[p] / m * df
            most = min(n_harmonics, most_believed(f * span), m + ABOVE)
            fit(curve, f, most, work)
            order = best_order(explained, most, n)
            tried[n_tried, 0] = f
            tried[n_tried, 1] = score_of(explained[order], order, n)
            tried[n_tried, 2] = order
            tried[n_tried, 3] = explained[order]
            n_tried += 1
    by_score = np.argsort(tried[:n_tried, 1])
    best = by_score[0]
    for rank in range(min(FINALISTS, n_tried)):
        at = by_score[rank]
        f, order = tried[at, 0], int(tried[at, 2])
        most = min(n_harmonics, most_believed(f * span))
        for _ in range(3):  # a better frequency may show higher harmonics, which show a better one
            f = improve(curve, f, 0.1 / span / math.sqrt(order), order, work)
            fit(curve, f, most, work)
            before, order = order, best_order(explained, most, n)
            if order == before:
                break
        tried[at, 0], tried[at, 1] = f, score_of(explained[order], order, n)
        tried[at, 2], tried[at, 3] = order, explained[order]
        if tried[at, 1] < tried[best, 1]:
            best = at
    return best, n_tried


@jit.item
def describe(curve, f, order, solution, series, shape, work, row):
    """Features of the fits at twice, half and the frequency itself."""
    time, _, _, variance = curve
    _, _, factor, z, explained = work
    n_harmonics = n_harmonics_of(len(time))
    for k in range(3):
        g = 2 * f if k == 0 else 0.5 * k * f
        used = min(n_harmonics, most_believed(g * time[-1]))
        fit(curve, g, used, work)
        if k == 0:
            row[EXPLAINED_HALF] = explained[used]
        elif k == 1:
            row[EXPLAINED_DOUBLE] = explained[used]
            coefficients(factor, z, used, solution)
            model_shape(solution, used, series, shape)
            row[DEPTH_RATIO], row[SEPARATION] = shape[3], shape[4]
    row[EXPLAINED_SINUSOID] = explained[1]
    row[RESIDUAL_STD] = math.sqrt(variance * max(1 - explained[order], 0.0))
    coefficients(factor, z, order, solution)
    model_shape(solution, order, series, shape)
    row[FOLDED_AMPLITUDE], row[RISE_FRACTION], row[FOLDED_SKEW] = shape[0], shape[1], shape[2]
    used = min(4, used)
    coefficients(factor, z, used, solution)
    phase_1 = math.atan2(-solution[2], solution[1])
    for k in range(used):
        a, b = solution[2 * k + 1], solution[2 * k + 2]
        row[AMPLITUDE_1 + k] = math.sqrt(a * a + b * b)
        if k > 0:
            turns = (math.atan2(-b, a) - (k + 1) * phase_1) / (2 * math.pi)
            row[PHASE_21 + k - 1] = 2 * math.pi * (turns - math.floor(turns))


@jit.item
def spectrum(time, value, scale, n_frequencies, grids, power):
    """Periodogram of one curve; `power` ends at a multiple of BLOCK."""
    cell, taps, turned, step, grid = grids
    n = len(time)
    place_points(time, value, cell, taps, turned, step)
    for block in range(0, n_frequencies, BLOCK):
        spread(cell[:n], taps, turned, step, np.uintp(LANES), grid)
        n_lanes = min(LANES, -(-(n_frequencies - block) // (8 * USED)) * 8)  # whole vectors
        lanes = np.uintp(n_lanes)
        _fft_1024(grid, lanes)
        _fft_256(grid, lanes)
        _fft_64(grid, lanes)
        _fft_16(grid, lanes)
        last_pass(grid, lanes, scale)
        write_power(grid, n_lanes // OVERSAMPLING, power, block)


@jit.item
def grids_for(n_points):
    """Scratch memory of `spectrum`."""
    return (
        np.empty(n_points, np.int64),
        np.empty((n_points, WIDTH), np.float32),
        np.empty((n_points, ROW), np.float32),
        np.empty((n_points, 2), np.float32),
        np.empty((GRID + WIDTH) * ROW, np.float32),
    )


@jit.item
def longest_of(start, stop, offsets, n_frequencies):
    """Most points of a curve, and most frequencies in whole blocks."""
    n_points, n = 1, 1
    for i in range(start, stop):
        n_points = max(n_points, offsets[i + 1] - offsets[i])
        n = max(n, n_frequencies[i])
    return n_points, (n + BLOCK - 1) // BLOCK * BLOCK


# ---------------------------------------------------------------- CPU
# `lanes` is LANES, see `spread`; `magerr` may be empty; curves without frequencies are left out.


@jit.cpu_loop
def spectra_cpu(start, stop, time, mag, magerr, offsets, n_frequencies, out_offsets, out):
    """Periodograms of the curves start <= i < stop, one after the other in `out`."""
    n_points, n_powers = longest_of(start, stop, offsets, n_frequencies)
    grids, power = grids_for(n_points), np.empty(n_powers, np.float32)
    weight, value = np.empty(n_points, np.float32), np.empty(n_points, np.float32)
    for i in range(start, stop):
        first, last = offsets[i], offsets[i + 1]
        if n_frequencies[i] == 0:
            continue
        variance = prepare(mag, magerr, first, last, weight, value)
        t, v = time[first:last], value[: last - first]
        spectrum(t, v, f32(2 / variance), n_frequencies[i], grids, power)
        for k in range(n_frequencies[i]):
            out[out_offsets[i] + k] = power[k] if variance > 0 else f32(np.nan)


@jit.cpu_loop
def periods_cpu(start, stop, time, mag, magerr, offsets, n_frequencies, lowest, out):
    """FEATURES of the curves start <= i < stop in the rows of `out`, which come as NaN.

    `lowest` is the index of the lowest frequency that counts.
    """
    n_points, n_powers = longest_of(start, stop, offsets, n_frequencies)
    grids, power = grids_for(n_points), np.empty(n_powers, np.float32)
    weight, value = np.empty(n_points, np.float32), np.empty(n_points, np.float32)
    places, heights = np.empty(PEAKS), np.empty(PEAKS, np.float32)
    factor = np.empty((N_COEFFICIENTS, N_COEFFICIENTS))
    waves = (
        np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32),
        np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32),
    )  # fmt: skip
    sums, z = np.empty((4, N_COEFFICIENTS)), np.empty(N_COEFFICIENTS)
    work = waves, sums, factor, z, np.empty(HARMONICS + 1)
    tried = np.empty((PEAKS * SUBHARMONICS, 4))
    solution, shape, phases = np.empty(N_COEFFICIENTS), np.empty(5), np.empty(n_points)
    series = np.empty(PHASES)
    for i in range(start, stop):
        first, last = offsets[i], offsets[i + 1]
        if n_frequencies[i] == 0:
            continue
        variance = prepare(mag, magerr, first, last, weight, value)
        if not variance > 0:
            continue
        t, n = time[first:last], last - first
        curve = (t, value[:n], weight[:n], variance)
        spectrum(t, value[:n], f32(2 / variance), n_frequencies[i], grids, power)
        found = highest_peaks(power, lowest, n_frequencies[i], places, heights)
        if found == 0:
            continue
        best, n_tried = best_fit(curve, places, found, lowest, tried, work)
        f, order = tried[best, 0], int(tried[best, 2])
        row = out[i]
        row[PERIOD], row[ORDER], row[EXPLAINED] = 1 / f, order, tried[best, 3]
        row[SINUSOID_PERIOD], row[SINUSOID_POWER] = OVERSAMPLING * t[-1] / places[0], heights[0]
        chance = 0.5 * (n - 3) * math.log(max(1 - heights[0], f32(1e-6)))
        chance += math.log(n_frequencies[i] / OVERSAMPLING)
        row[SIGNIFICANCE] = -chance / math.log(10.0)
        least = math.inf
        for k in range(n_tried):
            if tried[k, 1] < least and not related(tried[k, 0], f, 2 / t[-1]):
                least = tried[k, 1]
                row[SECOND_PERIOD], row[SECOND_EXPLAINED] = 1 / tried[k, 0], tried[k, 3]
        describe(curve, f, order, solution, series, shape, work, row)
        folded_roughness(t, mag[first:last], f, phases, row)


# ---------------------------------------------------------------- CUDA: a thread a frequency


@jit.cuda_kernel
def spectra_cuda(time, value, offsets, scales, steps, n_frequencies, out_offsets, out):
    """Periodograms summed point by point; a row of blocks a curve.

    `value` are weighted magnitudes less their mean, `scales` 2 / variance, `steps` frequencies
    apart; `out` as that of `spectra_cpu`.
    """
    i, k = cuda.blockIdx.y, cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if k < n_frequencies[i]:
        out[out_offsets[i] + k] = direct_power(
            time, value, offsets[i], offsets[i + 1], scales[i], k * steps[i]
        )


@jit.cuda_kernel
def explained_cuda(time, value, weight, offsets, variances, frequencies, out):
    """Share of the variance explained by 1 ... HARMONICS harmonics, (n, n_frequencies, HARMONICS).

    `frequencies` (n, n_frequencies) are those to be tried for each curve.
    """
    i, k = cuda.blockIdx.y, cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    sums = cuda.local.array((4, N_COEFFICIENTS), np.float64)
    factor = cuda.local.array((N_COEFFICIENTS, N_COEFFICIENTS), np.float64)
    z = cuda.local.array(N_COEFFICIENTS, np.float64)
    explained = cuda.local.array(N_COEFFICIENTS, np.float64)
    if k < frequencies.shape[1]:
        f = frequencies[i, k]
        first, last = offsets[i], offsets[i + 1]
        harmonic_sums_of_thread(time, value, weight, first, last, f, HARMONICS, sums)
        solve_nested(sums, HARMONICS, variances[i], factor, z, explained)
        for h in range(HARMONICS):
            out[i, k, h] = explained[h + 1]
