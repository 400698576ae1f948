"""MOON (Li, He and Song 2021, CVPR, Algorithm 1): contrast the representations of three models."""

from __future__ import annotations

from torch import Tensor

from fedlib import require
from fedlib.algorithms.fedavg import FedAvg
from fedlib.executors import Context, per_sample
from fedlib.federation import Federation
from fedlib.losses import cross_entropy, model_contrastive
from fedlib.models.net import Net, State


class Moon(FedAvg):
    """Local objective: cross-entropy + mu model_contrastive(z, z_global, z_previous). mu = 0 is FedAvg.

    z is the network's ``features``, what its output layer ``head`` gets: in the paper the output of a projection head
    (:class:`~fedlib.models.projected.Projected`). The global model is the one received this round; the previous one is
    the client's own after its own last local work, whenever that was; both are in evaluation mode. A client that never
    trained has none and takes the received model in its place: the two cosines are then equal, and the term has no
    gradient. What travels is what FedAvg sends. Each client keeps one model between rounds.
    """

    def __init__(self, mu: float = 1.0, temperature: float = 0.5):
        self.mu = require.real("mu", mu, least=0)
        self.temperature = require.real("temperature", temperature, above=0)

    @per_sample
    def objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        if not self.mu:
            return super().objective(net, state, x, y, context)
        z = net(state, x, train=True, features=True)
        z_global, z_previous = (net(old, x, features=True) for old in (context.received, context.own))
        return cross_entropy(net.linear(state, z), y) + self.mu * self.contrast(z, z_global, z_previous)

    def contrast(self, z: Tensor, z_global: Tensor, z_previous: Tensor) -> Tensor:
        """The term beside the cross-entropy, batch mean; representations [B, D]."""
        return model_contrastive(z, z_global, z_previous, self.temperature)

    def context(self, fed: Federation, client: int) -> State:
        return fed.memory.get("previous", {}).get(client, fed.state | fed.own.get(client, {}))

    def keep(self, fed: Federation, client: int, state: State) -> None:
        super().keep(fed, client, state)
        own = {n: t.clone() for n, t in state.items()}  # not a view of all clients' states
        fed.memory.setdefault("previous", {})[client] = own
