"""A network whose arithmetic is plain."""

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def minus(folder):
    """Model whose difference is channel 1 - channel 0."""
    return tiny.minus(folder / "minus.onnx")
