"""The transmitting matrix of a stage, and its spectral norm: how strongly the stage can stretch what enters it.

Shang et al. (2021, "Lipschitz continuity guided knowledge distillation") take the norm for an estimate of a block's
Lipschitz constant; FedAlign (Mendieta et al. 2022, equations 5 to 7) matches it between a stage and its narrow self.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from fedlib import require


def transmitting(low: Tensor, high: Tensor) -> Tensor:
    """X = F_low F_high^T / (H W) of the maps that enter and leave a stage, [..., C, H', W'] and [..., D, H, W], the
    first mean-pooled to the size of the second: [..., C, D].

    It is the matrix of Yim et al. (:func:`fedlib.losses.fsp`), which pool by the maximum. Raises ValueError for maps of
    other samples, or a first one that is smaller than the second.
    """
    places = high.shape[-2:]
    if (
        low.ndim < 4
        or low.shape[:-3] != high.shape[:-3]
        or any(a < b for a, b in zip(low.shape[-2:], places, strict=True))
    ):
        raise ValueError(
            f"low and high: expected maps [..., C, H, W] that shrink, got {list(low.shape)}, {list(high.shape)}"
        )
    flat = low.reshape(-1, *low.shape[-3:])
    pooled = adaptive_avg_pool2d(flat, (places[0], places[1])) if low.shape[-2:] != places else flat
    pooled = pooled.view(*low.shape[:-2], -1)
    return pooled @ high.flatten(-2).mT / (places[0] * places[1])


def spectral_norm(x: Tensor, iterations: int = 10) -> Tensor:
    """The largest singular value of matrices [..., C, D]: [...], by power iteration on X X^T from a vector of ones.

    For matrices without negative entries, such as those of maps behind a ReLU, ones are a safe beginning (Perron); of
    others the top vector may be orthogonal to them, and a smaller value comes out. The gradient is that of ||X^T u||
    with the vector u held, which at the top is the derivative of the norm itself; where X is 0 it is 0. Raises
    ValueError for no iteration.
    """
    require.whole("iterations", iterations, 1)
    with torch.no_grad():
        gram = x @ x.mT
        u = torch.ones_like(x[..., :1])
        for _ in range(iterations):
            u = gram @ u
            u = u / torch.linalg.vector_norm(u, dim=-2, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return torch.linalg.vector_norm((x.mT @ u).squeeze(-1), dim=-1)


def gap(low: Tensor, high: Tensor, narrow_low: Tensor, narrow_high: Tensor, iterations: int = 10) -> Tensor:
    """L_Lip = (||X^S|| - sg ||X||)^2 of each sample: how far the narrow stage's norm is from the whole one's, [...]."""
    with torch.no_grad():
        whole = spectral_norm(transmitting(low, high), iterations)
    return (spectral_norm(transmitting(narrow_low, narrow_high), iterations) - whole).square()
