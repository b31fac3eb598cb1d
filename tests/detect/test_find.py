"""The table of candidates."""

import numpy as np
import pytest
from astropy.table import Table

from fastdiff import Difference, find_transients
from fastdiff.detect import find as detect
from tests.detect.images import difference, gaussian, optimal_error


def test_sign():
    image = gaussian((80, 80), 20, 20, 400) - gaussian((80, 80), 60, 50, 300)
    d = difference(image)
    (plus,) = find_transients(d)
    (minus,) = find_transients(d, sign="negative")
    assert (round(plus["x"]), round(plus["y"])) == (20, 20)
    assert (round(minus["x"]), round(minus["y"])) == (60, 50)
    assert plus["flux"] == pytest.approx(400, rel=0.01)
    assert minus["flux"] == pytest.approx(-300, rel=0.01)
    assert minus["snr"] < 0
    assert minus["flux_err"] > 0
    assert minus["peak"] == pytest.approx(image.min())
    both = find_transients(d, sign="both")
    assert list(both["flux"]) == [plus["flux"], minus["flux"]]


def test_thresholds():
    image = sum(
        gaussian((200, 60), 30, y, snr * optimal_error(1, 1.7))
        for y, snr in ((30, 4), (80, 8), (130, 16))
    )
    assert list(np.round(find_transients(image, noise=1.0)["snr"])) == [16, 8]
    assert list(np.round(find_transients(image, 3.5, noise=1.0)["snr"])) == [16, 8, 4]
    assert list(np.round(find_transients(image, threshold=10, noise=1.0)["snr"])) == [16]
    heights = np.sort([image[y].max() for y in (30, 80, 130)])
    for n, height in enumerate(heights[::-1]):
        found = find_transients(image, 1, noise=1.0, pixel_threshold=height, min_pixels=1)
        assert len(found) == n
    areas = [(image[y - 20 : y + 20] > 0.5).sum() for y in (30, 80, 130)]
    assert len(find_transients(image, 1, noise=1.0, min_pixels=areas[1])) == 2
    assert len(find_transients(image, 1, noise=1.0, min_pixels=areas[1] + 1)) == 1


def test_the_pixel_threshold_of_the_model_is_the_default():
    image = gaussian((60, 60), 30, 30, 60.0)
    assert image.max() == pytest.approx(3.3, abs=0.1)
    assert len(find_transients(difference(image))) == 1
    assert len(find_transients(difference(image, pixel_threshold=4.0))) == 0
    assert len(find_transients(difference(image, pixel_threshold=4.0), pixel_threshold=1)) == 1
    assert find_transients(difference(image, pixel_threshold=2.0)).meta["pixel_threshold"] == 2.0


def test_nothing_to_be_found():
    of_maps = {"x_err", "y_err", "flux_err_systematic", "flux_network"}
    for image in (np.zeros((40, 40)), np.full((40, 40), np.nan), np.zeros((0, 40, 40))):
        table = find_transients(image, noise=1.0)
        assert isinstance(table, Table)
        assert len(table) == 0
        assert set(table.colnames) == set(detect._COLUMNS) - of_maps or not len(image)
        assert table["image"].dtype == table["flags"].dtype == np.int64
        assert table["x"].dtype == np.float64
    zero_noise = difference(np.zeros((40, 40)), noise=0.0)
    assert len(find_transients(zero_noise)) == 0


def test_any_array(tmp_path):
    image = gaussian((60, 50), 20, 30, 500).astype("f4")
    want = find_transients(image, noise=1.0)
    for other in (image.astype(">f4"), np.asfortranarray(image), image[None], image.tolist()):
        np.testing.assert_allclose(find_transients(other, noise=1.0)["flux"], want["flux"])
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(x) for x in (image, np.ones_like(image), np.isnan(image))]
    np.testing.assert_allclose(find_transients(Difference(*tensors))["flux"], want["flux"])
    want.write(tmp_path / "candidates.ecsv")
    back = Table.read(tmp_path / "candidates.ecsv")
    np.testing.assert_array_equal(back["flux"], want["flux"])
    assert "0-based" in back["x"].description


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"sign": "up"}, ValueError, "sign is 'up'; it must be 'positive', 'negative' or 'both'"),
        ({"threshold": 0}, ValueError, "threshold is 0; it must be positive"),
        ({"threshold": np.nan}, ValueError, "threshold is nan; it must be positive"),
        ({"pixel_threshold": -1}, ValueError, "pixel_threshold is -1; it must be positive"),
        ({"min_pixels": 0}, ValueError, "min_pixels is 0; it must be at least 1"),
        ({"noise": None}, ValueError, "noise is missing: `difference` is an array without one"),
        ({"noise": np.ones((3, 7))}, ValueError, r"`noise` has shape \(3, 7\); it must broadcast"),
        ({"difference": np.ones(40)}, ValueError, r"`difference` has shape \(40,\); it must be"),
        ({"difference": np.ones((40, 40)) * 1j}, TypeError, "`difference` has dtype complex128"),
    ],
)
def test_messages(changes, error, text):
    arguments = {"difference": np.zeros((40, 40)), "noise": 1.0} | changes
    with pytest.raises(error, match=text):
        find_transients(arguments.pop("difference"), **arguments)


# ------------------------------------------------------------- maps of significance


def filtered(rng, sources, shape=(160, 140), noise=3.0, sigma=1.6):
    """A noisy difference with its matched-filter S/N, as "psf-match" and "zogy" give."""
    from scipy.signal import fftconvolve

    image = noise * rng.normal(size=shape)
    for x, y, snr in sources:
        image += gaussian(shape, x, y, snr * optimal_error(noise, sigma), sigma)
    psf = gaussian((21, 21), 10, 10, 1.0, sigma)
    flux_err = noise / np.sqrt((psf**2).sum())
    flux = fftconvolve(image, psf[::-1, ::-1], mode="same") / (psf**2).sum()
    made = difference(image, noise, method="any", noise_free=False)
    made.significance = (flux / flux_err).astype(np.float32)
    made.flux, made.flux_err = flux, np.full_like(flux, flux_err)
    made.psf = psf / psf.sum()
    return made, flux_err


def test_maps_of_significance_are_searched(rng):
    sources = [(40.3, 51.7, 8.0), (90.6, 33.2, 20.0), (100.9, 33.4, 12.0), (70, 120, -15.0)]
    made, flux_err = filtered(rng, sources)
    found = find_transients(made, sign="both")
    assert len(found) == 4
    for x, y, snr in sources:
        row = found[np.argmin(np.hypot(found["x"] - x, found["y"] - y))]
        assert np.hypot(row["x"] - x, row["y"] - y) < 0.6
        assert row["snr"] == pytest.approx(snr, abs=3)
        assert row["flux_err"] == pytest.approx(flux_err, rel=0.02)
        assert row["flux"] / row["flux_err"] == pytest.approx(row["snr"], rel=0.02)
    assert len(find_transients(made)) == 3
    assert len(find_transients(made, 10.0, sign="both")) == 3


def test_noise_is_no_candidate_in_a_map_of_significance(rng):
    made, _ = filtered(rng, [], shape=(600, 600))
    assert len(find_transients(made, 5.0, sign="both")) <= 1
    assert len(find_transients(made, 3.0)) > 20


def test_a_batch_of_maps_keeps_its_images_apart(rng):
    parts = [filtered(rng, [(50, 60 + 5 * i, 30.0)])[0] for i in range(3)]
    psfs = [part.psf for part in parts]
    together = difference(np.stack([part.image for part in parts]), 3.0, noise_free=False, a=1)
    together.significance = np.stack([part.significance for part in parts])
    together.flux = np.stack([part.flux for part in parts])
    together.flux_err = np.stack([part.flux_err for part in parts])
    together.psf = psfs
    found = find_transients(together)
    assert found["image"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(found["y"], [60, 65, 70], atol=0.6)
    single = find_transients(together[1])
    assert single["flux"][0] == pytest.approx(found["flux"][1])
    assert together[1:].psf == psfs[1:]
