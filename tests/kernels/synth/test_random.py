"""Counted random numbers: Philox's known answers, elementary functions, Poisson's distribution."""

import numpy as np
import pytest
from scipy import stats

from fastdiff.kernels.synth import random
from tests.kernels.synth.reference import synth as reference


# Known answers of the Random123 library (kat_vectors, philox4x32-10).
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers(counter, key, answer):
    words = random.philox(*(np.uint64(v) for v in (*counter, *key)))
    assert tuple(int(w) for w in words) == answer
    assert reference.philox(counter, key) == answer


def test_elementary_functions_are_as_good_as_said():
    u = np.geomspace(2.0**-25, 1, 2001).astype(np.float32)
    np.testing.assert_allclose([random.log_unit(v) for v in u], np.log(u.astype(float)), atol=2e-5)
    u = np.linspace(0, 1, 1001, dtype=np.float32)
    sin, cos = np.transpose([random.sin_cos_turn(v) for v in u])
    np.testing.assert_allclose(sin, np.sin(2 * np.pi * u.astype(float)), atol=3e-6)
    np.testing.assert_allclose(cos, np.cos(2 * np.pi * u.astype(float)), atol=3e-6)


@pytest.mark.parametrize("mean", [0.3, 5.0, 11.9, 12.1, 40.0, 3000.0])
def test_poisson_numbers_follow_their_distribution(mean):
    rng = np.random.default_rng(5)
    normal, uniform = rng.normal(size=20000), rng.random(20000)
    values = [
        random.poisson(np.float32(mean), np.float32(z), np.float32(u))
        for z, u in zip(normal, uniform, strict=True)
    ]
    values = np.array(values, float)
    # Pearson's test over bins with at least 20 expected counts
    edges = np.unique(stats.poisson.ppf(np.linspace(0.005, 0.995, 25), mean))
    cdf = np.concatenate([[0], stats.poisson.cdf(edges, mean), [1]])
    expected = np.diff(cdf) * len(values)
    observed = np.bincount(np.searchsorted(edges, values), minlength=len(expected))
    keep = expected > 20
    chi2 = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    assert chi2 < stats.chi2.ppf(0.9999, keep.sum())
