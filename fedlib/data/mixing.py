"""Augmentations that mix two images of a batch, and their labels with them."""

from __future__ import annotations

import torch
from torch import Tensor

from fedlib import require


def partners(batch: int, draws: torch.Generator) -> Tensor:
    """With which row each row of a batch is mixed: a permutation [B]."""
    return torch.randperm(batch, generator=draws)


def share(alpha: float, draws: torch.Generator) -> float:
    """A number from Beta(alpha, alpha): how much of an image stays. Raises ValueError unless alpha > 0.

    It is made of two gamma variates, by torch's generator: a seed gives the same number everywhere. Where both are too
    small for a number, a coin decides between 0 and 1, near which all of Beta then lies.
    """
    require.real("alpha", alpha, above=0)
    one, other = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=draws).tolist()
    if max(one, other) <= torch.finfo(torch.float64).tiny:  # below which torch gives no gamma variate
        return float(torch.randint(2, (), generator=draws))
    return one / (one + other)


def mixup(x: Tensor, draws: torch.Generator, alpha: float = 1.0) -> tuple[Tensor, Tensor, float]:
    """lam x_i + (1 - lam) x_j for images [B, ...], one lam for the batch (Zhang et al. 2018): the mixed images, the
    partner j of each row [B], and lam.
    """
    lam = share(alpha, draws)
    other = partners(len(x), draws).to(x.device)
    return lam * x + (1 - lam) * x[other], other, lam


def cutmix(x: Tensor, draws: torch.Generator, alpha: float = 1.0) -> tuple[Tensor, Tensor, float]:
    """A box of each image [B, C, H, W] replaced by its partner's, one box for the batch (Yun et al. 2019).

    The box has the shares sqrt(1 - lam) of both sides around a uniformly drawn place, and is clipped at the border.
    Returned are the images, the partner of each row [B], and the share of the image that *stayed*, which after clipping
    is more than lam: it, not lam, weighs the labels. Raises ValueError for what are no images.
    """
    if x.ndim != 4:
        raise ValueError(f"a box is cut out of images [B, C, H, W], got {list(x.shape)}")
    height, width = x.shape[-2:]
    lam = share(alpha, draws)
    other = partners(len(x), draws).to(x.device)
    sides = [int(n * (1 - lam) ** 0.5) for n in (height, width)]
    centres = [int(torch.randint(n, (), generator=draws)) for n in (height, width)]
    (top, bottom), (left, right) = (
        (max(0, c - s // 2), min(n, c + s // 2)) for c, s, n in zip(centres, sides, (height, width), strict=True)
    )
    mixed = x.clone()
    mixed[..., top:bottom, left:right] = x[other][..., top:bottom, left:right]
    return mixed, other, 1 - (bottom - top) * (right - left) / (height * width)
