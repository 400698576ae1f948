"""Local training of many clients in one computation: every client takes its next step together with the others."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from fedlib import capture, promise, stacking
from fedlib.executors import Objective, Task, mean_loss
from fedlib.models.net import Net
from fedlib.optim import SGD
from fedlib.plan import Plan
from fedlib.workspace import Step, Workspace, plainly

CAPTURE = True
"""Whether steps are captured and replayed on a device that can do that (:mod:`fedlib.capture`)."""


def batched(net: Net, tasks: list[Task], objective: Objective, optimiser: SGD, lr: float) -> list[float]:
    """All clients at once, each with weights of its own. Returns each client's mean batch loss.

    Raises ValueError for a network or an objective that cannot be stacked.
    """
    if reason := unstackable(net, objective, tasks):
        raise ValueError(f"these clients cannot be computed together: {reason}; use executor 'auto' or 'sequential'")
    return train_stacked(net, tasks, objective, optimiser, lr)


def train_stacked(net: Net, tasks: list[Task], objective: Objective, optimiser: SGD, lr: float) -> list[float]:
    """The work of :func:`batched`, for what :func:`unstackable` has passed. Steps are captured where that is possible;
    :func:`steps_of` says what became of it.

    When the device has no memory for all clients at once, half as many are taken, from then on with this network; one
    client that does not fit is an error.
    """
    net.notes["steps"] = (
        "" if CAPTURE or not capture.possible(net) else "steps not captured: fedlib.batched.CAPTURE is off"
    )
    return _in_parts(net, tasks, objective, optimiser, lr, CAPTURE)


def steps_of(net: Net) -> str:
    """How the network's latest steps were taken, in words: whether they were captured, and if not, why; empty where
    there is nothing to say.
    """
    words = [net.notes.get("steps", "")]
    if most := net.notes.get("most clients"):
        words.append(f"memory for {most} client{'s' * (most > 1)} at once")
    return ", ".join(w for w in words if w)


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
    return promise.broken(net, objective, tasks, partial(_in_parts, lasting=False))


def _in_parts(
    net: Net,
    tasks: list[Task],
    objective: Objective,
    optimiser: SGD,
    lr: float,
    captured: bool = False,
    lasting: bool = True,
) -> list[float]:
    """As many clients at once as there is memory for; those that are done are never trained again. What there is memory
    for is remembered, if that is ``lasting``: trials take more of it.
    """
    losses: list[float] = []
    most = net.notes.get("most clients", len(tasks))
    while len(losses) < len(tasks):
        some = tasks[len(losses) :][:most]
        try:
            losses += _train(net, some, objective, optimiser, lr, captured)
        except torch.OutOfMemoryError:
            if len(some) == 1:
                raise
            most = -(-len(some) // 2)
            if lasting:
                net.notes["most clients"] = most
            capture.drop(net)
        else:
            continue
        if net.device.type == "cuda":  # after the handler: its traceback keeps the tensors of the step alive
            torch.cuda.empty_cache()
    return losses


def _train(net: Net, tasks: list[Task], objective: Objective, optimiser: SGD, lr: float, captured: bool) -> list[float]:
    """All clients' steps.

    Clients are ordered by their number of steps, so that those at work are always the first k of the stack. Smaller
    batches are padded, and padding weighs nothing: clients of uneven size, clients smaller than a batch and BatchNorm
    mean exactly what they mean in :func:`~fedlib.executors.sequential`.
    """
    stacked, given = stacking.stacked(net), tasks
    tasks = sorted(given, key=lambda t: -t.steps)
    plan = Plan(tasks)
    done = capture.train(net, stacked, plan, objective, optimiser, lr) if captured else None
    states, totals = done or _plain(Workspace(stacked, plan, objective, optimiser), lr)
    parts = {n: t.unbind() for n, t in states.items()}
    for row, task in enumerate(tasks):
        task.state = {n: part[row] for n, part in parts.items()}
    sums = {id(t): total for total, t in zip(totals.tolist(), tasks, strict=True)}
    return [mean_loss(sums[id(t)], t) for t in given]


def _plain(work: Workspace, lr: float) -> tuple[Mapping[str, Tensor], Tensor]:
    """One step after the other; gives states and sums of losses."""
    step = None
    for i, k in enumerate(work.plan.at_work):
        if step is None or step.clients != k:
            step = Step(work, k, plainly(work.optimiser, lr))
        step(work.batch(i))
    return work.states, work.totals
