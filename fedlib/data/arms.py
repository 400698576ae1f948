"""Videos of jointed arms that wave before a moving, textured ground, with everything that is true of them.

An arm hangs on a joint; each of its links is a capsule in a colour of its own that turns about the end of the one
before it. The ground is a sum of waves, moved by an affine map, so that no border is ever seen. Drawn from a generator;
places are those of :mod:`fedlib.planar`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fedlib import planar, require

WAVES = 6  # of each colour of the ground
COLOURS = ((0.95, 0.25, 0.2), (0.25, 0.85, 0.3), (0.3, 0.45, 1.0), (0.95, 0.85, 0.2), (0.85, 0.35, 0.9))


class Arms(NamedTuple):
    """N videos of T frames: frames [N, T, 3, S, S] in [0, 1]; masks [N, T, L + 1, S, S] of ground and links, which add
    up to one; links [N, T, L, 2, 3], rigid maps from a link of its middle at 0 along x to where it is; lengths [N, L]
    and the half width, one number; ground [N, T, 2, 3], from the texture to the frame.
    """

    frames: Tensor
    masks: Tensor
    links: Tensor
    lengths: Tensor
    width: float
    ground: Tensor

    def at(self, videos: Tensor) -> Arms:
        """Some of the videos."""
        return self._each(lambda t: t[videos])

    def to(self, device: torch.device | str) -> Arms:
        """The same on a device."""
        return self._each(lambda t: t.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Arms:
        f, m, links, lengths, width, ground = self
        return Arms(change(f), change(m), change(links), change(lengths), width, change(ground))


def arms(
    count: int,
    *,
    frames: int = 8,
    size: int = 32,
    links: int = 2,
    length: tuple[float, float] = (0.45, 0.65),
    width: float = 0.12,
    swing: float = 1.0,
    drift: float = 0.15,
    contrast: float = 0.2,
    draws: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Arms:
    """``count`` videos. Links have lengths uniform in ``length`` and the half ``width``, as shares of half the image.

    Each joint swings as a wave of ``swing`` radians about an angle of its own; the whole arm and the ground move by
    ``drift``, and the ground turns by as many radians, in waves of their own. ``contrast`` is the deviation of the
    ground's colours. Raises ValueError for numbers that cannot work.
    """
    _check(count, frames, size, links, length)
    for name, value in (("swing", swing), ("drift", drift), ("contrast", contrast)):
        require.real(name, value, least=0)
    require.real("width", width, above=0)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=draws)

    def wave(*shape: int) -> Tensor:  # [count, frames, *shape], in [-1, 1]
        phase, pace = uniform(0, 2 * math.pi, count, 1, *shape), uniform(0.5, 1.5, count, 1, *shape)
        times = torch.linspace(0, 2 * math.pi, frames + 1)[:-1].view(1, -1, *[1] * len(shape))
        return torch.sin(phase + pace * times)

    lengths = uniform(*length, count, links)
    rest = uniform(-0.6, 0.6, count, 1, links)
    rest[..., 0] += math.pi / 2  # hangs down
    angles = (rest + swing * wave(links)).cumsum(-1)
    joint = uniform(-0.2, 0.2, count, 1, 2) - torch.tensor([0.0, 0.55]) + drift * wave(2)
    placed = chain(joint, angles, lengths[:, None])
    ground = planar.affine(planar.turn(drift * wave(1)[..., 0]), drift * wave(2))
    texture = Texture(uniform(-6, 6, count, 3, WAVES, 2), uniform(0, 2 * math.pi, count, 3, WAVES), contrast)
    z = planar.places(size, size)
    back = texture.at(planar.apply(planar.invert(ground), z.flatten(0, 1).expand(count, frames, -1, 2)))
    masks = layers(placed, lengths[:, None], width, size)
    colours = torch.tensor(COLOURS[:links])
    pictures = torch.einsum("ntlhw,lc->ntchw", masks[:, :, 1:], colours)
    pictures = pictures + masks[:, :, :1] * back.unflatten(-1, (size, size))
    return Arms(pictures, masks, placed, lengths, width, ground)._each(lambda t: t.to(dtype))


def chain(joint: Tensor, angles: Tensor, lengths: Tensor) -> Tensor:
    """Rigid maps [..., L, 2, 3] of links one after the other: link l begins where the one before it ends, at ``angles``
    [..., L] from the x axis towards y; the first begins at the ``joint`` [..., 2]. ``lengths`` [..., L].
    """
    along = torch.stack([angles.cos(), angles.sin()], -1) * lengths[..., None]
    ends = joint[..., None, :] + along.cumsum(-2)
    return planar.affine(planar.turn(angles), ends - along / 2)


def layers(links: Tensor, lengths: Tensor, width: float, size: int) -> Tensor:
    """What is seen at each pixel, as shares [..., L + 1, S, S]: the ground first; a later link hides an earlier one.

    A link covers the places within ``width`` of its axis of ``lengths`` [..., L]; its edge is one pixel soft.
    """
    z = planar.places(size, size, links).flatten(0, 1)
    own = planar.apply(planar.invert(links), z.expand(*links.shape[:-2], *z.shape))  # in the link's own frame
    beyond = (own[..., 0].abs() - lengths[..., None] / 2).clamp(min=0)
    distance = (beyond.square() + own[..., 1].square()).sqrt()
    inside = ((width - distance) * (size - 1) / 2 + 0.5).clamp(0, 1).unflatten(-1, (size, size))
    shares, left = [], torch.ones_like(inside[..., 0, :, :])
    for link in reversed(range(inside.shape[-3])):
        shares.append(left * inside[..., link, :, :])
        left = left * (1 - inside[..., link, :, :])
    return torch.stack([left, *reversed(shares)], -3)


class Texture(NamedTuple):
    """Colours of a ground without end: 0.4 + ``contrast`` times a sum of waves of frequencies [N, 3, W, 2] and phases
    [N, 3, W], scaled to a spread of one, within [0, 1].
    """

    frequencies: Tensor
    phases: Tensor
    contrast: float

    def at(self, z: Tensor) -> Tensor:
        """Colours [N, T, 3, P] at places [N, T, P, 2]."""
        angle = torch.einsum("ntpi,ncwi->ntcwp", z, self.frequencies) + self.phases[:, None, ..., None]
        waves = angle.sin().sum(-2) / math.sqrt(angle.shape[-2] / 2)
        return (0.4 + self.contrast * waves).clamp(0, 1)


def frames_of(links: Tensor, lengths: Tensor, width: float) -> Tensor:
    """Frames [U S^(1/2), mu] of the links, as the moments of a stick of that length and half width give them.

    Along it the variance is that of a uniform stick, length^2 / 12, across it width^2 / 3.
    """
    spread = torch.stack([lengths / math.sqrt(12), torch.full_like(lengths, width / math.sqrt(3))], -1)
    return planar.affine(links[..., :2] * spread[..., None, :], links[..., 2])


def limb_lengths(frames: Tensor) -> Tensor:
    """The length of a stick with such a frame [..., 2, 3]: sqrt(12) times the root of its larger variance [...]."""
    linear = frames[..., :2]
    spread, _ = planar.eigen(linear @ linear.mT)
    return (12 * spread[..., 0]).sqrt()


def _check(count: int, frames: int, size: int, links: int, length: tuple[float, float]) -> None:
    for name, value, least in (("count", count, 1), ("frames", frames, 1), ("size", size, 8), ("links", links, 1)):
        require.whole(name, value, least)
    if links > len(COLOURS):
        raise ValueError(f"links must be at most {len(COLOURS)}, as many as there are colours, got {links}")
    low, high = (require.real("length", v, above=0) for v in length)
    if low > high:
        raise ValueError(f"length: expected a shortest and a longest, got {length}")
