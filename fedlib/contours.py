"""Contours of masks, the background around them, and features that are told apart there.

A contour is what one erosion takes off a mask, the ring around it what five dilations add (Liu et al. 2021, released
code). Erosion and dilation have the cross of a pixel and its four neighbours; beyond the border there is background.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, max_pool2d, pad

from fedlib import require


def dilated(mask: Tensor, times: int = 1) -> Tensor:
    """Masks [..., H, W] of 0 and 1, larger by so many pixels in the distance of steps up, down, left and right."""
    check_masks(mask)
    grown = mask.reshape(-1, 1, *mask.shape[-2:])
    for _ in range(require.whole("times", times)):
        grown = torch.maximum(max_pool2d(grown, (3, 1), 1, (1, 0)), max_pool2d(grown, (1, 3), 1, (0, 1)))
    return grown.view(mask.shape)


def eroded(mask: Tensor, times: int = 1) -> Tensor:
    """Masks [..., H, W] of 0 and 1, smaller by as many pixels; what lies beyond the border is background."""
    check_masks(mask)
    n = require.whole("times", times)
    return 1 - dilated(pad(1 - mask, (n,) * 4, value=1.0), n)[..., n : n + mask.shape[-2], n : n + mask.shape[-1]]


def contour(mask: Tensor) -> Tensor:
    """The outermost pixels of masks [..., H, W]."""
    return mask - eroded(mask)


def ring(mask: Tensor, width: int = 5) -> Tensor:
    """The background around masks [..., H, W], so many pixels wide."""
    return dilated(mask, width) - mask


def averages(maps: Tensor, masks: Tensor) -> Tensor:
    """Mean of maps [..., F, H, W] over each of masks [..., S, H, W]: [..., S, F]; zeros for an empty mask."""
    sums = torch.einsum("...fhw,...shw->...sf", maps, masks)
    return sums / masks.sum((-2, -1)).clamp(min=1)[..., None]


def boundary(features: Tensor, labels: Tensor, temperature: float = 0.05, printed: bool = True) -> Tensor:
    """Boundary loss (:func:`contrast`) of features [..., M, F] with labels [M]: [...].

    Raises ValueError for other shapes, labels of which no two are alike or all are, and a temperature not above 0.
    """
    require.real("temperature", temperature, above=0)
    if labels.ndim != 1 or features.ndim < 2 or features.shape[-2] != len(labels):
        raise ValueError(f"features [..., M, F] and labels [M] are needed, got {features.shape} and {labels.shape}")
    counts = labels.unique(return_counts=True)[1]
    if len(counts) < 2 or int(counts.max()) < 2:
        raise ValueError(f"labels: two alike and two others at least, got {labels.tolist()}")
    return contrast(features, labels, temperature, printed)


def contrast(features: Tensor, labels: Tensor, temperature: float = 0.05, printed: bool = True) -> Tensor:
    """What draws features [..., M, F] of one label together (Liu et al. 2021, section 3.4): [...].

    sum_m sum_{p > m} [same label] l(h_m, h_p) / (M (M - 1)), with l(h_m, h_p) = -s_mp / T + log sum_q exp(s_mq / T) for
    cosines s. As ``printed`` q runs over the features of *other* labels alone, so that 0 is no bound: with N of them l
    goes down to -2 / T + log N. Otherwise q runs over p, too, as in NT-Xent, and l is above 0. A feature of zeros
    counts for nothing: there was no pixel of its kind.
    """
    cosines = cosine_similarity(features.unsqueeze(-2), features.unsqueeze(-3), dim=-1) / temperature
    there = features.abs().sum(-1) > 0
    both = there.unsqueeze(-1) & there.unsqueeze(-2)
    same, none = labels[:, None] == labels, torch.finfo(cosines.dtype).min / 4
    others = torch.where(both & ~same, cosines, none).logsumexp(-1, keepdim=True)
    below = others if printed else torch.logaddexp(others, cosines)
    pairs = both & same.triu(1) & (both & ~same).any(-1, keepdim=True)
    return torch.where(pairs, below - cosines, 0.0).sum((-2, -1)) / (len(labels) * (len(labels) - 1))


def check_masks(mask: Tensor) -> None:
    """Raises ValueError for what are no masks [..., H, W] of zeros and ones, of a floating-point type."""
    if not mask.is_floating_point() or mask.ndim < 2 or not mask.numel():
        raise ValueError(f"masks [..., H, W] of a floating-point type are needed, got {mask.dtype} {list(mask.shape)}")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("masks consist of 0 and 1")
