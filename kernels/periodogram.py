r"""Periods of unevenly sampled light curves: a fast periodogram, then fits of Fourier series.

The classical periodogram of the weighted, mean-subtracted magnitudes y,

    P(f) = 2 |sum_j w_j y_j exp(-2 pi i f t_j)|^2 / sum_j w_j y_j^2,      sum_j w_j = 1,

the share of the variance that a sinusoid of frequency f explains (where the sampling does not
prefer phases), at f = i / (OVERSAMPLING * span), i = 0, 1, 2 ... It is a non-uniform Fourier
transform (Greengard & Lee 2004, SIAM Rev. 46, 443), cut into bands of USED frequencies: the
points, turned by the frequency at which their band starts, are spread over a grid of GRID cells
by the kernel exp(beta (sqrt(1 - z^2) - 1)) of Barnett et al. (2019, SISC 41, C479), WIDTH cells
wide, and the FFT of the grid is divided by the kernel's. LANES bands go side by side as lanes
of vectors: every operation of the FFT is one of a whole vector, and all of it stays in cache.
Amplitudes are right to 1e-3 of the highest.

What the highest peaks mean is told by weighted least-squares fits of

    y = a_0 + sum_{k=1}^{h} (a_k cos 2 pi k f t + b_k sin 2 pi k f t),

for h = 1 ... H at once, since the Cholesky factors of the smaller normal matrices stand in that
of the largest. The matrix is made of sums of w exp(2 pi i k f t), k <= 2 H (Palmer 2009, ApJ
695, 496), plus a ridge that keeps harmonics small where phases were not observed (VanderPlas &
Ivezic 2015, ApJ 812, 18).

Cost of the periodogram: for each frequency some 45 operations of the radix-4 FFT and
4 n WIDTH / USED of the spreading; of a fit: 30 H operations a point and 3 H^3.
`tests/reference/periodogram.py` says the same in NumPy.
"""

from __future__ import annotations

import math

import numpy as np

from . import jit
from .jit import cuda

f32 = np.float32

OVERSAMPLING = 4
"""Frequencies in 1 / span."""
GRID = 256
"""Cells of a grid, a power of 4."""
USED = 224
"""Frequencies taken from a grid: at the ends of its band the kernel leaves little."""
WIDTH = 8
"""Cells over which a point is spread."""
LANES = 32
"""Bands side by side: 8 bands of USED / span, each at OVERSAMPLING phases."""
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

_BANDS = LANES // OVERSAMPLING
_BETA = 0.976 * math.pi * WIDTH * (1 - 0.5 * USED / GRID)


def _deconvolution() -> np.ndarray:
    """1 / |Fourier transform of the spreading kernel|^2 at the modes -USED / 2 ... USED / 2."""
    z, weight = np.polynomial.legendre.leggauss(64)
    kernel = weight * np.exp(_BETA * (np.sqrt(1 - z * z) - 1)) * WIDTH / 2
    modes = np.arange(USED) - USED / 2
    transform = np.cos(np.pi * WIDTH / GRID * np.outer(modes, z)) @ kernel
    return (1 / transform**2).astype(np.float32)


def _twiddles() -> np.ndarray:
    """exp(-2 pi i p / GRID) as (2, GRID): real, imaginary."""
    angle = -2 * np.pi / GRID * np.arange(GRID)
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


_DECONVOLUTION = _deconvolution()
_TWIDDLES = _twiddles()


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
def place_points(time, value, span, cell, taps, lane_re, lane_im, step_re, step_im):
    """Cells and taps of the points, and what they are in the lanes of the first group."""
    for j in range(len(time)):
        x = time[j] / span
        place = x * GRID
        start = math.ceil(place - WIDTH / 2)
        cell[j] = (int(start) + GRID) % GRID
        for tap in range(WIDTH):
            z = (start + tap - place) * (2 / WIDTH)
            taps[j, tap] = math.exp(_BETA * (math.sqrt(max(1 - z * z, 0.0)) - 1))
        for phase in range(OVERSAMPLING):
            c, s = turn(x * (USED / 2 + phase / OVERSAMPLING))
            lane_re[j, phase] = value[j] * c
            lane_im[j, phase] = -value[j] * s
        for band in range(1, _BANDS):
            c, s = turn(x * (USED * band))
            for phase in range(OVERSAMPLING):
                re, im = lane_re[j, phase], lane_im[j, phase]
                lane_re[j, band * OVERSAMPLING + phase] = re * c + im * s
                lane_im[j, band * OVERSAMPLING + phase] = im * c - re * s
        c, s = turn(x * (USED * _BANDS))
        step_re[j] = c
        step_im[j] = -s


@jit.item
def fft_pass(re, im, out_re, out_im, n, stride):
    """One pass of Stockham's radix-4 FFT over all lanes."""
    quarter = n // 4
    jump = np.uintp(stride * quarter * LANES)
    for p in range(quarter):
        w = p * (GRID // n)
        w1r, w1i = _TWIDDLES[0, w], _TWIDDLES[1, w]
        w2r, w2i = _TWIDDLES[0, 2 * w], _TWIDDLES[1, 2 * w]
        w3r, w3i = _TWIDDLES[0, 3 * w], _TWIDDLES[1, 3 * w]
        i0 = np.uintp(stride * p * LANES)
        o0 = np.uintp(4 * stride * p * LANES)
        width = np.uintp(stride * LANES)
        for x in range(np.uintp(0), width):
            ar, ai = re[i0 + x], im[i0 + x]
            br, bi = re[i0 + jump + x], im[i0 + jump + x]
            cr, ci = re[i0 + jump + jump + x], im[i0 + jump + jump + x]
            dr, di = re[i0 + jump + jump + jump + x], im[i0 + jump + jump + jump + x]
            sr, si, tr, ti = ar + cr, ai + ci, ar - cr, ai - ci
            ur, ui, vr, vi = br + dr, bi + di, br - dr, bi - di
            out_re[o0 + x] = sr + ur
            out_im[o0 + x] = si + ui
            pr, pi = tr + vi, ti - vr
            out_re[o0 + width + x] = w1r * pr - w1i * pi
            out_im[o0 + width + x] = w1r * pi + w1i * pr
            pr, pi = sr - ur, si - ui
            out_re[o0 + width + width + x] = w2r * pr - w2i * pi
            out_im[o0 + width + width + x] = w2r * pi + w2i * pr
            pr, pi = tr - vi, ti + vr
            out_re[o0 + width + width + width + x] = w3r * pr - w3i * pi
            out_im[o0 + width + width + width + x] = w3r * pi + w3i * pr


@jit.item
def spread(cell, taps, lane_re, lane_im, step_re, step_im, n_points, lanes, re, im):
    """Add the points to the grids of all lanes and turn them to the bands of the next group.

    `lanes` is LANES; a number that the compiler knows would be unrolled and not vectorised.
    """
    re[:] = 0
    im[:] = 0
    for j in range(np.uintp(0), np.uintp(n_points)):
        start = np.uintp(cell[j]) * np.uintp(LANES)
        for tap in range(np.uintp(0), np.uintp(WIDTH)):
            k = taps[j, tap]
            row = start + tap * np.uintp(LANES)
            for lane in range(np.uintp(0), lanes):
                re[row + lane] += k * lane_re[j, lane]
            for lane in range(np.uintp(0), lanes):
                im[row + lane] += k * lane_im[j, lane]
        cr, ci = step_re[j], step_im[j]
        for lane in range(np.uintp(0), lanes):
            ar, ai = lane_re[j, lane], lane_im[j, lane]
            lane_re[j, lane] = ar * cr - ai * ci
            lane_im[j, lane] = ar * ci + ai * cr
    for x in range(np.uintp(0), np.uintp(WIDTH * LANES)):  # the grid is periodic
        re[x] += re[np.uintp(GRID * LANES) + x]
        im[x] += im[np.uintp(GRID * LANES) + x]


@jit.item
def write_power(re, im, scale, power, block):
    """Powers of the frequencies block <= i < block + BLOCK, in their order."""
    for band in range(_BANDS):
        for mode in range(USED):
            factor = _DECONVOLUTION[mode] * scale
            row = np.uintp(((mode + GRID - USED // 2) % GRID) * LANES + band * OVERSAMPLING)
            at = np.uintp(block + OVERSAMPLING * (USED * band + mode))
            for phase in range(np.uintp(0), np.uintp(OVERSAMPLING)):
                a, b = re[row + phase], im[row + phase]
                power[at + phase] = factor * (a * a + b * b)


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
def highest_peaks(power, lowest, n_frequencies, peaks, heights):
    """Indices of the highest local maxima in falling order of height; how many there are."""
    found, last = 0, len(peaks) - 1
    heights[:] = 0
    for i in range(max(lowest, 1), n_frequencies - 1):
        here = power[i]
        if here <= heights[last]:  # asked first, since it hardly ever changes
            continue
        if here <= power[i - 1] or here < power[i + 1]:
            continue
        k = last
        while k > 0 and heights[k - 1] < here:
            heights[k], peaks[k] = heights[k - 1], peaks[k - 1]
            k -= 1
        heights[k], peaks[k] = here, i
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
def harmonic_sums(time, value, weight, f, n_harmonics, cos_1, sin_1, cos_k, sin_k, sums):
    """Sums of w cos, w sin (k <= 2 H) and w y cos, w y sin (k <= H) of 2 pi k f t."""
    n = np.uintp(len(time))
    for j in range(np.uintp(0), n):
        c, s = turn(f * time[j])
        cos_1[j] = c
        sin_1[j] = s
        cos_k[j] = 1.0
        sin_k[j] = 0.0
    for k in range(1, 2 * n_harmonics + 1):
        wc, ws, yc, ys = 0.0, 0.0, 0.0, 0.0
        if k <= n_harmonics:
            for j in range(np.uintp(0), n):
                c = cos_k[j] * cos_1[j] - sin_k[j] * sin_1[j]
                s = cos_k[j] * sin_1[j] + sin_k[j] * cos_1[j]
                cos_k[j] = c
                sin_k[j] = s
                wc += weight[j] * c
                ws += weight[j] * s
                yc += value[j] * c
                ys += value[j] * s
            sums[2, k], sums[3, k] = yc, ys
        else:
            for j in range(np.uintp(0), n):
                c = cos_k[j] * cos_1[j] - sin_k[j] * sin_1[j]
                s = cos_k[j] * sin_1[j] + sin_k[j] * cos_1[j]
                cos_k[j] = c
                sin_k[j] = s
                wc += weight[j] * c
                ws += weight[j] * s
        sums[0, k], sums[1, k] = wc, ws
    sums[0, 0], sums[1, 0], sums[2, 0], sums[3, 0] = 1.0, 0.0, 0.0, 0.0


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
def normal_entry(sums, row, column):
    """Entry of the normal matrix; parameters are a_0, a_1, b_1, a_2, b_2 ..."""
    k, m = (row + 1) // 2, (column + 1) // 2
    low, high = abs(k - m), k + m
    if row % 2 == 0 and row > 0:
        if column % 2 == 0 and column > 0:
            return 0.5 * (sums[0, low] - sums[0, high])
        return 0.5 * (sums[1, high] + (sums[1, low] if k > m else -sums[1, low]))
    if column % 2 == 0 and column > 0:
        return 0.5 * (sums[1, high] + (sums[1, low] if m > k else -sums[1, low]))
    return 0.5 * (sums[0, low] + sums[0, high])


@jit.item
def solve_nested(sums, n_harmonics, variance, factor, z, explained):
    """Cholesky factor of the normal matrix; `explained[h]` by the first h harmonics alone."""
    total = 0.0
    explained[0] = 0.0
    for i in range(2 * n_harmonics + 1):
        k = (i + 1) // 2
        for j in range(i + 1):
            x = normal_entry(sums, i, j)
            for m in range(j):
                x -= factor[i, m] * factor[j, m]
            if j < i:
                factor[i, j] = x * factor[j, j]
            else:
                factor[i, i] = 1 / math.sqrt(max(x + RIDGE * k * k, 1e-9))
        x = sums[3 if i % 2 == 0 else 2, k] if i > 0 else 0.0
        for m in range(i):
            x -= factor[i, m] * z[m]
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
            x -= factor[m, i] * solution[m]
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
    cos_1, sin_1, cos_k, sin_k, sums, factor, z, explained = work
    harmonic_sums(time, value, weight, f, n_harmonics, cos_1, sin_1, cos_k, sin_k, sums)
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
def model_shape(solution, order, out):
    """Of a Fourier series: amplitude, rise fraction, skewness; depth ratio, separation of minima.

    Magnitudes: the faintest phase is the largest value.
    """
    faint, bright, faint_at, bright_at = -math.inf, math.inf, 0, 0
    mean, square, cube = 0.0, 0.0, 0.0
    for p in range(PHASES):
        value = series(solution, order, p / PHASES)
        if value > faint:
            faint, faint_at = value, p
        if value < bright:
            bright, bright_at = value, p
        mean += value / PHASES
    for p in range(PHASES):
        d = series(solution, order, p / PHASES) - mean
        square += d * d / PHASES
        cube += d * d * d / PHASES
    second, second_at = -math.inf, 0
    for p in range(PHASES // 4, 3 * PHASES // 4 + 1):
        value = series(solution, order, (faint_at + p) / PHASES)
        if value > second:
            second, second_at = value, p
    amplitude = faint - bright
    out[0] = amplitude
    out[1] = ((bright_at - faint_at) % PHASES) / PHASES
    out[2] = cube / max(square, TINY) ** 1.5
    out[3] = (second - bright) / max(amplitude, TINY)
    out[4] = second_at / PHASES


@jit.item
def series(solution, order, phase):
    """Fourier series less its mean."""
    total = 0.0
    for k in range(1, order + 1):
        c, s = turn(k * phase)
        total += solution[2 * k - 1] * c + solution[2 * k] * s
    return total


@jit.item
def folded_roughness(time, mag, f, phases):
    """Mean squared step between neighbours in phase over twice the variance: noise gives 1."""
    n = len(time)
    mean = 0.0
    for j in range(n):
        x = f * time[j]
        phases[j] = x - math.floor(x)
        mean += mag[j] / n
    order = np.argsort(phases[:n])
    steps, square = 0.0, 0.0
    before = mag[order[n - 1]]
    for j in range(n):
        here = mag[order[j]]
        steps += (here - before) ** 2
        square += (here - mean) ** 2
        before = here
    return steps / max(2 * square, TINY)


@jit.item
def best_fit(curve, power, peaks, found, lowest, tried, work):
    """Index of the best of the fits at the peaks and their subharmonics, and their number.

    A row of `tried`: frequency, score, order, share explained.
    """
    time, explained = curve[0], work[-1]
    n, span = len(time), time[-1]
    n_harmonics, df = n_harmonics_of(n), 1 / (OVERSAMPLING * span)
    n_tried = 0
    for p in range(found):
        i = peaks[p]
        place = i + vertex(power[i - 1], power[i], power[i + 1])
        for m in range(1, SUBHARMONICS + 1):
            if place / m < lowest:
                break
            f = place / m * df
            most = min(n_harmonics, most_believed(f * span))
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
def describe(curve, f, order, solution, shape, work, row):
    """Features of the fits at twice, half and the frequency itself."""
    time, _, _, variance = curve
    _, _, _, _, _, factor, z, explained = work
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
            model_shape(solution, used, shape)
            row[DEPTH_RATIO], row[SEPARATION] = shape[3], shape[4]
    row[EXPLAINED_SINUSOID] = explained[1]
    row[RESIDUAL_STD] = math.sqrt(variance * max(1 - explained[order], 0.0))
    coefficients(factor, z, order, solution)
    model_shape(solution, order, shape)
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
def spectrum(time, value, scale, n_frequencies, lanes, grids, power):
    """Periodogram of one curve; `power` ends at a multiple of BLOCK."""
    cell, taps, lane_re, lane_im, step_re, step_im, re, im, re2, im2 = grids
    place_points(time, value, time[-1], cell, taps, lane_re, lane_im, step_re, step_im)
    for block in range(0, n_frequencies, BLOCK):
        spread(cell, taps, lane_re, lane_im, step_re, step_im, len(time), lanes, re, im)
        fft_pass(re, im, re2, im2, 256, 1)
        fft_pass(re2, im2, re, im, 64, 4)
        fft_pass(re, im, re2, im2, 16, 16)
        fft_pass(re2, im2, re, im, 4, 64)
        write_power(re, im, scale, power, block)


@jit.item
def grids_for(n_points):
    """Scratch memory of `spectrum`."""
    size = (GRID + WIDTH) * LANES
    return (
        np.empty(n_points, np.int64),
        np.empty((n_points, WIDTH), np.float32),
        np.empty((n_points, LANES), np.float32),
        np.empty((n_points, LANES), np.float32),
        np.empty(n_points, np.float32),
        np.empty(n_points, np.float32),
        np.empty(size, np.float32),
        np.empty(size, np.float32),
        np.empty(size, np.float32),
        np.empty(size, np.float32),
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
def spectra_cpu(start, stop, time, mag, magerr, offsets, n_frequencies, lanes, out_offsets, out):
    """Periodograms of the curves start <= i < stop, one after the other in `out`."""
    n_points, n_powers = longest_of(start, stop, offsets, n_frequencies)
    grids, power = grids_for(n_points), np.empty(n_powers, np.float32)
    weight, value = np.empty(n_points), np.empty(n_points)
    for i in range(start, stop):
        first, last = offsets[i], offsets[i + 1]
        if n_frequencies[i] == 0:
            continue
        variance = prepare(mag, magerr, first, last, weight, value)
        t, v = time[first:last], value[: last - first]
        spectrum(t, v, f32(2 / variance), n_frequencies[i], lanes, grids, power)
        for k in range(n_frequencies[i]):
            out[out_offsets[i] + k] = power[k] if variance > 0 else f32(np.nan)


@jit.cpu_loop
def periods_cpu(start, stop, time, mag, magerr, offsets, n_frequencies, lowest, lanes, out):
    """FEATURES of the curves start <= i < stop in the rows of `out`, which come as NaN.

    `lowest` is the index of the lowest frequency that counts.
    """
    n_points, n_powers = longest_of(start, stop, offsets, n_frequencies)
    grids, power = grids_for(n_points), np.empty(n_powers, np.float32)
    weight, value = np.empty(n_points), np.empty(n_points)
    peaks, heights = np.empty(PEAKS, np.int64), np.empty(PEAKS, np.float32)
    factor = np.empty((N_COEFFICIENTS, N_COEFFICIENTS))
    work = (
        np.empty(n_points), np.empty(n_points), np.empty(n_points), np.empty(n_points),
        np.empty((4, N_COEFFICIENTS)), factor, np.empty(N_COEFFICIENTS), np.empty(HARMONICS + 1),
    )  # fmt: skip
    tried = np.empty((PEAKS * SUBHARMONICS, 4))
    solution, shape = np.empty(N_COEFFICIENTS), np.empty(5)
    for i in range(start, stop):
        first, last = offsets[i], offsets[i + 1]
        if n_frequencies[i] == 0:
            continue
        variance = prepare(mag, magerr, first, last, weight, value)
        if not variance > 0:
            continue
        t, n = time[first:last], last - first
        curve = (t, value[:n], weight[:n], variance)
        spectrum(t, value[:n], f32(2 / variance), n_frequencies[i], lanes, grids, power)
        found = highest_peaks(power, lowest, n_frequencies[i], peaks, heights)
        if found == 0:
            continue
        best, n_tried = best_fit(curve, power, peaks, found, lowest, tried, work)
        f, order = tried[best, 0], int(tried[best, 2])
        row = out[i]
        row[PERIOD], row[ORDER], row[EXPLAINED] = 1 / f, order, tried[best, 3]
        top = peaks[0]
        place = top + vertex(power[top - 1], power[top], power[top + 1])
        row[SINUSOID_PERIOD] = OVERSAMPLING * t[-1] / place
        row[SINUSOID_POWER] = heights[0]
        chance = 0.5 * (n - 3) * math.log(max(1 - heights[0], f32(1e-6)))
        chance += math.log(n_frequencies[i] / OVERSAMPLING)
        row[SIGNIFICANCE] = -chance / math.log(10.0)
        least = math.inf
        for k in range(n_tried):
            if tried[k, 1] < least and not related(tried[k, 0], f, 2 / t[-1]):
                least = tried[k, 1]
                row[SECOND_PERIOD], row[SECOND_EXPLAINED] = 1 / tried[k, 0], tried[k, 3]
        describe(curve, f, order, solution, shape, work, row)
        row[ROUGHNESS] = folded_roughness(t, mag[first:last], f, work[0])
        row[ROUGHNESS_DOUBLE] = folded_roughness(t, mag[first:last], f / 2, work[0])


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
