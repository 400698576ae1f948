"""A margin below a picture: one more row of pixels, in which whoever changes batches leaves notes for the objective.

An objective sees inputs and labels, and draws nothing itself: so a shuffled partner's label, or the coin of a batch,
travels with the picture. The network looks at the rows above (``height`` of :class:`~fedlib.models.slim.SlimResNet`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlib import require, rng
from fedlib.data import mixing


def mixup(x: Tensor, y: Tensor, gamma: float, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, float]:
    """Mixes a batch [B, ...] with itself in another order: lambda x + (1 - lambda) x', the labels y [B], those of the
    partners y', and lambda, one number from Beta(gamma, gamma) for the whole batch (Zhang et al. 2018).

    The loss is lambda CE(f(mixed), y) + (1 - lambda) CE(f(mixed), y'). ``gamma=0`` mixes nothing: lambda is 1, and
    nothing is drawn. Raises ValueError for a negative gamma, a batch of none, and other numbers of labels than samples.
    """
    require.real("gamma", gamma, least=0)
    if x.ndim == 0 or y.ndim == 0 or len(x) == 0 or len(x) != len(y):
        raise ValueError(f"x and y: expected a label for each of B >= 1 samples, got {list(x.shape)}, {list(y.shape)}")
    if not gamma:
        return x, y, y, 1.0
    mixed, other, share = mixing.mixup(x, rng, gamma)
    return mixed, y, y[other], share


def noted(x: Tensor, notes: Tensor) -> Tensor:
    """Pictures [B, C, H, W] with numbers [B, m] in a row below them: [B, C, H + 1, W]. Raises ValueError for what are
    no pictures, and for more notes than a row has pixels.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"a margin is below pictures [B, C, H, W], floating point; got {x.dtype} {list(x.shape)}")
    if notes.ndim != 2 or len(notes) != len(x) or notes.shape[1] > x.shape[-1]:
        raise ValueError(
            f"notes: expected up to {x.shape[-1]} numbers for each of {len(x)} pictures, got {list(notes.shape)}"
        )
    row = x.new_zeros(len(x), x.shape[1], 1, x.shape[-1])
    row[:, 0, 0, : notes.shape[1]] = notes.to(x)
    return torch.cat([x, row], -2)


def note(x: Tensor, place: int) -> Tensor:
    """The note at a place in the margin of each picture [..., C, H + 1, W]: [...]."""
    return x[..., 0, -1, place]


def first_note(x: Tensor, place: int) -> Tensor:
    """The note of a batch's first picture, [] of [B, C, H + 1, W]; of a stack [B, K, 1, C, H + 1, W] each client's,
    [K, 1], which multiplies a stack of vectors.
    """
    return note(x[0], place)


@dataclass(frozen=True)
class Mixing:
    """Batches for mixup: pictures come with their label in the margin, are mixed with those of a shuffled batch, and
    leave with the partner's label and lambda there (:func:`mixup`). ``before`` is what a client
    does to its pictures anyway.
    """

    gamma: float
    before: Callable[[Tensor, torch.Generator], Tensor] | None = None

    def __call__(self, x: Tensor, source: torch.Generator) -> Tensor:
        """[B, C, H + 1, W] as they come, and as they leave."""
        pictures, labels = x[..., :-1, :], note(x, 0)
        pictures = self.before(pictures, source) if self.before else pictures
        mixed, _, partner, lam = mixup(pictures, labels, self.gamma, source)
        return noted(mixed, torch.stack([partner, torch.full_like(partner, lam)], 1))


@dataclass(frozen=True)
class Drawing:
    """Batches with ``count`` numbers uniform in [0, 1) in each picture's margin; those of the first picture are the
    batch's own. ``before`` is what a client does to its pictures anyway.
    """

    count: int
    before: Callable[[Tensor, torch.Generator], Tensor] | None = None

    def __post_init__(self) -> None:
        require.whole("count", self.count, 1)

    @property
    def several(self) -> bool:
        """Whether draws are made by row (:func:`fedlib.data.augment.by_row`)."""
        return self.before is None or getattr(self.before, "several", False)

    def __call__(self, x: Tensor, source: rng.Source) -> Tensor:
        """Pictures [B, C, H, W] with a margin: [B, C, H + 1, W]."""
        pictures = self.before(x, source) if self.before else x  # type: ignore[arg-type]
        return noted(pictures, rng.uniform(source, (len(x), self.count)).to(x.device))
