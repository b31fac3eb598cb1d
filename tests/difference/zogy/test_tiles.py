"""Bad pixels, and what cannot be known for them."""

import numpy as np
import pytest
from scipy import ndimage

from tests.difference.zogy.pairs import (
    FWHM_R,
    FWHM_S,
    PSFS,
    SCALE,
    make,
    render,
    run,
)


def test_a_bad_pixel_of_the_sky_costs_itself_only():
    ref, sci, model = make(seed=7)
    light = ndimage.maximum_filter(model, 25)
    y, x = np.unravel_index(np.argmin(light[30:-30, 30:-30]), (196, 196))
    y, x = y + 30, x + 30
    clean = run(ref, sci, **PSFS, gain=1.0)
    sci[y, x] = np.nan
    d = run(ref, sci, **PSFS, gain=1.0)
    assert d.mask.sum() - clean.mask.sum() == 1 and d.mask[y, x]
    for values in (d.image, d.noise):
        assert np.isnan(values[y, x]) and np.isfinite(values[~d.mask]).all()
    # A source there would be seen by its other pixels.
    assert np.isfinite(d.flux[y, x]) and d.flux_err[y, x] > clean.flux_err[y, x]
    far = np.hypot(*(np.indices(sci.shape) - np.array([y, x])[:, None, None])) > 30
    np.testing.assert_allclose((d.image - clean.image)[far & ~d.mask], 0, atol=0.2)


@pytest.mark.parametrize("which", [0, 1])
def test_a_saturated_star_is_masked_and_leaves_no_source(which):
    images = list(make(seed=8, n_stars=40, edge=40)[:2])
    star = render((256, 256), [128], [120], [3e6], (FWHM_R, FWHM_S)[which])
    other = render((256, 256), [128], [120], [3e6], (FWHM_R, FWHM_S)[1 - which])
    images[which] += (star * (SCALE if which else 1)).astype(np.float32)
    images[1 - which] += (other * (1 if which else SCALE)).astype(np.float32)
    np.minimum(images[which], 20000, out=images[which])
    d = run(*images, **PSFS, gain=1.0, saturation=20000)
    assert d.mask[images[which] >= 20000].all()
    assert d.mask.mean() < 0.03
    significance = np.nan_to_num(d.significance)
    away = np.hypot(*(np.indices((256, 256)) - np.array([120, 128])[:, None, None])) > 20
    assert np.abs(significance[away]).max() < 5.5


def test_borders_without_data_and_masked_areas():
    ref, sci, _ = make((256, 300), seed=9, n_stars=60)
    ref[:20] = np.nan
    sci[:, -35:] = np.nan
    masks = np.zeros(sci.shape, bool)
    masks[100:140, 60:110] = True
    d = run(ref, sci, **PSFS, gain=1.0, sci_masks=masks)
    must = masks.copy()
    must[:20] = must[:, -35:] = True
    assert d.mask[must].all()
    assert d.mask[~ndimage.binary_dilation(must, iterations=13)].mean() < 0.02
    assert np.nanmax(np.abs(d.significance)) < 6.5
    measured = run(ref, sci, gain=1.0, sci_masks=masks)
    assert np.nanmax(np.abs(measured.significance)) < 6.5


def test_stars_on_the_edge_leave_no_source():
    ref, sci, _ = make(seed=10, n_stars=80, edge=-3)
    d = run(ref, sci, **PSFS, gain=1.0)
    assert np.nanmax(np.abs(d.significance)) < 6
    assert d.mask.mean() < 0.1
