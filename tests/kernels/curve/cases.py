"""Rows of the table of cases: kernels of light curves."""

import numpy as np

from fastdiff.kernels.curve import dmdt_norm, nufft, periodogram
from tests.kernels.check_kernel import Case
from tests.kernels.curve import inputs
from tests.kernels.curve.reference import dmdt as dmdt_twin
from tests.kernels.curve.reference import periodogram as periodogram_twin

# ---------------------------------------------------------------- dm-dt images


def counts_of_pairs(rng, size, dtype=np.int64):
    """Cells of `size` curves, the last of which has no pairs."""
    counts = rng.poisson(3, (size, 5, 7)) * (rng.random((size, 5, 7)) < 0.5)
    counts[-1] = 0
    return counts.astype(dtype)


def norm_inputs(norm, dtype):
    def make_inputs(rng, size):
        n_points = rng.integers(15, 30, size)
        return {
            "counts": counts_of_pairs(rng, size, dtype),
            "n_pairs": n_points * (n_points - 1) // 2,
            "norm": norm,
            "images": np.empty((size, 5, 5), np.uint8 if norm == dmdt_norm.PAPER else np.float32),
        }

    return make_inputs


def norm_twin(counts, n_pairs, norm, images):
    name = ("paper", "l2", "dt", "max")[norm]
    n_points = (1 + np.sqrt(1 + 8 * n_pairs)).astype(int) // 2
    curves = zip(counts, n_points, strict=True)
    return np.stack([dmdt_twin.normalise(each.T, n, name) for each, n in curves])


DMDT = [
    Case(dmdt_norm.normalise, norm_twin, norm_inputs(norm, dtype), (3, 40, 20_000), note=note)
    for note, norm, dtype in (
        ("paper", dmdt_norm.PAPER, np.int64),
        ("l2", dmdt_norm.L2, np.int64),
        ("column", dmdt_norm.BY_COLUMN, np.float64),
        ("max", dmdt_norm.MAX, np.float64),
    )
]

# ---------------------------------------------------------------- periodograms


def periodic_curves(rng, size):
    """(time, mag, magerr, offsets) of `size` curves, one without points."""
    lengths = [0, *rng.integers(6, 30, size - 1)]
    return inputs.flat([inputs.periodic(rng, inputs.sinusoid, 0.8, n, 50) for n in lengths])


def weigh_inputs(with_errors):
    def make_inputs(rng, size):
        _, mag, magerr, offsets = periodic_curves(rng, size)
        errors = magerr if with_errors else magerr[:0]
        return {"mag": mag, "magerr": errors, "offsets": offsets, "n": size}

    return make_inputs


def weigh_twin(mag, magerr, offsets, n):
    weight, value, scale = np.empty_like(mag), np.empty_like(mag), np.full(n, np.nan)
    for i in np.flatnonzero(np.diff(offsets)):
        own = slice(*offsets[i : i + 2])
        w = periodogram_twin.weights(magerr[own] if magerr.size else None, len(mag[own]))
        y = mag[own] - w @ mag[own]
        weight[own], value[own], scale[i] = w, w * y, 2 / (w @ y**2)
    return weight, value, scale


def sum_inputs(rng, size):
    time, mag, magerr, offsets = periodic_curves(rng, size)
    _, value, scale = weigh_twin(mag, magerr, offsets, size)
    n = np.where(np.diff(offsets) > 0, rng.integers(1, 20, size), 0)
    starts = np.concatenate([[0], np.cumsum(n)])
    return {
        "time": time, "value": value, "offsets": offsets, "scale": scale, "starts": starts,
        "n_powers": starts[-1],
    }  # fmt: skip


def sum_twin(time, value, offsets, scale, starts, n_powers):
    powers = np.empty(n_powers)
    for i in np.flatnonzero(np.diff(starts)):
        own = slice(*offsets[i : i + 2])
        frequency = np.arange(starts[i + 1] - starts[i]) / (nufft.OVERSAMPLING * time[own][-1])
        transform = np.exp(-2j * np.pi * np.outer(frequency, time[own])) @ value[own]
        powers[starts[i] : starts[i + 1]] = scale[i] * np.abs(transform) ** 2
    return powers


PERIODOGRAM = [
    *(
        Case(periodogram.weigh, weigh_twin, weigh_inputs(some), (3, 20, 20_000), 1e-9, note)
        for note, some in (("errors", True), ("none", False))
    ),
    Case(periodogram.sum_points, sum_twin, sum_inputs, (3, 20, 1000)),
]

CASES = [*DMDT, *PERIODOGRAM]
