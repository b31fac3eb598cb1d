"""Scripts of examples/ that need no data, at sizes that say nothing about figures."""

import subprocess
import sys

from astropy.table import Table
from matplotlib.image import imread

from tests.conftest import ROOT


def test_figures_of_the_cpm_paper(tmp_path):
    script = [sys.executable, ROOT / "examples" / "cpm_figures.py", "--out", tmp_path]
    small = ["--side", "24", "--epochs", "40", "--predictors", "20"]
    done = subprocess.run([*script, *small], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pictures = {f"fig{number:02d}.png" for number in (1, 2, 3, 4, 7, 8, 9, 10, 11)}
    assert {path.name for path in tmp_path.iterdir()} == pictures | {"ramps.ecsv"}
    assert all(imread(tmp_path / name)[..., :3].std() > 0.05 for name in pictures)
    table = Table.read(tmp_path / "ramps.ecsv")
    assert len(table) == done.stdout.count("residual ")
    # Stars that move further leave more.
    pointing = table[table["series"] == "pointing, FWHM 2.5"]
    assert pointing["residual"][-1] > 3 * pointing["residual"][0]
    assert (pointing["motion"][1:] > pointing["motion"][:-1]).all()
