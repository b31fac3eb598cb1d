"""PSFs: the distributions of the paper."""

import numpy as np
import pytest
from scipy import stats

from fastdiff.kernels.synth import tables
from tests.kernels.synth import scenes


def test_paper_preset_has_the_papers_distributions():
    """Eqs 5-11: ranges and moments of what is drawn."""
    made = scenes.drawn(400, 140, 140, preset="paper")
    psf = made["psf"].astype(float)
    for j, ecc_max in ((0, 0.4), (1, 0.6)):
        xx, xy, yy = (psf[:, j, 0, k] for k in (tables.P_XX, tables.P_XY, tables.P_YY))
        mean, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
        major, minor = np.sqrt(mean + spread), np.sqrt(np.maximum(mean - spread, 0))
        assert major.min() > 1.99
        assert major.max() < 5.01
        assert stats.kstest(major, stats.uniform(2, 3).cdf).pvalue > 1e-4  # eq 9
        ecc = np.sqrt(1 - (minor / major) ** 2)  # eqs 10, 11: |N(0, ecc_max)|, cut at 0.9
        low = ecc < 0.85
        cut = 2 * stats.norm.cdf(0.85 / ecc_max) - 1
        assert low.mean() == pytest.approx(cut, abs=0.08)
        ks = stats.kstest(ecc[low], lambda e, s=ecc_max, c=cut: (2 * stats.norm.cdf(e / s) - 1) / c)
        assert ks.pvalue > 1e-4
    first = made["changes"][:, 0]
    counts = made["n_changes"][:, 0]
    assert (counts == 1).all()
    flux = first[:, tables.T_FLUX]
    assert flux.mean() == pytest.approx(1275, rel=0.01)  # eq 8
    assert flux.std() == pytest.approx(1275 * 0.03, rel=0.25)
