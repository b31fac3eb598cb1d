r"""Periods of unevenly sampled light curves: what the peaks of a periodogram mean.

The highest peaks, and each as a harmonic of a longer period, are fitted by Fourier series
(`harmonics`); the Bayesian information criterion takes the period and the order. The curve folded
by that period is described by its Fourier series and by the steps between neighbours in phase.

Shapes: as in `periodogram`; the result (n, n_columns) float32 has the columns of
`columns.PERIOD_FEATURES`. Cost: the periodogram, and some 250 fits a curve.
`tests/kernels/curve/reference/periodogram.py` says the same in NumPy.
"""

from __future__ import annotations

import math

import numpy as np

from .. import jit
from .columns import PERIODIC
from .harmonics import (
    N_COEFFICIENTS,
    PHASES,
    TINY,
    Curve,
    best_order,
    coefficients,
    fit,
    fit_for,
    model_shape,
    most_believed,
    n_harmonics_of,
    score_of,
)
from .nufft import OVERSAMPLING, grids_for, spectrum
from .periodogram import highest_peaks, longest_of, prepare, vertex

f32 = np.float32

PEAKS = 12
"""Highest peaks of the periodogram that are looked at."""
SUBHARMONICS = 6
"""Each as the harmonics 1 ... SUBHARMONICS of a longer period."""
ABOVE = 2
"""Harmonics above that of the peak that are fitted at first."""
FINALISTS = 4
"""Periods that are improved before the best of them is taken."""
FREQUENCY, SCORE, ORDER, EXPLAINED = range(4)
"""Columns of the table of fits that were tried."""


@jit.item
def improve(curve, f, step, order, work):
    """The frequency within a step and a half at which `order` harmonics explain most."""
    for _ in range(2):
        below, here, above = 0.0, 0.0, 0.0
        for k in range(-1, 2):
            fit(curve, f + k * step, order, work)
            below, here, above = here, above, work.explained[order]
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
def best_fit(curve, places, found, lowest, tried, work):
    """(row of the best, number) of the fits at the peaks and their subharmonics, in `tried`."""
    explained = work.explained
    n, span = len(curve.time), curve.time[-1]
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
            tried[n_tried, FREQUENCY] = f
            tried[n_tried, SCORE] = score_of(explained[order], order, n)
            tried[n_tried, ORDER] = order
            tried[n_tried, EXPLAINED] = explained[order]
            n_tried += 1
    by_score = np.argsort(tried[:n_tried, SCORE])
    best = by_score[0]
    for rank in range(min(FINALISTS, n_tried)):
        at = by_score[rank]
        f, order = tried[at, FREQUENCY], int(tried[at, ORDER])
        most = min(n_harmonics, most_believed(f * span))
        for _ in range(3):  # a better frequency may show higher harmonics, which show a better one
            f = improve(curve, f, 0.1 / span / math.sqrt(order), order, work)
            fit(curve, f, most, work)
            before, order = order, best_order(explained, most, n)
            if order == before:
                break
        tried[at, FREQUENCY], tried[at, SCORE] = f, score_of(explained[order], order, n)
        tried[at, ORDER], tried[at, EXPLAINED] = order, explained[order]
        if tried[at, SCORE] < tried[best, SCORE]:
            best = at
    return best, n_tried


@jit.item
def folded_roughness(time, mag, f, phases, row):
    """Write the mean squared step between neighbours in phase over twice the variance.

    Noise gives 1. At half the frequency the points of even cycles come first, then those of odd
    ones, both in the same order as at the frequency itself.
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
    row[PERIODIC.roughness] = steps / max(2 * square, TINY)
    row[PERIODIC.roughness_double] = double / max(2 * square, TINY)


@jit.item
def describe(curve, f, order, solution, series, work, row):
    """Write the features of the fits at twice, half and the frequency itself."""
    _, _, factor, z, explained = work
    n_harmonics = n_harmonics_of(len(curve.time))
    for k in range(3):
        g = 2 * f if k == 0 else 0.5 * k * f
        used = min(n_harmonics, most_believed(g * curve.time[-1]))
        fit(curve, g, used, work)
        if k == 0:
            row[PERIODIC.explained_half] = explained[used]
        elif k == 1:
            row[PERIODIC.explained_double] = explained[used]
            coefficients(factor, z, used, solution)
            shape = model_shape(solution, used, series)
            row[PERIODIC.minima_depth_ratio] = shape.depth_ratio
            row[PERIODIC.minima_separation] = shape.separation
    row[PERIODIC.explained_sinusoid] = explained[1]
    row[PERIODIC.residual_std] = math.sqrt(curve.variance * max(1 - explained[order], 0.0))
    coefficients(factor, z, order, solution)
    shape = model_shape(solution, order, series)
    row[PERIODIC.folded_amplitude] = shape.amplitude
    row[PERIODIC.rise_fraction] = shape.rise_fraction
    row[PERIODIC.folded_skew] = shape.skew
    used = min(4, used)
    coefficients(factor, z, used, solution)
    phase_1 = math.atan2(-solution[2], solution[1])
    for k in range(used):
        a, b = solution[2 * k + 1], solution[2 * k + 2]
        row[PERIODIC.harmonic_amplitude_1 + k] = math.sqrt(a * a + b * b)
        if k > 0:
            turns = (math.atan2(-b, a) - (k + 1) * phase_1) / (2 * math.pi)
            row[PERIODIC.phase_21 + k - 1] = 2 * math.pi * (turns - math.floor(turns))


@jit.item
def describe_peak(curve, n_frequencies, place, height, row):
    """Write the period, power and significance of the highest peak."""
    row[PERIODIC.sinusoid_period] = OVERSAMPLING * curve.time[-1] / place
    row[PERIODIC.sinusoid_power] = height
    chance = 0.5 * (len(curve.time) - 3) * math.log(max(1 - height, f32(1e-6)))
    chance += math.log(n_frequencies / OVERSAMPLING)
    row[PERIODIC.period_significance] = -chance / math.log(10.0)


@jit.item
def describe_second(curve, f, tried, n_tried, row):
    """Write the best fit whose frequency is unrelated to f."""
    least = math.inf
    for k in range(n_tried):
        g = tried[k, FREQUENCY]
        if tried[k, SCORE] < least and not related(g, f, 2 / curve.time[-1]):
            least = tried[k, SCORE]
            row[PERIODIC.second_period] = 1 / g
            row[PERIODIC.second_explained] = tried[k, EXPLAINED]


@jit.cpu_loop
def periods_cpu(start, stop, time, mag, magerr, offsets, n_frequencies, lowest, out):
    """Item: one curve; rows of `out` come as NaN. `lowest` is the lowest place of a peak."""
    n_points, n_powers = longest_of(start, stop, offsets, n_frequencies)
    grids, power = grids_for(n_points), np.empty(n_powers, np.float32)
    weight, value = np.empty(n_points, np.float32), np.empty(n_points, np.float32)
    places, heights = np.empty(PEAKS), np.empty(PEAKS, np.float32)
    work, tried = fit_for(), np.empty((PEAKS * SUBHARMONICS, 4))
    solution, phases, series = np.empty(N_COEFFICIENTS), np.empty(n_points), np.empty(PHASES)
    for i in range(start, stop):
        first, last = offsets[i], offsets[i + 1]
        if n_frequencies[i] == 0:
            continue
        variance = prepare(mag, magerr, first, last, weight, value)
        if not variance > 0:
            continue
        t, n = time[first:last], last - first
        curve = Curve(t, value[:n], weight[:n], variance)
        spectrum(t, value[:n], f32(2 / variance), n_frequencies[i], grids, power)
        found = highest_peaks(power, lowest, n_frequencies[i], places, heights)
        if found == 0:
            continue
        best, n_tried = best_fit(curve, places, found, lowest, tried, work)
        f, order, row = tried[best, FREQUENCY], int(tried[best, ORDER]), out[i]
        row[PERIODIC.period], row[PERIODIC.harmonics] = 1 / f, order
        row[PERIODIC.explained] = tried[best, EXPLAINED]
        describe_peak(curve, n_frequencies[i], places[0], heights[0], row)
        describe_second(curve, f, tried, n_tried, row)
        describe(curve, f, order, solution, series, work, row)
        folded_roughness(t, mag[first:last], f, phases, row)


def find_periods(
    time: np.ndarray,
    mag: np.ndarray,
    magerr: np.ndarray,
    offsets: np.ndarray,
    n_frequencies: np.ndarray,
    lowest: int,
    threads: int | None = None,
) -> np.ndarray:
    """`PERIOD_FEATURES` of light curves, (n, n_columns) float32.

    `lowest` is the number of the lowest frequency that counts. Curves with 0 frequencies, with
    one magnitude, or without a peak have NaN.
    """
    out = np.full((len(n_frequencies), len(PERIODIC)), np.nan, np.float32)
    given = time, mag, magerr, offsets, n_frequencies
    jit.run(periods_cpu, len(out), threads, *given, lowest, out)
    return out
