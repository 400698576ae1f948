"""Who holds what: splits of labelled samples as settings, with their numbers in fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlib import partition

Split = Callable[[Tensor, int, torch.Generator], list[Tensor]]
"""Labels [N], number of clients, draws -> the rows of each client."""


@dataclass(frozen=True)
class Dirichlet:
    """Label skew: every class divided in proportions from Dirichlet(alpha, ..., alpha) (:func:`partition.dirichlet`).

    ``least`` samples for every client, or its even share where that is less; ``cap``: a client that has its even share
    gets nothing of later classes.
    """

    alpha: float
    least: int = 1
    cap: bool = False

    def __call__(self, labels: Tensor, clients: int, draws: torch.Generator) -> list[Tensor]:
        """Rows of each client."""
        least = min(self.least, len(labels) // clients)
        return partition.dirichlet(labels, clients, self.alpha, draws, min_size=least, cap=self.cap)


@dataclass(frozen=True)
class Shards:
    """Label skew: ``per_client`` pieces of the samples in the order of their labels (:func:`partition.shards`)."""

    per_client: int

    def __call__(self, labels: Tensor, clients: int, draws: torch.Generator) -> list[Tensor]:
        """Rows of each client."""
        return partition.shards(labels, clients, self.per_client, draws)


@dataclass(frozen=True)
class Classes:
    """Label skew: every client holds exactly ``per_client`` of the classes (:func:`partition.classes_per_client`)."""

    per_client: int

    def __call__(self, labels: Tensor, clients: int, draws: torch.Generator) -> list[Tensor]:
        """Rows of each client."""
        return partition.classes_per_client(labels, clients, self.per_client, draws)


@dataclass(frozen=True)
class IID:
    """No skew: shuffled and dealt out evenly (:func:`partition.iid`)."""

    def __call__(self, labels: Tensor, clients: int, draws: torch.Generator) -> list[Tensor]:
        """Rows of each client."""
        return partition.iid(labels, clients, draws)


@dataclass(frozen=True)
class Pooled:
    """Everything in one place, whatever the number of clients: the ceiling of what federated training could reach."""

    def __call__(self, labels: Tensor, clients: int, draws: torch.Generator) -> list[Tensor]:
        """Rows of each client."""
        return [torch.arange(len(labels))]
