"""Random augmentations of image batches as plain tensor functions, each image with its own draw.

All take floating-point images [B, C, H, W] and a `torch.Generator`, and return new tensors of the same
shape. Draws are made on the generator's device: with a CPU generator the same images result on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def random_crop(x: Tensor, padding: int, rng: torch.Generator) -> Tensor:
    """Pads each side by `padding` zeros and cuts the original size out at a uniformly drawn place.

    Zero is the mean of a normalised image. `padding=0` returns the images unchanged and draws nothing.
    """
    batch, _, height, width = _shape(x)
    if padding < 0:
        raise ValueError(f"padding is {padding}; expected 0 or more pixels.")
    if padding == 0:
        return x
    corner = torch.randint(2 * padding + 1, (2, batch, 1), generator=rng, device=rng.device).to(x.device)
    rows = corner[0] + torch.arange(height, device=x.device)
    columns = corner[1] + torch.arange(width, device=x.device)
    each = torch.arange(batch, device=x.device)[:, None, None]
    padded = F.pad(x, (padding,) * 4).permute(0, 2, 3, 1)
    return padded[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def horizontal_flip(x: Tensor, rng: torch.Generator, probability: float = 0.5) -> Tensor:
    """Mirrors each image left to right with the given probability."""
    batch = _shape(x)[0]
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}; expected a number in [0, 1].")
    chosen = torch.rand(batch, generator=rng, device=rng.device).to(x.device) < probability
    return torch.where(chosen[:, None, None, None], x.flip(-1), x)


def cutout(x: Tensor, size: int, rng: torch.Generator, fill: float = 0.0) -> Tensor:
    """Fills a square of `size` x `size` pixels around a uniformly drawn pixel; what falls outside is clipped.

    DeVries and Taylor (2017), who use size 16 for CIFAR-10 and 8 for CIFAR-100.
    """
    batch, _, height, width = _shape(x)
    if size < 0:
        raise ValueError(f"size is {size}; expected 0 or more pixels.")

    def covered(extent: int) -> Tensor:
        centre = torch.randint(extent, (batch, 1), generator=rng, device=rng.device).to(x.device)
        offset = torch.arange(extent, device=x.device) - centre + size // 2
        return (offset >= 0) & (offset < size)

    hole = covered(height)[:, :, None] & covered(width)[:, None, :]
    return x.masked_fill(hole[:, None], fill)


def crop_and_flip(x: Tensor, rng: torch.Generator, padding: int = 4) -> Tensor:
    """The usual augmentation for CIFAR: `random_crop` then `horizontal_flip`."""
    return horizontal_flip(random_crop(x, padding, rng), rng)


def _shape(x: Tensor) -> tuple[int, int, int, int]:
    if x.dim() != 4 or not x.is_floating_point():
        raise ValueError(f"Images are {x.dtype} {tuple(x.shape)}; expected floating point [B, C, H, W].")
    batch, channels, height, width = x.shape
    return batch, channels, height, width
