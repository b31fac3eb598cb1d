"""Light curves from files, and the commands that read them."""

import numpy as np
import pytest
from astropy.table import Table

from fastdiff.io.tables import read_light_curve_files, read_light_curves


@pytest.fixture
def curves():
    """Three curves of different lengths: name -> (time, mag, magerr)."""
    rng = np.random.default_rng(4)
    made = {}
    for name, n in (("b", 40), ("a", 25), ("c", 30)):
        time = 57000 + rng.uniform(0, 900, n)
        mag = 15 + 0.3 * np.sin(2 * np.pi * time / 0.61) + rng.normal(0, 0.02, n)
        made[name] = time, mag, rng.uniform(0.01, 0.05, n)
    return made


def table_of(curves, names=("id", "mjd", "mag", "magerr")):
    columns = [np.concatenate([[name] * len(c[0]) for name, c in curves.items()])]
    columns += [np.concatenate([c[k] for c in curves.values()]) for k in range(3)]
    return Table(columns, names=names)


def check(read, curves, errors=True):
    assert list(read.names) == list(curves)
    for i, (time, mag, magerr) in enumerate(curves.values()):
        own = slice(read.offsets[i], read.offsets[i + 1])
        np.testing.assert_allclose(read.time[own], time, rtol=1e-12)
        np.testing.assert_allclose(read.mag[own], mag, rtol=1e-12)
        if errors:
            np.testing.assert_allclose(read.magerr[own], magerr, rtol=1e-12)


@pytest.mark.parametrize("suffix", ["csv", "ecsv", "fits", "parquet"])
def test_tables(curves, tmp_path, suffix):
    path = tmp_path / f"curves.{suffix}"
    table_of(curves).write(path)
    read = read_light_curves(path)
    check(read, curves)
    assert read.columns == {"time": "mjd", "mag": "mag", "magerr": "magerr", "curve": "id"}


def test_points_of_curves_may_be_mixed(curves, tmp_path):
    table = table_of(curves)
    order = np.random.default_rng(0).permutation(len(table))
    first = table[order]["id"][0]
    table[order].write(tmp_path / "mixed.csv")
    read = read_light_curves(tmp_path / "mixed.csv")
    assert read.names[0] == first
    for i, name in enumerate(read.names):
        own = slice(read.offsets[i], read.offsets[i + 1])
        np.testing.assert_allclose(np.sort(read.time[own]), np.sort(curves[name][0]), rtol=1e-12)


def test_names_of_columns_are_guessed_or_given(curves, tmp_path):
    path = tmp_path / "star.csv"
    table = table_of({"x": curves["b"]}, ("which", "HJD", "V", "e_mag"))
    table.write(path)
    with pytest.raises(ValueError, match=r"no column that looks like mag; .* \(--mag NAME\)"):
        read_light_curves(path)
    read = read_light_curves(path, {"mag": "V"})
    check(read, {"star": curves["b"]})
    assert read.columns == {"time": "HJD", "mag": "V", "magerr": "e_mag"}
    assert list(read_light_curves(path, {"mag": "V", "curve": "which"}).names) == ["x"]
    with pytest.raises(ValueError, match="has no column 'R' for mag; it has which, HJD"):
        read_light_curves(path, {"mag": "R"})
    with pytest.raises(ValueError, match=r"column .which. of .* holds no numbers"):
        read_light_curves(path, {"mag": "which"})


def test_masked_entries_are_nan(tmp_path):
    (tmp_path / "gaps.csv").write_text("time,mag\n1,15\n2,\n3,16.5\n")
    np.testing.assert_array_equal(read_light_curves(tmp_path / "gaps.csv").mag, [15, np.nan, 16.5])


@pytest.mark.parametrize("named", [True, False])
def test_archives(curves, tmp_path, named):
    path = tmp_path / "ragged.npz"
    flat = [np.concatenate([c[k] for c in curves.values()]) for k in range(3)]
    offsets = np.cumsum([0, *(len(c[0]) for c in curves.values())])
    extra = {"id": np.array(list(curves))} if named else {"label": np.array(["EW", 3], object)}
    np.savez(path, t=flat[0], mag=flat[1], magerr=flat[2], offsets=offsets, **extra)
    names = list(curves) if named else ["0", "1", "2"]
    check(read_light_curves(path), dict(zip(names, curves.values(), strict=True)))


def test_several_files(curves, tmp_path):
    paths = []
    for name, curve in curves.items():
        paths.append(tmp_path / f"{name}.csv")
        Table(curve, names=("time", "mag", "err")).write(paths[-1])
    check(read_light_curve_files(paths), curves)
    Table(curves["a"][:2], names=("time", "mag")).write(paths[1], overwrite=True)
    read = read_light_curve_files(paths)
    check(read, curves, errors=False)
    assert read.magerr is None
    with pytest.raises(ValueError, match="no file of light curves"):
        read_light_curve_files([])


def test_files_that_are_no_light_curves(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_light_curves(tmp_path / "absent.csv")
    (tmp_path / "text.xyz").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.xyz cannot be read as a table"):
        read_light_curves(tmp_path / "text.xyz")
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"broken\.npz cannot be read as an npz archive"):
        read_light_curves(tmp_path / "broken.npz")


# -------------------------------------------------------------------- commands
