"""Networks that classify light curves: the two of Mahabal et al. (2017), and a deep and wide one.

They see float32 arrays that `fastdiff.lightcurves.classify.Contract` makes of light curves; every
transformation of them is part of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .crts import CLASSES

__all__ = [
    "ANGLES",
    "LOGARITHMS",
    "Classifier",
    "DeepAndWide",
    "EncodeFeatures",
    "deep_network",
    "shallow_network",
]

LOGARITHMS = frozenset((
    "amplitude", "max_slope", "percent_difference_flux_percentile", "std", "period",
    "sinusoid_period", "second_period", "folded_amplitude", "residual_std",
    "harmonic_amplitude_1", "harmonic_amplitude_2", "harmonic_amplitude_3", "harmonic_amplitude_4",
))  # fmt: skip
"""Positive features of which the network sees the logarithm."""

ANGLES = frozenset(("phase_21", "phase_31", "phase_41"))
"""Features in radians, of which the network sees cosine and sine."""

_TINY = 1e-6


class _LogCounts(nn.Module):
    """(n, n_dm, n_dt) to one channel of logarithms, so that rare pairs are seen."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.log1p(images)[:, None]


def shallow_network(
    n_classes: int = len(CLASSES), shape: tuple[int, int] = (23, 24)
) -> nn.Sequential:
    """The paper's shallow network (Listing 2), to logits: convolutions without padding."""
    ny, nx = shape[0] - 2, shape[1] - 2
    return _glorot(
        nn.Sequential(
            _LogCounts(),
            nn.Conv2d(1, 32, 3),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Flatten(),
            nn.Linear(32 * ny * nx, 128),
            nn.ReLU(),
            nn.Dropout(0.25),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, n_classes),
        )
    )


def deep_network(n_classes: int = len(CLASSES), shape: tuple[int, int] = (23, 24)) -> nn.Sequential:
    """The paper's deep network (Listing 1), to logits: convolutions without padding.

    Raises
    ------
    ValueError
        If the image is smaller than 20 x 20, of which its convolutions leave nothing.
    """
    ny, nx = ((side - 2) // 2 - 8 for side in shape)
    if min(ny, nx) < 1:
        raise ValueError(f"shape is {shape}; the deep network needs at least (20, 20)")
    return _glorot(
        nn.Sequential(
            _LogCounts(),
            nn.Conv2d(1, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.1),
            nn.Conv2d(64, 128, 5),
            nn.ReLU(),
            nn.Conv2d(128, 256, 5),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256 * ny * nx, 512),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, n_classes),
        )
    )


def _glorot(network: nn.Sequential) -> nn.Sequential:
    """First weights as Lasagne, the paper's library, draws them."""
    for layer in network:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return network


class EncodeFeatures(nn.Module):
    """Features to numbers near 0 of spread near 1; what is missing becomes 0 and is said so.

    Parameters
    ----------
    names : sequence of str
        Features, in the order of the columns.
    known : array_like, (n, n_features)
        Values from which the scales are taken, NaN where missing.
    """

    def __init__(self, names: Sequence[str], known: NDArray[Any]):
        super().__init__()
        known = torch.as_tensor(np.asarray(known, np.float32))
        logarithm = torch.tensor([name in LOGARITHMS for name in names])
        self.register_buffer("logarithm", logarithm)
        self.angles = [i for i, name in enumerate(names) if name in ANGLES]
        self.linear = [i for i, name in enumerate(names) if name not in ANGLES]
        missing = torch.isnan(known).float().mean(0)
        self.sometimes_missing = torch.nonzero(missing > 0.01)[:, 0].tolist()
        values = self._values(known)[:, self.linear].double()
        low, middle, high = np.nanpercentile(values.numpy(), [16, 50, 84], axis=0)
        spread = np.maximum((high - low) / 2, _TINY)
        self.register_buffer("middle", torch.tensor(middle).float())
        self.register_buffer("scale", torch.tensor(1 / spread).float())
        self.n_columns = len(self.linear) + 2 * len(self.angles) + len(self.sometimes_missing)

    def _values(self, features: Tensor) -> Tensor:
        return torch.where(self.logarithm, torch.log(features.clamp(min=_TINY)), features)

    def forward(self, features: Tensor) -> Tensor:
        """(n, n_features) to (n, n_columns)."""
        missing = torch.isnan(features)
        angles = features[:, self.angles]
        scaled = (self._values(features)[:, self.linear] - self.middle) * self.scale
        values = torch.cat([_asinh(scaled), torch.cos(angles), torch.sin(angles)], 1)
        hidden = torch.cat([missing[:, self.linear]] + 2 * [missing[:, self.angles]], 1)
        values = torch.where(hidden, torch.zeros_like(values), values)
        return torch.cat([values, missing[:, self.sometimes_missing].float()], 1)


def _asinh(x: Tensor) -> Tensor:
    """Inverse hyperbolic sine, which the exporter does not know."""
    size = x.abs().clamp(max=1e6)
    return torch.sign(x) * torch.log(size + torch.sqrt(size * size + 1))


class DeepAndWide(nn.Module):
    """Image and features together (the paper, section VI-A), several networks at once.

    In training mode it returns the logits of every member, (n, members, n_classes); else the
    logarithm of their mean probabilities, (n, n_classes).

    Parameters
    ----------
    encode : EncodeFeatures
        For the columns after those of the image.
    n_cells : int
        Cells of the image.
    n_classes, members, width, image_width : int
        Classes; networks that are averaged; their hidden units; what is kept of the image.
    dropout : float
        Of the hidden units.
    """

    def __init__(
        self,
        encode: EncodeFeatures,
        n_cells: int,
        n_classes: int = len(CLASSES),
        members: int = 5,
        width: int = 128,
        image_width: int = 16,
        dropout: float = 0.3,
    ):
        super().__init__()
        self.encode, self.n_cells = encode, n_cells
        self.images = nn.ModuleList()
        self.members = nn.ModuleList()
        for _ in range(members):
            self.images.append(
                nn.Sequential(
                    nn.Dropout(0.5),
                    nn.Linear(n_cells, image_width),
                    nn.LayerNorm(image_width),
                    nn.SiLU(),
                    nn.Dropout(0.5),
                )
                if n_cells
                else nn.Identity()
            )
            self.members.append(
                nn.Sequential(
                    nn.Linear(encode.n_columns + image_width * bool(n_cells), width),
                    nn.LayerNorm(width),
                    nn.SiLU(),
                    nn.Dropout(dropout),
                    nn.Linear(width, width),
                    nn.LayerNorm(width),
                    nn.SiLU(),
                    nn.Dropout(dropout),
                    nn.Linear(width, n_classes),
                )
            )

    def forward(self, columns: Tensor) -> Tensor:
        """Logits of (n, n_cells + n_features)."""
        image = torch.sqrt(columns[:, : self.n_cells])
        wide = self.encode(columns[:, self.n_cells :])
        logits = [
            member(torch.cat([deep(image), wide], 1) if self.n_cells else wide)
            for deep, member in zip(self.images, self.members, strict=True)
        ]
        if self.training:
            return torch.stack(logits, 1)
        return torch.log(torch.stack([row.softmax(1) for row in logits]).mean(0).clamp(min=1e-30))


class Classifier(nn.Module):
    """A network of logits, as probabilities that are calibrated by a temperature."""

    def __init__(self, network: nn.Module, temperature: float = 1.0):
        super().__init__()
        self.network, self.temperature = network, float(temperature)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_classes), each row of sum 1."""
        return torch.softmax(self.network(x) / self.temperature, 1)
