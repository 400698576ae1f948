"""Random augmentations of image batches as plain tensor functions, each image with its own draw.

All take floating-point images [B, C, H, W] and a source of draws, and return new tensors of the same shape. With a
`torch.Generator` on the CPU, draws are made there and brought to the images. With `rng.Rows`, each image has a key of
its own: draws are made where the keys are, and images that are changed together come out as each would alone. Either
way the same images result on every device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fedlib.rng import Source, integers, uniform

Change = TypeVar("Change", bound=Callable[..., Tensor])

CACHED = 128  # images padded at a time on a CPU, so that the padded copies stay in its cache


def by_row(change: Change) -> Change:
    """Mark an augmentation as one that treats each image by itself, so that executors may change the batches of many
    clients at once and draw on the device: ``@augment.by_row`` above ``def mine(x, source): ...``.

    The promise: it hands `source` to functions of this module, or to `rng.integers` and `rng.uniform` with the batch as
    dimension `rows`, and what becomes of an image depends on nothing but the image and its own draws. Without the mark
    it gets a `torch.Generator` for each client's batch, and draws on the host.
    """
    change.several = True  # type: ignore[attr-defined]
    return change


@by_row
def random_crop(x: Tensor, padding: int, rng: Source) -> Tensor:
    """Pads each side by `padding` zeros and cuts the original size out at a uniformly drawn place.

    Zero is the mean of a normalised image. `padding=0` returns the images unchanged and draws nothing.
    """
    batch, _, height, width = _shape(x)
    if padding < 0:
        raise ValueError(f"padding is {padding}; expected 0 or more pixels.")
    if padding == 0:
        return x
    row, column = integers(rng, 2 * padding + 1, (2, batch, 1), rows=1)[..., 0].to(x.device)

    def cut(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
        # A view of all places [B, C, 2p+1, 2p+1, H, W]: only the chosen ones are copied, a row of pixels at a time.
        places = F.pad(x, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
        return places[torch.arange(len(x), device=x.device), :, row, column].contiguous()

    if x.device.type != "cpu" or batch <= CACHED:
        return cut(x, row, column)
    return torch.cat(list(map(cut, x.split(CACHED), row.split(CACHED), column.split(CACHED))))


@by_row
def horizontal_flip(x: Tensor, rng: Source, probability: float = 0.5) -> Tensor:
    """Mirrors each image left to right with the given probability."""
    batch, _, _, width = _shape(x)
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}; expected a number in [0, 1].")
    chosen = uniform(rng, (batch,)).to(x.device) < probability
    columns = torch.arange(width, device=x.device)
    columns = torch.where(chosen[:, None], columns.flip(0), columns)
    return x.gather(-1, columns[:, None, None].expand_as(x))


@by_row
def cutout(x: Tensor, size: int, rng: Source, fill: float = 0.0) -> Tensor:
    """Fills a square of `size` x `size` pixels around a uniformly drawn pixel; what falls outside is clipped.

    DeVries and Taylor (2017), who use size 16 for CIFAR-10 and 8 for CIFAR-100.
    """
    batch, _, height, width = _shape(x)
    if size < 0:
        raise ValueError(f"size is {size}; expected 0 or more pixels.")

    def covered(extent: int) -> Tensor:
        centre = integers(rng, extent, (batch, 1)).to(x.device)
        offset = torch.arange(extent, device=x.device) - centre + size // 2
        return (offset >= 0) & (offset < size)

    hole = covered(height)[:, :, None] & covered(width)[:, None, :]
    return x.masked_fill(hole[:, None], fill)


@by_row
def crop_and_flip(x: Tensor, rng: Source, padding: int = 4) -> Tensor:
    """The usual augmentation for CIFAR: `random_crop` then `horizontal_flip`."""
    return horizontal_flip(random_crop(x, padding, rng), rng)


def _shape(x: Tensor) -> tuple[int, int, int, int]:
    if x.dim() != 4 or not x.is_floating_point():
        raise ValueError(f"Images are {x.dtype} {tuple(x.shape)}; expected floating point [B, C, H, W].")
    batch, channels, height, width = x.shape
    return batch, channels, height, width
