"""Which pixels are good, and what is cut of an image, in NumPy."""

import numpy as np


def good_pixels(image, bad=None):
    good = np.isfinite(image) & (np.abs(np.nan_to_num(image)) <= 1e30)
    return good if bad is None else good & ~bad


def padded(image, y, x, h, w, fill):
    """The h x w pixels from (y, x) on; `fill` outside of the image."""
    part = image[y : y + h, x : x + w]
    out = np.full((h, w), fill, dtype=part.dtype)
    out[: part.shape[0], : part.shape[1]] = part
    return out
