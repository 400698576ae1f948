"""Which executor trains a round's clients: by name, or picked from the network, the sizes, the device and the threads.

The pick is a rule, not a race: the same setting always takes the same way on the same kind of machine, so that its
numbers can be reproduced. The rule's limits were read off measurements on a CPU, and ``benchmarks/`` shows for each of
its workloads what the other executors would have taken.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial

import torch

from fedlib.batched import batched, train_stacked, unstackable
from fedlib.executors import Executor, Objective, Task, sequential
from fedlib.models.net import Net
from fedlib.stacking import faithful, obstacle
from fedlib.threads import Threads

NAMES = ("auto", "sequential", "batched", "threads", "ray")

# On a CPU, one computation for all clients wins while steps are small enough for overhead to rule them.
FEW = 3  # clients
POSITIONS = 64  # of a convolution's output map: grouped convolutions win up to 8 x 8
PARAMETERS = 100_000  # beyond them weights no longer fit beside each other in the cache
WASTE = 2.0  # samples computed for each real one, padding included
# What a client's step costs one core, roughly: overhead alone or in a batch, and multiply-adds of the forward pass.
STEP_ALONE, STEP_BATCHED, RATE = 0.15e-3, 0.05e-3, 4.5e9  # seconds, seconds, 1 / second
WORTH = 10e-3  # seconds of local work for which several threads pay


taken: Counter[str] = Counter()
"""How often each choice was made in this process, in words."""


@dataclass(frozen=True)
class Choice:
    """An executor, its name, and why it was taken."""

    executor: Executor
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def require(executor: str | Executor) -> str | Executor:
    """The same, if it can be one; raises ValueError for an unknown name."""
    if isinstance(executor, str) and executor not in NAMES:
        raise ValueError(f"executor {executor!r} is unknown; use {', '.join(NAMES)}, or a function")
    return executor


def choose(executor: str | Executor, net: Net, tasks: list[Task], objective: Objective) -> Choice:
    """The executor for these tasks: the one named, or for ``"auto"`` the one that should be fastest.

    ``"threads"`` uses as many as torch has, at least two; ``"auto"`` uses them on a CPU. So whoever gives torch one
    thread (``OMP_NUM_THREADS=1``) gets one.
    """
    if not isinstance(executor, str):
        return Choice(executor, getattr(executor, "__name__", type(executor).__name__), "as given")
    if executor == "sequential":
        return Choice(sequential, executor, "as asked for")
    if executor == "batched":
        return Choice(batched, executor, "as asked for")
    if executor == "ray":
        from fedlib.actors import ray_executor

        return Choice(ray_executor(), executor, "as asked for")
    count = min(torch.get_num_threads(), len(tasks)) if net.device.type == "cpu" else 1
    if executor == "threads":
        return _shared_out(max(2, count), _in_one_thread(net, tasks, objective, max(2, count)), "as asked for")
    inner = _in_one_thread(net, tasks, objective, count)
    if count == 1:
        return inner
    if (cost := _seconds(net, tasks, inner)) < WORTH:
        return _in_one_thread(net, tasks, objective, 1)
    return _shared_out(count, inner, f"about {cost:.2g} s of local work a round")


def overhead_rules(net: Net, x: torch.Tensor) -> str:
    """Why one computation for several models would not be faster, in words; empty when it is. x [1, ...] is a sample.

    On an accelerator it is, as single steps wait for their launch; on a CPU while steps are small.
    """
    if reason := obstacle(net):
        return reason
    if net.device.type == "cpu":
        if (most := net.work(x)[1]) > POSITIONS:
            return f"grouped convolutions are slow for maps of {most} positions"
        if (size := sum(t.numel() for t in net.module.state_dict().values())) > PARAMETERS:
            return f"with {size:,} parameters, arithmetic rules a step and not overhead"
    return "" if faithful(net, x) else "its forward pass mixes clients that are computed together, or looks at values"


def _shared_out(count: int, inner: Choice, reason: str) -> Choice:
    return Choice(Threads(inner.executor, count), f"{count} threads, {inner.name}", f"{reason}; {inner.reason}")


def _in_one_thread(net: Net, tasks: list[Task], objective: Objective, count: int) -> Choice:
    """Batched or sequential, for one of ``count`` parts of the tasks."""
    one_by_one, together = partial(Choice, sequential, "sequential"), partial(Choice, train_stacked, "batched")
    clients = len(tasks) // count
    if clients < FEW and net.device.type == "cpu":
        return one_by_one(f"{clients} clients at once gain nothing")
    if reason := overhead_rules(net, tasks[0].input()):
        return one_by_one(reason)
    if (waste := _waste(tasks)) > WASTE:
        return one_by_one(f"uneven batches would be padded to {waste:.1f} times the samples")
    if reason := unstackable(net, objective, tasks):  # last, for it trains a little to find out
        return one_by_one(reason)
    return together(f"{clients} clients share the overhead of a step")


def _waste(tasks: list[Task]) -> float:
    """Samples of a batched computation, padding included, for each real one."""
    kinds = Counter(t.sizes for t in tasks)
    padded = 0
    for i in range(max(map(len, kinds))):
        at_work = {sizes: clients for sizes, clients in kinds.items() if i < len(sizes)}
        padded += max(sizes[i] for sizes in at_work) * sum(at_work.values())
    return padded / sum(sum(sizes) * clients for sizes, clients in kinds.items())


def _seconds(net: Net, tasks: list[Task], inner: Choice) -> float:
    """About how long one core would need for the local work."""
    steps = sum(t.steps for t in tasks)
    samples = sum(sum(t.sizes) for t in tasks)
    return (
        steps * (STEP_BATCHED if inner.name == "batched" else STEP_ALONE)
        + samples * net.work(tasks[0].input())[0] / RATE
    )
