"""Images of one kind from several sites: an ellipse in an ellipse, as cup and disc of an eye, and how a site sees it.

Shapes and texture follow from a generator; a :class:`Site` has a style of low frequencies - gain, brightness, tint, a
slope of light across the image - and noise. So what is to be learnt is the same everywhere, and images are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fedlib import require

FINE = 2  # as many points of a side as a pixel has: edges are smooth, as a lens has them
LIGHT = {"ground": 0.35, "disc": 0.2, "cup": 0.2}  # of the ground, and what disc and cup add
VESSEL = 0.15  # how much darker a vessel is


@dataclass(frozen=True)
class Site:
    """How a site's images look: ``gain`` x ``tint`` (light + slope) + ``brightness`` + noise, clipped to [0, 1].

    ``slope``: light across the image, from minus to plus half of it, ``towards`` an angle in turns: 0 right, 1/4 down.
    ``turning``: within how much of a turn around it the angle differs from image to image, 1 for any angle.
    ``spread``: standard deviation, from image to image, of gain, brightness and slope. Raises ValueError for numbers
    that are none, a gain or tint not above 0, negative noise or spread.
    """

    gain: float = 1.0
    brightness: float = 0.0
    slope: float = 0.0
    towards: float = 0.0
    turning: float = 0.0
    tint: tuple[float, ...] = (1.0,)
    noise: float = 0.03
    spread: float = 0.03

    def __post_init__(self) -> None:
        require.real("gain", self.gain, above=0)
        for name in ("brightness", "slope", "towards"):
            require.real(name, getattr(self, name))
        for name in ("noise", "spread", "turning"):
            require.real(name, getattr(self, name), least=0)
        if not self.tint:
            raise ValueError("tint: one number for each channel, one at least")
        for value in self.tint:
            require.real("tint", value, above=0)

    def seen(self, light: Tensor, rng: torch.Generator) -> Tensor:
        """Images [N, C, S, S] of this site, of clean ones [N, S, S]; C is the number of tints."""
        count, side = len(light), light.shape[-1]
        own = self.spread * torch.randn(3, count, 1, 1, generator=rng, dtype=light.dtype)
        across = torch.linspace(-0.5, 0.5, side, dtype=light.dtype)
        turned = self.turning * (torch.rand(count, 1, 1, generator=rng, dtype=light.dtype) - 0.5)
        angle = 2 * torch.pi * (self.towards + turned)
        plane = angle.cos() * across + angle.sin() * across[:, None]
        tint = torch.tensor(self.tint, dtype=light.dtype)[:, None, None]
        lit = (self.gain + own[0]) * light + self.brightness + own[1] + (self.slope + own[2]) * plane
        noise = self.noise * torch.randn(count, len(self.tint), side, side, generator=rng, dtype=light.dtype)
        return (tint * lit[:, None] + noise).clamp(0, 1)


class Eyes(NamedTuple):
    """Images [N, C, S, S] in [0, 1], and masks [N, 2, S, S] of disc and cup; the cup is part of the disc."""

    images: Tensor
    masks: Tensor


def eyes(count: int, site: Site, *, side: int = 16, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> Eyes:
    """``count`` images of a site, each of another shape, place and texture.

    Raises ValueError for no image, or a side that is no multiple of 4 from 8 on.
    """
    require.whole("count", count, 1)
    if require.whole("side", side, 8) % 4:
        raise ValueError(f"side must be a multiple of 4, which a small U-Net halves twice; got {side}")
    disc, cup, vessels = drawn(count, side * FINE, rng)
    light = LIGHT["ground"] + LIGHT["disc"] * disc + LIGHT["cup"] * cup - VESSEL * vessels
    small = avg_pool2d(torch.stack([light, disc, cup], 1), FINE).to(dtype)
    return Eyes(site.seen(small[:, 0], rng), (small[:, 1:] >= 0.5).to(dtype))


def drawn(count: int, side: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes on a fine grid, [N, side, side] each of 0 and 1: discs, their cups, and vessels across the image."""
    axis = torch.linspace(-1, 1, side)
    row, column = axis[:, None], axis
    u = torch.rand(count, 11, 1, 1, generator=rng)
    middle = 0.7 * (u[:, :2] - 0.5)
    radius, squeeze, turn = 0.4 + 0.2 * u[:, 2], 0.8 + 0.4 * u[:, 3], torch.pi * u[:, 4]
    down, right = row - middle[:, 0], column - middle[:, 1]
    along = turn.cos() * right + turn.sin() * down
    across = (turn.cos() * down - turn.sin() * right) * squeeze
    disc = along.square() + across.square() < radius.square()
    inner = (0.4 + 0.25 * u[:, 5]) * radius
    aside, above = (0.3 * radius * (u[:, i] - 0.5) for i in (6, 7))
    cup = (along - aside).square() + (across - above).square() < inner.square()
    vessels = torch.zeros_like(disc)
    for i in (8, 9):
        angle = torch.pi * u[:, i]
        bend = 0.3 * (u[:, 10] - 0.5) * (right * angle.cos() + down * angle.sin()).square()
        vessels |= (right * angle.sin() - down * angle.cos() + bend).abs() < 0.06
    return disc.float(), (cup & disc).float(), vessels.float()


def four_sites(channels: int = 1) -> tuple[Site, ...]:
    """Four sites that differ in gain, brightness and slope of light; colours too, with 3 channels.

    Raises ValueError unless ``channels`` is 1 or 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels}")
    tints: Sequence[tuple[float, ...]] = (
        [(1.0,)] * 4 if channels == 1 else [(1.0, 0.8, 0.6), (0.8, 1.0, 0.8), (1.0, 0.6, 0.5), (0.7, 0.8, 1.0)]
    )
    looks = (
        {"gain": 1.0, "slope": 0.0},
        {"gain": 0.8, "brightness": 0.1, "slope": 0.15, "towards": 0.0},
        {"gain": 1.1, "brightness": -0.1, "slope": 0.15, "towards": 0.35},
        {"gain": 0.6, "brightness": 0.0, "slope": 0.5, "towards": 0.6},
    )
    return tuple(Site(**own, tint=tint) for own, tint in zip(looks, tints, strict=True))
