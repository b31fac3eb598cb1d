"""The synthetic pairs: the kernel against slow references, and the model's own facts."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

import fastdiff
from fastdiff.kernels import jit
from fastdiff.kernels.synth import synth
from fastdiff.simulate.pairs import PRESETS, psf_image
from tests.kernels.synth.reference import synth as reference

# One PSF, no artefact and no registration error: what a pixel holds is then simple to say.
PLAIN = {
    "ecc_max_ref": 0.0,
    "ecc_max_sci": 0.0,
    "p_moffat": 0.0,
    "p_asymmetry": 0.0,
    "p_spikes": 0.0,
    "gradient": 0.0,
    "p_resampled": 0.0,
    "shift": 0.0,
    "rotation": 0.0,
    "scaling": 0.0,
    "source_jitter": (1e-9, 1e-8),
    "flux_jitter": (1e-9, 1e-8),
    "p_variable": 0.0,
    "n_vanished": 0.0,
    "cosmic_rays": 0.0,
    "hot_pixels": 0.0,
    "bad_columns": 0.0,
    "p_missing": 0.0,
    "trails": 0.0,
    "full_well": (1e9, 1e9),
}


def scene(preset="survey", **values):
    scene = synth.Scene(**(PRESETS[preset] | values))
    return synth.Scene(
        *(tuple(map(np.float32, v)) if isinstance(v, tuple) else np.float32(v) for v in scene)
    )


def drawn(n, ny, nx, seed=3, **values):
    """The scene tables of n samples."""
    parameters = scene(**values)
    arrays = synth.scene_arrays(parameters, n, ny, nx)
    moffat, sersic = synth.profile_tables()
    jit.run(
        synth.draw_scenes_cpu, n, 1, parameters, np.uint64(seed), 0, ny, nx, moffat, sersic, *arrays
    )
    names = "state maps psf frame sources n_sources hosts defects n_defects changes n_changes"
    return dict(zip(names.split(), arrays, strict=True))


# Known answers of the Random123 library (kat_vectors, philox4x32-10).
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers(counter, key, answer):
    words = synth.philox(*(np.uint64(v) for v in (*counter, *key)))
    assert tuple(int(w) for w in words) == answer
    assert reference.philox(counter, key) == answer


def test_elementary_functions_are_as_good_as_said():
    q = np.linspace(0, 20, 2001, dtype=np.float32)
    np.testing.assert_allclose([synth.exp_neg(v) for v in q], np.exp(-q.astype(float)), rtol=2e-4)
    u = np.geomspace(2.0**-25, 1, 2001).astype(np.float32)
    np.testing.assert_allclose([synth.log_unit(v) for v in u], np.log(u.astype(float)), atol=2e-5)
    u = np.linspace(0, 1, 1001, dtype=np.float32)
    sin, cos = np.transpose([synth.sin_cos_turn(v) for v in u])
    np.testing.assert_allclose(sin, np.sin(2 * np.pi * u.astype(float)), atol=3e-6)
    np.testing.assert_allclose(cos, np.cos(2 * np.pi * u.astype(float)), atol=3e-6)


@pytest.mark.parametrize("mean", [0.3, 5.0, 11.9, 12.1, 40.0, 3000.0])
def test_poisson_numbers_follow_their_distribution(mean):
    rng = np.random.default_rng(5)
    normal, uniform = rng.normal(size=20000), rng.random(20000)
    values = [
        synth.poisson(np.float32(mean), np.float32(z), np.float32(u))
        for z, u in zip(normal, uniform, strict=True)
    ]
    values = np.array(values, float)
    # Pearson's test over bins with at least 20 expected counts
    edges = np.unique(stats.poisson.ppf(np.linspace(0.005, 0.995, 25), mean))
    cdf = np.concatenate([[0], stats.poisson.cdf(edges, mean), [1]])
    expected = np.diff(cdf) * len(values)
    observed = np.bincount(np.searchsorted(edges, values), minlength=len(expected))
    keep = expected > 20
    chi2 = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    assert chi2 < stats.chi2.ppf(0.9999, keep.sum())


@pytest.mark.parametrize("beta", synth.MOFFAT_BETAS)
def test_moffat_mixture_is_a_moffat_profile(beta):
    r = np.linspace(0, 2.0, 200)  # in FWHM
    mixture = np.zeros_like(r)
    for weight, widen in synth.moffat_mixture(beta, synth.MOFFAT_TERMS).astype(float):
        s2 = widen / (8 * np.log(2))
        mixture += weight / (2 * np.pi * s2) * np.exp(-(r**2) / (2 * s2))
    exact = reference.moffat(r, 1.0, beta)
    assert mixture[0] == pytest.approx(exact[0], rel=1e-5)
    assert np.abs(mixture - exact).max() < 0.03 * exact[0]


@pytest.mark.parametrize(
    ("terms", "n", "reach"), [(synth.EXPONENTIAL, 1, 3.0), (synth.DE_VAUCOULEURS, 4, 3.5)]
)
def test_sersic_sums_are_sersic_profiles(terms, n, reach):
    r = np.geomspace(0.05, reach, 100)
    mixture = sum(w / (2 * np.pi * s**2) * np.exp(-(r**2) / (2 * s**2)) for w, s in terms)
    np.testing.assert_allclose(mixture, reference.sersic(r, n), rtol=0.1)
    assert sum(w for w, _ in terms) == pytest.approx(1, abs=1e-4)


def test_pixels_are_the_sum_of_the_table_with_the_stated_noise():
    ny, nx, n = 40, 48, 6
    made = drawn(n, ny, nx, p_missing=0.0, p_mask_saturated=0.0, cosmic_rays=0.0, hot_pixels=0.0)
    batch = synth.synthesise(
        scene(p_missing=0.0, p_mask_saturated=0.0, cosmic_rays=0.0, hot_pixels=0.0), n, (ny, nx), 3
    )
    for i in range(n):
        frame = made["frame"][i].astype(float)
        expected = reference.electrons(frame, made["sources"][i], made["n_sources"][i], ny, nx)
        fx, fy = frame[synth.FX_SCI], frame[synth.FY_SCI]
        truth = reference.resample(expected[2], fx, fy) / frame[synth.GAIN_SCI]
        noise = np.sqrt(np.median(batch.variance[i]))
        np.testing.assert_allclose(batch.truth[i], truth, rtol=1e-3, atol=0.02 * noise)
        for j, image in enumerate((batch.ref[i], batch.sci[i])):
            fx, fy = frame[synth.FX_REF + 2 * j], frame[synth.FY_REF + 2 * j]
            stack = frame[synth.EXPOSURES] if j == 0 else 1.0
            weights = ((1 - fx) ** 2 + fx**2) * ((1 - fy) ** 2 + fy**2)
            variance = (expected[j] + frame[synth.READ_NOISE] ** 2) / stack
            model = reference.resample(np.minimum(expected[j], frame[synth.FULL_WELL]), fx, fy)
            pull = image * frame[synth.GAIN_REF + j] - model
            pull /= np.sqrt(weights * variance[:-1, :-1])
            y, x = np.indices((ny + 1, nx + 1)).astype(float)
            stray = reference.defects(made["defects"][i, j, : made["n_defects"][i, j]], y, x)
            # away from defects, saturation and steep profiles, where the variance is even
            calm = (stray[:-1, :-1] < 1e-3) & (stray[1:, 1:] < 1e-3)
            calm &= expected[j][:-1, :-1] < 1.5 * frame[synth.SKY_REF + j]
            assert calm.sum() > 100
            # mean and width of a unit normal, within five of their standard errors
            assert abs(pull[calm].mean()) < 5 * np.sqrt(3 / calm.sum()) + 0.05
            assert abs(np.std(pull[calm]) - 1) < 5 * np.sqrt(2 / calm.sum()) + 0.03


def test_trails_are_straight_lines_as_wide_as_the_psf_and_no_transients():
    ny, nx, n, quiet = 64, 128, 400, PLAIN | {"star_snr": (1e-6, 1e-5), "galaxy_snr": (1e-6, 1e-5)}
    quiet |= {"n_transients": (0.0, 0.0), "fwhm_ref": (3.0, 3.0), "fwhm_sci": (4.0, 4.0)}
    quiet |= {"n_exposures": (1.0, 1.0), "p_cluster": 0.0, "trails": 0.3, "p_blinking": 0.0}
    made = drawn(n, ny, nx, **quiet)
    for image, fwhm in enumerate((3.0, 4.0)):
        rows = np.concatenate(
            [
                t[image, :k]
                for t, k in zip(made["defects"], made["n_defects"][:, image], strict=True)
            ]
        )
        # a Poisson mean of 0.3 for each 64 pixels of side, within five standard errors
        expected = 0.3 * n * np.sqrt(ny * nx / 64**2)
        assert abs(len(rows) - expected) < 5 * np.sqrt(expected)
        sigma = fwhm / 2.3548
        assert (rows[:, synth.D_WIDTH] >= 0.999 * sigma).all()
        assert (rows[:, synth.D_WIDTH] <= 2.501 * sigma).all()
        length = np.hypot(rows[:, synth.D_DX], rows[:, synth.D_DY])
        assert 0.6 < (length > np.hypot(ny, nx)).mean() < 0.9  # most cross the frame
    batch = synth.synthesise(scene(**quiet), n, (ny, nx), 3)
    assert not batch.truth.any()
    alone = made["n_defects"][:, 1] == 1
    i = int(np.argmax(np.where(alone, made["defects"][:, 1, 0, synth.D_PEAK], 0)))
    y, x = np.indices((ny, nx)).astype(float)
    line = reference.defects(made["defects"][i, 1, :1], y, x) / made["frame"][i, synth.GAIN_SCI]
    excess = batch.sci[i] - np.median(batch.sci[i][line < 1e-6])
    bright = line > 0.1 * line.max()
    assert excess[bright].sum() == pytest.approx(line[bright].sum(), rel=0.05)


def test_trails_that_blink_are_dashes_along_their_line():
    made = drawn(400, 64, 64, **PLAIN | {"trails": 0.5, "p_blinking": 0.6})
    tables = zip(made["defects"], made["n_defects"], strict=True)
    rows = np.concatenate([t[j, : k[j]] for t, k in tables for j in range(2)])
    rows = rows[rows[:, synth.D_DX] != 0]
    dashed = rows[rows[:, synth.D_PERIOD] > 0]
    # a binomial fraction, within five standard errors
    assert abs(len(dashed) / len(rows) - 0.6) < 5 * np.sqrt(0.24 / len(rows))
    assert (rows[rows[:, synth.D_PERIOD] <= 0][:, synth.D_PERIOD :] == 0).all()
    assert (dashed[:, synth.D_DASH] <= 0.6 * dashed[:, synth.D_PERIOD]).all()
    assert (np.abs(dashed[:, synth.D_PHASE]) <= 0.5 * dashed[:, synth.D_PERIOD]).all()
    y, x = np.indices((64, 64))
    flashes = 0
    for row in dashed[:40]:
        value = [
            synth.defect_value(row, np.float32(a), np.float32(b))
            for a, b in zip(x.ravel(), y.ravel(), strict=True)
        ]
        expected = reference.defects(row[None], y.astype(float), x.astype(float))
        # far ends of long trails: positions are rounded to float32, hence 1e-3 of the peak
        assert np.abs(np.reshape(value, x.shape) - expected).max() < 2e-3 * row[synth.D_PEAK]
        lit = expected > 0.3 * row[synth.D_PEAK]
        flashes += lit.any() and not lit.all()
    assert flashes > 5


def test_truth_sums_to_the_flux_at_the_stated_place():
    made = fastdiff.simulate.pairs(
        24,
        (64, 64),
        seed=11,
        **PLAIN,
        n_transients=(1.0, 1.0),
        exact_number=1,
        p_near_galaxy=0.0,
        fwhm_sci=(2, 4),
    )
    table = made.transients
    assert len(table) == 24
    checked = 0
    for row in table:
        if not (16 < row["x"] < 48 and 16 < row["y"] < 48):
            continue
        truth = made.truth[row["image"]].astype(float)
        y, x = np.indices(truth.shape)
        assert truth.sum() == pytest.approx(row["flux"], rel=3e-3)
        assert (truth * x).sum() / truth.sum() == pytest.approx(row["x"], abs=0.02)
        assert (truth * y).sum() / truth.sum() == pytest.approx(row["y"], abs=0.02)
        checked += 1
    assert checked >= 4


def test_scale_is_the_ratio_of_an_unchanged_star():
    made = fastdiff.simulate.pairs(
        30,
        (64, 64),
        seed=2,
        **PLAIN,
        n_transients=(0.0, 1e-9),
        galaxy_density=(1e-9, 1e-8),
        star_density=(1.0, 1.01),
        star_snr=(2000.0, 3000.0),
        p_central_galaxy=0.0,
        p_cluster=0.0,
    )
    ratios = []
    for ref, sci, scale in zip(made.ref, made.sci, made.scale, strict=True):
        flux = [np.sum(a - np.median(a)) for a in (ref.astype(float), sci.astype(float))]
        if flux[0] > 0 and np.ptp(sci) > 100 * np.std(sci[:8]):
            ratios.append(flux[1] / flux[0] / scale)
    assert len(ratios) > 5
    assert np.median(ratios) == pytest.approx(1, abs=0.05)


def test_same_seed_same_samples_whatever_batch_start_and_threads():
    whole = fastdiff.simulate.pairs(9, (48, 33), seed=7, threads=1)
    for part, rows in (
        (fastdiff.simulate.pairs(9, (48, 33), seed=7, threads=2), slice(0, 9)),
        (fastdiff.simulate.pairs(4, (48, 33), seed=7, start=5, threads=2), slice(5, 9)),
    ):
        for name in ("ref", "sci", "truth", "variance"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rows])
    other = fastdiff.simulate.pairs(9, (48, 33), seed=8)
    assert not np.array_equal(other.ref, whole.ref, equal_nan=True)


def test_bands_do_not_show():
    parameters = scene()
    one = synth.synthesise(parameters, 2, (70, 64), 1, band=70)
    many = synth.synthesise(parameters, 2, (70, 64), 1, band=16)
    for name in ("ref", "sci", "truth", "variance"):
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name))


def test_simulator_and_cpu_agree(run_in_cuda_simulator):
    """The CUDA kernels, run in Numba's simulator, give the CPU's samples."""
    code = """
import numpy as np
from fastdiff.kernels import jit
from fastdiff.kernels.synth import synth
from fastdiff.simulate.pairs import PRESETS
values = PRESETS["survey"] | dict(galaxy_density=(1.0, 1.1), star_density=(1500.0, 2000.0),
                                  p_resampled=0.5, transient_density=800.0, star_snr=(3.0, 300.0))
scene = synth.Scene(**{k: tuple(map(np.float32, v)) if isinstance(v, tuple) else np.float32(v)
                       for k, v in values.items()})
n, ny, nx = 1, 8, 10
moffat, sersic = synth.profile_tables()
arrays = synth.scene_arrays(scene, n, ny, nx)
synth.draw_scenes_cuda.launch(1, n, scene, np.uint64(3), 0, ny, nx, moffat, sersic, *arrays)
_, _, psf, frame, sources, n_sources, _, defects, n_defects, changes, n_changes = arrays
out = [np.empty((n, ny, nx), np.float32) for _ in range(4)]
empty = np.empty((0, 2, 1, 1), np.float32)
synth.render_cuda.launch(n * ny, nx, np.uint64(3), 0, frame, sources, n_sources, defects, n_defects,
                         empty, *out)
np.savez(OUT, ref=out[0], sci=out[1], truth=out[2], variance=out[3], frame=frame, n=n_sources)
"""
    made = run_in_cuda_simulator(code)
    values = PRESETS["survey"] | {
        "galaxy_density": (1.0, 1.1),
        "star_density": (1500.0, 2000.0),
        "p_resampled": 0.5,
        "transient_density": 800.0,
        "star_snr": (3.0, 300.0),
    }
    batch = synth.synthesise(synth.Scene(**values), 1, (8, 10), 3)
    np.testing.assert_allclose(made["frame"], batch.frame, rtol=1e-4, atol=1e-5)
    assert made["n"].sum() > 10
    for name in ("truth", "variance"):
        np.testing.assert_allclose(made[name], getattr(batch, name), rtol=1e-2, atol=1e-2)
    for name in ("ref", "sci"):
        a, b = made[name], getattr(batch, name)
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        # a Poisson count may round the other way in the last bit of its mean
        assert np.nanmean(np.abs(a - b) > 1e-3 * np.abs(b) + 1e-2) < 0.02


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_compiles_to_ptx(capability):
    parameters = scene()
    arrays = synth.scene_arrays(parameters, 1, 16, 16)
    moffat, sersic = synth.profile_tables()
    target = f".target sm_{capability[0]}{capability[1]}"
    text = synth.draw_scenes_cuda.ptx(
        (parameters, np.uint64(1), 0, 16, 16, moffat, sersic, *arrays), capability
    )
    assert target in text
    _, _, _, frame, sources, n_sources, _, defects, n_defects, _, _ = arrays
    image = np.empty((1, 16, 16), np.float32)
    background = np.empty((1, 2, 17, 17), np.float32)
    text = synth.render_cuda.ptx(
        (np.uint64(1), 0, frame, sources, n_sources, defects, n_defects, background) + (image,) * 4,
        capability,
    )
    assert target in text
    assert ".f64" not in text.split(".entry")[1], "float64 arithmetic crept into the pixel loop"


def test_paper_preset_has_the_papers_distributions():
    """Eqs 5-11: ranges and moments of what is drawn."""
    made = drawn(400, 140, 140, preset="paper")
    psf = made["psf"].astype(float)
    for j, ecc_max in ((0, 0.4), (1, 0.6)):
        xx, xy, yy = psf[:, j, 0, 3], psf[:, j, 0, 4], psf[:, j, 0, 5]
        mean, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
        major, minor = np.sqrt(mean + spread), np.sqrt(np.maximum(mean - spread, 0))
        assert major.min() > 1.99
        assert major.max() < 5.01
        assert stats.kstest(major, stats.uniform(2, 3).cdf).pvalue > 1e-4  # eq 9
        ecc = np.sqrt(1 - (minor / major) ** 2)  # eqs 10, 11: |N(0, ecc_max)|, cut at 0.9
        low = ecc < 0.85
        cut = 2 * stats.norm.cdf(0.85 / ecc_max) - 1
        assert low.mean() == pytest.approx(cut, abs=0.08)
        ks = stats.kstest(ecc[low], lambda e, s=ecc_max, c=cut: (2 * stats.norm.cdf(e / s) - 1) / c)
        assert ks.pvalue > 1e-4
    first = made["changes"][:, 0]
    counts = made["n_changes"][:, 0]
    assert (counts == 1).all()
    flux = first[:, synth.T_FLUX]
    assert flux.mean() == pytest.approx(1275, rel=0.01)  # eq 8
    assert flux.std() == pytest.approx(1275 * 0.03, rel=0.25)


def test_relative_magnitudes_are_those_asked_for():
    """Eqs 23, 24: mag_rel = -2.5 log10((F_t + F_local) / F_local)."""
    wanted = -1.0
    quiet = PLAIN | {"star_density": (1e-9, 1e-8), "galaxy_density": (1e-9, 1e-8)}
    made = fastdiff.simulate.pairs(
        40,
        (64, 64),
        seed=4,
        **quiet,
        p_central_galaxy=0.0,
        amplitude_rule=1,
        amplitude=(wanted, wanted),
        n_transients=(1.0, 1.0),
        sky=(100.0, 100.0),
        gain=(1.0, 1.0),
        fwhm_ref=(3.0, 3.0),
        fwhm_sci=(3.0, 3.0),
        p_cluster=0.0,
    )
    flux = np.array(made.transients["flux"])
    local = 100.0 * 3.0**2  # an empty sky in a square of one FWHM
    np.testing.assert_allclose(-2.5 * np.log10((flux + local) / local), wanted, rtol=1e-4)


def test_snr_is_that_of_a_matched_filter():
    """S/N over a flat sky: flux / sqrt(variance / sum(psf^2)), measured by many noise draws."""
    quiet = PLAIN | {"star_density": (1e-9, 1e-8), "galaxy_density": (1e-9, 1e-8)}
    made = fastdiff.simulate.pairs(
        60,
        (64, 64),
        seed=9,
        **quiet,
        p_central_galaxy=0.0,
        amplitude=(30.0, 30.0),
        n_transients=(1.0, 1.0),
        p_near_galaxy=0.0,
        p_cluster=0.0,
        sky=(500.0, 5000.0),
        fwhm_sci=(2.0, 4.0),
        n_exposures=(1000.0, 1000.0),
    )
    table = made.transients
    single = [i for i in range(60) if (table["image"] == i).sum() == 1]
    pulls = []
    for row in table[np.isin(table["image"], single)]:
        if not (12 < row["x"] < 52 and 12 < row["y"] < 52):
            continue
        truth = made.truth[row["image"]].astype(float)
        profile = truth / truth.sum()
        image = made.sci[row["image"]].astype(float)
        far = profile < 1e-6 * profile.max()
        measured = (profile * (image - image[far].mean())).sum() / (profile**2).sum()
        pulls.append((measured - row["flux"]) * row["snr"] / row["flux"])
    assert len(pulls) > 8
    # unit scatter, within five standard errors of a standard deviation
    assert np.std(pulls) == pytest.approx(1, abs=5 / np.sqrt(2 * len(pulls)))
    assert abs(np.mean(pulls)) < 5 / np.sqrt(len(pulls))


def test_vanished_sources_are_negative_in_the_truth_or_left_out():
    only = PLAIN | {"n_vanished": 2.0}
    made = fastdiff.simulate.pairs(12, (64, 64), seed=1, **only, n_transients=(0.0, 1e-9))
    gone = made.transients[made.transients["kind"] == "vanished"]
    assert len(gone) > 5
    assert (gone["flux"] < 0).all()
    assert made.truth.min() < 0 <= made.truth.max() + 1e-6


def test_backgrounds_appear_convolved_in_both_images():
    image = np.zeros((200, 200), np.float32)
    image[::20, ::20] = 1e5
    quiet = PLAIN | {"star_density": (1e-9, 1e-8), "galaxy_density": (1e-9, 1e-8)}
    made = fastdiff.simulate.pairs(
        3,
        (64, 64),
        seed=1,
        **quiet,
        backgrounds=[image],
        p_central_galaxy=0.0,
        p_cluster=0.0,
        n_transients=(0.0, 1e-9),
        fwhm_ref=(2.0, 3.0),
        fwhm_sci=(2.0, 3.0),
        sky=(10.0, 10.0),
    )
    for ref, sci, scale in zip(made.ref, made.sci, made.scale, strict=True):
        a, b = (x - np.median(x) for x in (ref.astype(float), sci.astype(float)))
        assert a.max() > 50 * 1.4826 * np.median(np.abs(a))
        # 64^2 / 20^2 points of 1e5 electrons: the two images hold the same light
        assert b.sum() / (scale * a.sum()) == pytest.approx(1, abs=0.25)


def test_psf_image_sums_to_one_and_has_the_width_asked_for():
    made = drawn(8, 32, 32, **PLAIN, fwhm_ref=(3.0, 3.0), fwhm_sci=(3.0, 3.0))
    image = psf_image(made["psf"][0, 1])
    x = np.indices(image.shape)[1] - 20
    assert image.sum() == pytest.approx(1)
    assert (image * x**2).sum() == pytest.approx((3 / 2.35482) ** 2 + 1 / 12, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"preset": "hubble"}, ValueError, "`preset` is 'hubble'; it must be one of survey, paper"),
        ({"n": -1}, ValueError, "`n` is -1"),
        ({"shape": (8, 64)}, ValueError, r"`shape` is \(8, 64\); each side must be 16 to 16384"),
        ({"shape": 64}, ValueError, r"`shape` is 64; it must be two integers"),
        ({"seed": -3}, ValueError, "`seed` is -3"),
        ({"sky_level": 3}, TypeError, "unknown parameter sky_level"),
        ({"sky": (100.0, 10.0)}, ValueError, r"`sky` is \(100.0, 10.0\); low must not exceed high"),
        ({"sky": 10}, ValueError, r"`sky` is 10; it must be \(low, high\)"),
        ({"backgrounds": [np.zeros(4)]}, ValueError, "`backgrounds` must be one or more 2-D"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    n, shape = arguments.pop("n", 1), arguments.pop("shape", (64, 64))
    with pytest.raises(error, match=message):
        fastdiff.simulate.pairs(n, shape, **arguments)


def test_empty_batch():
    made = fastdiff.simulate.pairs(0, (64, 64))
    assert made.ref.shape == (0, 64, 64)
    assert len(made.transients) == 0


def test_nothing_is_infinite():
    made = fastdiff.simulate.pairs(200, (64, 64), seed=21)
    for name in ("ref", "sci", "truth", "variance"):
        assert not np.isinf(getattr(made, name)).any()
    assert not np.isnan(made.truth).any()
    assert (made.variance > 0).all()
    np.testing.assert_array_equal(made.ref_mask, np.isnan(made.ref))


def test_uninstalled_kernels_need_no_gpu():
    code = "from fastdiff.kernels.synth import synth; print(synth.render_cuda.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "render_cuda"
