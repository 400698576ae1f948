"""Which executor trains a round's clients: by name, or picked from the network, the sizes, the device and the threads.

The pick is a rule, not a race: the same setting always takes the same way with the same number of threads, so that its
numbers can be reproduced. On a CPU it rests on estimates (:mod:`fedlib.costs`); ``benchmarks/`` shows for each of its
workloads what the other executors would have taken.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch

from fedlib import costs
from fedlib.batched import batched, train_stacked, unstackable
from fedlib.executors import Executor, Objective, Task, sequential
from fedlib.models.net import Net
from fedlib.stacking import faithful, obstacle
from fedlib.threads import Threads, deal

NAMES = ("auto", "sequential", "batched", "threads", "ray")

WASTE = 4.0  # on an accelerator, samples computed for each real one, padding included, beyond which a stack loses
GAIN = 1.05  # what another way must win before it is taken instead of one client after the other, or of one thread


taken: Counter[str] = Counter()
"""How often each choice was made in this process, in words."""


@dataclass(frozen=True)
class Choice:
    """An executor, its name, why it was taken, and how long the round's local work should take."""

    executor: Executor
    name: str
    reason: str
    estimate: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}{self.estimate and f'; {self.estimate}'}"


def require(executor: str | Executor) -> str | Executor:
    """The same, if it can be one; raises ValueError for an unknown name, and what is neither a name nor a function."""
    if executor not in NAMES if isinstance(executor, str) else not callable(executor):
        raise ValueError(f"executor {executor!r} is unknown; use {', '.join(NAMES)}, or a function")
    return executor


def choose(executor: str | Executor, net: Net, tasks: list[Task], objective: Objective) -> Choice:
    """The executor for these tasks: the one named, or for ``"auto"`` the one that should be fastest.

    ``"threads"`` uses as many as torch has, at least two, and is for a CPU; ``"auto"`` uses them where that pays. So
    whoever gives torch one thread (``OMP_NUM_THREADS=1``) gets one.
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
    if executor == "threads" and net.device.type != "cpu":
        raise ValueError(f"executor 'threads' shares out the cores of a CPU, and this network is on {net.device}")
    count = min(torch.get_num_threads(), len(tasks)) if net.device.type == "cpu" else 1
    if executor == "threads":
        return _on_cpu(net, tasks, objective, [max(2, count)], "as asked for")
    if net.device.type == "cpu":
        return _on_cpu(net, tasks, objective, sorted({1, count}), "estimated to be fastest")
    return _on_accelerator(net, tasks, objective)


def overhead_rules(net: Net, x: torch.Tensor, models: int, samples: int) -> str:
    """Why one computation for several models, with a batch of so many samples each, would not be faster, in words;
    empty when it is. x [1, ...] is a sample.

    On an accelerator it is, as single steps wait for their launch; on a CPU by estimate.
    """
    if reason := obstacle(net):
        return reason
    if net.device.type == "cpu":
        what = costs.work(net, x)
        one, all_ = models * costs.alone(what, samples), costs.stacked(what, models, samples)
        if one < GAIN * all_:
            return f"{models} at once would take {all_ / one:.1f} times as long"
    return _unfaithful(net, x)


def _unfaithful(net: Net, x: torch.Tensor) -> str:
    return "" if faithful(net, x) else "its forward pass mixes clients that are computed together, or looks at values"


def _on_accelerator(net: Net, tasks: list[Task], objective: Objective) -> Choice:
    padded = costs.waste([t.sizes for t in tasks])
    if len(tasks) == 1:
        reason = "one client alone"
    elif padded > WASTE:
        reason = f"uneven batches would be padded to {padded:.1f} times the samples"
    else:
        reason = _unstackable(net, tasks, objective)
    if reason:
        return Choice(sequential, "sequential", reason)
    return Choice(train_stacked, "batched", f"{len(tasks)} clients share the launches of a step")


def _unstackable(net: Net, tasks: list[Task], objective: Objective) -> str:
    x = tasks[0].input()
    return obstacle(net) or _unfaithful(net, x) or unstackable(net, objective, tasks)


@dataclass(frozen=True)
class _Way:
    """``name`` of what each thread does, number of threads, and about how long it takes."""

    name: str
    threads: int
    seconds: float


def _on_cpu(net: Net, tasks: list[Task], objective: Objective, threads: list[int], reason: str) -> Choice:
    """The way that should be fastest with one of these numbers of threads.

    Whether clients can be computed together is found out last, where it would be done: it trains a little to find out.
    """
    ways = _ways(costs.work(net, tasks[0].input()), [t.sizes for t in tasks], threads)
    plain, best = ways[0], min(ways, key=_handicapped)
    if plain.seconds < GAIN * best.seconds:
        best = plain
    if best.name == "batched" and (refused := _unstackable(net, tasks, objective)):
        best = min((way for way in ways if way.name == "sequential"), key=_handicapped)
        return _chosen(best, refused, "")
    others = {}
    for way in sorted(ways, key=lambda way: -way.seconds):
        if way.name != best.name:
            others["one by one" if way.name == "sequential" else "together"] = way.seconds
        elif way.threads != best.threads:
            others[f"with {way.threads} thread{'s' * (way.threads > 1)}"] = way.seconds
    compared = ", ".join(f"{seconds:.2g} s {how}" for how, seconds in others.items())
    return _chosen(best, reason, f" ({compared})" if len(tasks) > 1 else "")


def _handicapped(way: _Way) -> float:
    return way.seconds * (GAIN if way.threads > 1 else 1.0)


def _chosen(way: _Way, reason: str, compared: str) -> Choice:
    estimate = f"about {way.seconds:.2g} s of local work a round{compared}"
    inner: Executor = train_stacked if way.name == "batched" else sequential
    if way.threads == 1:
        return Choice(inner, way.name, reason, estimate)
    return Choice(Threads(inner, way.threads), f"{way.threads} threads, {way.name}", reason, estimate)


def _ways(what: costs.Work, sizes: list[tuple[int, ...]], threads: list[int]) -> list[_Way]:
    """All ways with one of these numbers of threads, one client after the other first."""
    ways = []
    for count in threads:
        shares = [[sizes[i] for i in share] for share in deal(list(map(sum, sizes)), count)]
        for name, seconds, steps in (("sequential", costs.one_by_one, sum), ("batched", costs.together, max)):
            each = [seconds(what, share) for share in shares]
            if count > 1:
                counted = [steps(map(len, share)) for share in shares]
                each = [costs.in_threads(what, s, n) for s, n in zip(each, counted, strict=True)]
            ways.append(_Way(name, count, max(each)))
    return ways
