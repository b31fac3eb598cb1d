"""What nobody said of the frames is found before any method sees them."""

import numpy as np
import pytest

from fastdiff import find_transients, subtract_batch
from tests.defects.scenes import SIZE, gaussians, photons, spread
from tests.difference.frames import same


def make(seed=0, n=None, unit=1.0, shift=(0, 0), sky=(40, 100)):
    """Pairs of 60 stars with two new ones in sci."""
    rng = np.random.default_rng(seed)
    x, y = spread(rng, 60, 6)
    flux = 10 ** rng.uniform(3, 5, 60)
    refs, scis = [], []
    for _ in range(n or 1):
        new = gaussians([100.3, 180.2], [90.4, 60.7], [3000, 2000], 4.2)
        refs.append(photons(rng, sky[0] + gaussians(x - shift[0], y - shift[1], flux, 3.0)))
        scis.append(photons(rng, sky[1] + gaussians(x, y, 0.9 * flux, 4.2) + new))
    refs, scis = (np.stack(each) * np.float32(unit) for each in (refs, scis))
    return (refs, scis) if n else (refs[0], scis[0])


def subtract(*images, **options):
    return subtract_batch(*images, method="psf-match", **options)


def test_nothing_is_found_in_ordinary_frames(monkeypatch):
    images = make(1, n=2)
    d = subtract(*images)
    assert not d.meta["shift"].any()
    assert not d.meta["missing"].any()
    assert not d.meta["cosmic_rays"].any()
    assert np.isnan(d.meta["saturation"]).all()
    assert d.meta["units"] == (1, 1)
    monkeypatch.setattr("fastdiff.difference.api.condition", lambda batch, **_: (batch, _Nothing()))
    same(d, subtract(*images))


class _Nothing:
    """Of a batch that was not looked at."""

    from fastdiff.difference.units import UnitScales

    units = UnitScales()

    def tell(self, _):
        return {}


def test_zeros_in_one_of_many_and_sentinels_in_both():
    refs, scis = make(2, n=3)
    refs[1, :40] = 0
    refs[2, :, :20], scis[2, 30:50, 30:60] = -32768, 1e30
    d = subtract(refs, scis)
    np.testing.assert_array_equal(d.meta["missing"], [[0, 0], [40 * SIZE, 0], [20 * SIZE, 600]])
    assert sorted(d.meta["notes"]) == [1, 2]
    assert "ref: 10240 pixels that repeat 0 are masked" in d.meta["notes"][1][0]
    assert "`sci_masks`" in d.meta["notes"][2][1]
    assert d.mask[1, :40].all()
    masks = np.zeros((3, SIZE, SIZE), bool), np.zeros((3, SIZE, SIZE), bool)
    masks[0][1, :40] = masks[0][2, :, :20] = masks[1][2, 30:50, 30:60] = True
    same(d, subtract(refs, scis, ref_masks=masks[0], sci_masks=masks[1]))
    assert (refs[1, :40] == 0).all()
    assert d[1].meta["missing"].tolist() == [[40 * SIZE, 0]]


def test_one_reference_with_zeros_for_many():
    refs, scis = make(3, n=3)
    refs[0, -30:] = 0
    d = subtract(refs[0], scis)
    assert d.mask[:, -30:].all()
    assert d.meta["missing"].tolist() == [[30 * SIZE, 0]] * 3


@pytest.mark.parametrize("unit", [2.0**-66, 2.0**50])
@pytest.mark.parametrize("method", ["psf-match", "zogy"])
def test_units_far_from_counts(unit, method):
    images = make(4)
    variances = [np.maximum(image, 40) for image in images]
    options = {"ref_variances": variances[0], "sci_variances": variances[1]}
    want = subtract_batch(*images, method=method, **options)
    scaled = {k: v.astype("f8") * unit**2 for k, v in options.items()}
    d = subtract_batch(*(image * np.float32(unit) for image in images), method=method, **scaled)
    assert d.meta["units"][0] == d.meta["units"][1] != 1
    for name in ("image", "noise", "flux", "flux_err"):
        scale = np.nanmax(np.abs(getattr(want, name)))
        np.testing.assert_allclose(
            getattr(d, name) / unit, getattr(want, name), rtol=2e-3, atol=1e-4 * scale
        )
    np.testing.assert_allclose(d.meta["scale"], want.meta["scale"], rtol=1e-3)
    for name in ("sky", "sky_noise"):
        np.testing.assert_allclose(d.meta[name] / unit, want.meta[name], rtol=1e-4)
    if method == "psf-match":
        np.testing.assert_allclose(d.kernel(50, 50), want.kernel(50, 50), rtol=0.01, atol=1e-3)
        np.testing.assert_allclose(d.kernel.skies, np.multiply(want.kernel.skies, unit), rtol=1e-4)
    assert len(find_transients(d)) == len(find_transients(want))


def test_a_reference_in_units_of_its_own():
    ref, sci = make(5)
    want = subtract(ref, sci)
    d = subtract(ref * np.float32(2.0**-60), sci)
    assert d.meta["units"][1] == 1 or d.meta["units"][0] != d.meta["units"][1]
    np.testing.assert_allclose(d.meta["scale"] / 2.0**60, want.meta["scale"], rtol=1e-3)
    np.testing.assert_allclose(d.image, want.image, rtol=0.01, atol=1)
    np.testing.assert_allclose(
        d.kernel(50, 50) / 2.0**60, want.kernel(50, 50), rtol=0.01, atol=1e-3
    )


def test_a_shift_is_rolled_told_and_warned_of():
    ref, sci = make(6, shift=(4, -3))
    with pytest.warns(UserWarning, match=r"up to 4 pixels off `scis` \(images 0\).*align them"):
        d = subtract(ref, sci)
    assert d.meta["shift"].tolist() == [[4, -3]]
    assert "rolled by (4, -3) pixels" in d.meta["notes"][0][-1]
    assert d.mask[:, :4].all()
    assert d.mask[-3:].all()
    t = find_transients(d)
    assert len(t) == 2
    np.testing.assert_allclose(sorted(t["x"]), [100.3, 180.2], atol=0.3)


def test_one_reference_that_is_shifted_for_some():
    refs, scis = make(7, n=2)
    scis[1] = np.roll(scis[1], (2, -6), (0, 1))
    with pytest.warns(UserWarning, match=r"\(images 1\)"):
        d = subtract(refs[0], scis, ref_masks=refs[0] > 1e9)
    assert d.meta["shift"].tolist() == [[0, 0], [-6, 2]]
    assert d.mask[1, :2].all()
    assert not d.mask[0, 8:-8].all(1).any()
    same(d[0], subtract(refs[0], scis[0]))


def test_saturation_that_nobody_told_and_none():
    ref, sci = make(8)
    rng = np.random.default_rng(9)
    x, y = spread(rng, 4, 30)
    for image, width in ((ref, 3.0), (sci, 4.2)):
        image += photons(rng, gaussians(x, y, [2e6] * 4, width))
        np.minimum(image, 20000, out=image)
    d = subtract(ref, sci, saturation=60000)
    np.testing.assert_array_equal(d.meta["saturation"], [[20000, 20000]])
    assert d.mask[(ref == 20000) | (sci == 20000)].all()
    assert len(d.meta["saturated"]) > 100
    assert "sci: saturated at 20000" in d.meta["notes"][0][1]
    assert np.isnan(subtract(ref, sci, saturation=None).meta["saturation"]).all()


def test_cosmic_rays_are_no_candidates_unless_asked():
    ref, sci = make(10)
    rng = np.random.default_rng(11)
    y, x = rng.integers(10, SIZE - 10, (2, 30))
    sci[y, x] += 3000
    d = subtract(ref, sci)
    assert d.meta["cosmic_rays"][0, 1] >= 29
    assert len(find_transients(d)) <= 3
    kept = subtract(ref, sci, cosmic_rays=False)
    assert not kept.meta["cosmic_rays"].any()
    assert len(find_transients(kept)) > 20
    with pytest.raises(TypeError, match="cosmic_rays is a str; it must be True or False"):
        subtract(ref, sci, cosmic_rays="yes")


@pytest.mark.parametrize("nothing", [0.0, 1e30, 1e-30])
def test_variances_that_say_nothing(nothing):
    ref, sci = make(12)
    variances = np.maximum(ref, 40), np.maximum(sci, 90)
    variances[1][50:70] = nothing
    d = subtract(ref, sci, ref_variances=variances[0], sci_variances=variances[1])
    want = variances[1].copy()
    want[50:70] = np.nan
    same(d, subtract(ref, sci, ref_variances=variances[0], sci_variances=want))
    assert d.mask[50:70].all()
    zeros = np.zeros_like(sci)
    assert not subtract(ref, sci, ref_variances=zeros, sci_variances=zeros).mask.all()


def test_frames_with_nothing_to_find_in():
    ref, sci = make(13, n=3)
    ref[0], sci[1], sci[2] = np.nan, 7, np.nan
    d = subtract(ref, sci)
    assert d.mask[[0, 2]].all()
    assert not d.meta["shift"].any()
    empty = subtract(ref[:0], sci[:0])
    assert empty.meta["shift"].shape == (0, 2)
