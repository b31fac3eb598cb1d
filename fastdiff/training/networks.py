"""TransiNet (Sedaghat & Mahabal 2018, Fig. 3) and the small network that fastdiff ships.

Both map a pair of images to the image of what changed, ``(n, 1, h, w)``. TransiNet sees
``(n, 2, h, w)``, the reference and the science image; TransiNetLite four channels, those two and
the differences of `fastdiff.kernels.image.match`. In training mode they return a list of
predictions, full resolution first, one for every resolution that the multi-scale loss looks at
(paper, eq. 4 and section 4.1); in evaluation mode only the full one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ATTENTION", "TransiNet", "TransiNetLite", "compress", "expand"]

ATTENTION = 100.0
"""Factor K of the paper's attention trick (section 4.3)."""

# (kernel, stride, maps) of the ten encoder layers, and the maps of the six up-convolutions.
_ENCODER = (
    (7, 2, 128),
    (5, 2, 256),
    (5, 2, 512),
    (3, 1, 512),
    (3, 2, 1024),
    (3, 1, 1024),
    (3, 2, 1024),
    (3, 1, 1024),
    (3, 2, 2048),
    (3, 1, 2048),
)
_DECODER = (1024, 512, 256, 128, 64, 32)
# Layers whose output is handed across to the decoder, coarse to fine; the input pair follows.
_SKIPS = (7, 5, 3, 1, 0)
_STRIDE = 64
# 2 sinh(30) sigma is beyond any image; without a limit a wild input could end in an infinity.
_MAX_COMPRESSED = 60.0


def compress(x: Tensor) -> Tensor:
    """``2 asinh(x / 2)``: linear within the noise, logarithmic for bright sources."""
    half = 0.5 * torch.abs(x)  # this form runs vectorised everywhere; an asinh often does not
    return torch.sign(x) * 2.0 * torch.log(half + torch.sqrt(half * half + 1.0))


def expand(y: Tensor) -> Tensor:
    """Inverse of `compress`: ``2 sinh(y / 2)``."""
    half = 0.5 * y.clamp(-_MAX_COMPRESSED, _MAX_COMPRESSED)
    return torch.exp(half) - torch.exp(-half)


class TransiNet(nn.Module):
    """The paper's encoder-decoder.

    Ten convolutions contract the pair to 1/64 of its size; at each of six levels the decoder
    joins an up-convolution, the encoder's maps of that size and the up-sampled coarser
    prediction, and predicts the difference there. Leaky ReLU (0.1) after every (up-)convolution.

    Parameters
    ----------
    width : float
        Factor on the number of maps of every layer; 1 is the paper's network.

    Notes
    -----
    Any image size: the pair is padded at its right and bottom by repeating the edge to a
    multiple of 64, and the predictions are cropped. Training mode returns the boosted
    predictions (K = 100 times the difference) at 1, 1/2, ..., 1/64 of the size, rounded up;
    evaluation mode returns the full-resolution one times 0.01, which undoes the boost.
    """

    def __init__(self, width: float = 1.0):
        super().__init__()
        if not width > 0:
            raise ValueError(f"width is {width}; it must be positive (1 is the paper's network)")

        def scaled(maps: int) -> int:
            return max(1, round(maps * width))

        self.encoder = nn.ModuleList()
        maps = 2
        for kernel, stride, out in _ENCODER:
            self.encoder.append(nn.Conv2d(maps, scaled(out), kernel, stride, kernel // 2))
            maps = scaled(out)
        skips = [scaled(_ENCODER[i][2]) for i in _SKIPS] + [2]
        self.predictors = nn.ModuleList()
        self.upconvolutions = nn.ModuleList()
        self.upsamplers = nn.ModuleList()
        for out, skip in zip(_DECODER, skips, strict=True):
            self.predictors.append(nn.Conv2d(maps, 1, 3, 1, 1))
            self.upconvolutions.append(nn.ConvTranspose2d(maps, scaled(out), 4, 2, 1))
            self.upsamplers.append(nn.ConvTranspose2d(1, 1, 4, 2, 1))
            maps = skip + scaled(out) + 1
        self.predictors.append(nn.Conv2d(maps, 1, 3, 1, 1))
        self.activation = nn.LeakyReLU(0.1)

    def forward(self, pair: Tensor) -> Tensor | list[Tensor]:
        """Difference of `pair` (n, 2, h, w): see the class."""
        height, width = pair.shape[-2:]
        x = functional.pad(pair, (0, (-width) % _STRIDE, 0, (-height) % _STRIDE), mode="replicate")
        skips = [x]
        layers = []
        for layer in self.encoder:
            x = self.activation(layer(x))
            layers.append(x)
        skips = [layers[i] for i in _SKIPS] + skips
        predictions = [self.predictors[0](x)]
        for i, skip in enumerate(skips):
            up = self.activation(self.upconvolutions[i](x))
            x = torch.cat([skip, up, self.upsamplers[i](predictions[-1])], 1)
            predictions.append(self.predictors[i + 1](x))
        if not self.training:
            return predictions[-1][..., :height, :width] * (1.0 / ATTENTION)
        return [
            p[..., : -(-height // 2**k), : -(-width // 2**k)]
            for k, p in enumerate(reversed(predictions))
        ]


def _conv(maps: int, out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    padding = (kernel - stride + 1) // 2
    return nn.Sequential(nn.Conv2d(maps, out, kernel, stride, padding), nn.ReLU())


class _Residual(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, maps: int):
        super().__init__()
        self.first = nn.Conv2d(maps, maps, 3, 1, 1)
        self.second = nn.Conv2d(maps, maps, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(functional.relu(self.first(x))))


class _Up(nn.Module):
    """To the maps and the size of the next finer level: 1x1 convolution, nearest neighbour."""

    def __init__(self, maps: int, out: int):
        super().__init__()
        self.project = nn.Conv2d(maps, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(self.project(x), scale_factor=2.0, mode="nearest")


class TransiNetLite(nn.Module):
    """The paper's idea made small enough for a CPU: a U-Net that never runs at full resolution.

    It sees the pair and its differences after matching the PSF of either image to the other's
    (`fastdiff.kernels.image.match`), in units of the noise of the difference, compressed. A 6x6/2
    convolution takes them to half the size, three more levels follow; up-sampled levels are
    added to the encoder's, and a last convolution writes the 2 x 2 pixels of each position
    (pixel shuffle). The output is expanded again.

    Parameters
    ----------
    channels : sequence of int
        Maps at 1/2, 1/4, 1/8 and 1/16 of the size.

    Notes
    -----
    The image sides must be multiples of 16 (`stride`); tiles are cut so. Training mode
    returns the compressed predictions at full, 1/4 and 1/8 size; evaluation mode the
    difference in the units of the input.
    """

    stride = 16
    scales = (1, 4, 8)
    """Reductions at which training mode predicts."""

    def __init__(self, channels: Sequence[int] = (32, 48, 80, 128)):
        super().__init__()
        if len(channels) != 4 or min(channels) < 1:
            raise ValueError(
                f"channels is {tuple(channels)}; it must be four positive numbers of maps, "
                "for example (32, 48, 80, 128)"
            )
        self.channels = tuple(int(c) for c in channels)
        c1, c2, c3, c4 = self.channels
        self.stem = _conv(4, c1, 6, 2)
        self.encode1 = _conv(c1, c1)
        self.down2, self.encode2 = _conv(c1, c2, 3, 2), _conv(c2, c2)
        self.down3, self.encode3 = _conv(c2, c3, 3, 2), _Residual(c3)
        self.down4, self.encode4 = _conv(c3, c4, 3, 2), _Residual(c4)
        self.up3, self.decode3 = _Up(c4, c3), _Residual(c3)
        self.up2, self.decode2 = _Up(c3, c2), _Residual(c2)
        self.up1, self.decode1 = _Up(c2, c1), _Residual(c1)
        self.head = nn.Sequential(nn.Conv2d(c1, 4, 3, 1, 1), nn.PixelShuffle(2))
        self.head4 = nn.Conv2d(c2, 1, 3, 1, 1)
        self.head8 = nn.Conv2d(c3, 1, 3, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, _Residual):
                # Without normalisation layers, residual sums would double the variance a block.
                module.second.weight.data.mul_(0.3)
        for head in (self.head[0], self.head4, self.head8):
            head.weight.data.mul_(0.1)

    def forward(self, pair: Tensor) -> Tensor | list[Tensor]:
        """Difference of `pair` (n, 4, h, w): see the class."""
        x1 = self.encode1(self.stem(compress(pair)))
        x2 = self.encode2(self.down2(x1))
        x3 = self.encode3(self.down3(x2))
        x4 = self.encode4(self.down4(x3))
        x3 = self.decode3(x3 + self.up3(x4))
        x2 = self.decode2(x2 + self.up2(x3))
        x1 = self.decode1(x1 + self.up1(x2))
        full = self.head(x1)
        if self.training:
            return [full, self.head4(x2), self.head8(x3)]
        return expand(full)
