"""Light curves that tests of several rooms use."""

import numpy as np


def scattered(rng, n, kind="plain"):
    """(time, mag, magerr): in disorder; "coarse" has many pairs exactly on edges."""
    time, mag = rng.uniform(0, 3000, n), rng.normal(15, 0.5, n)
    if kind == "coarse":
        time, mag = rng.integers(0, 400, n) * 0.5, np.round(mag, 1)
    if kind == "constant":
        time[:], mag[:] = 7.0, 15.0
    if kind == "wide":
        mag, time = mag * 100, time * 5
    if kind == "tiny":
        mag, time = mag * 1e-12, time * 1e-7
    return time, mag, rng.uniform(0.01, 0.2, n)


def ragged(rng, lengths):
    """Lists of time, mag and magerr: noise, outliers, rounded magnitudes and equal times."""
    time, mag, magerr = [], [], []
    for k, n in enumerate(lengths):
        t = np.sort(rng.uniform(53000, 56000, n))
        m = rng.normal(16, 0.3, n)
        if k % 4 == 1:
            m[: n // 10] += 5  # crowds all others into few buckets
        if k % 4 == 2:
            m = m.round(1)
        if k % 4 == 3:
            t = np.sort(t.round(-2))
        time.append(t)
        mag.append(m)
        magerr.append(rng.uniform(0.05, 0.2, n))
    return time, mag, magerr


# ---------------------------------------------------------------- with a period


def survey_times(rng, n, span):
    """Four visits within half an hour, on nights between which the hour changes little."""
    nights = rng.choice(int(span), -(-n // 4), replace=False)
    time = nights[:, None] + rng.normal(0, 0.08, (len(nights), 1)) + np.arange(4) * 0.007
    return np.sort(time.ravel()[:n])


def periodic(rng, shape, period, n=240, span=2000, noise=0.05):
    """(time, mag, magerr) of ``shape(phase)``."""
    time = survey_times(rng, n, span)
    magerr = noise * rng.uniform(0.7, 1.5, n)
    mag = 16 + shape(time / period + rng.uniform()) + magerr * rng.normal(size=n)
    return time, mag, magerr


def sinusoid(phase):
    return 0.3 * np.cos(2 * np.pi * phase)


def sawtooth(phase):
    """A pulsator's: brightens in a sixth of its period."""
    phase = phase % 1
    return 0.4 - 0.8 * np.where(phase < 1 / 6, 6 * phase, (1 - phase) * 6 / 5)


def eclipses(phase):
    """A detached binary's: two narrow minima of different depth."""

    def dip(at):
        return np.clip(1 - np.abs((phase - at + 0.5) % 1 - 0.5) / 0.06, 0, None)

    return 0.8 * dip(0) + 0.5 * dip(0.5)


# ---------------------------------------------------------------- as kernels take them


def flat(curves):
    """(time, mag, magerr, offsets) of curves (time, mag, magerr): sorted, times from 0."""
    offsets = np.concatenate([[0], np.cumsum([len(c[0]) for c in curves])])
    arrays = [[], [], []]
    for time, mag, magerr in curves:
        order = np.argsort(time, kind="stable")
        arrays[0].append(time[order] - time.min(initial=np.inf))
        arrays[1].append(mag[order])
        arrays[2].append(magerr[order])
    return *(np.concatenate(parts) for parts in arrays), offsets
