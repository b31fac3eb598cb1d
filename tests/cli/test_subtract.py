"""The command `fastdiff subtract`."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits as afits
from astropy.table import Table
from astropy.wcs import WCS

import fastdiff
from fastdiff.evaluate.positions import match_positions
from fastdiff.io import images, products
from tests.cli.run import run


def test_files_hold_what_the_api_gives(sims, results):
    folder, _ = results
    assert sorted(os.listdir(folder)) == [
        "pair-0000.sci.candidates.ecsv", "pair-0000.sci.diff.fits", "pair-0000.sci.png",
    ]  # fmt: skip
    ref, sci = (images.read_image(sims / f"pair-0000.{kind}.fits") for kind in ("ref", "sci"))
    expected = fastdiff.subtract_batch(ref.image, sci.image, ref_masks=ref.mask, sci_masks=sci.mask)
    with afits.open(folder / "pair-0000.sci.diff.fits") as hdus:
        np.testing.assert_allclose(hdus["DIFFERENCE"].data, expected.image, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(hdus["NOISE"].data, expected.noise, rtol=1e-5)
        np.testing.assert_array_equal(hdus["MASK"].data, expected.mask)
        header = hdus["DIFFERENCE"].header
    history = str(header["HISTORY"])
    assert f"fastdiff {fastdiff.__version__}" in history
    assert "pair-0000.ref.fits" in history.replace("\n", "")  # long paths are folded
    assert header["FDMODEL"] == expected.meta["model"]
    assert header["FDBACK"] == expected.meta["backend"]
    table = Table.read(folder / "pair-0000.sci.candidates.ecsv")
    direct = fastdiff.find_transients(expected)
    assert len(table) == len(direct) == header["FDNCAND"]
    for name in ("x", "y", "flux", "flux_err", "snr", "flags"):
        np.testing.assert_allclose(table[name], direct[name], rtol=1e-4, err_msg=name)
    sky = WCS(header).pixel_to_world_values(table["x"], table["y"])
    np.testing.assert_allclose([table["ra"], table["dec"]], sky)


def test_the_transients_are_found_on_the_sky(sims, results):
    folder, said = results
    truth = Table.read(sims / "pair-0000.transients.ecsv")
    table = Table.read(folder / "pair-0000.sci.candidates.ecsv")
    assert len(truth) > 0
    distance = np.hypot(
        np.subtract.outer(truth["ra"], table["ra"]), np.subtract.outer(truth["dec"], table["dec"])
    )
    assert (distance.min(axis=1) * 3600 < 1.0).all()
    assert f"{len(table)} candidates" in said


def test_list_goes_on_after_a_bad_pair_and_the_exit_code_says_so(sims, tmp_path):
    pairs = tmp_path / "pairs.txt"
    good = [f"{sims}/pair-000{i}.ref.fits {sims}/pair-000{i}.sci.fits" for i in (0, 1)]
    pairs.write_text(
        f"# night 1\n{good[0]}\nabsent.fits {sims}/pair-0000.sci.fits lost\n\n"
        f"only-one-word\n{good[1]} named # a comment\n{good[0]}\n"
    )
    done = run("subtract", "--list", pairs, "-o", tmp_path / "out", "--no-png")
    assert done.exit_code == 1
    assert "2 failed" in done.output
    assert "there is no file" in done.output
    assert "line 5: REF SCI [NAME] is needed" in done.output
    assert sorted(os.listdir(tmp_path / "out")) == sorted(
        f"{name}.{kind}"
        for name in ("pair-0000.sci", "pair-0000.sci-2", "named")
        for kind in ("candidates.ecsv", "diff.fits")
    )


def test_relative_paths_start_at_the_list(sims, tmp_path):
    done = run("subtract", "--list", sims / "pairs.txt", "-o", tmp_path, "--no-png")
    assert done.exit_code == 0, done.output
    assert {p.name for p in tmp_path.glob("*.diff.fits")} == {
        "pair-0000.diff.fits", "pair-0001.diff.fits",
    }  # fmt: skip


def test_grids_that_differ_need_align(sims, tmp_path):
    pytest.importorskip("reproject")
    shifted = tmp_path / "shifted.fits"
    frame = images.read_image(sims / "pair-0000.ref.fits")
    header = frame.header.copy()
    header["CRPIX1"] -= 9
    products.write_image(shifted, frame.image[:, 9:], header)
    sci = sims / "pair-0000.sci.fits"

    done = run("subtract", shifted, sci, "-o", tmp_path / "out", "--no-png")
    assert done.exit_code == 1
    assert "--align" in done.output
    assert os.listdir(tmp_path / "out") == []

    done = run("subtract", shifted, sci, "-o", tmp_path / "out", "--no-png", "--align")
    assert done.exit_code == 0, done.output
    got = images.read_image(tmp_path / "out" / "pair-0000.sci.diff.fits")
    assert got.image.shape == (128, 128)
    assert got.mask[:, :9].all()
    assert "reprojected" in str(got.header["HISTORY"])
    truth = Table.read(sims / "pair-0000.transients.ecsv")
    table = Table.read(tmp_path / "out" / "pair-0000.sci.candidates.ecsv")
    assert match_positions(table, truth[truth["x"] > 15]).found.all()


def test_mask_noise_and_extension_options(sims, tmp_path):
    frame = images.read_image(sims / "pair-0000.sci.fits")
    bad = np.zeros(frame.image.shape, np.uint8)
    bad[40:50, 60:70] = 1
    afits.writeto(tmp_path / "bad.fits", bad)
    afits.writeto(tmp_path / "noise.fits", np.full(bad.shape, 2.0, np.float32))
    afits.HDUList([afits.PrimaryHDU(), afits.ImageHDU(frame.image, frame.header)]).writeto(
        tmp_path / "sci.fits"
    )
    done = run(
        "subtract", f"{sims}/pair-0000.ref.fits[0]", f"{tmp_path}/sci.fits[1]", "-o", tmp_path,
        "--no-png", "--sci-mask", tmp_path / "bad.fits", "--sci-noise", tmp_path / "noise.fits",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    got = images.read_image(tmp_path / "sci.1.diff.fits")
    assert got.mask[40:50, 60:70].all()
    assert np.isnan(got.image[40:50, 60:70]).all()
    good = ~got.mask
    np.testing.assert_allclose(got.variance[good], 4.0)


def test_saturated_counts_flag_candidates_beside_them(sims, tmp_path):
    from fastdiff.detect.find import SATURATED

    truth = Table.read(sims / "pair-0000.transients.ecsv")
    x, y = (round(float(truth[name][0])) for name in ("x", "y"))
    for kind in ("ref", "sci"):
        frame = images.read_image(sims / f"pair-0000.{kind}.fits")
        image = np.nan_to_num(frame.image)
        if kind == "sci":
            image[y, x + 3 if x < 120 else x - 3] = 1e6
        frame.header["SATURATE"] = 9e5
        products.write_image(tmp_path / f"{kind}.fits", image, frame.header)
    done = run("subtract", tmp_path / "ref.fits", tmp_path / "sci.fits", "-o", tmp_path, "--no-png")
    assert done.exit_code == 0, done.output
    table = Table.read(tmp_path / "sci.candidates.ecsv")
    near = np.hypot(table["x"] - x, table["y"] - y) < 3
    assert near.sum() == 1
    assert table["flags"][near][0] & SATURATED


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ([], 2, "give REF and SCI, or --list"),
        (["one.fits"], 2, "give REF and SCI, or --list"),
        (["a.fits", "b.fits"], 1, "there is no file"),
        (["a.fits", "b.fits", "--list", "c.txt"], 2, "--list"),
        (["--list", "absent.txt"], 1, "cannot read the list"),
        (["--list", "empty.txt"], 1, "is empty"),
        (["a.fits", "b.fits", "--threads", "0"], 2, "--threads"),
        (["a.fits", "b.fits", "-o", "empty.txt"], 1, "cannot write to the folder"),
        (["small.fits", "small.fits"], 1, "at least 32 x 32"),
        (["good.fits", "cube.fits"], 1, "no 2-D image found"),
        (["good.fits", "good.fits", "--model", "nonsense"], 1, "nonsense"),
        (["good.fits", "good.fits", "--method", "magic"], 1, "magic"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(args, code, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("# nothing\n")
    afits.writeto("small.fits", np.zeros((20, 50), np.float32))
    afits.writeto("good.fits", np.random.default_rng(0).normal(0, 1, (40, 40)))
    afits.writeto("cube.fits", np.zeros((3, 40, 40), np.float32))
    done = run("subtract", *args)
    assert done.exit_code == code, done.output
    assert says in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_without_matplotlib_the_rest_is_written(sims, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = run("subtract", sims / "pair-0000.ref.fits", sims / "pair-0000.sci.fits", "-o", tmp_path)
    assert done.exit_code == 0, done.output
    assert "pip install 'fastdiff-astro[plot]'" in done.output
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".ecsv", ".fits"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_leaves_whole_files_only(sims, tmp_path):
    line = f"{sims}/pair-0000.ref.fits {sims}/pair-0000.sci.fits\n"
    (tmp_path / "pairs.txt").write_text(line * 500)
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", "from fastdiff.cli.app import main; main()", "subtract", "--list",
         tmp_path / "pairs.txt", "-o", out, "--no-png"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # tests that a shell runs in the background are born with SIGINT ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 240
        while not list(out.glob("*.diff.fits")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        said = None
        while said is None:
            # again, as people do: one that arrives inside a callback of C is lost
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                said, _ = process.communicate(timeout=5)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    files = list(out.iterdir())
    assert 0 < len(files) < 1000
    assert {p.suffix for p in files} <= {".fits", ".ecsv"}
    for path in out.glob("*.fits"):
        assert images.read_image(path).image.shape == (128, 128)
