"""Local training on all cores: clients are dealt out to threads.

One step is too small for several threads (they lose, beside a busy neighbour), but clients are independent, and PyTorch
leaves Python's lock while it computes. Threads were as fast as forked processes with one thread each, and need no
messages, no second copy of the data and no care of what was forked when.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedlib.executors import Executor, Objective, Task
from fedlib.models.net import Net
from fedlib.optim import SGD


class Threads:
    """An executor that gives each of ``count`` threads, this one included, its share of the clients.

    ``inner`` trains them there, on one core; the bits are those of ``inner`` with one thread. ``count`` None means as
    many as torch has threads. The objective must not write to anything that clients share.
    """

    def __init__(self, inner: Executor, count: int | None = None):
        self.inner, self.count = inner, count

    def __call__(self, net: Net, tasks: list[Task], objective: Objective, optimiser: SGD, lr: float) -> list[float]:
        """Train the tasks; returns each one's mean batch loss. The first error of a share is raised as it is.

        An interruption ends the other threads' work at their next step.
        """
        threads = torch.get_num_threads()
        shares = deal([sum(t.sizes) for t in tasks], self.count or threads)
        parts = [[tasks[i] for i in share] for share in shares]
        # A network holds the tensors that it is working with: every thread needs one of its own. They are put back
        # when all is done: after an interruption, a thread that was left behind may still be using one.
        nets = net.notes.pop(Threads, [])
        nets += [Net(net.module, net.device, net.dtype, net.precision) for _ in range(len(parts) - 1 - len(nets))]
        watched = _Until(objective)
        torch.set_num_threads(1)
        try:
            # A new thread would ask OpenMP, which knows of all cores, and not torch.
            with ThreadPoolExecutor(max(1, len(parts) - 1), "client", torch.set_num_threads, (1,)) as pool:
                jobs = [
                    pool.submit(self.inner, own, part, watched, optimiser, lr)
                    for own, part in zip(nets, parts[1:], strict=False)
                ]
                try:
                    answers = [self.inner(net, parts[0], objective, optimiser, lr), *(job.result() for job in jobs)]
                except BaseException:
                    watched.stop.set()
                    raise
        finally:
            torch.set_num_threads(threads)
        net.notes[Threads] = nets
        losses = [0.0] * len(tasks)
        for share, answer in zip(shares, answers, strict=True):
            for i, loss in zip(share, answer, strict=True):
                losses[i] = loss
        return losses


@dataclass(frozen=True)
class _Until:
    """An objective that refuses a further step once ``stop`` is set; otherwise like the one that it stands for."""

    objective: Objective
    stop: threading.Event = field(default_factory=threading.Event, compare=False, metadata={"told": False})

    def __call__(self, *given: Any) -> Tensor:
        if self.stop.is_set():
            raise InterruptedError("another thread has ended this round")
        return self.objective(*given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.objective, name)


def deal(work: Sequence[int], hands: int) -> list[list[int]]:
    """Positions of ``work`` in at most ``hands`` parts of about equal sum: the largest first, to whom has least."""
    parts: list[list[int]] = [[] for _ in range(max(1, min(hands, len(work))))]
    sums = [0] * len(parts)
    for i in sorted(range(len(work)), key=lambda i: -work[i]):
        least = sums.index(min(sums))
        parts[least].append(i)
        sums[least] += work[i]
    return [sorted(p) for p in parts]
