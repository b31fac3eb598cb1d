import numpy as np
import pytest
from astropy.table import Table

from fastdiff import Difference, find_transients
from fastdiff.detect import find as detect
from fastdiff.detect.find import BLENDED, EDGE, MASKED, SATURATED


def gaussian(shape, x, y, flux, sigma=1.7, ratio=1.0, theta=0.0):
    """A point source; `theta` in degrees from +x towards +y, `ratio` minor over major axis."""
    iy, ix = np.indices(shape)
    c, s = np.cos(np.radians(theta)), np.sin(np.radians(theta))
    u, v = c * (ix - x) + s * (iy - y), -s * (ix - x) + c * (iy - y)
    value = np.exp(-(u**2 + (v / ratio) ** 2) / (2 * sigma**2))
    return flux * value / (2 * np.pi * sigma**2 * ratio)


def difference(image, noise=1.0, mask=None, **meta):
    image = np.array(image, np.float32)
    mask = np.isnan(image) if mask is None else mask
    image[mask] = np.nan
    return Difference(image, np.full_like(image, noise), mask, meta)


def optimal_error(noise, sigma):
    """Error of an optimally weighted flux of a Gaussian in white noise."""
    return noise * np.sqrt(4 * np.pi) * sigma


@pytest.mark.parametrize("sigma", [0.8, 1.7, 3.0])
@pytest.mark.parametrize("snr", [5.5, 12, 300])
def test_position_flux_and_error_of_a_point_source(sigma, snr):
    noise = 4.0
    flux = snr * optimal_error(noise, sigma)
    image = gaussian((120, 100), 41.3, 66.8, flux, sigma)
    (row,) = find_transients(image, noise=noise)
    assert row["x"] == pytest.approx(41.3, abs=0.02)
    assert row["y"] == pytest.approx(66.8, abs=0.02)
    assert row["flux"] == pytest.approx(flux, rel=0.01)
    assert row["flux_err"] == pytest.approx(optimal_error(noise, sigma), rel=0.02)
    assert row["snr"] == pytest.approx(row["flux"] / row["flux_err"])
    assert row["snr"] == pytest.approx(snr, rel=0.02)
    assert row["fwhm"] == pytest.approx(2.3548 * sigma, rel=0.05)
    assert row["ellipticity"] < 0.03
    assert row["peak"] == pytest.approx(image.max())
    assert row["n_pixels"] == (image > 0.5 * noise).sum()
    assert row["flags"] == 0
    assert row["image"] == 0


def test_the_error_is_that_of_optimal_photometry():
    rng = np.random.default_rng(8)
    noise = rng.uniform(1, 6, (60, 60))
    profile = gaussian((60, 60), 30.2, 29.6, 1.0, 2.0)
    (row,) = find_transients(2000 * profile, noise=noise)
    # F = sum(p d) / sum(p^2), the estimate that the docstring's formula gives the error of.
    trials = (profile * noise * rng.normal(size=(4000, 60, 60))).sum((1, 2)) / (profile**2).sum()
    assert row["flux_err"] == pytest.approx(trials.std(), rel=0.05)


def test_shape_of_an_elongated_source():
    for theta in (-60, -20, 0, 35, 80):
        image = gaussian((90, 90), 45, 45, 3000, 3.0, ratio=0.5, theta=theta)
        (row,) = find_transients(image, noise=1.0)
        assert row["theta"] == pytest.approx(theta, abs=1)
        assert row["ellipticity"] == pytest.approx(0.5, abs=0.03)


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


def test_a_source_beside_one_that_vanished():
    image = gaussian((80, 80), 38, 40, 900) - gaussian((80, 80), 44, 40, 900)
    both = find_transients(image, noise=1.0, sign="both")
    assert len(both) == 2
    np.testing.assert_allclose(np.sort(both["x"]), [38, 44], atol=0.4)
    plus = find_transients(image, noise=1.0)
    assert plus["flux"][0] == pytest.approx(900, rel=0.15)


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


def test_a_batch_and_its_groups(monkeypatch):
    images = np.zeros((5, 50, 60))
    images[1] = gaussian((50, 60), 20, 30, 300)
    images[3] = gaussian((50, 60), 15, 20, 300) + gaussian((50, 60), 45, 25, 600)
    # Neighbours in memory, not on the sky.
    images[2] = gaussian((50, 60), 20, 49, 500)
    images[3] += gaussian((50, 60), 20, 0, 500)
    table = find_transients(images, noise=1.0)
    assert list(table["image"]) == [1, 2, 3, 3, 3]
    assert list(np.round(table["x"][[0, 1, 2]])) == [20, 20, 45]
    assert list(np.diff(table["snr"][2:]) < 0) == [True, True]
    monkeypatch.setattr(detect, "_GROUP_PIXELS", 1)
    one_by_one = find_transients(images, noise=1.0)
    for name in table.colnames:
        np.testing.assert_allclose(one_by_one[name], table[name], rtol=1e-9)
    noises = np.arange(1, 6)[:, None, None] * np.ones_like(images)
    scaled = find_transients(images * noises, noise=noises)
    np.testing.assert_allclose(scaled["snr"], table["snr"], rtol=1e-6)


def test_regions_touch_by_corners():
    image = np.zeros((40, 40))
    image[[10, 11, 12, 13], [10, 11, 12, 13]] = 50
    (row,) = find_transients(image, noise=1.0, min_pixels=4)
    assert row["n_pixels"] == 4
    assert row["theta"] == pytest.approx(45, abs=1)


def test_two_sources_in_one_region():
    for gap, fluxes in ((6.0, (900, 700)), (5.5, (5000, 5000)), (8.0, (4000, 900))):
        image = gaussian((80, 80), 36, 40, fluxes[0]) + gaussian((80, 80), 36 + gap, 41, fluxes[1])
        table = find_transients(image, noise=1.0)
        assert len(table) == 2
        assert (table["flags"] == BLENDED).all()
        np.testing.assert_allclose(table["flux"], fluxes, rtol=0.1)
        np.testing.assert_allclose(np.sort(table["x"]), [36, 36 + gap], atol=0.4)
        assert table["flux"].sum() == pytest.approx(sum(fluxes), rel=0.01)


def test_one_source_is_not_split_by_a_ripple():
    ripple = 0.02 * np.cos(2.2 * np.arange(80))
    image = gaussian((80, 80), 40, 40, 5000, 4.0) * (1 + ripple) + 0.1 * ripple[:, None]
    (row,) = find_transients(image, noise=1.0)
    assert row["flux"] == pytest.approx(5000, rel=0.03)


def test_edge_flag():
    image = gaussian((60, 60), 30, 30, 500)
    assert find_transients(image, noise=1.0)["flags"].tolist() == [0]
    for x, y in ((1, 30), (30, 1), (58, 30), (30, 58)):
        (row,) = find_transients(gaussian((60, 60), x, y, 500), noise=1.0)
        assert row["flags"] == EDGE


def test_masked_and_saturated_pixels_nearby():
    image = gaussian((60, 60), 30, 30, 500)
    far, near = np.zeros(image.shape, bool), np.zeros(image.shape, bool)
    far[2, 2] = near[30, 34] = True
    assert find_transients(difference(image, mask=far))["flags"].tolist() == [0]
    assert find_transients(difference(image, mask=near))["flags"].tolist() == [MASKED]
    full = {"saturated": np.argwhere(near[None])}
    flags = find_transients(difference(image, mask=near, **full))["flags"]
    assert flags.tolist() == [MASKED | SATURATED]
    full = {"saturated": np.array([[1, 30, 34]])}
    two = difference(np.stack([image, image]), **full)
    assert find_transients(two)["flags"].tolist() == [0, SATURATED]


def test_masked_pixels_add_nothing_and_poison_nothing():
    image = gaussian((60, 60), 30, 30, 500)
    mask = np.zeros(image.shape, bool)
    mask[28, 27:30] = True
    (row,) = find_transients(difference(image, mask=mask))
    assert row["flux"] == pytest.approx(image[~mask].sum(), rel=0.01)
    assert all(np.isfinite(row[name]) for name in row.colnames)
    noise = np.where(mask, np.nan, 1.0)
    (row,) = find_transients(image, noise=noise)
    assert row["flux"] == pytest.approx(image[~mask].sum(), rel=0.01)
    assert row["flags"] == MASKED


def test_noisy_differences():
    rng = np.random.default_rng(6)
    truth = np.zeros((400, 400))
    places = [(x, y) for x in range(40, 400, 64) for y in range(40, 400, 64)]
    for x, y in places:
        truth[y - 20 : y + 21, x - 20 : x + 21] += gaussian((41, 41), 20, 20, 400, 1.5)
    image = truth + rng.normal(size=truth.shape)
    arguments = {"noise": 1.0, "pixel_threshold": 3.0, "noise_free": False}
    table = find_transients(image, **arguments)
    assert len(table) == len(places)
    pull = (table["flux"] - 400) / table["flux_err"]
    assert 0.7 < pull.std() < 1.3
    assert abs(pull.mean()) < 0.6
    assert len(find_transients(rng.normal(size=(500, 500)), **arguments)) == 0
    meta = {"pixel_threshold": 3.0, "noise_free": False}
    same = find_transients(difference(image, **meta))
    np.testing.assert_allclose(same["flux_err"], table["flux_err"])


def test_nothing_to_be_found():
    for image in (np.zeros((40, 40)), np.full((40, 40), np.nan), np.zeros((0, 40, 40))):
        table = find_transients(image, noise=1.0)
        assert isinstance(table, Table)
        assert len(table) == 0
        assert table.colnames == list(detect._COLUMNS)
        assert table["image"].dtype == table["flags"].dtype == np.int64
        assert table["x"].dtype == np.float64
    zero_noise = difference(np.zeros((40, 40)), noise=0.0)
    assert len(find_transients(zero_noise)) == 0


def test_a_source_that_fills_the_frame():
    (row,) = find_transients(np.full((40, 50), 3.0), noise=1.0)
    assert row["flux"] == pytest.approx(3.0 * 2000)
    assert row["flags"] == EDGE
    assert (row["x"], row["y"]) == pytest.approx((24.5, 19.5))


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
