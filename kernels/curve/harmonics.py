r"""Fourier series fitted to light curves by weighted least squares, of all orders at once.

    y = a_0 + sum_{k=1}^{h} (a_k cos 2 pi k f t + b_k sin 2 pi k f t),      h = 1 ... H

The Cholesky factors of the smaller normal matrices stand in that of the largest, so that one
factorisation serves all orders h. The matrix is made of sums of w exp(2 pi i k f t), k <= 2 H
(Palmer 2009, ApJ 695, 496), plus a ridge that keeps harmonics small where phases were not observed
(VanderPlas & Ivezic 2015, ApJ 812, 18).

Cost of a fit: 40 + 20 H operations a point in float32 and 3 H^3 in float64.
`tests/kernels/curve/reference/periodogram.py` says the same in NumPy.
"""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np

from .. import jit

f32 = np.float32

CHUNK = 512
"""Points that are worked on at a time."""
HARMONICS = 8
"""Harmonics of the fits, where there are points enough."""
N_COEFFICIENTS = 2 * HARMONICS + 1
RIDGE = 3e-4
"""Ridge of harmonic k is k^2 times this; the diagonal of the normal matrix is about 1/2."""
PENALTY = 1.5
"""Weight of the number of parameters in the choice of period and order."""
CYCLES = 3
"""Cycles that must have been seen for each harmonic."""
PHASES = 64
"""Phases at which a Fourier series is looked at."""
TINY = 1e-30
"""No division by zero for constant curves."""
COS, SIN, Y_COS, Y_SIN = range(4)
"""Rows of the sums: of w cos, w sin, w y cos and w y sin."""

Curve = namedtuple("Curve", "time value weight variance")
"""A prepared curve: times from 0, weights of unit sum, value = weight (mag - mean), and the
weighted variance of its magnitudes."""
Fit = namedtuple("Fit", "waves sums factor z explained")
"""Scratch memory of `fit`, which holds afterwards what `coefficients` needs, and in explained[h]
the share of the variance that h harmonics explain."""
Shape = namedtuple("Shape", "amplitude rise_fraction skew depth_ratio separation")
"""What a Fourier series looks like: see `model_shape`."""

_PHASES = np.array(
    [np.cos(2 * np.pi / PHASES * np.arange(PHASES)), np.sin(2 * np.pi / PHASES * np.arange(PHASES))]
)  # cos, sin


@jit.item
def short_turn(x):
    """(cos, sin) of 2 pi x in float32 for |x| <= 1/2, right to 5e-7."""
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
def harmonic_sums(curve, f, n_harmonics, waves, sums):
    """Sum w cos and w sin for k <= 2 H, w y cos and w y sin for k <= H, of 2 pi k f t.

    Harmonics come two at a time, by cos k x = 2 cos x cos (k - 1) x - cos (k - 2) x; `waves` holds
    2 cos x and the last two harmonics of a chunk of points.
    """
    time, value, weight, _ = curve
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
            sums[COS, k] += c1
            sums[SIN, k] += s1
            sums[Y_COS, k] += yc1
            sums[Y_SIN, k] += ys1
            sums[COS, k + 1] += c2
            sums[SIN, k + 1] += s2
            sums[Y_COS, k + 1] += yc2
            sums[Y_SIN, k + 1] += ys2
    sums[COS, 0] = 1.0


@jit.item
def normal_rows(sums, k, factor):
    """Write the rows of a_k and b_k of the normal matrix, up to the diagonal.

    Rows and columns are a_0, a_1, b_1, a_2 ...
    """
    a, b = max(2 * k - 1, 0), 2 * k
    factor[b, 0], factor[a, 0] = sums[SIN, k], sums[COS, k]
    for m in range(1, k + 1):
        cos_low, cos_high = 0.5 * sums[COS, k - m], 0.5 * sums[COS, k + m]
        sin_low, sin_high = 0.5 * sums[SIN, k - m], 0.5 * sums[SIN, k + m]
        factor[b, 2 * m - 1], factor[b, 2 * m] = sin_high + sin_low, cos_low - cos_high
        factor[a, 2 * m - 1] = cos_low + cos_high
        if m < k:
            factor[a, 2 * m] = sin_high - sin_low


@jit.item
def solve_nested(sums, n_harmonics, variance, factor, z, explained):
    """Factor the normal matrix; `explained[h]` is what the first h harmonics explain alone.

    The Cholesky factor stands below the diagonal, its transpose above; on the diagonal stand the
    inverses of its own.
    """
    total = 0.0
    explained[0] = 0.0
    for i in range(2 * n_harmonics + 1):
        k = (i + 1) // 2
        if i % 2 == 1 or i == 0:
            normal_rows(sums, k, factor)
        x = sums[Y_SIN if i % 2 == 0 else Y_COS, k] if i > 0 else 0.0
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
    """Solve for a_0, a_1, b_1 ... of the first `n_harmonics` by back substitution."""
    for i in range(2 * n_harmonics, -1, -1):
        x = z[i]
        for m in range(i + 1, 2 * n_harmonics + 1):
            x -= factor[i, m] * solution[m]
        solution[i] = x * factor[i, i]


@jit.item
def score_of(explained, order, n_points):
    """Bayesian information criterion of a fit; the lowest is the best."""
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


@jit.item
def fit_for():
    """Scratch memory of `fit`."""
    waves = (
        np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32),
        np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32),
    )  # fmt: skip
    factor, z = np.empty((N_COEFFICIENTS, N_COEFFICIENTS)), np.empty(N_COEFFICIENTS)
    return Fit(waves, np.empty((4, N_COEFFICIENTS)), factor, z, np.empty(HARMONICS + 1))


@jit.item
def fit(curve, f, n_harmonics, work):
    """Fit all orders up to `n_harmonics` at one frequency."""
    waves, sums, factor, z, explained = work
    harmonic_sums(curve, f, n_harmonics, waves, sums)
    solve_nested(sums, n_harmonics, curve.variance, factor, z, explained)


@jit.item
def model_shape(solution, order, series):
    """What the first `order` harmonics look like, by their values at PHASES phases.

    The faintest phase has the largest magnitude. The rise fraction is the phase from the faintest
    to the brightest; depth and separation are those of the second minimum in the other half.
    """
    faint, bright, faint_at, bright_at = -math.inf, math.inf, 0, 0
    mean, square, cube = 0.0, 0.0, 0.0
    for p in range(PHASES):
        value = 0.0
        for k in range(1, order + 1):
            at = k * p % PHASES
            value += solution[2 * k - 1] * _PHASES[COS, at] + solution[2 * k] * _PHASES[SIN, at]
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
    return Shape(
        amplitude,
        ((bright_at - faint_at) % PHASES) / PHASES,
        cube / max(square, TINY) ** 1.5,
        (second - bright) / max(amplitude, TINY),
        second_at / PHASES,
    )
