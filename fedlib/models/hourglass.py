"""Small convolutional networks that look at an image as a whole: down, up again, with links across."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlib import require


def block(inputs: int, outputs: int) -> nn.Sequential:
    """3 x 3 convolution, group normalisation, ReLU: no statistics of the batch."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(_groups(outputs), outputs), nn.ReLU())


def _groups(channels: int) -> int:
    return next(g for g in (4, 2, 1) if channels % g == 0)


class Hourglass(nn.Module):
    """Images [B, inputs, H, W] -> maps [B, outputs, H, W] with outputs = width + inputs: ``levels`` times half the size
    and twice the channels, and back, each size with what it had on the way down beside it.

    Height and width are multiples of 2^levels. Raises ValueError for others.
    """

    def __init__(self, inputs: int, width: int = 16, levels: int = 2):
        super().__init__()
        self.levels = require.whole("levels", levels, 1)
        require.whole("width", width, 1)
        wide = [inputs, *(width * 2**i for i in range(levels))]
        self.down = nn.ModuleList(block(wide[i], wide[i + 1]) for i in range(levels))
        outputs = [max(width, wide[i] // 2) if i else width for i in range(levels)]
        self.up = nn.ModuleList()
        given = wide[-1]
        for i in reversed(range(levels)):
            self.up.append(block(given, outputs[i]))
            given = outputs[i] + wide[i]
        self.outputs = given

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or any(n % 2**self.levels for n in x.shape[2:]):
            raise ValueError(f"images [B, C, H, W] of multiples of {2**self.levels} are needed, got {list(x.shape)}")
        kept = [x]
        for down in self.down:
            kept.append(F.avg_pool2d(down(kept[-1]), 2))
        h = kept.pop()
        for up in self.up:
            h = torch.cat([up(F.interpolate(h, scale_factor=2, mode="nearest")), kept.pop()], 1)
        return h
