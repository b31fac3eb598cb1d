"""Names and meanings of the columns that the kernels of features and periods write.

They stand here and nowhere else, in the order of the columns. Inside a kernel `CURVE.skew` is the
number of a column, a constant that compiles. This file needs no Numba.
"""

from __future__ import annotations

from collections import namedtuple

CURVE_FEATURES: dict[str, str] = {
    "meanmag": "mag; mean",
    "minmag": "mag; smallest magnitude",
    "maxmag": "mag; largest magnitude",
    "amplitude": "mag; half of maxmag - minmag",
    "beyond1std": "share of the points more than one std from the mean",
    "flux_percentile_ratio_mid20": "(F_60 - F_40) / (F_95 - F_5)",
    "flux_percentile_ratio_mid35": "(F_67.5 - F_32.5) / (F_95 - F_5)",
    "flux_percentile_ratio_mid50": "(F_75 - F_25) / (F_95 - F_5)",
    "flux_percentile_ratio_mid65": "(F_82.5 - F_17.5) / (F_95 - F_5)",
    "flux_percentile_ratio_mid80": "(F_90 - F_10) / (F_95 - F_5)",
    "linear_trend": "mag / day; slope of the least-squares line, all weights equal",
    "max_slope": "mag / day; steepest step between neighbours in time",
    "median_absolute_deviation": "median |F - F_50|, in fluxes of magnitude 0",
    "median_buffer_range_percentage": "share of the points with |F - F_50| < 0.1 F_50",
    "pair_slope_trend": "share of rises of the flux in the last 30 steps",
    "percent_difference_flux_percentile": "(F_95 - F_5) / F_50",
    "skew": "third central moment over std^3 of all points (n, not n - 1)",
    "small_kurtosis": "fourth central moment over std^4; a Gaussian has 3",
    "std": "mag; standard deviation (n - 1)",
    "stetson_j": "excess of the variance over the errors, robust; noise gives about 0",
    "stetson_k": "mean over root mean square of the deviations; noise gives 0.798",
}
"""Name -> meaning of the features of Table VI of Mahabal et al. (2017), in its order; F_q is the
q-th percentile of the fluxes 10^(-0.4 mag)."""

PERIOD_FEATURES: dict[str, str] = {
    "period": "days; the shortest period that describes the curve",
    "period_significance": "-log10 of the chance that noise has the highest peak",
    "sinusoid_period": "days; period of the highest peak of the periodogram",
    "sinusoid_power": "share of the variance in the highest peak",
    "harmonics": "harmonics used at `period`, 1 to 8",
    "explained": "share of the variance explained at `period`",
    "explained_sinusoid": "the same by a sinusoid alone",
    "explained_double": "the same at twice the period",
    "explained_half": "the same at half the period",
    "harmonic_amplitude_1": "mag; semi-amplitude of the first harmonic",
    "harmonic_amplitude_2": "mag; second harmonic",
    "harmonic_amplitude_3": "mag; third harmonic",
    "harmonic_amplitude_4": "mag; fourth harmonic",
    "phase_21": "radians; phi_2 - 2 phi_1 of cosines",
    "phase_31": "radians; phi_3 - 3 phi_1",
    "phase_41": "radians; phi_4 - 4 phi_1",
    "folded_amplitude": "mag; faintest minus brightest phase of the Fourier series",
    "rise_fraction": "share of the period from the faintest to the brightest phase",
    "folded_skew": "skewness of the Fourier series over phase",
    "minima_depth_ratio": "depth of the second minimum over the first at twice the period",
    "minima_separation": "phase between these minima at twice the period",
    "roughness": "mean squared step between neighbours in phase over twice the variance",
    "roughness_double": "the same at twice the period",
    "residual_std": "mag; what the Fourier series leaves",
    "second_period": "days; best period that is not a multiple of `period`",
    "second_explained": "share of the variance explained there",
}
"""Name -> meaning of what folding by the best period tells."""

CURVE = namedtuple("CURVE", CURVE_FEATURES)(*range(len(CURVE_FEATURES)))
"""Numbers of the columns of `CURVE_FEATURES`, by name."""
PERIODIC = namedtuple("PERIODIC", PERIOD_FEATURES)(*range(len(PERIOD_FEATURES)))
"""Numbers of the columns of `PERIOD_FEATURES`, by name."""
