"""Pairs of simulated frames whose PSFs and noise are known."""

import numpy as np

from fastdiff import subtract_batch
from fastdiff.simulate.inject import point_source

SKY_R, SKY_S, SCALE = 200.0, 400.0, 0.8
FWHM_R, FWHM_S = 2.6, 3.8
PSF_R, PSF_S = (point_source((25, 25), 12, 12, fwhm) for fwhm in (FWHM_R, FWHM_S))
PSF_R, PSF_S = PSF_R / PSF_R.sum(), PSF_S / PSF_S.sum()
PSFS = {"ref_psfs": PSF_R, "sci_psfs": PSF_S}


def render(shape, x, y, flux, fwhm, half=18):
    image = np.zeros((shape[0] + 2 * half + 2, shape[1] + 2 * half + 2))
    for a, b, f in zip(x, y, flux, strict=True):
        i, j = int(a), int(b)
        stamp = point_source((2 * half + 1, 2 * half + 1), a - i + half, b - j + half, fwhm)
        image[j : j + 2 * half + 1, i : i + 2 * half + 1] += f * stamp
    return image[half : half + shape[0], half : half + shape[1]]


def make(
    shape=(256, 256), seed=0, n_stars=40, transients=(), shift=(0.0, 0.0), edge=6, poisson=True
):
    """(ref, sci, what sci is expected to be without its transients), gain 1.

    `transients` are (x, y, flux in counts of sci); `shift` (x, y) moves the stars of ref.
    """
    rng = np.random.default_rng(seed)
    x, y = (rng.uniform(edge, n - edge, n_stars) for n in shape[::-1])
    flux = 10 ** rng.uniform(3.3, 5.0, n_stars)
    ref = SKY_R + render(shape, x + shift[0], y + shift[1], flux, FWHM_R)
    model = SKY_S + render(shape, x, y, SCALE * flux, FWHM_S)
    sci = model + (render(shape, *np.transpose(transients), FWHM_S) if len(transients) else 0)
    ref, sci = (rng.poisson(np.maximum(each, 0)) if poisson else
                each + rng.normal(0, 15.0, shape) for each in (ref, sci))  # fmt: skip
    return ref.astype(np.float32), sci.astype(np.float32), model


def grid(shape, n, flux, edge=40):
    """n x n transients, centred on pixels."""
    y, x = (np.linspace(edge, side - edge, n).round() for side in shape)
    return [(a, b, flux) for b in y for a in x]


def run(ref, sci, **options):
    return subtract_batch(ref, sci, method="zogy", threads=1, **options)


def robust(values):
    values = values[np.isfinite(values)]
    return 1.4826 * np.median(np.abs(values - np.median(values)))
