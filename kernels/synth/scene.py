"""The parameters of a scene: how the sky, the optics, the detector and the changes are drawn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Scene(NamedTuple):
    """Parameters of the scenes; pairs are (low, high). Lengths in pixels, fluxes in electrons.

    "log" marks log-uniform draws; all others with a range are uniform.
    """

    # point-spread functions, eqs 9-11
    fwhm_ref: tuple[float, float]
    fwhm_sci: tuple[float, float]
    fwhm_law: float  # 0: uniform (eq 9); 1: log-uniform
    fwhm_ratio_max: float  # sci FWHM / ref FWHM stays within [1/max, max]; 0: independent
    ecc_max_ref: float
    ecc_max_sci: float
    p_moffat: float
    p_asymmetry: float  # a displaced second Gaussian: coma, tracking
    p_spikes: float
    # sky, noise, detector, eq 12
    sky: tuple[float, float]  # electrons a pixel and exposure, log
    sky_ratio: tuple[float, float]  # ref sky / sci sky, log
    gradient: float  # largest relative change of the sky over the frame
    read_noise: tuple[float, float]
    gain: tuple[float, float]  # electrons a count of sci, log
    gain_ratio: tuple[float, float]  # ref gain / sci gain, log
    n_exposures: tuple[float, float]  # in the stack of ref, log
    throughput: tuple[float, float]  # ref electrons / sci electrons of a source, log
    full_well: tuple[float, float]  # electrons, log
    p_mask_saturated: float
    p_resampled: float  # an image was shifted by bilinear interpolation: correlated noise
    # the sky's content
    star_density: tuple[float, float]  # stars in 64 x 64 pixels, log
    star_slope: tuple[float, float]  # N(> flux) ~ flux^-slope
    star_snr: tuple[float, float]  # faintest and brightest star, as S/N of its flux
    galaxy_density: tuple[float, float]  # galaxies in 64 x 64 pixels, log
    galaxy_snr: tuple[float, float]  # log
    galaxy_radius: tuple[float, float]  # half-light radius, log
    p_central_galaxy: float
    central_radius: tuple[float, float]
    p_cluster: float
    # registration, D{} of eq 3
    shift: float  # standard deviation of the frame's shift
    rotation: float  # standard deviation, radians
    scaling: float  # standard deviation, relative
    source_jitter: tuple[float, float]  # own displacement of each source, log
    flux_jitter: tuple[float, float]  # own relative change of each source, log
    # what changes
    n_transients: tuple[float, float]  # mean number in a frame (a Poisson mean), uniform
    exact_number: float  # 1: `n_transients` is the number itself
    transient_density: float  # added mean number in 64 x 64 pixels
    p_near_galaxy: float
    near_sigma: float  # eq 7, relative to the frame, about its centre; 0: about a galaxy
    amplitude_rule: float  # 0 S/N, 1 relative magnitude (eqs 23, 24), 2 counts (eq 8)
    amplitude: tuple[float, float]  # range (log for S/N), or (mean, sigma) for rule 2
    p_variable: float  # of a star
    n_vanished: float  # mean number in 64 x 64 pixels
    signed_truth: float  # 1: truth holds fading sources with a negative sign; 0: left out
    # artefacts, mean numbers in 64 x 64 pixels
    cosmic_rays: float
    hot_pixels: float
    bad_columns: float
    p_missing: float  # a frame has a missing edge, corner or column
    trails: float  # of satellites: mean number that cross 64 x 64 pixels; grows with the side
    p_blinking: float  # of a trail: aeroplanes' lights and tumbling satellites leave dashes


def as_float32(scene: Scene) -> Scene:
    """The same parameters in float32, as `draw_scenes` wants them."""
    f32 = np.float32
    return Scene(*(tuple(map(f32, v)) if isinstance(v, tuple) else f32(v) for v in scene))
