"""FedAvgM (Hsu, Qi and Brown 2019): momentum on the server."""

from __future__ import annotations

from torch import Tensor

from fedlib import require
from fedlib.algorithms.fedavg import FedAvg
from fedlib.federation import Federation
from fedlib.models.net import State


class FedAvgM(FedAvg):
    """Server step: v <- momentum v + (w - mean), w <- w - lr v. Without momentum and with lr = 1 it is FedAvg.

    Buffers are averaged, without momentum.
    """

    def __init__(self, momentum: float = 0.9, lr: float = 1.0):
        self.momentum = require.real("momentum", momentum, least=0, below=1)
        self.lr = require.real("lr", lr, above=0)

    def aggregate(self, fed: Federation, uploads: list[State], weights: Tensor) -> None:
        before = fed.state
        super().aggregate(fed, uploads, weights)
        for n in fed.net.parameters:
            if n in fed.personal:
                continue
            step = before[n] - fed.state[n]
            velocity = self.momentum * fed.memory[n] + step if n in fed.memory else step
            fed.memory[n] = velocity
            # Written as a correction to the mean, so that the plain case gives FedAvg's bits.
            fed.state[n] = fed.state[n] + (step - self.lr * velocity)

    aggregate.of_mean = True  # type: ignore[attr-defined]
