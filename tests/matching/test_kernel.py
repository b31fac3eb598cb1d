"""The matching kernel as an object and as a file."""

import numpy as np


def test_kernel_in_a_fits_file(pair, tmp_path):
    from astropy.io import fits

    kernel = pair.subtract(kernel_order=1).kernel
    assert kernel(3, 4).shape == kernel.components.shape[1:]
    kernel.to_hdu().writeto(tmp_path / "kernel.fits")
    with fits.open(tmp_path / "kernel.fits") as hdus:
        header, planes = hdus["KERNEL"].header, hdus["KERNEL"].data
        u = 2 * 30 / (header["KNAXIS1"] - 1) - 1
        v = 2 * 170 / (header["KNAXIS2"] - 1) - 1
        made = sum(
            u ** header[f"PX{k}"] * v ** header[f"PY{k}"] * plane
            for k, plane in enumerate(planes, 1)
        )
        assert header["CONVOLVE"] == "ref"
        assert header["BACK1"] == kernel.background[0]
    np.testing.assert_allclose(made, kernel(30, 170), atol=1e-12)


def test_a_kernel_prints_in_a_line(pair):
    text = repr(pair.subtract(kernel_order=1, kernel_size=15).kernel)
    assert text.startswith("<MatchingKernel of ref: 15 x 15 pixels, order 1, sum 0.9")
    assert "\n" not in text
