"""The self-teacher of FRSKD: a pyramid over a classifier's feature maps, down and up again, with logits of its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, pad, relu

EPSILON = 1e-6  # of the fusion: its weights may all be zero


def fuse(weights: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """Fast normalised fusion: sum_j relu(w_j) map_j / (sum_j relu(w_j) + 1e-6), of J maps of one shape and weights [J].

    (Tan, Pang and Le 2020, EfficientDet, section 3.3.) The shares are positive and add up to almost one.
    """
    shares = relu(weights)
    shares = shares / (shares.sum() + EPSILON)
    return sum((s * m for s, m in zip(shares, maps, strict=True)), start=torch.zeros_like(maps[0]))


def _lateral(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def _separable(width: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)]
        layers += [nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


def _smaller(x: Tensor) -> Tensor:
    """Half of height and width, by the maximum of 3x3 places; x >= 0."""
    return max_pool2d(pad(x, (0, 1, 0, 1)), 3, 2)


def _larger(x: Tensor) -> Tensor:
    """Twice the height and width, each place repeated."""
    return interpolate(x, scale_factor=2, mode="nearest")


class SelfTeacher(nn.Module):
    """BiFPNc (Ji et al. 2021, FRSKD, section 3.1): from the maps F_i [B, channels[i], H_i, W_i] of a classifier to
    refined maps T_i [B, width * channels[i], H_i, W_i] and logits [B, classes].

    One pass from the last map to the first and one back, with depth-wise separable convolutions, ``depth`` of them one
    after the other; logits from the pooled T_n. All maps come after a ReLU. The paper: ``width`` 2, ``depth`` 2. Raises
    ValueError for fewer than two maps, or where a map is not half as high and wide as the one before it.
    """

    def __init__(self, channels: Sequence[int], classes: int = 10, width: int = 2, depth: int = 2):
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"a pyramid needs two maps at least, got channels {tuple(channels)}")
        wide = [width * c for c in channels]
        pairs = list(pairwise(wide))
        self.lateral = nn.ModuleList(map(_lateral, channels, wide))
        self.from_above = nn.ModuleList(_lateral(high, low) for low, high in pairs)
        self.from_below = nn.ModuleList(_lateral(low, high) for low, high in pairs)
        self.down = nn.ModuleList(_separable(w, depth) for w in wide[:-1])
        self.up = nn.ModuleList(_separable(w, depth) for w in wide[1:])
        self.down_weights = nn.ParameterList(torch.ones(2) for _ in wide[:-1])
        self.up_weights = nn.ParameterList(torch.ones(3 if w != wide[-1] else 2) for w in wide[1:])
        self.head = nn.Linear(wide[-1], classes)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the refined maps."""
        _check(maps, len(self.lateral))
        n = len(maps)
        lateral = [conv(f) for conv, f in zip(self.lateral, maps, strict=True)]
        path = [lateral[-1]]  # P_n = L_n, then P_{n-1} ... P_1
        for i in reversed(range(n - 1)):
            above = _larger(self.from_above[i](path[-1]))
            path.append(self.down[i](fuse(self.down_weights[i], [lateral[i], above])))
        path.reverse()
        refined = [path[0]]  # T_1 = P_1
        for i in range(1, n):
            below = self.from_below[i - 1](_smaller(refined[-1]))
            parts = [lateral[i], path[i], below] if i < n - 1 else [lateral[i], below]
            refined.append(self.up[i - 1](fuse(self.up_weights[i - 1], parts)))
        return self.head(refined[-1].mean((2, 3))), refined


def _check(maps: Sequence[Tensor], count: int) -> None:
    sizes = [tuple(m.shape[2:]) for m in maps]
    halves = all(a == tuple(2 * n for n in b) for a, b in pairwise(sizes))
    if len(maps) != count or not halves:
        raise ValueError(f"expected {count} maps, each half as high and wide as the one before; got sizes {sizes}")
