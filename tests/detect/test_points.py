"""detect/points.py: what the maps of a difference say of its candidates."""

import numpy as np
import pytest

from fastdiff import Difference, find_transients
from fastdiff.detect.find import EDGE, UNMEASURED
from fastdiff.stars.psf import moffat

FLUX_ERR = 10.0


def gaussian(shape, x, y, flux, sigma=1.7):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    square = (rows - y) ** 2 + (columns - x) ** 2
    return flux / (2 * np.pi * sigma**2) * np.exp(-square / (2 * sigma**2))


def with_maps(places, shape=(80, 90), *, network=None, error=None):
    """A difference without noise, whose map of fluxes is that of sources at (x, y, flux)."""
    wide = 1.7 * np.sqrt(2)
    peak = 4 * np.pi * 1.7**2
    flux = sum(peak * gaussian(shape, x, y, f, wide) for x, y, f in places)
    flux_err = np.full(shape, FLUX_ERR) if error is None else error
    image = sum(gaussian(shape, x, y, f) for x, y, f in places) if network is None else network
    return Difference(
        image.astype("f4"), np.full(shape, 1.0, "f4"), np.zeros(shape, bool),
        {"method": "any", "noise_free": network is not None, "pixel_threshold": 0.5},
        significance=(flux / flux_err).astype("f4"), flux=flux.astype("f4"),
        flux_err=flux_err.astype("f4"), systematic=(0.3 * flux_err).astype("f4"),
        psf=moffat(4.0, 15),
    )  # fmt: skip


@pytest.mark.parametrize(("x", "y"), [(40, 30), (40.5, 30), (40.3, 29.6), (39.5, 30.5)])
@pytest.mark.parametrize("sign", [1, -1])
def test_between_pixels(x, y, sign):
    (row,) = find_transients(with_maps([(x, y, sign * 500)]), sign="both")
    assert np.hypot(row["x"] - x, row["y"] - y) < 0.05
    assert row["flux"] == pytest.approx(sign * 500, rel=0.01)
    assert row["snr"] == pytest.approx(sign * 50, rel=0.02)
    assert (row["flux_err"], row["flux_err_systematic"]) == pytest.approx((10, 3))


def test_what_a_network_found_is_measured_on_the_maps():
    """Its own flux is a column; what the maps do not confirm is no candidate."""
    places = [(40, 30, 500), (20, 60, 300)]
    painted = sum(gaussian((80, 90), x, y, 1.3 * f) for x, y, f in places)
    painted += gaussian((80, 90), 70, 20, 900)  # of which the maps know nothing
    found = find_transients(with_maps(places, network=painted))
    assert len(found) == 2
    np.testing.assert_allclose(found["flux"], [500, 300], rtol=0.01)
    np.testing.assert_allclose(found["flux_network"], [650, 390], rtol=0.05)
    np.testing.assert_allclose(found["snr"], [50, 30], rtol=0.02)


def test_what_the_maps_do_not_know_is_kept_as_the_network_painted_it():
    places = [(40, 30, 500), (85, 60, 300)]
    painted = sum(gaussian((80, 90), x, y, 1.3 * f) for x, y, f in places)
    made = with_maps(places, network=painted)
    for name in ("significance", "flux", "flux_err", "systematic"):
        getattr(made, name)[:, 80:] = np.nan
    found = find_transients(made)
    found.sort("x")
    assert found["flags"].tolist() == [0, UNMEASURED | EDGE]
    np.testing.assert_allclose(found["flux"], [500, 390], rtol=0.05)
    np.testing.assert_allclose(found["x"], [40, 85], atol=0.3)
    assert np.isnan(found["x_err"][1])


def test_a_place_is_that_of_the_highest_flux():
    """Where the noise rises across a source, its significance is highest beside it."""
    error = np.broadcast_to(10 * np.exp((np.arange(90) - 40) / 4.0), (80, 90)).copy()
    (row,) = find_transients(with_maps([(40, 30, 500)], error=error))
    assert np.hypot(row["x"] - 40, row["y"] - 30) < 0.05
    assert row["flux"] == pytest.approx(500, rel=0.01)


def test_errors_of_places(rng):
    """They are those that positions of peaks in noisy maps scatter by."""
    from scipy.signal import fftconvolve

    psf = moffat(4.0, 15)
    square = (psf**2).sum()
    pulls = []
    for _ in range(60):
        image = rng.normal(size=(60, 60))
        image[23:38, 23:38] += 20 / np.sqrt(square) * psf
        flux = fftconvolve(image, psf[::-1, ::-1], mode="same") / square
        error = np.full(flux.shape, 1 / np.sqrt(square))
        d = Difference(
            image.astype("f4"), np.ones(image.shape, "f4"), np.zeros(image.shape, bool),
            {"method": "any", "noise_free": False}, significance=flux / error, flux=flux,
            flux_err=error, psf=psf,
        )  # fmt: skip
        row = find_transients(d, 10.0)[0]
        pulls += [(row["x"] - 30) / row["x_err"], (row["y"] - 30) / row["y_err"]]
    assert 0.8 < np.std(pulls) < 1.3
