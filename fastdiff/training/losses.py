"""Losses of the differencing networks, over all the resolutions that a network predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from .networks import ATTENTION, TransiNetLite, compress, expand

__all__ = ["multi_scale_l1", "transinet_lite_loss"]


def multi_scale_l1(factor: float = ATTENTION) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    """Eq. 4 at every resolution: mean absolute error of the target times `factor` (K).

    Targets of coarser predictions are means over their pixels; bad pixels do not count.
    """

    def loss(output: list[Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        valid = batch["valid"].to(output[0].device)
        target = batch["target"].to(valid.device) * factor * valid
        total = output[0].new_zeros(())
        parts = {}
        for level, prediction in enumerate(output):
            pooled, weight = _pool(target, 2**level), _pool(valid, 2**level)
            error = (weight * prediction.float() - pooled).abs().mean()
            total = total + error
            if level == 0:
                parts["full"] = error
        return total, parts

    return loss


def _pool(x: Tensor, size: int) -> Tensor:
    return x if size == 1 else functional.avg_pool2d(x, size, ceil_mode=True)


def transinet_lite_loss(
    attention: float = 3.0, multi_scale: float = 0.2, flux: float = 0.05
) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    """Absolute error of the compressed difference, with attention, coarse terms and fluxes.

    Parameters
    ----------
    attention : float
        Weight of pixels where the truth is 1 sigma or more, against 1 where it is zero;
        linear between. The paper's K does this by scaling the target, which a compressed
        target does not allow.
    multi_scale : float
        Weight of each coarser prediction. Its target is the sum over pixels divided by their
        number on a side, so that noise keeps a sigma of 1.
    flux : float
        Weight of the flux term: for every image with a transient, the error of the summed
        output over the truth's support (n pixels), in units of ``5 sqrt(n)`` sigma plus 5 %
        of the flux; Huber's function of it.

    Returns
    -------
    callable
        ``loss(output, batch)`` for `train`.
    """

    def loss(output: list[Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        target = batch["target"].to(output[0].device)
        valid = batch["valid"].to(target.device)
        parts: dict[str, Tensor] = {}
        total = target.new_zeros(())
        for scale, prediction in zip(TransiNetLite.scales, output, strict=True):
            weight = _pool(valid, scale)
            pooled = _pool(target * valid, scale) * scale
            weight = weight * (1.0 + (attention - 1.0) * pooled.abs().clamp(max=1.0))
            error = (weight * (prediction.float() - compress(pooled)).abs()).mean()
            total = total + error * (1.0 if scale == 1 else multi_scale)
            parts[f"l1_{scale}"] = error
        support = (target.abs() > 0.1) * valid
        n = support.sum((1, 2, 3))
        # exp() of an early, wild prediction would drown everything else.
        predicted = expand(output[0].float().clamp(-24.0, 24.0))
        error = ((predicted - target) * support).sum((1, 2, 3))
        unit = 5.0 * n.sqrt() + 0.05 * (target.abs() * support).sum((1, 2, 3))
        unit = torch.where(n > 0, unit, torch.ones_like(unit))
        huber = functional.huber_loss(error / unit, torch.zeros_like(error), reduction="sum")
        parts["flux"] = huber / (n > 0).sum().clamp(min=1)
        return total + flux * parts["flux"], parts

    return loss
