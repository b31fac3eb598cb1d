"""Defects: trails, with and without dashes."""

import numpy as np
import pytest

from fastdiff.kernels.synth import defects, synth, tables
from tests.kernels.synth import scenes
from tests.kernels.synth.reference import synth as reference


def test_trails_are_straight_lines_as_wide_as_the_psf_and_no_transients():
    ny, nx, n = 64, 128, 400
    quiet = scenes.PLAIN | {"star_snr": (1e-6, 1e-5), "galaxy_snr": (1e-6, 1e-5)}
    quiet |= {"n_transients": (0.0, 0.0), "fwhm_ref": (3.0, 3.0), "fwhm_sci": (4.0, 4.0)}
    quiet |= {"n_exposures": (1.0, 1.0), "p_cluster": 0.0, "trails": 0.3, "p_blinking": 0.0}
    made = scenes.drawn(n, ny, nx, **quiet)
    for image, fwhm in enumerate((3.0, 4.0)):
        rows = np.concatenate(
            [
                t[image, :k]
                for t, k in zip(made["defects"], made["n_defects"][:, image], strict=True)
            ]
        )
        # a Poisson mean of 0.3 for each 64 pixels of side, within five standard errors
        expected = 0.3 * n * np.sqrt(ny * nx / 64**2)
        assert abs(len(rows) - expected) < 5 * np.sqrt(expected)
        sigma = fwhm / 2.3548
        assert (rows[:, tables.D_WIDTH] >= 0.999 * sigma).all()
        assert (rows[:, tables.D_WIDTH] <= 2.501 * sigma).all()
        length = np.hypot(rows[:, tables.D_DX], rows[:, tables.D_DY])
        assert 0.6 < (length > np.hypot(ny, nx)).mean() < 0.9  # most cross the frame
    batch = synth.synthesise(scenes.scene(**quiet), n, (ny, nx), 3)
    assert not batch.truth.any()
    alone = made["n_defects"][:, 1] == 1
    i = int(np.argmax(np.where(alone, made["defects"][:, 1, 0, tables.D_PEAK], 0)))
    y, x = np.indices((ny, nx)).astype(float)
    line = reference.defects(made["defects"][i, 1, :1], y, x) / made["frame"][i, tables.GAIN_SCI]
    excess = batch.sci[i] - np.median(batch.sci[i][line < 1e-6])
    bright = line > 0.1 * line.max()
    assert excess[bright].sum() == pytest.approx(line[bright].sum(), rel=0.05)


def test_trails_that_blink_are_dashes_along_their_line():
    made = scenes.drawn(400, 64, 64, **scenes.PLAIN | {"trails": 0.5, "p_blinking": 0.6})
    drawn = zip(made["defects"], made["n_defects"], strict=True)
    rows = np.concatenate([t[j, : k[j]] for t, k in drawn for j in range(2)])
    rows = rows[rows[:, tables.D_DX] != 0]
    dashed = rows[rows[:, tables.D_PERIOD] > 0]
    # a binomial fraction, within five standard errors
    assert abs(len(dashed) / len(rows) - 0.6) < 5 * np.sqrt(0.24 / len(rows))
    assert (rows[rows[:, tables.D_PERIOD] <= 0][:, tables.D_PERIOD :] == 0).all()
    assert (dashed[:, tables.D_DASH] <= 0.6 * dashed[:, tables.D_PERIOD]).all()
    assert (np.abs(dashed[:, tables.D_PHASE]) <= 0.5 * dashed[:, tables.D_PERIOD]).all()
    y, x = np.indices((64, 64))
    flashes = 0
    for row in dashed[:40]:
        value = [
            defects.defect_value(row, np.float32(a), np.float32(b))
            for a, b in zip(x.ravel(), y.ravel(), strict=True)
        ]
        expected = reference.defects(row[None], y.astype(float), x.astype(float))
        # far ends of long trails: positions are rounded to float32, hence 1e-3 of the peak
        assert np.abs(np.reshape(value, x.shape) - expected).max() < 2e-3 * row[tables.D_PEAK]
        lit = expected > 0.3 * row[tables.D_PEAK]
        flashes += lit.any() and not lit.all()
    assert flashes > 5
