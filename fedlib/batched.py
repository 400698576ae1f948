"""Local training of many clients in one computation: every client takes its next step together with the others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fedlib import promise, rng, stacking
from fedlib.executors import Context, Objective, Task, mean_loss
from fedlib.models.net import Net
from fedlib.optim import SGD, Memory
from fedlib.stacking import Stack


def batched(net: Net, tasks: list[Task], objective: Objective, optimiser: SGD, lr: float) -> list[float]:
    """All clients at once, each with weights of its own. Returns each client's mean batch loss.

    Raises ValueError for a network or an objective that cannot be stacked.
    """
    if reason := unstackable(net, objective, tasks):
        raise ValueError(f"these clients cannot be computed together: {reason}; use executor 'auto' or 'sequential'")
    return train_stacked(net, tasks, objective, optimiser, lr)


def train_stacked(net: Net, tasks: list[Task], objective: Objective, optimiser: SGD, lr: float) -> list[float]:
    """The work of :func:`batched`, for what :func:`unstackable` has passed.

    Clients are ordered by their number of steps, so that those at work are always the first k of the stack. Smaller
    batches are padded, and padding weighs nothing: clients of uneven size, clients smaller than a batch and BatchNorm
    mean exactly what they mean in :func:`~fedlib.executors.sequential`.
    """
    stacked, given = stacking.stacked(net), tasks
    tasks = sorted(given, key=lambda t: -t.steps)
    plan = _Plan(tasks, net.dtype, stacked.clients_first)
    states = stacking.take([t.state for t in tasks])
    received: Mapping[str, Tensor] = tasks[0].context.received
    if any(t.context.received is not received for t in tasks):
        received = stacking.take([t.context.received for t in tasks])
    own = stacking.take([t.context.own for t in tasks])
    totals = torch.zeros(len(tasks), device=net.device, dtype=net.dtype)
    velocity: Memory = {}
    k = 0
    for i in range(tasks[0].steps):
        if plan.at_work[i] != k:  # the first k clients, in the memory of all
            k = plan.at_work[i]
            now = stacking.first(states, k)
            leaves = {n: now[n].requires_grad_() for n in net.parameters}
            params = {n: w.detach() for n, w in leaves.items()}
            memory = {m: {n: v[:k] for n, v in slot.items()} for m, slot in velocity.items()}
            anchor = stacking.first(received, k) if isinstance(received, Stack) else received
            context = Context(anchor, stacking.first(own, k), tasks[0].context.round)
        x, y = plan.batch(i)
        share = plan.share[i, : plan.widths[i], :k]
        stacked.weigh(share, None if plan.even[i] else plan.counts[i, :k])
        each = objective(stacked, now, x, y, context)  # type: ignore[arg-type]
        losses = (each * share).sum(0)
        grads = torch.autograd.grad(losses.sum(), list(leaves.values()))
        optimiser.step(params, dict(zip(leaves, grads, strict=True)), memory, lr)
        velocity = velocity or memory
        totals[:k] += losses.detach()
    parts = {n: t.unbind() for n, t in states.items()}
    for row, task in enumerate(tasks):
        task.state = {n: part[row] for n, part in parts.items()}
    sums = {id(t): total for total, t in zip(totals.tolist(), tasks, strict=True)}
    return [mean_loss(sums[id(t)], t) for t in given]


class _Plan:
    """Which samples every client takes at every step: ``rows`` [steps, B, K], padded with its first, without weight."""

    def __init__(self, tasks: list[Task], dtype: torch.dtype, clients_first: bool):
        self.clients_first = clients_first
        self.tasks, self.x, self.y, device = tasks, tasks[0].x, tasks[0].y, tasks[0].x.device
        samples = [t.samples.numpy() for t in tasks]
        if any(
            t.x is not self.x or t.y is not self.y for t in tasks
        ):  # several data sets: bring their samples together
            self.x, self.y = (torch.cat([getattr(t, v)[t.samples] for t in tasks]) for v in "xy")
            ends = np.cumsum([len(own) for own in samples])
            samples = [np.arange(end - len(own), end) for end, own in zip(ends, samples, strict=True)]
        self.sizes = [t.sizes for t in tasks]
        steps, width = len(self.sizes[0]), max(s[0] for s in self.sizes)
        rows = np.empty((steps, width, len(tasks)), dtype=np.int64)
        counts = np.zeros((steps, len(tasks)), dtype=np.int64)
        for k, (task, own, sizes) in enumerate(zip(tasks, samples, self.sizes, strict=True)):
            wide = own[task.order.numpy()]
            if rest := -len(own) % sizes[0]:
                wide = np.pad(wide, ((0, 0), (0, rest)), constant_values=own[0])
            rows[:, :, k] = own[0]
            rows[: len(sizes), : sizes[0], k] = wide.reshape(-1, sizes[0])
            counts[: len(sizes), k] = sizes
        real = np.arange(width)[:, None] < counts[:, None]
        self.at_work = (counts > 0).sum(1).tolist()
        self.widths = counts.max(1).tolist()
        self.even = [len(set(row[:k])) == 1 for row, k in zip(counts.tolist(), self.at_work, strict=True)]
        self.rows, self.counts = (torch.from_numpy(v).to(device) for v in (rows, counts))
        self.share = torch.from_numpy(real / np.maximum(counts, 1)[:, None]).to(device, dtype)

    def batch(self, i: int) -> tuple[Tensor, Tensor]:
        """Step ``i``: inputs [B, k, 1, ...] and targets [B, k, 1, ...] of the k clients at work, in memory as the
        network wants them.
        """
        width, k, task = self.widths[i], self.at_work[i], self.tasks[0]
        rows = self.rows[i, :width, :k]
        rows = rows.T if self.clients_first else rows
        x, y = self.x[rows], self.y[rows]
        if task.prepare:
            x = task.prepare(x.flatten(0, 1)).unflatten(0, rows.shape)
        if self.clients_first:
            x, y = x.transpose(0, 1), y.transpose(0, 1)
        if task.augment:
            x = self._augmented(x, i, k)
        return x.unsqueeze(2), y.unsqueeze(2)

    def _augmented(self, x: Tensor, i: int, k: int) -> Tensor:
        """Every client's batch changed with its own draws, and padded again."""
        augment, number = self.tasks[0].augment, len(x)
        assert augment is not None
        if getattr(augment, "several", False):
            keys = torch.tensor([rng.key(*t.key) for t in self.tasks[:k]], device=x.device)
            source = rng.Rows(rng.rows(keys, i, number).flatten())
            return augment(x.flatten(0, 1), source).unflatten(0, (number, k))
        counts = [sizes[i] for sizes in self.sizes[:k]]
        streams = [rng.stream(*t.key, i) for t in self.tasks[:k]]
        each = zip(x.transpose(0, 1), counts, streams, strict=True)  # client after client
        return torch.nn.utils.rnn.pad_sequence([augment(part[:n], g) for part, n, g in each])


def unstackable(net: Net, objective: Objective, tasks: list[Task]) -> str:
    """Why these clients cannot be computed together, in words; empty when they can.

    That an objective keeps its promise (:func:`~fedlib.executors.per_sample`) is tried: :mod:`fedlib.promise`.
    """
    if reason := promise.unlike(tasks) or stacking.obstacle(net):
        return reason
    if not getattr(objective, "per_sample", False):
        return f"objective {getattr(objective, '__qualname__', objective)} is not marked per_sample"
    if getattr(objective, "__hash__", None) is None:
        return f"objective {objective} cannot be remembered: give its class a __hash__"
    return promise.broken(net, objective, tasks, train_stacked)
