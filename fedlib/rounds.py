"""What a round is made of: how clients train, one stretch of their work, and what an observer sees afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlib import require
from fedlib.executors import Objective
from fedlib.models.net import State
from fedlib.optim import SGD

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Local:
    """How a client trains: epochs over its samples in shuffled batches, SGD started afresh every round.

    ``lr_decay`` multiplies the learning rate after every round; ``augment(x, draws)`` changes each batch, where
    ``draws`` is a generator, or :class:`fedlib.rng.Rows` for a function marked by ``augment.by_row``. Raises
    ValueError for numbers that cannot work.
    """

    epochs: int = 1
    batch_size: int = 32
    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    lr_decay: float = 1.0
    augment: Augment | None = None

    def __post_init__(self) -> None:
        checked = {
            "epochs": require.whole("epochs", self.epochs),
            "batch_size": require.whole("batch_size", self.batch_size, 1),
            "lr": require.real("lr", self.lr, above=0),
            "momentum": require.real("momentum", self.momentum, least=0, below=1),
            "weight_decay": require.real("weight_decay", self.weight_decay, least=0),
            "lr_decay": require.real("lr_decay", self.lr_decay, above=0),
        }
        for name, value in checked.items():  # plain numbers, whatever type they came in: a checkpoint names them
            object.__setattr__(self, name, value)
        if not (self.augment is None or callable(self.augment)):
            raise ValueError(f"augment must be a function of (x, generator) or None, got {self.augment!r}")

    def optimiser(self) -> SGD:
        """The clients' optimiser."""
        return SGD(self.lr, self.momentum, self.weight_decay)


@dataclass
class Phase:
    """One stretch of local work: an objective on samples (x, y), client k using the rows ``split[k]``."""

    objective: Objective
    x: Tensor
    y: Tensor
    split: Sequence[Tensor]
    epochs: int
    augment: Augment | None = None


@dataclass
class Round:
    """What an observer sees after a round: who took part, the states they started from and ended local work with,
    what they uploaded, and their mean local losses; lists in the order of ``clients``.
    """

    number: int
    clients: list[int]
    received: list[State]
    states: list[State]
    uploads: list[State]
    losses: list[float]


@dataclass(frozen=True)
class Prepare:
    """Raw samples to the network's input, in the network's floating type."""

    prepare: Callable[[Tensor], Tensor]
    dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        """Inputs [B, ...] of raw samples [B, ...]."""
        return self.prepare(x).to(self.dtype)
