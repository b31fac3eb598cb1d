"""Pairs of survey-like frames by GalSim: a generator that shares nothing with `fastdiff.simulate`.

Kolmogorov PSFs of 0.8 to 1.6 arcsec at 0.26 arcsec a pixel (3 to 6 pixels), a little sheared and
drawn apart for ref and sci; Sersic galaxies; a reference of 1 to 20 exposures with another zero
point and a shift of 0.15 pixels; Poisson noise. Half of the new sources lie on galaxies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PIXEL = 0.26  # arcsec
MARGIN = 8  # new sources keep this far from the frame's edge


@dataclass(frozen=True)
class GalSimPairs:
    """`ref` and `sci` (n, ny, nx); of the new sources `truth` image, x, y, flux, snr, on_galaxy."""

    ref: np.ndarray
    sci: np.ndarray
    truth: dict[str, np.ndarray]
    scale: np.ndarray


def pairs(n: int, side: int, seed: int, n_new: int = 6) -> GalSimPairs:
    """n pairs of side x side pixels; the first ones do not depend on n."""
    refs, scis, rows, scales = [], [], [], []
    for i in range(n):
        ref, sci, new, scale = _pair(np.random.default_rng([seed, i]), side, n_new)
        refs.append(ref)
        scis.append(sci)
        rows += [(i, *row) for row in new]
        scales.append(scale)
    names = ("image", "x", "y", "flux", "snr", "on_galaxy")
    columns = np.array(rows, float).reshape(-1, len(names)).T
    truth = dict(zip(names, columns, strict=True))
    truth["image"] = truth["image"].astype(int)
    truth["on_galaxy"] = truth["on_galaxy"].astype(bool)
    return GalSimPairs(np.array(refs), np.array(scis), truth, np.array(scales))


def _pair(rng, side, n_new):
    import galsim

    fwhm = rng.uniform(0.8, 1.6, 2)
    psfs = [
        galsim.Kolmogorov(fwhm=f).shear(g1=0.03 * rng.normal(), g2=0.03 * rng.normal())
        for f in fwhm
    ]
    skies, n_exposures = rng.uniform(100, 2000, 2), rng.integers(1, 20)
    zero_point, shift = rng.uniform(0.5, 2), 0.15 * rng.normal(size=2)
    density = (side / 256) ** 2
    sources = [
        (None, 10 ** rng.uniform(2.3, 5.3), *rng.uniform(0, side, 2))
        for _ in range(rng.poisson(60 * density))
    ]
    galaxies = [
        (
            galsim.Sersic(
                n=rng.choice([1.0, 2.0, 4.0]), half_light_radius=rng.uniform(0.3, 2.5)
            ).shear(_shear(rng)),
            10 ** rng.uniform(3, 5.3),
            *rng.uniform(0, side, 2),
        )
        for _ in range(rng.poisson(60 * density))
    ]
    images = []
    for psf, (dx, dy) in zip(psfs, (shift, (0, 0)), strict=True):
        image = galsim.ImageD(side, side)
        for shape, flux, x, y in sources + galaxies:
            profile = psf if shape is None else galsim.Convolve(psf, shape)
            _add(image, profile.withFlux(flux), x + dx, y + dy, 81 if flux < 3e4 else 141)
        images.append(image.array)
    ref, sci = images
    ref = rng.poisson(np.maximum(ref + skies[0], 0) * n_exposures) / n_exposures * zero_point
    variance, new = sci + skies[1], []
    for k in range(n_new):
        on_galaxy = k % 2 == 1 and len(galaxies) > 0
        if on_galaxy:
            x, y = np.add(galaxies[rng.integers(len(galaxies))][2:], 3 * rng.normal(size=2))
        else:
            x, y = rng.uniform(MARGIN, side - MARGIN, 2)
        snr = np.exp(rng.uniform(np.log(5), np.log(60)))
        if not (MARGIN < x < side - MARGIN and MARGIN < y < side - MARGIN):
            continue
        image = galsim.ImageD(side, side)
        _add(image, psfs[1].withFlux(1.0), x, y, 61)
        profile, flux = image.array, 0.0
        for _ in range(6):  # S/N of a matched filter, the source's own photons included
            flux = snr / np.sqrt((profile**2 / (variance + flux * profile)).sum())
        sci = sci + flux * profile
        new.append((x, y, flux, snr, on_galaxy))
    sci = rng.poisson(np.maximum(sci + skies[1], 0)).astype(float)
    return ref, sci, new, 1 / zero_point


def _shear(rng):
    """Of a galaxy: 0.2 on each axis, less than 1 together."""
    import galsim

    g1, g2 = 0.2 * rng.normal(), 0.2 * rng.normal()
    return galsim.Shear(complex(g1, g2) * min(1, 0.95 / np.hypot(g1, g2)))


def _add(image, profile, x, y, size):
    """Add a profile centred on (x, y), 0-based pixel centres."""
    import galsim

    column, row = round(x), round(y)
    stamp = profile.drawImage(
        image=galsim.ImageD(size, size), scale=PIXEL, offset=(x - column, y - row)
    )
    stamp.setCenter(column + 1, row + 1)
    common = stamp.bounds & image.bounds
    if common.isDefined():
        image[common] += stamp[common]
