"""Messages of the checks of options."""

import numpy as np
import pytest

from fastdiff.core.options import one_of, whole_number


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_pass_as_int(value):
    assert whole_number("n", value, 1, 3) == 3
    assert type(whole_number("n", value)) is int


@pytest.mark.parametrize("value", [True, 3.0, "3", None, np.float32(3)])
def test_what_is_no_whole_number_is_a_type_error(value):
    with pytest.raises(TypeError, match=rf"^n is a {type(value).__name__}; .* whole number of pi"):
        whole_number("n", value, unit="pixels")


@pytest.mark.parametrize(
    ("value", "limits", "said"),
    [(0, (1,), "at least 1"), (4, (1, 3), "1 to 3"), (-1, (0, 3), "0 to 3")],
)
def test_limits_are_told(value, limits, said):
    with pytest.raises(ValueError, match=f"^n is {value}; it must be {said}$"):
        whole_number("n", value, *limits)


def test_choices():
    assert one_of("fit", "all", ("auto", "all")) == "all"
    assert one_of("symmetry", None, {None: 1, "cyclic": 4}) is None
    with pytest.raises(ValueError, match=r"^fit is 'al'; it must be one of 'auto', 'all'$"):
        one_of("fit", "al", ("auto", "all"))
