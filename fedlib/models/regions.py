"""Where the parts of a body are: regions of an image, each with a place and axes, and how the ground moved."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlib import planar, require
from fedlib.models.hourglass import Hourglass, block

FRAMES = ("pca", "jacobian", "shift")


class Regions(NamedTuple):
    """Heat-maps [B, K, h, w] that add up to one, and frames [B, K, 2, 3] of the regions: axes A, mean mu."""

    heat: Tensor
    frames: Tensor


class RegionPredictor(nn.Module):
    """Frames of K regions of an image [B, C, H, W] (Siarohin et al. 2021, section 3.2).

    Heat-maps are softmaxes over all places at a ``temperature`` of 0.1, at 1 / ``shrink`` of the size; the mean of one
    is the region's place. Its axes are, by ``axes``: ``"pca"``, the principal root of its covariance, as in the paper;
    ``"jacobian"``, four numbers at each place, begun at the identity, averaged by the heat (Siarohin et al. 2019, first
    order motion model); ``"shift"``, none, the identity. Raises ValueError for another name or sizes.
    """

    def __init__(
        self, regions: int = 4, axes: str = "pca", *, channels: int = 3, width: int = 16, levels: int = 2,
        shrink: int = 1, temperature: float = 0.1,
    ):  # fmt: skip
        super().__init__()
        self.axes = require.one_of("axes", axes, FRAMES)
        self.regions, self.shrink = require.whole("regions", regions, 1), require.whole("shrink", shrink, 1)
        self.temperature = require.real("temperature", temperature, above=0)
        self.body = Hourglass(channels, width, levels)
        self.heat = nn.Conv2d(self.body.outputs, regions, 7, padding=3)
        if axes == "jacobian":
            self.slopes = nn.Conv2d(self.body.outputs, 4 * regions, 7, padding=3)
            nn.init.zeros_(self.slopes.weight)
            self.slopes.bias.data.copy_(torch.tensor([1.0, 0.0, 0.0, 1.0]).repeat(regions))  # type: ignore[union-attr]

    def forward(self, image: Tensor) -> Regions:
        h = self.body(F.avg_pool2d(image, self.shrink) if self.shrink > 1 else image)
        heat = self.heat(h).flatten(2).div(self.temperature).softmax(-1).unflatten(-1, h.shape[2:])
        mean, covariance = planar.moments(heat)
        if self.axes == "pca":
            linear = planar.principal_root(covariance)
        elif self.axes == "jacobian":
            slopes = self.slopes(h).unflatten(1, (self.regions, 4))
            linear = torch.einsum("bkhw,bkjhw->bkj", heat, slopes).unflatten(-1, (2, 2))
        else:
            linear = planar.identity(*mean.shape[:2], like=mean)[..., :2]
        return Regions(heat, planar.affine(linear, mean))


class BackgroundPredictor(nn.Module):
    """How the ground moved: the affine map [B, 2, 3] from places of the driving image to those of the source, of the
    two [B, C, H, W] one on the other. The identity at first (section 3.3). Six numbers, by a mean over all places.
    """

    def __init__(self, channels: int = 3, width: int = 16, levels: int = 3):
        super().__init__()
        wide = [2 * channels, *(width * 2**i for i in range(require.whole("levels", levels, 1)))]
        self.body = nn.ModuleList(block(a, b) for a, b in pairwise(wide))
        self.head = nn.Linear(wide[-1], 6)
        nn.init.zeros_(self.head.weight)
        self.head.bias.data.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]))

    def forward(self, source: Tensor, driving: Tensor) -> Tensor:
        h = torch.cat([source, driving], 1)
        for layer in self.body:
            h = F.avg_pool2d(layer(h), 2)
        return self.head(h.mean((2, 3))).unflatten(-1, (2, 3))
