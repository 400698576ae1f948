"""FedLSD (Lee et al. 2021, arXiv:2106.03097v1): local self-distillation from the received global model."""

from __future__ import annotations

import math

from torch import Tensor

from fedlib import require
from fedlib.algorithms.fedavg import FedAvg
from fedlib.executors import Context, per_sample
from fedlib.losses import cross_entropy, kd
from fedlib.models.net import Net, State


class FedLSD(FedAvg):
    """Local objective: a CE + beta T^2 KL(received || local) over all classes.

    The factor a is 1 (additive form) or, with ``convex=True``, 1 - beta as in the first version of the paper; beta
    is not comparable between the two. beta = 0 is FedAvg. The teacher is the received model in evaluation mode.
    """

    def __init__(self, beta: float = 1.0, temperature: float = 3.0, convex: bool = False):
        self.beta = require.real("beta", beta, least=0, most=1 if convex else math.inf)
        self.temperature = require.real("temperature", temperature, above=0)
        self.weight = 1 - self.beta if convex else 1.0

    @per_sample
    def objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        logits, teacher = net(state, x, train=True), net(context.received, x)
        return self.weight * cross_entropy(logits, y) + self.beta * self.distance(logits, teacher, y)

    def distance(self, logits: Tensor, teacher: Tensor, y: Tensor) -> Tensor:
        """Distance to the teacher's prediction, batch mean; logits [B, C]."""
        return kd(logits, teacher, self.temperature)
