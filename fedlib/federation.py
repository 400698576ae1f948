"""The round loop, written once: sample, broadcast, local work, upload, aggregate, observe.

An algorithm (see :mod:`fedlib.algorithms`) states only how it differs from FedAvg. Randomness is keyed by
(seed, use, round, client), so neither the order of execution nor an extra term of a method moves anybody's draws.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fedlib import devices, executors, rng
from fedlib.executors import Context, Objective, Task
from fedlib.ledger import Ledger
from fedlib.models.net import Net, State, clone
from fedlib.optim import SGD

if TYPE_CHECKING:
    from fedlib.algorithms.fedavg import FedAvg

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Local:
    """How a client trains: epochs over its samples in shuffled batches, SGD started afresh every round.

    ``lr_decay`` multiplies the learning rate after every round; ``augment(x, generator)`` changes each batch.
    """

    epochs: int = 1
    batch_size: int = 32
    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    lr_decay: float = 1.0
    augment: Augment | None = None

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 1 or not self.lr > 0:
            raise ValueError(f"epochs >= 0, batch_size >= 1 and lr > 0 are needed, got {self}")


@dataclass
class Phase:
    """One stretch of local work: an objective on samples (x, y), client k using the rows ``split[k]``."""

    objective: Objective
    x: Tensor
    y: Tensor
    split: Sequence[Tensor]
    epochs: int
    augment: Augment | None = None


@dataclass
class Round:
    """What an observer sees after a round: who took part, the states they started from and ended local work with,
    what they uploaded, and their mean local losses; lists in the order of ``clients``.
    """

    number: int
    clients: list[int]
    received: list[State]
    states: list[State]
    uploads: list[State]
    losses: list[float]


Observer = Callable[["Federation", Round], dict[str, Any]]


class Federation:
    """A federation of K clients around one server.

    ``model`` makes the network (a new ``nn.Module`` per call); ``x`` [N, ...] and ``y`` [N] are all clients' samples
    and
    ``split`` the rows of each client. ``participation`` in (0, 1] is the share of clients sampled per round (at
    least one). ``buffers`` says what happens to BatchNorm statistics: ``"average"`` them like weights or leave
    them ``"local"`` (kept by each client, never sent). ``observers`` add columns to :attr:`history`.

    ``state`` is the server's model, ``own[k]`` what client k keeps between rounds, ``memory`` whatever the server step
    needs. Raises ValueError for settings that cannot work.
    """

    def __init__(
        self,
        model: Callable[[], nn.Module],
        x: Tensor,
        y: Tensor,
        split: Sequence[Tensor],
        algorithm: FedAvg,
        *,
        local: Local = Local(),
        participation: float = 1.0,
        seed: int = 0,
        executor: str = "auto",
        device: str | torch.device = "auto",
        dtype: torch.dtype = torch.float32,
        buffers: str = "average",
        observers: Iterable[Observer] = (),
    ):
        if not 0 < participation <= 1:
            raise ValueError(f"participation must lie in (0, 1], got {participation}")
        if buffers not in ("average", "local"):
            raise ValueError(f"buffers must be 'average' or 'local', got {buffers!r}")
        if not split or any(len(part) == 0 for part in split):
            empty = [k for k, part in enumerate(split) if len(part) == 0]
            raise ValueError(f"every client needs at least one sample; without any: {empty or 'no client at all'}")
        self.device, self.dtype, self.seed = devices.pick(device), dtype, seed
        self.net = Net(rng.build(model, seed, "init"), self.device, dtype)
        self.executor = executors.choose(executor, self.net)
        self.x, self.y = x.to(self.device, dtype), y.to(self.device)
        self.split = [part.to(self.device) for part in split]
        self.algorithm, self.local, self.participation = algorithm, local, participation
        self.buffers, self.observers = buffers, list(observers)
        self.state: State = self.net.initial()
        self.own: dict[int, State] = {}
        self.memory: dict[str, Any] = {}
        self.ledger, self.round = Ledger(), 0
        kept = [n for n in self.state if any(fnmatch(n, p) for p in algorithm.personal)]
        self.personal = {*kept, *(self.net.buffers if buffers == "local" else ())}
        self.history: list[dict[str, Any]] = []
        algorithm.setup(self)

    @property
    def clients(self) -> int:
        """Number of clients K."""
        return len(self.split)

    def shared(self, state: State) -> State:
        """The part of a state that travels: everything that is not personal."""
        return {n: t for n, t in state.items() if n not in self.personal}

    def sample(self, number: int) -> list[int]:
        """Clients of a round: max(1, round(C K)) drawn without replacement, ascending."""
        m = max(1, round(self.participation * self.clients))
        return sorted(torch.randperm(self.clients, generator=rng.stream(self.seed, "sample", number))[:m].tolist())

    def run(self, rounds: int) -> list[dict[str, Any]]:
        """Play rounds and return the history so far: one row a round with loss, bytes, seconds and what observers
        add.
        """
        for _ in range(rounds):
            self.play_round()
        return self.history

    def play_round(self) -> None:
        """One communication round."""
        start, number, algorithm = time.perf_counter(), self.round, self.algorithm
        clients = self.sample(number)
        sent = algorithm.broadcast(self)
        base = {**self.state, **sent}
        received = {k: {n: self.own.get(k, {}).get(n, base[n]) for n in self.state} for k in clients}
        if not self.personal:  # one object for all: executors then share the teacher's and the anchor's tensors
            common = {n: base[n] for n in self.state}
            received = dict.fromkeys(clients, common)
        states = {k: clone(received[k]) for k in clients}
        losses: list[float] = [0.0] * len(clients)
        for i, phase in enumerate(algorithm.phases(self)):
            tasks = [self._task(phase, i, k, states[k], received[k]) for k in clients]
            tasks = [t for t in tasks if t.batches]
            if tasks:
                lr = self.local.lr * self.local.lr_decay**number
                optimiser = SGD(self.local.lr, self.local.momentum, self.local.weight_decay)
                losses = self.executor(self.net, tasks, phase.objective, optimiser, lr)
        for k in clients:
            algorithm.keep(self, k, states[k])
        uploads = [algorithm.upload(self, k, states[k]) for k in clients]
        down, up = self.ledger.enter([sent] * len(clients), uploads)
        if algorithm.weighting == "samples":
            weights = torch.tensor([len(self.split[k]) for k in clients], dtype=torch.float64)
        else:
            weights = torch.ones(len(clients), dtype=torch.float64)
        algorithm.aggregate(self, uploads, weights / weights.sum())
        devices.synchronise(self.device)
        seconds = time.perf_counter() - start
        seen = Round(number, clients, [received[k] for k in clients], [states[k] for k in clients], uploads, losses)
        row = {
            "round": number + 1,
            "loss": sum(losses) / len(losses),
            "down": down,
            "up": up,
            "seconds": seconds,
        }
        for observe in self.observers:
            row |= observe(self, seen)
        self.history.append(row)
        self.round += 1

    def _task(self, phase: Phase, i: int, k: int, state: State, received: State) -> Task:
        order = rng.stream(self.seed, "batches", self.round, k, i)
        rows = phase.split[k]
        batches: list[Tensor] = []
        for _ in range(phase.epochs):
            shuffled = rows[torch.randperm(len(rows), generator=order).to(rows.device)]
            batches += shuffled.split(self.local.batch_size)
        transforms = None
        if phase.augment:
            keys = (self.seed, "augment", self.round, k, i)
            transforms = [_transform(phase.augment, rng.stream(*keys, b)) for b in range(len(batches))]
        own = self.algorithm.context(self, k)
        return Task(k, state, Context(received, own, self.round), phase.x, phase.y, batches, transforms)


def _transform(augment: Augment, stream: torch.Generator) -> Callable[[Tensor], Tensor]:
    return lambda x: augment(x, stream)


def weighted_mean(states: Sequence[State], weights: Tensor) -> State:
    """Sum over k of weights[k] states[k], entry by entry and in the order given; integer entries take the largest
    value.
    """
    mean: State = {}
    for n, first in states[0].items():
        if first.is_floating_point():
            mean[n] = torch.zeros_like(first)
            for w, s in zip(weights.tolist(), states, strict=True):
                mean[n].add_(s[n], alpha=w)
        else:
            mean[n] = torch.stack([s[n] for s in states]).amax(0)
    return mean
