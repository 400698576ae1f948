"""Local training: what a client's work is, and the readable way to do it, one client after the other.

An executor is a function of the signature of :func:`sequential`. All take the same tasks and give the same weights (to
1e-10 in float64): a step depends only on the client's own weights and on its own next batch. Algorithms never see
which one runs. The others: :mod:`fedlib.batched` (many clients in one computation), :mod:`fedlib.threads` (on all
cores), :mod:`fedlib.actors` (on many machines); :mod:`fedlib.choice` picks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from fedlib import rng
from fedlib.models.net import Net, State, clone
from fedlib.optim import SGD, Memory


@dataclass
class Context:
    """What a local objective may look at besides weights and batch.

    ``received``: the state that the client started the round from (frozen: a teacher or an anchor).
    ``own``: tensors that the algorithm keeps for this client. ``round``: the round's number, from 0.
    """

    received: Mapping[str, Tensor]
    own: Mapping[str, Tensor] = field(default_factory=dict)
    round: int = 0


Objective = Callable[[Net, State, Tensor, Tensor, Context], Tensor]
Executor = Callable[[Net, list["Task"], Objective, SGD, float], list[float]]
Function = TypeVar("Function", bound=Callable)


def per_sample(objective: Function) -> Function:
    """Mark a local objective as a mean over samples, so that many clients may be computed together.

    The promise: it is the mean over the batch of terms that each depend on one sample (BatchNorm inside the network
    does not count), plus terms of the weights alone; and leading dimensions are kept, as everything in
    :mod:`fedlib.losses` keeps them: logits [B, K, n, C] and targets [B, K, n] give [B, K], stacked weights [K]. It
    decides nothing by the values of a tensor (``if t.max() > 1``, ``float(t)``, ``t[t > 0]``). The promise is tried
    before it is relied on (:mod:`fedlib.promise`). An objective without the mark is right, too: its clients are
    computed one after the other.
    """
    objective.per_sample = True  # type: ignore[attr-defined]
    return objective


@dataclass
class Task:
    """One client's local work in one phase.

    ``state`` is where it starts; an executor puts the result in its place and leaves the old tensors alone.
    ``samples`` [n] are the client's rows of x and y, and ``order`` [epochs, n] the order in which each epoch takes
    them (both on the host); an epoch's last batch may be smaller. ``prepare`` turns raw samples into the network's
    input; ``augment(x, source)`` then changes a batch. Its draws depend on ``key`` and on the step: they come from
    :class:`~fedlib.rng.Rows` if it is marked (:func:`fedlib.data.augment.by_row`), else from a generator on the host.
    """

    client: int
    state: State
    context: Context
    x: Tensor
    y: Tensor
    samples: Tensor
    order: Tensor
    batch_size: int
    prepare: Callable[[Tensor], Tensor] | None = None
    augment: Callable[[Tensor, Any], Tensor] | None = None
    key: tuple[int | str, ...] = ()

    @property
    def steps(self) -> int:
        """Number of local steps."""
        return len(self.sizes)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Samples of each local step's batch."""
        full, rest = divmod(len(self.samples), self.batch_size)
        return ((self.batch_size,) * full + (rest,) * (rest > 0)) * len(self.order)

    def input(self) -> Tensor:
        """One sample [1, ...] as the network gets it; a copy, which may be changed."""
        first = self.x[:1].clone()
        x = self.prepare(first) if self.prepare else first
        return self.augment(x, self._draws(0, 1, x.device)) if self.augment else x

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of the local steps, one after the other."""
        steps = (
            batch for epoch in self.samples[self.order].to(self.x.device) for batch in epoch.split(self.batch_size)
        )
        for i, rows in enumerate(steps):
            x = self.prepare(self.x[rows]) if self.prepare else self.x[rows]
            yield (self.augment(x, self._draws(i, len(x), x.device)) if self.augment else x), self.y[rows]

    def _draws(self, step: int, width: int, device: torch.device) -> rng.Source:
        """What the augmentation of a step's batch draws from."""
        if not getattr(self.augment, "several", False):
            return rng.stream(*self.key, step)
        return rng.Rows(rng.rows(torch.tensor([rng.key(*self.key)], device=device), step, width)[:, 0])


class Diverged(ArithmeticError):
    """The local loss of a client stopped being finite."""

    def __init__(self, round_: int, client: int, loss: float):
        super().__init__(
            f"round {round_}, client {client}: the local loss is {loss}; training diverged "
            "(try a lower learning rate, fewer local epochs or a smaller extra term)"
        )
        self.round, self.client, self.loss = round_, client, loss

    def __reduce__(self) -> tuple:
        return type(self), (self.round, self.client, self.loss)


def sequential(net: Net, tasks: list[Task], objective: Objective, optimiser: SGD, lr: float) -> list[float]:
    """One client after the other, one step after the other: the reference. Returns each client's mean batch loss."""
    means = []
    for task in tasks:
        state, memory = clone(task.state), Memory()
        leaves = {n: state[n].requires_grad_() for n in net.parameters}
        params = {n: w.detach() for n, w in leaves.items()}  # the same memory, for the update in place
        total = torch.zeros((), device=net.device, dtype=net.dtype)
        for x, y in task.batches():
            loss = objective(net, state, x, y, task.context)
            grads = torch.autograd.grad(loss, list(leaves.values()))
            optimiser.step(params, dict(zip(leaves, grads, strict=True)), memory, lr)
            total += loss.detach()
        task.state = {n: t.detach() for n, t in state.items()}
        means.append(mean_loss(float(total), task))
    return means


def mean_loss(total: float, task: Task) -> float:
    """Mean batch loss of a task; raises Diverged when it is not finite."""
    mean = total / max(1, task.steps)
    if not math.isfinite(mean):
        raise Diverged(task.context.round, task.client, mean)
    return mean
