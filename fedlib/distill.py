"""Distillation on the server: fit one student to fixed teacher logits on unlabelled inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

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


def distil(
    net: Net, start: State, x: Tensor, teacher_logits: Tensor, how: Distillation, generator: torch.Generator
) -> State:
    """A student that starts at ``start`` and learns ``teacher_logits`` [U, C] on ``x`` [U, ...]; ``start`` is left as
    it is.

    The student is in training mode: BatchNorm statistics adapt to ``x`` and are part of the result. Batches are
    drawn by shuffling ``x`` again and again. Zero steps return the start itself, bit for bit. Raises ArithmeticError
    when the loss stops being finite.
    """
    state, optimiser = clone(start), Adam(how.lr)
    memory: Memory = {}
    order: list[Tensor] = []
    total = torch.zeros((), device=x.device, dtype=x.dtype)
    for step in range(how.steps):
        if not order:
            order = list(torch.randperm(len(x), generator=generator).split(how.batch_size))
        rows = order.pop(0).to(x.device)
        leaves = {n: state[n].requires_grad_() for n in net.parameters}
        loss = kd(net(state, x[rows], train=True), teacher_logits[rows], how.temperature)
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        state |= {n: w.detach() for n, w in leaves.items()}
        if how.max_norm is not None:
            grads = clip_norm(grads, how.max_norm)
        rate = how.lr * 0.5 * (1 + math.cos(math.pi * step / how.steps))
        optimiser.step({n: state[n] for n in leaves}, grads, memory, rate)
        total += loss.detach()
    if not math.isfinite(float(total)):
        raise ArithmeticError(f"distillation diverged: the summed loss over {how.steps} steps is {float(total)}")
    return state
