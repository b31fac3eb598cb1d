"""Ragged batches of light curves: what is finite, in the order of time.

Curve i holds the points offsets[i] to offsets[i + 1] - 1 of flat arrays. `inspect_curves` counts
the finite points of each curve and tells what has to be done; `arrange_curves` copies them,
sorted by time (merge sort: equal times keep their order), with times counted from the first.
Both run on the CPU, where the door for light curves checks all that comes.

Shapes: time, mag, magerr (n_points,) float64, magerr of length 0 if there is none; offsets
(n + 1,) int64; n_good (n,) int64; state (n,) uint8. Cost: one pass where a curve is sorted,
n log2(n / 32) steps where it is not.
"""

from __future__ import annotations

import math

import numpy as np

from .. import jit

MISSING = 1
"""State of a curve: some of its points are not finite."""
UNSORTED = 2
"""State: its finite points are not in the order of time."""
CONSTANT_TIME = 4
"""State: it has two finite points or more, all at one time."""
NEGATIVE = 8
"""State: an error of its magnitudes is negative."""

RUN = 32  # points sorted by counting before runs are merged


@jit.item
def count_edges(edges, x):
    """Number of edges <= x, by bisection; edges ascend."""
    low, high = 0, edges.size
    while low < high:
        middle = (low + high) // 2
        if edges[middle] <= x:
            low = middle + 1
        else:
            high = middle
    return low


@jit.item
def is_good(time, mag, magerr, k):
    """Whether time, magnitude and error (where errors came) of point k are finite."""
    good = math.isfinite(time[k]) and math.isfinite(mag[k])
    return good and (magerr.size == 0 or math.isfinite(magerr[k]))


@jit.item
def sort_runs(key, place, to_key, to_place, n):
    """Sort each run of `RUN` keys, with their places, by counting the keys before each key."""
    for start in range(0, n, RUN):
        stop = min(start + RUN, n)
        for i in range(np.uintp(start), np.uintp(stop)):
            value, rank = key[i], start
            for k in range(np.uintp(start), i):
                rank += key[k] <= value
            for k in range(i + np.uintp(1), np.uintp(stop)):
                rank += key[k] < value
            to_key[rank], to_place[rank] = value, place[i]


@jit.item
def merge_runs(key, place, to_key, to_place, n, width):
    """Merge neighbouring runs of `width` sorted keys into runs twice as wide."""
    for start in range(0, n, 2 * width):
        a, middle = np.uintp(start), np.uintp(min(start + width, n))
        b, stop, k = middle, np.uintp(min(start + 2 * width, n)), np.uintp(start)
        while a < middle and b < stop:  # no branch depends on the keys
            left = key[a] <= key[b]
            source = a if left else b
            to_key[k], to_place[k] = key[source], place[source]
            a += np.uintp(left)
            b += np.uintp(not left)
            k += np.uintp(1)
        for source in range(a, middle):
            to_key[k], to_place[k] = key[source], place[source]
            k += np.uintp(1)
        for source in range(b, stop):
            to_key[k], to_place[k] = key[source], place[source]
            k += np.uintp(1)


@jit.cpu_loop
def inspect_cpu(start, stop, time, mag, magerr, offsets, n_good, state):
    """Item: one curve."""
    for i in range(start, stop):
        n, found, moves = 0, 0, False
        first = last = -math.inf
        for k in range(np.uintp(offsets[i]), np.uintp(offsets[i + 1])):
            if magerr.size > 0 and magerr[k] < 0:
                found |= NEGATIVE
            if not is_good(time, mag, magerr, k):
                found |= MISSING
                continue
            if time[k] < last:
                found |= UNSORTED
            first = time[k] if n == 0 else first
            last = time[k]
            moves |= last != first
            n += 1
        if n > 1 and not moves:
            found |= CONSTANT_TIME
        n_good[i] = n
        state[i] = found


@jit.cpu_loop
def arrange_cpu(
    start, stop, time, mag, magerr, offsets, state, to_time, to_mag, to_magerr, to_offsets
):
    """Item: one curve; `to_offsets` says where its good points go."""
    longest = 0
    for i in range(start, stop):
        longest = max(longest, to_offsets[i + 1] - to_offsets[i])
    key, other_key = np.empty(longest), np.empty(longest)
    place, other_place = np.empty(longest, np.int64), np.empty(longest, np.int64)
    for i in range(start, stop):
        n = 0
        for k in range(offsets[i], offsets[i + 1]):
            if is_good(time, mag, magerr, k):
                key[n], place[n] = time[k], k
                n += 1
        if state[i] & UNSORTED:
            sort_runs(key, place, other_key, other_place, n)
            key, other_key = other_key, key
            place, other_place = other_place, place
            width = RUN
            while width < n:
                merge_runs(key, place, other_key, other_place, n, width)
                key, other_key = other_key, key
                place, other_place = other_place, place
                width *= 2
        to = to_offsets[i]
        for k in range(n):
            to_time[to + k] = key[k] - key[0]
            to_mag[to + k] = mag[place[k]]
        if magerr.size > 0:
            for k in range(n):
                to_magerr[to + k] = magerr[place[k]]


def inspect_curves(
    time: np.ndarray,
    mag: np.ndarray,
    magerr: np.ndarray,
    offsets: np.ndarray,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Number of finite points of each curve, and its state, bits as at the top."""
    n = offsets.size - 1
    n_good, state = np.empty(n, np.int64), np.empty(n, np.uint8)
    jit.run(inspect_cpu, n, threads, time, mag, magerr, offsets, n_good, state)
    return n_good, state


def arrange_curves(
    time: np.ndarray,
    mag: np.ndarray,
    magerr: np.ndarray,
    offsets: np.ndarray,
    n_good: np.ndarray,
    state: np.ndarray,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(time since the first point, mag, magerr, offsets) of the finite points, in order of time."""
    to_offsets = np.zeros(offsets.size, np.int64)
    np.cumsum(n_good, out=to_offsets[1:])
    total = int(to_offsets[-1])
    to_time, to_mag = np.empty(total), np.empty(total)
    to_magerr = np.empty(total if magerr.size else 0)
    jit.run(
        arrange_cpu, n_good.size, threads, time, mag, magerr, offsets, state,
        to_time, to_mag, to_magerr, to_offsets,
    )  # fmt: skip
    return to_time, to_mag, to_magerr, to_offsets
