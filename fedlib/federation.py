"""The round loop, written once: sample, broadcast, local work, upload, aggregate, observe.

An algorithm (see :mod:`fedlib.algorithms`) states only how it differs from FedAvg. Randomness is keyed by
(seed, use, round, client), so neither the order of execution nor an extra term of a method moves anybody's draws.
"""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fedlib import choice, devices, inputs, require, rng
from fedlib.executors import Context, Executor, Task
from fedlib.jobs import Job as Job, Work as Work, together as together
from fedlib.kept import Kept, held, require_finite
from fedlib.ledger import Ledger, payload_bytes
from fedlib.models.net import Net, State
from fedlib.rounds import Augment as Augment, Local as Local, Phase as Phase, Prepare as Prepare, Round as Round

if TYPE_CHECKING:
    from fedlib.algorithms.fedavg import FedAvg

CROWD = 256  # clients whose states are held at once where the server needs nothing but their mean

Observer = Callable[["Federation", Round], dict[str, Any] | None]


class Federation:
    """A federation of K clients around one server.

    ``model`` makes the network (a new ``nn.Module`` per call); ``x`` [N, ...] and ``y`` are all clients' samples and
    their targets, as a rule classes [N] of whatever integer type, and ``split`` the rows of each client. ``prepare``
    turns a batch of raw samples into the network's input: images may stay bytes on the device and be normalised batch
    by batch (:meth:`input`). ``participation`` in (0, 1] is the share of clients sampled per round (at least one).
    ``buffers`` says what happens to BatchNorm statistics: ``"average"`` them like weights or leave them ``"local"``
    (kept by each client, never sent). ``executor`` says how clients are trained: by name (:mod:`fedlib.choice`) or any
    function of that signature. ``precision`` says how exactly products are computed: as ``dtype`` says (None), in
    ``"tf32"`` or in ``"bf16"`` (:mod:`fedlib.precision`). ``observers`` add columns to :attr:`history`; none may be NaN
    or infinite, but in lists.

    ``state`` is the server's model, ``own[k]`` what client k keeps between rounds, ``memory`` whatever the server step
    needs. A round that fails leaves all of them as they were before it, as long as the algorithm replaces tensors and
    changes none in place; one after which they are no longer finite fails (:class:`~fedlib.require.NotFinite`). Raises
    ValueError for settings and samples that cannot work.
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
        executor: str | Executor = "auto",
        prepare: Callable[[Tensor], Tensor] | None = None,
        device: str | torch.device = "auto",
        dtype: torch.dtype = torch.float32,
        precision: str | None = None,
        buffers: str = "average",
        observers: Iterable[Observer] = (),
    ):
        participation = require.real("participation", participation, above=0, most=1)
        require.one_of("buffers", buffers, ("average", "local"))
        require.one_of("weighting", algorithm.weighting, ("samples", "uniform"))
        inputs.check(x, y, split, dtype, local.lr)
        self.device, self.dtype, self.seed = devices.pick(device), dtype, require.whole("seed", seed, least=None)
        self.net = Net(rng.build(model, self.seed, "init"), self.device, dtype, precision)
        self.executor, self.prepare = choice.require(executor), prepare and Prepare(prepare, dtype)
        self.x, self.y = x.to(self.device) if prepare else self.input(x), inputs.labels(y).to(self.device)
        self.split = [inputs.labels(part).to(self.device) for part in split]
        self.algorithm, self.local, self.participation = algorithm, local, participation
        self.buffers, self.observers = buffers, list(observers)
        self.state: State = self.net.initial()
        self.own: dict[int, State] = {}
        self.memory: dict[str, Any] = {}
        self.ledger, self.round = Ledger(), 0
        local_buffers = self.net.buffers if buffers == "local" else ()
        self.personal = tuple(
            n for n in self.state if n in local_buffers or any(fnmatch(n, p) for p in algorithm.personal)
        )
        self.history: list[dict[str, Any]] = []
        inputs.check_classes(self.net, self.state, self.x[:1].clone(), self.y, self.input)
        algorithm.setup(self)

    @property
    def clients(self) -> int:
        """Number of clients K."""
        return len(self.split)

    def input(self, x: Tensor) -> Tensor:
        """Samples as the network takes them, on its device: raw ones (of the type of the federation's own) prepared,
        and anything but bytes as it is, in the federation's floating type. Raises ValueError for bytes that nobody
        prepares: the network would take them for numbers up to 255.
        """
        x = x.to(self.device)
        if self.prepare and x.dtype == self.x.dtype:
            return self.prepare(x)
        if x.dtype == torch.uint8:
            raise ValueError("samples are bytes: give Federation prepare=, such as the data set's own")
        return x.to(self.dtype)

    def shared(self, state: State) -> State:
        """The part of a state that travels: everything that is not personal."""
        return {n: t for n, t in state.items() if n not in self.personal}

    def sample(self, number: int) -> list[int]:
        """Clients of a round: max(1, round(C K)) drawn without replacement, ascending."""
        m = max(1, round(self.participation * self.clients))
        return sorted(torch.randperm(self.clients, generator=rng.stream(self.seed, "sample", number))[:m].tolist())

    def run(self, rounds: int) -> list[dict[str, Any]]:
        """Play rounds and return the history so far: one row a round with loss, bytes, seconds and what observers
        add. Raises ArithmeticError when training diverges; the federation is then at its last completed round.
        """
        together([self], rounds)
        return self.history

    def play_round(self) -> None:
        """One communication round."""
        together([self], 1)

    def explain(self) -> str:
        """Which executor would train the next round's clients, and why, in words, and whether their latest steps were
        captured (:mod:`fedlib.capture`); with other federations beside this one: :func:`fedlib.jobs.explain`.
        """
        work = self.local_work()
        return "no local work" if work is None else work.explain()

    def local_work(self) -> Work | None:
        """What the next round's clients would do first; None when they do nothing. Plays nothing."""
        if not any(phase.epochs for phase in self.algorithm.phases(self)):
            return None
        with self.net.arithmetic():
            work = next(self._round())
        assert isinstance(work, Work)
        return work

    def aggregate(self, uploads: list[State], weights: Tensor, algorithm: FedAvg | None = None) -> None:
        """The server step alone, of this federation's algorithm or of another, with the jobs that it asks for.

        Raises NotFinite, and leaves the federation as it was, when what comes of it is not finite.
        """
        before, old = Kept(self), held(self)
        try:
            with self.net.arithmetic():
                for job in (algorithm or self.algorithm).aggregate(self, uploads, weights) or ():
                    job.do(())
            require_finite(self, "server step", old)
        except BaseException:
            before.bring_back()
            raise

    def _round(self) -> Iterator[Job]:
        """One round: yields the jobs that have to be done before it goes on, each phase's local work above all."""
        start, number, algorithm = time.perf_counter(), self.round, self.algorithm
        clients, old = self.sample(number), held(self)
        sent = algorithm.broadcast(self)
        base = {**self.state, **sent}
        base = {n: base[n] for n in self.state}
        received = dict.fromkeys(clients, base)  # one object for all: executors then share a teacher's tensors
        if self.personal:
            received = {k: base | self.own.get(k, {}) for k in clients}
        seen = Round(number, clients, [], [], [], [])
        shares, up = [], 0
        for some in self._crowds(clients):
            states, losses = yield from self._local_work(some, received)
            for k in some:
                algorithm.keep(self, k, states[k])
            uploads = [algorithm.upload(self, k, states[k]) for k in some]
            up += sum(map(payload_bytes, uploads))
            weights = torch.tensor([len(self.split[k]) for k in some], dtype=torch.float64)
            weights = weights if algorithm.weighting == "samples" else torch.ones_like(weights)
            seen.losses += losses.values()
            if len(some) < len(clients):  # a crowd in parts, whose states nobody needs: the mean of each part will do
                uploads, weights = [weighted_mean(uploads, weights / weights.sum())], weights.sum(0, keepdim=True)
            else:
                seen.received, seen.states = [received[k] for k in some], [states[k] for k in some]
            seen.uploads += uploads
            shares.append(weights)
        share = torch.cat(shares)
        down = payload_bytes(sent) * len(clients)
        self.ledger.down.append(down)
        self.ledger.up.append(up)
        yield from algorithm.aggregate(self, seen.uploads, share / share.sum()) or ()
        require_finite(self, f"round {number}", old, clients, seen.uploads)
        loss = sum(seen.losses) / len(clients)
        if not math.isfinite(loss):
            raise require.NotFinite(f"round {number}: the executor's losses are {seen.losses}, not finite numbers")
        devices.synchronise(self.device)
        row: dict[str, Any] = {
            "round": number + 1,
            "loss": loss,
            "down": down,
            "up": up,
            "seconds": time.perf_counter() - start,
        }
        for observe in self.observers:
            row |= _columns(observe(self, seen), row, number)
        self.history.append(row)
        self.round += 1

    def _crowds(self, clients: list[int]) -> list[list[int]]:
        """The round's clients in parts whose states are in memory together: all, unless they are very many.

        Then a server step that is a function of the mean gets the means of the parts.
        """
        if len(clients) <= CROWD or self.observers or not getattr(self.algorithm.aggregate, "of_mean", False):
            return [clients]
        return [clients[i : i + CROWD] for i in range(0, len(clients), CROWD)]

    def _local_work(
        self, clients: list[int], received: Mapping[int, State]
    ) -> Generator[Job, None, tuple[dict[int, State], dict[int, float]]]:
        """All phases of these clients; gives their states and losses afterwards."""
        states = {k: received[k] for k in clients}
        losses = dict.fromkeys(clients, 0.0)
        rate = self.local.lr * self.local.lr_decay**self.round
        for i, phase in enumerate(self.algorithm.phases(self)):
            if phase.epochs == 0:
                continue
            tasks = [self._task(phase, i, k, states[k], received[k]) for k in clients]
            work = Work(self.executor, self.net, tasks, phase.objective, self.local.optimiser(), rate)
            yield work
            states = {t.client: t.state for t in tasks}
            losses = dict(zip(clients, work.losses, strict=True))
        return states, losses

    def _task(self, phase: Phase, i: int, k: int, state: State, received: State) -> Task:
        order = rng.stream(self.seed, "batches", self.round, k, i)
        n = len(phase.split[k])
        epochs = torch.stack([torch.randperm(n, generator=order) for _ in range(phase.epochs)])
        return Task(
            client=k,
            state=state,
            context=Context(received, self.algorithm.context(self, k), self.round),
            x=phase.x,
            y=phase.y,
            samples=phase.split[k].cpu(),
            order=epochs,
            batch_size=self.local.batch_size,
            prepare=self.prepare if phase.x is self.x else None,
            augment=phase.augment,
            key=(self.seed, "augment", self.round, k, i),
        )


def _columns(found: Mapping[str, Any] | None, row: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    """What an observer adds to a row of the history, once it is sure that each column is a number or no number at all.

    Lists may hold NaN: a class without samples has no accuracy.
    """
    found = {} if found is None else found
    if not isinstance(found, Mapping):
        raise TypeError(f"an observer returned {found!r}; expected a dictionary of columns, or None")
    for name, value in found.items():
        if name in row:
            raise ValueError(f"column {name!r} of the history has two authors: rename that of one observer")
        single = isinstance(value, Tensor) and value.ndim == 0
        if (isinstance(value, numbers.Real) or single) and not math.isfinite(value):
            raise require.NotFinite(f"round {number}: an observer found {name} = {value}, which is no finite number")
    return found


def weighted_mean(states: Sequence[State], weights: Tensor) -> State:
    """Sum over k of weights[k] states[k], entry by entry and in the order given; integer entries take the largest
    value. Raises ValueError unless there is one finite weight for each of at least one state.
    """
    rows = weights.tolist()
    if not states or len(rows) != len(states) or not all(map(math.isfinite, rows)):
        raise ValueError(f"one finite weight is needed for each state: {len(states)} states, weights {rows}")
    floating = [n for n, t in states[0].items() if t.is_floating_point()]
    sums = [states[0][n] * rows[0] for n in floating]
    for w, s in zip(rows[1:], states[1:], strict=True) if sums else ():
        torch._foreach_add_(sums, [s[n] for n in floating], alpha=w)
    mean = dict(zip(floating, sums, strict=True))
    return {n: mean[n] if n in mean else torch.stack([s[n] for s in states]).amax(0) for n in states[0]}
