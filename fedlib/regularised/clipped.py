"""Clipped local gradients, for any algorithm that is an objective: the control for methods that come with clipping."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from fedlib import require
from fedlib.algorithms.fedavg import FedAvg
from fedlib.executors import Context, per_sample
from fedlib.federation import Federation, Job, Phase
from fedlib.losses import inner
from fedlib.models.net import Net, State
from fedlib.optim import clip_norm


class Clipped(FedAvg):
    """``base`` with local gradients of a joint norm of ``most`` at most, in every step before momentum and decay.

    The released FedAlign clips at 10, and only itself. Raises ValueError for a base with several phases of local work.
    """

    def __init__(self, base: FedAvg | None = None, most: float = 10.0):
        self.base, self.most = base or FedAvg(), require.real("most", most, above=0)
        self.personal, self.weighting = self.base.personal, self.base.weighting

    def phases(self, fed: Federation) -> list[Phase]:
        phases = self.base.phases(fed)
        if len(phases) != 1 or getattr(phases[0].objective, "__func__", None) is not type(self.base).objective:
            raise ValueError(
                f"{type(self.base).__name__} is more than one objective: its gradients are not clipped here"
            )
        return [replace(phases[0], objective=self.objective)]

    @per_sample
    def objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        return clipped(net, state, self.base.objective(net, state, x, y, context), self.most)

    # Everything else is the base's.

    def setup(self, fed: Federation) -> None:
        self.base.setup(fed)

    def broadcast(self, fed: Federation) -> State:
        return self.base.broadcast(fed)

    def context(self, fed: Federation, client: int) -> State:
        return self.base.context(fed, client)

    def keep(self, fed: Federation, client: int, state: State) -> None:
        self.base.keep(fed, client, state)

    def upload(self, fed: Federation, client: int, state: State) -> State:
        return self.base.upload(fed, client, state)

    def aggregate(self, fed: Federation, uploads: list[State], weights: Tensor) -> Iterable[Job] | None:
        return self.base.aggregate(fed, uploads, weights)


def batch_mean(net: Net, each: Tensor) -> Tensor:
    """The mean over a client's batch: a scalar as it is; of values [B, K] in a stack [K], padding not counted."""
    return each if each.ndim == 0 else (each * net._share).sum(0)  # type: ignore[attr-defined]


def clipped(net: Net, state: State, each: Tensor, most: float) -> Tensor:
    """A loss with the same value and the gradient that :func:`~fedlib.optim.clip_norm` leaves of its own.

    ``each`` is what a local objective gives: a scalar, or [B, K] for a stack of K clients, each clipped by itself.
    """
    weights = net.weights(state)
    grads = torch.autograd.grad(batch_mean(net, each).sum(), list(weights.values()), allow_unused=True)
    found = {n: torch.zeros_like(w) if g is None else g for (n, w), g in zip(weights.items(), grads, strict=True)}
    kept = clip_norm(type(weights)(found), most)
    along = inner(weights, type(weights)(kept))
    return each.detach() + (along - along.detach())
