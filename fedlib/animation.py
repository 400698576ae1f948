"""What an animator learns: pictures of one frame of a video from another, and regions that follow a bend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlib import require, rng, warping
from fedlib.models.animator import Animator


@dataclass(frozen=True)
class How:
    """Adam steps on pairs of frames. ``equivariance`` weighs both of its losses; ``affine`` and ``spline`` are the
    deviations of the random bends. Raises ValueError for numbers that cannot work.
    """

    steps: int = 400
    batch: int = 16
    lr: float = 1e-3
    picture: float = 10.0
    equivariance: float = 1.0
    affine: float = 0.1
    spline: float = 0.01
    scales: tuple[int, ...] = (1, 2, 4)

    def __post_init__(self) -> None:
        require.whole("steps", self.steps)
        require.whole("batch", self.batch, 1)
        require.real("lr", self.lr, above=0)
        for name in ("picture", "equivariance", "affine", "spline"):
            require.real(name, getattr(self, name), least=0)


def loss(animator: Animator, source: Tensor, driving: Tensor, by: warping.Bend, how: How) -> Tensor:
    """Pyramid loss of the picture, and equivariance of the driving frame's regions under a bend (section 3.5).

    Source and driving [B, C, H, W] are two frames of one video, so that the driving frame is the picture wanted.
    Regions without axes of their own are asked for their places alone.
    """
    picture, _, found = animator(source, driving)
    total = how.picture * warping.pyramid(picture, driving, how.scales)
    if how.equivariance:
        moved = animator.regions(by.image(driving))
        shift, axes = warping.equivariance(found.frames, moved.frames, by)
        total = total + how.equivariance * (shift if animator.regions.axes == "shift" else shift + axes)
    return total


def pairs(frames: Tensor, how: How, *key: int | str) -> Iterator[tuple[Tensor, Tensor]]:
    """Source and driving frames, drawn from videos [N, T, C, H, W]: two of one video each."""
    if frames.ndim != 5 or frames.shape[1] < 2:
        raise ValueError(f"frames: expected videos [N, T, C, H, W] of two frames at least, got {list(frames.shape)}")
    draws = rng.stream(*key, "pairs")
    for _ in range(how.steps):
        which = torch.randint(len(frames), (how.batch,), generator=draws)
        first = torch.randint(frames.shape[1], (how.batch,), generator=draws)
        other = (first + torch.randint(1, frames.shape[1], (how.batch,), generator=draws)) % frames.shape[1]
        yield frames[which, first], frames[which, other]


def train(animator: Animator, frames: Tensor, how: How, seed: int) -> list[float]:
    """Train an animator on videos [N, T, C, H, W]; the losses, step by step. Pairs and bends follow from the seed.

    Raises ArithmeticError when training diverges.
    """
    optimiser = torch.optim.Adam(animator.parameters(), how.lr, fused=True)
    bends, told = rng.stream(seed, "bends"), []
    for step, (source, driving) in enumerate(pairs(frames, how, seed)):
        for group in optimiser.param_groups:
            group["lr"] = how.lr * (1.0 if step < 0.7 * how.steps else 0.2)
        by = warping.bend(len(source), bends, affine=how.affine, spline=how.spline, like=source)
        optimiser.zero_grad()
        found = loss(animator, source, driving, by, how)
        found.backward()
        told.append(float(found.detach()))
        if not told[-1] < float("inf"):
            raise require.NotFinite(f"step {step + 1}: training diverged, the loss is {told[-1]}")
        optimiser.step()
    return told


@torch.no_grad()
def judged(animator: Animator, frames: Tensor, masks: Tensor, batch: int = 64) -> dict[str, float]:
    """Of pictures of every frame but the first from the first: ``l1``, mean absolute error; ``copy``, that of the first
    frame itself; ``overlap``, intersection over union of the regions' masks and of what is no ground.

    ``frames`` [N, T, C, H, W], ``masks`` [N, T, L + 1, H, W] of ground and links.
    """
    source = frames[:, :1].expand(-1, frames.shape[1] - 1, -1, -1, -1).flatten(0, 1)
    driving, body = frames[:, 1:].flatten(0, 1), 1 - masks[:, 1:, 0].flatten(0, 1)
    off, both, either = 0.0, 0.0, 0.0
    for s, d, b in zip(source.split(batch), driving.split(batch), body.split(batch), strict=True):
        picture, motion, _ = animator(s, d)
        off += float((picture - d).abs().mean((1, 2, 3)).sum())
        found = warping.resized(1 - motion.masks[:, :1], *b.shape[1:])[:, 0] > 0.5
        both += float((found & (b > 0.5)).sum())
        either += float((found | (b > 0.5)).sum())
    copied = float((source - driving).abs().mean())
    return {"l1": off / len(source), "copy": copied, "overlap": both / max(either, 1.0)}
