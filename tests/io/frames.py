"""Frames for the tests of files."""

import numpy as np
from astropy.io import fits as afits
from astropy.wcs import WCS

from fastdiff.io.images import Frame

SHAPE = (48, 40)


def tan_header(shape=SHAPE, ra=150.0, dec=2.0, scale=0.5, turn=0.0):
    """TAN header; `turn` in degrees, `scale` in arcsec, reference pixel at the centre."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    wcs.wcs.cd = scale / 3600 * np.array([[-c, s], [s, c]])
    return wcs.to_header()


def frame(image, header=None, mask=None, variance=None):
    wcs = None if header is None else WCS(header)
    return Frame(image, header or afits.Header(), wcs, mask, variance)
