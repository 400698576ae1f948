"""Animation that keeps the source's shape: two small encoders that tell the shape of a body from its pose (AVD).

Frames [B, K, 2, 3] of regions carry both. One encoder reads the shape from the source's frames, the other the pose from
the driver's; a decoder makes the frames of the source in that pose. No pairs of two bodies in one pose are needed: the
driver is the source in another pose, stretched at random (Siarohin et al. 2021, section 3.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedlib import planar, require, rng


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )


class Disentangler(nn.Module):
    """Frames of K regions of a source and of a driver -> those of the source in the driver's pose, [B, K, 2, 3].

    An axis may point either way, so a frame is told by its mean and its covariance A A^T, and the answer is one with
    the principal root; the decoder gives a triangular root of the covariance, which is never negative.
    """

    def __init__(self, regions: int, code: int = 16, hidden: int = 64):
        super().__init__()
        self.regions = require.whole("regions", regions, 1)
        self.shape = mlp(5 * regions, hidden, require.whole("code", code, 1))
        self.pose = mlp(5 * regions, hidden, code)
        self.decoder = mlp(2 * code, hidden, 5 * regions)

    def forward(self, source: Tensor, driver: Tensor) -> Tensor:
        """Frames of the source in the driver's pose."""
        both = torch.cat([self.shape(told(source)), self.pose(told(driver))], -1)
        mean, covariance = untold(self.decoder(both).unflatten(-1, (self.regions, 5)))
        return planar.affine(planar.principal_root(covariance), mean)


UNIT = 0.25  # of roots of covariances, so that what a network reads is about as large as a mean


def told(frames: Tensor) -> Tensor:
    """A frame's mean and the triangular root of its covariance, five numbers a region: [B, 5 K]."""
    linear = frames[..., :2]
    covariance = linear @ linear.mT
    a = (covariance[..., 0, 0] + planar.LEAST).sqrt()
    b = covariance[..., 0, 1] / a
    c = (covariance[..., 1, 1] - b.square()).clamp(min=0).add(planar.LEAST).sqrt()
    return torch.cat([frames[..., 2], torch.stack([a, b, c], -1) / UNIT], -1).flatten(-2)


def untold(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [..., 2] and covariance [..., 2, 2] of such numbers [..., 5]."""
    a, b, c = (numbers[..., 2:] * UNIT).unbind(-1)
    off = a * b
    rows = torch.stack([a.square(), off, off, b.square() + c.square()], -1)
    return numbers[..., :2], rows.unflatten(-1, (2, 2))


def stretched(frames: Tensor, draws: torch.Generator, most: float = 0.25) -> Tensor:
    """All frames of a body [B, K, 2, 3] scaled along x and along y, by factors uniform in 1 +- ``most`` of its own."""
    require.real("most", most, least=0, below=1)
    factors = 1 + most * (2 * torch.rand(len(frames), 1, 2, 1, generator=draws) - 1)
    return frames * factors.to(frames)


def distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of means and of covariances' triangular roots (l1 on mu and A, whose sign is free)."""
    return (told(found) - told(wanted)).abs().mean()


@dataclass(frozen=True)
class How:
    """Adam steps on pairs of frames of one video, the driver's ``stretch``-ed."""

    steps: int = 1000
    batch: int = 128
    lr: float = 1e-3
    stretch: float = 0.25

    def __post_init__(self) -> None:
        require.whole("steps", self.steps)
        require.whole("batch", self.batch, 1)
        require.real("lr", self.lr, above=0)
        require.real("stretch", self.stretch, least=0, below=1)


def train(model: Disentangler, frames: Tensor, how: How, seed: int) -> list[float]:
    """Train on videos of frames [N, T, K, 2, 3]; the losses, step by step.

    Raises ValueError for single pictures, ArithmeticError when training diverges.
    """
    if frames.ndim != 5 or frames.shape[1] < 2 or frames.shape[2] != model.regions:
        raise ValueError(f"frames: expected [N, T, {model.regions}, 2, 3] with T >= 2, got {list(frames.shape)}")
    optimiser, draws, seen = torch.optim.Adam(model.parameters(), how.lr, fused=True), rng.stream(seed, "avd"), []
    for step in range(how.steps):
        for group in optimiser.param_groups:
            group["lr"] = how.lr * (1 - step / how.steps)
        which = torch.randint(len(frames), (how.batch,), generator=draws)
        first, other = torch.randint(frames.shape[1], (2, how.batch), generator=draws)
        source, wanted = frames[which, first], frames[which, other]
        found = distance(model(source, stretched(wanted, draws, how.stretch)), wanted)
        require.finite(f"step {step + 1}: training diverged, the loss", found.detach())
        seen.append(float(found.detach()))
        optimiser.zero_grad()
        found.backward()
        optimiser.step()
    return seen


def train_together(models: Sequence[Disentangler], frames: Tensor, how: How, seeds: Sequence[int]) -> None:
    """What :func:`train` does to each of S models, side by side: model s on its own videos, frames[s] of
    [S, N, T, K, 2, 3], with the draws of seeds[s].

    Raises ValueError for other numbers of them, ArithmeticError when one diverges.
    """
    if frames.ndim != 6 or not len(models) == len(frames) == len(seeds) > 0:
        raise ValueError(f"as many models and seeds as videos [S, N, T, K, 2, 3] are needed, got {len(models)}, "
                         f"{len(seeds)} and {list(frames.shape)}")  # fmt: skip
    own = [dict(model.named_parameters()) for model in models]
    weights = {n: torch.stack([one[n].detach() for one in own]).requires_grad_() for n in own[0]}
    optimiser, draws = torch.optim.Adam(weights.values(), how.lr, fused=True), [rng.stream(s, "avd") for s in seeds]
    each = vmap(lambda w, source, driver: functional_call(models[0], w, (source, driver)))
    for step in range(how.steps):
        for group in optimiser.param_groups:
            group["lr"] = how.lr * (1 - step / how.steps)
        parts = []
        for videos, stream in zip(frames, draws, strict=True):
            which = torch.randint(len(videos), (how.batch,), generator=stream)
            first, other = torch.randint(videos.shape[1], (2, how.batch), generator=stream)
            wanted = videos[which, other]
            parts.append((videos[which, first], stretched(wanted, stream, how.stretch), wanted))
        source, driver, target = (torch.stack(part) for part in zip(*parts, strict=True))
        loss = len(models) * distance(each(weights, source, driver), target)  # the sum: each has its own gradient
        require.finite(f"step {step + 1}: training diverged, the loss", loss.detach())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        for i, one in enumerate(own):
            for n, p in one.items():
                p.copy_(weights[n][i])
