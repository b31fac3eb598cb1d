"""Where results go."""

import numpy as np
import pytest

from fastdiff import Difference, subtract_batch
from tests.difference.frames import make, same


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4"])
@pytest.mark.parametrize("n", [None, 3])
def test_out_is_filled(minus, dtype, n):
    ref, sci = make(n=n)
    want = subtract_batch(ref, sci, model=minus)
    out = np.full(sci.shape, -7.0, dtype)
    d = subtract_batch(ref, sci, model=minus, out=out)
    assert d.image is out
    np.testing.assert_array_equal(out, want.image)
    np.testing.assert_array_equal(d.noise, want.noise)


def test_out_of_any_layout_and_over_the_input(minus):
    ref, sci = make(n=2)
    want = subtract_batch(ref, sci, model=minus)
    fortran = np.empty(sci.shape, "f4", order="F")
    strided = np.zeros((2, sci.shape[1], 2 * sci.shape[2]), "f4")
    for out in (fortran, strided[:, :, ::2], sci):
        subtract_batch(ref, sci.copy() if out is not sci else sci, model=minus, out=out)
        np.testing.assert_array_equal(out, want.image)
    assert not strided[:, :, 1::2].any()


def test_out_is_a_difference_of_an_earlier_call(minus):
    ref, sci = make(n=3)
    old = subtract_batch(ref, sci, model=minus)
    arrays = old.image, old.noise, old.mask
    sci[1, 2, 3] = np.nan
    want = subtract_batch(ref, sci + 1, model=minus)
    d = subtract_batch(ref, sci + 1, model=minus, out=old)
    assert d is old
    assert all(a is b for a, b in zip(arrays, (d.image, d.noise, d.mask), strict=True))
    same(d, want)
    assert d.meta["sky"] == pytest.approx(want.meta["sky"])
    empty = subtract_batch(ref[:0], sci[:0], model=minus)
    assert subtract_batch(ref[:0], sci[:0], model=minus, out=empty) is empty


def test_wrong_out(minus):
    ref, sci = make(n=2)
    whole = subtract_batch(ref, sci, model=minus)
    locked = np.empty(sci.shape, "f4")
    locked.flags.writeable = False
    bad_mask = Difference(whole.image, whole.noise, whole.mask.astype(np.uint8))
    for out, error, text in (
        (np.empty((2, 80, 96), "f4"), ValueError, r"`out` has shape \(2, 80, 96\); it must match"),
        (np.empty(sci.shape, "i4"), TypeError, "`out` has dtype int32; it must be float32 or"),
        (locked, ValueError, "`out` is read-only; it must be writeable"),
        ([1.0], TypeError, "`out` is a list; it must be an array"),
        (whole[0], ValueError, r"`out.image` has shape \(96, 80\); it must match `scis`, \(2, 96"),
        (bad_mask, TypeError, r"`out.mask` has dtype uint8; it must be bool"),
    ):
        with pytest.raises(error, match=text):
            subtract_batch(ref, sci, model=minus, out=out)
