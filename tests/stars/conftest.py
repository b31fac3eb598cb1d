"""A field of stars with known positions and fluxes."""

import numpy as np
import pytest

from tests.stars.fields import SIGMA, SKY, add


@pytest.fixture(scope="module")
def field():
    """(image, x, y, flux) of 49 stars, 30 pixels and more apart."""
    rng = np.random.default_rng(5)
    image = np.zeros((256, 288))
    y, x = (a.ravel() + rng.uniform(-3, 3, 49) for a in np.mgrid[20:240:7j, 20:268:7j])
    flux = 10 ** rng.uniform(3.5, 5, 49)
    for each in zip(x, y, flux, strict=True):
        add(image, *each)
    image = SKY + rng.poisson(image) + SIGMA * rng.normal(size=image.shape)
    return image.astype(np.float32), x, y, flux
