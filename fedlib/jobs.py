"""Several federations side by side: work that fits together is done in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import MethodType
from typing import TYPE_CHECKING, Any, Protocol

from fedlib import choice, require, seen
from fedlib.batched import steps_of
from fedlib.executors import Executor, Objective, Task
from fedlib.kept import Kept
from fedlib.models.net import Net
from fedlib.optim import SGD

if TYPE_CHECKING:
    from fedlib.federation import Federation


class Job(Protocol):
    """Work that a round waits for, and that may be done for several federations at once."""

    def fits(self, other: Any) -> bool:
        """Whether the other job may be done by the same call."""

    def do(self, others: Sequence[Any]) -> None:
        """Do this job together with ``others`` that fit."""


@dataclass(eq=False)
class Work:
    """Local work of one phase: when it is done, the tasks have new states and ``losses`` their losses."""

    executor: str | Executor
    net: Net
    tasks: list[Task]
    objective: Objective
    optimiser: SGD
    lr: float
    losses: list[float] = field(default_factory=list)

    def fits(self, other: Any) -> bool:
        """Whether the other's clients may be trained by the same call."""
        return isinstance(other, Work) and not self.unlike(other)

    def unlike(self, other: Work) -> str:
        """In what the other differs, so that its clients cannot be trained by the same call; empty when they can."""
        mine, its = self._kind(), other._kind()
        different = [name for name in mine if mine[name] != its[name]]
        if {"type", "precision", "device"} & set(different):
            different.remove("network")  # whose form tells of them, too
        if not alike(self.objective, other.objective):
            different.append("objective (method or its settings)")
        return ", ".join(different)

    def _kind(self) -> dict[str, Any]:
        task = self.tasks[0]
        return {
            "executor": self.executor,
            "momentum or weight decay": (type(self.optimiser), self.optimiser.momentum, self.optimiser.weight_decay),
            "learning rate": self.lr,
            "type": self.net.dtype,
            "precision": self.net.precision,
            "device": self.net.device,
            "network": self.net.form,
            "round": task.context.round,
            "preparation of samples": task.prepare,
            "augmentation": task.augment,
            "shape or type of samples": [(t.shape[1:], t.dtype) for t in (task.x, task.y)],
        }

    def choice(self, others: Sequence[Work] = ()) -> choice.Choice:
        """The executor for the clients of all."""
        tasks = [t for work in (self, *others) for t in work.tasks]
        with self.net.arithmetic():
            return choice.choose(self.executor, self.net, tasks, self.objective)

    def explain(self, others: Sequence[Work] = ()) -> str:
        """The executor for the clients of all, why, and how this network's latest steps were taken, in words."""
        chosen, steps = self.choice(others), steps_of(self.net)
        return f"{chosen}; {steps}" if steps and chosen.name == "batched" else str(chosen)

    def do(self, others: Sequence[Work] = ()) -> None:
        """Train the clients of all."""
        tasks = [t for work in (self, *others) for t in work.tasks]
        chosen = self.choice(others)
        choice.taken[f"{chosen.name}: {chosen.reason}"] += 1
        losses = iter(chosen.executor(self.net, tasks, self.objective, self.optimiser, self.lr))
        for work in (self, *others):
            work.losses = [next(losses) for _ in work.tasks]
            work.net.notes["steps"] = self.net.notes.get("steps", "")


def together(federations: Sequence[Federation], rounds: int) -> None:
    """Play rounds of several federations side by side, such as the seeds of one setting.

    Each gets the results that it would get alone (to rounding; to the bit when clients are computed one by one). Those
    that share an algorithm object, or have equal ones (:func:`alike`), their local settings, the form of the network
    and the round's number train their clients, and distil, in one call: where steps are small, ten seeds then cost
    little more than one; :func:`explain` says which do. ``seconds`` of
    their histories count the common time, which nobody can share out. When anything stops a round, every federation is
    at the end of its last completed one, and can go on from there.
    """
    _once_each(federations)
    number = require.whole("rounds", rounds)
    equally = len({f.net.precision for f in federations}) == 1
    # Entered once around all rounds, so that those inside find nothing to set.
    with federations[0].net.arithmetic() if equally else nullcontext():
        for _ in range(number):
            before = [Kept(f) for f in federations]
            try:
                _side_by_side([(f.net, f._round()) for f in federations])
            except BaseException:
                for kept in before:
                    kept.bring_back()
                raise


def _side_by_side(plays: Sequence[tuple[Net, Iterator[Job]]]) -> None:
    """Play all to their ends, every one in the precision of its network."""
    while jobs := [(net, job) for net, play in plays if (job := _next(net, play))]:
        while jobs:
            (net, job), *others = jobs
            same = [other for _, other in others if job.fits(other)]
            with net.arithmetic():
                job.do(same)
            jobs = [pair for pair in others if pair[1] not in same]


def _next(net: Net, play: Iterator[Job]) -> Job | None:
    with net.arithmetic():
        return next(play, None)


def alike(one: Objective, other: Objective) -> bool:
    """Whether two objectives are the same function of what they are given: the same object, or the same method of
    objects of one class whose attributes are equal (numbers and words by value, anything else the same object). Only
    one that promises to be a mean over samples (:func:`~fedlib.executors.per_sample`) is taken for its equal: another
    may keep count of its calls.
    """
    if one == other:
        return True
    if not (isinstance(one, MethodType) and isinstance(other, MethodType) and one.__func__ is other.__func__):
        return False
    if not getattr(one, "per_sample", False):
        return False
    mine, its = one.__self__, other.__self__
    return type(mine) is type(its) and seen.same(*(seen.facts(seen.attributes(owner)) for owner in (mine, its)))


def explain(federations: Sequence[Federation]) -> str:
    """How the next round of these federations side by side would train their clients: a line for each call, with the
    executor and why, and in what it differs from the first. Plays nothing.
    """
    _once_each(federations)
    works = [federation.local_work() for federation in federations]
    calls: list[list[Work]] = []
    for work in filter(None, works):
        home = next((call for call in calls if call[0].fits(work)), None)
        calls.append([work]) if home is None else home.append(work)
    lines = []
    for call in calls:
        clients, n = sum(len(work.tasks) for work in call), len(call)
        line = f"one call for {n} federation{'s' * (n > 1)}, {clients} clients; {call[0].explain(call[1:])}"
        lines.append(
            line if call is calls[0] else f"{line}; not in the first call, because of its {calls[0][0].unlike(call[0])}"
        )
    if idle := works.count(None):
        lines.append(f"{idle} federation{'s' * (idle > 1)} without local work")
    return "\n".join(lines)


def _once_each(federations: Sequence[Federation]) -> None:
    if len(set(map(id, federations))) < len(federations):
        raise ValueError("a federation cannot play beside itself: it is in the list more than once")
