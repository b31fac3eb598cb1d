"""kernels/curve/columns.py: names and numbers of columns."""

import subprocess
import sys

from fastdiff.kernels.curve import columns


def test_numbers_are_places_of_names():
    for names, numbers in (
        (columns.CURVE_FEATURES, columns.CURVE),
        (columns.PERIOD_FEATURES, columns.PERIODIC),
    ):
        assert [getattr(numbers, name) for name in names] == list(range(len(names)))
        assert all(meaning.strip() for meaning in names.values())
    assert not columns.CURVE_FEATURES.keys() & columns.PERIOD_FEATURES.keys()


def test_columns_that_are_written_by_counting_stand_together():
    """Kernels write `CURVE.flux_percentile_ratio_mid20 + k` and so on."""
    curve, periodic = list(columns.CURVE_FEATURES), list(columns.PERIOD_FEATURES)
    ratios = [f"flux_percentile_ratio_mid{share}" for share in (20, 35, 50, 65, 80)]
    assert curve[columns.CURVE.flux_percentile_ratio_mid20 :][:5] == ratios
    amplitudes = [f"harmonic_amplitude_{k}" for k in range(1, 5)]
    assert periodic[columns.PERIODIC.harmonic_amplitude_1 :][:4] == amplitudes
    phases = ["phase_21", "phase_31", "phase_41"]
    assert periodic[columns.PERIODIC.phase_21 :][:3] == phases


def test_names_need_no_numba():
    code = "import fastdiff.lightcurves.features, sys; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
