r"""Ridge regressions of many series, each on its own subset of the same series.

Target y is predicted from k series x_1 ... x_k by the coefficients that minimise

    sum_n w_n (y_n - sum_j a_j x_jn)^2 + sum_j penalty_j a_j^2,

    (X W X^T + diag(penalty)) a = X W y.

There are three ways, each in a file of its own.

`shared`: with weights that all targets share, X W X^T is a part of one Gram matrix of all series,
and targets beside each other have most of their predictors in common. Their factors are parts of a
tree (`tree`). A fit that does not see some epochs is the same with another Gram matrix.

`single`: what a fit would predict for epochs that it does not see also follows from the factor L of
the whole. With Z = W^1/2 X^T L^-T (one row an epoch), H = Z Z^T and the residuals
e = W^1/2 (y - X^T a), the residuals of a fit without the block B of epochs are

    e'_B = (I - H_BB)^-1 e_B,

exactly: no second fit is made. Blocks that overlap, as windows about each epoch do, are subsets of
one matrix again. The trace of H is the number of degrees of freedom.

`dual`: with fewer epochs than predictors the same follows from a matrix of epochs,

    Q = (K + penalty I)^-1 where K = W^1/2 X^T X W^1/2,
    e = penalty Q W^1/2 y,    a = X W^1/2 Q W^1/2 y,    e'_B = Q_BB^-1 (Q W^1/2 y)_B,

for K restricted to what is orthogonal to the series without a penalty.

Shapes (`fits` has the tuples): series (n_series, n_epochs) float64, without their mean where there
is a constant to fit; gram (n_series, n_series) float64 = (series w) series^T, symmetric; targets
(n,) int64, rows of `series`; lists (n, k_max) int32, the predictors, rows of `series`, of which the
first counts[i] count, in ascending order, the last `n_free` without a penalty; roots (n_epochs,)
float64, square roots of the shared weights; own (m, n_epochs) float64, square roots of weights of
their own; which (n,) int64, a row of `own` or -1; blocks (n_blocks, 4) int64, which leave out
epochs first <= t < stop and predict epochs from <= t < to inside of these; runs (n_runs, 4) int64,
blocks begin <= b < end that overlap, which lie in epochs low <= t < high.

Functions of this file take arrays of the CPU. For those of a GPU `batched` does what the batched
factors of a library leave to do.

Source: Wang et al. 2017 (arXiv 1710.02428), eqs. 2 and 3; the identity of blocks is that of
Cook & Weisberg 1982 (Residuals and Influence in Regression), section 3.4.
"""

from __future__ import annotations

import numpy as np

from .. import jit
from .dual import dual_cpu
from .fits import Fits, Fitted, LeftOut, Weights
from .scores import scores_cpu
from .shared import shared_cpu
from .single import single_cpu
from .tree import RUN


def fit_shared(
    fits: Fits,
    gram: np.ndarray,
    first: int,
    stop: int,
    prediction: np.ndarray,
    coefficients: np.ndarray,
    threads: int | None = None,
) -> None:
    """Fits of neighbours, which share the weights of `gram` and the penalty.

    Parameters
    ----------
    fits : Fits
        With one penalty for all; neighbours are beside each other.
    gram : ndarray, (n_series, n_series)
    first, stop : int
        Epochs to be predicted.
    prediction : ndarray, (n, n_epochs)
        Filled for first <= t < stop.
    coefficients : ndarray, (n, k_max)
        Filled; may have no rows.
    threads : int, optional
    """
    n_runs = -(-len(fits.targets) // RUN)
    jit.run(shared_cpu, n_runs, threads, fits, gram, first, stop, prediction, coefficients)


def fit_single(
    fits: Fits,
    gram: np.ndarray,
    weights: Weights,
    left_out: LeftOut,
    fitted: Fitted,
    threads: int | None = None,
) -> None:
    """Fits with a matrix of predictors for each target.

    Parameters
    ----------
    fits : Fits
        With a penalty for each target.
    gram : ndarray, (n_series, n_series)
        With the shared weights: own weights are those or 0. Or empty: own weights are any.
    weights : Weights
    left_out : LeftOut
    fitted : Fitted
        Filled. The prediction is that of the blocks, and of the whole fit at epochs in no block or
        without weight. Without blocks and leverage no Z is made, and `freedom` is not written.
    threads : int, optional
    """
    jit.run(single_cpu, len(fits.targets), threads, fits, gram, weights, left_out, fitted)


def fit_dual(
    fits: Fits, weights: Weights, left_out: LeftOut, fitted: Fitted, threads: int | None = None
) -> None:
    """Fits with a matrix of epochs for each target; see `fit_single`.

    Penalties are positive. `freedom` is always written; coefficients are those of the series with
    a penalty.
    """
    jit.run(dual_cpu, len(fits.targets), threads, fits, weights, left_out, fitted)


def score_penalties(
    fits: Fits,
    gram: np.ndarray,
    square: np.ndarray,
    freedom: np.ndarray,
    threads: int | None = None,
) -> None:
    """Fill sums of weighted squared residuals and degrees of freedom, (n, n_penalties).

    `fits` has the penalties to be tried; the weights are those of `gram`.
    """
    jit.run(scores_cpu, len(fits.targets), threads, fits, gram, square, freedom)
