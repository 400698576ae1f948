"""A workspace whose tensors stay where they are, so that captured steps may be kept from round to round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlib import stacking
from fedlib.executors import Context, Objective
from fedlib.models.net import State
from fedlib.optim import SGD, Memory
from fedlib.plan import Batch, Plan
from fedlib.stacking import Stack, StackedNet
from fedlib.workspace import Workspace, keys

ROOM = 1.25  # how much larger than today tensors are made whose size differs from round to round
COPIED = 2**26  # bytes of targets that may be others in every round, such as a consensus
ROUNDING = 64  # units in the last place of the largest weight, that a step may differ by


@dataclass(frozen=True)
class Shape:
    """Of a captured step: how many ``clients`` it computes, and whether every batch is ``whole``, without padding, for
    networks that have to know.
    """

    clients: int
    whole: bool


class Asked(Context):
    """A context that notes when it is asked for the round, which a capture would bake in."""

    asked = False

    def __getattribute__(self, name: str) -> Any:
        if name == "round":
            self.asked = True
        return super().__getattribute__(name)


class Fixed(Workspace):
    """A workspace for K clients that is filled anew every round.

    The step that comes next is told by ``cursor`` [1], the rate of learning by ``rate`` []. For BatchNorm, a client
    that has finished counts as one with a whole batch: without any sample its activations would grow from layer to
    layer. ``replays`` are the captured steps, ``refused`` says why others are not, ``tried`` in which round each was
    compared with a plain one; ``rounds`` counts how often the workspace was filled.
    """

    def __init__(self, net: StackedNet, plan: Plan, objective: Objective, optimiser: SGD, facts: list):
        super().__init__(net, plan, objective, optimiser)
        self.facts, self.rounds = facts, 1
        self.replays: dict[Shape, Callable[[], None]] = {}
        self.refused: dict[Shape, str] = {}
        self.tried: dict[Shape, int] = {}
        if not isinstance(self.received, Stack):
            self.received = {n: t.clone() for n, t in self.received.items()}
        self.cursor = torch.zeros(1, dtype=torch.int64, device=net.device)
        self.rate = torch.zeros((), dtype=net.dtype, device=net.device)
        self.rows, self.share, self.counts = (_roomy(t) for t in (self.rows, self.share, self.counts))
        self.norm_share, self.norm_counts = torch.empty_like(self.share), torch.empty_like(self.counts)
        self.x = _roomy(plan.x) if plan.gathered else plan.x
        self.copies_targets = plan.gathered or plan.y.nbytes <= COPIED
        self.y = _roomy(plan.y) if self.copies_targets else plan.y
        self.places = [t.data_ptr() for t in (self.x, self.y)]
        self._load_plan(plan)

    def reads(self, plan: Plan) -> bool:
        """Whether its captures read the plan's samples."""
        own = (plan.gathered or plan.x is self.x) and (self.copies_targets or plan.y is self.y)
        return own and self.places == [t.data_ptr() for t in (self.x, self.y)]

    def holds(self, plan: Plan) -> bool:
        """Whether there is room for the plan."""
        return plan.steps <= len(self.rows) and len(plan.x) <= len(self.x) and len(plan.y) <= len(self.y)

    def load(self, plan: Plan, objective: Objective) -> None:
        """Another round: the plan's clients where they start."""
        self.plan, self.objective, self.round = plan, objective, plan.tasks[0].context.round
        self.rounds += 1
        _fill(self.states, [t.state for t in plan.tasks])
        _fill(self.own, [t.context.own for t in plan.tasks])
        if isinstance(self.received, Stack):
            _fill(self.received, [t.context.received for t in plan.tasks])
        else:
            for n, t in plan.tasks[0].context.received.items():
                self.received[n].copy_(t)
        for slot in self.memory.values():
            for t in slot.values():
                t.zero_()
        self.totals.zero_()
        self.cursor.zero_()
        if self.keys is not None:
            self.keys.copy_(keys(plan.tasks))
        self._load_plan(plan)

    def _load_plan(self, plan: Plan) -> None:
        idle = plan.counts == 0
        norm_share = np.where(idle[:, None], 1 / plan.width, plan.share)
        norm_counts = np.where(idle, plan.width, plan.counts)
        for buffer, values in (
            (self.rows, plan.rows),
            (self.share, plan.share),
            (self.counts, plan.counts),
            (self.norm_share, norm_share),
            (self.norm_counts, norm_counts),
        ):
            buffer[: plan.steps].copy_(torch.from_numpy(values))
        for new, own in ((plan.x, self.x), (plan.y, self.y)):
            if new is not own:
                own[: len(new)].copy_(new)

    def release(self) -> None:
        """Let go of the round's clients, so that what they started from can be freed."""
        del self.plan

    def next(self, shape: Shape) -> Batch:
        """The batch under the cursor."""
        k = shape.clients

        def here(t: Tensor) -> Tensor:
            return t.index_select(0, self.cursor)[0]

        rows, share = here(self.rows)[:, :k], here(self.share)[:, :k]
        if shape.whole:
            return Batch(rows, share, share, None, 0, self.cursor)
        return Batch(rows, share, here(self.norm_share)[:, :k], here(self.norm_counts)[:k], 2, self.cursor)

    def by_rate(self, params: State, grads: State, memory: Memory) -> None:
        """The optimiser's rule with the rate that is in ``rate``."""
        self.optimiser.step_by(params, grads, memory, self.rate)

    def snapshot(self) -> list[Tensor]:
        """A copy of all that a step changes."""
        return [t.clone() for t in self._changing()]

    def restore(self, snapshot: Sequence[Tensor]) -> None:
        """Everything as it was."""
        for t, kept in zip(self._changing(), snapshot, strict=True):
            t.copy_(kept)

    def _changing(self) -> list[Tensor]:
        slots = [t for slot in self.memory.values() for t in slot.values()]
        return [*self.states.values(), *slots, self.totals, self.cursor]


def like(work: Fixed, before: Sequence[Tensor], expected: Sequence[Tensor], found: Sequence[Tensor], k: int) -> bool:
    """Whether a step gave the first k clients what was expected, to rounding: weights and statistics as a share of how
    far each client's moved, velocities and losses as a share of their size. Takes snapshots from before the step, and
    from after it.
    """
    kinds = ["weights" if n in work.net.parameters else "statistics" for n in work.states]
    kinds += [kind for kind, slot in work.memory.items() for _ in slot]
    share, eps = stacking.tolerance(work.net._one), torch.finfo(work.net.dtype).eps
    room: dict[str, Tensor] = {}
    gaps: dict[str, Tensor] = {}
    for kind, *states in zip([*kinds, "losses"], before, expected, found, strict=False):
        start, plain, captured = (t[:k].reshape(k, -1) for t in states)
        if not plain.is_floating_point():
            if not torch.equal(plain, captured):
                return False
            continue
        change = _most(plain - start if kind in ("weights", "statistics") else plain)
        allowed = share * change.clamp(min=1.0 if kind == "losses" else 0.0) + ROUNDING * eps * _most(plain).clamp(
            min=1.0
        )
        room[kind] = torch.maximum(room.get(kind, allowed), allowed)
        gap = _most(captured - plain)
        gaps[kind] = torch.maximum(gaps.get(kind, gap), gap)
    return all(bool((gaps[kind] <= room[kind]).all()) for kind in gaps)


def _most(t: Tensor) -> Tensor:
    """Each client's largest magnitude [k]."""
    return t.abs().amax(1) if t.shape[1] else t.new_zeros(len(t))


def _roomy(t: Tensor) -> Tensor:
    return t.new_zeros(int(len(t) * ROOM) + 1, *t.shape[1:])


def _fill(stack: Stack, states: Sequence[Mapping[str, Tensor]]) -> None:
    for n, t in stack.items():
        torch.stack([s[n] for s in states], out=t)
