"""How far CPM difference imaging goes: the ramps of Figs. 7-11 of Wang et al. 2017, and real cubes.

    python benchmarks/quality_cpm.py [--side 80] [--epochs 1000] [--predictors 400]
    python benchmarks/quality_cpm.py --real FOLDER

Ramps: mock cubes (`fastdiff.simulate.cubes`) whose pointing, rotation or PRF varies more and more,
the rest as in the "ground" preset (section 3.5), in sample (`holdout=None`) as in the paper. The
quality of an epoch is the root of the median square of its residuals; that of a cube is the median
over its epochs, here in units of the photon noise. Motion is the root mean square of the
displacement of the pixels from their mean places, in FWHM of the PRF.

Real: target pixel files of Kepler, K2 and TESS, by FOLDER. For the brightest star of each: how much
of the scatter of its raw aperture light curve is left in the difference (share), and how well both
agree (correlation), for several sizes of the exclusion.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import common
import numpy as np

NOISE = 1e-4
POINTING = (0.5, 1.0, 2.0, 5.0, 8.0)  # pixels, largest
ROTATION = (0.5, 1.0, 5.0, 10.0)  # degrees, largest
WIDEST = (2.0, 3.0, 4.0, 6.0, 8.0)  # pixels, largest FWHM
WIDTHS = (2.5, 4.0, 6.0)  # pixels, FWHM of a PRF that stays


def displacement(made: Any, shape: tuple[int, int]) -> float:
    """Root mean square motion of the pixels about their mean places, eq. 5; in pixels."""
    tx, ty, theta = made.motion.T[:, :, None]
    y, x = (axis.ravel()[None] for axis in np.mgrid[: shape[0] : 4, : shape[1] : 4])
    moved = np.stack([
        np.cos(theta) * x + np.sin(theta) * y + tx, -np.sin(theta) * x + np.cos(theta) * y + ty
    ])  # fmt: skip
    return float(np.sqrt(((moved - moved.mean(1, keepdims=True)) ** 2).sum(0).mean()))


def residual(image: np.ndarray) -> float:
    """Median over the epochs of the root median square over the pixels."""
    return float(np.median(np.sqrt(np.nanmedian(image**2, axis=(1, 2)))))


def ramp(
    n_epochs: int, side: int, n_predictors: int, seed: int, **options: Any
) -> dict[str, float]:
    import fastdiff
    from fastdiff import simulate

    shape = (side, side)
    made = simulate.cubes(
        n_epochs, shape, seed=seed, preset="ground", events=(), noise=NOISE, **options
    )
    result = fastdiff.cpm_subtract(made.cube, n_predictors=n_predictors, holdout=None)
    image = np.asarray(result)
    middle = np.s_[:, side // 4 : -(side // 4), side // 4 : -(side // 4)]
    # The median of the absolute deviations of a unit normal is 0.6745.
    unit = 0.6745 * NOISE
    return {
        "motion": displacement(made, shape) / float(made.prf[:, :2].mean()),
        "residual": residual(image) / unit,
        "middle": residual(image[middle]) / unit,
        "worst": float(np.percentile(result.rms, 99)) / NOISE,
    }


def ramps(options: argparse.Namespace) -> list[str]:
    cases: list[tuple[str, dict[str, Any]]] = []
    for width in WIDTHS:
        for value in POINTING:
            what = f"pointing {value} pixels, FWHM {width}"
            cases.append((what, {"pointing": value, "fwhm": (width, width)}))
    for value in ROTATION:
        what = f"rotation {value} degrees, FWHM 2.5"
        cases.append((what, {"rotation": value, "fwhm": (2.5, 2.5)}))
    for value in WIDEST:
        cases.append((f"FWHM 2 to {value} pixels", {"fwhm": (2.0, value)}))
    rows = []
    for what, values in cases:
        made = ramp(options.epochs, options.side, options.predictors, options.seed, **values)
        rows.append({"what": what} | made)
        print(rows[-1], flush=True)
    columns = {
        "what": f"{options.side} x {options.side} x {options.epochs}",
        "motion": "rms motion / FWHM|.2f",
        "residual": "median residual / noise|.2f",
        "middle": "middle of the field|.2f",
        "worst": "rms / noise of the worst hundredth|.1f",
    }
    return common.table(columns, rows)


def real(folder: Path) -> list[str]:
    import fastdiff
    from fastdiff import fits

    rows = []
    for path in sorted([*folder.glob("*targ.fits*"), *folder.glob("*astrocut.fits*")]):
        cube = fits.read_cube(path, True)
        _, ny, nx = cube.cube.shape
        mean = np.nanmean(np.where(cube.mask[:, None, None], np.nan, cube.cube), axis=0)
        y, x = np.unravel_index(np.nanargmax(mean), mean.shape)
        box = np.s_[:, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        raw = np.nansum(cube.cube[box], axis=(1, 2))
        for exclusion in (None, (1, 2.0), (2, 3.0), (3, 4.5), (-1, 4.5)):
            try:
                result = fastdiff.cpm_subtract(
                    cube.cube, mask=cube.mask, exclusion=exclusion, n_predictors=100
                )
            except ValueError:
                continue
            curve = np.asarray(result.light_curve(int(y), int(x), 3)["flux"])
            good = ~cube.mask & np.isfinite(raw)
            rows.append({
                "what": f"{path.name[:24]}, {ny} x {nx}",
                "exclusion": str(result.meta["exclusion"]),
                "n": int(result.n_predictors[y, x]),
                "share": scatter(curve[good]) / scatter(raw[good]),
                "alike": float(np.corrcoef(curve[good], raw[good])[0, 1]),
                "points": scatter(np.diff(curve[good])) / scatter(np.diff(raw[good])),
            })  # fmt: skip
    columns = {
        "what": "brightest star of",
        "exclusion": "exclusion",
        "n": "predictors",
        "share": "scatter left|.2f",
        "alike": "correlation|.2f",
        "points": "scatter from epoch to epoch left|.2f",
    }
    return common.table(columns, rows)


def scatter(values: np.ndarray) -> float:
    low, high = np.percentile(values, [15.87, 84.13])
    return float(high - low) / 2


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=80)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--predictors", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", type=Path, help="folder of target pixel files")
    given = parser.parse_args()
    print("\n".join(real(given.real) if given.real else ramps(given)))
