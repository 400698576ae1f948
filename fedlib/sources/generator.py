"""Distillation without data by adversarial disagreement (Micaelli and Storkey 2019): a generator looks for inputs on
which student and teachers differ, the student learns there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlib import rng
from fedlib.distill import Distillation
from fedlib.federation import Federation
from fedlib.losses import kl
from fedlib.models.net import Net, State, clone
from fedlib.optim import Adam, Memory, clip_norm
from fedlib.sources.server import Ensemble, Fit, Fitting, identity


class MLPGenerator(nn.Module):
    """Latent [B, latent] -> hidden -> images [B, *shape] with pixels in (0, 1), by a sigmoid."""

    def __init__(self, shape: Sequence[int], latent: int = 32, hidden: int = 128):
        super().__init__()
        self.shape = tuple(shape)
        self.body = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, math.prod(self.shape)), nn.Sigmoid()
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Images of latent vectors."""
        return self.body(latent).unflatten(1, self.shape)


class ConvGenerator(nn.Module):
    """The generator of the released code: [B, latent] -> [B, channels, size, size], in the network's own scale.

    A linear layer to 128 maps of size / 4, twice doubled by interpolation, with BatchNorm throughout; the last
    BatchNorm stands where others have a tanh. ``size`` is a multiple of 4.
    """

    def __init__(self, channels: int = 3, size: int = 32, latent: int = 100):
        super().__init__()
        if size % 4:
            raise ValueError(f"size must be a multiple of 4, got {size}")
        self.start, self.small = nn.Linear(latent, 128 * (size // 4) ** 2), size // 4
        self.body = nn.Sequential(
            nn.BatchNorm2d(128), nn.Upsample(scale_factor=2),
            nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128), nn.LeakyReLU(0.2), nn.Upsample(scale_factor=2),
            nn.Conv2d(128, 64, 3, padding=1), nn.BatchNorm2d(64), nn.LeakyReLU(0.2),
            nn.Conv2d(64, channels, 3, padding=1), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, latent: Tensor) -> Tensor:
        """Images of latent vectors."""
        return self.body(self.start(latent).view(-1, 128, self.small, self.small))


@dataclass(frozen=True)
class Adversarial:
    """min over the student, max over the generator, of KL(ensemble || student) on generated inputs.

    Per latent batch [``batch_size``, ``latent``] from N(0, I): one step of the generator, then ``student_steps`` of the
    student on what the generator then makes of the *same* batch. Adam for both, gradient norms clipped at
    ``max_norm``. ``generator`` makes the network, of which the server keeps the weights in ``fed.memory`` from round to
    round. No data are used. This source trains the student itself: of ``how`` it takes nothing.
    """

    generator: Callable[[], nn.Module]
    latent: int = 100
    batches: int = 30
    student_steps: int = 10
    batch_size: int = 128
    lr: float = 1e-3
    student_lr: float = 2e-3
    max_norm: float = 5.0
    to_input: Callable[[Tensor], Tensor] = identity

    def network(self, fed: Federation) -> tuple[Net, State]:
        """The generator's network and its weights so far."""
        net = Net(rng.build(self.generator, fed.seed, "generator"), fed.device, fed.dtype, fed.net.precision)
        first = net.initial()
        return net, {n: fed.memory.get(f"generator.{n}", t).clone() for n, t in first.items()}

    def images(self, fed: Federation, count: int) -> Tensor:
        """``count`` images as the generator makes them now."""
        net, state = self.network(fed)
        latent = torch.randn(count, self.latent, generator=rng.stream(fed.seed, "show"), dtype=fed.dtype)
        with torch.no_grad():
            return net(state, latent.to(fed.device), train=True)

    def __call__(self, fed: Federation, teachers: Sequence[State], start: State, how: Distillation | Fit) -> Fitting:
        """Trains generator and student in turns."""
        maker, made = self.network(fed)
        state, draw = clone(start), rng.stream(fed.seed, "latent", fed.round)
        leaves = {n: state[n].requires_grad_() for n in fed.net.parameters}
        theirs = {n: made[n].requires_grad_() for n in maker.parameters}
        memory, its_memory, total = Memory(), Memory(), torch.zeros((), device=fed.device, dtype=fed.dtype)
        ensemble: Ensemble | None = None
        for _ in range(self.batches):
            latent = torch.randn(self.batch_size, self.latent, generator=draw, dtype=fed.dtype).to(fed.device)
            x = self.to_input(maker(made, latent, train=True))
            ensemble = ensemble or Ensemble(fed.net, teachers, x.detach())
            grads = torch.autograd.grad(-disagreement(fed.net, ensemble, state, x), list(theirs.values()))
            self._step(Adam(self.lr), theirs, grads, its_memory)
            with torch.no_grad():
                x = self.to_input(maker(made, latent, train=True))
                answer = ensemble(x)
            for _ in range(self.student_steps):
                loss = kl(answer, fed.net(state, x, train=True))
                self._step(Adam(self.student_lr), leaves, torch.autograd.grad(loss, list(leaves.values())), memory)
                total += loss.detach()
        if not math.isfinite(float(total)):
            raise ArithmeticError(f"adversarial distillation diverged: the summed loss is {float(total)}")
        fed.memory.update({f"generator.{n}": t.detach() for n, t in made.items()})
        yield from ()  # nothing here is done for several federations at once
        return {n: t.detach() for n, t in state.items()}

    def _step(self, adam: Adam, leaves: dict[str, Tensor], grads: Sequence[Tensor], memory: Memory) -> None:
        clipped = clip_norm(dict(zip(leaves, grads, strict=True)), self.max_norm)
        adam.step({n: w.detach() for n, w in leaves.items()}, clipped, memory)


def disagreement(net: Net, ensemble: Ensemble, state: State, x: Tensor) -> Tensor:
    """KL(softmax of averaged logits || softmax of the student) on x [B, ...], batch mean.

    Its gradient with respect to x flows through the teachers *and* the student; :func:`fedlib.losses.kd` would cut the
    teachers off.
    """
    return kl(ensemble(x), net(state, x, train=True))
