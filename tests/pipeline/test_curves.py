"""Light curves in files to products, without the command line."""

import numpy as np
import pytest
from astropy.table import Table

import fastdiff
from fastdiff.io.tables import read_light_curve_files
from fastdiff.pipeline.curves import DmdtSettings, classify_curves, write_dmdt_images


@pytest.fixture
def curves(tmp_path, rng):
    time = np.sort(rng.uniform(54000, 55000, 120))
    mag = 15 + 0.3 * np.cos(2 * np.pi * time / 0.6) + rng.normal(0, 0.02, 120)
    table = Table({"id": np.repeat(["a", "b"], 60), "mjd": time, "mag": mag})
    table.write(tmp_path / "curves.csv")
    return read_light_curve_files([tmp_path / "curves.csv"], {})


def test_images_are_those_of_the_api(curves, tmp_path):
    images, flags = write_dmdt_images(curves, tmp_path / "a.npz", DmdtSettings(grid="new1"))
    expected = fastdiff.dmdt_images(curves.time, curves.mag, curves.offsets, grid="new1")
    np.testing.assert_array_equal(images, expected)
    with np.load(tmp_path / "a.npz") as made:
        np.testing.assert_array_equal(made["images"], expected)
        assert made["names"].tolist() == ["a", "b"]
        np.testing.assert_array_equal(made["flags"], flags)


def test_settings_must_fit_the_curves(curves, tmp_path):
    with pytest.raises(ValueError, match="--smooth needs errors"):
        write_dmdt_images(curves, tmp_path / "a.npz", DmdtSettings(smooth=True))
    settings = DmdtSettings(png=tmp_path / "a.png", draw="c")
    with pytest.raises(ValueError, match="--draw is 'c'; there is no such curve"):
        write_dmdt_images(curves, tmp_path / "a.npz", settings)
    assert not list(tmp_path.glob("a.*"))


def test_classes_are_those_of_the_api(curves, tmp_path):
    table = classify_curves(curves, tmp_path / "c.ecsv", model="shallow", threads=1)
    found = fastdiff.classify_light_curves(curves.time, curves.mag, curves.offsets, model="shallow")
    assert table["class"].tolist() == list(found.labels)
    for k, name in enumerate(found.classes):
        np.testing.assert_allclose(table[name], found.probabilities[:, k])
    assert Table.read(tmp_path / "c.ecsv").meta["model"] == found.model
