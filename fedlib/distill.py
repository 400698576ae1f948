"""Distillation on the server: fit one student to fixed teacher logits on unlabelled inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlib import choice, require, stacking
from fedlib.losses import kd
from fedlib.models.net import Net, State, clone
from fedlib.optim import Adam, Memory, clip_norm


@dataclass(frozen=True)
class Distillation:
    """How the student is fitted: Adam with a cosine schedule to zero, as in FedDF (Lin et al. 2020, section 4.1).

    ``max_norm`` clips the gradient's joint norm (5 in FedDF's code; None leaves it alone).
    """

    steps: int = 100
    batch_size: int = 128
    lr: float = 1e-3
    temperature: float = 1.0
    max_norm: float | None = 5.0

    def __post_init__(self) -> None:
        require.whole("steps", self.steps)
        require.whole("batch_size", self.batch_size, 1)
        for name in ("lr", "temperature", *(["max_norm"] if self.max_norm is not None else [])):
            require.real(name, getattr(self, name), above=0)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0: half a cosine from ``lr`` down to zero."""
        return self.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def ensemble_logits(logits: Sequence[Tensor]) -> Tensor:
    """Logits of an ensemble whose members give ``logits`` [..., C] each: the log of their mean probability [..., C].

    Softmax of it is the mean of the members' softmax; the mean of their logits would be the geometric mean instead.
    Raises ValueError without a member.
    """
    if not len(logits):
        raise ValueError("an ensemble needs at least one member")
    return torch.stack([z.log_softmax(-1) for z in logits]).logsumexp(0) - math.log(len(logits))


def distil(
    net: Net, start: State, x: Tensor, teacher_logits: Tensor, how: Distillation, generator: torch.Generator
) -> State:
    """A student that starts at ``start`` and learns ``teacher_logits`` [U, C] on ``x`` [U, ...]; ``start`` is left as
    it is.

    The student is in training mode: BatchNorm statistics adapt to ``x`` and are part of the result. Batches are
    drawn by shuffling ``x`` again and again. Zero steps return the start itself, bit for bit. Raises ArithmeticError
    when the loss stops being finite.
    """
    state, optimiser, memory = clone(start), Adam(how.lr), Memory()
    leaves = {n: state[n].requires_grad_() for n in net.parameters}
    params = {n: w.detach() for n, w in leaves.items()}  # the same memory, for the update in place
    order: list[Tensor] = []
    total = torch.zeros((), device=x.device, dtype=x.dtype)
    for step in range(how.steps):
        if not order:
            order = list(torch.randperm(len(x), generator=generator).split(how.batch_size))
        rows = order.pop(0).to(x.device)
        loss = kd(net(state, x[rows], train=True), teacher_logits[rows], how.temperature)
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        clipped = grads if how.max_norm is None else clip_norm(grads, how.max_norm)
        optimiser.step(params, clipped, memory, how.rate(step))
        total += loss.detach()
    _finite(float(total), how)
    return {n: t.detach() for n, t in state.items()}


@dataclass(eq=False)
class Student:
    """A student to be fitted as :func:`distil` does it, alone or with those of other federations; ``state`` is where it
    starts, and then the result.
    """

    net: Net
    state: State
    x: Tensor
    teacher_logits: Tensor
    how: Distillation
    generator: torch.Generator

    def fits(self, other: object) -> bool:
        """Whether the other student may be fitted in the same computation."""
        if not isinstance(other, Student) or not isinstance(self.net, Net):
            return False
        return self._kind() == other._kind() and self._slow_alone()

    def _slow_alone(self) -> bool:
        few = 3  # students: as many as there are at least where several seeds are compared
        return choice.overhead_rules(self.net, self.x[:1], few, min(self.how.batch_size, len(self.x))) == ""

    def _kind(self) -> tuple:
        return self.how, self.net.form, *((t.shape, t.dtype) for t in (self.x, self.teacher_logits))

    def do(self, others: Sequence[Student] = ()) -> None:
        """Fit this student, and the others with it."""
        if not others:
            self.state = distil(self.net, self.state, self.x, self.teacher_logits, self.how, self.generator)
            return
        students = [self, *others]
        for student, state in zip(students, distil_all(students), strict=True):
            student.state = state


def distil_all(students: Sequence[Student]) -> list[State]:
    """What :func:`distil` gives for each of the students, which fit each other, in one computation."""
    net, how, number = students[0].net, students[0].how, len(students)
    stacked, states = stacking.stacked(net), stacking.take([s.state for s in students])
    x, logits = (torch.stack([getattr(s, name) for s in students], 1) for name in ("x", "teacher_logits"))
    leaves = {n: states[n].requires_grad_() for n in net.parameters}
    params = stacking.Stack({n: w.detach() for n, w in leaves.items()})
    optimiser, memory, total = Adam(how.lr), Memory(), torch.zeros(number, device=x.device, dtype=x.dtype)
    each, order = torch.arange(number, device=x.device), list[Tensor]()
    for step in range(how.steps):
        if not order:
            shuffled = [torch.randperm(len(x), generator=s.generator) for s in students]
            order = list(torch.stack(shuffled, 1).to(x.device).split(how.batch_size))
        rows = order.pop(0)
        stacked.weigh(torch.full(rows.shape, 1 / len(rows), device=x.device, dtype=x.dtype), None)
        outputs = stacked(states, x[rows, each].unsqueeze(2), train=True)
        losses = kd(outputs, logits[rows, each].unsqueeze(2), how.temperature).mean(0)
        grads = stacking.Stack(zip(leaves, torch.autograd.grad(losses.sum(), list(leaves.values())), strict=True))
        clipped = grads if how.max_norm is None else clip_norm(grads, how.max_norm)
        optimiser.step(params, clipped, memory, how.rate(step))
        total += losses.detach()
    for summed in total.tolist():
        _finite(summed, how)
    return [{n: t[k].detach().clone() for n, t in states.items()} for k in range(number)]


def _finite(total: float, how: Distillation) -> None:
    if not math.isfinite(total):
        raise ArithmeticError(f"distillation diverged: the summed loss over {how.steps} steps is {total}")
