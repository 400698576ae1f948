"""FedProx (Li et al. 2020): a proximal term keeps the local model near the received one."""

from __future__ import annotations

from torch import Tensor

from fedlib import require
from fedlib.algorithms.fedavg import FedAvg
from fedlib.executors import Context, per_sample
from fedlib.losses import proximal
from fedlib.models.net import Net, State


class FedProx(FedAvg):
    """Local objective: cross-entropy + mu/2 ||w - w_received||^2 (equation 2). mu = 0 is FedAvg."""

    def __init__(self, mu: float = 0.01):
        self.mu = require.real("mu", mu, least=0)

    @per_sample
    def objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        return super().objective(net, state, x, y, context) + proximal(net.weights(state), context.received, self.mu)
