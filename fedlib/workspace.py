"""What local steps of many clients read and write, and one such step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedlib import rng, stacking
from fedlib.executors import Context, Objective, Task
from fedlib.models.net import State
from fedlib.optim import SGD, Memory
from fedlib.plan import Batch, Plan
from fedlib.stacking import Stack, StackedNet

Update = Callable[[State, State, Memory], None]
"""Changes weights in place, given their gradients and the optimiser's memory."""


class Workspace:
    """Tensors of K clients: ``states``, what they ``received`` (one state for all where all received the same object),
    what they keep of their ``own``, the optimiser's ``memory``, the sums of their losses in ``totals`` [K], and the
    plan's ``rows``, ``share`` and ``counts`` on the device.
    """

    def __init__(self, net: StackedNet, plan: Plan, objective: Objective, optimiser: SGD):
        tasks, device = plan.tasks, net.device
        self.net, self.plan, self.objective, self.optimiser = net, plan, objective, optimiser
        self.x, self.y, self.clients = plan.x, plan.y, len(tasks)
        self.prepare, self.augment, self.round = tasks[0].prepare, tasks[0].augment, tasks[0].context.round
        self.states = stacking.take([t.state for t in tasks])
        received: Mapping[str, Tensor] = tasks[0].context.received
        if any(t.context.received is not received for t in tasks):
            received = stacking.take([t.context.received for t in tasks])
        self.received = received
        self.own = stacking.take([t.context.own for t in tasks])
        self.memory = optimiser.start(net.weights(self.states))
        self.totals = torch.zeros(len(tasks), device=device, dtype=net.dtype)
        self.rows, self.counts = (torch.from_numpy(v).to(device) for v in (plan.rows, plan.counts))
        self.share = torch.from_numpy(plan.share).to(device, net.dtype)
        self.keys = keys(tasks).to(device) if draws_by_row(self.augment) else None

    def batch(self, i: int) -> Batch:
        """Step ``i`` of the clients that are at work then, no wider than it must be."""
        width, k = self.plan.widths[i], self.plan.at_work[i]
        share = self.share[i, :width, :k]
        counts = None if self.plan.even[i] else self.counts[i, :k]
        return Batch(self.rows[i, :width, :k], share, share, counts, self.plan.least[i], i)

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Inputs [B, k, 1, ...] and targets [B, k, 1, ...], in memory as the network wants them."""
        rows = batch.rows.T if self.net.clients_first else batch.rows
        x, y = self.x[rows], self.y[rows]
        if self.prepare:
            x = self.prepare(x.flatten(0, 1)).unflatten(0, rows.shape)
        if self.net.clients_first:
            x, y = x.transpose(0, 1), y.transpose(0, 1)
        if self.keys is not None:
            assert self.augment is not None
            drawn = rng.rows(self.keys[: x.shape[1]], batch.step, len(x))
            x = self.augment(x.flatten(0, 1), rng.Rows(drawn.flatten())).unflatten(0, drawn.shape)
        elif self.augment:
            assert isinstance(batch.step, int)
            x = self.plan.augmented(x, batch.step)
        return x.unsqueeze(2), y.unsqueeze(2)


class Step:
    """One step of the first k clients of a workspace, in the memory of all; ``update`` is the optimiser's rule."""

    def __init__(self, work: Workspace, k: int, update: Update, context: type[Context] = Context):
        self.work, self.clients, self.update = work, k, update
        self.now = stacking.first(work.states, k)
        self.leaves = {n: self.now[n].requires_grad_() for n in work.net.parameters}
        self.params = {n: w.detach() for n, w in self.leaves.items()}
        self.memory: Memory = {m: {n: v[:k] for n, v in slot.items()} for m, slot in work.memory.items()}
        self.totals = work.totals[:k]
        anchor = stacking.first(work.received, k) if isinstance(work.received, Stack) else work.received
        self.context = context(anchor, stacking.first(work.own, k), work.round)

    def __call__(self, batch: Batch) -> None:
        """Take it: weights, statistics, memory and totals change in place."""
        net = self.work.net
        x, y = self.work.inputs(batch)
        net.weigh(batch.norm_share, batch.counts, batch.least)
        each = self.work.objective(net, self.now, x, y, self.context)  # type: ignore[arg-type]
        losses = (each * batch.share).sum(0)
        grads = torch.autograd.grad(losses.sum(), list(self.leaves.values()))
        self.update(self.params, dict(zip(self.leaves, grads, strict=True)), self.memory)
        self.totals.add_(losses.detach())


def plainly(optimiser: SGD, lr: float) -> Update:
    """The optimiser's rule as it is written, with this rate."""
    return lambda params, grads, memory: optimiser.step(params, grads, memory, lr)


def draws_by_row(augment: Callable | None) -> bool:
    """Whether a change of batches takes draws that are named by client, step and row, and made on the device."""
    return getattr(augment, "several", False)


def keys(tasks: list[Task]) -> Tensor:
    """The key [K] of every client's draws."""
    return torch.tensor([rng.key(*t.key) for t in tasks])
