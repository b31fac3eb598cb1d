"""PSFs that are measured and tied to each other."""

import numpy as np
import pytest

from fastdiff.simulate.inject import point_source
from tests.difference.zogy.pairs import (
    FWHM_R,
    FWHM_S,
    PSF_R,
    PSF_S,
    PSFS,
    SCALE,
    SKY_R,
    SKY_S,
    make,
    render,
    run,
)


def test_measured_psfs_and_registration():
    plain, shifted = (make((384, 384), n_stars=120, seed=2, shift=shift)[:2]
                      for shift in ((0, 0), (0.35, -0.2)))  # fmt: skip
    for ref, sci in (plain, shifted):
        d = run(ref, sci, gain=1.0)
        assert np.nanmax(np.abs(d.significance)) < 6
        assert d.meta["n_stars"][0] > 80
        given = run(ref, sci, gain=1.0, **PSFS)
        assert np.nanmax(np.abs(given.significance)) < 6


def test_a_psf_that_varies_over_the_frame_is_followed():
    rng = np.random.default_rng(4)
    shape, n = (512, 512), 150
    x, y, flux = rng.uniform(8, 504, n), rng.uniform(8, 504, n), 10 ** rng.uniform(4.7, 5.5, n)
    ref = np.full(shape, SKY_R)
    for a, b, f in zip(x, y, flux, strict=True):
        ref += render(shape, [a], [b], [f], FWHM_R * (0.94 + 0.12 * a / 512))  # 12 % wider
    sci = SKY_S + render(shape, x, y, SCALE * flux, FWHM_S)
    ref, sci = (rng.poisson(each).astype(np.float32) for each in (ref, sci))
    one, many = (run(ref, sci, gain=1.0, calibrate=False, tile=tile) for tile in (512, 128))
    assert one.meta["n_tiles"] == 1 and many.meta["n_tiles"] == 16
    assert np.nanmax(np.abs(many.significance)) < 0.75 * np.nanmax(np.abs(one.significance))


def test_no_star_to_measure_a_psf_from():
    """A profile is assumed, and said: what is new is found, with a wrong flux."""
    shape = (128, 128)
    ref, sci, _ = make(shape, n_stars=0, transients=[(64, 50, 5e3)])
    d = run(ref, sci)
    assert any("is assumed; give `ref_psfs`" in note for note in d.meta["notes"][0])
    y, x = np.unravel_index(np.nanargmax(d.significance), shape)
    assert np.hypot(y - 50, x - 64) < 2
    quiet = np.ones(shape, bool)
    quiet[38:63, 52:77] = False
    assert np.nanmax(np.abs(d.significance[quiet])) < 5
    d = run(ref, sci, **PSFS)
    assert d.meta["scale"][0] == 1 and "scale: 1 assumed" in d.meta["notes"][0][0]


@pytest.mark.parametrize("known", ["ref", "sci"])
def test_errors_of_the_sharper_psf_cancel(known):
    """The other PSF is that one through the matching kernel: no star is left of a wrong pair."""
    wrong = point_source((25, 25), 12, 12, fwhm=1.3 * FWHM_R)
    ref, sci, _ = make(seed=18)
    if known == "sci":
        ref, sci = sci, ref
    wrong, options = wrong / wrong.sum(), {"calibrate": False, "gain": 1.0}
    cores = (sci if known == "ref" else ref) > 1500

    def share_of_misfits(**psfs):
        d = run(ref, sci, **psfs, **options)
        pulls = np.abs(d.image / d.noise)[cores & ~d.mask]
        assert len(pulls) > 100
        return np.mean(pulls > 4)

    assert share_of_misfits(**{f"{known}_psfs": wrong}) < 0.01
    own = {"ref_psfs": PSF_R, "sci_psfs": PSF_S}
    if known == "sci":
        own = {"ref_psfs": PSF_S, "sci_psfs": PSF_R}
    assert share_of_misfits(**own | {f"{known}_psfs": wrong}) > 0.1
