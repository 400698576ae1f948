"""SCAFFOLD (Karimireddy et al. 2020, ICML, Algorithm 1, option II): control variates against client drift."""

from __future__ import annotations

import torch
from torch import Tensor

from fedlib import require
from fedlib.algorithms.fedavg import FedAvg
from fedlib.executors import Context, per_sample
from fedlib.federation import Federation, weighted_mean
from fedlib.losses import inner
from fedlib.models.net import Net, State


class Scaffold(FedAvg):
    """Every local step follows g - c_k + c, and c_k becomes the mean of the gradients g of the client's own steps.

    Option II: after u steps of plain SGD, c_k <- c_k - c + (w_received - w_k) / (u lr). Under momentum a gradient goes
    into all later steps as well, so u becomes the sum over steps t of (1 - momentum^t) / (1 - momentum): c_k stays a
    weighted mean of gradients. The server steps by ``server_lr`` and adds to c the changes of the c_k, each weighted by
    its client's share in *all* clients. Both directions carry a model and a control: twice FedAvg's bytes.
    ``weighting`` is ``"uniform"`` as in the paper, or ``"samples"`` for an objective weighted by n_k / n.
    """

    def __init__(self, server_lr: float = 1.0, weighting: str = "uniform"):
        if weighting not in ("uniform", "samples"):
            raise ValueError(f"weighting must be 'uniform' or 'samples', got {weighting!r}")
        self.server_lr, self.weighting = require.real("server_lr", server_lr, above=0), weighting

    def setup(self, fed: Federation) -> None:
        if fed.local.epochs < 1:
            raise ValueError("SCAFFOLD measures gradients by local steps: at least one local epoch is needed")
        zero = {n: torch.zeros_like(fed.state[n]) for n in fed.net.parameters}
        fed.memory |= {"control": zero, "controls": dict.fromkeys(range(fed.clients), zero)}

    def broadcast(self, fed: Federation) -> State:
        return super().broadcast(fed) | {f"control/{n}": c for n, c in fed.memory["control"].items()}

    def context(self, fed: Federation, client: int) -> State:
        return {n: c - fed.memory["controls"][client][n] for n, c in fed.memory["control"].items()}

    @per_sample
    def objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        tilt = inner(net.weights(state), context.own)  # the gradient of <w, c - c_k> is c - c_k
        return super().objective(net, state, x, y, context) + tilt

    def upload(self, fed: Federation, client: int, state: State) -> State:
        local, old = fed.local, fed.memory["controls"][client]
        steps = local.epochs * -(-len(fed.split[client]) // local.batch_size)
        reach = local.lr * local.lr_decay**fed.round * self.reach(steps, local.momentum)
        tilt = self.context(fed, client)
        new = {n: (fed.state[n] - state[n]) / reach - tilt[n] for n in old}
        fed.memory["controls"][client] = new
        return super().upload(fed, client, state) | {f"control/{n}": new[n] - old[n] for n in new}

    def reach(self, steps: int, momentum: float) -> float:
        """How often the gradients of a client's steps enter its weights, all together; ``steps`` without momentum."""
        return float(sum(sum(momentum**i for i in range(t)) for t in range(1, steps + 1)))

    def aggregate(self, fed: Federation, uploads: list[State], weights: Tensor) -> None:
        sizes = [len(part) if self.weighting == "samples" else 1 for part in fed.split]
        share = sum(sizes[k] for k in fed.sample(fed.round)) / sum(sizes)
        mean, control = weighted_mean(uploads, weights), fed.memory["control"]
        fed.memory["control"] = {n: c + share * mean.pop(f"control/{n}") for n, c in control.items()}
        steps = {n: mean[n] - fed.state[n] for n in control}
        # Written as a correction to the mean, so that a server rate of one leaves FedAvg's bits.
        fed.state = {**fed.state, **mean} | {n: mean[n] + (self.server_lr - 1) * s for n, s in steps.items()}
