"""Cubes from files, and the command `fastdiff cpm`."""

import numpy as np
import pytest
from astropy.io import fits as afits

from fastdiff import cpm_subtract
from fastdiff.io import cubes

N, SHAPE = 90, (9, 10)


def drifting(seed=2):
    """A field whose pixels dim together, with one that flares; and the place of the flare."""
    rng = np.random.default_rng(seed)
    drift = rng.normal(1, 0.05, (N, 1, 1))
    cube = drift * rng.uniform(50, 500, SHAPE) + rng.normal(0, 0.2, (N, *SHAPE))
    cube[40:44, 4, 5] += 60
    return cube.astype(np.float32)


def target_pixels(path, cube, n_bad=5, bits=8, **header):
    """A file as Kepler's are: big-endian, epochs with flags, one without a time."""
    time = 100 + 0.5 * np.arange(N)
    time[-1] = np.nan
    quality = np.zeros(N, np.int32)
    quality[:n_bad] = bits
    format_ = f"{cube[0].size}E"
    dim = f"({SHAPE[1]},{SHAPE[0]})"
    columns = [
        afits.Column("TIME", "D", array=time),
        afits.Column("FLUX", format_, dim=dim, array=cube, unit="e-/s"),
        afits.Column("FLUX_ERR", format_, dim=dim, array=np.full_like(cube, 0.2)),
        afits.Column("QUALITY", "J", array=quality),
    ]
    table = afits.BinTableHDU.from_columns(columns, name="TARGETTABLES")
    primary = afits.PrimaryHDU()
    primary.header.update(header)
    afits.HDUList([primary, table]).writeto(path)
    return time, quality


def test_target_pixels(tmp_path):
    cube = drifting()
    time, quality = target_pixels(tmp_path / "tpf.fits", cube)
    read = cubes.read_cube(tmp_path / "tpf.fits")
    np.testing.assert_array_equal(read.cube, cube)
    assert read.cube.dtype == np.float32
    np.testing.assert_array_equal(read.time, time)
    np.testing.assert_array_equal(read.mask, (quality != 0) | np.isnan(time))
    np.testing.assert_allclose(read.error, 0.2)
    assert cubes.read_cube(tmp_path / "tpf.fits", "none").mask.sum() == 1
    assert read.unit == "electron/s"
    assert read.times.name == "time"
    with pytest.raises(ValueError, match="quality_bitmask is 'soft'; it must be one of 'none'"):
        cubes.read_cube(tmp_path / "tpf.fits", "soft")
    with pytest.raises(ValueError, match="quality_bitmask is -1; it must be at least 0"):
        cubes.read_cube(tmp_path / "tpf.fits", -1)


@pytest.mark.parametrize(
    ("telescope", "bits", "masked"),
    [
        ("Kepler", 1 << 20, {"default", "hard", "hardest"}),  # thruster firing
        ("Kepler", 128, {"hard", "hardest"}),  # cosmic ray in the aperture
        ("Kepler", 16, {"hardest"}),  # zero crossing
        ("TESS", 32, {"default", "hard", "hardest"}),  # desaturation
        ("TESS", 2048, {"hard", "hardest"}),  # straylight
        ("TESS", 256, {"hardest"}),  # discontinuity
        ("", 1 << 30, {"default", "hard", "hardest"}),
    ],
)
def test_quality_flags(tmp_path, telescope, bits, masked):
    path = tmp_path / "tpf.fits"
    target_pixels(path, drifting(), n_bad=7, bits=bits, TELESCOP=telescope)
    for name in ("none", "default", "hard", "hardest"):
        expected = 8 if name in masked else 1  # one has no time
        assert cubes.read_cube(path, name).mask.sum() == expected
    assert cubes.read_cube(path, bits).mask.sum() == 8
    assert cubes.read_cube(path, bits << 1).mask.sum() == 1


def test_frames_of_zeros_are_missing(tmp_path):
    """As TESSCut fills what is missing; a frame with some zeros is none."""
    cube = drifting()
    cube[20:23] = 0
    cube[30, :4] = 0
    target_pixels(tmp_path / "tpf.fits", cube, n_bad=0)
    assert np.flatnonzero(cubes.read_cube(tmp_path / "tpf.fits").mask).tolist() == [20, 21, 22, 89]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"BJDREFI": 2457000, "BJDREFF": 0.0, "TIMESYS": "TDB", "TIMEUNIT": "d"},
         ("BTJD", "d", "tdb", 2457000.0)),
        ({"BJDREFI": 2454833, "TIMESYS": "TDB"}, ("BKJD", "d", "tdb", 2454833.0)),
        ({"BJDREFI": 2450000, "BJDREFF": 0.5}, ("BJD - 2450000.5", "d", "", 2450000.5)),
    ],
)  # fmt: skip
def test_time_systems(tmp_path, header, expected):
    target_pixels(tmp_path / "tpf.fits", drifting(), **header)
    assert cubes.read_cube(tmp_path / "tpf.fits").times == expected


def test_real_headers(data_folder):
    found = {}
    for path in (data_folder / "k2_tess").glob("*.fits*"):
        read = cubes.read_cube(path)
        found[path.name[:4]] = read.times.name, read.times.scale, read.unit
        assert 0 < read.mask.sum() < 0.1 * len(read.mask)
        assert (cubes.read_cube(path, "hardest").mask >= read.mask).all()
    assert found == {
        "kplr": ("BKJD", "tdb", "electron/s"),
        "ktwo": ("BKJD", "tdb", "electron/s"),
        "tess": ("BTJD", "tdb", "electron/s"),
    }


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2"])
def test_three_dimensional_images_and_arrays(tmp_path, dtype):
    cube = drifting().astype(dtype)
    afits.HDUList([afits.PrimaryHDU(), afits.ImageHDU(cube)]).writeto(tmp_path / "cube.fits.gz")
    np.save(tmp_path / "cube.npy", cube)
    for name in ("cube.fits.gz", "cube.npy"):
        read = cubes.read_cube(tmp_path / name)
        np.testing.assert_array_equal(read.cube, cube)
        assert read.cube.dtype.isnative
        np.testing.assert_array_equal(read.time, np.arange(N))
        assert not read.mask.any()
    assert isinstance(cubes.read_cube(tmp_path / "cube.npy").cube, np.memmap)


@pytest.mark.parametrize("dtype", ["u1", ">i2", ">i4", ">f4", ">f8"])
def test_images_are_mapped(tmp_path, dtype):
    cube = np.clip(drifting(), 0, 255).astype(dtype)
    path = tmp_path / "cube.fits"
    afits.HDUList([afits.PrimaryHDU(), afits.ImageHDU(cube)]).writeto(path)
    read = cubes.read_cube(path).cube
    assert isinstance(read, np.memmap)
    np.testing.assert_array_equal(read, cube)
    result = cpm_subtract(read, n_predictors=40, ridge=1.0)
    native = cube.astype(cube.dtype.newbyteorder("="))
    expected = cpm_subtract(native, n_predictors=40, ridge=1.0)
    assert result.image.dtype == expected.image.dtype
    np.testing.assert_array_equal(result.image, expected.image)


def test_scaled_and_compressed_images_are_read(tmp_path):
    cube = drifting().astype("u2")  # with a BZERO
    plain, packed = tmp_path / "scaled.fits", tmp_path / "packed.fits"
    afits.HDUList([afits.PrimaryHDU(), afits.ImageHDU(cube)]).writeto(plain)
    afits.HDUList([afits.PrimaryHDU(), afits.CompImageHDU(cube.astype("i4"))]).writeto(packed)
    for path in (plain, packed):
        np.testing.assert_array_equal(cubes.read_cube(path).cube, cube)


def test_files_without_a_cube(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        cubes.read_cube(tmp_path / "absent.npy")
    afits.PrimaryHDU(np.zeros((5, 5))).writeto(tmp_path / "image.fits")
    with pytest.raises(ValueError, match="holds no cube: neither target pixels"):
        cubes.read_cube(tmp_path / "image.fits")
    np.save(tmp_path / "flat.npy", np.zeros((5, 5)))
    with pytest.raises(ValueError, match=r"has shape \(5, 5\); a cube is"):
        cubes.read_cube(tmp_path / "flat.npy")
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read as an array"):
        cubes.read_cube(tmp_path / "broken.npy")


def test_real_target_pixels(data_folder):
    """K2, 10 x 11 pixels: the telescope's motion goes, a flare of 12 hours stays."""
    (path,) = (data_folder / "k2_tess").glob("ktwo*.fits")
    read = cubes.read_cube(path)
    result = cpm_subtract(read.cube, mask=read.mask)
    assert "are small" in result.meta["notes"][0]
    assert np.isnan(result.image[:, np.isnan(read.cube).all(0)]).all()
    good, time = ~read.mask, read.time
    raw = np.nansum(read.cube[:, 3:6, 5:8], axis=(1, 2))
    flux = np.asarray(result.light_curve(4, 6, 3)["flux"])
    quiet, flare = (
        good & (time > first) & (time < last) for first, last in ((2258, 2261), (2261.2, 2261.7))
    )

    def stands_out(curve):
        """Of the mean during the flare, in its errors from the scatter before."""
        above = curve[flare].mean() - curve[quiet].mean()
        return above / curve[quiet].std() * np.sqrt(flare.sum())

    assert np.std(flux[quiet]) < 0.2 * np.std(raw[quiet])
    assert stands_out(flux) > 7 > 5 > stands_out(raw)
