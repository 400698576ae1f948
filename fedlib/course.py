"""What FeSTA is compared with, and the course of training that all have in common.

Every way sees the same batches: of a client's n samples B are drawn at random for each step. A round is some steps of
each client, then whatever a way does between rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedlib import require, rng
from fedlib.festa import Batches, FeSTA, Task, averaged


class Held(NamedTuple):
    """Samples of a task for S seeds: x [S, K, n, ...] and y [S, K, n, ...] of K clients, and a test set for each seed,
    x_test [S, m, ...] and y_test [S, m, ...].
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


class Whole(FeSTA):
    """Clients that hold the whole network, and send it: FedAvg where it is unified, training alone where not.

    Nothing crosses a cut. SplitFed with a body for each client, averaged with heads and tails, trains in the same way.
    Raises ValueError for more than one task.
    """

    def served(self, tasks: Sequence[Task]) -> int:
        """A body for each client."""
        alone(tasks)
        return self.held(tasks[0])

    def step(self, batches: Batches) -> dict[str, Tensor]:
        """One step of all clients; returns losses by task, [S, K]. Every client has the gradient of its own loss."""
        (name,), self.alike = batches, False
        x, y = (t.flatten(0, 1) for t in batches[name])
        loss = self.tasks[name].loss(self.tails[name](self.body(self.heads[name](x))), y)
        loss.sum().backward()
        for part in self.parts:
            part.step()
        return {name: loss.detach().unflatten(0, (len(self.seeds), -1))}

    def unify(self) -> None:
        """Average all parts over the clients."""
        super().unify()
        averaged(self.body, "body", self.bodies, self.wire)


class Central(Whole):
    """One network that sees the batches of all clients together, as if nothing had to stay with them."""

    def held(self, task: Task) -> int:
        """One network in all."""
        return 1

    def step(self, batches: Batches) -> dict[str, Tensor]:
        """One step on the mean loss of all clients' batches; returns losses by task, [S, 1]."""
        return super().step({n: (x.flatten(1, 2)[:, None], y.flatten(1, 2)[:, None]) for n, (x, y) in batches.items()})

    def unify(self) -> None:
        """There is nothing to average."""


class InTurn(FeSTA):
    """Plain split learning: one head and one tail, handed from client to client, and a body that follows each.

    Raises ValueError for more than one task.
    """

    def __init__(self, tasks: Sequence[Task], *given: Any, **options: Any):
        alone(tasks)
        self.turns, self.started = tasks[0].clients, False
        super().__init__([replace(tasks[0], clients=1)], *given, **options)

    def round(self, steps: Sequence[Batches]) -> None:
        """All steps of client 0, then all of client 1, and so on."""
        (name,) = self.tasks
        for k in range(self.turns):
            if self.started:
                self.hand_on(name, k)
            self.started = True
            for batches in steps:
                self.step({n: (x[:, k : k + 1], y[:, k : k + 1]) for n, (x, y) in batches.items()})

    def hand_on(self, name: str, k: int) -> None:
        """Head and tail go up from the last client and down to client k; the optimisers stay with them."""
        for what, part in (("head", self.heads[name]), ("tail", self.tails[name])):
            for label, w in part.module.state_dict().items():
                up = self.wire.send(f"{name} {what}/{label}", w, "up", [(k - 1) % self.turns] * len(w))
                w.copy_(self.wire.send(f"{name} {what}/{label}", up, "down", [k] * len(w)))


def alone(tasks: Sequence[Task]) -> None:
    """Raises ValueError unless there is one task."""
    if len(tasks) != 1:
        raise ValueError(f"tasks: this way of training has one task; got {[t.name for t in tasks]}")


def drawn(held: Mapping[str, Held], seeds: Sequence[int], first: int, steps: int, size: int) -> list[Batches]:
    """The batches of some steps, from step ``first`` on: ``size`` samples of each client, drawn with replacement.

    What a client draws depends on its seed, task, number and step alone. Raises ValueError for a size or number of
    steps below 1, a negative ``first``, no seed, and for tasks without samples for each seed.
    """
    require.whole("first", first)
    if not seeds:
        raise ValueError("seeds: at least one is needed, got none")
    require.whole("size", size, 1)
    require.whole("steps", steps, 1)
    places = {}
    for name, (x, *_) in held.items():
        if x.ndim < 3 or not x.numel():
            raise ValueError(f"{name}: samples [S, K, n, ...] are needed, got {list(x.shape)}")
        if len(x) != len(seeds):
            raise ValueError(f"{name}: samples for each of {len(seeds)} seeds are needed, got those of {len(x)}")
        rows = [
            places_of(s, name, k, first + step, x.shape[2], size)
            for s in seeds
            for k in range(x.shape[1])
            for step in range(steps)
        ]
        places[name] = torch.stack(rows).unflatten(0, (len(seeds), -1, steps))  # [S, K, steps, B]
    return [{name: (pick(own.x, places[name][:, :, i]), pick(own.y, places[name][:, :, i]))
             for name, own in held.items()} for i in range(steps)]  # fmt: skip


@cache  # all ways of training ask for the same
def places_of(seed: int, task: str, client: int, step: int, n: int, size: int) -> Tensor:
    """Which of a client's n samples it draws for a step: [B]."""
    return torch.randint(n, (size,), generator=rng.stream(seed, "batches", task, client, step))


def pick(x: Tensor, places: Tensor) -> Tensor:
    """Of x [S, K, n, ...] those at ``places`` [S, K, B]: [S, K, B, ...]."""
    s, k = (torch.arange(n).view(shape) for n, shape in zip(x.shape[:2], ((-1, 1, 1), (1, -1, 1)), strict=True))
    return x[s.to(x.device), k.to(x.device), places.to(x.device)]


def play(
    way: FeSTA,
    held: Mapping[str, Held],
    scores: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    *,
    rounds: int,
    steps: int,
    size: int,
    looks: int = 1,
    freeze: int | None = None,
) -> list[dict[str, Any]]:
    """Train for some rounds of some steps each, and look at the tasks at ``looks`` rounds, the last one among them.

    ``scores`` gives each task's score of outputs [..., m, ...] and labels, a value for each leading entry; a client's
    is that of its own network on the test set. After ``freeze`` rounds the body is frozen. Returns for each seed
    ``samples`` (of a client so far), ``bytes`` so far and each task's score, under its name (mean over clients), at the
    looks. Raises NotFinite where training diverges, ValueError for more looks than rounds, a body that would be frozen
    after the end, and tasks without a score or with other labels than samples.
    """
    if not require.whole("looks", looks, 1) <= require.whole("rounds", rounds, 1):
        raise ValueError(f"looks: there are {rounds} rounds to look at, and {looks} looks were asked for")
    if freeze is not None and require.whole("freeze", freeze) >= rounds:
        raise ValueError(f"freeze: there are {rounds} rounds, after {freeze} of which nothing is left to train")
    for name, own in held.items():
        if name not in scores:
            raise ValueError(f"scores: none is given for {name}; there are {', '.join(scores) or 'none'}")
        if own.y.shape[:3] != own.x.shape[:3] or own.y_test.shape[:2] != own.x_test.shape[:2]:
            raise ValueError(f"{name}: a label for each sample is needed, got {list(own.y.shape)}")
    at = {round(rounds * (i + 1) / looks) for i in range(looks)}
    seen: list[dict[str, Any]] = [{"samples": [], "bytes": [], **{n: [] for n in held}} for _ in way.seeds]
    for number in range(1, rounds + 1):
        if number - 1 == freeze:
            way.freeze()
        way.round(drawn(held, way.seeds, (number - 1) * steps, steps, size))
        way.wire.end_round()
        if number not in at:
            continue
        require.finite(f"weights after round {number}", *(w for p in way.parts for w in p.module.parameters()))
        for name, own in held.items():
            z = way.answers(name, own.x_test)
            found = scores[name](z, own.y_test[:, None].expand(z.shape[:2] + own.y_test.shape[1:])).mean(1)
            for row, value in zip(seen, found.tolist(), strict=True):
                row[name].append(value)
        for row in seen:
            row["samples"].append(number * steps * size)
            row["bytes"].append(way.wire.total // len(way.seeds))
    return seen
