"""Masks of vessels and the pieces of retinas that belong to them, from two sites one after the other; and what a
segmenter is worth that learned from such pairs, true or made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlib import losses, require, rng, synthetic
from fedlib.data import scans
from fedlib.manytasks import overlap
from fedlib.tdgan import Centre

PIECES = 16  # of an image


def pairs(seeds: Sequence[int], held: int = 5) -> tuple[list[Centre], list[Centre]]:
    """Of each of two sites masks and images [S, n, 1, 32, 32] of S seeds, to learn from and to test on: ``held`` images
    of a site, other ones for each seed, are tested on with all their pieces. Images are cut off at three deviations,
    and lie in [-1, 1].

    Raises DataUnavailable where the pack is not there, ValueError unless some images are held and some are left.
    """
    own, site = scans.vessels()
    x, masks = (own.x / 3).clamp(-1, 1), own.y[:, None]
    learn, test = [], []  # type: ignore[var-annotated]
    for k in (0, 1):
        pieces = torch.nonzero(site == k)[:, 0].view(-1, PIECES)
        if not 0 < require.whole("held", held, 1) < len(pieces):
            raise ValueError(f"held must leave some of the {len(pieces)} images of site {k}, got {held}")
        orders = [torch.randperm(len(pieces), generator=rng.stream(s, "retinas", k)) for s in seeds]
        rows = torch.stack([pieces[order] for order in orders])
        for part, some in ((test, rows[:, :held]), (learn, rows[:, held:])):
            part.append(Centre(masks[some.flatten(1)], x[some.flatten(1)]))
    return learn, test


def ink(z: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of pixels plus soft Dice loss, for logits and masks [R, B, 1, H, W]: [R]."""
    pixels = F.binary_cross_entropy_with_logits(z, y, reduction="none")
    return pixels.flatten(1).mean(1) + losses.miss(z.sigmoid(), y).flatten(1).mean(1)


def dice(
    make: Callable[[], nn.Module],
    images: Tensor,
    masks: Tensor,
    tests: Sequence[Centre],
    seeds: Sequence[int],
    steps: int,
) -> list[Tensor]:
    """Mean Dice score [R] on each site of segmenters that learned from pairs [R, n, 1, H, W], runs ordered by seed."""
    taught = synthetic.fitted(make, images, masks, ink, seeds, steps=steps, batch_size=16)
    scores = []
    for test in tests:
        x, y = (t.repeat_interleave(len(images) // len(seeds), 0).to(images) for t in (test.images, test.conditions))
        with torch.no_grad():
            scores.append(overlap(taught(x)[:, :, 0], y[:, :, 0]))
    return scores
