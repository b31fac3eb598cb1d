"""One frame, looked at for everything."""

import numpy as np

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
