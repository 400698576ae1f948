"""Points in the plane: the sets on which a classifier can be drawn as a map.

Three Gaussian blobs and unlabelled points spread over the square (-3, 3)^2, as in the toy figure of Lin et
al. (2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

HALF = 3.0
CENTRES = tuple((1.7 * math.cos(a), 1.7 * math.sin(a)) for a in (math.pi / 2, math.pi * 7 / 6, math.pi * 11 / 6))


def blobs(
    counts: Sequence[int],
    *,
    rng: torch.Generator,
    centres: Sequence[Sequence[float]] = CENTRES,
    spread: float = 0.6,
    half: float = HALF,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """`counts[c]` points of class c, normal around `centres[c]` with deviation `spread`, inside (-half, half)^2.

    Returns points [N, 2] and labels int64 [N], class after class. Points outside the square are drawn again.
    Raises ValueError when counts and centres differ in length or a centre lies outside the square.
    """
    if len(counts) != len(centres):
        raise ValueError(f"{len(counts)} counts for {len(centres)} centres; give one count per class.")
    if any(abs(v) >= half for centre in centres for v in centre):
        raise ValueError(f"A centre lies outside (-{half}, {half})^2: {[tuple(c) for c in centres]}.")
    points, labels = [], []
    for c, (count, centre) in enumerate(zip(counts, centres, strict=True)):
        inside = torch.zeros(0, 2, dtype=dtype)
        while len(inside) < count:
            drawn = torch.randn(count, 2, generator=rng, dtype=dtype) * spread + torch.tensor(centre, dtype=dtype)
            inside = torch.cat([inside, drawn[(drawn.abs() < half).all(1)]])
        points.append(inside[:count])
        labels.append(torch.full((count,), c))
    return torch.cat(points), torch.cat(labels)


def uniform(count: int, *, rng: torch.Generator, half: float = HALF, dtype: torch.dtype = torch.float32) -> Tensor:
    """`count` points [N, 2], uniform over the square (-half, half)^2: unlabelled data for distillation."""
    return (2 * torch.rand(count, 2, generator=rng, dtype=dtype) - 1) * half


def grid(steps: int, *, half: float = HALF, dtype: torch.dtype = torch.float32) -> Tensor:
    """All points [steps * steps, 2] of a regular grid over the square, row by row from the lower left."""
    axis = torch.linspace(-half, half, steps, dtype=dtype)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)
