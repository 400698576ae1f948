"""Generators and discriminators that are told a condition: of vectors, for labels, and of maps, for masks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from fedlib import require
from fedlib.models.unet import UNet

SLOPE = 0.2  # of LeakyReLU below zero


class Maker(nn.Module):
    """A generator of vectors: condition and noise [B, inputs], side by side, give images [B, outputs] in (-1, 1).

    Raises ValueError for sizes that are no whole numbers from 1 on.
    """

    def __init__(self, inputs: int = 26, outputs: int = 64, hidden: Sequence[int] = (64, 64)):
        super().__init__()
        self.layers = nn.Sequential(*_layers(inputs, hidden, outputs), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Judge(nn.Module):
    """A discriminator of vectors: condition and image [B, inputs], side by side, give a logit [B, 1], above zero for
    real. Raises ValueError for sizes that are no whole numbers from 1 on.
    """

    def __init__(self, inputs: int = 74, hidden: Sequence[int] = (64, 32)):
        super().__init__()
        self.layers = nn.Sequential(*_layers(inputs, hidden, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class MapMaker(nn.Module):
    """A generator of maps: condition and noise [B, channels, H, W], one upon the other, give images [B, outputs, H, W]
    in (-1, 1), by a :class:`~fedlib.models.unet.UNet`, which says what sizes it takes.
    """

    def __init__(self, channels: int = 2, outputs: int = 1, width: int = 8, depth: int = 2, norm: str = "instance"):
        super().__init__()
        self.net, self.end = UNet(channels, outputs, width, depth, norm), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.net(x))


class PatchJudge(nn.Module):
    """A discriminator of maps (Isola et al. 2017, PatchGAN): condition and image [B, channels, H, W], one upon the
    other, give a logit for each patch [B, 1, H/4, W/4]. Raises ValueError for sizes that are no whole numbers from 1.
    """

    def __init__(self, channels: int = 2, width: int = 16):
        super().__init__()
        require.whole("channels", channels, 1)
        require.whole("width", width, 1)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _layers(inputs: int, hidden: Sequence[int], outputs: int) -> list[nn.Module]:
    widths = [require.whole("a width", w, 1) for w in (inputs, *hidden, outputs)]
    layers = [layer for a, b in pairwise(widths[:-1]) for layer in (nn.Linear(a, b), nn.LeakyReLU(SLOPE))]
    return [*layers, nn.Linear(widths[-2], outputs)]
