"""EfficientNet-Lite0: convolutions, ReLU6, no squeeze-and-excitation. Parameter names as in the published PyTorch weights.

Source: Tan & Le 2019 (arXiv 1905.11946) and the Lite variants' published settings; equality is tested against `efficientnet-lite-pytorch`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# expansion, channels, repeats, stride of the first repeat, kernel
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
STEM_CHANNELS = 32
BLOCK_CHANNELS = tuple(channels for _, channels, repeats, _, _ in STAGES for _ in range(repeats))  # 16 blocks


class SameConv(nn.Conv2d):
    """A convolution padded so that its output has ceil(input / stride) rows; the odd row of padding is at the end, as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for side, kernel, stride in zip(reversed(x.shape[-2:]), reversed(self.kernel_size), reversed(self.stride), strict=True):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads) if any(pads) else x)


class Block(nn.Module):
    """Inverted residual: expand, depthwise, project; a shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self._expand_conv = SameConv(inputs, inner, 1, bias=False) if expansion != 1 else None
        self._bn0 = _norm(inner) if expansion != 1 else None
        self._depthwise_conv = SameConv(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = _norm(inner)
        self._project_conv = SameConv(inner, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        inner = x
        if self._expand_conv is not None and self._bn0 is not None:
            inner = F.relu6(self._bn0(self._expand_conv(inner)))
        inner = F.relu6(self._bn1(self._depthwise_conv(inner)))
        inner = self._bn2(self._project_conv(inner))
        return inner + x if self.shortcut else inner


class EfficientNetLite0(nn.Module):
    """Stem and the first `depth` of 16 blocks; no head, no classifier."""

    def __init__(self, depth: int = len(BLOCK_CHANNELS)) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, STEM_CHANNELS, 3, 2, bias=False)
        self._bn0 = _norm(STEM_CHANNELS)
        blocks, inputs = [], STEM_CHANNELS
        for expansion, channels, repeats, stride, kernel in STAGES:
            for repeat in range(repeats):
                blocks.append(Block(inputs, channels, expansion, stride if repeat == 0 else 1, kernel))
                inputs = channels
        self._blocks = nn.ModuleList(blocks[:depth])

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> list[Tensor]:
        """pixels (B, 3, S, S) -> the feature map (B, C, h, w) of each block in `layers`, in that order."""
        x = F.relu6(self._bn0(self._conv_stem(pixels)))
        maps = {}
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in layers:
                maps[index] = x
        return [maps[index] for index in layers]


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def grid_positions(side: int, frequencies: int = 2) -> Tensor:
    """(side · side, 4 · frequencies): sines and cosines of row and column, so that a token knows where in the picture it is.

    Convolution features, unlike a transformer's, do not say; Indonesia and Poland differ by nothing else.
    """
    centre = (torch.arange(side) + 0.5) / side * torch.pi
    waves = torch.cat([f(centre[:, None] * 2.0 ** torch.arange(frequencies)) for f in (torch.sin, torch.cos)], dim=1)
    rows, columns = waves[:, None].expand(side, side, -1), waves[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)
