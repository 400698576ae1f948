"""Two domains of one task: plenty of labelled source samples, target samples without labels, and a few with.

Digits of scikit-learn whose target part is changed by a rule, or two of the domains of :mod:`fedlib.data.domains`. No
image stands in two parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fedlib import require, rng

from . import domains, loading

CLASSES = 10


class Domains(NamedTuple):
    """Source x [n, ...], y [n]; of the target: without labels [m, ...], a few with (or none), and those that judge."""

    x: Tensor
    y: Tensor
    x_target: Tensor
    x_few: Tensor
    y_few: Tensor
    x_test: Tensor
    y_test: Tensor


def faint(x: Tensor, draws: torch.Generator) -> Tensor:
    """Half the contrast on a brighter ground: 0.5 + 0.3 p for pixels p [N, 1, H, W] in [0, 1]."""
    return 0.5 + 0.3 * x


def inverted(x: Tensor, draws: torch.Generator) -> Tensor:
    """White for black."""
    return 1 - x


def turned(x: Tensor, draws: torch.Generator, degrees: float = 30.0) -> Tensor:
    """The image turned about its middle, against the clock; what comes from outside is black."""
    angle = math.radians(require.real("degrees", degrees))
    cos, sin = math.cos(angle), math.sin(angle)
    grid = F.affine_grid(x.new_tensor([[cos, -sin, 0.0], [sin, cos, 0.0]]).expand(len(x), 2, 3), list(x.shape), False)
    return F.grid_sample(x, grid, align_corners=False)


def quarter(x: Tensor, draws: torch.Generator) -> Tensor:
    """The image turned by 90 degrees, against the clock: every pixel is one of the image's."""
    return torch.rot90(x, 1, (-2, -1))


def blurred(x: Tensor, draws: torch.Generator) -> Tensor:
    """Means of 3 x 3 pixels weighed 1, 2, 1 either way, and noise of standard deviation 0.1."""
    one = x.new_tensor([1.0, 2.0, 1.0]) / 4
    soft = F.conv2d(F.pad(x, (1, 1, 1, 1)), torch.outer(one, one)[None, None])
    return soft + 0.1 * torch.randn(x.shape, generator=draws, dtype=x.dtype)


def shuffled(x: Tensor, draws: torch.Generator) -> Tensor:
    """The pixels in another order, the same for all images: nothing low-level is alike."""
    order = torch.randperm(x[0].numel(), generator=draws)
    return x.flatten(1)[:, order].view_as(x)


def unchanged(x: Tensor, draws: torch.Generator) -> Tensor:
    """The image itself."""
    return x


CHANGES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    f.__name__: f for f in (faint, inverted, turned, quarter, blurred, shuffled, unchanged)
}
LABELS = "relabelled"  # the images stay, and class c is called c + 1: what differs is what they mean


def digits(
    change: str,
    seed: int,
    *,
    source: int = 700,
    target: int = 500,
    few: int = 30,
    test: int = 500,
    dtype: torch.dtype = torch.float32,
) -> Domains:
    """Digits as they are, and others changed: pixels [N, 1, 8, 8] in [0, 1], classes in equal shares.

    ``change`` is a name of ``CHANGES``, several joined by "+", or "relabelled". Raises ValueError for another name, and
    for more samples than there are digits, 1,797.
    """
    names = change.split("+")
    for name in names:
        require.one_of("change", name, (*CHANGES, LABELS))
    sizes = _sizes(source, target, few, test)
    own = loading.load("digits", normalise=False)
    x, y = torch.cat([own.x_train, own.x_test]), torch.cat([own.y_train, own.y_test])
    if sum(sizes) > len(y):
        raise ValueError(f"{sum(sizes)} samples are wanted, and there are {len(y)} digits")
    rows = domains.in_turns(y, rng.stream(seed, "digits"))[: sum(sizes)]
    parts = rows.split(sizes)
    images = [x[part] for part in parts]
    for name in names:
        if name in CHANGES:
            changed = CHANGES[name](torch.cat(images[1:]), rng.stream(seed, "change", name))
            images[1:] = changed.split(sizes[1:])
    labels = [y[part] for part in parts]
    if LABELS in names:
        labels[1:] = [(part + 1) % CLASSES for part in labels[1:]]
    return _made(images, labels, dtype)


def pair(
    first: str,
    second: str,
    seed: int,
    *,
    source: int = 2000,
    target: int = 1500,
    few: int = 50,
    test: int = 1000,
    size: int = 28,
    channels: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Domains:
    """Two domains of :func:`fedlib.data.domains.digits`, by name, such as "mnist" and "usps": pixels in [-1, 1].

    Those that judge are of the sets' test parts. Raises ValueError for one domain twice, and as that function does.
    """
    if first == second:
        raise ValueError(f"first and second: expected two domains, got {first!r} twice")
    sizes = _sizes(source, target, few, test)
    both = [domains.digits((name,), n, test, size=size, channels=channels, seed=seed, dtype=dtype)
            for name, n in ((first, source), (second, target + few))]  # fmt: skip
    (one, _), (two, judge) = both
    images, labels = [one.x, *two.x.split(sizes[1:3]), judge.x], [one.y, *two.y.split(sizes[1:3]), judge.y]
    return _made(images, labels, dtype)


def _made(images: list[Tensor], labels: list[Tensor], dtype: torch.dtype) -> Domains:
    x, free, few, test = (t.to(dtype) for t in images)
    return Domains(x, labels[0], free, few, labels[2], test, labels[3])


def _sizes(source: int, target: int, few: int, test: int) -> list[int]:
    given = {"source": source, "target": target, "test": test}
    for name, n in given.items():
        require.whole(name, n, 1)
    return [source, target, require.whole("few", few), test]
