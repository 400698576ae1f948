"""Right singular vectors of feature maps with a gradient of their own, and the knowledge that KD-SVD makes of them.

Lee, Kim and Song (2018, "Self-supervised Knowledge Distillation Using Singular Value Decomposition") for the method,
Lee and Song (2022, "Knowledge Transfer via Decomposing Essential Information") for the way by the Gram matrix.

A map [B, C, H, W] is a matrix M [B, P, C] with a row for each of its P = H W places, M = U diag(s) V^T. The right
singular vectors, the columns of V, live in the C channels: two networks need equally many channels, but not equally
large maps. They are known up to a sign each; here their entries sum to no less than 0. A map behind a ReLU has no
negative entry, and nor has its first vector then (Perron and Frobenius).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

WAYS = ("svd", "gram")
SIDES = ("same", "opposite")


def decompose(maps: Tensor, keep: int = 1, way: str = "gram") -> tuple[Tensor, Tensor]:
    """The first ``keep`` right singular vectors [B, C, keep] and singular values [B, keep] of maps [B, C, H, W],
    largest first; vectors have length 1, or 0 where the singular value is 0 and P < C, and a sum >= 0.

    ``way``: "svd" decomposes the map; "gram" the smaller of its two Gram matrices, M^T M [C, C] or M M^T [P, P], which
    is the same up to rounding and signs. Gradients flow through the vectors alone, by :class:`Vectors`; the values have
    none. Raises ValueError for what are no maps, another way, or more vectors than there are.
    """
    if maps.ndim != 4 or maps.numel() == 0:
        raise ValueError(f"expected feature maps [B, C, H, W], none of them 0, got {list(maps.shape)}")
    if way not in WAYS:
        raise ValueError(f"way must be one of {', '.join(WAYS)}, got {way!r}")
    m = maps.flatten(2).mT
    if not 1 <= keep <= min(m.shape[1:]):
        raise ValueError(f"keep = {keep}: a map of {m.shape[1]} places and {m.shape[2]} channels has fewer vectors")
    return Vectors.apply(m, keep, way)


class Vectors(torch.autograd.Function):
    """Right singular vectors whose gradient is that of Ionescu et al. (2015), written with V and s alone.

    With the gradient G [C, k] of the first k vectors V_k and K_ij = 1 / (s_j^2 - s_i^2), the matrix M has the gradient
    M (A + A^T) with A = V (K o (V^T G)) V_k^T, where K is 0 for i = j and for values that are no farther apart than
    rounding: vectors of equal values are no function of M. Where there are fewer places than channels, V spans a part
    of the channels only; the rest of them count as vectors with the value 0.
    """

    @staticmethod
    def forward(ctx: Any, m: Tensor, keep: int, way: str) -> tuple[Tensor, Tensor]:
        """Vectors [B, C, keep] and values [B, keep] of M [B, P, C]."""
        values, vectors = _by_svd(m) if way == "svd" else _by_gram(m)
        vectors = vectors * torch.where(vectors.sum(1, keepdim=True) < 0, -1.0, 1.0).to(m.dtype)
        ctx.save_for_backward(m, values, vectors)
        first = values[:, :keep].clone()
        ctx.mark_non_differentiable(first)
        return vectors[..., :keep].clone(), first

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of M from that of the vectors."""
        m, values, v = ctx.saved_tensors
        keep, squares = grad.shape[-1], values.square()
        inner = v.mT @ grad
        turned = v @ (_inverse(squares[:, None, :keep] - squares[:, :, None], squares) * inner)
        if m.shape[1] < m.shape[2]:
            turned = turned + (grad - v @ inner) * _inverse(squares[:, None, :keep], squares)
        a = turned @ v[..., :keep].mT
        return m @ (a + a.mT), None, None


def _by_svd(m: Tensor) -> tuple[Tensor, Tensor]:
    _, values, vh = torch.linalg.svd(m, full_matrices=False)
    return values, vh.mT


def _by_gram(m: Tensor) -> tuple[Tensor, Tensor]:
    tall = m.shape[1] >= m.shape[2]
    squares, vectors = torch.linalg.eigh(m.mT @ m if tall else m @ m.mT)
    squares, vectors = squares.flip(-1).clamp(min=0), vectors.flip(-1)  # eigh has the least first
    return squares.sqrt(), vectors if tall else normalize(m.mT @ vectors, dim=1)


def _inverse(gaps: Tensor, squares: Tensor) -> Tensor:
    """1 / gap, and 0 where a gap is no larger than rounding leaves it."""
    least = squares[:, :1, None] * squares.shape[1] * torch.finfo(squares.dtype).eps
    none = gaps.abs() <= least
    return torch.where(none, 0, 1 / torch.where(none, 1, gaps))


def align(student: Tensor, teacher: Tensor) -> Tensor:
    """For each of the teacher's vectors [B, C, k] that of the student's [B, C, n] which is most nearly parallel, turned
    to its side: [B, C, k] (Lee et al. 2018, section 3.2). Choice and sign are constants to the gradient.
    """
    cosines = (teacher.mT @ student).detach()
    chosen = cosines.abs().argmax(-1, keepdim=True)
    signs = torch.where(cosines.gather(-1, chosen) < 0, -1.0, 1.0).to(student.dtype)
    return student.gather(-1, chosen.mT.expand(-1, student.shape[1], -1)) * signs.mT


def correlation(low: Tensor, high: Tensor, beta: float = 8.0) -> Tensor:
    """exp(-(low_m - high_n)^2 / beta) for every pair of channels of two layers' vectors [B, C, k] and [B, C', k]:
    [B, C, C', k] (Lee et al. 2018, equation 7).
    """
    return torch.exp(-(low[:, :, None] - high[:, None]).square() / beta)


def kd_svd(
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    keep: int = 1,
    spare: int = 3,
    beta: float = 8.0,
    way: str = "gram",
    aligned: bool = True,
    sides: str | torch.Generator = "same",
) -> Tensor:
    """KD-SVD: squared distance of the student's correlations between consecutive layers to the teacher's, *summed* over
    layers, channels and the batch.

    ``keep`` vectors of every teacher's map; the student's come from ``keep + spare`` by :func:`align`, or without
    ``aligned`` are its first. Both are weighted by the teacher's singular values, scaled to length 1 (with one vector
    the weight is 1). Maps of one layer have equally many channels in both networks. No gradient flows to the teacher.

    ``sides`` settles the signs, which a decomposition leaves open, and with them the lesson: "same" has the entries of
    every vector sum to no less than 0; "opposite" turns those of every second layer; a generator tosses the sign of
    every vector, of both networks, before they are aligned. Raises ValueError for fewer than two layers, other sides,
    or channels that differ.
    """
    if isinstance(sides, str) and sides not in SIDES:
        raise ValueError(f"sides must be one of {', '.join(SIDES)}, or a generator; got {sides!r}")
    if len(student_maps) != len(teacher_maps) or len(student_maps) < 2:
        raise ValueError(
            f"expected as many maps of both, two at least; got {len(student_maps)} and {len(teacher_maps)}"
        )
    total, before = student_maps[0].new_zeros(()), None
    for layer, (s, t) in enumerate(zip(student_maps, teacher_maps, strict=True)):
        if s.shape[:2] != t.shape[:2]:
            raise ValueError(
                f"maps of a layer need one batch and as many channels, got {list(s.shape)}, {list(t.shape)}"
            )
        with torch.no_grad():
            v_teacher, values = decompose(t, keep, way)
            v_teacher = v_teacher * _signs(v_teacher, sides, layer)
        most = min(s.shape[1], s.shape[2] * s.shape[3], keep + spare)
        v_student = decompose(s, most if aligned else keep, way)[0]
        v_student = v_student * _signs(v_student, sides, layer)
        v_student = align(v_student, v_teacher) if aligned else v_student
        weight = normalize(values, dim=1)[:, None]
        now = v_student * weight, v_teacher * weight
        if before is not None:
            mine, theirs = (correlation(a, b, beta) for a, b in zip(before, now, strict=True))
            total = total + (mine - theirs).square().sum()
        before = now
    return total


def _signs(vectors: Tensor, sides: str | torch.Generator, layer: int) -> Tensor | float:
    if isinstance(sides, str):
        return -1.0 if sides == "opposite" and layer % 2 else 1.0
    heads = torch.randint(2, (len(vectors), 1, vectors.shape[-1]), generator=sides)
    return (2 * heads - 1).to(vectors)


def clip_share(epoch: int) -> float:
    """How long the lesson's gradient may be in an epoch, counted from 0, as a share of the labels': 1 / (1 + e^-epoch),
    from a half towards 1 (Lee et al. 2018, section 3.4).
    """
    return 1 / (1 + math.exp(-epoch))


def clipped_sum(main: Sequence[Tensor], extra: Sequence[Tensor], share: float) -> list[Tensor]:
    """main + extra, tensor by tensor, each of ``extra`` cut to at most ``share`` times the length of its ``main``.

    The step of Lee et al. (2018, section 3.4) for a task and a transfer beside it. Raises ValueError for a negative
    share.
    """
    if not share >= 0:
        raise ValueError(f"share must not be negative, got {share}")
    kept = []
    for g, e in zip(main, extra, strict=True):
        length = e.norm()
        kept.append(g + e * (share * g.norm() / length.clamp(min=torch.finfo(e.dtype).tiny)).clamp(max=1.0))
    return kept
