"""EfficientNet-Lite0: convolutions with ReLU6 and no squeeze-and-excitation. Parameters are named as in the published
PyTorch weights.

Source: Tan & Le 2019 (arXiv 1905.11946) and the published settings of the Lite variants. A test compares the outputs
with those of `efficientnet-lite-pytorch`.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

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
HEAD_CHANNELS = 1280
CLASSES = 1000
# On a CPU, activations of more images than this leave the cache: 160 px, two cores, 8 a pass 359 images/s, 32 a pass
# 144.
CPU_PASS = 8
BLOCK_CHANNELS = tuple(channels for _, channels, repeats, _, _ in STAGES for _ in range(repeats))  # 16 blocks


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: its output has ceil(input / stride) rows, and an odd row of
    padding stands at the end."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (
            max((-(-side // stride) - 1) * stride + kernel - side, 0)
            for side, kernel, stride in zip(x.shape[-2:], self.kernel_size, self.stride, strict=True)
        )
        # Only uneven padding costs a copy of the input.
        if rows % 2 or columns % 2:
            x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
            rows = columns = 0
        return F.conv2d(x, self.weight, self.bias, self.stride, (rows // 2, columns // 2), self.dilation, self.groups)


class Block(nn.Module):
    """An inverted residual block: expand, depthwise, project, with a shortcut where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv, self._bn0 = SameConv(inputs, inner, 1, bias=False), _norm(inner)
        self._depthwise_conv, self._bn1 = SameConv(inner, inner, kernel, stride, groups=inner, bias=False), _norm(inner)
        self._project_conv, self._bn2 = SameConv(inner, outputs, 1, bias=False), _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        inner = F.relu6(self._bn1(self._depthwise_conv(inner)), inplace=True)
        inner = self._bn2(self._project_conv(inner))
        result: Tensor = inner + x if self.shortcut else inner
        return result

    def fold_norms(self) -> None:
        if self.expands:
            self._bn0 = _fold(self._expand_conv, self._bn0)
        self._bn1 = _fold(self._depthwise_conv, self._bn1)
        self._bn2 = _fold(self._project_conv, self._bn2)


class EfficientNetLite0(nn.Module):
    """The stem and the first `depth` of 16 blocks, without head and classifier."""

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

    @torch.no_grad()
    def fold_norms(self) -> None:
        """Fold every batch norm into the convolution before it. The function stays the same for inference and needs
        about a third fewer passes over memory."""
        self._bn0 = _fold(self._conv_stem, self._bn0)
        for block in self._blocks:
            cast(Block, block).fold_norms()

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> list[Tensor]:
        """Map pixels (B, 3, S, S) to the feature map (B, C, h, w) of each block in `layers`, in that order."""
        x = F.relu6(self._bn0(self._conv_stem(pixels)), inplace=True)
        maps = {}
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in layers:
                maps[index] = x
        return [maps[index] for index in layers]


class EfficientNetLite0Classifier(EfficientNetLite0):
    """The whole network: all blocks, the head, and the classifier of ImageNet's 1,000 classes in the order of their
    synset ids."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_head, self._bn1 = SameConv(BLOCK_CHANNELS[-1], HEAD_CHANNELS, 1, bias=False), _norm(HEAD_CHANNELS)
        self._fc = nn.Linear(HEAD_CHANNELS, CLASSES)

    @torch.no_grad()
    def fold_norms(self) -> None:
        super().fold_norms()
        self._bn1 = _fold(self._conv_head, self._bn1)

    def logits(self, pixels: Tensor) -> Tensor:
        """Map pixels (B, 3, S, S) to logits (B, 1000)."""
        (feature_map,) = self(pixels, (len(BLOCK_CHANNELS) - 1,))
        features = F.relu6(self._bn1(self._conv_head(feature_map)), inplace=True).mean(dim=(2, 3))  # (B, 1280)
        logits: Tensor = self._fc(features)
        return logits


def _norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _fold(conv: nn.Conv2d, norm: nn.Module) -> nn.Module:
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
        return norm
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return nn.Identity()


def grid_positions(side: int, frequencies: int = 2) -> Tensor:
    """Return sines and cosines of row and column, (side · side, 4 · frequencies): the place of each token in the
    picture.

    Features of convolutions, unlike those of a transformer, do not contain it, and the flags of Indonesia and Poland
    differ in nothing else.
    """
    centre = (torch.arange(side) + 0.5) / side * torch.pi
    waves = torch.cat([f(centre[:, None] * 2.0 ** torch.arange(frequencies)) for f in (torch.sin, torch.cos)], dim=1)
    rows, columns = waves[:, None].expand(side, side, -1), waves[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)
