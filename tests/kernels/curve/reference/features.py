"""What kernels/curve/features.py computes, one feature after the other."""

import numpy as np


def features(time, mag, magerr):
    """Name -> value for one sorted curve without bad points; NaN where undefined."""
    n = len(mag)
    flux = 10 ** (-0.4 * mag)

    def percentile(q):
        return np.percentile(flux, q, method="hazen")

    with np.errstate(all="ignore"):
        wide = percentile(95) - percentile(5)
        steps = np.diff(time)
        slopes = np.abs(np.diff(mag))[steps > 0] / steps[steps > 0]
        made = {
            "meanmag": mag.mean(),
            "minmag": mag.min(),
            "maxmag": mag.max(),
            "amplitude": 0.5 * (mag.max() - mag.min()),
            "std": mag.std(ddof=1) if n > 1 else np.nan,
            "beyond1std": np.mean(np.abs(mag - mag.mean()) > mag.std(ddof=1)) if n > 1 else np.nan,
            "linear_trend": np.nan if np.ptp(time) == 0 else np.polyfit(time, mag, 1)[0],
            "max_slope": slopes.max() if len(slopes) else np.nan,
            "median_absolute_deviation": np.median(np.abs(flux - np.median(flux))),
            "median_buffer_range_percentage": np.mean(
                np.abs(flux - np.median(flux)) < 0.1 * np.median(flux)
            ),
            "pair_slope_trend": np.mean(np.diff(mag)[-30:] < 0) if n > 1 else np.nan,
            "percent_difference_flux_percentile": wide / np.median(flux),
        }
        for name, half in ((20, 10), (35, 17.5), (50, 25), (65, 32.5), (80, 40)):
            ratio = (percentile(50 + half) - percentile(50 - half)) / wide
            made[f"flux_percentile_ratio_mid{name}"] = ratio
        d = mag - mag.mean()
        made["skew"] = np.mean(d**3) / np.mean(d**2) ** 1.5
        made["small_kurtosis"] = np.mean(d**4) / np.mean(d**2) ** 2
        made["stetson_j"] = made["stetson_k"] = np.nan
        if magerr is not None and (magerr > 0).all() and np.ptp(mag) > 0:
            d = (mag - np.average(mag, weights=1 / magerr**2)) / magerr
            p = n / (n - 1) * d**2 - 1
            made["stetson_j"] = np.mean(np.sign(p) * np.sqrt(np.abs(p)))
            made["stetson_k"] = np.mean(np.abs(d)) / np.sqrt(np.mean(d**2))
    if np.ptp(mag) == 0:
        for name in made:
            if "ratio" in name or name in ("skew", "small_kurtosis"):
                made[name] = np.nan
    return made
