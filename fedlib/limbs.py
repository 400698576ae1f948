"""What the parts of a motion model are worth on drawn arms, of which all is known: axes, the ground, and shape.

Pictures of later frames are made of a video's first one, its regions given by the true masks of the links; networks for
what else must be learnt are trained on pairs of frames. Videos are :class:`fedlib.data.arms.Arms`, maps and frames
those of :mod:`fedlib.planar`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from fedlib import animation, planar, require, warping
from fedlib.data import arms
from fedlib.data.arms import Arms
from fedlib.models.regions import BackgroundPredictor, RegionPredictor

AXES = ("pca", "symmetric", "none")
N = TypeVar("N", bound=nn.Module)
Loss = Callable[[N, Tensor, Tensor], Tensor]


def pairs(t: Tensor) -> tuple[Tensor, Tensor]:
    """The first of each video's frames [N, T, ...], as often as there are later ones, and these: [N (T - 1), ...]."""
    return t[:, :1].expand_as(t[:, 1:]).flatten(0, 1), t[:, 1:].flatten(0, 1)


def heat(masks: Tensor) -> Tensor:
    """What the links' masks [..., L + 1, H, W] are as heat-maps [..., L, H, W]: each adds up to one."""
    links = masks[..., 1:, :, :] + 1e-6  # a link that is hidden is anywhere
    return links / links.sum((-2, -1), keepdim=True)


def seen(masks: Tensor, axes: str = "pca") -> Tensor:
    """Frames [..., L, 2, 3] of the links by the moments of their masks [..., L + 1, H, W]: with the principal root,
    with the ``symmetric`` one, which cannot turn, or with ``none``, places alone. Raises ValueError for another name.
    """
    mean, covariance = planar.moments(heat(masks))
    if require.one_of("axes", axes, AXES) == "none":
        return planar.affine(torch.eye(2).to(mean).expand_as(covariance), mean)
    root = planar.principal_root if axes == "pca" else planar.symmetric_root
    return planar.affine(root(covariance), mean)


def true_ground(own: Arms) -> Tensor:
    """How the ground moved: from places of each later frame to those of the first, [N (T - 1), 2, 3]."""
    first, later = pairs(own.ground)
    return planar.compose(first, planar.invert(later))


def picture(own: Arms, frames: Tensor, ground: Tensor, turned: bool = True) -> Tensor:
    """Later frames [N (T - 1), 3, H, W] from the first: its pixels, moved by the flow of the later frames' true masks,
    of the links' ``frames`` [N, T, L, 2, 3] and the ground's maps [N (T - 1), 2, 3]. ``turned``: see
    :func:`fedlib.planar.between`.
    """
    maps = torch.cat([ground[:, None], planar.between(*pairs(frames), turned)], 1)
    return warping.warp(pairs(own.frames)[0], warping.flow(pairs(own.masks)[1], maps))


def errors(made: Tensor, own: Arms) -> dict[str, float]:
    """Mean absolute error of pictures of the later frames: of ``all`` pixels, and of those of the ``body``."""
    off = (made - pairs(own.frames)[1]).abs().mean(1)
    body = 1 - pairs(own.masks)[1][:, 0]
    return {"all": float(off.mean()), "body": float((off * body).sum() / body.sum())}


# Learnt


class Ground(BackgroundPredictor):
    """The ground's network, which looks at small images: how the ground moved is seen there, too."""

    def __init__(self, small: int = 16, width: int = 8):
        super().__init__(width=width)
        self.small = require.whole("small", small, 8)

    def forward(self, source: Tensor, driving: Tensor) -> Tensor:
        """The map [B, 2, 3], as the network without this size gives it."""
        size = self.small, self.small
        return super().forward(warping.resized(source, *size), warping.resized(driving, *size))


def fitted(
    net: N, videos: Tensor, loss: Loss[N], seed: int, rate: float, steps: int, batch: int = 16
) -> N:  # fmt: skip
    """The network after Adam steps on pairs of frames of one video of [N, T, C, H, W], at a rate that falls to nothing.

    Raises ArithmeticError when training diverges.
    """
    optimiser = torch.optim.Adam(net.parameters(), rate, fused=True)
    for i, (source, driving) in enumerate(animation.pairs(videos, animation.How(steps, batch), seed)):
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - i / steps)
        optimiser.zero_grad()
        found = loss(net, source, driving)
        require.finite(f"step {i + 1}: training diverged, the loss", found.detach())
        found.backward()
        optimiser.step()
    return net


def on_the_ground(net: Ground, source: Tensor, driving: Tensor) -> Tensor:
    """How wrong the ground's map is where the driving frame shows ground: of frames and that weight, [B, 4, H, W]."""
    there = warping.fields(net(source[:, :3], driving[:, :3]), *source.shape[2:])
    off = warping.warp(source[:, :3], there) - driving[:, :3]
    return (off.abs() * driving[:, 3:]).mean()


def learnt_axes(net: RegionPredictor, image: Tensor, masks: Tensor) -> Tensor:
    """Frames [B, L, 2, 3] of links [B, L + 1, H, W] whose axes a network gives at each place of the image, averaged
    over the link: the Jacobians of Siarohin et al. 2019, for regions that are given.
    """
    slopes = net.slopes(net.body(image)).unflatten(1, (net.regions, 4))
    axes = torch.einsum("bkhw,bkjhw->bkj", heat(masks), slopes).unflatten(-1, (2, 2))
    return planar.affine(axes, planar.moments(heat(masks))[0])


def on_the_body(net: RegionPredictor, source: Tensor, driving: Tensor) -> Tensor:
    """How wrong the body is with such axes, of frames and masks [B, 3 + L + 1, H, W]."""
    own, theirs = (learnt_axes(net, t[:, :3], t[:, 3:]) for t in (source, driving))
    maps = planar.between(own, theirs, turned=False)
    maps = torch.cat([planar.identity(len(maps), 1, like=maps), maps], 1)
    made = warping.warp(source[:, :3], warping.flow(driving[:, 3:], maps))
    return ((made - driving[:, :3]).abs() * (1 - driving[:, 3:4])).mean()


# Sticks


def sticks(own: Arms) -> Tensor:
    """The true frames [N, T, L, 2, 3] of the links."""
    return arms.frames_of(own.links, own.lengths[:, None], own.width)


def longer(own: Arms, by: float = 1.25) -> Tensor:
    """Frames of the same bodies with limbs ``by`` times as long, in the motion of the body before: [N, T, L, 2, 3]."""
    other = own.at(torch.arange(len(own.links)).roll(1))
    axis = other.links[..., 0]
    joint = other.links[:, :, 0, :, 2] - axis[:, :, 0] * other.lengths[:, None, :1] / 2
    lengths = by * own.lengths[:, None]
    links = arms.chain(joint, torch.atan2(axis[..., 1], axis[..., 0]), lengths)
    return arms.frames_of(links, lengths, own.width)


def relative(source: Tensor, first: Tensor, now: Tensor) -> Tensor:
    """Frames of the source, moved as the driver's are since its ``first``: A_D A_D1^(-1) A_S, and the same shift."""
    linear = now[..., :2] @ planar.inverse(first[..., :2]) @ source[..., :2]
    return planar.affine(linear, source[..., 2] + now[..., 2] - first[..., 2])


def angle(one: Tensor, other: Tensor) -> Tensor:
    """Degrees between the longer axes of frames [..., 2, 3], at most 90: [...]."""
    axes = [planar.eigen(t[..., :2] @ t[..., :2].mT)[1][..., 0] for t in (one, other)]
    cross = axes[0][..., 0] * axes[1][..., 1] - axes[0][..., 1] * axes[1][..., 0]
    return torch.atan2(cross.abs(), (axes[0] * axes[1]).sum(-1).abs()).rad2deg()


def misread(
    ratios: Sequence[float], draws: torch.Generator, *, count: int = 200, wide: float = 0.12, size: int = 32
) -> dict[float, float]:
    """Degrees by which the turn of a drawn stick is misread on average, by its length over its width, ends included.

    Sticks are turned by up to a quarter, to either side. A ratio of one is a disc. Raises ValueError for less.
    """
    found = {}
    for ratio in ratios:
        require.real("ratio", ratio, least=1)
        at, by, x, y = (2 * torch.rand(4, count, generator=draws, dtype=torch.float64) - 1) * math.pi / 2
        length = torch.full((count, 1), 2 * wide * (ratio - 1), dtype=torch.float64)
        place = torch.stack([x, y], -1) / 5
        maps = [planar.affine(planar.turn(a), place)[:, None] for a in (at, at + by)]
        now, then = (seen(arms.layers(one, length, wide, size)) for one in maps)
        linear = planar.between(then, now)[:, 0]
        told = torch.atan2(linear[:, 1, 0] - linear[:, 0, 1], linear[:, 0, 0] + linear[:, 1, 1])
        off = (told - by + math.pi / 2) % math.pi - math.pi / 2  # an axis may point either way
        found[ratio] = float(off.abs().rad2deg().mean())
    return found


def gaps(draws: torch.Generator, count: int = 30) -> dict[str, float]:
    """What must be zero, as largest absolute values over random regions, in double precision: the map of a region onto
    itself less the identity, there and back less the identity, variances in closed form less the eigenvalues.
    """
    square, mean = (torch.randn(2 * count, *n, generator=draws, dtype=torch.float64) for n in ((2, 2), (2,)))
    covariance = square @ square.mT + 0.01 * torch.eye(2, dtype=torch.float64)
    own, other = planar.affine(planar.principal_root(covariance), mean).split(count)
    there, back, still = planar.between(own, other), planar.between(other, own), planar.identity(count, like=own)
    found = {
        "still": planar.between(own, own) - still,
        "back": planar.compose(there, back) - still,
        "eigen": planar.eigen(covariance)[0].flip(-1) - torch.linalg.eigvalsh(covariance),
    }
    return {name: float(gap.abs().max()) for name, gap in found.items()}
