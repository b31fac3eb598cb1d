"""Labelled light curves: parts, faults, groups on the sky."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the train extra (PyTorch)")
onnx = pytest.importorskip("onnx", reason="export needs the train extra (onnx)")

from fastdiff.training import crts  # noqa: E402

torch.set_num_threads(1)


def test_groups_are_chains_of_neighbours(rng):
    ra = rng.uniform(0, 0.05, 150) + 359.98
    dec = 60 + rng.uniform(0, 0.03, 150)
    radius = 8.0
    group = crts.position_groups(ra % 360, dec, radius)
    # By hand: labels spread along pairs until nothing changes.
    a, d = np.radians(ra), np.radians(dec)
    cosine = np.sin(d) * np.sin(d[:, None]) + np.cos(d) * np.cos(d[:, None]) * np.cos(
        a - a[:, None]
    )
    near = np.degrees(np.arccos(np.clip(cosine, -1, 1))) * 3600 < radius
    np.fill_diagonal(near, True)
    slow = np.arange(150)
    while True:
        new = np.where(near, slow, 999).min(1)
        if (new == slow).all():
            break
        slow = new
    assert 1 < len(np.unique(slow)) < 150
    assert ((group[:, None] == group) == (slow[:, None] == slow)).all()


def test_the_split_has_its_shares():
    parts = [crts.split_of(number) for number in range(20_000)]
    shares = [parts.count(name) / 20_000 for name in ("train", "val", "test")]
    np.testing.assert_allclose(shares, [0.7, 0.15, 0.15], atol=0.01)


def test_the_parts_of_the_real_data(data_folder):
    whole = crts.load_crts(data_folder)
    parts = [crts.load_crts(data_folder, split) for split in ("train", "val", "test")]
    assert sorted(np.concatenate([p.ids for p in parts])) == sorted(whole.ids)
    assert (whole.time > 50_000).all() and np.diff(whole.offsets).min() >= 20
    with np.load(data_folder / "crts" / "crts_train.npz") as data:
        ra, dec = data["ra"], data["dec"]
        where = {number: i for i, number in enumerate(data["ids"].tolist())}
        label = data["label"]
    part = np.full(len(ra), -1)
    for k, some in enumerate(parts):
        rows = [where[number] for number in some.ids.tolist()]
        part[rows] = k
        assert (label[rows] == np.array(some.classes)[some.label]).all()
    # No two curves within 3 arcseconds are in different parts.
    for i in range(len(ra)):
        close = (np.abs(dec - dec[i]) * 3600 < 3) & (
            np.abs(ra - ra[i]) * np.cos(np.radians(dec[i])) * 3600 < 3
        )
        assert len(set(part[close & (part >= 0)].tolist())) <= 1


def test_faults_are_left_out_and_parts_add_up(made):
    whole = crts.load_crts(made)
    assert whole.time.min() > 50_000
    assert len(whole) == sum(len(crts.load_crts(made, s)) for s in ("train", "val", "test"))
    two = crts.load_crts(made, classes=("LPV", "EW"))
    assert two.classes == ("LPV", "EW") and np.bincount(two.label).tolist() == [20, 20]


def test_what_is_asked_for_must_exist(made):
    with pytest.raises(ValueError, match=r"split is 'dev'; it must be one of train, val, test"):
        crts.load_crts(made, "dev")
    with pytest.raises(ValueError, match="Mira"):
        crts.load_crts(made, classes=("EW", "Mira"))


def test_take_repeats_and_reorders(made):
    d = crts.load_crts(made)
    some = d.take(np.array([5, 0, 5]))
    for row, i in enumerate((5, 0, 5)):
        a, b = some.offsets[row : row + 2]
        np.testing.assert_array_equal(some.time[a:b], d.time[d.offsets[i] : d.offsets[i + 1]])
        assert some.ids[row] == d.ids[i] and some.label[row] == d.label[i]


def test_sdss(data_folder):
    d = crts.load_sdss_rrlyrae(data_folder, "g")
    # Sesar et al. (2010): 379 RR Lyrae of type ab and 104 of type c.
    number = np.bincount(d.label, minlength=7)
    assert (number[crts.CLASSES.index("RRab")], number[crts.CLASSES.index("RRc")]) == (379, 104)
    assert d.mag.max() < 30 and np.diff(d.offsets).min() > 0
    periods = np.array([crts.load_sdss_periods(data_folder)[number] for number in d.ids])
    overtone = d.label == crts.CLASSES.index("RRc")
    assert periods.min() > 0.2 and periods[overtone].max() < 0.5 < periods.max() < 1
    assert np.median(periods[overtone]) < np.median(periods[~overtone])
    with pytest.raises(ValueError, match="band is 'y'"):
        crts.load_sdss_rrlyrae(data_folder, "y")
