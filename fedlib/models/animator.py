"""A picture of the source in the driving frame's pose: flow from masks, warped features, what was hidden painted."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlib import planar, require, warping
from fedlib.models.hourglass import Hourglass, block
from fedlib.models.regions import BackgroundPredictor, RegionPredictor, Regions


class Motion(NamedTuple):
    """Masks [B, K + 1, h, w], the ground's first, that add up to one; where each pixel comes from, [B, h, w, 2]; and
    how far that may be believed, [B, 1, h, w] in (0, 1): 0 where the source did not see it.
    """

    masks: Tensor
    field: Tensor
    confidence: Tensor


class FlowPredictor(nn.Module):
    """Masks, flow and confidence from the source [B, C, H, W] and the maps of ground and regions (section 3.4).

    Of each region it sees where it was and is, H = N(z; mu_D, Sigma_D) - N(z; mu_S, Sigma_S), and the source warped by
    its map; of the ground 0 in place of H.
    """

    def __init__(self, regions: int = 4, *, channels: int = 3, width: int = 16, levels: int = 2, shrink: int = 1):
        super().__init__()
        self.shrink = require.whole("shrink", shrink, 1)
        self.body = Hourglass((regions + 1) * (channels + 1), width, levels)
        self.masks = nn.Conv2d(self.body.outputs, regions + 1, 7, padding=3)
        self.confidence = nn.Conv2d(self.body.outputs, 1, 7, padding=3)

    def forward(self, image: Tensor, maps: Tensor, source: Tensor, driving: Tensor) -> Motion:
        small = F.avg_pool2d(image, self.shrink) if self.shrink > 1 else image
        size, many = small.shape[2:], maps.shape[1]
        heat = warping.blobs(driving, *size) - warping.blobs(source, *size)
        heat = torch.cat([torch.zeros_like(heat[:, :1]), heat], 1)
        copies = small.repeat_interleave(many, 0)
        warped = warping.warp(copies, warping.fields(maps, *size).flatten(0, 1)).unflatten(0, (-1, many))
        h = self.body(torch.cat([heat[:, :, None], warped], 2).flatten(1, 2))
        masks = self.masks(h).softmax(1)
        return Motion(masks, warping.flow(masks, maps), self.confidence(h).sigmoid())


class Painter(nn.Module):
    """The picture [B, C, H, W] from the source's features, moved by the flow; where it may not be believed, painted.

    At every size a mixture C warped + (1 - C) decoded, C the confidence; the picture itself is one of the warped source
    and of what is decoded. Two halvings; height and width are multiples of 4.
    """

    def __init__(self, channels: int = 3, width: int = 16):
        super().__init__()
        self.encoder = nn.ModuleList([block(channels, width), block(width, 2 * width), block(2 * width, 4 * width)])
        self.middle = block(4 * width, 4 * width)
        self.decoder = nn.ModuleList([block(4 * width, 2 * width), block(2 * width, width)])
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, image: Tensor, motion: Motion) -> Tensor:
        kept = [self.encoder[0](image)]
        for layer in self.encoder[1:]:
            kept.append(F.avg_pool2d(layer(kept[-1]), 2))
        warped, sure = moved(kept.pop(), motion)
        h = self.middle(sure * warped)
        for layer in self.decoder:
            h = layer(F.interpolate(h, scale_factor=2, mode="nearest"))
            warped, sure = moved(kept.pop(), motion)
            h = sure * warped + (1 - sure) * h
        warped, sure = moved(image, motion)
        return sure * warped + (1 - sure) * self.last(h).sigmoid()


def moved(image: Tensor, motion: Motion) -> tuple[Tensor, Tensor]:
    """The image [B, C, h, w] where the flow says, and the confidence, both at the image's size."""
    size = image.shape[2:]
    if motion.field.shape[1:3] == size:
        return warping.warp(image, motion.field), motion.confidence
    field = warping.resized(motion.field.movedim(-1, 1), *size).movedim(1, -1)
    return warping.warp(image, field), warping.resized(motion.confidence, *size)


class Animator(nn.Module):
    """All of it: regions of source and driving frame, their maps, the ground's, flow, and picture.

    ``axes`` as :class:`~fedlib.models.regions.RegionPredictor` has it; without ``ground`` the background is taken to
    stand still.
    """

    def __init__(
        self, regions: int = 4, axes: str = "pca", *, ground: bool = True, channels: int = 3, width: int = 16,
        levels: int = 2, shrink: int = 1,
    ):  # fmt: skip
        super().__init__()
        self.regions = RegionPredictor(regions, axes, channels=channels, width=width, levels=levels, shrink=shrink)
        self.ground = BackgroundPredictor(channels, width) if ground else None
        self.flow = FlowPredictor(regions, channels=channels, width=width, levels=levels, shrink=shrink)
        self.painter = Painter(channels, width)

    def forward(self, source: Tensor, driving: Tensor) -> tuple[Tensor, Motion, Regions]:
        """Picture of the source in the driving frame's pose, how it moved, and the regions of the driving frame."""
        own, theirs = self.regions(source), self.regions(driving)
        back = planar.identity(len(source), like=source) if self.ground is None else self.ground(source, driving)
        motion = self.move(source, own.frames, theirs.frames, back)
        return self.painter(source, motion), motion, theirs

    def move(self, source: Tensor, own: Tensor, theirs: Tensor, ground: Tensor) -> Motion:
        """The motion of an image, from frames [B, K, 2, 3] of its regions to others, before a ground that moves so."""
        maps = torch.cat([ground[:, None], planar.between(own, theirs, self.regions.axes == "pca")], 1)
        return self.flow(source, maps, shape(own, self.regions.axes), shape(theirs, self.regions.axes))

    def animate(self, source: Tensor, frames: Tensor, own: Tensor | None = None) -> Tensor:
        """The picture with regions at other ``frames``, before a ground that stands still, as when one animates."""
        own = self.regions(source).frames if own is None else own
        return self.painter(source, self.move(source, own, frames, planar.identity(len(source), like=source)))


ROUNDNESS = 0.1  # deviation of a region's blob where it has no axes of its own


def shape(frames: Tensor, axes: str) -> Tensor:
    """Frames as blobs are drawn by them: those of principal axes as they are, else round ones of one size."""
    if axes == "pca":
        return frames
    round_ = ROUNDNESS * torch.eye(2, dtype=frames.dtype, device=frames.device)
    return planar.affine(round_.expand(*frames.shape[:-2], 2, 2), frames[..., 2])
