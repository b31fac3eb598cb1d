"""Slow, readable versions of the losses of fastdiff.training.transinet."""

import numpy as np


def pooled(image, size):
    """Mean over blocks of size x size pixels; smaller ones at the right and bottom."""
    ny, nx = (-(-s // size) for s in image.shape)
    out = np.zeros((ny, nx))
    for y in range(ny):
        for x in range(nx):
            out[y, x] = image[y * size : (y + 1) * size, x * size : (x + 1) * size].mean()
    return out


def compress(x):
    return 2 * np.arcsinh(x / 2)


def multi_scale_l1(outputs, target, valid, factor):
    """Eq. 4 summed over the resolutions 1, 1/2, 1/4, ...; arrays (n, h, w)."""
    total = 0.0
    for level, output in enumerate(outputs):
        errors = []
        for prediction, t, v in zip(output, target, valid, strict=True):
            weight, goal = pooled(v, 2**level), pooled(factor * t * v, 2**level)
            errors.append(np.abs(weight * prediction - goal))
        total += np.mean(errors)
    return total


def transinet_lite_loss(outputs, target, valid, attention, multi_scale, flux):
    """Loss of the small network; outputs at 1, 1/4 and 1/8."""
    total = 0.0
    factors = (1, multi_scale, multi_scale)
    for scale, output, factor in zip((1, 4, 8), outputs, factors, strict=True):
        errors = []
        for prediction, t, v in zip(output, target, valid, strict=True):
            goal = pooled(t * v, scale) * scale
            weight = pooled(v, scale) * (1 + (attention - 1) * np.minimum(np.abs(goal), 1))
            errors.append(weight * np.abs(prediction - compress(goal)))
        total += factor * np.mean(errors)
    terms = []
    for prediction, t, v in zip(outputs[0], target, valid, strict=True):
        support = (np.abs(t) > 0.1) & (v > 0)
        if not support.any():
            continue
        linear = 2 * np.sinh(prediction / 2)
        error = linear[support].sum() - t[support].sum()
        error /= 5 * np.sqrt(support.sum()) + 0.05 * np.abs(t[support]).sum()
        terms.append(error**2 / 2 if abs(error) < 1 else abs(error) - 0.5)
    return total + flux * np.mean(terms)
