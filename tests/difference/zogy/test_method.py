"""The method "zogy": batches, frames that show nothing, arrays of a GPU."""

import numpy as np
import pytest

from fastdiff import subtract_batch
from tests import pretend_cupy
from tests.difference.zogy.pairs import (
    FWHM_R,
    FWHM_S,
    PSF_R,
    PSF_S,
    PSFS,
    SCALE,
    SKY_S,
    make,
    render,
    run,
)


def test_batches_threads_and_one_reference_for_many():
    ref, sci, _ = make(seed=11)
    scis = np.stack([sci, make(seed=12)[1], sci[::-1]])
    options = {"method": "zogy", **PSFS, "gain": 1.0}
    d = subtract_batch(ref, scis, threads=3, **options)
    assert d.shape == (3, 256, 256) and len(d.psf) == 3
    single = run(ref, sci, **PSFS, gain=1.0)
    for got, want in ((d[0].image, single.image), (d[0].significance, single.significance)):
        np.testing.assert_array_equal(got, want)
    again = subtract_batch(np.stack([ref] * 3), scis, threads=1, **options)
    np.testing.assert_array_equal(d.image, again.image)
    tiles = [run(ref, sci, gain=1.0, tile=64),
             subtract_batch(ref, sci, method="zogy", threads=2, gain=1.0, tile=64)]  # fmt: skip
    np.testing.assert_array_equal(tiles[0].significance, tiles[1].significance)


def test_psfs_of_images_and_of_tiles():
    ref, sci, _ = make(seed=13)
    single = run(ref, sci, **PSFS, scale=SCALE)
    both = np.stack([PSF_S, PSF_R])
    d = subtract_batch(np.stack([ref, ref]), np.stack([sci, ref]), method="zogy", threads=1,
                       ref_psfs=PSF_R[None], sci_psfs=both, scale=[SCALE, 1.0])  # fmt: skip
    np.testing.assert_array_equal(d[0].image, single.image)
    np.testing.assert_allclose(d[1].image, 0, atol=1e-2)
    per_tile = np.broadcast_to(PSF_S, (1, 4, 25, 25))
    got = run(ref, sci, ref_psfs=PSF_R, sci_psfs=per_tile, tile=128, scale=SCALE)
    want = run(ref, sci, **PSFS, tile=128, scale=SCALE)
    np.testing.assert_array_equal(got.image, want.image)


def test_different_sky_gain_and_negative_pixels():
    ref, sci, _ = make((384, 384), n_stars=80, seed=14)
    want = run(ref, sci, **PSFS)
    d = run(30 * (ref - 2000), sci - 500, **PSFS)
    assert d.meta["scale"][0] == pytest.approx(SCALE / 30, rel=0.005)
    assert d.meta["sky"][0] == pytest.approx(SKY_S - 500, abs=1)
    keep = ~(d.mask | want.mask)
    np.testing.assert_allclose(d.significance[keep], want.significance[keep], atol=0.15)


def test_images_without_information():
    ref, sci, _ = make((3, 128, 128)[1:], seed=15)
    scis = np.stack([sci, np.full_like(sci, np.nan), np.full_like(sci, 7)])
    d = subtract_batch(ref, scis, method="zogy", threads=1, **PSFS)
    assert d.mask[1].all() and np.isnan(d.significance[1]).all()
    assert (d.image[2] == 0).all() and not d.mask[2].any()
    assert "no pixel is good" in d.meta["notes"][1][0]
    assert "constant" in d.meta["notes"][2][0]
    assert d.mask[0].mean() < 0.02
    d = run(np.full_like(ref, 3), sci, **PSFS)
    assert "the reference is constant" in d.meta["notes"][0]
    assert np.corrcoef(d.image[~d.mask], sci[~d.mask])[0, 1] > 0.8


def test_zero_variance_and_no_noise():
    shape = (128, 128)
    x, y, flux = [40, 80, 60], [40, 50, 90], [1e4, 2e4, 3e4]
    ref, sci = (100 + render(shape, x, y, np.array(flux) * a, fwhm).astype(np.float32)
                for a, fwhm in ((1, FWHM_R), (SCALE, FWHM_S)))  # fmt: skip
    d = run(ref, sci, **PSFS)
    assert np.isfinite(d.image).all()
    assert np.abs(d.image).max() < 0.02 * sci.max()
    ref, sci, _ = make(shape, seed=16)
    zero = np.zeros(shape)
    d = run(ref, sci, **PSFS, ref_variances=zero, sci_variances=zero)
    assert np.isfinite(d.image[~d.mask]).all()
    assert np.isfinite(d.significance[~d.mask]).mean() > 0.9  # not beside patches of bad pixels


@pytest.fixture
def cupy(monkeypatch):
    return pretend_cupy.install(monkeypatch)


@pytest.mark.parametrize("case", ["plain", "PSFs given", "bad pixels", "variances", "constant"])
def test_arrays_of_a_gpu_stay_there(case, cupy):
    """The maps are those of the CPU, and no more than the images and samples come back from it."""
    ref, sci, _ = make((160, 192), n_stars=25, transients=[(90, 70, 2e4)])
    options = PSFS | {"tile": 96} if case == "PSFs given" else {}
    if case == "bad pixels":
        ref[60:70, 30:50], sci[:, 100:103] = np.nan, 65535
        options["saturation"] = 60000
    elif case == "variances":
        options |= {"ref_variances": ref + 1, "sci_variances": sci + 1, "gain": 2.0}
    elif case == "constant":
        sci[:] = 7
    scis = np.stack([sci, sci[::-1, ::-1].copy()])
    expected = run(ref, scis, **options)
    there = {k: cupy.asarray(v) if k.endswith("variances") else v for k, v in options.items()}
    made = run(cupy.asarray(ref), cupy.asarray(scis), **there)
    # The images come back once, what is known of their pixels, and the difference for its noise.
    n_planes = sum(shape == ref.shape for shape in pretend_cupy.copies)
    n_tiles = 4 if case == "PSFs given" else 1
    once = {"bad pixels": 2, "variances": 3}.get(case, 1)
    assert n_planes <= (1 + len(scis)) * once + n_tiles * len(scis)
    for name in ("image", "noise", "mask", "significance", "flux", "flux_err"):
        map_ = getattr(made, name)
        assert isinstance(map_, cupy.ndarray), name
        # Sums of the filter for point sources may come in another order.
        wanted, exact = getattr(expected, name), name in ("image", "noise", "mask")
        tolerance = {} if exact else {"rtol": 1e-4, "atol": 1e-4 * np.nanmax(np.abs(wanted))}
        np.testing.assert_allclose(map_.get(), wanted, **tolerance or {"rtol": 0}, err_msg=name)
    np.testing.assert_array_equal(made.psf[0], expected.psf[0])
    np.testing.assert_array_equal(made.meta["saturated"], expected.meta["saturated"])
    np.testing.assert_array_equal(made.meta["scale"], expected.meta["scale"])
    assert made.meta["notes"] == expected.meta["notes"]
    np.testing.assert_array_equal(np.asarray(made[0]), expected[0].image)


def test_masks_on_a_gpu(cupy):
    ref, sci, _ = make((96, 96), n_stars=12)
    bad = np.zeros(ref.shape, bool)
    bad[40:45, 50] = True
    expected = run(ref, sci, ref_masks=bad)
    made = run(cupy.asarray(ref), cupy.asarray(sci), ref_masks=cupy.asarray(bad))
    np.testing.assert_array_equal(made.mask.get(), expected.mask)
    np.testing.assert_array_equal(made.image.get(), expected.image)


def test_psfs_on_a_gpu(cupy):
    ref, sci, _ = make((96, 96), n_stars=12)
    expected = run(ref, sci, **PSFS)
    made = run(*map(cupy.asarray, (ref, sci)), **{k: cupy.asarray(v) for k, v in PSFS.items()})
    np.testing.assert_array_equal(made.image.get(), expected.image)


def test_what_a_gpu_cannot_do_is_told(cupy):
    image = cupy.asarray(np.ones((64, 64), np.float32))
    with pytest.raises(TypeError, match=r"`refs` is on cpu.*move"):
        run(np.ones((64, 64)), image)
    with pytest.raises(TypeError, match="`out` is not taken for images on a GPU"):
        run(image, image, out=image)
