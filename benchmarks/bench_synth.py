"""Synthetic pairs of 64 x 64 pixels a second and core: fastdiff, NumPy and GalSim.

    python benchmarks/bench_synth.py [--quick]

The NumPy version renders the very scenes that fastdiff drew (the tables come for nothing);
its truth and its variance must agree with fastdiff's. GalSim renders as many stars and
galaxies as an average scene holds. Goals: 1,500 pairs a second, 3 times NumPy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import numpy as np

if TYPE_CHECKING:
    from fastdiff.kernels.synth.tables import Tables

SIDE = 64
SEED = 20_261_120


def draw_tables(n: int) -> Tables:
    """What `draw_scenes` draws, one row a sample."""
    from fastdiff.kernels.synth.draw import draw_scenes
    from fastdiff.kernels.synth.profiles import profile_tables
    from fastdiff.kernels.synth.scene import Scene, as_float32
    from fastdiff.kernels.synth.tables import empty_tables
    from fastdiff.simulate import PRESETS

    scene = as_float32(Scene(**PRESETS["survey"]))
    tables = empty_tables(scene, n, (SIDE, SIDE), np.empty(0, np.float32))
    draw_scenes(scene, SEED, 0, (SIDE, SIDE), profile_tables(), tables, 1)
    return tables


def boxes(rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """First column and row, width and height of the boxes of Gaussians, cut at the frame."""
    from fastdiff.kernels.synth.tables import RX, RY, X, Y

    limits = []
    for centre, reach in ((rows[:, X], rows[:, RX]), (rows[:, Y], rows[:, RY])):
        first = np.maximum(np.ceil(centre - reach), 0).astype(np.int64)
        last = np.minimum(np.floor(centre + reach), SIDE).astype(np.int64)
        limits.append((first, np.maximum(last - first + 1, 0)))
    (x0, width), (y0, height) = limits
    return x0, y0, width, height


# ---------------------------------------------------------------- the same scenes by NumPy


def add_gaussians(rows: np.ndarray, plane: np.ndarray) -> None:
    """Add Gaussians to a plane: all pixels of all boxes in a few flat arrays.

    What is the same along a row of a box is computed once a row; the sum is one `bincount`.
    (A loop over the boxes, the shorter way to write it, takes twice the time.)
    """
    from fastdiff.kernels.synth.tables import PEAK, A, B, C, X, Y

    x0, y0, width, height = boxes(rows)
    height[width == 0] = 0
    line = np.repeat(np.arange(len(rows)), height)  # the Gaussian of each row of a box
    if not line.size:
        return
    gaussian = rows[line].T
    y = np.arange(line.size) + np.repeat(y0 - np.cumsum(height) + height, height)
    width = width[line]
    starts = np.cumsum(width) - width
    x = np.arange(width.sum()) + np.repeat(x0[line] - starts, width)
    pixel = x + np.repeat(y * plane.shape[1], width)
    dx = x.astype(np.float32) - np.repeat(gaussian[X], width)
    dy = y.astype(np.float32) - gaussian[Y]
    value = np.repeat(gaussian[A], width) * dx
    value += np.repeat(2 * gaussian[B] * dy, width)
    value *= dx
    value += np.repeat(gaussian[C] * dy * dy, width)
    np.exp(np.negative(value, out=value), out=value)
    value *= np.repeat(gaussian[PEAK], width)
    plane += np.bincount(pixel, value, plane.size).reshape(plane.shape)


def add_defects(rows: np.ndarray, plane: np.ndarray) -> None:
    from fastdiff.kernels.synth.tables import D_DX, D_DY, D_PEAK, D_WIDTH, D_X, D_Y

    y, x = np.mgrid[: plane.shape[0], : plane.shape[1]].astype(np.float32)
    for row in rows:
        rx, ry = x - row[D_X], y - row[D_Y]
        length2 = row[D_DX] ** 2 + row[D_DY] ** 2
        if length2 > 0:
            along = np.clip((rx * row[D_DX] + ry * row[D_DY]) / length2, -0.5, 0.5)
            rx, ry = rx - along * row[D_DX], ry - along * row[D_DY]
        q = (rx * rx + ry * ry) / (2 * row[D_WIDTH] ** 2)
        plane += np.where(q < 12, row[D_PEAK] * np.exp(-q), 0)


def render(tables: Tables, i: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """ref, sci, truth and variance of sample `i`, as `kernels.synth` defines them."""
    from fastdiff.kernels.synth import tables as columns

    own = tables.frame[i]
    planes = np.zeros((3, SIDE + 1, SIDE + 1), np.float32)
    for plane in range(3):
        add_gaussians(tables.sources[i, plane, : tables.n_sources[i, plane]], planes[plane])
    y, x = np.mgrid[: SIDE + 1, : SIDE + 1].astype(np.float32) / SIDE - 0.5
    slope = own[columns.GRADIENT_X] * x + own[columns.GRADIENT_Y] * y
    ref, sci, truth = planes
    ref += own[columns.SKY_REF] * (1 - slope / 2)
    sci += truth + own[columns.SKY_SCI] * (1 + slope)
    read_noise, n, throughput = own[[columns.READ_NOISE, columns.EXPOSURES, columns.THROUGHPUT]]
    variance = sci + read_noise**2 + (ref + read_noise**2) / (n * throughput**2)
    variance = variance[:-1, :-1] / own[columns.GAIN_SCI] ** 2
    images = []
    for image, exposures in ((columns.REF, n), (columns.SCI, np.float32(1)), (columns.TRUTH, None)):
        column = min(image, columns.SCI)
        pixels = planes[image]
        if image != columns.TRUTH:
            pixels = rng.poisson(pixels * exposures).astype(np.float32) / exposures
            noise = rng.standard_normal(pixels.shape, np.float32)
            pixels += noise * (read_noise / np.sqrt(exposures))
            if tables.n_defects[i, image]:
                add_defects(tables.defects[i, image, : tables.n_defects[i, image]], pixels)
            np.minimum(pixels, own[columns.FULL_WELL], out=pixels)
        fx, fy = own[columns.FX_REF + 2 * column], own[columns.FY_REF + 2 * column]
        out = pixels[:-1, :-1]
        if fx or fy:
            across = pixels[:, :-1] * (1 - fx) + pixels[:, 1:] * fx
            out = across[:-1] * (1 - fy) + across[1:] * fy
        out = out / own[columns.GAIN_REF + column]
        if image != columns.TRUTH:
            x0, x1, y0, y1 = own[columns.MISSING_REF + 4 * image :][:4].astype(int)
            out[y0:y1, x0:x1] = np.nan
            if own[columns.HIDE_SATURATED]:
                full = pixels >= own[columns.FULL_WELL]
                out[full[:-1, :-1] | full[:-1, 1:] | full[1:, :-1] | full[1:, 1:]] = np.nan
        images.append(out)
    return (*images, variance)


# ---------------------------------------------------------------- fastdiff beside it


def pairs(folder: Path, quick: bool) -> dict[str, Any]:
    import fastdiff

    n, n_numpy = (40, 10) if quick else (2000, 200)
    tables = draw_tables(n_numpy)
    rng = np.random.default_rng(SEED)

    def by_numpy() -> list[tuple[np.ndarray, ...]]:
        return [render(tables, i, rng) for i in range(n_numpy)]

    same = fastdiff.simulate.pairs(n_numpy, (SIDE, SIDE), seed=SEED, threads=1)
    for expected, images in ((same.truth, 2), (same.variance, 3)):
        scale = np.abs(expected).max(axis=(1, 2), keepdims=True) + 1e-9
        difference = np.stack([sample[images] for sample in by_numpy()]) - expected
        if np.abs(difference / scale).max() > 1e-3:
            raise RuntimeError("NumPy does not render the scenes that fastdiff drew")

    cost = common.alternate(
        {
            "fastdiff": lambda: fastdiff.simulate.pairs(n, (SIDE, SIDE), seed=SEED, threads=1),
            "drawing": lambda: draw_tables(n),
            "numpy": by_numpy,
        },
        1 if quick else 9,
    )
    areas = [
        np.prod(boxes(rows[:size])[2:], axis=0).sum()
        for sources, sizes in zip(tables.sources, tables.n_sources, strict=True)
        for rows, size in zip(sources, sizes, strict=True)
    ]
    return {
        "fastdiff": n / cost["fastdiff"]["cpu"],
        "rendering": n / (cost["fastdiff"]["cpu"] - cost["drawing"]["cpu"]),
        "numpy": n_numpy / cost["numpy"]["cpu"],
        "gaussians": float(tables.n_sources.sum(1).mean()),
        "gaussian_pixels": float(np.sum(areas) / n_numpy),
        "bandwidth": common.copy_bandwidth(1),
        "arithmetic": common.arithmetic(),
    }


# ---------------------------------------------------------------- GalSim


def by_galsim(folder: Path, quick: bool) -> dict[str, Any]:
    """Stars, galaxies and a transient in two images: an average scene, without defects."""
    import galsim

    from fastdiff.simulate import PRESETS

    survey = PRESETS["survey"]
    n = 5 if quick else 60
    n_stars, n_galaxies = (
        round((high - low) / np.log(high / low))  # mean of a log-uniform number
        for low, high in (survey["star_density"], survey["galaxy_density"])
    )
    generator = galsim.BaseDeviate(SEED)
    rng = np.random.default_rng(SEED)
    poisson = galsim.PoissonNoise(generator, sky_level=0)

    def pair() -> None:
        n_sources = n_stars + n_galaxies + 1
        x, y = rng.uniform(1, SIDE, (2, n_sources))
        flux = 10 ** rng.uniform(2.5, 5, n_sources)
        galaxies = []
        for k in range(n_galaxies):
            radius, bulge = np.exp(rng.uniform(np.log(1), np.log(8))), rng.uniform() ** 2
            shape = galsim.Shear(q=rng.uniform(0.25, 1), beta=rng.uniform(0, 180) * galsim.degrees)
            disk = galsim.Sersic(1, half_light_radius=radius, flux=1 - bulge)
            core = galsim.Sersic(4, half_light_radius=radius / 2, flux=bulge)
            galaxies.append((disk + core).shear(shape) * flux[n_stars + k])
        for is_sci in (False, True):
            fwhm = np.exp(rng.uniform(np.log(1.5), np.log(11)))
            psf = galsim.Moffat(beta=3, fwhm=fwhm).shear(g1=rng.normal(0, 0.02))
            image = galsim.ImageF(SIDE, SIDE, init_value=200)
            for k in range(n_sources - (not is_sci)):
                star = not n_stars <= k < n_stars + n_galaxies
                # A star is drawn at the centres of pixels, as fastdiff does.
                profile = psf * flux[k] if star else galsim.Convolve(galaxies[k - n_stars], psf)
                profile.drawImage(
                    image,
                    center=galsim.PositionD(x[k], y[k]),
                    add_to_image=True,
                    method="no_pixel",
                )
            image.addNoise(poisson)
            image.addNoise(galsim.GaussianNoise(generator, sigma=5))

    cost, _ = common.measure(lambda: [pair() for _ in range(n)])
    return {
        "galsim": n / cost["cpu"],
        "content": f"{n_stars} stars, {n_galaxies} galaxies, 1 transient",
    }


# float32 operations as counted in kernels/synth/: one Gaussian in one pixel (`gaussian_value`
# and its addition), and a pixel of ref and of sci (Philox, whose 64-bit operations count twice,
# Box-Muller, Poisson, detector, sky, resampling).
PER_GAUSSIAN_PIXEL = 28
PER_PIXEL = 280 + 60 + 15 + 10 + 8 + 10
BYTES_PER_PIXEL = 16  # ref, sci, truth and variance are written once


def report(results: common.Results) -> list[str]:
    own, galsim = results["pairs"], results["galsim"]
    names = {
        "fastdiff": "fastdiff.simulate.pairs, scenes drawn",
        "rendering": "fastdiff, rendering alone",
        "numpy": "NumPy, rendering of the same scenes alone",
        "galsim": "GalSim: " + galsim.get("content", "an average scene"),
    }
    rates = own | galsim
    rows = []
    for key, name in names.items():
        row = {"what": name}
        if key in rates:
            row |= {"rate": rates[key], "ratio": rates[key] / own.get("fastdiff", float("nan"))}
        else:
            row["error"] = (galsim if key == "galsim" else own)["error"]
        rows.append(row)
    columns = {
        "what": "64 x 64 pairs, one core",
        "rate": "pairs / CPU s|,.0f",
        "ratio": "of fastdiff's rate|.3f",
    }
    lines = ["## Synthetic pairs", "", *common.table(columns, rows)]
    if "error" in own:
        return lines
    operations = own["gaussian_pixels"] * PER_GAUSSIAN_PIXEL + 2 * (SIDE + 1) ** 2 * PER_PIXEL
    written = SIDE**2 * BYTES_PER_PIXEL
    floor = operations / own["arithmetic"] + written / own["bandwidth"]
    return [
        *lines,
        f"{own['fastdiff']:,.0f} pairs/s a core (goal 1,500): "
        f"{own['fastdiff'] / own['numpy']:.1f} times NumPy, which is given its scenes (goal 3), "
        f"and {own['rendering'] / own['numpy']:.1f} times in rendering alone.",
        f"A scene has {own['gaussians']:.0f} Gaussians that cover {own['gaussian_pixels']:,.0f} "
        f"pixels: {operations / 1e6:.2f} million operations and {written / 1e3:.0f} kB. At the "
        f"measured {own['arithmetic'] / 1e9:.0f} GFLOP/s (matrix product) and "
        f"{own['bandwidth'] / 1e9:.1f} GB/s (copy) of a core the floor is {floor * 1e6:.0f} us; "
        f"rendering takes {1e6 / own['rendering']:.0f} us, {1 / own['rendering'] / floor:.1f} "
        f"times that, and drawing {1e6 / own['fastdiff'] - 1e6 / own['rendering']:.0f} us.",
        "",
    ]


CASES = {"pairs": pairs, "galsim": by_galsim}

if __name__ == "__main__":
    common.main(__doc__, CASES, report, threads=1, peers={"galsim"})
