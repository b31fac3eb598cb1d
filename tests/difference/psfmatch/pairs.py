"""Pairs of simulated frames with known kernels, stars and transients."""

import numpy as np

import fastdiff

SIDE = 200
SKIES = {"ref": 40.0, "sci": 100.0}  # electrons
SCALE = 0.9
INNER = np.s_[15:-15, 15:-15]


def stars(places, fluxes, fwhm, shape=(SIDE, SIDE), slope=0.0):
    """Gaussian stars; their width grows by `slope` from the left to the right edge."""
    image = np.zeros(shape)
    for (y, x), flux in zip(places, fluxes, strict=True):
        sigma = fwhm / 2.3548 * (1 + slope * (x / shape[1] - 0.5))
        column, row = (
            np.exp(-0.5 * ((np.arange(n) - c) / sigma) ** 2)
            for n, c in zip(shape, (y, x), strict=True)
        )
        image += flux / (2 * np.pi * sigma**2) * np.outer(column, row)
    return image


class Pair:
    """A pair with photon noise, what it is made of, and the transients in it."""

    def __init__(
        self, seed=1, n_stars=60, fwhm=(2.5, 3.6), slope=0.0, shift=0.0, side=SIDE, n_new=3,
        new_flux=4000.0, brightest=5.0,
    ):  # fmt: skip
        rng = np.random.default_rng(seed)
        shape = (side, side)
        self.places = rng.uniform(12, side - 12, (n_stars, 2))
        self.fluxes = 10 ** rng.uniform(3.3, brightest, n_stars)
        far = []
        while len(far) < n_new:
            place = rng.uniform(30, side - 30, 2)
            others = np.concatenate([self.places, far]) if far else self.places
            if np.hypot(*(others - place).T).min() > 9:
                far.append(place)
        self.new = np.reshape(far, (-1, 2))
        self.clean = stars(self.places, self.fluxes, fwhm[0], shape)
        self.static = SCALE * stars(self.places + shift, self.fluxes, fwhm[1], shape, slope)
        self.added = stars(self.new, np.full(n_new, new_flux), fwhm[1], shape, slope)
        self.ref_variance = self.clean + SKIES["ref"]
        self.sci_variance = self.static + self.added + SKIES["sci"]
        self.ref = rng.poisson(self.ref_variance).astype(np.float32)
        self.sci = rng.poisson(self.sci_variance).astype(np.float32)

    def subtract(self, **options):
        return subtract(self.ref, self.sci, **options)

    def sky(self):
        """Pixels of the inner frame without sources."""
        return inner((self.static < 0.3) & (self.added < 0.3))

    def cores(self):
        """Pixels of the inner frame in the light of stars, away from transients."""
        return inner((self.static > 30) & (self.added < 0.3))


def subtract(ref, sci, **options):
    return fastdiff.subtract_batch(ref, sci, method="psf-match", **options)


def inner(where):
    frame = np.zeros_like(where)
    frame[INNER] = where[INNER]
    return frame


def spread(values):
    """Robust standard deviation."""
    return 1.4826 * np.median(np.abs(values - np.median(values)))


def aperture(image, place, radius=9):
    """Sum within a radius."""
    y, x = np.indices(image.shape)
    return image[np.hypot(y - place[0], x - place[1]) < radius].sum()
