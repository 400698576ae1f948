"""Hypernetworks: a network whose output is the weights of another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from fedlib import require
from fedlib.models.net import State


@dataclass(frozen=True)
class Hypernetwork:
    """h(v; phi): embeddings v [B, size] to the weights of B networks (Shamsian et al. 2021, section 5 and their code).

    ``shapes`` names the tensors of the target and gives their shapes. ``depth`` layers of ``width`` units with a ReLU
    before each but the first are the trunk; every target tensor then has a linear head of its own. With ``depth`` 0
    heads read the embedding itself: all weights are affine in v. phi is a plain dictionary of tensors
    (:meth:`initial`), so that it can be kept, saved and differentiated like any state. There is no normalisation, and
    none can be emitted: running statistics are not learned by gradients. Raises ValueError for shapes and sizes that
    cannot work.
    """

    shapes: Mapping[str, Sequence[int]]
    size: int
    width: int = 100
    depth: int = 4

    def __post_init__(self) -> None:
        require.whole("size", self.size, 1)
        require.whole("width", self.width, 1)
        require.whole("depth", self.depth)
        if not self.shapes:
            raise ValueError("a hypernetwork needs at least one tensor to emit, and shapes has none")
        if empty := [n for n, shape in self.shapes.items() if not math.prod(shape)]:
            raise ValueError(
                f"shapes: {empty[0]} has no numbers, {list(self.shapes[empty[0]])}; nothing can be emitted"
            )

    @property
    def emitted(self) -> int:
        """How many numbers a network that is emitted has."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def initial(self, draws: torch.Generator, like: Tensor) -> State:
        """First phi, as ``nn.Linear`` draws: weights and biases from U(-b, b), b = 1 / sqrt(inputs); of the type and on
        the device of ``like``. So what is emitted first has one scale, whatever the target layer's own inputs.
        """
        widths = [self.size] + [self.width] * self.depth
        sizes = {f"trunk.{i}": pair for i, pair in enumerate(pairwise(widths))}
        sizes |= {f"head.{n}": (widths[-1], math.prod(shape)) for n, shape in self.shapes.items()}
        phi: State = {}
        for name, (inputs, outputs) in sizes.items():
            bound = 1 / math.sqrt(inputs)
            for part, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
                drawn = torch.rand(shape, generator=draws, dtype=torch.float64)
                phi[f"{name}.{part}"] = (bound * (2 * drawn - 1)).to(like)
        return phi

    def __call__(self, phi: Mapping[str, Tensor], v: Tensor) -> State:
        """Weights of B networks for embeddings v [B, size]: name -> [B, *shape]. Raises ValueError for another v."""
        if v.ndim != 2 or v.shape[1] != self.size:
            raise ValueError(f"embeddings must be [B, {self.size}], got {list(v.shape)}")
        for i in range(self.depth):
            inside = v if i == 0 else v.relu()
            v = functional.linear(inside, phi[f"trunk.{i}.weight"], phi[f"trunk.{i}.bias"])
        return {
            n: functional.linear(v, phi[f"head.{n}.weight"], phi[f"head.{n}.bias"]).reshape(len(v), *shape)
            for n, shape in self.shapes.items()
        }
