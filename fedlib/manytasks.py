"""Several tasks that share a body: who has which samples, what is asked, and a loss and a score of each task.

Noisy scenes with a digit (which one, which pixels, where), and medical images (chest X-rays in three classes, vessels
of the retina, pneumonia or none). Some clients have few samples of the first task, the *poor* one; two clients each
have those of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fedlib import losses, partition, require, rng
from fedlib.course import Held
from fedlib.data import scans
from fedlib.data.scenes import scenes
from fedlib.festa import Task
from fedlib.models.vit import DenseTail, FlatTail, PatchHead

Own = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of one seed and task: x [K, n, ...] and y [K, n, ...] of K clients, x_test [m, ...] and y_test [m, ...]."""


def ink(z: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of pixels plus Dice loss, for logits and masks [R, B, H, W]: [R]."""
    pixels = F.binary_cross_entropy_with_logits(z, y, reduction="none")
    return pixels.flatten(1).mean(1) + losses.dice(z, y)


def apart(z: Tensor, y: Tensor) -> Tensor:
    """Squared distance of places [R, B, 2]: [R]."""
    return (z - y).square().sum(-1).mean(1)


def right(z: Tensor, y: Tensor) -> Tensor:
    """Accuracy of logits [..., m, C] for classes [..., m]."""
    return (z.argmax(-1) == y).double().mean(-1)


def near(z: Tensor, y: Tensor) -> Tensor:
    """Share of places [..., m, 2] that are right to half of the largest move."""
    return ((z - y).abs().amax(-1) < 0.5).double().mean(-1)


def overlap(z: Tensor, y: Tensor) -> Tensor:
    """Mean Dice score of logits for masks [..., m, H, W]; an empty mask for none is right."""
    mask, both = (z > 0).to(y.dtype), (-2, -1)
    filled = mask.sum(both) + y.sum(both)
    return torch.where(filled > 0, 2 * (mask * y).sum(both) / filled.clamp(min=1), 1.0).mean(-1)


class Question(NamedTuple):
    """What a task asks: for so many numbers, or for one of each pixel where there are none; its loss and score."""

    numbers: int
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], Tensor]

    def task(self, name: str, clients: int, *, patch: int, width: int, tokens: int) -> Task:
        """The task with heads of patches and tails of tokens."""
        tail = partial(FlatTail, tokens, width, self.numbers) if self.numbers else partial(DenseTail, width, patch)
        return Task(name, clients, partial(PatchHead, 1, patch, width), tail, self.loss)


def which(classes: int) -> Question:
    """Which class it is."""
    return Question(classes, losses.cross_entropy, right)


PIXELS, PLACE = Question(0, ink, overlap), Question(2, apart, near)
QUESTIONS = {
    "scenes": {"classes": which(10), "masks": PIXELS, "other": PLACE, "labels": which(10)},
    "scans": {"classes": which(3), "masks": PIXELS, "other": which(2), "labels": which(3)},
}
"""What the tasks of each kind of image ask; "labels" is the poor task again, of other clients."""


@dataclass(frozen=True)
class Who:
    """Who has how many samples."""

    clients: int = 3  # of the poor task
    samples: int = 150  # of each of them
    helpers: int = 200  # samples of each client of the other tasks
    test: int = 400  # digits that judge, in two scenes each
    alpha: float = 0.1  # of the Dirichlet split of the poor task's classes
    noise: float = 0.2  # of a scene

    def __post_init__(self) -> None:
        for name in ("clients", "samples", "helpers", "test"):
            require.whole(name, getattr(self, name), 1)

    def split(self, y: Tensor, seed: int) -> Tensor:
        """Rows of the poor task's clients, [K, n], with skewed classes."""
        draws = rng.stream(seed, "split")
        return torch.stack(partition.dirichlet(y, self.clients, self.alpha, draws, min_size=self.samples))


@lru_cache(maxsize=64)
def of_scenes(seed: int, who: Who, tuning: bool = False) -> Mapping[str, Own]:
    """A seed's samples of each task: digits, masks, places, and "labels", the digits of those who have the others.

    The same ``who.test`` digits judge all seeds, in two other scenes each, and nobody trains on them; a seed that tunes
    does not see them at all, and is judged on digits that its clients do not have. Raises ValueError where there are
    too few.
    """
    order = torch.randperm(1797, generator=rng.stream(0, "digits that judge"))
    judges, rest = order.split([who.test, len(order) - who.test])
    poor, each = who.clients * who.samples, 2 * who.helpers
    count = poor + 2 * each
    if len(rest) <= count:
        raise ValueError(
            f"{count} scenes to train on and {who.test} digits that judge are more than there are digits, 1797"
        )
    rest = rest[torch.randperm(len(rest), generator=rng.stream(seed, "digits"))]
    parts = (*rest[:count].split([poor, each, each]), rest[count:] if tuning else judges.repeat(2))
    few, masked, placed, test = (
        scenes(len(part), noise=who.noise, rng=rng.stream(seed, "scenes", i), among=part)
        for i, part in enumerate(parts)
    )
    rows = who.split(few.digits, seed)
    x_masked, x_placed = (t.pixels.unflatten(0, (2, -1)) for t in (masked, placed))
    others = torch.cat([t.digits.unflatten(0, (2, -1)) for t in (masked, placed)])
    return {
        "classes": (few.pixels[rows], few.digits[rows], test.pixels, test.digits),
        "masks": (x_masked, masked.masks.unflatten(0, (2, -1)), test.pixels, test.masks),
        "other": (x_placed, placed.places.unflatten(0, (2, -1)), test.pixels, test.places),
        "labels": (torch.cat([x_masked, x_placed]), others, test.pixels, test.digits),
    }


@lru_cache(maxsize=1)
def packs() -> tuple[scans.Scans, tuple[scans.Scans, Tensor], scans.Scans]:
    """The medical images, read once."""
    return scans.chest(), scans.vessels(), scans.pneumonia()


@lru_cache(maxsize=64)
def of_scans(seed: int, who: Who, tuning: bool = False) -> Mapping[str, Own]:
    """The same of medical images: chest X-rays, vessels with a client for each site, pneumonia or none.

    A seed that tunes is judged on training images that its clients do not have.
    """
    chest, (eyes, sites), lungs = packs()
    order = torch.randperm(len(chest.y), generator=rng.stream(seed, "scans"))
    poor = who.clients * who.samples
    rows = order[:poor][who.split(chest.y[order[:poor]], seed)]
    more = order[poor : poor + 4 * who.samples].unflatten(0, (4, -1))
    site = torch.stack([torch.nonzero(sites == s)[:, 0] for s in (0, 1)])
    site = site[:, :256] if tuning else site
    two = torch.randperm(len(lungs.y), generator=rng.stream(seed, "lungs"))[: 2 * who.helpers].unflatten(0, (2, -1))

    def task(own: scans.Scans, rows: Tensor, used: Tensor) -> Own:
        left = torch.ones(len(own.y), dtype=torch.bool)
        left[used.flatten()] = False
        test = (own.x[left], own.y[left]) if tuning else (own.x_test, own.y_test)
        return own.x[rows], own.y[rows], *test

    used = torch.cat([rows, more])
    return {
        "classes": task(chest, rows, used), "labels": task(chest, more, used),
        "masks": task(eyes, site, site), "other": task(lungs, two, two),
    }  # fmt: skip


DRAWS = {"scenes": of_scenes, "scans": of_scans}


def held(
    images: str, who: Who, names: Iterable[str], seeds: Sequence[int], tuning: bool, dtype: torch.dtype, where: str
) -> dict[str, Held]:
    """What the clients of some tasks have, seeds side by side, on a device; classes stay whole numbers.

    Raises ValueError for unknown images or tasks.
    """
    draw = DRAWS[require.one_of("images", images, DRAWS)]
    drawn = [draw(s, who, tuning) for s in seeds]

    def side_by_side(tensors: Iterable[Tensor]) -> Tensor:
        t = torch.stack(list(tensors)).to(where)
        return t.to(dtype) if t.is_floating_point() else t

    made = {require.one_of("task", n, drawn[0]): zip(*(own[n] for own in drawn), strict=True) for n in names}
    return {n: Held(*map(side_by_side, own)) for n, own in made.items()}
