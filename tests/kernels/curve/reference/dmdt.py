"""dm-dt images in slow, readable NumPy: every pair, one curve at a time."""

import numpy as np
from scipy.special import ndtr


def pairs(time, mag):
    """(dt, dm) of all pairs of the points of a curve, the later minus the earlier."""
    order = np.argsort(time, kind="stable")
    t, m = np.asarray(time, float)[order], np.asarray(mag, float)[order]
    if t.size:
        t = t - t[0]
    i, j = np.triu_indices(t.size, 1)
    return t[j] - t[i], m[j] - m[i]


def row_of(dm, edges, symmetric):
    """Row of each dm, -1 and below or n_dm and above outside."""
    rows = np.full(dm.shape, -1)
    for k, edge in enumerate(edges):
        second = k > 0 and edges[k - 1] == edge  # of two equal edges: the row between them
        downwards = symmetric and (edge < 0 or np.signbit(edge)) and not second
        if second or (downwards and edge < 0):
            rows[dm > edge] = k
        else:
            rows[dm >= edge] = k
    return rows


def count(time, mag, dm_edges, dt_edges, symmetric=False):
    """Pairs in each cell, (n_dm + 2, n_dt): also those below and above all rows."""
    dt, dm = pairs(time, mag)
    columns = np.searchsorted(dt_edges, dt, "right") - 1
    rows = row_of(dm, dm_edges, symmetric) + 1
    counts = np.zeros((len(dm_edges) + 1, len(dt_edges) - 1), np.int64)
    inside = (columns >= 0) & (columns < counts.shape[1])
    np.add.at(counts, (rows[inside], columns[inside]), 1)
    return counts


def smooth(time, mag, magerr, dm_edges, dt_edges):
    """The same with each pair spread along dm; errors above zero."""
    order = np.argsort(time, kind="stable")
    dt, dm = pairs(time, mag)
    e = np.asarray(magerr, float)[order]
    i, j = np.triu_indices(e.size, 1)
    sigma = np.hypot(e[i], e[j])
    columns = np.searchsorted(dt_edges, dt, "right") - 1
    counts = np.zeros((len(dm_edges) + 1, len(dt_edges) - 1))
    for column in range(counts.shape[1]):
        own = columns == column
        below = ndtr((np.asarray(dm_edges)[:, None] - dm[own]) / sigma[own])
        below = np.vstack((np.zeros(own.sum()), below, np.ones(own.sum())))
        counts[:, column] = np.diff(below, axis=0).sum(axis=1)
    return counts


def normalise(counts, n_points, norm):
    """Image of counts as above."""
    n, p = counts[1:-1], n_points * (n_points - 1) // 2
    if norm == "counts" or not n.any():
        return n if norm != "paper" else n.astype(np.uint8)
    if norm == "paper":
        return np.array([[int(255 * x / p + 0.99999) for x in row] for row in n], np.uint8)
    if norm == "dt":
        return n / np.maximum(counts.sum(axis=0), 1)
    return n / (n.max() if norm == "max" else np.sqrt((n.astype(float) ** 2).sum()))
