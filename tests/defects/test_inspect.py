"""One frame, looked at for everything."""

import numpy as np
from astropy.io import fits

from fastdiff.defects.inspect import inspect_frame
from tests.defects.scenes import field


def test_an_ordinary_frame_has_nothing():
    image, _ = field(1)
    frame = inspect_frame(image, None)
    assert frame.bad is None
    assert frame.missing is frame.saturation is None
    assert len(frame.tops.x) > 30


def test_all_that_is_found_is_bad():
    image, _ = field(2, low=4, high=6.3)
    bad = np.zeros(image.shape, bool)
    bad[200:210] = True
    image = np.minimum(image, 30000)
    image[:, :20] = 0
    frame = inspect_frame(image, bad)
    assert frame.bad[:, :20].all()
    assert frame.missing.mask[:200, :20].all()
    assert (frame.bad == (bad | frame.missing.mask | frame.saturation.mask)).all()
    assert not bad[:190].any()  # the caller's is not written to
    assert inspect_frame(image, bad, saturation=False).saturation is None


def test_frames_without_anything():
    for value in (np.nan, 7.0):
        frame = inspect_frame(np.full((64, 64), value, np.float32), None)
        assert frame.tops is None
        assert not len(frame.sharp(np.empty(0, int)).places)


def test_real_frames_of_one_detector(data_folder):
    """Two exposures: a row and a column repeat one value, 65535 is full, hot pixels stay."""
    folder = data_folder / "pairs" / "eso085"
    images = [fits.getdata(folder / f"{k}.fits").astype(np.float32) for k in ("ref", "sci")]
    ref, sci = (inspect_frame(image, None) for image in images)
    edge = np.ones(images[0].shape, bool)
    edge[1:-1, 1:-1] = False
    constant = (np.ptp(images[0], 1) == 0)[:, None] | (np.ptp(images[0], 0) == 0)
    assert (constant & edge).sum() > 1700
    np.testing.assert_array_equal(ref.missing.mask, constant)
    assert not (sci.missing.mask & ~edge).any()
    for frame, image in zip((ref, sci), images, strict=True):
        assert frame.saturation.level == 65535
        assert frame.saturation.mask[image == 65535].all()
    common = ref.in_common(sci)
    assert common.whole == (0, 0)
    places = [set(f.sharp(w).places) for f, w in ((ref, common.ref), (sci, common.sci))]
    assert len(places[0] & places[1]) > 0.5 * min(map(len, places))


def test_sentinels_of_real_stamps(data_folder):
    """ZTF's stamps at the edge of a chip hold the lowest float32."""
    stamps = np.load(data_folder / "ztf" / "ztf_triplets.npz")["stamps"][:300, :2]
    n = 0
    for image in stamps.reshape(-1, 63, 63).astype(np.float32):
        low = image == np.finfo(np.float32).min
        missing = inspect_frame(np.ascontiguousarray(image), np.isnan(image)).missing
        assert (missing is not None) == (low.sum() > 30)
        if missing is not None:
            n += 1
            assert (missing.mask & low).sum() > 0.97 * low.sum()
            assert missing.mask.sum() < 1.2 * low.sum() + 200
    assert n > 3
