"""FedOpt (Reddi et al. 2021, Algorithm 2): the server's step is an optimiser's, on the clients' mean update."""

from __future__ import annotations

import torch
from torch import Tensor

from fedlib import require
from fedlib.algorithms.fedavg import FedAvg
from fedlib.federation import Federation
from fedlib.models.net import State

SECOND_MOMENT = {
    "adagrad": lambda v, square, beta2: v + square,
    "adam": lambda v, square, beta2: beta2 * v + (1 - beta2) * square,
    "yogi": lambda v, square, beta2: v - (1 - beta2) * square * torch.sign(v - square),
}
"""v_t from v_{t-1}, the squared mean update and beta2, entry by entry."""


class FedOpt(FedAvg):
    """Server step with the mean update D of the round, which already points downhill (hence the plus sign).

    ``"adagrad"``, ``"adam"``, ``"yogi"``: m <- beta1 m + (1 - beta1) D, v by :data:`SECOND_MOMENT`, w <- w + lr m /
    (sqrt(v) + tau), from m = 0 and v = tau^2, without bias correction, as in the final version of the paper. There
    FedAdagrad has beta1 = 0. ``"sgd"``: m <- beta1 m + D, w <- w + lr m, which is FedAvgM, and with beta1 = 0 and
    lr = 1 FedAvg bit for bit. Buffers are averaged, never stepped on. ``weighting`` of D: ``"samples"`` or
    ``"uniform"``. Raises ValueError for an unknown optimiser or rates that cannot work.
    """

    def __init__(
        self,
        optimiser: str = "adam",
        lr: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.99,
        tau: float = 1e-3,
        weighting: str = "samples",
    ):
        if optimiser not in ("sgd", *SECOND_MOMENT):
            raise ValueError(f"optimiser must be 'sgd', {', '.join(map(repr, SECOND_MOMENT))}, got {optimiser!r}")
        self.optimiser, self.weighting = optimiser, weighting
        self.lr, self.tau = require.real("lr", lr, above=0), require.real("tau", tau, above=0)
        self.beta1, self.beta2 = (
            require.real(name, beta, least=0, below=1) for name, beta in (("beta1", beta1), ("beta2", beta2))
        )

    def setup(self, fed: Federation) -> None:
        for n in set(fed.net.parameters) - set(fed.personal):
            fed.memory[f"m/{n}"] = torch.zeros_like(fed.state[n])
            fed.memory[f"v/{n}"] = torch.full_like(fed.state[n], self.tau**2)

    def aggregate(self, fed: Federation, uploads: list[State], weights: Tensor) -> None:
        before = fed.state
        super().aggregate(fed, uploads, weights)
        for n in (n for n in fed.net.parameters if n not in fed.personal):
            update = fed.state[n] - before[n]
            step = self.lr * self.direction(fed.memory, n, update)
            # Written as a correction to the mean, so that the plain case gives FedAvg's bits.
            fed.state[n] = fed.state[n] + (step - update)

    def direction(self, memory: State, n: str, update: Tensor) -> Tensor:
        """What the learning rate multiplies, for the entry ``n`` of the state; moves its m and v on by a round."""
        fresh = 1.0 if self.optimiser == "sgd" else 1 - self.beta1
        m = memory[f"m/{n}"] = self.beta1 * memory[f"m/{n}"] + fresh * update
        if self.optimiser == "sgd":
            return m
        v = memory[f"v/{n}"] = SECOND_MOMENT[self.optimiser](memory[f"v/{n}"], update.square(), self.beta2)
        return m / (v.sqrt() + self.tau)

    aggregate.of_mean = True  # type: ignore[attr-defined]
