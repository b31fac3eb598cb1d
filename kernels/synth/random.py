"""Random numbers that are counted: Philox, and uniform, normal and Poisson numbers from it.

Every draw is a function of (seed, sample, purpose, index), so that a sample is the same whatever
the batch size, the number of threads or the device (Philox 4x32-10, Salmon et al. 2011,
doi:10.1145/2063384.2063405). 32-bit words are held in uint64, where their products are exact.
"""

import math

import numpy as np

from .. import jit

f32 = np.float32
u64 = np.uint64

MASK32 = u64(0xFFFFFFFF)
SHIFT32 = u64(32)
PHILOX_M0, PHILOX_M1 = u64(0xD2511F53), u64(0xCD9E8D57)
PHILOX_W0, PHILOX_W1 = u64(0x9E3779B9), u64(0xBB67AE85)
TWO_PI = f32(2 * np.pi)

STREAM_SCENE, STREAM_REF, STREAM_SCI = u64(0), u64(1), u64(2)  # the purposes of draws
# A stream's state: the key, the sample and the number of the next draw.
KEY_LOW, KEY_HIGH, SAMPLE_LOW, SAMPLE_HIGH, COUNTER = range(5)
N_STATE = 5
UNLIMITED = 1 << 30  # for `draw_count`, where the tables are the limit


@jit.item
def philox(c0, c1, c2, c3, k0, k1):
    """Philox 4x32-10: four random 32-bit numbers, held in uint64, of a counter and a key."""
    for _ in range(10):
        p0, p1 = PHILOX_M0 * c0, PHILOX_M1 * c2
        c0, c1, c2, c3 = (
            (p1 >> SHIFT32) ^ c1 ^ k0,
            p1 & MASK32,
            (p0 >> SHIFT32) ^ c3 ^ k1,
            p0 & MASK32,
        )
        k0, k1 = (k0 + PHILOX_W0) & MASK32, (k1 + PHILOX_W1) & MASK32
    return c0, c1, c2, c3


@jit.item
def unit(word):
    """A uniform number in (0, 1) from 32 random bits."""
    return (f32(np.int32(word >> u64(8))) + f32(0.5)) * f32(2.0**-24)


@jit.item
def log_unit(u):
    """log(u) for 2^-25 <= u <= 1, absolute error 3e-6: five square roots, then 2 atanh(s).

    Without a call or a branch, like all that a pixel needs, so that rows vectorise.
    """
    root = f32(math.sqrt(math.sqrt(math.sqrt(math.sqrt(math.sqrt(u))))))
    s = (root - f32(1)) / (root + f32(1))
    s2 = s * s
    series = f32(1 / 5) + s2 * (f32(1 / 7) + s2 * f32(1 / 9))
    return f32(64) * s * (f32(1) + s2 * (f32(1 / 3) + s2 * series))


@jit.item
def sin_cos_turn(u):
    """(sin, cos) of 2 pi u for 0 <= u <= 1, absolute error 1e-6: Taylor about half a turn."""
    t = TWO_PI * (u - f32(0.5))
    t2 = t * t
    sin = f32(1 / 6227020800) - t2 * f32(1 / 1307674368000)
    sin = f32(1 / 120) - t2 * (
        f32(1 / 5040) - t2 * (f32(1 / 362880) - t2 * (f32(1 / 39916800) - t2 * sin))
    )
    cos = f32(1 / 479001600) - t2 * (f32(1 / 87178291200) - t2 * f32(1 / 20922789888000))
    cos = f32(1 / 24) - t2 * (
        f32(1 / 720) - t2 * (f32(1 / 40320) - t2 * (f32(1 / 3628800) - t2 * cos))
    )
    return -t * (f32(1) - t2 * (f32(1 / 6) - t2 * sin)), -(f32(1) - t2 * (f32(0.5) - t2 * cos))


@jit.item
def normal_pair(word0, word1):
    """Two normal numbers (Box & Muller 1958)."""
    radius = f32(math.sqrt(f32(-2) * log_unit(unit(word0))))
    sin, cos = sin_cos_turn(unit(word1))
    return radius * cos, radius * sin


POISSON_INVERSION = f32(12)  # below this mean a Poisson number is drawn by inversion


@jit.item
def poisson_by_inversion(mean, uniform):
    """The smallest count whose cumulative probability reaches `uniform`; at most 60."""
    if not mean > f32(0):
        return f32(0)
    term = f32(math.exp(-mean))
    total, count = term, f32(0)
    while uniform > total and count < f32(60):
        count += f32(1)
        term *= mean / count
        total += term
    return count


@jit.item
def poisson_by_quantile(mean, normal):
    """Cornish-Fisher expansion of the Poisson quantile to the order mean^-1/2, rounded."""
    root = f32(math.sqrt(mean))
    z2 = normal * normal
    skew = (z2 - f32(1)) * f32(1 / 6) + (normal - normal * z2) / (f32(72) * root)
    return max(f32(0), f32(math.floor(mean + root * normal + skew + f32(0.5))))


@jit.item
def poisson(mean, normal, uniform):
    """A Poisson number, eq 12, from a normal and a uniform number."""
    if mean < POISSON_INVERSION:
        return poisson_by_inversion(mean, uniform)
    return poisson_by_quantile(mean, normal)


# ---------------------------------------------------------------- one stream, draw by draw


@jit.item
def start_stream(state, seed, sample):
    """Set the state of the stream that draws scene number `sample`."""
    state[KEY_LOW] = u64(seed) & MASK32
    state[KEY_HIGH] = u64(seed) >> SHIFT32
    state[SAMPLE_LOW] = u64(sample) & MASK32
    state[SAMPLE_HIGH] = u64(sample) >> SHIFT32
    state[COUNTER] = u64(0)


@jit.item
def next_words(state):
    """Four random words, and the stream one draw further."""
    words = philox(
        state[COUNTER],
        STREAM_SCENE,
        state[SAMPLE_LOW],
        state[SAMPLE_HIGH],
        state[KEY_LOW],
        state[KEY_HIGH],
    )
    state[COUNTER] += u64(1)
    return words


@jit.item
def draw(state):
    """The next uniform number of a stream."""
    word, _, _, _ = next_words(state)
    return unit(word)


@jit.item
def draw_normal(state):
    """The next normal number of a stream."""
    w0, w1, _, _ = next_words(state)
    normal, _ = normal_pair(w0, w1)
    return normal


@jit.item
def draw_range(state, bounds):
    """A uniform number within `bounds`, (low, high)."""
    return bounds[0] + (bounds[1] - bounds[0]) * draw(state)


@jit.item
def draw_log_range(state, bounds):
    """A log-uniform number within `bounds`, (low, high)."""
    return bounds[0] * f32(math.exp(draw(state) * f32(math.log(bounds[1] / bounds[0]))))


@jit.item
def draw_count(state, mean, limit):
    """A Poisson number of things, at most `limit`."""
    w0, w1, w2, _ = next_words(state)
    normal, _ = normal_pair(w0, w1)
    return min(int(poisson(f32(mean), normal, unit(w2))), limit)
