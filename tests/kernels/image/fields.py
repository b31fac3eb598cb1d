"""Star fields on which several test files of this room work."""

import numpy as np

from fastdiff.kernels.image import measure


def gaussian_star(shape, y, x, flux, fwhm):
    """A Gaussian integrated over pixels by summing a grid 5 times as fine."""
    sigma = fwhm / 2.3548
    fine = [(np.arange(5 * n) + 0.5) / 5 - 0.5 for n in shape]
    profiles = [
        np.exp(-0.5 * ((axis - centre) / sigma) ** 2).reshape(-1, 5).mean(axis=1)
        for axis, centre in zip(fine, (y, x), strict=True)
    ]
    return flux / (2 * np.pi * sigma**2) * np.outer(*profiles)


def star_field(rng, shape, n_stars, scale=0.5, fwhm=(2.5, 2.5), shift=0.0, transient=0.0):
    """(ref, sci), float32: stars over noise; `transient` is its share of its host's flux."""
    ref, sci = np.zeros(shape), np.zeros(shape)
    for i in range(n_stars):
        y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        flux = 10 ** rng.uniform(3, 5)
        ref += gaussian_star(shape, y, x, flux, fwhm[0])
        sci += gaussian_star(shape, y + shift, x + shift, flux * scale, fwhm[1])
        if i == 0:
            sci += gaussian_star(shape, y + 1, x, flux * scale * transient, fwhm[1])
    ref += rng.normal(100, 10, shape)
    sci += rng.normal(300, 20, shape)
    return ref.astype(np.float32), sci.astype(np.float32)


def frames(rng, n, shape, dtype=np.float32, n_bad=20):
    """Star fields with NaN, infinities and masks in both images."""
    pairs = [star_field(rng, shape, max(3, shape[0] * shape[1] // 800)) for _ in range(n)]
    refs, scis = (np.stack(part).astype(dtype) for part in zip(*pairs, strict=True))
    masks = []
    for images in (refs, scis):
        for value in (np.nan, np.inf, -np.inf, 2e30):
            y, x = rng.integers(0, shape, (n_bad, 2)).T
            images[rng.integers(0, n, n_bad), y, x] = value
        masks.append(rng.random(images.shape) < 0.01)
    refs[0, :5, :7] = np.nan
    scis[0, :5, :7] = np.nan
    return refs, scis, *masks


def measured(image, bad=None):
    """(sky, sigma) of an image in one tile."""
    image = image[None]
    origins = np.zeros((1, 2), np.int64)
    bad = None if bad is None else bad[None]
    stats = measure.measure_tiles((image, image, bad, bad), origins, image.shape[1:])
    return stats[0, 0, measure.SKY_SCI :]
