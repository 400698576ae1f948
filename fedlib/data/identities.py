"""Drawn identities, seen by cameras: each is a smooth random pattern, each picture another view of it, and every camera
has a style of its own. For retrieval, where pictures of persons are not to be had.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fedlib import require


@dataclass(frozen=True)
class Look:
    """How identities and their views are drawn. Raises ValueError for numbers that cannot work.

    ``size``: pixels a side; ``detail``: independent patches a side of a pattern; ``shift`` in pixels and ``turn`` in
    degrees: largest of a view; ``noise``: standard deviation of pixel noise, where that of a pattern is about one.
    """

    size: int = 12
    detail: int = 5
    shift: float = 1.5
    turn: float = 15.0
    noise: float = 0.3

    def __post_init__(self) -> None:
        require.whole("size", self.size, 2)
        require.whole("detail", self.detail, 2)
        for name in ("shift", "turn", "noise"):
            require.real(name, getattr(self, name), least=0)


@dataclass(frozen=True)
class Cameras:
    """Styles of cameras: contrast [N, C, 1, 1], brightness [N, C, 1, 1], and light falling in [N, 1, H, W]."""

    contrast: Tensor
    brightness: Tensor
    light: Tensor

    def __call__(self, x: Tensor, camera: Tensor) -> Tensor:
        """Pictures [M, C, H, W] as cameras [M] show them: x times contrast, plus brightness and light."""
        if x.ndim != 4 or camera.shape != (len(x),) or int(camera.min()) < 0 or int(camera.max()) >= len(self.light):
            raise ValueError(
                f"expected pictures [M, C, H, W] and for each a camera from 0 to {len(self.light) - 1}, got "
                f"{list(x.shape)} and {list(camera.shape)}"
            )
        return x * self.contrast[camera] + self.brightness[camera] + self.light[camera]


def cameras(count: int, size: int, draws: torch.Generator, strength: float = 1.0, channels: int = 1) -> Cameras:
    """``count`` styles: log-contrast and brightness of each channel, and a smooth light, all normal; deviations are
    0.3, 0.5 and 0.5 times ``strength``, whose 0 is no style at all.
    """
    require.real("strength", strength, least=0)
    tone = torch.randn(2, require.whole("count", count, 1), channels, 1, 1, generator=draws, dtype=torch.float64)
    light = smooth(count, size, 2, draws)
    return Cameras((0.3 * strength * tone[0]).exp(), 0.5 * strength * tone[1], 0.5 * strength * light)


def smooth(count: int, size: int, detail: int, draws: torch.Generator) -> Tensor:
    """Patterns [count, 1, size, size], float64: normal numbers on a grid of ``detail`` a side, interpolated."""
    coarse = torch.randn(count, 1, detail, detail, generator=draws, dtype=torch.float64)
    return F.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)


def views(patterns: Tensor, look: Look, draws: torch.Generator) -> Tensor:
    """One view of each pattern [M, 1, H, W], shifted, turned and noisy; what comes in at the sides is mirrored."""
    if patterns.ndim != 4 or len(patterns) == 0:
        raise ValueError(f"expected patterns [M, 1, H, W] with M >= 1, got {list(patterns.shape)}")
    move = 2 * torch.rand(3, len(patterns), generator=draws, dtype=torch.float64) - 1
    turn, step = math.radians(look.turn) * move[0], 2 * look.shift / look.size * move[1:]
    rows = [[turn.cos(), -turn.sin(), step[0]], [turn.sin(), turn.cos(), step[1]]]
    place = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = F.affine_grid(place, list(patterns.shape), align_corners=False)
    seen = F.grid_sample(patterns, grid, padding_mode="reflection", align_corners=False)
    return seen + look.noise * torch.randn(seen.shape, generator=draws, dtype=torch.float64)
