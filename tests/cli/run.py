"""Commands in this process."""

from typer.testing import CliRunner

from fastdiff.cli.app import app

EASY = [
    "--shape", "128", "128", "--seed", "3", "--set", "n_transients=3,3", "--set", "n_vanished=0",
    "--set", "p_variable=0", "--set", "amplitude=40,100", "--set", "fwhm_ref=2.5,3.5",
    "--set", "fwhm_sci=2.5,3.5", "--set", "star_density=2,4", "--set", "p_missing=0",
    "--set", "trails=0",
]  # fmt: skip


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])
