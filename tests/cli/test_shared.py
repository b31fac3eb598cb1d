"""Messages and parameters of the command line."""

import pytest
import typer

from fastdiff.cli.shared import need_folder, parameters_of, reason_of


def test_parameters_are_numbers_ranges_or_text():
    words = ["n=3", "width=1.5", "range=1,2.5", "preset=survey"]
    assert parameters_of(words) == {"n": 3, "width": 1.5, "range": (1, 2.5), "preset": "survey"}
    for wrong in ("n", "=3", "a b=1"):
        with pytest.raises(typer.BadParameter, match="NAME=VALUE is needed"):
            parameters_of([wrong])


def test_reasons_are_one_line_and_name_what_nobody_expects():
    assert reason_of(ValueError("a\n  b")) == "a b"
    assert reason_of(KeyError("x")) == "KeyError: 'x'"
    assert reason_of(OSError()) == "OSError: "


def test_a_folder_that_cannot_be_made_ends_the_command(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(typer.Exit):
        need_folder(tmp_path / "file")
