r"""Features of light curves for random forests: those of Table VI of Mahabal et al. (2017).

With magnitudes m_i at ascending times t_i, errors e_i, F_i = 10^(-0.4 m_i), F_q the q-th percentile
of the fluxes (Hazen's: linear between the values at (k - 1/2) / n), mean and median over a curve:

    mean, minimum, maximum, amplitude = (max - min) / 2, std (n - 1), beyond 1 std,
    (F_60 - F_40) / (F_95 - F_5), and so for 67.5, 75, 82.5, 90 and their complements,
    least-squares slope, max |m_{i+1} - m_i| / (t_{i+1} - t_i),
    median |F - F_50|, share of |F - F_50| < 0.1 F_50, share of rises in the last 30 steps of F,
    (F_95 - F_5) / F_50, mu_3 / mu_2^1.5, mu_4 / mu_2^2, and with d_i = (m_i - weighted mean) / e_i
    J = mean of sign(P) |P|^0.5, P_i = n / (n - 1) d_i^2 - 1;  K = mean |d| / root of mean d^2.

Fluxes rise as magnitudes fall: magnitudes are sorted once and only the percentiles become fluxes.
The sort puts magnitudes into buckets of equal width first, which leaves little to a shell sort.

Shapes: time, mag (n_points,) float64, sorted by time within each curve; magerr the same, or empty;
offsets (n + 1,) int64 -> (n, 21) float64, in the order of `columns.CURVE_FEATURES`, NaN where
undefined. Cost: some 30 operations a point and the sort, linear in n unless values crowd; 16 bytes
of scratch a point of the longest curve, on a GPU a point of all curves.
`tests/kernels/curve/reference/features.py` says the same in NumPy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import jit
from ..jit import cuda
from .columns import CURVE

BUFFER = 0.1
"""Of the median flux, within which fluxes count for `median_buffer_range_percentage`."""
LAST_STEPS = 30
"""Steps that `pair_slope_trend` looks at."""

_RATIO = -0.4 * math.log(10)
_CROWDED = 24  # values in one bucket that an insertion sort still takes
_GAPS = (701, 301, 132, 57, 23, 10, 4, 1)  # Ciura's, for the shell sort


# ---------------------------------------------------------------- items


@jit.item
def flux_of(mag):
    """Flux in units of that of magnitude 0."""
    return math.exp(_RATIO * mag)


@jit.item
def shell_sort(values, first, n, gap):
    """Sort n values in place; `gap` 1 is an insertion sort."""
    for i in range(first + gap, first + n):
        here = values[i]
        j = i
        while j >= first + gap and values[j - gap] > here:
            values[j] = values[j - gap]
            j -= gap
        values[j] = here


@jit.item
def sort_magnitudes(mag, first, n, low, high, ordered, counts, scratch):
    """Ascending magnitudes in ``ordered[scratch : scratch + n]``."""
    if not high > low:
        for i in range(n):
            ordered[scratch + i] = mag[first + i]
        return
    scale = (n - 1) / (high - low)
    for i in range(n):
        counts[scratch + i] = 0
    for i in range(first, first + n):
        counts[scratch + int((mag[i] - low) * scale)] += 1
    place, largest = 0, 0
    for k in range(n):
        here = counts[scratch + k]
        largest = max(largest, here)
        counts[scratch + k] = place
        place += here
    for i in range(first, first + n):
        k = scratch + int((mag[i] - low) * scale)
        ordered[scratch + counts[k]] = mag[i]
        counts[k] += 1
    if largest > _CROWDED:
        gap = n // 3
        while gap > 1000:
            shell_sort(ordered, scratch, n, gap)
            gap = (gap * 4) // 9
        for gap in _GAPS:
            shell_sort(ordered, scratch, n, gap)
    else:
        shell_sort(ordered, scratch, n, 1)


@jit.item
def percentile_flux(ordered, start, n, share):
    """Flux below which a share of the fluxes lies."""
    place = min(max(n * share - 0.5, 0.0), n - 1.0)
    below = min(int(place), max(n - 2, 0))
    faint = flux_of(ordered[start + n - 1 - below])
    bright = flux_of(ordered[start + max(n - 2 - below, 0)])
    return faint + (place - below) * (bright - faint)


@jit.item
def median_deviation(ordered, start, n, median):
    """Median of |F - median|: the middle of two sorted lists, those of fainter and brighter."""
    faint = start + n // 2  # deviations grow from here on, and from one below it downwards
    n_faint, n_bright, k = n - n // 2, n // 2, n // 2 + 1
    least, most = max(0, k - n_bright), min(k, n_faint)
    while least < most:  # how many of the k smallest are fainter
        i = (least + most) // 2
        if median - flux_of(ordered[faint + i]) < flux_of(ordered[faint - k + i]) - median:
            least = i + 1
        else:
            most = i
    i, j = least, k - least
    largest, second = 0.0, 0.0
    for side in range(2):
        for back in range(1, 3):
            if side == 0 and i >= back:
                deviation = median - flux_of(ordered[faint + i - back])
            elif side == 1 and j >= back:
                deviation = flux_of(ordered[faint - 1 - j + back]) - median
            else:
                continue
            second = max(second, min(largest, deviation))
            largest = max(largest, deviation)
    return largest if n % 2 else 0.5 * (largest + second)


@jit.item
def share_near(ordered, start, n, median):
    """Share of the fluxes within BUFFER of the median."""
    near = 0
    # in magnitudes first: a flux is only needed where rounding could matter
    dim, lit = math.log(median * (1 - BUFFER)) / _RATIO, math.log(median * (1 + BUFFER)) / _RATIO
    for i in range(start, start + n):
        mag = ordered[i]
        surely = lit + 1e-9 < mag < dim - 1e-9
        perhaps = lit - 1e-9 < mag < dim + 1e-9
        if surely or (perhaps and abs(flux_of(mag) - median) < BUFFER * median):
            near += 1
    return near / n


@jit.item
def stetson(mag, magerr, first, n, mean, out):
    """Write Stetson's J and K about the weighted mean."""
    weight, shift = 0.0, 0.0
    for i in range(np.uintp(first), np.uintp(first + n)):
        w = 1 / (magerr[i] * magerr[i])
        weight += w
        shift += w * (mag[i] - mean)
    centre = mean + shift / weight
    robust, absolute, square = 0.0, 0.0, 0.0
    correct = n / (n - 1.0)
    for i in range(np.uintp(first), np.uintp(first + n)):
        d = (mag[i] - centre) / magerr[i]
        p = correct * d * d - 1
        root = math.sqrt(abs(p))
        robust += root if p > 0 else -root
        absolute += abs(d)
        square += d * d
    out[CURVE.stetson_j] = robust / n
    out[CURVE.stetson_k] = absolute / math.sqrt(n * square)


@jit.item
def fill_percentiles(ordered, start, n, varies, out):
    """Write what the percentiles of the fluxes give."""
    median = percentile_flux(ordered, start, n, 0.5)
    wide = percentile_flux(ordered, start, n, 0.95) - percentile_flux(ordered, start, n, 0.05)
    if varies:
        for k in range(5):
            half = 0.1 + 0.075 * k
            width = percentile_flux(ordered, start, n, 0.5 + half)
            width -= percentile_flux(ordered, start, n, 0.5 - half)
            out[CURVE.flux_percentile_ratio_mid20 + k] = width / wide
    out[CURVE.median_absolute_deviation] = median_deviation(ordered, start, n, median)
    out[CURVE.median_buffer_range_percentage] = share_near(ordered, start, n, median)
    out[CURVE.percent_difference_flux_percentile] = wide / median


@jit.item
def fill_steps(time, mag, first, last, out):
    """Write the steepest step and the share of rises; there are two points or more."""
    steepest = -1.0
    for i in range(np.uintp(first), np.uintp(last - 1)):
        step = time[i + np.uintp(1)] - time[i]
        slope = abs(mag[i + np.uintp(1)] - mag[i]) / step if step > 0 else -1.0
        steepest = max(steepest, slope)
    if steepest >= 0:
        out[CURVE.max_slope] = steepest
    rises, steps = 0, min(last - first - 1, LAST_STEPS)
    for i in range(last - steps, last):
        rises += mag[i] < mag[i - 1]
    out[CURVE.pair_slope_trend] = rises / steps


@jit.item
def curve_features(time, mag, magerr, first, last, ordered, counts, scratch, out):
    """Write all features of one curve; `out` is its row, and scratch begins at `scratch`."""
    for k in range(len(CURVE)):
        out[k] = math.nan
    n = last - first
    if n == 0:
        return
    low, high, total, total_time = mag[first], mag[first], 0.0, 0.0
    for i in range(np.uintp(first), np.uintp(last)):
        low = min(low, mag[i])
        high = max(high, mag[i])
        total += mag[i]
        total_time += time[i]
    mean, mean_time, varies = total / n, total_time / n, high > low
    out[CURVE.meanmag], out[CURVE.minmag], out[CURVE.maxmag] = mean, low, high
    out[CURVE.amplitude] = 0.5 * (high - low)
    second, third, fourth, spread, common = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(np.uintp(first), np.uintp(last)):
        d = mag[i] - mean
        t = time[i] - mean_time
        second += d * d
        third += d * d * d
        fourth += d * d * d * d
        spread += t * t
        common += t * d
    if spread > 0:
        out[CURVE.linear_trend] = common / spread
    if varies:
        out[CURVE.skew] = third / n / (second / n) ** 1.5
        out[CURVE.small_kurtosis] = fourth / n / (second / n) ** 2
    sort_magnitudes(mag, first, n, low, high, ordered, counts, scratch)
    fill_percentiles(ordered, scratch, n, varies, out)
    if n < 2:
        return
    std = math.sqrt(second / (n - 1))
    out[CURVE.std] = std
    beyond = 0
    for i in range(np.uintp(first), np.uintp(last)):
        beyond += abs(mag[i] - mean) > std
    out[CURVE.beyond1std] = beyond / n
    fill_steps(time, mag, first, last, out)
    if len(magerr) > 0 and varies:
        least = magerr[first]
        for i in range(np.uintp(first), np.uintp(last)):
            least = min(least, magerr[i])
        if least > 0:
            stetson(mag, magerr, first, n, mean, out)


# ---------------------------------------------------------------- CPU


@jit.cpu_loop
def features_cpu(start, stop, time, mag, magerr, offsets, out):
    """Item: one curve."""
    most = 1
    for i in range(start, stop):
        most = max(most, offsets[i + 1] - offsets[i])
    ordered, counts = np.empty(most), np.empty(most, np.int64)
    for i in range(start, stop):
        curve_features(time, mag, magerr, offsets[i], offsets[i + 1], ordered, counts, 0, out[i])


# ---------------------------------------------------------------- CUDA: a thread a curve
# A declared kernel would give each thread the scratch of the longest curve.


@jit.cuda_kernel
def features_cuda(time, mag, magerr, offsets, ordered, counts, out):
    """Thread: one curve, whose scratch is its own points' part of `ordered` and `counts`."""
    i = cuda.grid(1)
    if i < out.shape[0]:
        curve_features(
            time, mag, magerr, offsets[i], offsets[i + 1], ordered, counts, offsets[i], out[i]
        )


def measure_curves(
    time: Any, mag: Any, magerr: Any, offsets: np.ndarray, threads: int | None = None
) -> Any:
    """Features of light curves, (n, 21) float64, on the device of `time`.

    Shapes are as at the top; offsets lie in the memory of the CPU.
    """
    n = offsets.size - 1
    out = np.empty_like(time, shape=(n, len(CURVE)))
    if jit.on_cpu(time):
        jit.run(features_cpu, n, threads, time, mag, magerr, offsets, out)
    else:
        scratch = np.empty_like(mag), np.empty_like(mag, np.int64)
        there = np.asarray(offsets, like=time)
        jit.launch(features_cuda, n, time, mag, magerr, there, *scratch, out)
    return out
