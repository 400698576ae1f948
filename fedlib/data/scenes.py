"""Scenes: a digit somewhere on a canvas, in noise, with three questions - which one, which pixels are ink, and where.

Three tasks of one kind of image, for training that shares a network between tasks. The digits are scikit-learn's, of 8
x 8 pixels; everything else follows from a generator.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fedlib import require

from . import loading

SIDE = 8  # pixels of a digit
INK = 0.5  # share of the largest value from which on a pixel counts as ink


class Scenes(NamedTuple):
    """N scenes: pixels [N, 1, S, S], digits [N] in 0 to 9, masks [N, S, S] of 0 and 1, places [N, 2] in [-1, 1]: how
    far the digit is from the middle, down and to the right, as shares of the largest move.
    """

    pixels: Tensor
    digits: Tensor
    masks: Tensor
    places: Tensor

    def at(self, rows: Tensor) -> Scenes:
        """Some of the scenes."""
        return Scenes(*(t[rows] for t in self))


def scenes(
    count: int,
    *,
    side: int = 12,
    move: int = 1,
    noise: float = 0.3,
    rng: torch.Generator,
    among: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Scenes:
    """``count`` scenes, each of another digit of the set, drawn at random: on a canvas of ``side`` pixels, at most
    ``move`` pixels from the middle either way, ink in [0, 1] plus Gaussian noise of that standard deviation.

    ``among``: numbers of the digits that may be drawn, of all 1,797. Raises ValueError for more scenes than there are
    digits, or none, a canvas on which digits cannot be in the middle or move as far, or a negative noise.
    """
    own = loading.load("digits", normalise=False)
    x, y = torch.cat([own.x_train, own.x_test])[:, 0], torch.cat([own.y_train, own.y_test])
    x, y = (x, y) if among is None else (x[among], y[among])
    if not 1 <= require.whole("count", count) <= len(x):
        raise ValueError(f"count must be 1 to {len(x)}, the digits there are, got {count}")
    middle = (require.whole("side", side, SIDE) - SIDE) / 2
    if not 1 <= require.whole("move", move) <= middle or middle % 1:
        raise ValueError(f"move must be 1 to {middle:g} on a canvas of an even number of pixels, got {move} on {side}")
    require.real("noise", noise, least=0)
    chosen = torch.randperm(len(x), generator=rng)[:count]
    places = torch.randint(-move, move + 1, (count, 2), generator=rng)
    clean, within = torch.zeros(count, side, side), int(middle) + torch.arange(SIDE)
    row, column = (places[:, i, None] + within for i in (0, 1))
    clean[torch.arange(count)[:, None, None], row[:, :, None], column[:, None]] = x[chosen]
    pixels = clean + noise * torch.randn(clean.shape, generator=rng)
    masks = (clean >= INK).to(dtype)
    return Scenes(pixels[:, None].to(dtype), y[chosen], masks, places.to(dtype) / move)
