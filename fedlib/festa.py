"""FeSTA: heads and tails with the clients, one transformer body on the server, for several tasks at once.

A client c of task k has H_c and T_c, the server B; the loss is l_k(y, T_c(B(H_c(x)))). Each step sends four tensors a
client, activations and gradients both ways (:mod:`fedlib.split`); heads and tails of a task are averaged now and then,
in unifying rounds (Park et al. 2021, section 3 and algorithm 1).

Federations of several seeds train side by side: a part is a stack, whose leading dimension runs over seeds, and within
a seed over clients where each has its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import stack_module_state, vmap

from fedlib import require, rng
from fedlib.split import Cut, Part, Wire, back

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Batches = Mapping[str, tuple[Tensor, Tensor]]
"""A step's batches by task: x [S, K, B, ...] and y [S, K, B, ...] of S seeds and the task's K clients."""


class Stacked(nn.Module):
    """Modules of one shape side by side: inputs [R, B, ...] give outputs [R, B, ...], row r by module r.

    Raises ValueError for none, and for modules with buffers: running statistics would have to be unified, too.
    """

    def __init__(self, modules: Sequence[nn.Module]):
        super().__init__()
        if not modules:
            raise ValueError("modules: a stack of none")
        weights, buffers = stack_module_state(list(modules))
        if buffers:
            raise ValueError(f"modules: {', '.join(buffers)} would not be averaged; take a norm without statistics")
        self._one = (copy.deepcopy(modules[0]).to("meta"),)  # in a tuple: it is no part of this module
        self.names = tuple(weights)
        places = [(self._one[0].get_submodule(n.rpartition(".")[0]), n.rpartition(".")[2]) for n in self.names]
        self._slots = [(own._parameters, name, own._parameters[name]) for own, name in places]
        self.weights = nn.ParameterList(weights.values())

    def forward(self, x: Tensor, every: int = 1) -> Tensor:
        """Outputs [R, B, ...] of inputs [R, B, ...]; of every third module only with ``every`` 3, and so on."""
        return vmap(self._alone)(tuple(w[::every] for w in self.weights) if every > 1 else tuple(self.weights), x)

    def _alone(self, weights: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Outputs of the one module, which has these weights for the call alone; what functional_call gives, sooner."""
        for (own, name, _), w in zip(self._slots, weights, strict=True):
            own[name] = w  # type: ignore[assignment]
        try:
            return self._one[0](x)
        finally:
            for own, name, empty in self._slots:
                own[name] = empty


def crossing(weights: int, tokens: int, width: int) -> float:
    """Samples between two averagings from which on split learning sends more than federated averaging does.

    n* = 2 W / (4 T D) for a network of W weights, sent up and down, and activations of T tokens of D numbers, which
    cross four times with each sample; heads and tails aside. Raises ValueError for numbers below 1.
    """
    for name, value in {"weights": weights, "tokens": tokens, "width": width}.items():
        require.whole(name, value, 1)
    return 2 * weights / (4 * tokens * width)


def weights_of(*makes: Callable[[], nn.Module]) -> int:
    """How many weights the modules have together."""
    return sum(w.numel() for make in makes for w in make().parameters())


def wire_bytes(tasks: Sequence[Task], tokens: int, width: int, *, rounds: int, steps: int, size: int, each: int) -> int:
    """What FeSTA sends for one seed: four messages of ``size`` x T x D numbers for each client and step, and its head
    and tail up and down in each round; ``each``: bytes of a number.
    """
    ends = sum(2 * task.clients * weights_of(task.head, task.tail) for task in tasks)
    clients = sum(task.clients for task in tasks)
    return each * rounds * (4 * steps * size * tokens * width * clients + ends)


@dataclass(frozen=True)
class Task:
    """What the clients of a task have in common.

    ``loss`` takes outputs [R, B, ...] and labels [R, B, ...] of R clients and gives a value each, [R]; ``weight`` is
    its share in the objective, for losses of different scales meet in one body.
    """

    name: str
    clients: int
    head: Callable[[], nn.Module]
    tail: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    weight: float = 1.0

    def __post_init__(self) -> None:
        require.whole("clients", self.clients, 1)
        require.real("weight", self.weight, above=0)


def stack(make: Callable[[], nn.Module], seeds: Sequence[int], copies: int, key: str, **where: Any) -> Stacked:
    """``copies`` modules a seed, those of a seed alike, with first weights from the seed and the key; ``where``: their
    dtype and device.
    """
    made = [rng.build(make, s, key).to(**where) for s in seeds]
    return Stacked([copy.deepcopy(one) for one in made for _ in range(copies)])


@torch.no_grad()
def averaged(part: Part, name: str, clients: int, wire: Wire) -> None:
    """Average a stacked part over the clients of each seed, in place: up go all, down comes the mean."""
    for label, w in zip(part.module.names, part.module.weights, strict=True):  # type: ignore[arg-type]
        numbers = list(range(clients)) * (len(w) // clients)
        up = wire.send(f"{name}/{label}", w, "up", numbers).unflatten(0, (-1, clients))
        mean = up.mean(1, keepdim=True).expand_as(up).flatten(0, 1)
        w.copy_(wire.send(f"{name}/{label}", mean, "down", numbers))


class FeSTA:
    """Clients with heads and tails, and one body for all of them.

    ``make`` makes the optimiser of a part's weights, one for each part; they keep what they remember when parts are
    unified. With ``unifying`` off, heads and tails never are. Raises ValueError for no task, or two of one name.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        body: Callable[[], nn.Module],
        make: Make,
        seeds: Sequence[int],
        *,
        unifying: bool = True,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        if not tasks or len({t.name for t in tasks}) < len(tasks):
            raise ValueError(
                f"tasks: at least one is needed, each with a name of its own; got {[t.name for t in tasks]}"
            )
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds: at least one is needed, and each once; got {list(seeds)}")
        self.tasks, self.seeds, self.unifying, self.wire = {t.name: t for t in tasks}, list(seeds), unifying, Wire()
        self.copies = {t.name: self.held(t) for t in tasks}

        def part(module: Callable[[], nn.Module], copies: int, key: str) -> Part:
            return Part(stack(module, self.seeds, copies, key, dtype=dtype, device=device), make)

        self.heads = {t.name: part(t.head, self.copies[t.name], f"{t.name} head") for t in tasks}
        self.tails = {t.name: part(t.tail, self.copies[t.name], f"{t.name} tail") for t in tasks}
        self.bodies, self.alike = self.served(tasks), False  # alike: no client has stepped since all were averaged
        self.body = part(body, self.bodies, "body")

    def held(self, task: Task) -> int:
        """How many heads and tails a task has: one for each client."""
        return task.clients

    def served(self, tasks: Sequence[Task]) -> int:
        """How many bodies there are: one, the server's."""
        return 1

    @property
    def parts(self) -> list[Part]:
        """All parts: heads, body, tails."""
        return [*self.heads.values(), self.body, *self.tails.values()]

    def freeze(self) -> None:
        """Train heads and tails only from now on: the second of the paper's two steps."""
        self.body.module.requires_grad_(False)

    def step(self, batches: Batches) -> dict[str, Tensor]:
        """One step of all clients; returns losses by task, [S, K].

        The server adds up the clients' gradients of the body and divides by their number. Raises ValueError for
        batches of other tasks or shapes.
        """
        check(batches, self.tasks.values(), len(self.seeds))
        self.alike = False
        up, down, tokens, losses = dict[str, Cut](), dict[str, Cut](), [], dict[str, Tensor]()
        for name, (x, _) in batches.items():
            numbers = list(range(x.shape[1])) * len(x)
            up[name], down[name] = (
                Cut(self.wire, f"{name} {what}", way, numbers) for what, way in (("tokens", "up"), ("answers", "down"))
            )
            h = up[name].cross(self.heads[name](x.flatten(0, 1)))  # 1 and 2: what the server receives
            tokens.append(h.unflatten(0, x.shape[:2]).flatten(1, 2))
        answers = self.body(torch.cat(tokens, 1)).split([t.shape[1] for t in tokens], 1)
        for (name, (x, y)), b in zip(batches.items(), answers, strict=True):
            received = down[name].cross(b.unflatten(1, x.shape[1:3]).flatten(0, 1))
            losses[name] = self.tasks[name].loss(self.tails[name](received), y.flatten(0, 1))
        total = torch.stack([self.tasks[n].weight * loss.sum() for n, loss in losses.items()]).sum()
        total.backward()
        back(*down.values())  # 3
        back(*up.values())  # 4
        clients = sum(x.shape[1] for x, _ in batches.values())
        for w in self.body.module.parameters():
            if w.grad is not None:
                w.grad /= clients
        for part in self.parts:
            part.step()
        return {n: loss.detach().unflatten(0, (len(self.seeds), -1)) for n, loss in losses.items()}

    def unify(self) -> None:
        """Average heads and tails over the clients of each task."""
        for name, task in self.tasks.items():
            averaged(self.heads[name], f"{name} head", task.clients, self.wire)
            averaged(self.tails[name], f"{name} tail", task.clients, self.wire)
        self.alike = True

    def round(self, steps: Sequence[Batches]) -> None:
        """Some steps, and then a unifying round, unless heads and tails are never unified."""
        for batches in steps:
            self.step(batches)
        if self.unifying:
            self.unify()

    @torch.no_grad()
    def answers(self, task: str, x: Tensor) -> Tensor:
        """Outputs of each client's network for images x [S, N, ...] of each seed: [S, K, N, ...].

        Right after a round that averaged them all are one, which answers for all. Raises ValueError for an unknown
        task.
        """
        require.one_of("task", task, self.tasks)
        copies = self.copies[task]
        every, bodies = (copies, 1) if self.alike else (1, self.bodies)
        h = self.heads[task].module(x.repeat_interleave(copies // every, 0), every)
        h = h.unflatten(0, (len(x) * bodies, -1)).flatten(1, 2)
        b = self.body.module(h, self.bodies // bodies).unflatten(1, (-1, x.shape[1])).flatten(0, 1)
        z = self.tails[task].module(b, every).unflatten(0, (len(x), -1))
        return z.expand(-1, copies, *z.shape[2:])


def check(batches: Batches, tasks: Iterable[Task], seeds: int) -> None:
    """Raises ValueError unless each task has a batch for each seed and each of its clients."""
    wanted = {t.name: t for t in tasks}
    if batches.keys() != wanted.keys():
        raise ValueError(f"batches of {', '.join(batches) or 'nothing'}; the tasks are {', '.join(wanted)}")
    for name, (x, y) in batches.items():
        lead = (seeds, wanted[name].clients)
        if x.shape[:2] != lead or y.shape[:3] != x.shape[:3] or not x.numel():
            raise ValueError(
                f"{name}: x and y begin with {lead[0]} seeds, {lead[1]} clients and a batch; "
                f"got {list(x.shape)} and {list(y.shape)}"
            )
