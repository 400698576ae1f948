"""A small U-Net (Ronneberger, Fischer and Brox 2015): maps as large as the image."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlib import require
from fedlib.stacking import Stack

NORMS = ("instance", "group", "batch", "none")


class UNet(nn.Module):
    """Down by halves ``depth`` times and up again, twice as many maps at each level, from ``width`` on; on the way up
    the maps of the same size on the way down are seen, too.

    Input [B, channels, H, W] with sides that 2^depth divides; logits [B, outputs, H, W], or with ``features=True`` the
    maps [B, width, H, W] before the last layer, a convolution of one pixel (:func:`head`). ``norm`` is ``"instance"``,
    ``"group"`` (one group), ``"batch"`` or ``"none"``. Raises ValueError for another norm, sizes that are no whole
    numbers from 1 on (``depth``: from 0), and images whose sides cannot be halved so often.
    """

    def __init__(self, channels: int = 1, outputs: int = 2, width: int = 8, depth: int = 2, norm: str = "instance"):
        super().__init__()
        for name, value in {"channels": channels, "outputs": outputs, "width": width}.items():
            require.whole(name, value, 1)
        require.one_of("norm", norm, NORMS)
        widths = [width * 2**level for level in range(require.whole("depth", depth) + 1)]
        self.depth = depth
        self.down = nn.ModuleList(
            nn.Sequential(_layer(a, b, norm), _layer(b, b, norm)) for a, b in pairwise([channels, *widths])
        )
        self.up = nn.ModuleList(Joined(2 * w, w, norm) for w in widths[:-1])
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor, features: bool = False) -> Tensor:
        if any(side % 2**self.depth for side in x.shape[-2:]):
            raise ValueError(f"sides must be multiples of {2**self.depth}, got images of {list(x.shape[-2:])}")
        seen, h = [], x
        for level, layers in enumerate(self.down):
            h = layers(F.avg_pool2d(h, 2) if level else h)
            seen.append(h)
        for level in reversed(range(self.depth)):
            h = self.up[level](F.interpolate(h, scale_factor=2.0), seen[level])
        return h if features else self.head(h)


class Joined(nn.Module):
    """A layer on two maps, one upon the other: a convolution of what is concatenated is the sum of two convolutions.
    Written so, nothing is concatenated, and networks can be computed side by side (:mod:`fedlib.stacking`).
    """

    def __init__(self, below: int, width: int, norm: str):
        super().__init__()
        self.below = nn.Conv2d(below, width, 3, padding=1, bias=False)
        self.beside = nn.Conv2d(width, width, 3, padding=1, bias=norm == "none")
        self.rest = nn.Sequential(*_norm(norm, width), nn.ReLU())

    def forward(self, below: Tensor, beside: Tensor) -> Tensor:
        return self.rest(self.below(below) + self.beside(beside))


def head(state: Any, h: Tensor) -> Tensor:
    """The last layer of the network with this state, on maps [B, width, H, W]: logits [B, outputs, H, W]; of a stack of
    K clients on maps [B, K, 1, width, H, W].
    """
    w, b = state["head.weight"][..., 0, 0], state["head.bias"]
    if isinstance(state, Stack):
        return torch.einsum("bknfhw,ksf->bknshw", h, w) + b[:, None, :, None, None]
    return torch.einsum("...fhw,sf->...shw", h, w) + b[:, None, None]


def _layer(inputs: int, outputs: int, norm: str) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=norm == "none")
    return nn.Sequential(convolution, *_norm(norm, outputs), nn.ReLU())


def _norm(kind: str, width: int) -> list[nn.Module]:
    if kind == "batch":
        return [nn.BatchNorm2d(width)]
    return [] if kind == "none" else [nn.GroupNorm(width if kind == "instance" else 1, width)]
