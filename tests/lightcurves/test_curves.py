"""The door for light curves: what it takes, sorts, drops, flags and refuses."""

import warnings

import numpy as np
import pytest

from fastdiff.kernels.curve import curves as kernel
from fastdiff.lightcurves.curves import (
    CONSTANT_TIME,
    DROPPED,
    EMPTY,
    FEW,
    describe_flags,
    read_curves,
)


def ragged(rng, sizes, missing=0.0):
    """Lists of times, magnitudes and errors, in disorder, with equal times."""
    time = [np.round(rng.uniform(58000, 58100, n), 1) for n in sizes]
    mag, err = ([rng.uniform(0, 1, n) for n in sizes] for _ in range(2))
    for arrays in (time, mag, err):
        for x in arrays:
            x[rng.uniform(size=x.size) < missing] = rng.choice([np.nan, np.inf])
    return time, mag, err


def expected(time, mag, err):
    good = np.isfinite(time) & np.isfinite(mag) & np.isfinite(err)
    t, m, e = time[good], mag[good], err[good]
    order = np.argsort(t, kind="stable")
    return t[order] - (t.min() if t.size else 0), m[order], e[order]


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("threads", [1, 3])
def test_equals_numpy_curve_by_curve(rng, missing, threads):
    sizes = [0, 1, 2, 15, 16, 17, 33, 300, 1000, *rng.integers(0, 70, 30)]
    time, mag, err = ragged(rng, sizes, missing)
    curves = read_curves(time, mag, magerr=err, threads=threads)
    assert len(curves) == len(sizes)
    for i in range(len(sizes)):
        own = slice(curves.offsets[i], curves.offsets[i + 1])
        made = curves.time[own], curves.mag[own], curves.magerr[own]
        want = expected(time[i], mag[i], err[i])
        for a, b in zip(made, want, strict=True):
            np.testing.assert_array_equal(a, b)
        n, flags = want[0].size, curves.flags[i]
        assert bool(flags & FEW) == (n < 20) and bool(flags & EMPTY) == (n < 2)
        assert bool(flags & DROPPED) == (n < sizes[i])
        assert bool(flags & CONSTANT_TIME) == (n > 1 and np.ptp(want[0]) == 0)


def test_layouts_are_the_same(rng):
    time, mag, err = ragged(rng, [4, 4, 4])
    flat = [np.concatenate(x) for x in (time, mag, err)]
    base = read_curves(*flat[:2], [0, 4, 8, 12], flat[2])
    for made in (
        read_curves(time, mag, magerr=err),
        read_curves([list(x) for x in time], [list(x) for x in mag], magerr=[list(x) for x in err]),
        read_curves(np.array(time), np.array(mag), magerr=np.array(err)),
        read_curves(*flat[:2], np.array([0, 4, 8, 12], ">u2"), flat[2]),
    ):
        for name in ("time", "mag", "magerr", "offsets", "flags"):
            np.testing.assert_array_equal(getattr(made, name), getattr(base, name))
    one = read_curves(time[0], mag[0])
    assert len(one) == 1 and one.magerr is None and one.n_points.tolist() == [4]


@pytest.mark.parametrize("dtype", ["i2", ">i4", "u1", "f4", ">f8", "f2", "i8"])
def test_any_real_dtype(dtype):
    time, mag = np.array([3, 1, 2], dtype), np.array([7, 8, 9], dtype)[::-1]
    time.flags.writeable = False
    curves = read_curves(time, mag)
    np.testing.assert_array_equal(curves.time, [0, 1, 2])
    np.testing.assert_array_equal(curves.mag, [8, 7, 9])
    assert curves.time.dtype == curves.mag.dtype == np.float64
    np.testing.assert_array_equal(time, np.array([3, 1, 2], dtype))


def test_integer_times_keep_all_digits():
    time = np.array([2**53 - 1, 2**53 - 3])
    np.testing.assert_array_equal(read_curves(time, [0, 0]).time, [0, 2])


def test_masked_points_are_dropped():
    mag = np.ma.array([1.0, 2.0, 3.0], mask=[False, True, False])
    curves = read_curves([0, 1, 2], mag)
    assert curves.mag.tolist() == [1, 3] and curves.flags[0] == FEW | DROPPED
    assert read_curves([[0, 1, 2]], [mag]).mag.tolist() == [1, 3]


def test_tensors(rng):
    torch = pytest.importorskip("torch")
    curves = read_curves(torch.tensor([2, 1]), torch.tensor([5.0, 6.0]))
    assert curves.mag.tolist() == [6, 5]


def test_no_curves_and_no_points():
    assert len(read_curves([], [])) == 0
    assert len(read_curves(np.array([]), np.array([]), [0])) == 0
    empty = read_curves(np.array([]), np.array([]))
    assert len(empty) == 1 and empty.flags[0] == FEW | EMPTY
    assert describe_flags(empty.flags[0]) == "FEW, EMPTY"


def test_caller_keeps_the_arrays(rng):
    time, mag = rng.uniform(0, 1, 50), rng.uniform(0, 1, 50)
    before = time.copy(), mag.copy()
    read_curves(time, mag)
    np.testing.assert_array_equal((time, mag), before)


@pytest.mark.parametrize(("dtype", "warns"), [("f4", True), ("f8", False), ("i4", False)])
def test_narrow_times_warn(dtype, warns):
    time = np.array([58000, 58001, 58002], dtype)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_curves(time, [0, 0, 0])
        read_curves([time, time], [[0, 0, 0], [0, 0, 0]])
        read_curves(time - 58000, [0, 0, 0])
    assert len(caught) == (2 if warns else 0)
    if warns:
        assert "`time` has dtype float32 and reaches 58002 days" in str(caught[0].message)
        assert "338 s" in str(caught[0].message)  # 2^-8 days


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([0, 1], [0, 1, 2]), ValueError, "`mag` has 3 points and `time` 2"),
        (
            ([[0, 1], [0]], [[0, 1], [0, 1]]),
            ValueError,
            "`mag` of curve 1 has 2 points and `time` 1",
        ),
        (([[0, 1], [0]], [[0, 1]]), ValueError, "`mag` has 1 curves and `time` 2"),
        (([0, 1], [0, 1], [0, 3]), ValueError, "`offsets` runs from 0 to 3; it must run from 0 to"),
        (([0, 1], [0, 1], [1, 2]), ValueError, "runs from 1 to 2"),
        (([0, 1], [0, 1], [0, 2, 1, 2]), ValueError, "falls from 2 to 1 at 2"),
        (([0, 1], [0, 1], [0.0, 2.0]), TypeError, "`offsets` has dtype float64"),
        (([0, 1], [0, 1], []), TypeError, "`offsets` has dtype float64"),
        (([0, 1], [0, 1], [[0, 2]]), ValueError, "`offsets` has shape"),
        (([0, 1], [0, 1], None, [0.1, -0.1]), ValueError, "`magerr` of curve 0 holds -0.1"),
        (([0, 1], [0, 1], None, [0.1]), ValueError, "`magerr` has 1 points"),
        ((["a", "b"], [0, 1]), TypeError, "`time` has dtype <U1"),
        (([0, 1j], [0, 1]), TypeError, "`time` has dtype complex128"),
        (([True, False], [0, 1]), TypeError, "`time` has dtype bool"),
        ((None, [0, 1]), TypeError, "`time` is None"),
        ((np.zeros((2, 2, 2)), np.zeros((2, 2, 2))), ValueError, r"has shape \(2, 2, 2\)"),
        ((np.zeros((2, 2)), np.zeros((2, 2)), [0, 4]), ValueError, r"has shape \(2, 2\)"),
    ],
)
def test_refusals_say_what_came_and_the_cure(arguments, error, message):
    with pytest.raises(error, match=message):
        read_curves(*arguments)


def test_errors_may_be_needed():
    with pytest.raises(TypeError, match="`magerr` is None"):
        read_curves([0, 1], [0, 1], need_magerr=True)


def test_merge_sort_is_stable(rng):
    for n in (1, kernel.RUN, kernel.RUN + 1, 1000):
        time = rng.integers(0, 5, n).astype(float)
        np.testing.assert_array_equal(
            read_curves(time, np.arange(n)).mag, np.argsort(time, kind="stable")
        )


# ---------------------------------------------------------------------- parts, and a GPU


def test_a_part_shares_memory_with_all(rng):
    time, mag, err = ragged(rng, [4, 0, 7, 5])
    curves = read_curves(time, mag, magerr=err)
    part = curves.part(1, 3)
    expected = read_curves(time[1:3], mag[1:3], magerr=err[1:3])
    for name in ("time", "mag", "magerr", "offsets", "flags"):
        np.testing.assert_array_equal(getattr(part, name), getattr(expected, name))
    assert np.shares_memory(part.mag, curves.mag)
    assert len(curves.part(4, 9)) == 0
    assert read_curves(time, mag).part(1, 3).magerr is None


def test_kernels_get_empty_errors_for_none():
    curves = read_curves([0, 1], [2, 3])
    time, mag, magerr, offsets = curves.flat
    assert time is curves.time and mag is curves.mag and offsets is curves.offsets
    assert magerr.shape == (0,) and magerr.dtype == np.float64


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_arrays_of_a_gpu_go_back_there(cupy, rng, missing):
    time, mag, err = ragged(rng, [0, 1, 15, 40, 3], missing)
    expected = read_curves(time, mag, magerr=err)
    lists = [[cupy.asarray(x) for x in each] for each in (time, mag, err)]
    flat = [cupy.asarray(np.concatenate(x)) for x in (time, mag, err)]
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in time])])
    for made in (
        read_curves(*lists[:2], magerr=lists[2]),
        read_curves(*flat[:2], offsets, flat[2]),
        read_curves(*flat[:2], cupy.asarray(offsets), flat[2]),
    ):
        for name in ("time", "mag", "magerr"):
            assert isinstance(getattr(made, name), cupy.ndarray)
            assert getattr(made, name).dtype == np.float64
        for name in ("offsets", "flags"):
            np.testing.assert_array_equal(getattr(made, name), getattr(expected, name))
        for name in ("time", "mag", "magerr"):
            np.testing.assert_array_equal(getattr(made.on_host(), name), getattr(expected, name))
    alone = read_curves(*flat[:2], offsets)
    assert alone.magerr is None and alone.on_host().magerr is None
    assert isinstance(alone.flat[2], cupy.ndarray) and alone.flat[2].shape == (0,)
    square = read_curves(cupy.asarray(np.ones((2, 3), "f4")), cupy.asarray(np.ones((2, 3), "i2")))
    assert len(square) == 2 and isinstance(square.mag, cupy.ndarray)


def test_devices_are_not_mixed(cupy):
    here, there = np.arange(3.0), cupy.asarray(np.arange(3.0))
    for arguments, message in (
        ((here, there), "`mag` is on cuda:0 and `time` on cpu; all arrays must be on one device"),
        ((there, here), "`mag` is on cpu and `time` on cuda:0"),
        ((there, there, None, here), "`magerr` is on cpu and `time` on cuda:0"),
        (([here, there], [here, here]), r"`time\[1\]` is on cuda:0 and `time\[0\]` on cpu"),
    ):
        with pytest.raises(TypeError, match=message):
            read_curves(*arguments)


def test_arrays_of_a_gpu_are_checked_like_others(cupy):
    there = cupy.asarray(np.arange(3.0))
    with pytest.raises(ValueError, match=r"`magerr` of curve 0 holds -1"):
        read_curves(there, there, None, cupy.asarray(np.array([0.0, -1.0, 0.0])))
    with pytest.raises(TypeError, match="`mag` has dtype complex128"):
        read_curves(there, cupy.asarray(np.ones(3, complex)))
    with pytest.raises(ValueError, match="`mag` has 2 points and `time` 3"):
        read_curves(there, cupy.asarray(np.ones(2)))
