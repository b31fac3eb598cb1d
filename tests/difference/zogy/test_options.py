"""Wrong options."""

import numpy as np
import pytest

from tests.difference.zogy.pairs import (
    PSF_R,
    PSF_S,
    make,
    run,
)

even, huge = np.full((24, 24), 24.0**-2), np.full((301, 301), 301.0**-2)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"sci_psfs": 2 * PSF_S}, ValueError, "`sci_psfs` sums up to 2; .* divide by its sum"),
        ({"ref_psfs": even}, ValueError, "`ref_psfs` is 24 x 24 pixels; the side must be odd"),
        ({"ref_psfs": huge}, ValueError, "301 x 301 pixels, larger than the images, 256 x 256"),
        ({"ref_psfs": PSF_R[:23]}, ValueError, r"shape \(23, 25\); it must be"),
        ({"ref_psfs": PSF_R * np.nan}, ValueError, "not finite"),
        ({"ref_psfs": "gauss"}, TypeError, "`ref_psfs` is a str"),
        ({"ref_psfs": np.stack([PSF_R] * 3)}, ValueError, "PSFs for 3 images; `scis` has 1"),
        ({"ref_psfs": np.stack([PSF_R] * 3)[None]}, ValueError, "PSFs for 3 tiles"),
        ({"psf_size": 20}, ValueError, "psf_size is 20; it must be odd"),
        ({"psf_size": 501}, ValueError, "psf_size is 501"),
        ({"psf_size": 9.0}, TypeError, "psf_size is a float"),
        ({"tile": 8}, ValueError, "tile is 8; it must be at least 32"),
        ({"tile": "no"}, TypeError, "tile is a str"),
        ({"scale": -1}, ValueError, "scale is -1; it must be positive"),
        ({"scale": [1, 2]}, ValueError, r"scale has shape \(2,\)"),
        ({"gain": 0}, ValueError, "gain is 0; it must be positive"),
        ({"gain": (1, 2, 3)}, ValueError, r"gain has shape \(3,\)"),
        ({"astrometric_noise": -0.1}, ValueError, "astrometric_noise is -0.1"),
        ({"astrometric_noise": "some"}, ValueError, "astrometric_noise is 'some'"),
        ({"model": "x"}, TypeError, "no option 'model' for method 'zogy'"),
    ],
)  # fmt: skip
def test_errors(options, error, words):
    ref, sci, _ = make()
    with pytest.raises(error, match=words):
        run(ref, sci, **options)
