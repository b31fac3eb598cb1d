"""Mock cubes: the paper's equations, and events that are what they are called."""

import numpy as np
import pytest

from fastdiff import simulate
from fastdiff.simulate.cubes import render


def by_equations(y, x, flux, prf, shape):
    """Eqs. 6-8, pixel by pixel."""
    fx, fy, phi = prf[0] / 2.3548, prf[1] / 2.3548, prf[2]
    inverse = np.array([
        [np.cos(phi) ** 2 / fx**2 + np.sin(phi) ** 2 / fy**2,
         -np.sin(2 * phi) / (2 * fx**2) + np.sin(2 * phi) / (2 * fy**2)],
        [-np.sin(2 * phi) / (2 * fx**2) + np.sin(2 * phi) / (2 * fy**2),
         np.sin(phi) ** 2 / fx**2 + np.cos(phi) ** 2 / fy**2],
    ])  # fmt: skip
    image = np.zeros(shape)
    for s in range(shape[0]):
        for r in range(shape[1]):
            for a, b, f in zip(x, y, flux, strict=True):
                d = np.array([r - a, s - b])
                image[s, r] += f * np.exp(-0.5 * d @ inverse @ d)
    return image


def test_stars_are_those_of_the_equations(rng):
    y, x, flux = rng.uniform(-3, 13, 9), rng.uniform(-3, 15, 9), rng.uniform(1, 9, 9)
    for prf in [(2.0, 3.0, 0.7), (2.5, 2.5, 0.0), (4.0, 1.5, 2.5)]:
        made = render(y, x, flux, prf, (10, 12))
        # a star ends where it has 4e-5 of its peak
        np.testing.assert_allclose(made, by_equations(y, x, flux, prf, (10, 12)), atol=4e-4)


@pytest.mark.parametrize("preset", ["space", "ground"])
def test_epochs_are_drawn_as_the_paper_says(preset):
    made = simulate.cubes(400, (12, 12), seed=3, preset=preset, events=())
    tx, ty, theta = made.motion.T
    for values, high in ((tx, 1), (ty, 1), (np.degrees(theta), 0.5)):
        assert 0 <= values.min() < 0.05 * high
        assert 0.95 * high < values.max() <= high
        # the mean of a uniform distribution, within five standard errors
        assert abs(values.mean() / high - 0.5) < 5 / np.sqrt(12 * 400)
    widths = made.prf[:, :2]
    if preset == "space":
        assert (widths == 2.5).all()
    else:
        assert (widths.min() >= 2) & (widths.max() <= 3)
        assert abs(widths.mean() - 2.5) < 5 / np.sqrt(12 * 800)
    assert len(made.events) == 0
    assert not made.signal.any()


def test_cube_is_stars_flat_signal_and_noise():
    options = {"seed": 5, "events": ["sinusoid", "transit"]}
    made = simulate.cubes(30, (20, 24), **options)
    clean = simulate.cubes(30, (20, 24), noise=0.0, **options)
    noise = made.cube - clean.cube
    assert noise.std() == pytest.approx(1e-4, rel=5 / np.sqrt(2 * noise.size))
    constant = simulate.cubes(30, (20, 24), noise=0.0, amplitude=0.0, **options)
    np.testing.assert_allclose(clean.cube - constant.cube, clean.signal, atol=2e-6)
    assert np.median(constant.cube.mean(0)) == pytest.approx(1)
    ideal = simulate.cubes(30, (20, 24), noise=0.0, amplitude=0.0, flat=0.0, **options)
    ratio = constant.cube / ideal.cube
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[0], ratio.shape), rtol=1e-9)
    np.testing.assert_allclose(ratio[0] / ratio[0].mean(), made.flat / made.flat.mean(), rtol=1e-9)


def test_events_are_what_they_are_called():
    kinds = ["sinusoid", "microlensing", "transit"]
    made = simulate.cubes(
        600, (60, 60), seed=2, events=kinds, amplitude=0.4, pointing=0.0, rotation=0.0, flat=0.0
    )
    assert list(made.events["kind"]) == kinds
    t = np.arange(600)
    for row in made.events:
        y, x = round(row["y"]), round(row["x"])
        others = [o for o in made.events if o["kind"] != row["kind"]]
        assert min(np.hypot(o["y"] - row["y"], o["x"] - row["x"]) for o in others) > 8
        curve = made.signal[:, y - 4 : y + 5, x - 4 : x + 5].sum((1, 2)).astype(float)
        area = 2 * np.pi * (2.5 / 2.3548) ** 2
        curve /= row["flux"] * area
        if row["kind"] == "sinusoid":
            phase = 2 * np.pi * (t - row["epoch"]) / row["duration"]
            np.testing.assert_allclose(curve, 0.4 * np.sin(phase), atol=2e-3)
        elif row["kind"] == "transit":
            inside = np.abs(t - row["epoch"]) <= row["duration"] / 2
            np.testing.assert_allclose(curve, np.where(inside, -0.4, 0), atol=2e-3)
        else:
            assert curve.max() == pytest.approx(0.4, abs=0.01)
            assert abs(np.argmax(curve) - row["epoch"]) <= 1
            # A(u) = (u^2 + 2) / (u sqrt(u^2 + 4)): solve for u, which is a hyperbola of time
            a = 1 + curve[curve > 0.01]
            u2 = 2 * a / np.sqrt(a**2 - 1) - 2
            fit = np.polyfit((t[curve > 0.01] - row["epoch"]) ** 2, u2, 1)
            assert fit[0] == pytest.approx(1 / row["duration"] ** 2, rel=0.05)


def test_same_seed_same_cube():
    a, b, c = (simulate.cubes(9, (16, 16), seed=s, threads=t) for s, t in ((7, 1), (7, 3), (8, 1)))
    np.testing.assert_array_equal(a.cube, b.cube)
    assert (a.cube != c.cube).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"preset": "moon"}, "preset is 'moon'; it must be one of space, ground"),
        ({"n_epochs": 0}, "n_epochs is 0"),
        ({"shape": (0, 5)}, r"shape is \(0, 5\); all must be at least 1"),
        ({"fwhm": (3.0, 2.0)}, r"fwhm is \(3.0, 2.0\); it must be \(low, high\)"),
        ({"pointing": -1.0}, "pointing is -1.0; it must be 0 or more"),
        ({"density": 0}, "density is 0; it must be positive"),
        ({"events": ["flare"]}, "events has 'flare'; each must be one of sinusoid"),
    ],
)
def test_wrong_parameters(options, text):
    with pytest.raises(ValueError, match=text):
        simulate.cubes(**({"n_epochs": 3, "shape": (8, 8)} | options))
