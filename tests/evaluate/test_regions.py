"""fastdiff.evaluate.regions against hand-made images and brute force."""

import numpy as np
import pytest

from fastdiff.evaluate import regions
from tests.evaluate.reference import evaluate as reference


def picture(text):
    return np.array([[c == "#" for c in line] for line in text.split()])


def test_label_joins_diagonal_neighbours_but_not_images():
    image = picture("#... .#.. ...# ...#")
    labels, n = regions.label(image)
    assert n == 2
    assert labels[0, 0] == labels[1, 1] != labels[2, 3]
    labels, n = regions.label(np.stack([image, image]))
    assert n == 4
    assert not set(np.unique(labels[0])) & set(np.unique(labels[1])) - {0}


def test_count_of_a_hit_a_false_alarm_and_a_miss():
    truth = picture("##...... ##...... ......## ........")
    output = picture("........ .#..#... ........ ........")
    counts = regions.count(output, truth)
    assert (counts.tp, counts.fp, counts.fn, counts.found) == (1, 1, 1, 1)
    assert counts.precision == counts.recall == counts.contamination == 0.5


def test_count_when_one_region_covers_two_sources_or_is_split():
    two = picture("##...## ##...##")
    one = picture("####### #######")
    merged = regions.count(one, two)
    assert (merged.tp, merged.found) == (1, 2)
    assert merged.precision == merged.recall == 1.0
    split = regions.count(two, one)
    assert (split.tp, split.found) == (2, 1)
    assert split.precision == split.recall == 1.0


def test_ratios_of_nothing_are_nan():
    nothing = np.zeros((4, 4), bool)
    counts = regions.count(nothing, nothing)
    assert np.isnan(counts.precision) and np.isnan(counts.recall)


@pytest.mark.parametrize("seed", range(5))
def test_precision_recall_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    output = rng.normal(size=(3, 12, 14))
    truth = rng.uniform(size=(3, 12, 14)) * (rng.uniform(size=(3, 12, 14)) > 0.85)
    levels = [-1.0, 0.5, 1.0, 1.7, 9.0]
    curve = regions.precision_recall(output, truth, levels, truth_threshold=0.3)
    for k, level in enumerate(levels):
        expected = np.sum(
            [reference.counts(y >= level, t >= 0.3) for y, t in zip(output, truth, strict=True)],
            axis=0,
        )
        tp, fp, fn, found = expected
        assert (curve.tp[k], curve.fp[k], curve.fn[k], curve.found[k]) == tuple(expected)
        assert curve.recall[k] == found / (found + fn)
        np.testing.assert_equal(curve.precision[k], tp / (tp + fp) if tp + fp else np.nan)


def test_default_thresholds_are_the_papers():
    rng = np.random.default_rng(0)
    output = rng.normal(size=(2, 32, 32)) * np.array([1.0, 7.0])[:, None, None]
    levels = regions.thresholds(output)
    assert levels.shape == (2, 101)
    np.testing.assert_allclose(levels[:, 0], 1e-4 * output.std(axis=(1, 2)))
    np.testing.assert_allclose(levels[:, -1], 100 * output.std(axis=(1, 2)))
    np.testing.assert_allclose(np.diff(np.log(levels[0])), np.log(1e6) / 100)
    # Relative thresholds: the unit of an image does not matter.
    truth = np.zeros_like(output)
    truth[:, 5, 5] = 1
    a = regions.precision_recall(output, truth)
    b = regions.precision_recall(output * 1000, truth)
    assert np.array_equal(a.tp, b.tp) and np.array_equal(a.fp, b.fp)


def test_blank_images_have_no_detections():
    output = np.zeros((2, 16, 16))
    output[0, 3, 3] = 1e-3  # standard deviation 6e-5
    output[1, 3, 3] = 10.0
    truth = np.zeros_like(output)
    truth[:, 3, 3] = 1
    assert regions.is_blank(output).tolist() == [True, False]
    level = [5e-4]
    assert regions.precision_recall(output, truth, level).recall[0] == 1.0
    kept = regions.precision_recall(output, truth, level, blank=1e-3)
    assert kept.recall[0] == 0.5 and kept.precision[0] == 1.0


def test_is_blank_leaves_nan_out():
    image = np.full((8, 8), np.nan)
    assert regions.is_blank(image[None]).tolist() == [True]
    image[:, :4] = np.arange(4)
    assert not regions.is_blank(image)


def test_truth_regions_sum_signed_fluxes_and_matched_filter_snr():
    y, x = np.mgrid[:40, :40]
    star = np.exp(-((y - 10) ** 2 + (x - 10) ** 2) / (2 * 2.0**2))
    truth = np.zeros((2, 40, 40))
    truth[0] = 3 * star - 5 * np.roll(star, (15, 15), (0, 1))
    truth[1] = 8 * star
    found = regions.truth_regions(np.abs(truth), 1e-3, values=truth)
    area = 2 * np.pi * 4
    assert found.image.tolist() == [0, 0, 1]
    np.testing.assert_allclose(found.flux, [3 * area, -5 * area, 8 * area], rtol=2e-3)
    # A Gaussian of flux F in white noise of sigma 1 has S/N F / sqrt(4 pi s**2).
    np.testing.assert_allclose(
        found.snr, np.array([3, 5, 8]) * area / np.sqrt(4 * np.pi * 4), rtol=1e-3
    )
    output = np.zeros_like(truth)
    output[0, 10, 10] = output[1, 9, 11] = 1
    assert regions.detected(output > 0, found.labels).tolist() == [True, False, True]
    assert regions.sum_regions(output, found.labels).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: regions.label(np.zeros(3)), r"binary has shape \(3,\)"),
        (lambda: regions.count(np.zeros((2, 2)), np.zeros((2, 3))), "must be equal"),
        (lambda: regions.truth_regions(np.zeros((2, 2))), r"must be \(n, ny, nx\)"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
