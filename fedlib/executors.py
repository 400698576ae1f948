"""Local training of the sampled clients: the readable reference, and all clients in one batched computation.

Both take the same tasks and give the same weights (to 1e-10 in float64): a step depends only on the client's own
weights and on its own next batch. Algorithms never see which one runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedlib.models.net import Net, State
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


@dataclass
class Task:
    """One client's local work in one phase: ``batches`` are index tensors into x and y; ``state`` is updated in
    place.
    """

    client: int
    state: State
    context: Context
    x: Tensor
    y: Tensor
    batches: list[Tensor]
    transforms: list[Callable[[Tensor], Tensor]] | None = None  # one per batch: augmentation on a keyed stream

    def batch(self, i: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of local step ``i``."""
        x = self.x[self.batches[i]]
        return (self.transforms[i](x) if self.transforms else x), self.y[self.batches[i]]


class Diverged(ArithmeticError):
    """The local loss of a client stopped being finite."""

    def __init__(self, round_: int, client: int, loss: float):
        super().__init__(
            f"round {round_}, client {client}: the local loss is {loss}; training diverged "
            "(try a lower learning rate, fewer local epochs or a smaller extra term)"
        )
        self.round, self.client = round_, client


def sequential(net: Net, tasks: list[Task], objective: Objective, optimiser: SGD, lr: float) -> list[float]:
    """One client after the other, one step after the other: the reference. Returns each client's mean batch loss."""
    means = []
    for task in tasks:
        memory: Memory = {}
        total = torch.zeros((), device=net.device, dtype=net.dtype)
        for i in range(len(task.batches)):
            x, y = task.batch(i)
            leaves = {n: task.state[n].requires_grad_() for n in net.parameters}
            loss = objective(net, task.state, x, y, task.context)
            grads = torch.autograd.grad(loss, list(leaves.values()))
            task.state |= {n: w.detach() for n, w in leaves.items()}
            params = {n: task.state[n] for n in leaves}
            optimiser.step(params, dict(zip(leaves, grads, strict=True)), memory, lr)
            total += loss.detach()
        means.append(_finite(total, task))
    return means


def batched(net: Net, tasks: list[Task], objective: Objective, optimiser: SGD, lr: float) -> list[float]:
    """All clients at once: states are stacked, and clients whose next batch has the same size take the step together.

    Grouping by size keeps the loss an exact mean over each batch (no padding), so clients of uneven size, clients
    smaller than a batch and BatchNorm mean exactly what they mean in :func:`sequential`.
    """
    stacked = {n: torch.stack([t.state[n] for t in tasks]) for n in tasks[0].state}
    shared = all(t.context.received is tasks[0].context.received for t in tasks)
    received = dict(tasks[0].context.received)
    if not shared:
        received = {n: torch.stack([t.context.received[n] for t in tasks]) for n in received}
    own = {n: torch.stack([t.context.own[n] for t in tasks]) for n in tasks[0].context.own}
    totals = torch.zeros(len(tasks), device=net.device, dtype=net.dtype)
    memory: Memory = {}
    round_ = tasks[0].context.round

    def one(state: State, x: Tensor, y: Tensor, received: State, own: State) -> Tensor:
        return objective(net, state, x, y, Context(received, own, round_))

    losses_of = torch.vmap(one, in_dims=(0, 0, 0, None if shared else 0, 0), randomness="error")
    for i in range(max(len(t.batches) for t in tasks)):
        groups: dict[int, list[int]] = {}
        for row, task in enumerate(tasks):
            if i < len(task.batches):
                groups.setdefault(len(task.batches[i]), []).append(row)
        for rows in groups.values():
            everyone = len(rows) == len(tasks)
            index = torch.tensor(rows, device=net.device)
            part = stacked if everyone else _rows(stacked, index)
            slots = memory if everyone else {m: _rows(slot, index) for m, slot in memory.items()}
            x, y = map(torch.stack, zip(*(tasks[r].batch(i) for r in rows), strict=True))
            leaves = {n: part[n].requires_grad_() for n in net.parameters}
            anchor = received if shared or everyone else _rows(received, index)
            losses = losses_of(part, x, y, anchor, own if everyone else _rows(own, index))
            grads = torch.autograd.grad(losses.sum(), list(leaves.values()))
            part = {**part, **{n: w.detach() for n, w in leaves.items()}}
            params = {n: part[n] for n in leaves}
            optimiser.step(params, dict(zip(leaves, grads, strict=True)), slots, lr)
            totals[index] += losses.detach()
            if everyone:
                stacked, memory = part, slots
                continue
            for n, v in part.items():
                stacked[n][index] = v
            for m, slot in slots.items():
                home = memory.setdefault(m, {n: torch.zeros_like(stacked[n]) for n in slot})
                for n, v in slot.items():
                    home[n][index] = v
    for row, task in enumerate(tasks):
        task.state |= {n: v[row].clone() for n, v in stacked.items()}
    return [_finite(total, task) for total, task in zip(totals, tasks, strict=True)]


def _rows(stacked: Mapping[str, Tensor], index: Tensor) -> State:
    return {n: v[index] for n, v in stacked.items()}


def _finite(total: Tensor, task: Task) -> float:
    mean = float(total) / max(1, len(task.batches))
    if mean != mean or mean in (float("inf"), float("-inf")):
        raise Diverged(task.context.round, task.client, mean)
    return mean


EXECUTORS = {"sequential": sequential, "batched": batched}


def choose(name: str, net: Net) -> Callable[..., list[float]]:
    """The executor of that name; ``"auto"`` takes the batched one on a GPU and for networks without convolutions
    (grouped convolutions are slow on a CPU). Raises ValueError for an unknown name.
    """
    if name == "auto":
        name = "sequential" if net.convolutional and net.device.type == "cpu" else "batched"
    if name not in EXECUTORS:
        raise ValueError(f"executor {name!r} is unknown; use auto, {', '.join(EXECUTORS)}")
    return EXECUTORS[name]
