"""Whether a local objective keeps its promise (:func:`~fedlib.executors.per_sample`), found out by trying it.

Two clients take one step alone and together, in double precision. Everything that the objective can reach is shaken
first: weights, buffers, what was received and the clients' own tensors, so that no term is left out because something
is zero, or equal for all, today. The answer is remembered for as long as nothing changes that it may depend on.

What is cut off where it is tried, such as ``relu(distance - 10)``, or hangs on a sign or an exact zero, no shaking
finds. So all clients are compared as they are, too: when an answer is found, and again in rounds 1, 2, 4, 8, ... What
draws from a global generator, or counts its own calls, keeps no promise, and is not always found out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fedlib import rng, seen, stacking
from fedlib.executors import Context, Executor, Objective, Task, sequential
from fedlib.models.net import Net, State
from fedlib.optim import SGD

#: How strongly things are shaken. Some have a bound, such as probabilities: the gentle try stays within it.
STRENGTHS = (1.0, 0.01)
MANY = 32  # objectives of one network whose answers are remembered
ROUNDING = 64  # units in the last place of the largest weight, that a step may differ by
CLIENTS = 64  # that are compared as they are, evenly spread over all


def unlike(tasks: list[Task]) -> str:
    """In what these clients differ so that they cannot share a step, in words; empty when they do not."""
    first, kind = tasks[0], _kind(tasks[0])
    for task in tasks[1:]:
        own, *rest = _kind(task)
        if own != kind[0]:
            return "clients keep different tensors for their objective"
        if (*rest,) != kind[1:]:
            return "clients received different tensors, or their samples differ in shape or type"
        if (task.prepare, task.augment) != (first.prepare, first.augment) or task.context.round != first.context.round:
            return "clients differ in their round, or in how samples are prepared or augmented"
    return ""


def broken(net: Net, objective: Objective, tasks: list[Task], together: Executor) -> str:
    """Why ``together`` would not give these clients what one after the other gives them, in words; empty if it would.

    The answer holds until something changes that the objective may depend on: names, shapes and types of what it is
    given, integers among the clients' own tensors, the objective's closure and the attributes of its object, and the
    round's number if it asks for it. What it reads elsewhere, such as a global variable, nobody can see.
    """
    answers = net.notes.setdefault("promise", {})
    known = answers.setdefault(objective, {})
    if len(answers) > MANY:  # an actor gets another object for the same objective in every round
        del answers[next(iter(answers))]
    shared = all(t.context.received is tasks[0].context.received for t in tasks)
    kind = shared, *_kind(tasks[0])
    facts = seen.facts(objective, tasks[0].prepare, tasks[0].augment, [_integers(net, t) for t in tasks])
    number = tasks[0].context.round
    fresh = kind not in known or not known[kind].stands(facts, number)
    if fresh:
        watch = _Watch()
        reason = _tried(net, objective, _ends(net, tasks), together, watch, shared)
        seen_before = known[kind].seen if kind in known and watch.asked else -1
        known[kind] = _Answer(reason, facts, number if watch.asked else None, seen_before)
    answer = known[kind]
    if answer.due(number) or (fresh and not answer.reason and answer.seen < 0):
        since, answer.seen = answer.seen, number
        if not _agree(net, objective, tasks, together):
            answer.reason = _unlike_alone(objective)
            if since >= 0:
                raise RuntimeError(
                    f"{answer.reason}: not in round {number}, where in round {since} it did; the rounds between may be "
                    "wrong. Run again with executor='sequential'"
                )
    return answer.reason


@dataclass
class _Answer:
    reason: str
    facts: list
    round: int | None
    seen: int = -1  # the last round in which clients were compared as they are

    def due(self, number: int) -> bool:
        """Whether they are to be compared in this round: a power of two, not seen yet."""
        return not self.reason and number != self.seen and number & (number - 1) == 0

    def stands(self, facts: list, number: int) -> bool:
        return self.round in (None, number) and seen.same(facts, self.facts)


class _Watch(seen.Watch):
    """Notes in ``asked`` whether an objective asks for the round, too."""

    asked = False


class _Asked(Context):
    """A context that notes when it is asked for the round."""

    watch: _Watch

    def __getattribute__(self, name: str) -> Any:
        if name == "round":
            super().__getattribute__("watch").asked = True
        return super().__getattribute__(name)


def _tried(net: Net, objective: Objective, ends: list[Task], together: Executor, watch: _Watch, shared: bool) -> str:
    """Compare one plain step of two clients alone and together; ``shared``: with one received model for both."""
    rule, name = SGD(1.0), getattr(objective, "__qualname__", objective)
    # A net in double shows what rounding hides, but an objective may bring tensors that do not go with it.
    ways = [(used, s) for used in dict.fromkeys((stacking.exact(net), net)) for s in STRENGTHS] + [(net, 0.0)]
    for used, strength in ways:
        one = _small(used, ends, watch, shared, strength)
        before, all_ = [t.state for t in one], _again(one)
        try:
            expected = sequential(used, one, partial(watch.around, objective), rule, 1.0)
        except Exception as error:
            if not strength:
                raise  # as things are, too: it has nothing to do with the stack
            fault = error
            continue
        if strength and all(bool(t.isfinite().all()) for task in one for t in task.state.values()):
            break
        fault = ArithmeticError("a gradient is not finite")
    else:
        return f"objective {name} cannot be tried near the values that it is given ({type(fault).__name__}: {fault})"
    if watch.read:
        return f"objective {name} or a layer looks at the values of its tensors ({watch.read})"
    try:
        found = together(used, all_, objective, rule, 1.0)
    except Exception as error:  # whatever a layer or a loss makes of the additional dimensions
        return f"objective {name} does not work on a stack ({type(error).__name__}: {error})"
    near = _near(stacking.tolerance(used), before, (expected, one), (found, all_))
    return "" if near else _unlike_alone(objective)


def _unlike_alone(objective: Objective) -> str:
    name = getattr(objective, "__qualname__", objective)
    return f"objective {name} or a layer does not give each client its own result on a stack"


def _agree(net: Net, objective: Objective, tasks: list[Task], together: Executor) -> bool:
    """Compare one step of all clients, as they are, one after the other and together."""
    stride = -(-len(tasks) // CLIENTS)
    some = [*tasks[:-1:stride], tasks[-1]] if len(tasks) > 1 else tasks
    shared = all(t.context.received is tasks[0].context.received for t in tasks)
    for used in dict.fromkeys((stacking.exact(net), net)):
        one = _small(used, some, _Watch(), shared, 0.0)
        before, all_ = [t.state for t in one], _again(one)
        try:
            expected = sequential(used, one, objective, SGD(1.0), 1.0)
        except Exception as error:
            fault = error  # in double; as the network is, it is the caller's to see
            continue
        found = together(used, all_, objective, SGD(1.0), 1.0)
        return _near(stacking.tolerance(used), before, (expected, one), (found, all_))
    raise fault


def _near(
    tolerance: float, before: list[State], one: tuple[list[float], list[Task]], all_: tuple[list[float], list[Task]]
) -> bool:
    """Whether losses and new states are the same to rounding, as a share of how far the clients' weights moved."""
    if any(abs(a - b) > tolerance * max(1.0, abs(a)) for a, b in zip(one[0], all_[0], strict=True)):
        return False
    for a, b, start in zip(one[1], all_[1], before, strict=True):
        floating = [n for n in a.state if a.state[n].is_floating_point()]
        moved = max(float((a.state[n] - start[n]).abs().max()) for n in floating)
        size = max(float(a.state[n].abs().max()) for n in floating)  # where nothing moves, rounding is all there is
        room = tolerance * moved + ROUNDING * torch.finfo(a.state[floating[0]].dtype).eps * max(1.0, size)
        if not all(bool(((a.state[n] - b.state[n]).abs() <= room).all()) for n in a.state):
            return False
    return True


def _small(net: Net, ends: list[Task], watch: _Watch, shared: bool, strength: float) -> list[Task]:
    """The tasks as one step, in the type of ``net``: on three and on two samples in turn, with all that they look at
    shaken; or, with no ``strength``, on the client's own first batch with things as they are.

    The first client's own numbers keep their size, the others' are made no larger than one: beside them no other term
    is small.
    """
    draw = rng.stream("does this objective keep its promise?")

    def cast(t: Tensor) -> Tensor:
        return t.to(net.dtype) if t.is_floating_point() else t

    def shaken(state: Mapping[str, Tensor]) -> State:
        return {n: _shaken(cast(t), strength, draw, n in net.buffers) for n, t in state.items()}

    def tamed(t: Tensor) -> Tensor:
        return t / max(1.0, _size(t)) if t.is_floating_point() and strength else t

    small, received = [], [shaken(t.context.received) for t in ends]
    for k, task in enumerate(ends):
        n = 3 - k % 2 if strength else min(task.batch_size, len(task.samples))
        rows = task.samples[:n] if len(task.samples) >= n else torch.arange(n) % len(task.x)
        own = {m: tamed(t) for m, t in task.context.own.items()} if k else task.context.own
        context = _Asked(received[0 if shared else k], shaken(own), task.context.round)
        context.watch = watch
        made = replace(
            task,
            state=shaken(task.state),
            context=context,
            x=task.x[rows] if task.prepare else cast(task.x[rows]),
            y=cast(task.y[rows]),
            samples=torch.arange(n),
            order=torch.arange(n)[None],
            batch_size=n,
            prepare=task.prepare and partial(_prepared, watch, task.prepare, net.dtype),
        )
        small.append(made)
    return small


def _prepared(watch: _Watch, prepare: Callable[[Tensor], Tensor], dtype: torch.dtype, x: Tensor) -> Tensor:
    return watch.around(prepare, x).to(dtype)


def _shaken(t: Tensor, strength: float, draw: torch.Generator, counter: bool) -> Tensor:
    """The tensor with every number moved away from zero, by a share of itself and by a small amount; signs stay, and
    so do integers, unless they count.
    """
    if not strength:
        return t.clone()
    if not t.is_floating_point():
        return t + torch.randint(5, t.shape, generator=draw).to(t) if counter else t.clone()
    share, more = torch.rand(2, *t.shape, generator=draw).to(t)
    size = t.abs() * (1 + strength * (share - 0.5)) + strength * (0.05 + 0.05 * more)
    return torch.where(t < 0, -size, size)


def _size(t: Tensor) -> float:
    """The largest finite magnitude."""
    return float(t.nan_to_num(0, 0, 0).abs().max()) if t.numel() else 0.0


def _again(tasks: list[Task]) -> list[Task]:
    """The same tasks with tensors of their own to look at, in contexts that note nothing; what is shared stays so."""

    def copy(state: Mapping[str, Tensor]) -> State:
        return {n: t.clone() for n, t in state.items()}

    received = {id(t.context.received): copy(t.context.received) for t in tasks}
    contexts = [
        Context(received[id(t.context.received)], copy(t.context.own), t.context.__dict__["round"]) for t in tasks
    ]
    return [replace(t, context=c) for t, c in zip(tasks, contexts, strict=True)]


def _kind(task: Task) -> tuple:
    own, received = (
        frozenset((n, t.shape, t.dtype) for n, t in s.items()) for s in (task.context.own, task.context.received)
    )
    return own, received, *((t.shape[1:], t.dtype) for t in (task.x, task.y))


def _ends(net: Net, tasks: list[Task]) -> list[Task]:
    """Two clients: the first, and one whose own integers are others, or else the last."""
    first = _integers(net, tasks[0])
    others = (t for t in tasks if not all(map(torch.equal, first, _integers(net, t))))
    return [tasks[0], next(others, tasks[-1])]


def _integers(net: Net, task: Task) -> list[Tensor]:
    """The client's own tensors that cannot be shaken, such as labels and masks; by name."""
    own = task.context.own
    return [own[n] for n in sorted(own) if not own[n].is_floating_point() and n not in net.buffers]
