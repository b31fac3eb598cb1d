"""Defects of the images: cosmic rays, hot pixels, bad columns, missing pixels and trails."""

import math

import numpy as np

from .. import jit
from .gaussians import exp_neg
from .psf import FWHM_TO_SIGMA
from .random import TWO_PI, UNLIMITED, draw, draw_count
from .tables import (
    D_DASH,
    D_DX,
    D_DY,
    D_PEAK,
    D_PERIOD,
    D_PHASE,
    D_WIDTH,
    D_X,
    D_Y,
    EXPOSURES,
    MISSING_REF,
    REF,
    SCI,
    SKY_REF,
    X_FIRST,
    X_STOP,
    Y_FIRST,
    Y_STOP,
)

f32 = np.float32


@jit.item
def draw_artefacts(scene, field, own):
    """Append cosmic rays, hot pixels and bad columns of each image."""
    state, width, height = own.state, field.width, field.height
    for image in range(2):
        # a stack has fewer left
        share = f32(1) / own.frame[EXPOSURES] if image == REF else f32(1)
        level = f32(math.sqrt(own.frame[SKY_REF + image] + field.read_variance))
        for _ in range(draw_count(state, scene.cosmic_rays * field.areas * share, UNLIMITED)):
            angle, length = TWO_PI * draw(state), f32(-4) * f32(math.log(draw(state)))
            add_defect(
                own,
                image,
                level * f32(5) * f32(math.exp(f32(4.5) * draw(state))),
                width * draw(state),
                height * draw(state),
                length * f32(math.cos(angle)),
                length * f32(math.sin(angle)),
                f32(0.25) + f32(0.2) * draw(state),
            )
        for _ in range(draw_count(state, scene.hot_pixels * field.areas * share, UNLIMITED)):
            add_defect(
                own,
                image,
                level * f32(5) * f32(math.exp(f32(4) * draw(state))),
                f32(math.floor(width * draw(state))),
                f32(math.floor(height * draw(state))),
                f32(0),
                f32(0),
                f32(0.2),
            )
        for _ in range(draw_count(state, scene.bad_columns * field.areas * share, UNLIMITED)):
            add_defect(
                own,
                image,
                level * (f32(30) * draw(state) - f32(10)),
                f32(math.floor(width * draw(state))),
                height * draw(state),
                f32(0),
                height * f32(2) * draw(state),
                f32(0.2),
            )


@jit.item
def draw_missing(scene, field, own):
    """Missing pixels: an edge, a block or a column; sometimes the same in both images."""
    state, frame = own.state, own.frame
    width, height = field.width, field.height
    both = draw(state) < f32(0.4)
    for image in range(2):
        m = MISSING_REF + 4 * image
        missing = draw(state) < scene.p_missing
        kind, u0, u1, u2 = draw(state), draw(state), draw(state), draw(state)
        x0, x1, y0, y1 = f32(0), f32(0), f32(0), f32(0)
        if missing:
            if kind < f32(0.25):
                x1, y1 = f32(math.floor(width * f32(0.4) * u0)), height
            elif kind < f32(0.5):
                y0, x1, y1 = f32(math.floor(height * (f32(1) - f32(0.4) * u0))), width, height
            elif kind < f32(0.75):
                x0, y0 = f32(math.floor(width * u0)), f32(math.floor(height * u1))
                x1, y1 = (
                    x0 + f32(1) + f32(math.floor(f32(8) * u2)),
                    y0 + f32(1) + f32(math.floor(f32(8) * u2)),
                )
            else:
                x0, y1 = f32(math.floor(width * u0)), height
                x1 = x0 + f32(1) + f32(math.floor(f32(2) * u1))
        if image == SCI and both:
            x0, x1 = frame[MISSING_REF + X_FIRST], frame[MISSING_REF + X_STOP]
            y0, y1 = frame[MISSING_REF + Y_FIRST], frame[MISSING_REF + Y_STOP]
        frame[m + X_FIRST] = x0
        frame[m + X_STOP] = x1
        frame[m + Y_FIRST] = y0
        frame[m + Y_STOP] = y1


@jit.item
def draw_trails(scene, field, own):
    """Append trails of satellites and aeroplanes: most cross the frame, some begin or end on it."""
    state, frame = own.state, own.frame
    for image in range(2):
        share = f32(1) / frame[EXPOSURES] if image == REF else f32(1)
        level = f32(math.sqrt(frame[SKY_REF + image] + field.read_variance))
        sigma = FWHM_TO_SIGMA * (field.fwhm_ref if image == REF else field.fwhm_sci)
        mean = scene.trails * share * f32(math.sqrt(field.areas))
        for _ in range(draw_count(state, mean, UNLIMITED)):
            angle, length = TWO_PI * draw(state), f32(3) * (field.width + field.height)
            if draw(state) < f32(0.3):
                length *= f32(0.3) * draw(state)
            spread = draw(state)
            sigma_across = sigma * (f32(1) + f32(1.5) * spread * spread)  # aeroplanes are blurred
            peak = level * f32(0.4) * f32(math.exp(f32(5) * draw(state)))
            x, y = field.width * draw(state), field.height * draw(state)
            blinks, u0, u1, u2 = draw(state), draw(state), draw(state), draw(state)
            added = add_defect(
                own,
                image,
                peak,
                x,
                y,
                length * f32(math.cos(angle)),
                length * f32(math.sin(angle)),
                sigma_across,
            )
            if added and blinks < scene.p_blinking:
                row = own.defects[image, own.n_defects[image] - 1]
                # from a few widths to beyond a stamp, where one flash is all that is seen
                row[D_PERIOD] = f32(4) * sigma_across * f32(math.exp(f32(3.5) * u0))
                row[D_DASH] = row[D_PERIOD] * f32(0.6) * u1 * u1
                row[D_PHASE] = row[D_PERIOD] * (u2 - f32(0.5))


@jit.item
def add_defect(own, image, peak, x, y, dx, dy, width):
    """Append a segment to the table of an image; returns False if the table is full."""
    i = own.n_defects[image]
    if i >= own.defects.shape[1]:
        return False
    own.n_defects[image] = i + 1
    row = own.defects[image, i]
    row[D_PEAK] = peak
    row[D_X] = x
    row[D_Y] = y
    row[D_DX] = dx
    row[D_DY] = dy
    row[D_WIDTH] = width
    row[D_PERIOD] = f32(0)
    row[D_DASH] = f32(0)
    row[D_PHASE] = f32(0)
    return True


@jit.item
def defect_value(row, x, y):
    """Value at (x, y) of a segment centred on (D_X, D_Y) with a Gaussian cross-section."""
    rx, ry = x - row[D_X], y - row[D_Y]
    length2 = row[D_DX] * row[D_DX] + row[D_DY] * row[D_DY]
    if length2 > f32(0):
        t = (rx * row[D_DX] + ry * row[D_DY]) / length2
        if row[D_PERIOD] > f32(0):  # to the nearest point of the nearest dash
            length = f32(math.sqrt(length2))
            period, phase = row[D_PERIOD], row[D_PHASE]
            last = f32(math.floor((f32(0.5) * length - phase) / period))
            first = -f32(math.floor((f32(0.5) * length + phase) / period))
            if first > last:  # the trail ends between two flashes
                return f32(0)
            along = t * length - phase
            nearest = min(max(f32(math.floor(along / period + f32(0.5))), first), last)
            half = f32(0.5) * row[D_DASH]
            off = min(max(along - period * nearest, -half), half)
            t = (period * nearest + off + phase) / length
        else:
            t = min(max(t, f32(-0.5)), f32(0.5))
        rx -= t * row[D_DX]
        ry -= t * row[D_DY]
    q = (rx * rx + ry * ry) / (f32(2) * row[D_WIDTH] * row[D_WIDTH])
    return row[D_PEAK] * exp_neg(q) if q < f32(12) else f32(0)
