"""The command as a whole."""

import subprocess
import sys
from pathlib import Path

import pytest

import fastdiff
from tests.cli.run import run

COMMANDS = ["subtract", "cpm", "dmdt", "classify", "simulate", "demo", "doctor", "train"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command):
    done = run(command, "--help")
    assert done.exit_code == 0
    assert "Example" in done.output
    assert f"fastdiff {command}" in done.output


def test_installed_command_says_its_version():
    done = subprocess.run(
        [Path(sys.executable).with_name("fastdiff"), "--version"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == f"fastdiff {fastdiff.__version__}"
