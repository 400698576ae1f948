"""Masks of vessels and the pieces of retinas that belong to them, from two sites one after the other; and what a
segmenter is worth that learned from such pairs, true or made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlib import losses, require, rng, synthetic
from fedlib.data import scans
from fedlib.manytasks import overlap
from fedlib.models.conditional import MapMaker, PatchJudge
from fedlib.models.unet import UNet
from fedlib.tdgan import TDGAN, Centre, Recipe

PIECES = 16  # of an image
TRUE = "real"  # the row of those who learn from true pairs


def pairs(seeds: Sequence[int], held: int = 5, tuning: bool = False) -> tuple[list[Centre], list[Centre]]:
    """Of each of two sites masks and images [S, n, 1, 32, 32] of S seeds, to learn from and to test on: ``held`` images
    of a site, other ones for each seed, are tested on with all their pieces. Images are cut off at three deviations,
    and lie in [-1, 1]. ``tuning``: test images are left out, and as many others stand for them.

    Raises DataUnavailable where the pack is not there, ValueError unless some images are held and some are left.
    """
    own, site = scans.vessels()
    x, masks = (own.x / 3).clamp(-1, 1), own.y[:, None]
    learn: list[Centre] = []
    test: list[Centre] = []
    for k in (0, 1):
        pieces = torch.nonzero(site == k)[:, 0].view(-1, PIECES)
        if not 0 < require.whole("held", held, 1) * (1 + tuning) < len(pieces):
            raise ValueError(f"held must leave some of the {len(pieces)} images of site {k}, got {held}")
        orders = [torch.randperm(len(pieces), generator=rng.stream(s, "retinas", k)) for s in seeds]
        rows = torch.stack([pieces[order] for order in orders])[:, held * tuning :]
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


def worth(
    recipe: Recipe,
    remind: Mapping[str, float],
    seeds: Sequence[int],
    steps: int,
    held: int = 5,
    tuning: bool = False,
    **where: Any,
) -> list[dict[str, list[float]]]:
    """Dice on both sites, by row, for each seed: of a segmenter that learns from what a generator makes of all masks
    when it has learned from one site after the other, a row for each name and lambda of ``remind``; and, as row
    ``"real"``, of one that learns from the true pairs. ``steps``: of a segmenter; ``where``: dtype and device; the
    rest as in :func:`pairs`.
    """
    learn, tests = pairs(seeds, held, tuning)
    way = TDGAN(partial(MapMaker, 2, 1), partial(PatchJudge, 2), recipe, seeds, list(remind.values()), **where)
    for site in learn:
        way.stage(site)
    masks, true = (torch.cat(parts, 1) for parts in zip(*learn, strict=True))
    ends: list[dict[str, list[float]]] = [{} for _ in seeds]
    for names, images in ((list(remind), way.made(masks)), ([TRUE], true)):
        told = masks.repeat_interleave(len(names), 0).to(images)
        scores = torch.stack(dice(partial(UNet, 1, 1), images, told, tests, seeds, steps), 1)
        for run, own in enumerate(scores.tolist()):
            ends[run // len(names)][names[run % len(names)]] = own
    return ends
