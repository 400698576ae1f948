"""Ditto (Li et al. 2021, ICML): beside FedAvg, every client has a model of its own that is pulled to the global one."""

from __future__ import annotations

from torch import Tensor

from fedlib import require
from fedlib.algorithms.fedavg import FedAvg
from fedlib.executors import Context, per_sample
from fedlib.federation import Federation
from fedlib.losses import cross_entropy, proximal
from fedlib.models.net import Net, State


class Ditto(FedAvg):
    """Own model: cross-entropy + mu/2 ||v_k - w_received||^2 (equation 1); shared model: FedAvg, which it never moves.

    The network is a :class:`~fedlib.models.twin.Twin`; both parts train on the same batches. The paper's strength is
    lambda. mu = 0 is training alone beside FedAvg. Raises ValueError for another network.
    """

    personal = ("own.*",)

    def __init__(self, mu: float = 1.0):
        self.mu = require.real("mu", mu, least=0)

    def setup(self, fed: Federation) -> None:
        if not any(n.startswith("own.") for n in fed.state) or not any(n.startswith("shared.") for n in fed.state):
            raise ValueError("Ditto trains a models.Twin: a network with the parts 'own' and 'shared'")

    @per_sample
    def objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        losses = [cross_entropy(net(state, x, train=True, part=part), y) for part in ("own", "shared")]
        weights = net.weights(state)
        own = type(weights)({n: w for n, w in weights.items() if n.startswith("own.")})
        anchor = {n: context.received[f"shared.{n.removeprefix('own.')}"] for n in own}
        return losses[0] + losses[1] + proximal(own, anchor, self.mu)
