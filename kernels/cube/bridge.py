"""Bad epochs of series, filled by straight lines between the good epochs around them.

Predictors must be finite; what a predictor has in its place at a bad epoch counts little.

Cost: a pass over each series that has bad epochs.
"""

from __future__ import annotations

from .. import jit
from ..declare import kernel


@jit.item
def bridge(values, bad):
    """Put a straight line between the good values around them into the bad ones.

    Bad values before the first good one become that, those after the last one become this. Nothing
    changes where none is good.
    """
    last = -1
    for t in range(len(values)):
        if bad[t]:
            continue
        if last < 0:
            last = t
            for s in range(t):
                values[s] = values[t]
        slope = (values[t] - values[last]) / max(t - last, 1)
        for s in range(last + 1, t):
            values[s] = slope * (s - last) + values[last]
        last = t
    if last >= 0:
        for s in range(last + 1, len(values)):
            values[s] = values[last]


@kernel(
    over="n",
    rows="int64 (n)",
    series="inout float64 (n_series, n_epochs)",
    bad="bool (n_series, n_epochs)",
)
def bridge_series(i, rows, series, bad):
    """One of the `rows` of `series` that have bad epochs."""
    bridge(series[rows[i]], bad[rows[i]])
