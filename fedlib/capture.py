"""Steps of many clients, captured once and replayed round after round, where the device can do that.

A captured step reads and writes tensors that stay where they are (:class:`Fixed`). It finds its own batch with a
cursor that it moves on, so a replay needs nothing from the host. Every batch is padded to the full width, and
captures are made for K, K/2, K/4, ... clients: the smallest that holds those at work is replayed, and who has finished
is computed on without weight, and is copied out before that.

What a capture bakes in is a part of its key (:func:`~fedlib.seen.facts`): when the objective, what it reads or a shape
changes, another capture is made, and when that goes on, none any more. Before a capture is used, it is compared with a
plain step, and again in rounds 1, 2, 4, 8, ...

A captured step equals the plain one to rounding, and which steps are captured depends on the rounds before: so with
captures a run that is resumed gives the same numbers to rounding, and the same bits with
``fedlib.batched.CAPTURE = False``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedlib import graphs, seen
from fedlib.executors import Objective
from fedlib.fixed import Asked, Fixed, Shape, like
from fedlib.graphs import Graphs
from fedlib.models.net import Net
from fedlib.optim import SGD
from fedlib.plan import Plan
from fedlib.stacking import StackedNet
from fedlib.workspace import Step, draws_by_row, plainly

OFTEN = 4  # steps of one shape in a round for which a capture pays
WASTE = 2.0  # samples computed for each that the plain step would compute
KEPT = 2  # workspaces of one network, such as those of two phases of a round
MANY = 8  # refusals that are remembered
TRIES = 3  # workspaces that served one round only, until no more are made


@dataclass
class Captures:
    """What is kept for one network: its graphs, which share memory; workspaces, the last used at the end; how many of
    them served a single round; and facts for which there is no capture, with the reason.
    """

    graphs: Graphs
    spaces: list[Fixed] = field(default_factory=list)
    wasted: int = 0
    refused: list[tuple[list, str]] = field(default_factory=list)

    def why_not(self, facts: list) -> str:
        """Why no step of these facts is captured, in words; empty when it may be tried."""
        return next((reason for known, reason in self.refused if seen.same(known, facts)), "")

    def space(self, net: StackedNet, plan: Plan, objective: Objective, optimiser: SGD, facts: list) -> Fixed | None:
        """A workspace for this plan, filled with what its clients start from; None when too many were in vain."""
        old = next((s for s in self.spaces if seen.same(s.facts, facts) and s.reads(plan)), None)
        if old is not None and old.holds(plan):
            self.spaces.remove(old)
            self.spaces.append(old)
            old.load(plan, objective)
            return old
        if self.wasted >= TRIES:
            return None
        gone = [old] if old is not None else self.spaces[: max(0, len(self.spaces) + 1 - KEPT)]
        self.wasted += sum(s.rounds == 1 for s in gone)
        for space in gone:
            self.spaces.remove(space)
        self.spaces.append(Fixed(net, plan, objective, optimiser, facts))
        return self.spaces[-1]

    def give_up(self, work: Fixed, reason: str) -> None:
        """Keep the reason in place of the workspace."""
        self.spaces.remove(work)
        self.refused = [*self.refused[1 - MANY :], (work.facts, reason)]


def train(
    net: Net, stacked: StackedNet, plan: Plan, objective: Objective, optimiser: SGD, lr: float
) -> tuple[dict[str, Tensor], Tensor] | None:
    """States and sums of losses of the plan's clients after their steps; None when no step can be captured.

    What became of it stands in the network's notes, in words.
    """
    if "captures" not in net.notes:
        if (made := graphs.for_device(net.device)) is None:
            return None
        net.notes["captures"] = Captures(made)
    captures: Captures = net.notes["captures"]
    shapes, facts = _shapes(plan, _normed(net)), _facts(net, plan, objective, optimiser)
    reason = _obstacle(net, plan, optimiser) or captures.why_not(facts)
    if not (reason or any(shapes)):
        reason = f"a round has fewer than {OFTEN} steps of one shape"
    work = None if reason else captures.space(stacked, plan, objective, optimiser, facts)
    if work is None:
        reason = reason or "what they depend on changes from round to round"
        net.notes["steps"] = f"steps not captured: {reason}"
        return None
    result, plain = _run(captures.graphs, work, shapes, lr)
    work.release()
    reason = "; ".join(sorted(set(work.refused.values())))
    net.notes["steps"] = _told(len(work.replays), plain, plan.steps, reason)
    if reason and not work.replays:
        captures.give_up(work, reason)
    return result


def possible(net: Net) -> bool:
    """Whether the network's device can capture steps."""
    return graphs.for_device(net.device) is not None


def drop(net: Net) -> None:
    """Forget all captures of a network, and the memory that they hold."""
    net.notes.pop("captures", None)


def _obstacle(net: Net, plan: Plan, optimiser: SGD) -> str:
    """Why no step of these clients can be captured, in words; empty when it may be tried."""
    task = plan.tasks[0]
    if type(optimiser) is not SGD:
        return f"the optimiser is a {type(optimiser).__name__}"
    if task.augment and not draws_by_row(task.augment):
        return "the augmentation draws from a generator of the host"
    given = (*task.state.values(), *task.context.received.values(), *task.context.own.values(), task.x, task.y)
    if any(t.device.type != net.device.type for t in given):
        return "not all tensors are on the network's device"
    return ""


def _told(captured: int, plain: int, steps: int, reason: str) -> str:
    if not captured:
        return f"steps not captured: {reason or 'training diverges'}"
    words = f"steps captured ({captured} graph{'s' * (captured > 1)})"
    return f"{words}, {plain} of {steps} steps plain: {reason or 'shapes that are rare or uneven'}" if plain else words


def _normed(net: Net) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.module.modules())


def _shapes(plan: Plan, normed: bool) -> list[Shape | None]:
    """The shape in which each step is captured, None where the plain step is better."""
    sizes = [len(plan.tasks)]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    found: list[Shape | None] = []
    for k, width, least, whole in zip(plan.at_work, plan.widths, plan.least, plan.whole, strict=True):
        size = min(s for s in sizes if s >= k)
        wasteful = size * plan.width > WASTE * k * width
        single = normed and least < 2  # one sample may have no variance: the plain step says so
        found.append(None if wasteful or single else Shape(size, whole or not normed))
    often = {shape for shape, times in Counter(found).items() if times >= OFTEN}
    return [shape if shape in often else None for shape in found]


def _facts(net: Net, plan: Plan, objective: Objective, optimiser: SGD) -> list:
    """All that a capture of these clients' steps bakes in."""
    task, device = plan.tasks[0], net.device.type
    shared = all(t.context.received is task.context.received for t in plan.tasks)
    given = (task.state, task.context.received, task.context.own)
    kinds = [[(n, t.shape, t.dtype) for n, t in state.items()] for state in given]
    samples = [(t.shape[1:], t.dtype) for t in (plan.x, plan.y)]
    cast = (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
    fixed = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    sizes = len(plan.tasks), plan.width, shared, plan.gathered
    rule = optimiser.momentum, optimiser.weight_decay
    told = (kinds, samples, cast, fixed, sizes, rule, net.form)
    forward = list(dict.fromkeys(type(m).forward for m in net.module.modules()))
    return seen.facts(objective, task.prepare, task.augment, forward, told, captured=True)


def _run(
    made: Graphs, work: Fixed, shapes: list[Shape | None], lr: float
) -> tuple[tuple[dict[str, Tensor], Tensor], int]:
    """All steps; gives states and totals in memory of their own, and the number of steps that were not captured."""
    plan, plain, place = work.plan, 0, 0
    states, totals = {n: torch.empty_like(t) for n, t in work.states.items()}, torch.empty_like(work.totals)
    left, step = work.clients, None

    def leave(first: int) -> None:
        done, now = (*states.values(), totals), (*work.states.values(), work.totals)
        torch._foreach_copy_([t[first:left] for t in done], [t[first:left] for t in now])

    work.rate.fill_(lr)
    for i, (k, shape) in enumerate(zip(plan.at_work, shapes, strict=True)):
        if k < left:  # who has finished is computed on
            leave(k)
            left = k
        if shape and (replay := _replay(made, work, shape, i)):
            if place != i:
                work.cursor.fill_(i)
            replay()
            place, step = i + 1, None
            continue
        if step is None or step.clients != k:
            step = Step(work, k, plainly(work.optimiser, lr))
        step(work.batch(i))
        plain += 1
    leave(0)
    return (states, totals), plain


def _replay(made: Graphs, work: Fixed, shape: Shape, i: int) -> Callable[[], None] | None:
    """The captured step of this shape, tried on step i when it is new, and again in rounds 1, 2, 4, 8, ... as promises
    are (:mod:`fedlib.promise`); None when it was refused.
    """
    if shape in work.refused:
        return None
    old = work.replays.get(shape)
    if old and (work.tried.get(shape) == work.rounds or work.round & (work.round - 1)):
        return old
    before, rate = work.snapshot(), work.rate.clone()
    try:
        # With the rate 1 the new weights show the gradient.
        with made.searching():  # what a library has chosen for a shape it keeps
            Step(work, work.plan.at_work[i], plainly(work.optimiser, 1.0))(work.batch(i))
        expected = work.snapshot()
        if not all(bool(t[: work.plan.at_work[i]].isfinite().all()) for t in expected):
            return None  # nothing to compare with: training diverges here, and the plain step says how

        def prepare() -> None:
            work.restore(before)
            work.cursor.fill_(i)
            work.rate.fill_(1.0)

        replay, reason = (old, "") if old else _captured(made, work, shape, prepare)
        if replay:
            prepare()
            replay()
            moved = int(work.cursor) == i + 1
            if not (moved and like(work, before, expected, work.snapshot(), work.plan.at_work[i])):
                reason = "a captured step differs from the plain one"
    finally:
        work.restore(before)
        work.rate.copy_(rate)
    if old and reason:
        work.refused |= dict.fromkeys(work.replays, reason)
        work.replays.clear()
        raise RuntimeError(
            f"{reason} in round {work.round}, where in an earlier one it did not; the rounds between may be wrong. Run "
            "again with fedlib.batched.CAPTURE = False"
        )
    if reason or replay is None:
        work.refused[shape] = reason
        return None
    work.replays[shape], work.tried[shape] = replay, work.rounds
    work.cursor.fill_(i)
    return replay


def _captured(
    made: Graphs, work: Fixed, shape: Shape, prepare: Callable[[], None]
) -> tuple[Callable[[], None] | None, str]:
    """A capture of this shape, or why there is none."""
    steps: list[Step] = []

    def advance() -> None:
        if not steps:  # on the stream of the capture: autograd remembers on which one it met its leaves
            steps.append(Step(work, shape.clients, work.by_rate, Asked))
        steps[0](work.next(shape))
        work.cursor.add_(1)

    try:
        replay = made.capture(advance, prepare)
    except Exception as error:
        root: BaseException = error
        while cause := root.__cause__ or root.__context__:  # the end of a broken capture hides what broke it
            root = cause
        if isinstance(root, torch.OutOfMemoryError):
            raise torch.OutOfMemoryError(str(root)) from error
        return None, f"a step cannot be captured ({type(root).__name__}: {str(root).strip().partition(chr(10))[0]})"
    if any(isinstance(s.context, Asked) and s.context.asked for s in steps):
        return None, "the objective asks for the round's number"
    return replay, ""
