"""Slow, readable twin of `fastdiff.difference.zogy.method`: the paper's own symbols, in float64.

Zackay, Ofek & Gal-Yam 2016, ApJ 830, 27. Images repeat at their edges.
"""

import numpy as np

fft, ifft = np.fft.fft2, lambda x: np.real(np.fft.ifft2(x))


def at_origin(psf, shape):
    """The PSF on an image of `shape`, its middle pixel at [0, 0]."""
    image = np.zeros(shape)
    image[: psf.shape[0], : psf.shape[1]] = psf
    return np.roll(image, (-(psf.shape[0] // 2), -(psf.shape[1] // 2)), axis=(0, 1))


def proper_subtraction(R, N, P_r, P_n, sigma_r, sigma_n, F_r, F_n):
    """D, P_D (at the origin), F_D and S: equations 13, 14, 15 and 17."""
    P_r, P_n = fft(at_origin(P_r, R.shape)), fft(at_origin(P_n, N.shape))
    root = np.sqrt(sigma_n**2 * F_r**2 * np.abs(P_r) ** 2 + sigma_r**2 * F_n**2 * np.abs(P_n) ** 2)
    D = (F_r * P_r * fft(N) - F_n * P_n * fft(R)) / root
    F_D = F_r * F_n / np.sqrt(sigma_n**2 * F_r**2 + sigma_r**2 * F_n**2)
    P_D = F_r * F_n * P_r * P_n / (F_D * root)
    S = F_D * D * np.conj(P_D)
    return ifft(D), ifft(P_D), F_D, ifft(S)


def corrected_score(R, N, V_r, V_n, P_r, P_n, sigma_r, sigma_n, F_r, F_n, astrometric_noise=0.0):
    """S_corr, the flux alpha and its error: equations 25-33 and 41-43.

    The error of the registration, on each axis, is that of R relative to N.
    """
    shape = R.shape
    P_r, P_n = fft(at_origin(P_r, shape)), fft(at_origin(P_n, shape))
    V = sigma_n**2 * F_r**2 * np.abs(P_r) ** 2 + sigma_r**2 * F_n**2 * np.abs(P_n) ** 2
    k_r = F_r * F_n**2 * np.conj(P_r) * np.abs(P_n) ** 2 / V
    k_n = F_n * F_r**2 * np.conj(P_n) * np.abs(P_r) ** 2 / V
    S_n, S_r = ifft(k_n * fft(N)), ifft(k_r * fft(R))
    V_S = ifft(fft(V_n) * fft(ifft(k_n) ** 2)) + ifft(fft(V_r) * fft(ifft(k_r) ** 2))
    gy, gx = np.gradient(S_r)
    V_ast = astrometric_noise**2 * (gx**2 + gy**2)
    F_S = np.sum(F_n**2 * np.abs(P_n) ** 2 * F_r**2 * np.abs(P_r) ** 2 / V) / R.size
    return (S_n - S_r) / np.sqrt(V_S + V_ast), (S_n - S_r) / F_S, np.sqrt(V_S) / F_S
