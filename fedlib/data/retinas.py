"""Pieces of retinas from two sites as pixels, with the masks of their vessels, and how another site would see them."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedlib import require

from . import scans
from .sites import Eyes, Site

DARK = 0.06  # a piece whose mean is less lies outside the eye, most of it


class Retinas(NamedTuple):
    """Pieces [N, 32, 32] in [0, 1], their vessels' masks, and the site of each: 0 for CHASE_DB1, 1 for DRIVE."""

    light: Tensor
    masks: Tensor
    sites: Tensor


def pieces(part: str, root: str | os.PathLike[str] | None = None) -> Retinas:
    """Of ``part`` "train", "held" or "test": sixteenths of images, without those that lie outside the eye. Held out, to
    tune by, is every fifth training image.

    Raises ValueError for another part, DataUnavailable when ``fundus_vessels.npz`` is not there, DataCorrupt when it is
    another.
    """
    own = scans._pack("fundus_vessels", root)
    require.one_of("part", part, ("train", "held", "test"))
    x, mask, domain = (own[f"{what}_{'test' if part == 'test' else 'train'}"] for what in ("x", "mask", "domain"))
    if part != "test":
        chosen = (np.arange(len(x)) % 5 == 4) == (part == "held")
        x, mask, domain = x[chosen], mask[chosen], domain[chosen]
    light, masks = _cut(x), _cut(mask)
    sites = torch.from_numpy(domain.astype(np.int64)).repeat_interleave(len(light) // max(1, len(domain)))
    light = light / 255
    inside = light.mean((1, 2)) >= DARK
    return Retinas(light[inside], masks[inside], sites[inside])


def seen(own: Retinas, place: int, style: Site, count: int | None, rng: torch.Generator) -> Eyes:
    """``count`` pieces of a place drawn at random, all without a count, as a site of this style would have them.

    Raises ValueError for more than there are.
    """
    rows = torch.nonzero(own.sites == place)[:, 0]
    rows = rows[torch.randperm(len(rows), generator=rng)]
    if count is not None and require.whole("count", count, 1) > len(rows):
        raise ValueError(f"count must be at most {len(rows)}, as many pieces as place {place} has, got {count}")
    chosen = rows[:count]
    return Eyes(style.seen(own.light[chosen], rng), own.masks[chosen, None])


def _cut(images: np.ndarray) -> Tensor:
    """Images [n, H, W] in squares [n H W / 32^2, 32, 32], row by row, those of one image together."""
    t = torch.from_numpy(images.astype(np.float32))
    cells = t.unflatten(2, (-1, scans.SIDE)).unflatten(1, (-1, scans.SIDE)).permute(0, 1, 3, 2, 4)
    return cells.flatten(0, 2)
