"""Detections against true sources by position."""

import numpy as np
import pytest

from fastdiff.evaluate import positions
from fastdiff.evaluate.regions import Counts
from tests.evaluate.reference import evaluate as reference


@pytest.mark.parametrize("seed", range(5))
def test_match_positions_equals_brute_force(seed):
    rng = np.random.default_rng(seed)

    def table(n):
        return {
            "x": rng.uniform(0, 20, n),
            "y": rng.uniform(0, 20, n),
            "image": rng.integers(0, 3, n),
        }

    detections, truth = table(40), table(30)
    matches = positions.match_positions(detections, truth, radius=3.0)
    rows = [np.stack([t["x"], t["y"], t["image"]], axis=1) for t in (detections, truth)]
    got = set(zip(matches.detection.tolist(), matches.truth.tolist(), strict=True))
    assert got == reference.greedy_pairs(*rows, 3.0)
    assert matches.found.sum() == (~matches.false).sum() == len(got)
    counts = matches.counts
    assert (counts.tp + counts.fp, counts.found + counts.fn) == (40, 30)
    np.testing.assert_allclose(
        matches.distance,
        np.hypot(*(rows[0][matches.detection] - rows[1][matches.truth])[:, :2].T),
    )


def test_match_positions_without_sources_or_detections():
    some, none = {"x": [1.0], "y": [2.0]}, {"x": [], "y": []}
    assert positions.match_positions(some, none).counts == Counts(0, 1, 0, 0)
    assert positions.match_positions(none, some).counts == Counts(0, 0, 1, 0)


def test_match_positions_reads_astropy_tables():
    table = pytest.importorskip("astropy.table").Table({"x": [3.0], "y": [4.0], "image": [1]})
    assert positions.match_positions(table, table, 0.5).counts.tp == 1


def test_by_snr_bins_recall_and_flux_errors():
    snr = np.array([5.0, 6, 8, -9, 10, 12, 500])
    found = np.array([True, False, True, True, True, False, True])
    ratio = np.array([0.9, 5.0, 1.1, 1.3, np.nan, 7.0, 1.0])
    rows = positions.by_snr(snr, found, ratio, edges=(5, 7, 10, 20, 30))
    assert [r["n"] for r in rows] == [2, 2, 2, 0]
    assert [r["recall"] for r in rows[:3]] == [0.5, 1.0, 0.5]
    np.testing.assert_allclose([r["flux_bias"] for r in rows], [-0.1, 0.2, np.nan, np.nan])
    np.testing.assert_allclose(rows[1]["flux_scatter"], 1.4826 * 0.1)
    assert np.isnan(rows[3]["recall"])


def test_each_source_gets_the_nearest_detection_that_is_free():
    truth = {"x": [10.0, 12.0, 50.0], "y": [10.0, 10.0, 50.0]}
    detections = {"x": [11.8, 10.6, 90.0, 10.1], "y": [10.0, 10.0, 90.0, 10.0]}
    matches = positions.match_positions(detections, truth)
    assert dict(zip(matches.truth.tolist(), matches.detection.tolist(), strict=True)) == {
        0: 3,
        1: 0,
    }
    assert matches.false.tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: positions.match_positions({"x": [1]}, {"x": [1], "y": [1]}), "x and y"),
        (lambda: positions.match_positions({"x": [], "y": []}, {}, 0), "radius is 0"),
        (lambda: positions.by_snr([1.0], [True, False]), "one length"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
