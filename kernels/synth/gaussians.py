"""Gaussians: their values, and sources appended to the table of them.

Everything in the sky and every PSF is a sum of two-dimensional Gaussians, so that a convolution
is a sum of covariances, exact at any sub-pixel position and under any affine map, without an FFT.
"""

import math
from typing import NamedTuple

import numpy as np

from .. import jit
from .random import TWO_PI
from .tables import (
    M_X,
    M_XX,
    M_XY,
    M_Y,
    M_YX,
    M_YY,
    P_WEIGHT,
    P_X,
    P_XX,
    P_XY,
    P_Y,
    P_YY,
    PEAK,
    REF,
    RX,
    RY,
    SCI,
    THROUGHPUT,
    TRUTH,
    A,
    B,
    C,
    X,
    Y,
)

f32 = np.float32

PIXEL_VARIANCE = f32(1 / 12)  # a pixel is a box: its variance adds to every profile


class Source(NamedTuple):
    """A Gaussian source in the sky: a point when its covariance is 0. Electrons of sci, pixels."""

    flux: np.float32  # in both images
    change: np.float32  # in sci and truth besides
    x: np.float32
    y: np.float32
    xx: np.float32
    xy: np.float32
    yy: np.float32


class Drift(NamedTuple):
    """How a source differs in sci by itself: its displacement and its relative flux error."""

    x: np.float32
    y: np.float32
    flux: np.float32


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
    """Value of a Gaussian (dx, dy) from its centre; see the columns of the table."""
    return peak * exp_neg(a * dx * dx + (b + b) * dx * dy + c * dy * dy)


@jit.item
def source_value(row, x, y):
    """Value of one Gaussian of the table at (x, y); 0 outside its box."""
    dx, dy = x - row[X], y - row[Y]
    if abs(dx) > row[RX] or abs(dy) > row[RY]:
        return f32(0)
    return gaussian_value(row[PEAK], row[A], row[B], row[C], dx, dy)


@jit.item
def add_gaussian(own, plane, flux, x, y, xx, xy, yy, faintest):
    """Append a Gaussian of total `flux`; what lies below `faintest` a pixel is left out.

    The truth keeps its wings down to exp(-9) of the peak, so that its sum is the flux. A full
    table takes no more.
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
    i = own.n_sources[plane]
    if i >= own.sources.shape[1]:
        return
    own.n_sources[plane] = i + 1
    row = own.sources[plane, i]
    row[PEAK] = peak
    row[X] = x
    row[Y] = y
    row[A] = f32(0.5) * yy / det
    row[B] = f32(-0.5) * xy / det
    row[C] = f32(0.5) * xx / det
    row[RX] = f32(math.sqrt(f32(2.0) * q * xx))
    row[RY] = f32(math.sqrt(f32(2.0) * q * yy))


@jit.item
def add_profile(own, plane, flux, x, y, xx, xy, yy, n_terms, faintest):
    """Append a Gaussian profile (a point when its covariance is 0) convolved with the PSF."""
    psf = own.psf[min(plane, SCI)]
    total = f32(0.0)
    for k in range(n_terms):
        total += psf[k, P_WEIGHT]
    for k in range(n_terms):
        if psf[k, P_WEIGHT] > f32(0.0):
            add_gaussian(
                own,
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
def point(flux, change, x, y):
    """A source without extent."""
    return Source(flux, change, x, y, f32(0), f32(0), f32(0))


@jit.item
def mapped(m, x, y):
    """A place in the sky under the affine map `m`."""
    return m[M_X] + m[M_XX] * x + m[M_XY] * y, m[M_Y] + m[M_YX] * x + m[M_YY] * y


@jit.item
def add_source(own, source, drift, n_terms, faintest):
    """Append one source to the planes of a sample, with the first `n_terms` terms of its PSFs."""
    xx, xy, yy = source.xx, source.xy, source.yy
    for image in range(2):
        m = own.maps[image]
        px, py = mapped(m, source.x, source.y)
        # covariance under the linear part of the map: M S M^T
        cxx = m[M_XX] * m[M_XX] * xx + f32(2) * m[M_XX] * m[M_XY] * xy + m[M_XY] * m[M_XY] * yy
        cxy = (
            m[M_XX] * m[M_YX] * xx
            + (m[M_XX] * m[M_YY] + m[M_XY] * m[M_YX]) * xy
            + m[M_XY] * m[M_YY] * yy
        )
        cyy = m[M_YX] * m[M_YX] * xx + f32(2) * m[M_YX] * m[M_YY] * xy + m[M_YY] * m[M_YY] * yy
        if image == REF:
            throughput = own.frame[THROUGHPUT]
            value, limit = source.flux * throughput, faintest * throughput
            add_profile(own, REF, value, px, py, cxx, cxy, cyy, n_terms, limit)
        else:
            px, py = px + drift.x, py + drift.y
            value = source.flux * (f32(1) + drift.flux)
            add_profile(own, SCI, value, px, py, cxx, cxy, cyy, n_terms, faintest)
            if source.change != f32(0):
                add_profile(own, TRUTH, source.change, px, py, cxx, cxy, cyy, n_terms, faintest)
