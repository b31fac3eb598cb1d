"""Slow, readable versions of fastdiff.evaluate.regions (paper, section 5.1.1)."""

import numpy as np


def regions(binary):
    """List of sets of pixels, 8-connected, by flood fill."""
    left = {tuple(int(i) for i in p) for p in np.argwhere(binary)}
    found = []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            region.add((y, x))
            for near in [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    edge.append(near)
        found.append(region)
    return found


def counts(binary, truth):
    """(TP, FP, FN, TP') of one image, eqs 16-18."""
    p, g = regions(binary), regions(truth)
    tp = sum(any(a & b for b in g) for a in p)
    found = sum(any(a & b for a in p) for b in g)
    return tp, len(p) - tp, len(g) - found, found


def greedy_pairs(detections, truth, radius):
    """Set of (detection, source): of all pairs within the radius, the nearest first."""
    pairs = sorted(
        (float(np.hypot(d[0] - t[0], d[1] - t[1])), i, j)
        for i, d in enumerate(detections)
        for j, t in enumerate(truth)
        if d[2] == t[2] and np.hypot(d[0] - t[0], d[1] - t[1]) <= radius
    )
    kept = set()
    for _, i, j in pairs:
        if all(i != a and j != b for a, b in kept):
            kept.add((i, j))
    return kept
