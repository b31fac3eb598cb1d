"""What kernels/cube/bridge.py computes."""

import numpy as np


def bridge(rows, series, bad):
    """Series whose bad values are interpolated in some rows; those without a good one stay."""
    out = series.copy()
    for i in rows:
        good = np.flatnonzero(~bad[i])
        if len(good):
            out[i] = np.interp(np.arange(series.shape[1]), good, series[i, good])
    return out
