"""A star of a space telescope at a cadence of minutes: much photon noise, and a slow drift."""

from types import SimpleNamespace

import numpy as np

PLACE = 5, 5


def fast_cadence(n, seed=0, drift=0.1, light=20.0, star=3000.0, sky=100.0):
    """`cube`, `variance` (n, 11, 11) in e-/s at 120 s, and `star` (11, 11), its mean image."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, n)
    waves = [np.sin(2 * np.pi * (k + 1) * t + rng.uniform(0, 6)) / (k + 1) for k in range(4)]
    turns = rng.normal(0, drift, (2, 4)) @ waves
    places = rng.uniform(-1, 12, (6, 2)), star * 10 ** rng.uniform(-2, -0.5, 6)
    pixel = np.arange(11)

    def image(y, x, flux):
        """(n, 11, 11) of a star with wings that moves."""
        out = 0
        for sigma, part in ((0.8, 0.8), (1.8, 0.2)):
            rows = np.exp(-0.5 * ((pixel - y - turns[0][:, None]) / sigma) ** 2)
            columns = np.exp(-0.5 * ((pixel - x - turns[1][:, None]) / sigma) ** 2)
            out = out + rows[:, :, None] * columns[:, None] * part / (2 * np.pi * sigma**2)
        return flux * out

    own = image(5.2, 4.8, star)
    cube = own + sum(image(y, x, flux) for (y, x), flux in zip(*places, strict=True))
    cube *= rng.normal(1, 0.005, (11, 11))
    cube += sky + light * np.exp(-t[:, None, None] / 0.08) * (1 + 0.02 * pixel[:, None])
    variance = (cube + 10) / 120
    cube += rng.normal(0, 1, cube.shape) * np.sqrt(variance)
    return SimpleNamespace(cube=cube, variance=variance, star=own.mean(0))
