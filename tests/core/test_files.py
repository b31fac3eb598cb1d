"""Files that are written whole or not at all."""

import os
import stat

import pytest

from fastdiff.core.files import whole_file


@pytest.mark.parametrize("sync", [False, True])
def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path, sync):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path, sync=sync) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted():
        with whole_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_rights_are_those_of_an_ordinary_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with whole_file(tmp_path / "whole"):
        pass
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "whole")}
    assert len(modes) == 1


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder .*gone of a\.txt does not exist"):
        whole_file(tmp_path / "gone" / "a.txt").__enter__()
