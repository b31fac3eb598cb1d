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


def target_pixels(path, cube, n_bad=5):
    """A file as Kepler's are: big-endian, epochs with flags, one without a time."""
    time = 100 + 0.5 * np.arange(N)
    time[-1] = np.nan
    quality = np.zeros(N, np.int32)
    quality[:n_bad] = 8
    format_ = f"{cube[0].size}E"
    dim = f"({SHAPE[1]},{SHAPE[0]})"
    columns = [
        afits.Column("TIME", "D", array=time),
        afits.Column("FLUX", format_, dim=dim, array=cube),
        afits.Column("FLUX_ERR", format_, dim=dim, array=np.full_like(cube, 0.2)),
        afits.Column("QUALITY", "J", array=quality),
    ]
    table = afits.BinTableHDU.from_columns(columns, name="TARGETTABLES")
    afits.HDUList([afits.PrimaryHDU(), table]).writeto(path)
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
    assert cubes.read_cube(tmp_path / "tpf.fits", quality=False).mask.sum() == 1


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
