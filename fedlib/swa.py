"""Averages of weights at the server: teachers drawn around the clients' models (SWAG), a student averaged along its
way (SWA).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.swa_utils import AveragedModel, update_bn

from fedlib import metrics, rng
from fedlib.federation import Federation
from fedlib.losses import kd
from fedlib.models.net import Net, State


@dataclass(frozen=True)
class SWAG:
    """A Gaussian around the mean of K states of one network (Maddox et al. 2019; over clients: Chen and Chao 2021).

    ``mean`` is the plain mean, ``variance`` the diagonal mean(w^2) - mean(w)^2, ``deviations`` the K differences to the
    mean, each by name. Buffers are averaged and not drawn.
    """

    mean: State
    variance: State
    deviations: list[State]

    @classmethod
    def of(cls, states: Sequence[State], parameters: Iterable[str]) -> SWAG:
        """The Gaussian of K >= 2 states. Raises ValueError for fewer."""
        if len(states) < 2:
            raise ValueError(f"a spread needs two models, got {len(states)}")
        mean, variance = {}, {}
        for n, t in states[0].items():
            every = torch.stack([s[n] for s in states])
            mean[n] = every.mean(0) if t.is_floating_point() else every.amax(0)
        for n in parameters:
            square = torch.stack([s[n].square() for s in states]).mean(0) - mean[n].square()
            variance[n] = square.clamp(min=0)  # rounding may leave a negative one, of which there is no root
        return cls(mean, variance, [{n: s[n] - mean[n] for n in variance} for s in states])

    def sample(self, scale: float, generator: torch.Generator) -> State:
        """mean + scale (sqrt(variance) xi / sqrt 2 + D xi' / sqrt(2 (K - 1))), xi and xi' standard normal.

        With ``scale`` 0 it is the mean itself.
        """
        if not scale:
            return dict(self.mean)
        along = torch.randn(len(self.deviations), generator=generator, dtype=torch.float64)
        along = along / math.sqrt(2 * (len(along) - 1))
        drawn = dict(self.mean)
        for n, v in self.variance.items():
            own = torch.randn(v.shape, generator=generator, dtype=v.dtype if v.is_floating_point() else None).to(v)
            shift = v.sqrt() * own / math.sqrt(2)
            shift = shift + sum(c * d[n] for c, d in zip(along.tolist(), self.deviations, strict=True))
            drawn[n] = self.mean[n] + scale * shift
        return drawn


@dataclass(frozen=True)
class SWAGTeachers:
    """The received models and ``samples`` more from a SWAG Gaussian around them, for ``teachers=`` of
    :class:`fedlib.sources.SourcedFedDF`. ``clients=False`` leaves the received ones out. Far from IID a sample at
    scale 1 often knows nothing: with ``validation``, labelled (x, y) at the server, samples below 1.2 times chance are
    left out.
    """

    samples: int = 10
    scale: float = 0.5
    clients: bool = True
    validation: tuple[Tensor, Tensor] | None = None

    def __call__(self, fed: Federation, uploads: list[State]) -> list[State]:
        """The ensemble of a round."""
        gaussian, draw = SWAG.of(uploads, fed.net.parameters), rng.stream(fed.seed, "swag", fed.round)
        drawn = [gaussian.sample(self.scale, draw) for _ in range(self.samples)]
        if self.validation is not None:
            x, y = fed.input(self.validation[0]), self.validation[1].to(fed.device)
            answers = zip(drawn, fed.net.predict_all(drawn, x), strict=True)
            drawn = [state for state, z in answers if metrics.accuracy(z, y) >= 1.2 / z.shape[-1]]
        return [*uploads, *drawn] if self.clients or not drawn else drawn


@dataclass(frozen=True)
class SWA:
    """Distillation whose result is the mean of the student's weights every ``every`` steps, from the first on
    (Izmailov et al. 2018; the released code of FedDF: SGD at 1e-3, 250 steps, every 25).

    ``every=0`` takes the last weights: a plain optimiser. ``refresh`` computes BatchNorm statistics anew for the
    averaged weights, on the distillation inputs; the released code does not. ``optimiser`` makes one for parameters.
    """

    steps: int = 250
    every: int = 25
    optimiser: Callable[[Iterable[nn.Parameter]], Optimizer] = field(default_factory=lambda: partial(SGD, lr=1e-3))
    batch_size: int = 128
    temperature: float = 1.0
    max_norm: float = 5.0
    refresh: bool = True

    def __call__(self, net: Net, start: State, x: Tensor, teacher_logits: Tensor, generator: torch.Generator) -> State:
        """A student that starts at ``start`` and learns ``teacher_logits`` [U, C] on ``x`` [U, ...]."""
        student = copy.deepcopy(net.module).train()
        student.load_state_dict(start)
        mean, optimiser = AveragedModel(student), self.optimiser(student.parameters())
        order: list[Tensor] = []
        for step in range(self.steps):
            if not order:
                order = list(torch.randperm(len(x), generator=generator).split(self.batch_size))
            rows = order.pop(0).to(x.device)
            optimiser.zero_grad()
            loss = kd(net.answer(student, x[rows]), teacher_logits[rows], self.temperature)
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), self.max_norm)
            optimiser.step()
            if self.every and step % self.every == 0:
                mean.update_parameters(student)
        if not all(bool(p.isfinite().all()) for p in student.parameters()):
            raise ArithmeticError(f"distillation diverged within {self.steps} steps")
        if self.every and self.steps:
            averaged = mean.module
            with torch.no_grad():  # buffers of the last step, unless they are computed anew
                for buffer, last in zip(averaged.buffers(), student.buffers(), strict=True):
                    buffer.copy_(last)
            if self.refresh:
                update_bn(x.split(self.batch_size), averaged)
            student = averaged
        return {n: t.detach().clone() for n, t in student.state_dict().items()}
