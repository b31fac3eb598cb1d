r"""The classical periodogram of unevenly sampled light curves, and its highest peaks.

For the weighted, mean-subtracted magnitudes y,

    P(f) = 2 |sum_j w_j y_j exp(-2 pi i f t_j)|^2 / sum_j w_j y_j^2,      sum_j w_j = 1,

the share of the variance that a sinusoid of frequency f explains (where the sampling does not
prefer phases), at f = i / (OVERSAMPLING * span), i = 0, 1, 2 ...: at OVERSAMPLING = 2 these
powers determine all others.

The CPU takes the fast transform of `nufft`, right to 1e-3 of the highest amplitude. A GPU sums
point by point, a thread a frequency, right to 1e-6.

Shapes: time, mag (n_points,) float64, times from 0 and ascending within each curve; magerr the
same, or empty; offsets (n + 1,) int64. Cost: see `nufft`; on a GPU some 40 operations a point and
frequency in float64, and 16 bytes of scratch a point.
`tests/kernels/curve/reference/periodogram.py` says the same in NumPy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import jit
from ..declare import kernel
from .curves import count_edges
from .nufft import BLOCK, OVERSAMPLING, grids_for, spectrum, turn

f32 = np.float32

GLANCE = 64
"""Frequencies that are looked at together for anything high."""
LOWERED = 0.75
"""Least share of a peak's height that is found beside it at one of the frequencies."""


@jit.item
def prepare(mag, magerr, first, last, weight, value):
    """Write weights of unit sum, and weighted magnitudes less their mean; return the variance.

    w = 1 / (err^2 + mean err^2): what a Fourier series leaves out is about as large as the
    errors, so that a few small ones do not rule. Without errors all weights are equal.
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
def highest_peaks(power, lowest, n_frequencies, places, heights):
    """Write places, in steps, and powers of the highest maxima, in falling order; count them.

    Between the frequencies the square root of the power is taken for a parabola.
    """
    found, last = 0, len(places) - 1
    heights[:] = 0
    for start in range(max(lowest, 1), n_frequencies - 1, GLANCE):
        stop = min(start + GLANCE, n_frequencies - 1)
        least, high = f32(LOWERED) * heights[last], False
        for i in range(np.uintp(start), np.uintp(stop)):  # all at once first: hardly any is high
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


@jit.item
def longest_of(start, stop, offsets, n_frequencies):
    """Most points of a curve, and most frequencies in whole blocks."""
    n_points, n = 1, 1
    for i in range(start, stop):
        n_points = max(n_points, offsets[i + 1] - offsets[i])
        n = max(n, n_frequencies[i])
    return n_points, (n + BLOCK - 1) // BLOCK * BLOCK


# ---------------------------------------------------------------- CPU


@jit.cpu_loop
def spectra_cpu(start, stop, time, mag, magerr, offsets, n_frequencies, starts, powers):
    """Item: one curve, whose powers stand in `powers` from starts[item] on."""
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
            powers[starts[i] + k] = power[k] if variance > 0 else f32(np.nan)


# ---------------------------------------------------------------- CUDA: sums point by point


@kernel(
    over="n",
    mag="float64 (n_points)",
    magerr="float64 (n_errors)",
    offsets="int64 (n + 1)",
    weight="out float64 (n_points)",
    value="out float64 (n_points)",
    scale="out float64 (n)",
)
def weigh(i, mag, magerr, offsets, weight, value, scale):
    """What `prepare` makes of a curve, and two over its variance, NaN where that is 0."""
    first, last = offsets[i], offsets[i + 1]
    scale[i] = math.nan
    if first < last:
        variance = prepare(mag, magerr, first, last, weight[first:last], value[first:last])
        if variance > 0.0:
            scale[i] = 2.0 / variance


@kernel(
    over="n_powers",
    time="float64 (n_points)",
    value="float64 (n_points)",
    offsets="int64 (n + 1)",
    scale="float64 (n)",
    starts="int64 (n + 1)",
    powers="out float32 (n_powers)",
)
def sum_points(k, time, value, offsets, scale, starts, powers):
    """Power k, of the curve in whose range of `starts` it is."""
    i = count_edges(starts, k) - 1
    first, last = offsets[i], offsets[i + 1]
    f = (k - starts[i]) / (OVERSAMPLING * time[last - 1])
    re, im = 0.0, 0.0
    for j in range(first, last):
        c, s = turn(f * time[j])
        re += value[j] * c
        im += value[j] * s
    powers[k] = scale[i] * (re * re + im * im)


def spectra(
    time: Any,
    mag: Any,
    magerr: Any,
    offsets: np.ndarray,
    n_frequencies: np.ndarray,
    threads: int | None = None,
) -> tuple[Any, np.ndarray]:
    """Periodograms of light curves, on the device of `time`.

    Parameters
    ----------
    time, mag, magerr : array
        As at the top.
    offsets, n_frequencies : ndarray of int64, (n + 1,) and (n,)
        In the memory of the CPU; curves with 0 frequencies are left out.
    threads : int, optional
        CPU threads; all cores by default.

    Returns
    -------
    powers : array of float32, (sum of n_frequencies,)
        One curve after the other; NaN for a curve of one magnitude.
    starts : ndarray of int64, (n + 1,)
        Where each curve's powers start, in the memory of the CPU.
    """
    starts = np.concatenate([[0], np.cumsum(n_frequencies)])
    powers = np.empty_like(time, np.float32, shape=int(starts[-1]))
    if jit.on_cpu(time):
        given = time, mag, magerr, offsets, n_frequencies
        jit.run(spectra_cpu, len(n_frequencies), threads, *given, starts, powers)
    else:
        there, begin = (np.asarray(each, like=time) for each in (offsets, starts))
        weight, value = np.empty_like(time), np.empty_like(time)
        scale = np.empty_like(time, shape=len(n_frequencies))
        weigh(mag, magerr, there, weight, value, scale)
        sum_points(time, value, there, scale, begin, powers)
    return powers, starts
