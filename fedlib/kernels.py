"""Kernels of wide networks."""

import math

import torch
from torch import Tensor


def relu_gram(x: Tensor) -> Tensor:
    """Gram matrix [N, N] of E[relu(v x_p) relu(v x_q)] over standard normal v, for inputs x [N, D].

    The arc-cosine kernel of degree 1, halved: |x_p| |x_q| (sin a + (pi - a) cos a) / (2 pi) with a the angle between
    the two (Cho and Saul 2009, equations 3 and 6).
    """
    length = x.norm(dim=1)
    cosine = (x @ x.T / (length[:, None] * length).clamp(min=torch.finfo(x.dtype).tiny)).clamp(-1, 1)
    cosine = cosine.fill_diagonal_(1.0)
    angle = cosine.arccos()
    return length[:, None] * length * (angle.sin() + (math.pi - angle) * cosine) / (2 * math.pi)


def within(gram: Tensor, groups: Tensor) -> Tensor:
    """The same matrix [N, N] with zeros between samples of different groups [N]: block-diagonal, up to the order."""
    return gram * (groups[:, None] == groups)


def least_eigenvalue(gram: Tensor) -> float:
    """Smallest eigenvalue of a symmetric matrix [N, N]."""
    return float(torch.linalg.eigvalsh(gram)[0])
