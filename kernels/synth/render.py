"""The pixels of a batch: the tables of a scene added up, with noise, and seen by a detector.

Cost a pixel: about 15 floating-point operations for each Gaussian whose box covers it, and one
Philox block and one Box-Muller pair an image for the noise; 16 bytes written (ref, sci, truth,
variance in float32), and scratch that stays in cache.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .. import jit
from ..jit import cuda
from .defects import defect_value
from .gaussians import gaussian_value, source_value
from .random import (
    MASK32,
    POISSON_INVERSION,
    SHIFT32,
    STREAM_REF,
    STREAM_SCI,
    normal_pair,
    philox,
    poisson,
    poisson_by_quantile,
    unit,
)
from .tables import (
    D_DX,
    D_DY,
    D_WIDTH,
    D_X,
    D_Y,
    EXPOSURES,
    FULL_WELL,
    FX_REF,
    FY_REF,
    GAIN_REF,
    GAIN_SCI,
    GRADIENT_X,
    GRADIENT_Y,
    HIDE_SATURATED,
    MISSING_REF,
    PEAK,
    READ_NOISE,
    REF,
    RX,
    RY,
    SCI,
    SKY_REF,
    THROUGHPUT,
    TRUTH,
    X_FIRST,
    X_STOP,
    Y_FIRST,
    Y_STOP,
    A,
    B,
    C,
    Tables,
    X,
    Y,
    sample_of,
)

f32 = np.float32
u64 = np.uint64


class Rendered(NamedTuple):
    """Images of a batch, (n, ny, nx) float32; `variance` in counts^2 of sci, the others counts."""

    ref: Any
    sci: Any
    truth: Any
    variance: Any


# ---------------------------------------------------------------- one pixel


@jit.item
def sky_value(frame, image, x, y, width, height):
    """Electrons of the sky at (x, y), with its gradient."""
    slope = frame[GRADIENT_X] * (x / width - f32(0.5)) + frame[GRADIENT_Y] * (y / height - f32(0.5))
    # the two images are taken under different skies
    tilt = f32(1) if image == SCI else f32(-0.5)
    return frame[SKY_REF + image] * (f32(1) + tilt * slope)


@jit.item
def pixel_words(seed, sample, image, x, y):
    """Three random words of one pixel of one image.

    Its counter holds the coordinates, so that it does not depend on the frame's width.
    """
    stream = STREAM_REF if image == REF else STREAM_SCI
    low, high = u64(sample) & MASK32, u64(sample) >> SHIFT32
    key0, key1 = u64(seed) & MASK32, u64(seed) >> SHIFT32
    w0, w1, w2, _ = philox((u64(y) << u64(16)) | u64(x), stream, low, high, key0, key1)
    return w0, w1, w2


@jit.item
def detect(photons, read, extra, exposures, read_noise, full_well):
    """A pixel's electrons as the detector gives them: eq 12, read noise, defects, full well."""
    value = photons / exposures + read_noise * read / f32(math.sqrt(exposures)) + extra
    return min(value, full_well)


@jit.item
def variance_value(frame, electrons_ref, electrons_sci):
    """Expected variance of sci - scale ref in one pixel before resampling, in counts of sci."""
    read2 = frame[READ_NOISE] * frame[READ_NOISE]
    thr = frame[THROUGHPUT]
    variance = electrons_sci + read2 + (electrons_ref + read2) / (frame[EXPOSURES] * thr * thr)
    return variance / (frame[GAIN_SCI] * frame[GAIN_SCI])


@jit.item
def resample(v00, v01, v10, v11, fx, fy):
    """Bilinear interpolation between four pixels."""
    upper = v00 * (f32(1) - fx) + v01 * fx
    lower = v10 * (f32(1) - fx) + v11 * fx
    return upper * (f32(1) - fy) + lower * fy


@jit.item
def is_lost(frame, image, x, y, v00, v01, v10, v11):
    """Whether a pixel is missing, or saturated in a frame that hides such pixels."""
    m = MISSING_REF + 4 * image
    in_columns = frame[m + X_FIRST] <= x < frame[m + X_STOP]
    if in_columns and frame[m + Y_FIRST] <= y < frame[m + Y_STOP]:
        return True
    brightest = max(max(v00, v01), max(v10, v11))
    return frame[HIDE_SATURATED] > f32(0) and brightest >= frame[FULL_WELL]


# ---------------------------------------------------------------- one row, on the CPU


@jit.item
def observe_row(
    seed, sample, image, y, exposures, read_noise, full_well, electrons, extra, words, normals
):
    """A row of expected electrons, observed in place: `poisson` and `detect` of each pixel.

    Stages of a row in functions and loops of their own vectorise; together they do not.
    """
    photon, read, uniform = normals[0], normals[1], normals[2]
    fill_words(seed, sample, image, y, words[0], words[1], words[2])
    fill_normals(words[0], words[1], words[2], photon, read, uniform)
    faint = False
    for x in range(electrons.size):
        electrons[x] *= exposures
        faint |= electrons[x] < POISSON_INVERSION
    if faint:
        for x in range(electrons.size):
            electrons[x] = poisson(electrons[x], photon[x], uniform[x])
    else:
        for x in range(electrons.size):
            electrons[x] = poisson_by_quantile(electrons[x], photon[x])
    for x in range(electrons.size):
        electrons[x] = detect(electrons[x], read[x], extra[x], exposures, read_noise, full_well)


@jit.item
def fill_words(seed, sample, image, y, words0, words1, words2):
    """The random words of a row of pixels."""
    for x in range(words0.size):
        words0[x], words1[x], words2[x] = pixel_words(seed, sample, image, x, y)


@jit.item
def fill_normals(words0, words1, words2, photon, read, uniform):
    """The normal numbers of the photons and of the read noise, and the uniform ones, of a row."""
    for x in range(words0.size):
        uniform[x] = unit(words2[x])
        photon[x], read[x] = normal_pair(words0[x], words1[x])


@jit.item
def resample_row(upper, lower, fx, fy, gain, out):
    """A row of an image: electrons of two rows under the bilinear shift, in counts."""
    for x in range(out.size):
        out[x] = resample(upper[x], upper[x + 1], lower[x], lower[x + 1], fx, fy) / gain


@jit.item
def lose_row(frame, image, y, columns, upper, lower, out):
    """Put NaN where `is_lost`; most rows have no such pixel, and that is quickly seen."""
    m = MISSING_REF + 4 * image
    suspect = frame[m + Y_FIRST] <= y < frame[m + Y_STOP]
    if frame[HIDE_SATURATED] > f32(0):
        brightest = f32(0)
        for x in range(upper.size):
            brightest = max(brightest, max(upper[x], lower[x]))
        suspect |= brightest >= frame[FULL_WELL]
    if suspect:
        for x in range(out.size):
            v00, v01, v10, v11 = upper[x], upper[x + 1], lower[x], lower[x + 1]
            if is_lost(frame, image, columns[x], y, v00, v01, v10, v11):
                out[x] = f32(np.nan)


# ---------------------------------------------------------------- a band of rows, on the CPU


class Band(NamedTuple):
    """Rows ``y_first`` to ``y_stop - 1`` of a sample and one more, for the bilinear shift.

    One column more than the frame has, too.
    """

    y_first: int
    n_rows: int  # with the one more
    columns: Any  # (nx + 1,) float32: 0, 1, ..., so that the loop over a row has no integer in it
    planes: Any  # (3, n_rows or more, nx + 1) float32: electrons
    extras: Any  # (2, n_rows or more, nx + 1) float32: electrons of defects
    words: Any  # (3, nx + 1) uint32
    normals: Any  # (3, nx + 1) float32


@jit.item
def add_sources(own, band):
    """Add the Gaussians of all planes, each within its box."""
    y_first, last_row, last_column = band.y_first, band.n_rows - 1, band.columns.size - 1
    columns = band.columns
    for plane in range(3):
        for k in range(own.n_sources[plane]):
            row = own.sources[plane, k]
            ya, yb = (
                max(0, int(math.ceil(row[Y] - row[RY])) - y_first),
                min(last_row, int(math.floor(row[Y] + row[RY])) - y_first),
            )
            xa, xb = (
                max(0, int(math.ceil(row[X] - row[RX]))),
                min(last_column, int(math.floor(row[X] + row[RX]))),
            )
            if xa > xb:
                continue
            peak, a, b, c, centre = row[PEAK], row[A], row[B], row[C], row[X]
            for y in range(ya, yb + 1):
                line, dy = band.planes[plane, y], f32(y + y_first) - row[Y]
                for x in range(xa, xb + 1):
                    line[x] += gaussian_value(peak, a, b, c, columns[x] - centre, dy)


@jit.item
def add_defects(own, band):
    """Add the defects of both images, each within five of its widths."""
    y_first, last_row, last_column = band.y_first, band.n_rows - 1, band.columns.size - 1
    for image in range(2):
        for k in range(own.n_defects[image]):
            row = own.defects[image, k]
            reach_y, reach_x = (
                f32(0.5) * abs(row[D_DY]) + f32(5) * row[D_WIDTH],
                f32(0.5) * abs(row[D_DX]) + f32(5) * row[D_WIDTH],
            )
            for y in range(
                max(0, int(math.ceil(row[D_Y] - reach_y)) - y_first),
                min(last_row, int(math.floor(row[D_Y] + reach_y)) - y_first) + 1,
            ):
                for x in range(
                    max(0, int(math.ceil(row[D_X] - reach_x))),
                    min(last_column, int(math.floor(row[D_X] + reach_x))) + 1,
                ):
                    band.extras[image, y, x] += defect_value(row, f32(x), f32(y + y_first))


@jit.item
def observe_band(seed, sample, own, background, band, variance):
    """Add sky and background, note the variance, and let the detector see both images.

    `background` (2, ny + 1, nx + 1) may be empty; `variance` is (ny, nx).
    """
    ny, nx = variance.shape
    width, full_height = f32(nx), f32(ny)
    y_first, columns, frame = band.y_first, band.columns, own.frame
    for y in range(band.n_rows):
        py = f32(y + y_first)
        ref_e, sci_e, truth_e = band.planes[REF, y], band.planes[SCI, y], band.planes[TRUTH, y]
        for x in range(nx + 1):
            ref_e[x] += sky_value(frame, REF, columns[x], py, width, full_height)
            sci_e[x] += truth_e[x] + sky_value(frame, SCI, columns[x], py, width, full_height)
        if background.size:
            for x in range(nx + 1):
                ref_e[x] += background[REF, y + y_first, x]
                sci_e[x] += background[SCI, y + y_first, x]
        if y < band.n_rows - 1:
            for x in range(nx):
                variance[y + y_first, x] = variance_value(frame, ref_e[x], sci_e[x])
        for image in range(2):
            exposures = frame[EXPOSURES] if image == REF else f32(1)
            observe_row(
                seed, sample, image, y + y_first, exposures, frame[READ_NOISE], frame[FULL_WELL],
                band.planes[image, y], band.extras[image, y], band.words, band.normals,
            )  # fmt: skip


@jit.item
def write_band(own, band, ref, sci, truth):
    """Write a sample's rows, shifted and in counts, with NaN where pixels are lost."""
    frame, y_first = own.frame, band.y_first
    for plane in range(3):
        image = min(plane, SCI)
        fx, fy, gain = frame[FX_REF + 2 * image], frame[FY_REF + 2 * image], frame[GAIN_REF + image]
        for y in range(band.n_rows - 1):
            upper, lower = band.planes[plane, y], band.planes[plane, y + 1]
            out = (
                ref[y + y_first]
                if plane == REF
                else (sci[y + y_first] if plane == SCI else truth[y + y_first])
            )
            resample_row(upper, lower, fx, fy, gain, out)
            if plane != TRUTH:
                lose_row(frame, plane, f32(y + y_first), band.columns, upper, lower, out)


@jit.cpu_loop
def render_cpu(start, stop, seed, first, rows, columns, tables, background, images):
    """Items are bands of `rows` rows: (sample, band) in row-major order.

    `columns` is 0, 1, ... to nx; `background` (n, 2, ny + 1, nx + 1) may be empty, (0, 0, 0, 0).
    """
    ny, nx = images.ref.shape[1], images.ref.shape[2]
    n_bands = (ny + rows - 1) // rows
    planes = np.empty((3, rows + 1, nx + 1), np.float32)
    extras = np.empty((2, rows + 1, nx + 1), np.float32)
    words = np.empty((3, nx + 1), np.uint32)
    normals = np.empty((3, nx + 1), np.float32)
    nothing = np.empty((0, 0, 0), np.float32)
    for item in range(start, stop):
        i, y_first = item // n_bands, (item % n_bands) * rows
        band = Band(
            y_first, min(y_first + rows, ny) - y_first + 1, columns, planes, extras, words, normals
        )
        own = sample_of(tables, i)
        planes[:] = f32(0)
        extras[:] = f32(0)
        add_sources(own, band)
        add_defects(own, band)
        light = background[i] if background.size else nothing
        observe_band(seed, first + i, own, light, band, images.variance[i])
        write_band(own, band, images.ref[i], images.sci[i], images.truth[i])


# ---------------------------------------------------------------- CUDA


@jit.item
def sky_electrons(own, background, sample, plane, x, y, nx, ny):
    """Electrons that one plane's sources send to pixel (x, y), gathered over the table."""
    total = f32(0)
    for k in range(own.n_sources[plane]):
        total += source_value(own.sources[plane, k], f32(x), f32(y))
    if plane != TRUTH:
        total += sky_value(own.frame, plane, f32(x), f32(y), f32(nx), f32(ny))
        if background.size:
            total += background[sample, plane, y, x]
    return total


@jit.item
def defect_electrons(own, image, x, y):
    """Electrons that an image's defects add to pixel (x, y)."""
    total = f32(0)
    for k in range(own.n_defects[image]):
        total += defect_value(own.defects[image, k], f32(x), f32(y))
    return total


@jit.item
def observe_pixel(seed, sample, image, x, y, own, electrons):
    """A pixel of expected electrons, observed: what `observe_row` does to a row."""
    frame = own.frame
    exposures = frame[EXPOSURES] if image == REF else f32(1)
    w0, w1, w2 = pixel_words(seed, sample, image, x, y)
    photon, read = normal_pair(w0, w1)
    photons = poisson(exposures * electrons, photon, unit(w2))
    extra = defect_electrons(own, image, x, y)
    return detect(photons, read, extra, exposures, frame[READ_NOISE], frame[FULL_WELL])


@jit.cuda_kernel
def render_cuda(seed, first, tables, background, images):
    """One thread a pixel of a sample; where images are shifted it makes three neighbours too."""
    item = cuda.grid(1)
    ny, nx = images.ref.shape[1], images.ref.shape[2]
    if item >= images.ref.shape[0] * ny * nx:
        return
    i, y, x = item // (ny * nx), (item // nx) % ny, item % nx
    own = sample_of(tables, i)
    frame = own.frame
    # upper left, upper right, lower left, lower right
    seen, change = cuda.local.array(4, np.float32), cuda.local.array(4, np.float32)
    electrons_of_ref = f32(0)
    for image in range(2):
        fx, fy, gain = frame[FX_REF + 2 * image], frame[FY_REF + 2 * image], frame[GAIN_REF + image]
        shifted = fx > f32(0) or fy > f32(0)
        for j in range(4):
            if j == 0 or shifted:
                px, py = x + j % 2, y + j // 2
                change[j] = f32(0)
                if image == SCI:
                    change[j] = sky_electrons(own, background, i, TRUTH, px, py, nx, ny)
                electrons = change[j] + sky_electrons(own, background, i, image, px, py, nx, ny)
                if j == 0 and image == REF:
                    electrons_of_ref = electrons
                elif j == 0:
                    images.variance[i, y, x] = variance_value(frame, electrons_of_ref, electrons)
                seen[j] = observe_pixel(seed, first + i, image, px, py, own, electrons)
            else:
                seen[j], change[j] = seen[0], change[0]
        value = resample(seen[0], seen[1], seen[2], seen[3], fx, fy) / gain
        if is_lost(frame, image, f32(x), f32(y), seen[0], seen[1], seen[2], seen[3]):
            value = f32(np.nan)
        if image == REF:
            images.ref[i, y, x] = value
        else:
            images.sci[i, y, x] = value
            images.truth[i, y, x] = (
                resample(change[0], change[1], change[2], change[3], fx, fy) / gain
            )


# ---------------------------------------------------------------- a batch


def render(
    seed: int,
    first: int,
    shape: tuple[int, int],
    tables: Tables,
    background: Any = None,
    *,
    threads: int | None = None,
    rows: int = 128,
) -> Rendered:
    """Images of samples ``first``, ``first + 1``, ..., where their tables lie.

    Parameters
    ----------
    seed, first : int
    shape : (int, int)
        Pixels (ny, nx).
    tables : Tables
        NumPy's or CuPy's arrays, from `draw_scenes`.
    background : array, (n, 2, ny + 1, nx + 1), float32, optional
        Electrons to add to ref and sci, where the tables lie.
    threads : int, optional
        Of the CPU; all cores by default.
    rows : int
        Rows of a band, the CPU's unit of work; the result does not depend on it.
    """
    n, (ny, nx) = tables.frame.shape[0], shape
    if background is None:
        background = np.empty_like(tables.frame, shape=(0, 0, 0, 0))
    images = Rendered(*(np.empty_like(tables.frame, shape=(n, ny, nx)) for _ in range(4)))
    if jit.on_cpu(tables.frame):
        columns = np.arange(nx + 1, dtype=np.float32)
        arguments = (u64(seed), first, min(rows, ny), columns, tables, background, images)
        jit.run(render_cpu, n * -(-ny // rows), threads, *arguments)
    else:
        jit.launch(render_cuda, n * ny * nx, u64(seed), first, tables, background, images)
    return images
