"""Stars painted into frames."""

from fastdiff.simulate.inject import point_source

SKY, SIGMA, FWHM = 200.0, 5.0, 3.2


def add(image, x, y, flux, fwhm=FWHM, beta=None, half=20):
    """Add a point source, or a round galaxy as wide as `fwhm` says."""
    x0, y0 = int(x) - half, int(y) - half
    stamp = flux * point_source((2 * half + 1, 2 * half + 1), x - x0, y - y0, fwhm, beta)
    rows = slice(max(y0, 0), min(y0 + 2 * half + 1, image.shape[0]))
    columns = slice(max(x0, 0), min(x0 + 2 * half + 1, image.shape[1]))
    image[rows, columns] += stamp[rows.start - y0 : rows.stop - y0,
                                  columns.start - x0 : columns.stop - x0]  # fmt: skip
