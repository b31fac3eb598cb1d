"""What a scene holds: galaxies, stars, and what changes: variables, vanished and new sources."""

import math
from typing import NamedTuple

import numpy as np

from .. import jit
from .defects import add_defect
from .gaussians import Drift, Source, add_source, mapped, point, source_value
from .profiles import BULGE, MOFFAT_TERMS, RELATIVE_SIGMA, WEIGHT
from .psf import psf_concentration
from .random import (
    TWO_PI,
    UNLIMITED,
    draw,
    draw_count,
    draw_log_range,
    draw_normal,
    draw_range,
)
from .tables import (
    FULL_WELL,
    FX_SCI,
    FY_SCI,
    GAIN_SCI,
    HOST_RADIUS,
    HOST_X,
    HOST_Y,
    MAX_CLUMPS,
    NEW,
    PSF_TERMS,
    REF,
    SCI,
    SKY_SCI,
    T_FLUX,
    T_KIND,
    T_SNR,
    T_X,
    T_Y,
    THROUGHPUT,
    VANISHED,
    VARIABLE,
)

f32 = np.float32

# Rules of `Scene.amplitude_rule`; the third, counts, is what remains.
BY_SNR, BY_MAGNITUDE = f32(0), f32(1)


class Cluster(NamedTuple):
    """Where the galaxies and most of the stars gather in a scene that is clustered."""

    exists: bool
    x: np.float32
    y: np.float32
    size: np.float32  # standard deviation, pixels


class Galaxy(NamedTuple):
    """A disk and a bulge, and the share of the disk's flux that is in clumps."""

    x: np.float32
    y: np.float32
    radius: np.float32  # half-light radius of the disk, pixels
    flux: np.float32
    bulge: np.float32  # the bulge's share of the flux
    axis: np.float32  # ratio of the disk's axes
    cos: np.float32  # of the position angle
    sin: np.float32
    clump_share: np.float32


# ---------------------------------------------------------------- galaxies


@jit.item
def draw_galaxies(scene, field, sersic_table, own):
    """Append the galaxies; returns their number and the cluster."""
    state = own.state
    n_galaxies = draw_count(
        state, draw_log_range(state, scene.galaxy_density) * field.areas, own.hosts.shape[0] - 1
    )
    central = draw(state) < scene.p_central_galaxy
    if central:
        n_galaxies += 1
    clustered = draw(state) < scene.p_cluster
    cluster_x, cluster_y = field.width * draw(state), field.height * draw(state)
    cluster = Cluster(clustered, cluster_x, cluster_y, f32(6) + f32(14) * draw(state))
    for g in range(n_galaxies):
        add_galaxy(scene, field, cluster, central and g == 0, sersic_table, own, g)
    return n_galaxies, cluster


@jit.item
def add_galaxy(scene, field, cluster, central, sersic_table, own, g):
    """Append galaxy number `g`: its disk, bulge and clumps."""
    state = own.state
    x, y = field.width * draw(state), field.height * draw(state)
    radius = draw_log_range(state, scene.galaxy_radius)
    snr = draw_log_range(state, scene.galaxy_snr)
    if central:
        cx, cy = f32(0.5) * (field.width - f32(1)), f32(0.5) * (field.height - f32(1))
        x, y = (
            cx + f32(0.06) * field.width * draw_normal(state),
            cy + f32(0.06) * field.height * draw_normal(state),
        )
        radius = draw_range(state, scene.central_radius)
        snr = scene.galaxy_snr[1] * f32(math.sqrt(draw(state)))
    elif cluster.exists:
        x = cluster.x + cluster.size * draw_normal(state)
        y = cluster.y + cluster.size * draw_normal(state)
    # S/N of the flux in the galaxy's own area
    area_ratio = f32(1) + radius * radius * psf_concentration(own.psf[SCI]) * f32(12.0)
    flux = snr * field.flux_unit * f32(math.sqrt(area_ratio))
    bulge = draw(state)
    bulge *= bulge
    axis = f32(0.25) + f32(0.75) * draw(state)
    angle = f32(np.pi) * draw(state)
    cos, sin = f32(math.cos(angle)), f32(math.sin(angle))
    own.hosts[g, HOST_X] = x
    own.hosts[g, HOST_Y] = y
    own.hosts[g, HOST_RADIUS] = radius
    drift = draw_drift(field, state)
    clumps = draw_count(state, f32(3) * draw(state), MAX_CLUMPS)
    clump_share = f32(0.3) * draw(state) if clumps > 0 else f32(0)
    galaxy = Galaxy(x, y, radius, flux, bulge, axis, cos, sin, clump_share)
    add_disk_and_bulge(galaxy, drift, sersic_table, field.faintest, own)
    add_clumps(galaxy, drift, clumps, field.faintest, own)


@jit.item
def draw_drift(field, state):
    """A source's own displacement and relative flux error."""
    x = field.jitter * draw_normal(state)
    y = field.jitter * draw_normal(state)
    return Drift(x, y, field.flicker * draw_normal(state))


@jit.item
def add_disk_and_bulge(galaxy, drift, sersic_table, faintest, own):
    """Append the Gaussians of both; the bulge is rounder and smaller than the disk."""
    cos, sin = galaxy.cos, galaxy.sin
    for part in range(2):
        is_bulge = part == BULGE
        share = (
            galaxy.bulge if is_bulge else (f32(1) - galaxy.bulge) * (f32(1) - galaxy.clump_share)
        )
        q = f32(0.5) + f32(0.5) * galaxy.axis if is_bulge else galaxy.axis
        scale = f32(0.5) * galaxy.radius if is_bulge else galaxy.radius
        for k in range(sersic_table.shape[1]):
            weight = sersic_table[part, k, WEIGHT]
            sigma = sersic_table[part, k, RELATIVE_SIGMA] * scale
            if weight > f32(0):
                u, v = sigma * sigma, sigma * sigma * q * q
                source = Source(
                    galaxy.flux * share * weight,
                    f32(0),
                    galaxy.x,
                    galaxy.y,
                    cos * cos * u + sin * sin * v,
                    cos * sin * (u - v),
                    sin * sin * u + cos * cos * v,
                )
                add_source(own, source, drift, MOFFAT_TERMS, faintest)


@jit.item
def add_clumps(galaxy, drift, clumps, faintest, own):
    """Append star-forming clumps on a two-armed logarithmic spiral in the disk's plane."""
    state, cos, sin = own.state, galaxy.cos, galaxy.sin
    pitch = f32(0.2) + f32(0.3) * draw(state)
    phase = TWO_PI * draw(state)
    for k in range(clumps):
        along = draw(state)
        phi = phase + along * f32(4) + f32(np.pi) * f32(k % 2)
        reach = galaxy.radius * f32(0.3) * f32(math.exp(pitch * along * f32(4)))
        u, v = reach * f32(math.cos(phi)), reach * f32(math.sin(phi)) * galaxy.axis
        size = f32(0.08) * galaxy.radius * (f32(0.5) + draw(state))
        source = Source(
            galaxy.flux * (f32(1) - galaxy.bulge) * galaxy.clump_share / f32(clumps),
            f32(0),
            galaxy.x + cos * u - sin * v,
            galaxy.y + sin * u + cos * v,
            size * size,
            f32(0),
            size * size,
        )
        add_source(own, source, drift, MOFFAT_TERMS, faintest)


# ---------------------------------------------------------------- stars


@jit.item
def draw_stars(scene, field, cluster, own):
    """Append stars, some of them variable; then those that vanished, which are in ref only."""
    state = own.state
    n_stars = draw_count(state, draw_log_range(state, scene.star_density) * field.areas, UNLIMITED)
    n_vanished = draw_count(state, scene.n_vanished * field.areas, UNLIMITED)
    slope = draw_range(state, scene.star_slope)
    ratio = f32(math.exp(slope * f32(math.log(scene.star_snr[0] / scene.star_snr[1]))))
    for i in range(n_stars + n_vanished):
        x, y = field.width * draw(state), field.height * draw(state)
        if cluster.exists and draw(state) < f32(0.7):
            x = cluster.x + cluster.size * draw_normal(state)
            y = cluster.y + cluster.size * draw_normal(state)
        snr = scene.star_snr[0] * f32(
            math.exp(-f32(math.log(f32(1) - draw(state) * (f32(1) - ratio))) / slope)
        )
        add_star(scene, field, own, x, y, snr * field.flux_unit, i >= n_stars)


@jit.item
def add_star(scene, field, own, x, y, flux, vanished):
    """Append one star, note its change, and let its charge bleed."""
    state = own.state
    drift = draw_drift(field, state)
    variable = draw(state) < scene.p_variable
    factor = draw(state)
    change = f32(0)
    if vanished:
        flux = field.flux_unit * draw_log_range(
            state, scene.amplitude if scene.amplitude_rule == BY_SNR else scene.star_snr
        )
        change = -flux
    elif variable:
        change = flux * (f32(3) * factor - f32(0.9))
        if change < f32(0) and scene.signed_truth == f32(0):
            change = -change
    if change != f32(0):
        drift = Drift(drift.x, drift.y, f32(0))
    add_source(own, point(flux, change, x, y), drift, PSF_TERMS, field.faintest)
    if change != f32(0):
        kind = VANISHED if vanished else VARIABLE
        note_change(own, x, y, drift, change, change / field.flux_unit, kind)
    # the charge of a saturated star bleeds along its column, in each image for itself
    frame = own.frame
    for image in range(2):
        brightness = frame[THROUGHPUT] if image == REF else f32(1)
        level = flux * psf_concentration(own.psf[image]) * brightness
        excess = level / frame[FULL_WELL]
        if excess > f32(3):
            length = min(f32(4) * f32(math.sqrt(excess)), f32(40)) * (f32(0.5) + draw(state))
            px, py = mapped(own.maps[image], x, y)
            add_defect(
                own,
                image,
                f32(4) * frame[FULL_WELL],
                f32(math.floor(px + f32(0.5))),
                py,
                f32(0),
                length,
                f32(0.25),
            )


# ---------------------------------------------------------------- transients


@jit.item
def draw_transients(scene, field, n_galaxies, own):
    """Append new sources, eqs 7, 8, 23, 24: in sci only."""
    state = own.state
    number = draw_range(state, scene.n_transients)
    n_new = draw_count(state, number, UNLIMITED)
    if scene.exact_number > f32(0):
        n_new = int(number + f32(0.5))
    n_new += draw_count(state, scene.transient_density * field.areas, UNLIMITED)
    n_static = own.n_sources[SCI]
    drift = Drift(f32(0), f32(0), f32(0))
    for _ in range(n_new):
        x, y, flux = draw_transient(scene, field, n_galaxies, n_static, own)
        # no flux common to both images: all of it is a change
        add_source(own, point(f32(0), flux, x, y), drift, PSF_TERMS, field.faintest)
        note_change(own, x, y, drift, flux, flux / field.flux_unit, NEW)


@jit.item
def draw_transient(scene, field, n_galaxies, n_static, own):
    """(x, y, flux) of a new source."""
    state, width, height = own.state, field.width, field.height
    # near the centre, near a galaxy or anywhere; anywhere too if that is off the frame
    x, y = width * draw(state), height * draw(state)
    near, host = draw(state) < scene.p_near_galaxy, draw(state)
    ox, oy = draw_normal(state), draw_normal(state)
    if near and scene.near_sigma > f32(0):
        cx, cy = f32(0.5) * (width - f32(1)), f32(0.5) * (height - f32(1))
        x, y = cx + scene.near_sigma * width * ox, cy + scene.near_sigma * height * oy
    elif near and n_galaxies > 0:
        galaxy = own.hosts[min(int(host * f32(n_galaxies)), n_galaxies - 1)]
        x, y = galaxy[HOST_X] + galaxy[HOST_RADIUS] * ox, galaxy[HOST_Y] + galaxy[HOST_RADIUS] * oy
    if not (f32(0) <= x < width and f32(0) <= y < height):
        x, y = width * draw(state), height * draw(state)
    # by S/N, by magnitude relative to the light that is there (eqs 23, 24), or counts (eq 8)
    if scene.amplitude_rule == BY_SNR:
        flux = field.flux_unit * draw_log_range(state, scene.amplitude)
    elif scene.amplitude_rule == BY_MAGNITUDE:
        local = own.frame[SKY_SCI]
        px, py = mapped(own.maps[SCI], x, y)
        for i in range(n_static):
            local += source_value(own.sources[SCI, i], px, py)
        magnitude = draw_range(state, scene.amplitude)
        brighter = f32(math.exp(f32(-0.4 * math.log(10)) * magnitude)) - f32(1)
        flux = local * field.fwhm_sci * field.fwhm_sci * brighter
    else:
        flux = own.frame[GAIN_SCI] * max(
            f32(0), scene.amplitude[0] + scene.amplitude[1] * draw_normal(state)
        )
    return x, y, flux


@jit.item
def note_change(own, x, y, drift, flux, snr, kind):
    """Append a row to the table of changes; one that is full takes no more."""
    i = own.n_changes[0]
    if i >= own.changes.shape[0]:
        return
    own.n_changes[0] = i + 1
    row, frame = own.changes[i], own.frame
    px, py = mapped(own.maps[SCI], x, y)
    row[T_X] = px + drift.x - frame[FX_SCI]
    row[T_Y] = py + drift.y - frame[FY_SCI]
    row[T_FLUX] = flux / frame[GAIN_SCI]
    row[T_SNR] = snr
    row[T_KIND] = f32(kind)
