"""kernels/image/gaussians.py: all its functions of an image, against dense kernels.

Its steps are in the table of cases; what a CPU makes of them is in test_match.py.
"""

import numpy as np
import pytest

from fastdiff.kernels.image import gaussians
from tests.kernels.image.reference import match as reference


@pytest.mark.parametrize("shape", [(40, 44), (33, 47), (19, 20)])
def test_functions_are_those_of_dense_kernels(rng, shape):
    images = rng.normal(1, 1, (3, *shape)).astype(np.float32)
    made = gaussians.basis_of(images)
    for image, functions in zip(images, made, strict=True):
        np.testing.assert_allclose(functions, reference.basis(image.astype(float)), atol=2e-5)


def test_an_upper_bound_of_what_it_holds(monkeypatch, rng):
    made = []
    empty_like = np.empty_like

    def counted(*arguments, **options):
        made.append(empty_like(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(gaussians.np, "empty_like", counted)
    ny, nx = 31, 44
    gaussians.basis_of(rng.normal(size=(1, ny, nx)).astype(np.float32))
    held = sum(array.size for array in made)
    assert held <= gaussians.floats_of_basis(ny, nx) <= 1.2 * held
