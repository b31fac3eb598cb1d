"""Frames with sources that are known: what comes out is compared with the truth.

Stars and galaxies of two epochs, each pixel a Poisson number of electrons; in the second epoch new
point sources, half of them on galaxies. `KINDS` are the ways in which such frames are spoilt.
"""

import dataclasses

import numpy as np

import fastdiff

SIDE, N_STARS, N_GALAXIES, N_NEW = 384, 120, 30, 30
SKY_REF, SKY_SCI, RATIO = 60.0, 120.0, 0.8


@dataclasses.dataclass
class Known:
    """A pair, the means of its Poisson numbers, and what is new in it."""

    ref: np.ndarray
    sci: np.ndarray
    mean_ref: np.ndarray
    mean_sci: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    good: np.ndarray
    rng: np.random.Generator
    options: dict = dataclasses.field(default_factory=dict)


def moffat_image(places, fluxes, fwhms, beta=4.0, side=SIDE):
    """Round Moffat profiles, sampled at the middles of pixels."""
    image = np.zeros((side, side))
    for (x, y), flux, fwhm in zip(places, fluxes, fwhms, strict=True):
        half = int(8 * fwhm) + 2
        x0, x1 = max(0, int(x) - half), min(side, int(x) + half + 1)
        y0, y1 = max(0, int(y) - half), min(side, int(y) + half + 1)
        if x0 >= x1 or y0 >= y1:
            continue
        rows, columns = np.mgrid[y0:y1, x0:x1]
        alpha2 = (fwhm / 2) ** 2 / (2 ** (1 / beta) - 1)
        square = (columns - x) ** 2 + (rows - y) ** 2
        image[y0:y1, x0:x1] += flux * (beta - 1) / (np.pi * alpha2) * (1 + square / alpha2) ** -beta
    return image


def make(seed, fwhm_ref=2.8, fwhm_sci=3.8):
    """A pair with `N_NEW` new sources of S/N 5 to about 60."""
    rng = np.random.default_rng(seed)
    stars = rng.uniform(-10, SIDE + 10, (N_STARS, 2))
    bright = 10 ** rng.uniform(2.8, 5.0, N_STARS)
    galaxies = rng.uniform(20, SIDE - 20, (N_GALAXIES, 2))
    light = 10 ** rng.uniform(3.3, 4.6, N_GALAXIES)
    width = rng.uniform(2.0, 6.0, N_GALAXIES)
    new = rng.uniform(20, SIDE - 20, (N_NEW, 2))
    n_hosted = N_NEW // 2
    new[:n_hosted] = galaxies[:n_hosted] + rng.normal(0, 1.5, (n_hosted, 2))
    for i in range(n_hosted, N_NEW):
        while np.hypot(*(stars - new[i]).T).min() < 8:
            new[i] = rng.uniform(20, SIDE - 20, 2)
    flux = 10 ** rng.uniform(2.75, 4.0, N_NEW)

    def scene(fwhm, shift):
        widths = np.full(N_STARS, fwhm)
        return moffat_image(stars + shift, bright, widths) + moffat_image(
            galaxies + shift, light, np.hypot(width, fwhm)
        )

    mean_ref = scene(fwhm_ref, 0.0) + SKY_REF
    mean_sci = RATIO * scene(fwhm_sci, np.array([0.25, -0.35])) + SKY_SCI
    mean_sci += moffat_image(new, flux, np.full(N_NEW, fwhm_sci))
    # Each new source is some pixels from the others, or two are one.
    apart = np.hypot(*(new[:, None] - new[None]).transpose(2, 0, 1)) + 1e3 * np.eye(N_NEW)
    return Known(
        rng.poisson(mean_ref).astype("f4"), rng.poisson(mean_sci).astype("f4"), mean_ref,
        mean_sci, *new.T, flux, (apart.min(1) > 10) & (new.min(1) > 12) & (new.max(1) < SIDE - 12),
        rng,
    )  # fmt: skip


# ------------------------------------------------------------------------ kinds


def plain(known):
    """As it is."""


def variances(known):
    """True variances given."""
    known.options |= {"ref_variances": known.mean_ref, "sci_variances": known.mean_sci}


def gradient(known):
    """The sky of sci rises by half, and its noise with it."""
    slope = np.linspace(0, SKY_SCI / 2, SIDE)[:, None] + np.zeros((SIDE, SIDE))
    known.sci += known.rng.poisson(slope).astype("f4")


def rows(known):
    """Row noise of a third of the sky's in both."""
    for image, sky in ((known.ref, SKY_REF), (known.sci, SKY_SCI)):
        image += known.rng.normal(0, sky**0.5 / 3, (SIDE, 1)).astype("f4")


def zeros(known):
    """A border of zeros that nothing says is missing, in one frame at the left, in one below."""
    known.ref[:40], known.sci[:, :30] = 0, 0
    known.good &= (known.y > 55) & (known.x > 45)


def units(known):
    """Flux densities of 1e-19 a count."""
    for name in ("ref", "sci"):
        setattr(known, name, getattr(known, name) * np.float32(1e-19))
    known.flux = known.flux * 1e-19


def shifted(known):
    """The reference is three pixels off."""
    known.ref = np.roll(known.ref, (3, -2), axis=(0, 1))
    known.good &= (known.y > 20) & (known.x < SIDE - 20)


def correlated(known):
    """The reference is resampled by half a pixel."""
    half = (known.ref + np.roll(known.ref, 1, 0)) / 2
    known.ref = (half + np.roll(half, 1, 1)) / 2


def dead_columns(known):
    """A column in thirty-two is dead in sci."""
    known.sci[:, 5::32] = np.nan


KINDS = {
    kind.__name__.replace("_", "-"): kind
    for kind in (
        plain, variances, gradient, rows, zeros, units, shifted, correlated, dead_columns,
    )
}  # fmt: skip
SEEING = {
    "sharper-sci": {"fwhm_ref": 3.8, "fwhm_sci": 2.8},
    "same-seeing": {"fwhm_ref": 3.2, "fwhm_sci": 3.2},
}


def build(kind, seed):
    """A pair of a kind."""
    known = make(seed, **SEEING.get(kind, {}))
    KINDS.get(kind, plain)(known)
    return known


@dataclasses.dataclass
class Judged:
    """What came out, over some pairs: pulls and flux ratios of what was found."""

    pulls: np.ndarray
    ratios: np.ndarray
    snr: np.ndarray
    n_bright: int
    n_bright_found: int
    n_false: int

    @property
    def width(self):
        """Robust width of the pulls: half of what lies between 1 sigma on either side."""
        low, high = np.quantile(self.pulls, (0.1587, 0.8413))
        return (high - low) / 2


def judge(method, pairs, snr_bright=8.0):
    """Candidates of a method compared with the truth; `snr_bright` tells which sources count."""
    pulls, ratios, snr, n_bright, n_found, n_false = [], [], [], 0, 0, 0
    for known in pairs:
        made = fastdiff.subtract_batch(known.ref, known.sci, method=method, **known.options)
        table = fastdiff.find_transients(made)
        x, y = np.asarray(table["x"]), np.asarray(table["y"])
        distance = np.hypot(x[:, None] - known.x, y[:, None] - known.y)
        n_false += int((distance.min(1, initial=np.inf) > 4).sum())
        usual = np.nanmedian(made.flux_err)
        for j in np.flatnonzero(known.good):
            bright = known.flux[j] > snr_bright * 1.5 * usual
            n_bright += bright
            if len(x) and distance[:, j].min() < 2:
                row = table[int(distance[:, j].argmin())]
                n_found += bright
                if bright:
                    pulls.append((row["flux"] - known.flux[j]) / row["flux_err"])
                    ratios.append(row["flux"] / known.flux[j])
                    snr.append(row["snr"])
    return Judged(*map(np.array, (pulls, ratios, snr)), int(n_bright), int(n_found), n_false)
