"""The method "psf-match": batches, what it tells, arrays of a GPU."""

import threading

import numpy as np
import pytest
from scipy.ndimage import maximum_filter

from fastdiff.kernels import jit
from tests import pretend_cupy
from tests.difference.psfmatch.pairs import (
    SCALE,
    SKIES,
    Pair,
    subtract,
)


def test_threads_and_batches_change_nothing(pair):
    other = Pair(seed=2)
    refs, scis = np.stack([pair.ref, other.ref]), np.stack([pair.sci, other.sci])
    whole = subtract(refs, scis, threads=3, significance=True)
    for i, each in enumerate((pair, other)):
        alone = each.subtract(threads=1, significance=True)
        for name in ("image", "noise", "significance", "flux_err"):
            np.testing.assert_array_equal(getattr(whole[i], name), getattr(alone, name))
        np.testing.assert_array_equal(whole[i].kernel.components, alone.kernel.components)


def test_one_reference_for_many_science_images(pair):
    scis = np.stack([pair.sci, pair.sci * 2])
    one, many = subtract(pair.ref, scis), subtract(np.stack([pair.ref] * 2), scis)
    np.testing.assert_array_equal(one.image, many.image)
    np.testing.assert_allclose(one.meta["scale"], [SCALE, 2 * SCALE], rtol=0.02)


@pytest.mark.parametrize("dtype", ["float64", "uint16", ">f4"])
def test_dtypes(pair, dtype):
    expected = pair.subtract(saturation=None)
    made = subtract(pair.ref.astype(dtype), pair.sci.astype(dtype), saturation=None)
    good = ~expected.mask
    assert (np.abs(made.image - expected.image) < 0.01 * expected.noise)[good].all()


def test_inputs_are_left_as_they_were(pair):
    copies = pair.ref.copy(), pair.sci.copy()
    copies[0][5:9, 5:9] = np.nan
    before = [each.copy() for each in copies]
    subtract(*copies)
    for now, then in zip(copies, before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_meta(pair):
    meta = pair.subtract().meta
    assert meta["noise_free"] is False
    assert meta["pixel_threshold"] == 3
    np.testing.assert_allclose(meta["fwhm"], [[2.5, 3.6]], rtol=0.03)
    assert meta["stamps"][0] > 20
    assert meta["sky"] == pytest.approx(SKIES["sci"], abs=2)
    assert {"measure", "stars", "fit", "difference", "total"} <= set(meta["seconds"])


def test_empty_batch():
    empty = np.empty((0, 64, 64), np.float32)
    assert subtract(empty, empty).shape == (0, 64, 64)


# -------------------------------------------------------------------- on a GPU


def on(cupy, value):
    """Frames, masks and variances of a GPU; options are what they are."""
    return cupy.asarray(value) if isinstance(value, np.ndarray) and value.ndim > 1 else value


def agree(made, expected, cupy):
    """All maps are CuPy's and those of the CPU, but for float32 sums in another order."""
    noise = np.nanmedian(expected.noise)
    units = {"image": noise, "noise": noise, "flux": np.nanmedian(expected.flux_err)}
    units |= {"flux_err": units["flux"], "significance": 1.0, "mask": 1.0}
    # Signal adds photon noise from 3 sigma on. A pixel just there may fall on either side, and
    # changes the errors of the fluxes around it.
    flipped = ~np.isclose(made.noise.get(), expected.noise, rtol=2e-3, equal_nan=True)
    assert np.count_nonzero(flipped) <= 2
    side = max(len(psf) for psf in made.psf)
    reached = maximum_filter(flipped, (1, side, side)[-flipped.ndim :])
    for name, unit in units.items():
        map_, wanted = getattr(made, name), np.asarray(getattr(expected, name))
        assert isinstance(map_, cupy.ndarray), name
        assert map_.dtype == wanted.dtype, name
        rtol = 2e-2 if name in ("flux_err", "significance") else 2e-3  # of photons, by a robust fit
        close = np.isclose(map_.get(), wanted, atol=0.02 * unit, rtol=rtol, equal_nan=True)
        if name in ("noise", "flux_err", "significance"):
            close |= reached
        # Light counts from 6 sigma on, and a pixel just there may fall on either side too.
        assert np.count_nonzero(~close) <= (4 if name in ("flux_err", "significance") else 0), name


GPU_CASES = {
    "plain": {},
    "polynomials": {"convolve": "sci", "scale_order": 1, "background_order": 2},
    "variances": {"decorrelate": True},
    "bad pixels": {"saturation": 30_000.0},
    "all pixels": {"fit": "all"},
    "deltas": {"basis": "delta", "kernel_size": 9, "decorrelate": True},
    "transforms": {"kernel_size": 37},
}


@pytest.mark.parametrize("case", GPU_CASES)
def test_arrays_of_a_gpu_stay_there(case, cupy, rng):
    """What comes back to the CPU is what the docstring says."""
    options = GPU_CASES[case]
    pair = Pair(side=256, n_stars=80, n_new=1)
    ref, scis = pair.ref, pair.sci[None]
    if case == "plain":
        scis = np.stack([pair.sci, Pair(side=256, n_stars=80, n_new=2).sci])
    elif case == "variances":
        options = options | {"ref_variances": pair.ref_variance, "sci_variances": pair.sci_variance}
    elif case == "bad pixels":
        ref, scis = ref.copy(), scis.copy()
        ref[100:120, 30:50], scis[0, 200, 77] = np.nan, np.inf
        options = options | {"sci_masks": rng.random(ref.shape) < 1e-4, "ref_masks": ref > 20_000}
    expected = subtract(ref, scis, **options)
    there = {name: on(cupy, value) for name, value in options.items()}
    arrays = on(cupy, ref), on(cupy, scis)
    pretend_cupy.copies.clear()
    made = subtract(*arrays, **there)
    copies = list(pretend_cupy.copies)
    agree(made, expected, cupy)
    for name in ("notes", "convolved", "stamps"):
        np.testing.assert_equal(made.meta[name], expected.meta[name])
    for one, other in zip(made.kernel, expected.kernel, strict=True):
        assert isinstance(one.components, np.ndarray)
        near = np.abs(one.components - other.components).max()
        assert near < 2e-3 * np.abs(other.components).max()
    if isinstance(arrays[0], pretend_cupy.ndarray):
        masked = 2 if case in ("bad pixels", "variances") else 1
        frames = [shape for shape in copies if shape[-2:] == ref.shape]
        whole = (1 + len(scis)) * masked + 2 * len(scis)
        assert sum(np.prod(shape[:-2]) for shape in frames) == whole
        calibrated = 2 if case == "variances" else 4
        assert copies.count((128, 128)) == calibrated * len(scis)
        equations = 3 * (3 if case == "all pixels" else 2)
        assert len(copies) <= 10 + len(scis) * (calibrated + equations + 18)


def test_where_nothing_shines_on_a_gpu(cupy, rng):
    """A kernel of 1, and nothing at all, as on the CPU; both in one batch."""
    ref, sci = rng.normal(100, 10, (2, 96, 96)).astype(np.float32)
    scis = np.stack([sci, np.full_like(sci, np.nan)])
    expected = subtract(ref, scis)
    made = subtract(cupy.asarray(ref), cupy.asarray(scis))
    np.testing.assert_allclose(made.image.get(), expected.image, atol=1e-3)
    np.testing.assert_allclose(made.noise.get(), expected.noise, rtol=1e-5)
    assert made.meta["notes"] == expected.meta["notes"]
    assert made.kernel[1] is None


def test_a_gpu_is_used_from_the_callers_thread(monkeypatch, rng):
    """The current device and stream of CuPy belong to a thread."""
    cupy = pretend_cupy.install(monkeypatch)
    launch, used = jit.CudaKernel.launch, set()

    def watched(*arguments, **options):
        used.add(threading.get_ident())
        launch(*arguments, **options)

    monkeypatch.setattr(jit.CudaKernel, "launch", watched)
    images = cupy.asarray(rng.normal(100, 10, (2, 64, 64)).astype(np.float32))
    subtract(images, images, threads=2)
    assert used == {threading.get_ident()}
