"""The PSFs of a sample: a Gaussian or a Moffat profile, coma and diffraction spikes (eqs 9-11)."""

import math

import numpy as np

from .. import jit
from .gaussians import PIXEL_VARIANCE
from .profiles import MOFFAT_TERMS, WEIGHT, WIDEN
from .random import TWO_PI, draw, draw_log_range, draw_normal, draw_range
from .tables import (
    P_WEIGHT,
    P_X,
    P_XX,
    P_XY,
    P_Y,
    P_YY,
    PSF_COLUMNS,
    PSF_TERMS,
    REF,
    SCI,
)

f32 = np.float32

FWHM_TO_SIGMA = f32(1 / (2 * math.sqrt(2 * math.log(2))))


@jit.item
def draw_psfs(scene, moffat_table, own):
    """Fill the terms of both PSFs; their widths come back, (FWHM of ref, FWHM of sci)."""
    state = own.state
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
    beta = min(int(draw(state) * f32(n_betas)), n_betas - 1)
    terms = moffat_table[beta]
    draw_psf(
        state, own.psf[REF], fwhm_ref, scene.ecc_max_ref, moffat, terms, asymmetric, spiky,
        spike_angle,
    )  # fmt: skip
    if turned:
        spike_angle = f32(np.pi / 2) * draw(state)
    beta = min(max(beta + int(draw(state) * f32(3)) - 1, 0), n_betas - 1)
    terms = moffat_table[beta]
    draw_psf(
        state, own.psf[SCI], fwhm_sci, scene.ecc_max_sci, moffat, terms, asymmetric, spiky,
        spike_angle,
    )  # fmt: skip
    return fwhm_ref, fwhm_sci


@jit.item
def draw_psf(state, psf, fwhm, ecc_max, moffat, moffat_terms, asymmetric, spiky, spike_angle):
    """Fill the terms of one PSF."""
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
            weight, widen = moffat_terms[k, WEIGHT], moffat_terms[k, WIDEN]
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
