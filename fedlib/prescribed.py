"""Training that data prescribe: steps of gradient descent as a function of their samples, soft labels and rates.

Whoever has such data and the first weights gets the network; and the end can be differentiated with respect to the
data, through all steps (:mod:`fedlib.condense`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.functional import log_softmax, softplus

from fedlib.models.net import Net, State


class Distilled(NamedTuple):
    """Distilled data: ``images`` [S, B, ...], ``labels`` [S, B, C] as logits of soft labels, and ``rates`` [E S], the
    learning rates before the softplus that keeps them positive.
    """

    images: Tensor
    labels: Tensor
    rates: Tensor

    def payload(self) -> State:
        """What travels: S B (dim x + C) + E S numbers."""
        return self._asdict()

    def prescription(self) -> Steps:
        """The steps that a network is to take."""
        passes = len(self.rates) // len(self.images)

        def again(t: Tensor) -> Tensor:
            return t.repeat(passes, *[1] * (t.ndim - 1))

        return Steps(again(self.images), again(self.labels), softplus(self.rates))


class Steps(NamedTuple):
    """Steps of gradient descent: their batches [M, B, ...], the logits of their soft labels [M, B, C], rates [M]."""

    x: Tensor
    labels: Tensor
    rates: Tensor


def one_after_another(parts: Sequence[Distilled], alternating: bool = False) -> Steps:
    """The steps of several clients: all of the first client's, then all of the next, or ``alternating``: everybody's
    first step, then everybody's second.
    """
    steps = [part.prescription() for part in parts]
    if alternating:
        return Steps(*(torch.stack(each, 1).flatten(0, 1) for each in zip(*steps, strict=True)))
    return Steps(*map(torch.cat, zip(*steps, strict=True)))


def soft_cross_entropy(logits: Tensor, label_logits: Tensor) -> Tensor:
    """Cross-entropy of softmax(logits) and the soft labels softmax(label_logits), both [..., B, C]: the mean over each
    batch, [...].
    """
    return -(label_logits.softmax(-1) * log_softmax(logits, -1)).sum(-1).mean(-1)


def follow(net: Net, start: State, steps: Steps, number: int | None = None) -> State:
    """The weights after the first ``number`` steps (all of them): w <- w - rate * gradient on the step's batch.

    Differentiable in the steps, where they require gradients. Raises ValueError for a network with buffers or dropout:
    its steps are no function of its weights.
    """
    pure(net)
    alone = Steps(*(part[:number].unsqueeze(1) for part in steps))
    reached = follow_all(forward_of(net, 1), {n: w[None] for n, w in start.items()}, alone)
    return {n: w[0] for n, w in reached.items()}


Forward = Callable[[State, Tensor], Tensor]


def forward_of(net: Net, count: int) -> Forward:
    """The network for a stack of so many weights and batches: logits [count, B, C]."""

    def one(weights: State, x: Tensor) -> Tensor:
        return net(weights, x, train=True)

    if count > 1:
        return vmap(one)
    return lambda weights, x: one({n: w[0] for n, w in weights.items()}, x[0])[None]


@torch.enable_grad()
def follow_all(forward: Forward, start: State, steps: Steps) -> State:
    """Weights [P, ...] after steps of batches [M, P, B, ...], labels [M, P, B, C] and rates [M, P]."""
    learning = any(part.requires_grad for part in steps)
    weights = {n: w.detach().requires_grad_() for n, w in start.items()}
    for x, labels, rates in zip(*(part.unbind() for part in steps), strict=True):
        loss = soft_cross_entropy(forward(weights, x), labels).sum()  # nobody's weights move another's
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=learning)
        moved = zip(weights.items(), slopes, strict=True)
        weights = {n: w - rates.reshape(-1, *[1] * (w.ndim - 1)) * slope for (n, w), slope in moved}
        if not learning:
            weights = {n: w.detach().requires_grad_() for n, w in weights.items()}
    return weights if learning else {n: w.detach() for n, w in weights.items()}


def side_by_side(many: Sequence[Steps]) -> Steps:
    """Equally many steps of several networks as :func:`follow_all` takes them: [M, P, ...]."""
    return Steps(*(torch.stack(each, 1) for each in zip(*many, strict=True)))


def stacked(states: Sequence[Mapping[str, Tensor]]) -> State:
    """Weights of several networks as one stack [P, ...]."""
    return {n: torch.stack([state[n] for state in states]) for n in states[0]}


def pure(net: Net) -> None:
    """Raises ValueError for a network with buffers or dropout."""
    if net.buffers or any(isinstance(m, nn.modules.dropout._DropoutNd) for m in net.module.modules()):
        what = f"buffers {', '.join(net.buffers)}" if net.buffers else "dropout"
        raise ValueError(f"the network has {what}: its training is no function of weights and data; take one without")
