"""Per-FedAvg (Fallah, Mokhtari and Ozdaglar 2020): clients train a start that is good after one step of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from fedlib import require, rng
from fedlib.algorithms.fedavg import FedAvg
from fedlib.executors import Context, per_sample
from fedlib.federation import Federation, Phase
from fedlib.models.net import Net, State
from fedlib.stacking import Stack

Weights = TypeVar("Weights", bound=State)
Risk = Callable[[State], Tensor]
"""Mean loss of a batch as a function of the weights: a scalar, or [K] for a stack of K clients."""

VARIANTS = ("fo", "hf", "exact")


def slope(risk: Risk, weights: Weights) -> tuple[Tensor, Weights]:
    """The risk at these weights, and its gradient; neither has a graph."""
    leaves = type(weights)({n: w.detach().requires_grad_() for n, w in weights.items()})
    value = risk(leaves)
    grads = torch.autograd.grad(value.sum(), list(leaves.values()))
    return value.detach(), type(weights)(dict(zip(leaves, grads, strict=True)))


def moved(weights: Weights, direction: State, rate: float | Tensor) -> Weights:
    """w + rate d, entry by entry; for a stack ``rate`` may be [K], one for each client."""

    def lying(w: Tensor) -> float | Tensor:
        return rate.view(-1, *[1] * (w.ndim - 1)) if isinstance(rate, Tensor) and rate.ndim else rate

    return type(weights)({n: w.detach() + lying(w) * direction[n] for n, w in weights.items()})


def curvature(risk: Risk, weights: Weights, direction: State) -> Weights:
    """The Hessian of the risk times a direction, exactly: the gradient of <gradient, direction>."""
    leaves = type(weights)({n: w.detach().requires_grad_() for n, w in weights.items()})
    grads = torch.autograd.grad(risk(leaves).sum(), list(leaves.values()), create_graph=True)
    along = torch.stack([(g * d).sum() for g, d in zip(grads, direction.values(), strict=True)]).sum()
    found = torch.autograd.grad(along, list(leaves.values()), allow_unused=True)
    return type(weights)(
        {n: torch.zeros_like(w) if h is None else h for (n, w), h in zip(leaves.items(), found, strict=True)}
    )


def difference(risk: Risk, weights: Weights, direction: State, delta: float) -> Weights:
    """The same from two gradients: [grad(w + e u) - grad(w - e u)] |d| / (2 e), with u = d / |d|.

    e = delta sqrt(1 + |w|^2): the weights move by a share ``delta`` of their own size, whatever the size of the
    direction, so that in float32 the difference is more than rounding. The paper's delta is e / |d|.
    """
    stacked = isinstance(weights, Stack)
    size, reach = norm(direction, stacked), delta * (1 + norm(weights, stacked).square()).sqrt()
    share = reach / size.clamp_min(torch.finfo(size.dtype).tiny)
    (_, above), (_, below) = (slope(risk, moved(weights, direction, side * share)) for side in (1, -1))
    return moved(
        type(weights)({n: torch.zeros_like(g) for n, g in above.items()}), moved(above, below, -1.0), 0.5 / share
    )


def norm(weights: State, stacked: bool) -> Tensor:
    """Euclidean norm of all weights together: a scalar, or [K] for a stack."""
    parts = [w.detach().square().flatten(int(stacked)).sum(-1) for w in weights.values()]
    return torch.stack(parts).sum(0).sqrt()


def meta_gradient(
    risks: tuple[Risk, Risk, Risk], weights: Weights, alpha: float, variant: str = "hf", delta: float = 1e-3
) -> tuple[Tensor, Weights]:
    """The risk after one step, and its gradient (equation 8 with its three batches): (I - alpha H'') g'.

    ``risks`` are those of three independent batches D, D', D'': the step w - alpha grad is taken on D, the gradient g'
    there on D', the Hessian H'' at w on D''. ``variant``: ``"fo"`` leaves H'' out, ``"hf"`` takes a difference of two
    gradients for H'' g', ``"exact"`` differentiates twice. Gradients: 2, 4, and 3 with one more pass through the last.
    Raises ValueError for another variant, for ``alpha`` below 0, for ``delta`` not above 0, and for no numbers.
    """
    require.one_of("variant", variant, VARIANTS)
    alpha, delta = require.real("alpha", alpha, least=0), require.real("delta", delta, above=0)
    inner, outer, third = risks
    start = moved(weights, slope(inner, weights)[1], -alpha)
    value, ahead = slope(outer, start)
    if variant == "fo":
        return value, ahead
    bent = curvature(third, weights, ahead) if variant == "exact" else difference(third, weights, ahead, delta)
    return value, moved(ahead, bent, -alpha)


class PerFedAvg(FedAvg):
    """FedAvg of the loss *after* a step: clients descend F_k(w) = f_k(w - alpha grad f_k(w)) at the local rate.

    ``alpha`` is the rate of the step that a client will take on its own samples; ``variant`` is ``"fo"``, ``"hf"`` or
    ``"exact"`` and ``delta`` the share by which HF moves the weights (:func:`meta_gradient`). D' are the batches of
    FedAvg; D and D'' are as large and drawn by themselves from the same client: in every round each sample gets two
    companions, by two permutations of the client's samples. So a step looks at three batches where FedAvg looks at one.
    Only D' moves the statistics of BatchNorm. What travels is FedAvg's. Clients weigh as in FedAvg, or all alike as in
    the paper (``weighting="uniform"``). alpha = 0 is FedAvg, bit for bit.

    Raises ValueError for an augmentation: companions come as they are.
    """

    def __init__(self, alpha: float = 0.1, variant: str = "hf", delta: float = 1e-3, weighting: str = "samples"):
        self.alpha, self.delta = require.real("alpha", alpha, least=0), require.real("delta", delta, above=0)
        self.variant = require.one_of("variant", variant, VARIANTS)
        self.weighting = require.one_of("weighting", weighting, ("uniform", "samples"))

    def setup(self, fed: Federation) -> None:
        if self.alpha and fed.local.augment:
            raise ValueError("Per-FedAvg takes batches as they are; give Local no augment")
        if self.alpha and (fed.y.ndim != 1 or fed.y.is_floating_point()):
            raise ValueError(f"Per-FedAvg learns classes [N], got targets {fed.y.dtype} {list(fed.y.shape)}")

    def phases(self, fed: Federation) -> list[Phase]:
        (plain,) = super().phases(fed)
        return [replace(plain, y=companions(fed))] if self.alpha else [plain]

    def context(self, fed: Federation, client: int) -> State:
        """``pool`` [M, ...]: all samples of the client, as the network takes them, padded to those of the largest."""
        own, most = fed.split[client], max(map(len, fed.split))
        return {"pool": fed.input(fed.x[torch.cat([own, own[:1].expand(most - len(own))])])} if self.alpha else {}

    @per_sample
    def objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        if not self.alpha:
            return super().objective(net, state, x, y, context)
        weights = net.weights(state)
        places = [y[..., 1], y[..., 3]]
        batches = [(taken(context.own["pool"], at), y[..., i]) for at, i in zip(places, (2, 4), strict=True)]
        each: list[Tensor] = []

        def risk(x: Tensor, y: Tensor, here: bool = False) -> Risk:
            def of(weights: State) -> Tensor:
                statistics = {n: state[n] if here else state[n].clone() for n in net.buffers}
                loss = super(PerFedAvg, self).objective(net, type(state)({**statistics, **weights}), x, y, context)
                if here:
                    each.append(loss.detach())
                return mean(net, loss)

            return of

        risks = risk(*batches[0]), risk(x, y[..., 0], here=True), risk(*batches[1])
        _, direction = meta_gradient(risks, weights, self.alpha, self.variant, self.delta)
        first = int(isinstance(weights, Stack))
        along = torch.stack([(w * direction[n]).flatten(first).sum(-1) for n, w in weights.items()]).sum(0)
        return each[0] + (along - along.detach())  # the loss after the step, and the direction as its gradient


def companions(fed: Federation) -> Tensor:
    """Targets [N, 5] of a round: each sample's class, and place and class of its companions in D and in D''.

    Places count among the client's own samples. Whatever batch of B samples the local work takes as D', their
    companions are B of the client's samples at random, drawn without regard to it.
    """
    told = torch.zeros(len(fed.y), 5, dtype=torch.int64, device=fed.device)
    told[:, 0] = fed.y
    for k, rows in enumerate(fed.split):
        draws = rng.stream(fed.seed, "companions", fed.round, k)
        for column in (1, 3):
            places = torch.randperm(len(rows), generator=draws).to(fed.device)
            told[rows, column], told[rows, column + 1] = places, fed.y[rows[places]]
    return told


def taken(pool: Tensor, places: Tensor) -> Tensor:
    """Samples of a pool [M, ...] at places [B]; of pools [K, M, ...] at places [B, K, 1]."""
    if places.ndim == 1:
        return pool[places]
    return pool[torch.arange(len(pool), device=pool.device), places.squeeze(-1)].unsqueeze(2)


def mean(net: Net, each: Tensor) -> Tensor:
    """The mean over a client's batch: a scalar as it is; of values [B, K] in a stack [K], padding not counted."""
    return each if each.ndim == 0 else (each * net._share).sum(0)  # type: ignore[attr-defined]


class Updated(FedAvg):
    """FedAvg + update: trained as FedAvg, and judged after a step at the rate ``alpha`` on a client's own samples.
    ``weighting`` as for :class:`PerFedAvg`.
    """

    def __init__(self, alpha: float = 0.1, weighting: str = "samples"):
        self.alpha = require.real("alpha", alpha, least=0)
        self.weighting = require.one_of("weighting", weighting, ("uniform", "samples"))
