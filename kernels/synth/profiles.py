"""Sums of Gaussians that stand for a Moffat PSF and for Sersic profiles of galaxies.

* Moffat PSF: ``(1 + r^2/a^2)^-b`` is a scale mixture of Gaussians with a Gamma(b) weight.
  Gauss-Laguerre quadrature of that integral gives its terms (`moffat_mixture`).
* Sersic profiles of index 1 and 4: non-negative fits (`EXPONENTIAL`, `DE_VAUCOULEURS`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

MOFFAT_BETAS = (2.5, 3.0, 3.5, 4.5)
MOFFAT_TERMS = 4

# (weight, sigma / half-light radius) of Gaussians that sum to a Sersic profile with unit
# flux; non-negative least squares of the surface brightness on 0.02-6 (n = 1) and 0.02-12
# (n = 4) half-light radii, 6 logarithmic widths.
# tests/kernels/synth/test_profiles.py compares them with the profiles.
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

# Columns of the Moffat table: flux, and variance relative to the Gaussian of equal FWHM; and of
# the Sersic table: flux, and standard deviation over the half-light radius.
WEIGHT = 0
WIDEN = RELATIVE_SIGMA = 1
DISK, BULGE = range(2)  # rows of the Sersic table: indices 1 and 4


class Profiles(NamedTuple):
    """The tables of a batch; see `profile_tables`."""

    moffat: Any  # (len(MOFFAT_BETAS), MOFFAT_TERMS, 2) float32
    sersic: Any  # (2, terms, 2) float32; terms of weight 0 fill the shorter row


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


def profile_tables() -> Profiles:
    """Terms of the Moffat profiles of `MOFFAT_BETAS`, and of the disk and the bulge of galaxies."""
    moffat = np.stack([moffat_mixture(beta, MOFFAT_TERMS) for beta in MOFFAT_BETAS])
    sersic = np.zeros((2, max(len(EXPONENTIAL), len(DE_VAUCOULEURS)), 2), np.float32)
    sersic[DISK, : len(EXPONENTIAL)] = EXPONENTIAL
    sersic[BULGE, : len(DE_VAUCOULEURS)] = DE_VAUCOULEURS
    return Profiles(moffat, sersic)
