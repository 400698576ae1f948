"""Mixup as local training (Mendieta et al. 2022, section 3; Zhang et al. 2018): pictures and labels between two."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from fedlib import require
from fedlib.algorithms.fedavg import FedAvg
from fedlib.data import margin
from fedlib.executors import Context, per_sample
from fedlib.federation import Federation, Phase
from fedlib.models.net import Net, State


class Mixup(FedAvg):
    """Local objective: lambda CE(f(x~), y) + (1 - lambda) CE(f(x~), y') with x~ = lambda x + (1 - lambda) x', where
    (x', y') is the batch in another order and lambda ~ Beta(gamma, gamma), one for each batch. gamma = 0 is FedAvg, bit
    for bit.

    Partners are the client's own, of the classes that it has. They travel in a margin below the pictures: the network
    has to look at the rows above it alone. Nothing else than FedAvg's weights is sent. Raises ValueError for samples
    that are no pictures with classes, and for a network that looks at the margin.
    """

    def __init__(self, gamma: float = 0.2):
        self.gamma = require.real("gamma", gamma, least=0)

    def setup(self, fed: Federation) -> None:
        if self.gamma:
            needs_margin(fed, "Mixup")

    def phases(self, fed: Federation) -> list[Phase]:
        (plain,) = super().phases(fed)
        if not self.gamma:
            return [plain]
        x = margin.noted(fed.input(fed.x), fed.y[:, None])
        return [Phase(self.objective, x, fed.y, fed.split, plain.epochs, margin.Mixing(self.gamma, plain.augment))]

    @per_sample
    def objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        if not self.gamma:
            return super().objective(net, state, x, y, context)
        partner, share = margin.note(x, 0).long(), margin.note(x, 1)
        log_p = log_softmax(net(state, x, train=True), -1)
        own, other = (log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1) for target in (y, partner))
        return -(share * own + (1 - share) * other).mean(-1)


def needs_margin(fed: Federation, method: str) -> None:
    """Raises ValueError unless samples are pictures [N, C, H, W] with classes [N], and the network answers the same
    whatever stands in a row below them.
    """
    x = fed.input(fed.x[:1])
    if x.ndim != 4 or fed.y.ndim != 1 or fed.y.is_floating_point():
        raise ValueError(
            f"{method} leaves notes below pictures: expected x [N, C, H, W] and classes y [N], "
            f"got {list(fed.x.shape)} and {fed.y.dtype} {list(fed.y.shape)}"
        )
    note = x.new_full((1, 1), 3.0)
    try:
        above, below = fed.net.predict(fed.state, x), fed.net.predict(fed.state, margin.noted(x, note))
    except RuntimeError as error:
        raise ValueError(f"{method}: the network cannot read pictures with a margin: {error}") from error
    if above.shape != below.shape or not torch.equal(above, below):
        raise ValueError(
            f"{method}: the network looks at the margin below its pictures, where notes stand; "
            f"give it a height, such as SlimResNet(height={x.shape[-2]})"
        )
