r"""Synthetic pairs of a reference and a science image, with the truth between them.

The generative model of TransiNet (Sedaghat & Mahabal 2018, MNRAS 476, 5365), eqs 1-12:

    ref = (I0 * psf_ref + S_ref) with noise,
    sci = D{(I0 + It) * psf_sci} + S_sci with noise,        truth = D{It * psf_sci}

Everything in the sky and every PSF is a sum of two-dimensional Gaussians, so that a
convolution is a sum of covariances, exact at any sub-pixel position and under any affine
map D, and no FFT is needed:

* Moffat PSF: ``(1 + r^2/a^2)^-b`` is a scale mixture of Gaussians with a Gamma(b) weight;
  Gauss-Laguerre quadrature of that integral gives its terms (`moffat_mixture`).
* Sersic profiles of index 1 and 4: non-negative fits (`EXPONENTIAL`, `DE_VAUCOULEURS`).

Random numbers are counter-based (Philox 4x32-10, Salmon et al. 2011): every draw is a
function of (seed, sample, purpose, index), so that a sample is the same whatever the batch
size, the number of threads or the device.

A batch is made in two passes: `draw_scene` (one item a sample) fills a table of Gaussians
and defects; `render_band` (one item a sample and band of rows; on CUDA one item a pixel)
adds them up, applies the noise and the detector.

Cost a pixel: about 15 floating-point operations for each Gaussian whose box covers it, and
one Philox block and one Box-Muller pair an image for the noise; 20 bytes written (ref,
sci, truth, variance in float32, and scratch that stays in cache).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .. import jit
from ..jit import cuda

f32 = np.float32
u64 = np.uint64

# ---------------------------------------------------------------- constants, all typed

MASK32 = u64(0xFFFFFFFF)
SHIFT32 = u64(32)
PHILOX_M0, PHILOX_M1 = u64(0xD2511F53), u64(0xCD9E8D57)
PHILOX_W0, PHILOX_W1 = u64(0x9E3779B9), u64(0xBB67AE85)
ONE64 = u64(1)
TWO_M32 = f32(2.0**-32)
TWO_PI = f32(2 * np.pi)
FWHM_TO_SIGMA = f32(1 / (2 * math.sqrt(2 * math.log(2))))
PIXEL_VARIANCE = f32(1 / 12)  # a pixel is a box: its variance adds to every profile

REF, SCI, TRUTH = 0, 1, 2  # the planes of a scene
STREAM_SCENE, STREAM_REF, STREAM_SCI = u64(0), u64(1), u64(2)  # the purposes of draws

PSF_TERMS = 7  # four of the profile, one of asymmetry, two of diffraction spikes
MOFFAT_BETAS = (2.5, 3.0, 3.5, 4.5)
MOFFAT_TERMS = 4

# (weight, sigma / half-light radius) of Gaussians that sum to a Sersic profile with unit
# flux; non-negative least squares of the surface brightness on 0.02-6 (n = 1) and 0.02-12
# (n = 4) half-light radii, 6 logarithmic widths.
# tests/kernels/synth/test_synth.py compares them with the profiles.
EXPONENTIAL = (
    (0.00082, 0.05768),
    (0.00925, 0.14704),
    (0.05802, 0.29992),
    (0.22616, 0.54624),
    (0.45233, 0.92745),
    (0.25342, 1.51638),
)
DE_VAUCOULEURS = (
    (0.0068, 0.01723),
    (0.02105, 0.0399),
    (0.05447, 0.08872),
    (0.11816, 0.1947),
    (0.21184, 0.4333),
    (0.29898, 1.01936),
    (0.2887, 2.8118),
)


class Scene(NamedTuple):
    """Parameters of the scenes; pairs are (low, high). Lengths in pixels, fluxes in electrons.

    "log" marks log-uniform draws; all others with a range are uniform.
    """

    # point-spread functions, eqs 9-11
    fwhm_ref: tuple[float, float]
    fwhm_sci: tuple[float, float]
    fwhm_law: float  # 0: uniform (eq 9); 1: log-uniform
    fwhm_ratio_max: float  # sci FWHM / ref FWHM stays within [1/max, max]; 0: independent
    ecc_max_ref: float
    ecc_max_sci: float
    p_moffat: float
    p_asymmetry: float  # a displaced second Gaussian: coma, tracking
    p_spikes: float
    # sky, noise, detector, eq 12
    sky: tuple[float, float]  # electrons a pixel and exposure, log
    sky_ratio: tuple[float, float]  # ref sky / sci sky, log
    gradient: float  # largest relative change of the sky over the frame
    read_noise: tuple[float, float]
    gain: tuple[float, float]  # electrons a count of sci, log
    gain_ratio: tuple[float, float]  # ref gain / sci gain, log
    n_exposures: tuple[float, float]  # in the stack of ref, log
    throughput: tuple[float, float]  # ref electrons / sci electrons of a source, log
    full_well: tuple[float, float]  # electrons, log
    p_mask_saturated: float
    p_resampled: float  # an image was shifted by bilinear interpolation: correlated noise
    # the sky's content
    star_density: tuple[float, float]  # stars in 64 x 64 pixels, log
    star_slope: tuple[float, float]  # N(> flux) ~ flux^-slope
    star_snr: tuple[float, float]  # faintest and brightest star, as S/N of its flux
    galaxy_density: tuple[float, float]  # galaxies in 64 x 64 pixels, log
    galaxy_snr: tuple[float, float]  # log
    galaxy_radius: tuple[float, float]  # half-light radius, log
    p_central_galaxy: float
    central_radius: tuple[float, float]
    p_cluster: float
    # registration, D{} of eq 3
    shift: float  # standard deviation of the frame's shift
    rotation: float  # standard deviation, radians
    scaling: float  # standard deviation, relative
    source_jitter: tuple[float, float]  # own displacement of each source, log
    flux_jitter: tuple[float, float]  # own relative change of each source, log
    # what changes
    n_transients: tuple[float, float]  # mean number in a frame (a Poisson mean), uniform
    exact_number: float  # 1: `n_transients` is the number itself
    transient_density: float  # added mean number in 64 x 64 pixels
    p_near_galaxy: float
    near_sigma: float  # eq 7, relative to the frame, about its centre; 0: about a galaxy
    amplitude_rule: float  # 0 S/N, 1 relative magnitude (eqs 23, 24), 2 counts (eq 8)
    amplitude: tuple[float, float]  # range (log for S/N), or (mean, sigma) for rule 2
    p_variable: float  # of a star
    n_vanished: float  # mean number in 64 x 64 pixels
    signed_truth: float  # 1: truth holds fading sources with a negative sign; 0: left out
    # artefacts, mean numbers in 64 x 64 pixels
    cosmic_rays: float
    hot_pixels: float
    bad_columns: float
    p_missing: float  # a frame has a missing edge, corner or column
    trails: float  # of satellites: mean number that cross 64 x 64 pixels; grows with the side
    p_blinking: float  # of a trail: aeroplanes' lights and tumbling satellites leave dashes


# Columns of the table of Gaussians, (n, 3, max_sources, 8): value(x, y) =
# PEAK exp(-(A dx^2 + 2 B dx dy + C dy^2)) inside the box |dx| <= RX, |dy| <= RY.
PEAK, X, Y, A, B, C, RX, RY = range(8)
SOURCE_COLUMNS = 8
# Columns of the table of defects, (n, 2, max_defects, 9): a segment of a Gaussian section. One
# whose D_PERIOD is positive is cut into dashes: D_DASH long, one in each period, D_PHASE off the
# segment's centre, all in pixels.
D_PEAK, D_X, D_Y, D_DX, D_DY, D_WIDTH, D_PERIOD, D_DASH, D_PHASE = range(9)
DEFECT_COLUMNS = 9
# Columns of the table of what changed, (n, max_changes, 5); flux in counts of sci.
T_X, T_Y, T_FLUX, T_SNR, T_KIND = range(5)
CHANGE_COLUMNS = 5
NEW, VARIABLE, VANISHED = 0, 1, 2
# Columns of the PSF table, (n, 2, PSF_TERMS, 6).
P_WEIGHT, P_X, P_Y, P_XX, P_XY, P_YY = range(6)
PSF_COLUMNS = 6
# Columns of a frame's own numbers, (n, FRAME_COLUMNS).
(
    SKY_REF,
    SKY_SCI,
    GAIN_REF,
    GAIN_SCI,
    EXPOSURES,
    READ_NOISE,
    THROUGHPUT,
    FULL_WELL,
    HIDE_SATURATED,
    GRADIENT_X,
    GRADIENT_Y,
    FX_REF,
    FY_REF,
    FX_SCI,
    FY_SCI,
    MISSING_REF,  # x0, x1, y0, y1 of the missing rectangle of ref, then of sci
) = range(16)
MISSING_SCI = MISSING_REF + 4
FRAME_COLUMNS = MISSING_SCI + 4

# ---------------------------------------------------------------- random numbers


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


@jit.item
def draw(state):
    """The next uniform number of a scene; `state` is (key, key, sample, sample, counter)."""
    word, _, _, _ = philox(state[4], STREAM_SCENE, state[2], state[3], state[0], state[1])
    state[4] += ONE64
    return unit(word)


@jit.item
def draw_normal(state):
    w0, w1, _, _ = philox(state[4], STREAM_SCENE, state[2], state[3], state[0], state[1])
    state[4] += ONE64
    normal, _ = normal_pair(w0, w1)
    return normal


@jit.item
def draw_range(state, bounds):
    return bounds[0] + (bounds[1] - bounds[0]) * draw(state)


@jit.item
def draw_log_range(state, bounds):
    return bounds[0] * f32(math.exp(draw(state) * f32(math.log(bounds[1] / bounds[0]))))


@jit.item
def draw_count(state, mean, limit):
    """A Poisson number of things, at most `limit`."""
    w0, w1, w2, _ = philox(state[4], STREAM_SCENE, state[2], state[3], state[0], state[1])
    state[4] += ONE64
    normal, _ = normal_pair(w0, w1)
    return min(int(poisson(f32(mean), normal, unit(w2))), limit)


# ---------------------------------------------------------------- Gaussians


@jit.item
def exp_neg(q):
    """exp(-q), q >= 0, as a Taylor polynomial of q/64 squared six times; constant from q = 80.

    Without a call or a branch, so that the loops over pixels vectorise.
    """
    t = min(q, f32(80)) * f32(1 / 64)
    p = f32(1) - t * (
        f32(1) - t * (f32(1 / 2) - t * (f32(1 / 6) - t * (f32(1 / 24) - t * f32(1 / 120))))
    )
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    return p


@jit.item
def gaussian_value(peak, a, b, c, dx, dy):
    return peak * exp_neg(a * dx * dx + (b + b) * dx * dy + c * dy * dy)


@jit.item
def add_gaussian(sources, n_sources, plane, flux, x, y, xx, xy, yy, faintest):
    """Append a Gaussian of total `flux`; what lies below `faintest` a pixel is left out.

    The truth keeps its wings down to exp(-9) of the peak, so that its sum is the flux.
    """
    xx += PIXEL_VARIANCE
    yy += PIXEL_VARIANCE
    det = xx * yy - xy * xy
    peak = flux / (TWO_PI * f32(math.sqrt(det)))
    if plane == TRUTH:
        q = f32(9.0)
    else:
        if not abs(peak) > faintest:
            return
        q = f32(math.log(abs(peak) / faintest))
    i = n_sources[plane]
    if i >= sources.shape[1]:
        return
    n_sources[plane] = i + 1
    row = sources[plane, i]
    row[PEAK] = peak
    row[X] = x
    row[Y] = y
    row[A] = f32(0.5) * yy / det
    row[B] = f32(-0.5) * xy / det
    row[C] = f32(0.5) * xx / det
    row[RX] = f32(math.sqrt(f32(2.0) * q * xx))
    row[RY] = f32(math.sqrt(f32(2.0) * q * yy))


@jit.item
def add_profile(sources, n_sources, plane, flux, x, y, xx, xy, yy, psf, n_terms, faintest):
    """Append a Gaussian profile (a point when its covariance is 0) convolved with the PSF."""
    total = f32(0.0)
    for k in range(n_terms):
        total += psf[k, P_WEIGHT]
    for k in range(n_terms):
        if psf[k, P_WEIGHT] > f32(0.0):
            add_gaussian(
                sources,
                n_sources,
                plane,
                flux * psf[k, P_WEIGHT] / total,
                x + psf[k, P_X],
                y + psf[k, P_Y],
                xx + psf[k, P_XX],
                xy + psf[k, P_XY],
                yy + psf[k, P_YY],
                faintest,
            )


@jit.item
def add_source(
    sources, n_sources, frame, maps, psf, flux, change, x, y, xx, xy, yy, n_terms, faintest
):
    """Append one source to the planes: `flux` in both images, `change` more in sci and truth.

    `maps` (3, 6) holds the affine maps (origin and matrix) from the sky to ref and sci, and
    the source's own displacement between them and relative flux error.
    """
    for image in range(2):
        m = maps[image]
        px = m[0] + m[2] * x + m[3] * y
        py = m[1] + m[4] * x + m[5] * y
        # covariance under the linear part of the map: M S M^T
        cxx = m[2] * m[2] * xx + f32(2) * m[2] * m[3] * xy + m[3] * m[3] * yy
        cxy = m[2] * m[4] * xx + (m[2] * m[5] + m[3] * m[4]) * xy + m[3] * m[5] * yy
        cyy = m[4] * m[4] * xx + f32(2) * m[4] * m[5] * xy + m[5] * m[5] * yy
        terms = psf[image]
        if image == REF:
            value = flux * frame[THROUGHPUT]
            add_profile(
                sources,
                n_sources,
                REF,
                value,
                px,
                py,
                cxx,
                cxy,
                cyy,
                terms,
                n_terms,
                faintest * frame[THROUGHPUT],
            )
        else:
            own = maps[2]
            value = flux * (f32(1) + own[2])
            add_profile(
                sources,
                n_sources,
                SCI,
                value,
                px + own[0],
                py + own[1],
                cxx,
                cxy,
                cyy,
                terms,
                n_terms,
                faintest,
            )
            if change != f32(0):
                add_profile(
                    sources,
                    n_sources,
                    TRUTH,
                    change,
                    px + own[0],
                    py + own[1],
                    cxx,
                    cxy,
                    cyy,
                    terms,
                    n_terms,
                    faintest,
                )


@jit.item
def draw_psf(
    scene,
    state,
    psf,
    fwhm,
    ecc_max,
    moffat,
    moffat_table,
    beta_index,
    asymmetric,
    spiky,
    spike_angle,
):
    """Fill the terms of one PSF: eqs 9-11, a Moffat profile, coma and spikes on request."""
    sigma_x = fwhm * FWHM_TO_SIGMA
    ecc = min(f32(0.9), abs(ecc_max * draw_normal(state)))
    sigma_y = sigma_x * f32(math.sqrt(f32(1) - ecc * ecc))
    angle = TWO_PI * draw(state)
    cos, sin = f32(math.cos(angle)), f32(math.sin(angle))
    xx = cos * cos * sigma_x * sigma_x + sin * sin * sigma_y * sigma_y
    yy = sin * sin * sigma_x * sigma_x + cos * cos * sigma_y * sigma_y
    xy = cos * sin * (sigma_x * sigma_x - sigma_y * sigma_y)
    for k in range(PSF_TERMS):
        for j in range(PSF_COLUMNS):
            psf[k, j] = f32(0)
    for k in range(MOFFAT_TERMS):
        weight, widen = f32(1) if k == 0 else f32(0), f32(1)
        if moffat:
            weight, widen = moffat_table[beta_index, k, 0], moffat_table[beta_index, k, 1]
        psf[k, P_WEIGHT] = weight
        psf[k, P_XX] = xx * widen
        psf[k, P_XY] = xy * widen
        psf[k, P_YY] = yy * widen
    u0, u1, u2, u3 = draw(state), draw(state), draw(state), draw(state)
    if asymmetric:
        weight, widen = f32(0.25) * u0, f32(0.6) + u1
        reach, angle = f32(0.7) * sigma_x * u2, TWO_PI * u3
        ox, oy = reach * f32(math.cos(angle)), reach * f32(math.sin(angle))
        for k in range(MOFFAT_TERMS):
            psf[k, P_WEIGHT] *= f32(1) - weight
            psf[k, P_X] = -weight * ox  # the centroid stays: registration follows it
            psf[k, P_Y] = -weight * oy
        k = MOFFAT_TERMS
        psf[k, P_WEIGHT] = weight
        psf[k, P_X] = (f32(1) - weight) * ox
        psf[k, P_Y] = (f32(1) - weight) * oy
        psf[k, P_XX] = xx * widen
        psf[k, P_XY] = xy * widen
        psf[k, P_YY] = yy * widen
    u0, u1 = draw(state), draw(state)
    if spiky:
        weight = f32(0.004) + f32(0.016) * u0
        long, short = fwhm * (f32(2) + f32(4) * u1), f32(0.35) * fwhm
        for k in range(MOFFAT_TERMS + 1):
            psf[k, P_WEIGHT] *= f32(1) - f32(2) * weight
        for j in range(2):
            angle = spike_angle + f32(j) * f32(np.pi / 2)
            cos, sin = f32(math.cos(angle)), f32(math.sin(angle))
            k = MOFFAT_TERMS + 1 + j
            psf[k, P_WEIGHT] = weight
            psf[k, P_XX] = cos * cos * long * long + sin * sin * short * short
            psf[k, P_YY] = sin * sin * long * long + cos * cos * short * short
            psf[k, P_XY] = cos * sin * (long * long - short * short)


@jit.item
def psf_concentration(psf):
    """Sum of the squares of a PSF's pixels: 1 / (its effective area)."""
    total = f32(0)
    for i in range(PSF_TERMS):
        for j in range(PSF_TERMS):
            if psf[i, P_WEIGHT] > f32(0) and psf[j, P_WEIGHT] > f32(0):
                xx = psf[i, P_XX] + psf[j, P_XX] + PIXEL_VARIANCE + PIXEL_VARIANCE
                yy = psf[i, P_YY] + psf[j, P_YY] + PIXEL_VARIANCE + PIXEL_VARIANCE
                xy = psf[i, P_XY] + psf[j, P_XY]
                det = xx * yy - xy * xy
                dx, dy = psf[i, P_X] - psf[j, P_X], psf[i, P_Y] - psf[j, P_Y]
                q = f32(0.5) * (yy * dx * dx - f32(2) * xy * dx * dy + xx * dy * dy) / det
                total += (
                    psf[i, P_WEIGHT]
                    * psf[j, P_WEIGHT]
                    * f32(math.exp(-q))
                    / (TWO_PI * f32(math.sqrt(det)))
                )
    return total


# ---------------------------------------------------------------- pass 1: the scene


@jit.item
def draw_scene(
    scene,
    seed,
    sample,
    ny,
    nx,
    moffat_table,
    sersic_table,
    state,
    maps,
    psf,
    frame,
    sources,
    n_sources,
    hosts,
    defects,
    n_defects,
    changes,
    n_changes,
):
    """Draw everything that makes sample number `sample`; see `Scene` for the distributions.

    Writes the PSFs (2, PSF_TERMS, 6), the frame's numbers, the Gaussians (3, max, 8), the
    defects (2, max, 6) and what changed (max, 5). `state`, `maps`, `hosts` are scratch.
    """
    state[0] = u64(seed) & MASK32
    state[1] = u64(seed) >> SHIFT32
    state[2] = u64(sample) & MASK32
    state[3] = u64(sample) >> SHIFT32
    state[4] = u64(0)
    n_sources[0] = 0
    n_sources[1] = 0
    n_sources[2] = 0
    areas = f32(ny * nx) * f32(1 / 4096)
    width, height = f32(nx), f32(ny)

    # point-spread functions
    if scene.fwhm_law > f32(0):
        fwhm_ref = draw_log_range(state, scene.fwhm_ref)
        fwhm_sci = draw_log_range(state, scene.fwhm_sci)
    else:
        fwhm_ref = draw_range(state, scene.fwhm_ref)
        fwhm_sci = draw_range(state, scene.fwhm_sci)
    if scene.fwhm_ratio_max > f32(0):
        fwhm_sci = min(
            max(fwhm_sci, fwhm_ref / scene.fwhm_ratio_max), fwhm_ref * scene.fwhm_ratio_max
        )
    moffat = draw(state) < scene.p_moffat
    n_betas = moffat_table.shape[0]
    asymmetric = draw(state) < scene.p_asymmetry
    spiky = draw(state) < scene.p_spikes
    spike_angle = f32(np.pi / 2) * draw(state)
    turned = draw(state) < f32(0.5)
    beta_ref = min(int(draw(state) * f32(n_betas)), n_betas - 1)
    draw_psf(
        scene,
        state,
        psf[REF],
        fwhm_ref,
        scene.ecc_max_ref,
        moffat,
        moffat_table,
        beta_ref,
        asymmetric,
        spiky,
        spike_angle,
    )
    if turned:
        spike_angle = f32(np.pi / 2) * draw(state)
    beta_sci = min(max(beta_ref + int(draw(state) * f32(3)) - 1, 0), n_betas - 1)
    draw_psf(
        scene,
        state,
        psf[SCI],
        fwhm_sci,
        scene.ecc_max_sci,
        moffat,
        moffat_table,
        beta_sci,
        asymmetric,
        spiky,
        spike_angle,
    )

    # sky, noise, detector
    sky = draw_log_range(state, scene.sky)
    frame[SKY_SCI] = sky
    frame[SKY_REF] = sky * draw_log_range(state, scene.sky_ratio)
    frame[READ_NOISE] = draw_range(state, scene.read_noise)
    frame[GAIN_SCI] = draw_log_range(state, scene.gain)
    frame[GAIN_REF] = frame[GAIN_SCI] * draw_log_range(state, scene.gain_ratio)
    frame[EXPOSURES] = f32(math.floor(draw_log_range(state, scene.n_exposures) + f32(0.5)))
    frame[THROUGHPUT] = draw_log_range(state, scene.throughput)
    # a star never saturates below the sky
    frame[FULL_WELL] = max(
        draw_log_range(state, scene.full_well), f32(3) * max(frame[SKY_SCI], frame[SKY_REF])
    )
    frame[HIDE_SATURATED] = f32(1) if draw(state) < scene.p_mask_saturated else f32(0)
    frame[GRADIENT_X] = scene.gradient * (f32(2) * draw(state) - f32(1))
    frame[GRADIENT_Y] = scene.gradient * (f32(2) * draw(state) - f32(1))
    for j in range(2):
        resampled = draw(state) < scene.p_resampled
        fx, fy = draw(state), draw(state)
        frame[FX_REF + 2 * j] = fx if resampled else f32(0)
        frame[FY_REF + 2 * j] = fy if resampled else f32(0)

    # noise of a pixel of sci - ref, in electrons of sci, and the flux with S/N = 1
    read2 = frame[READ_NOISE] * frame[READ_NOISE]
    thr = frame[THROUGHPUT]
    variance = frame[SKY_SCI] + read2 + (frame[SKY_REF] + read2) / (frame[EXPOSURES] * thr * thr)
    noise = f32(math.sqrt(variance))
    flux_unit = noise / f32(math.sqrt(psf_concentration(psf[SCI])))
    faintest = f32(0.03) * min(
        noise, f32(math.sqrt((frame[SKY_REF] + read2) / frame[EXPOSURES])) / thr
    )

    # D{}: half of the map on each image, about the centre
    turn = scene.rotation * draw_normal(state)
    grow = scene.scaling * draw_normal(state)
    dx, dy = scene.shift * draw_normal(state), scene.shift * draw_normal(state)
    cx, cy = f32(0.5) * (width - f32(1)), f32(0.5) * (height - f32(1))
    for image in range(2):
        half = f32(-0.5) if image == REF else f32(0.5)
        cos = f32(math.cos(half * turn)) * (f32(1) + half * grow)
        sin = f32(math.sin(half * turn)) * (f32(1) + half * grow)
        maps[image, 2] = cos
        maps[image, 3] = -sin
        maps[image, 4] = sin
        maps[image, 5] = cos
        # the bilinear shift that follows is made up for here
        maps[image, 0] = cx - cos * cx + sin * cy + half * dx + frame[FX_REF + 2 * image]
        maps[image, 1] = cy - sin * cx - cos * cy + half * dy + frame[FY_REF + 2 * image]
    jitter = draw_log_range(state, scene.source_jitter)
    flicker = draw_log_range(state, scene.flux_jitter)
    n_changes[0] = 0

    # galaxies
    n_galaxies = draw_count(
        state, draw_log_range(state, scene.galaxy_density) * areas, hosts.shape[0] - 1
    )
    central = draw(state) < scene.p_central_galaxy
    if central:
        n_galaxies += 1
    clustered = draw(state) < scene.p_cluster
    cluster_x, cluster_y = width * draw(state), height * draw(state)
    cluster_size = f32(6) + f32(14) * draw(state)
    for g in range(n_galaxies):
        x, y = width * draw(state), height * draw(state)
        radius = draw_log_range(state, scene.galaxy_radius)
        snr = draw_log_range(state, scene.galaxy_snr)
        if central and g == 0:
            x, y = (
                cx + f32(0.06) * width * draw_normal(state),
                cy + f32(0.06) * height * draw_normal(state),
            )
            radius = draw_range(state, scene.central_radius)
            snr = scene.galaxy_snr[1] * f32(math.sqrt(draw(state)))
        elif clustered:
            x = cluster_x + cluster_size * draw_normal(state)
            y = cluster_y + cluster_size * draw_normal(state)
        # S/N of the flux in the galaxy's own area
        area_ratio = f32(1) + radius * radius * psf_concentration(psf[SCI]) * f32(12.0)
        flux = snr * flux_unit * f32(math.sqrt(area_ratio))
        bulge = draw(state)
        bulge *= bulge
        axis = f32(0.25) + f32(0.75) * draw(state)
        angle = f32(np.pi) * draw(state)
        cos, sin = f32(math.cos(angle)), f32(math.sin(angle))
        hosts[g, 0] = x
        hosts[g, 1] = y
        hosts[g, 2] = radius
        own_x, own_y = jitter * draw_normal(state), jitter * draw_normal(state)
        maps[2, 0] = own_x
        maps[2, 1] = own_y
        maps[2, 2] = flicker * draw_normal(state)
        clumps = draw_count(state, f32(3) * draw(state), 8)
        clump_share = f32(0.3) * draw(state) if clumps > 0 else f32(0)
        for s in range(2):  # the bulge is rounder and smaller than the disk
            share = bulge if s == 1 else (f32(1) - bulge) * (f32(1) - clump_share)
            q = axis if s == 0 else f32(0.5) + f32(0.5) * axis
            scale = radius if s == 0 else f32(0.5) * radius
            for k in range(sersic_table.shape[1]):
                weight, sigma = sersic_table[s, k, 0], sersic_table[s, k, 1] * scale
                if weight > f32(0):
                    u, v = sigma * sigma, sigma * sigma * q * q
                    add_source(
                        sources,
                        n_sources,
                        frame,
                        maps,
                        psf,
                        flux * share * weight,
                        f32(0),
                        x,
                        y,
                        cos * cos * u + sin * sin * v,
                        cos * sin * (u - v),
                        sin * sin * u + cos * cos * v,
                        MOFFAT_TERMS,
                        faintest,
                    )
        # star-forming clumps on a two-armed logarithmic spiral in the disk's plane
        pitch = f32(0.2) + f32(0.3) * draw(state)
        phase = TWO_PI * draw(state)
        for k in range(clumps):
            along = draw(state)
            phi = phase + along * f32(4) + f32(np.pi) * f32(k % 2)
            reach = radius * f32(0.3) * f32(math.exp(pitch * along * f32(4)))
            u, v = reach * f32(math.cos(phi)), reach * f32(math.sin(phi)) * axis
            size = f32(0.08) * radius * (f32(0.5) + draw(state))
            add_source(
                sources,
                n_sources,
                frame,
                maps,
                psf,
                flux * (f32(1) - bulge) * clump_share / f32(clumps),
                f32(0),
                x + cos * u - sin * v,
                y + sin * u + cos * v,
                size * size,
                f32(0),
                size * size,
                MOFFAT_TERMS,
                faintest,
            )

    # stars, some of them variable; then those that vanished (in ref only)
    n_stars = draw_count(state, draw_log_range(state, scene.star_density) * areas, 1 << 30)
    n_vanished = draw_count(state, scene.n_vanished * areas, 1 << 30)
    slope = draw_range(state, scene.star_slope)
    ratio = f32(math.exp(slope * f32(math.log(scene.star_snr[0] / scene.star_snr[1]))))
    for i in range(n_stars + n_vanished):
        x, y = width * draw(state), height * draw(state)
        if clustered and draw(state) < f32(0.7):
            x = cluster_x + cluster_size * draw_normal(state)
            y = cluster_y + cluster_size * draw_normal(state)
        snr = scene.star_snr[0] * f32(
            math.exp(-f32(math.log(f32(1) - draw(state) * (f32(1) - ratio))) / slope)
        )
        maps[2, 0] = jitter * draw_normal(state)
        maps[2, 1] = jitter * draw_normal(state)
        maps[2, 2] = flicker * draw_normal(state)
        variable = draw(state) < scene.p_variable
        factor = draw(state)
        change = f32(0)
        flux = snr * flux_unit
        if i >= n_stars:
            flux = flux_unit * draw_log_range(
                state, scene.amplitude if scene.amplitude_rule == f32(0) else scene.star_snr
            )
            change = -flux
        elif variable:
            change = flux * (f32(3) * factor - f32(0.9))
            if change < f32(0) and scene.signed_truth == f32(0):
                change = -change
        if change != f32(0):
            maps[2, 2] = f32(0)
        add_source(
            sources,
            n_sources,
            frame,
            maps,
            psf,
            flux,
            change,
            x,
            y,
            f32(0),
            f32(0),
            f32(0),
            PSF_TERMS,
            faintest,
        )
        if change != f32(0):
            kind = VARIABLE if i < n_stars else VANISHED
            note_change(changes, n_changes, maps, frame, x, y, change, change / flux_unit, kind)
        # charge of a saturated star bleeds along its column, in each image for itself
        for image in range(2):
            level = flux * psf_concentration(psf[image]) * (thr if image == REF else f32(1))
            excess = level / frame[FULL_WELL]
            if excess > f32(3):
                length = min(f32(4) * f32(math.sqrt(excess)), f32(40)) * (f32(0.5) + draw(state))
                m = maps[image]
                add_defect(
                    defects,
                    n_defects,
                    image,
                    f32(4) * frame[FULL_WELL],
                    f32(math.floor(m[0] + m[2] * x + m[3] * y + f32(0.5))),
                    m[1] + m[4] * x + m[5] * y,
                    f32(0),
                    length,
                    f32(0.25),
                )

    # transients, eqs 7, 8, 23, 24: in sci only
    number = draw_range(state, scene.n_transients)
    n_new = draw_count(state, number, 1 << 30)
    if scene.exact_number > f32(0):
        n_new = int(number + f32(0.5))
    n_new += draw_count(state, scene.transient_density * areas, 1 << 30)
    maps[2, 0] = f32(0)
    maps[2, 1] = f32(0)
    maps[2, 2] = f32(0)
    n_static = n_sources[SCI]
    for _ in range(n_new):
        x, y = width * draw(state), height * draw(state)
        near, host = draw(state) < scene.p_near_galaxy, draw(state)
        ox, oy = draw_normal(state), draw_normal(state)
        if near and scene.near_sigma > f32(0):
            x, y = cx + scene.near_sigma * width * ox, cy + scene.near_sigma * height * oy
        elif near and n_galaxies > 0:
            g = min(int(host * f32(n_galaxies)), n_galaxies - 1)
            x, y = hosts[g, 0] + hosts[g, 2] * ox, hosts[g, 1] + hosts[g, 2] * oy
        if not (f32(0) <= x < width and f32(0) <= y < height):
            x, y = width * draw(state), height * draw(state)
        if scene.amplitude_rule == f32(0):
            flux = flux_unit * draw_log_range(state, scene.amplitude)
        elif scene.amplitude_rule == f32(1):
            local = frame[SKY_SCI]
            px = maps[1, 0] + maps[1, 2] * x + maps[1, 3] * y
            py = maps[1, 1] + maps[1, 4] * x + maps[1, 5] * y
            for i in range(n_static):
                local += source_value(sources[SCI, i], px, py)
            magnitude = draw_range(state, scene.amplitude)
            flux = (
                local
                * fwhm_sci
                * fwhm_sci
                * (f32(math.exp(f32(-0.4 * math.log(10)) * magnitude)) - f32(1))
            )
        else:
            flux = frame[GAIN_SCI] * max(
                f32(0), scene.amplitude[0] + scene.amplitude[1] * draw_normal(state)
            )
        # a new source is in sci alone: no flux common to both, all of it a change
        add_source(
            sources,
            n_sources,
            frame,
            maps,
            psf,
            f32(0),
            flux,
            x,
            y,
            f32(0),
            f32(0),
            f32(0),
            PSF_TERMS,
            faintest,
        )
        note_change(changes, n_changes, maps, frame, x, y, flux, flux / flux_unit, NEW)

    # artefacts
    for image in range(2):
        share = f32(1) / frame[EXPOSURES] if image == REF else f32(1)  # a stack has fewer left
        level = f32(math.sqrt(frame[SKY_REF + image] + read2))
        for _ in range(draw_count(state, scene.cosmic_rays * areas * share, 1 << 30)):
            angle, length = TWO_PI * draw(state), f32(-4) * f32(math.log(draw(state)))
            add_defect(
                defects,
                n_defects,
                image,
                level * f32(5) * f32(math.exp(f32(4.5) * draw(state))),
                width * draw(state),
                height * draw(state),
                length * f32(math.cos(angle)),
                length * f32(math.sin(angle)),
                f32(0.25) + f32(0.2) * draw(state),
            )
        for _ in range(draw_count(state, scene.hot_pixels * areas * share, 1 << 30)):
            add_defect(
                defects,
                n_defects,
                image,
                level * f32(5) * f32(math.exp(f32(4) * draw(state))),
                f32(math.floor(width * draw(state))),
                f32(math.floor(height * draw(state))),
                f32(0),
                f32(0),
                f32(0.2),
            )
        for _ in range(draw_count(state, scene.bad_columns * areas * share, 1 << 30)):
            add_defect(
                defects,
                n_defects,
                image,
                level * (f32(30) * draw(state) - f32(10)),
                f32(math.floor(width * draw(state))),
                height * draw(state),
                f32(0),
                height * f32(2) * draw(state),
                f32(0.2),
            )

    # missing pixels: an edge, a block or a column; sometimes the same in both images
    both = draw(state) < f32(0.4)
    for image in range(2):
        m = MISSING_REF + 4 * image
        missing = draw(state) < scene.p_missing
        kind, u0, u1, u2 = draw(state), draw(state), draw(state), draw(state)
        x0, x1, y0, y1 = f32(0), f32(0), f32(0), f32(0)
        if missing:
            if kind < f32(0.25):
                x1, y1 = f32(math.floor(width * f32(0.4) * u0)), height
            elif kind < f32(0.5):
                y0, x1, y1 = f32(math.floor(height * (f32(1) - f32(0.4) * u0))), width, height
            elif kind < f32(0.75):
                x0, y0 = f32(math.floor(width * u0)), f32(math.floor(height * u1))
                x1, y1 = (
                    x0 + f32(1) + f32(math.floor(f32(8) * u2)),
                    y0 + f32(1) + f32(math.floor(f32(8) * u2)),
                )
            else:
                x0, y1 = f32(math.floor(width * u0)), height
                x1 = x0 + f32(1) + f32(math.floor(f32(2) * u1))
        if image == SCI and both:
            x0, x1, y0, y1 = (
                frame[MISSING_REF],
                frame[MISSING_REF + 1],
                frame[MISSING_REF + 2],
                frame[MISSING_REF + 3],
            )
        frame[m] = x0
        frame[m + 1] = x1
        frame[m + 2] = y0
        frame[m + 3] = y1

    # trails of satellites and aeroplanes: most cross the frame, some begin or end on it
    for image in range(2):
        share = f32(1) / frame[EXPOSURES] if image == REF else f32(1)
        level = f32(math.sqrt(frame[SKY_REF + image] + read2))
        sigma = FWHM_TO_SIGMA * (fwhm_ref if image == REF else fwhm_sci)
        mean = scene.trails * share * f32(math.sqrt(areas))
        for _ in range(draw_count(state, mean, 1 << 30)):
            angle, length = TWO_PI * draw(state), f32(3) * (width + height)
            if draw(state) < f32(0.3):
                length *= f32(0.3) * draw(state)
            spread = draw(state)
            sigma_across = sigma * (f32(1) + f32(1.5) * spread * spread)  # aeroplanes are blurred
            peak = level * f32(0.4) * f32(math.exp(f32(5) * draw(state)))
            x, y = width * draw(state), height * draw(state)
            blinks, u0, u1, u2 = draw(state), draw(state), draw(state), draw(state)
            added = add_defect(
                defects,
                n_defects,
                image,
                peak,
                x,
                y,
                length * f32(math.cos(angle)),
                length * f32(math.sin(angle)),
                sigma_across,
            )
            if added and blinks < scene.p_blinking:
                row = defects[image, n_defects[image] - 1]
                # from a few widths to beyond a stamp, where one flash is all that is seen
                row[D_PERIOD] = f32(4) * sigma_across * f32(math.exp(f32(3.5) * u0))
                row[D_DASH] = row[D_PERIOD] * f32(0.6) * u1 * u1
                row[D_PHASE] = row[D_PERIOD] * (u2 - f32(0.5))


@jit.item
def note_change(changes, n_changes, maps, frame, x, y, flux, snr, kind):
    i = n_changes[0]
    if i >= changes.shape[0]:
        return
    n_changes[0] = i + 1
    m = maps[1]
    changes[i, T_X] = m[0] + m[2] * x + m[3] * y + maps[2, 0] - frame[FX_SCI]
    changes[i, T_Y] = m[1] + m[4] * x + m[5] * y + maps[2, 1] - frame[FY_SCI]
    changes[i, T_FLUX] = flux / frame[GAIN_SCI]
    changes[i, T_SNR] = snr
    changes[i, T_KIND] = f32(kind)


@jit.item
def add_defect(defects, n_defects, image, peak, x, y, dx, dy, width):
    i = n_defects[image]
    if i >= defects.shape[1]:
        return False
    n_defects[image] = i + 1
    row = defects[image, i]
    row[D_PEAK] = peak
    row[D_X] = x
    row[D_Y] = y
    row[D_DX] = dx
    row[D_DY] = dy
    row[D_WIDTH] = width
    row[D_PERIOD] = f32(0)
    row[D_DASH] = f32(0)
    row[D_PHASE] = f32(0)
    return True


# ---------------------------------------------------------------- pass 2: the pixels


@jit.item
def source_value(row, x, y):
    """Value of one Gaussian of the table at (x, y); 0 outside its box."""
    dx, dy = x - row[X], y - row[Y]
    if abs(dx) > row[RX] or abs(dy) > row[RY]:
        return f32(0)
    return gaussian_value(row[PEAK], row[A], row[B], row[C], dx, dy)


@jit.item
def defect_value(row, x, y):
    """Value at (x, y) of a segment centred on (D_X, D_Y) with a Gaussian cross-section."""
    rx, ry = x - row[D_X], y - row[D_Y]
    length2 = row[D_DX] * row[D_DX] + row[D_DY] * row[D_DY]
    if length2 > f32(0):
        t = (rx * row[D_DX] + ry * row[D_DY]) / length2
        if row[D_PERIOD] > f32(0):  # to the nearest point of the nearest dash
            length = f32(math.sqrt(length2))
            period, phase = row[D_PERIOD], row[D_PHASE]
            last = f32(math.floor((f32(0.5) * length - phase) / period))
            first = -f32(math.floor((f32(0.5) * length + phase) / period))
            if first > last:  # the trail ends between two flashes
                return f32(0)
            along = t * length - phase
            nearest = min(max(f32(math.floor(along / period + f32(0.5))), first), last)
            half = f32(0.5) * row[D_DASH]
            off = min(max(along - period * nearest, -half), half)
            t = (period * nearest + off + phase) / length
        else:
            t = min(max(t, f32(-0.5)), f32(0.5))
        rx -= t * row[D_DX]
        ry -= t * row[D_DY]
    q = (rx * rx + ry * ry) / (f32(2) * row[D_WIDTH] * row[D_WIDTH])
    return row[D_PEAK] * exp_neg(q) if q < f32(12) else f32(0)


@jit.item
def sky_value(frame, image, x, y, width, height):
    slope = frame[GRADIENT_X] * (x / width - f32(0.5)) + frame[GRADIENT_Y] * (y / height - f32(0.5))
    # the two images are taken under different skies
    tilt = f32(1) if image == SCI else f32(-0.5)
    return frame[SKY_REF + image] * (f32(1) + tilt * slope)


@jit.item
def pixel_words(seed, sample, image, x, y):
    """Three random words of one pixel of one image.

    Its counter holds the coordinates, so that it does not depend on the frame's width.
    """
    stream = STREAM_REF if image == REF else STREAM_SCI
    low, high = u64(sample) & MASK32, u64(sample) >> SHIFT32
    key0, key1 = u64(seed) & MASK32, u64(seed) >> SHIFT32
    w0, w1, w2, _ = philox((u64(y) << u64(16)) | u64(x), stream, low, high, key0, key1)
    return w0, w1, w2


@jit.item
def detect(photons, read, extra, exposures, read_noise, full_well):
    """A pixel's electrons as the detector gives them: eq 12, read noise, defects, full well."""
    value = photons / exposures + read_noise * read / f32(math.sqrt(exposures)) + extra
    return min(value, full_well)


@jit.item
def variance_value(frame, electrons_ref, electrons_sci):
    """Expected variance of sci - scale ref in one pixel before resampling, in counts of sci."""
    read2 = frame[READ_NOISE] * frame[READ_NOISE]
    thr = frame[THROUGHPUT]
    variance = electrons_sci + read2 + (electrons_ref + read2) / (frame[EXPOSURES] * thr * thr)
    return variance / (frame[GAIN_SCI] * frame[GAIN_SCI])


@jit.item
def resample(v00, v01, v10, v11, fx, fy):
    """Bilinear interpolation between four pixels."""
    upper = v00 * (f32(1) - fx) + v01 * fx
    lower = v10 * (f32(1) - fx) + v11 * fx
    return upper * (f32(1) - fy) + lower * fy


@jit.item
def is_lost(frame, image, x, y, v00, v01, v10, v11):
    """Whether a pixel is missing, or saturated in a frame that hides such pixels."""
    m = MISSING_REF + 4 * image
    if frame[m] <= x < frame[m + 1] and frame[m + 2] <= y < frame[m + 3]:
        return True
    brightest = max(max(v00, v01), max(v10, v11))
    return frame[HIDE_SATURATED] > f32(0) and brightest >= frame[FULL_WELL]


@jit.cpu_loop
def draw_scenes_cpu(
    start,
    stop,
    scene,
    seed,
    first,
    ny,
    nx,
    moffat_table,
    sersic_table,
    state,
    maps,
    psf,
    frame,
    sources,
    n_sources,
    hosts,
    defects,
    n_defects,
    changes,
    n_changes,
):
    for i in range(start, stop):
        draw_scene(
            scene,
            seed,
            first + i,
            ny,
            nx,
            moffat_table,
            sersic_table,
            state[i],
            maps[i],
            psf[i],
            frame[i],
            sources[i],
            n_sources[i],
            hosts[i],
            defects[i],
            n_defects[i],
            changes[i],
            n_changes[i],
        )


@jit.cuda_kernel
def draw_scenes_cuda(
    scene,
    seed,
    first,
    ny,
    nx,
    moffat_table,
    sersic_table,
    state,
    maps,
    psf,
    frame,
    sources,
    n_sources,
    hosts,
    defects,
    n_defects,
    changes,
    n_changes,
):
    i = cuda.grid(1)
    if i < frame.shape[0]:
        draw_scene(
            scene,
            seed,
            first + i,
            ny,
            nx,
            moffat_table,
            sersic_table,
            state[i],
            maps[i],
            psf[i],
            frame[i],
            sources[i],
            n_sources[i],
            hosts[i],
            defects[i],
            n_defects[i],
            changes[i],
            n_changes[i],
        )


@jit.item
def observe_row(
    seed, sample, image, y, exposures, read_noise, full_well, electrons, extra, words, normals
):
    """A row of expected electrons, observed in place: `poisson` and `detect` of each pixel.

    Stages of a row in functions and loops of their own vectorise; together they do not.
    """
    photon, read, uniform = normals[0], normals[1], normals[2]
    fill_words(seed, sample, image, y, words[0], words[1], words[2])
    fill_normals(words[0], words[1], words[2], photon, read, uniform)
    faint = False
    for x in range(electrons.size):
        electrons[x] *= exposures
        faint |= electrons[x] < POISSON_INVERSION
    if faint:
        for x in range(electrons.size):
            electrons[x] = poisson(electrons[x], photon[x], uniform[x])
    else:
        for x in range(electrons.size):
            electrons[x] = poisson_by_quantile(electrons[x], photon[x])
    for x in range(electrons.size):
        electrons[x] = detect(electrons[x], read[x], extra[x], exposures, read_noise, full_well)


@jit.item
def fill_words(seed, sample, image, y, words0, words1, words2):
    for x in range(words0.size):
        words0[x], words1[x], words2[x] = pixel_words(seed, sample, image, x, y)


@jit.item
def fill_normals(words0, words1, words2, photon, read, uniform):
    for x in range(words0.size):
        uniform[x] = unit(words2[x])
        photon[x], read[x] = normal_pair(words0[x], words1[x])


@jit.item
def resample_row(upper, lower, fx, fy, gain, out):
    for x in range(out.size):
        out[x] = resample(upper[x], upper[x + 1], lower[x], lower[x + 1], fx, fy) / gain


@jit.item
def lose_row(frame, image, y, columns, upper, lower, out):
    """Put NaN where `is_lost`; most rows have no such pixel, and that is quickly seen."""
    m = MISSING_REF + 4 * image
    suspect = frame[m + 2] <= y < frame[m + 3]
    if frame[HIDE_SATURATED] > f32(0):
        brightest = f32(0)
        for x in range(upper.size):
            brightest = max(brightest, max(upper[x], lower[x]))
        suspect |= brightest >= frame[FULL_WELL]
    if suspect:
        for x in range(out.size):
            v00, v01, v10, v11 = upper[x], upper[x + 1], lower[x], lower[x + 1]
            if is_lost(frame, image, columns[x], y, v00, v01, v10, v11):
                out[x] = f32(np.nan)


@jit.cpu_loop
def render_cpu(
    start,
    stop,
    seed,
    first,
    band,
    columns,
    frame,
    sources,
    n_sources,
    defects,
    n_defects,
    background,
    ref,
    sci,
    truth,
    variance,
):
    """Items are bands of `band` rows: (sample, band) in row-major order.

    `columns` is 0, 1, ... as float32, so that the loop over a row has no integer in it.
    `background` (n, 2, ny + 1, nx + 1) adds electrons; it may be empty.
    """
    ny, nx = ref.shape[1], ref.shape[2]
    n_bands = (ny + band - 1) // band
    # one row and column more than the frame, for the bilinear shift
    planes = np.empty((3, band + 1, nx + 1), np.float32)
    extras = np.empty((2, band + 1, nx + 1), np.float32)
    words = np.empty((3, nx + 1), np.uint32)
    normals = np.empty((3, nx + 1), np.float32)
    width, full_height = f32(nx), f32(ny)
    for item in range(start, stop):
        i, y0 = item // n_bands, (item % n_bands) * band
        y1 = min(y0 + band, ny)
        height = y1 - y0 + 1
        own = frame[i]
        planes[:] = f32(0)
        extras[:] = f32(0)
        for plane in range(3):
            for k in range(n_sources[i, plane]):
                row = sources[i, plane, k]
                ya, yb = (
                    max(0, int(math.ceil(row[Y] - row[RY])) - y0),
                    min(height - 1, int(math.floor(row[Y] + row[RY])) - y0),
                )
                xa, xb = (
                    max(0, int(math.ceil(row[X] - row[RX]))),
                    min(nx, int(math.floor(row[X] + row[RX]))),
                )
                if xa > xb:
                    continue
                peak, a, b, c, centre = row[PEAK], row[A], row[B], row[C], row[X]
                for y in range(ya, yb + 1):
                    line, dy = planes[plane, y], f32(y + y0) - row[Y]
                    for x in range(xa, xb + 1):
                        line[x] += gaussian_value(peak, a, b, c, columns[x] - centre, dy)
        for image in range(2):
            for k in range(n_defects[i, image]):
                row = defects[i, image, k]
                reach_y, reach_x = (
                    f32(0.5) * abs(row[D_DY]) + f32(5) * row[D_WIDTH],
                    f32(0.5) * abs(row[D_DX]) + f32(5) * row[D_WIDTH],
                )
                for y in range(
                    max(0, int(math.ceil(row[D_Y] - reach_y)) - y0),
                    min(height - 1, int(math.floor(row[D_Y] + reach_y)) - y0) + 1,
                ):
                    for x in range(
                        max(0, int(math.ceil(row[D_X] - reach_x))),
                        min(nx, int(math.floor(row[D_X] + reach_x))) + 1,
                    ):
                        extras[image, y, x] += defect_value(row, f32(x), f32(y + y0))
        for y in range(height):
            py = f32(y + y0)
            ref_e, sci_e, truth_e = planes[REF, y], planes[SCI, y], planes[TRUTH, y]
            for x in range(nx + 1):
                ref_e[x] += sky_value(own, REF, columns[x], py, width, full_height)
                sci_e[x] += truth_e[x] + sky_value(own, SCI, columns[x], py, width, full_height)
            if background.size:
                for x in range(nx + 1):
                    ref_e[x] += background[i, REF, y + y0, x]
                    sci_e[x] += background[i, SCI, y + y0, x]
            if y < height - 1:
                for x in range(nx):
                    variance[i, y + y0, x] = variance_value(own, ref_e[x], sci_e[x])
            for image in range(2):
                n = own[EXPOSURES] if image == REF else f32(1)
                observe_row(
                    seed,
                    first + i,
                    image,
                    y + y0,
                    n,
                    own[READ_NOISE],
                    own[FULL_WELL],
                    planes[image, y],
                    extras[image, y],
                    words,
                    normals,
                )
        for image in range(3):
            column = min(image, SCI)
            fx, fy, gain = (
                own[FX_REF + 2 * column],
                own[FY_REF + 2 * column],
                own[GAIN_REF + column],
            )
            for y in range(height - 1):
                p, below = planes[image, y], planes[image, y + 1]
                out = (
                    ref[i, y + y0]
                    if image == REF
                    else (sci[i, y + y0] if image == SCI else truth[i, y + y0])
                )
                resample_row(p, below, fx, fy, gain, out)
                if image != TRUTH:
                    lose_row(own, image, f32(y + y0), columns, p, below, out)


@jit.item
def sky_electrons(frame, sources, n_sources, background, sample, plane, x, y, nx, ny):
    """Electrons that one plane's sources send to pixel (x, y), gathered over the table."""
    total = f32(0)
    for k in range(n_sources[plane]):
        total += source_value(sources[plane, k], f32(x), f32(y))
    if plane != TRUTH:
        total += sky_value(frame, plane, f32(x), f32(y), f32(nx), f32(ny))
        if background.size:
            total += background[sample, plane, y, x]
    return total


@jit.item
def defect_electrons(defects, n_defects, image, x, y):
    total = f32(0)
    for k in range(n_defects[image]):
        total += defect_value(defects[image, k], f32(x), f32(y))
    return total


@jit.cuda_kernel
def render_cuda(
    seed,
    first,
    frame,
    sources,
    n_sources,
    defects,
    n_defects,
    background,
    ref,
    sci,
    truth,
    variance,
):
    """One thread a pixel of a sample; the bilinear shift reads three neighbours anew."""
    item = cuda.grid(1)
    ny, nx = ref.shape[1], ref.shape[2]
    if item >= ref.shape[0] * ny * nx:
        return
    i, y, x = item // (ny * nx), (item // nx) % ny, item % nx
    own, sample = frame[i], first + i
    fx, fy = own[FX_SCI], own[FY_SCI]
    for image in range(2):
        shifted = own[FX_REF + 2 * image] > f32(0) or own[FY_REF + 2 * image] > f32(0)
        value, changed = f32(0), f32(0)
        v00, v01, v10, v11 = f32(0), f32(0), f32(0), f32(0)
        for j in range(4 if shifted else 1):
            px, py = x + j % 2, y + j // 2
            value = sky_electrons(
                own, sources[i], n_sources[i], background, i, image, px, py, nx, ny
            )
            if image == SCI:
                t = sky_electrons(
                    own, sources[i], n_sources[i], background, i, TRUTH, px, py, nx, ny
                )
                wx, wy = fx if j % 2 else f32(1) - fx, fy if j // 2 else f32(1) - fy
                changed += t * wx * wy
                value += t
                if j == 0:
                    e_ref = sky_electrons(
                        own, sources[i], n_sources[i], background, i, REF, x, y, nx, ny
                    )
                    variance[i, y, x] = variance_value(own, e_ref, value)
            w0, w1, w2 = pixel_words(seed, sample, image, px, py)
            photon, read = normal_pair(w0, w1)
            n = own[EXPOSURES] if image == REF else f32(1)
            extra = defect_electrons(defects[i], n_defects[i], image, px, py)
            photons = poisson(n * value, photon, unit(w2))
            value = detect(photons, read, extra, n, own[READ_NOISE], own[FULL_WELL])
            if j == 0:
                v00 = value
            elif j == 1:
                v01 = value
            elif j == 2:
                v10 = value
            else:
                v11 = value
        if not shifted:
            v01, v10, v11 = v00, v00, v00
        value = resample(v00, v01, v10, v11, own[FX_REF + 2 * image], own[FY_REF + 2 * image])
        value /= own[GAIN_REF + image]
        if is_lost(own, image, f32(x), f32(y), v00, v01, v10, v11):
            value = f32(np.nan)
        if image == REF:
            ref[i, y, x] = value
        else:
            sci[i, y, x] = value
            truth[i, y, x] = changed / own[GAIN_SCI]


# ---------------------------------------------------------------- tables made once


def moffat_mixture(beta: float, n_terms: int) -> np.ndarray:
    """Weights and variances, relative to the Gaussian of equal FWHM, of a Moffat profile's terms.

    (1 + s)^-b = 1/Gamma(b) int t^(b-1) exp(-t) exp(-t s) dt: each t is a Gaussian of variance
    a^2 / (2 t) and flux ~ t^(b-2) exp(-t). Generalised Gauss-Laguerre nodes of that weight
    keep the total flux and the central brightness exactly, and the profile within 3 % of its
    peak; beyond 2.5 FWHM the sum falls below the profile's wings.
    """
    k = np.arange(n_terms)
    diagonal = 2 * k + beta - 1  # Golub-Welsch: eigenvalues of the Jacobi matrix
    off = np.sqrt(k[1:] * (k[1:] + beta - 2))
    nodes, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    flux = vectors[0] ** 2
    a2 = 1 / (4 * (2 ** (1 / beta) - 1))  # (a / FWHM)^2
    sigma2 = 1 / (8 * math.log(2))
    return np.column_stack([flux / flux.sum(), a2 / (2 * nodes) / sigma2]).astype(np.float32)


def profile_tables() -> tuple[np.ndarray, np.ndarray]:
    moffat = np.stack([moffat_mixture(beta, MOFFAT_TERMS) for beta in MOFFAT_BETAS])
    sersic = np.zeros((2, max(len(EXPONENTIAL), len(DE_VAUCOULEURS)), 2), np.float32)
    sersic[0, : len(EXPONENTIAL)] = EXPONENTIAL
    sersic[1, : len(DE_VAUCOULEURS)] = DE_VAUCOULEURS
    return moffat, sersic


# ---------------------------------------------------------------- a batch


class Batch(NamedTuple):
    """A batch of samples: images in counts, what changed, and the numbers behind them."""

    ref: np.ndarray  # (n, ny, nx) float32, NaN where missing
    sci: np.ndarray
    truth: np.ndarray  # counts of sci
    variance: np.ndarray  # expected variance of sci - scale ref, counts^2 of sci
    changes: np.ndarray  # (n, max_changes, 5) float32
    n_changes: np.ndarray  # (n, 1) int64
    frame: np.ndarray  # (n, FRAME_COLUMNS) float32
    psf: np.ndarray  # (n, 2, PSF_TERMS, 6) float32


def _limit(mean: float) -> int:
    """A number that a Poisson variable of this mean exceeds once in a billion draws."""
    return int(mean + 6 * math.sqrt(mean) + 12)


def synthesise(
    scene: Scene,
    n: int,
    shape: tuple[int, int],
    seed: int,
    first: int = 0,
    threads: int | None = None,
    background=None,
    band: int = 128,
) -> Batch:
    """Samples ``first`` to ``first + n - 1`` of the stream `seed`, on the CPU.

    `background`, if any, is called with (frame, psf, first) after the scenes are drawn and
    returns electrons to add, (n, 2, ny + 1, nx + 1).
    """
    scene = Scene(*(tuple(map(f32, v)) if isinstance(v, tuple) else f32(v) for v in scene))
    ny, nx = shape
    arrays = scene_arrays(scene, n, ny, nx)
    moffat, sersic = profile_tables()
    jit.run(draw_scenes_cpu, n, threads, scene, u64(seed), first, ny, nx, moffat, sersic, *arrays)
    _, _, psf, frame, sources, n_sources, _, defects, n_defects, changes, n_changes = arrays
    extra = (
        np.empty((0, 0, 0, 0), np.float32) if background is None else background(frame, psf, first)
    )
    ref, sci, truth, variance = (np.empty((n, ny, nx), np.float32) for _ in range(4))
    columns = np.arange(nx + 1, dtype=np.float32)
    n_bands = -(-ny // band)
    jit.run(
        render_cpu,
        n * n_bands,
        threads,
        u64(seed),
        first,
        min(band, ny),
        columns,
        frame,
        sources,
        n_sources,
        defects,
        n_defects,
        extra,
        ref,
        sci,
        truth,
        variance,
    )
    return Batch(ref, sci, truth, variance, changes, n_changes, frame, psf)


def scene_arrays(scene: Scene, n: int, ny: int, nx: int) -> tuple[np.ndarray, ...]:
    """Empty tables for `draw_scene`, big enough for any draw; host memory."""
    areas = ny * nx / 4096
    n_galaxies = _limit(float(scene.galaxy_density[1]) * areas) + 1
    n_points = _limit(float(scene.star_density[1]) * areas) + _limit(
        float(scene.n_vanished) * areas
    )
    n_new = _limit(float(scene.n_transients[1])) + _limit(float(scene.transient_density) * areas)
    per_galaxy = (len(EXPONENTIAL) + len(DE_VAUCOULEURS) + 8) * MOFFAT_TERMS
    n_sources = n_galaxies * per_galaxy + (n_points + n_new) * PSF_TERMS
    n_defects = n_points + sum(
        _limit(float(mean) * areas)
        for mean in (scene.cosmic_rays, scene.hot_pixels, scene.bad_columns)
    )
    n_defects += _limit(float(scene.trails) * math.sqrt(areas))
    return (
        np.empty((n, 5), np.uint64),
        np.empty((n, 3, 6), np.float32),
        np.empty((n, 2, PSF_TERMS, PSF_COLUMNS), np.float32),
        np.empty((n, FRAME_COLUMNS), np.float32),
        np.empty((n, 3, n_sources, SOURCE_COLUMNS), np.float32),
        np.empty((n, 3), np.int64),
        np.empty((n, n_galaxies, 3), np.float32),
        np.empty((n, 2, n_defects, DEFECT_COLUMNS), np.float32),
        np.zeros((n, 2), np.int64),
        np.empty((n, n_points + n_new, CHANGE_COLUMNS), np.float32),
        np.empty((n, 1), np.int64),
    )
