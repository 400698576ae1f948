"""Algebra of the plane: moments of heat-maps, roots of 2 x 2 covariances in closed form, and chains of affine maps.

Places are (x, y), right and down, in [-1, 1] x [-1, 1] with the centres of the corner pixels at the corners, as
``align_corners=True`` has it; images are [..., H, W], rows first. An affine map z -> A z + m is a tensor [..., 2, 3],
its last column m. (Siarohin, Woodford, Ren, Chai and Tulyakov 2021, "Motion representations for articulated animation",
section 3.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedlib import require

LEAST = 1e-6  # added to a variance before a root or an inverse: a region of one pixel has none
ROUND = (
    1e-4  # two variances nearer than this share of their mean have no axes: none are made up, and none get gradients
)


def places(height: int, width: int, like: Tensor | None = None) -> Tensor:
    """Where the pixels are: [H, W, 2], (x, y). Raises ValueError for images less than two pixels wide or high."""
    require.whole("height", height, 2)
    require.whole("width", width, 2)
    like = torch.empty(0) if like is None else like
    x, y = (torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) for n in (width, height))
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)


def moments(heat: Tensor) -> tuple[Tensor, Tensor]:
    """Mean mu [..., 2] and covariance Sigma [..., 2, 2] of the place, of heat-maps [..., H, W] that add up to one.

    mu = sum_z M(z) z and Sigma = sum_z M(z) (z - mu)(z - mu)^T (equation 3). Raises ValueError for maps that add up to
    something else, or have negative heat.
    """
    _check_heat(heat)
    z = places(heat.shape[-2], heat.shape[-1], heat).flatten(0, 1)
    flat = heat.flatten(-2)
    mean = flat @ z
    off = z - mean[..., None, :]
    return mean, (flat[..., None] * off).mT @ off


def eigen(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Variances [..., 2], the larger first, and the turn U [..., 2, 2] whose columns are their axes: Sigma = U S U^T.

    In closed form: with half difference d, off-diagonal b and r = |(d, b)| the variances are the half trace +- r, and
    the first axis stands at the angle atan2(b, d) / 2, in (-90, 90] degrees, so U never mirrors. Of an eigenvector the
    gradient grows as 1 / r; where r is below ``ROUND`` of the half trace there are no axes: U is then the identity,
    without a gradient.
    """
    a, b, c = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    half, d = (a + c) / 2, (a - c) / 2
    square = d.square() + b.square()
    oblong = square > (ROUND * half).square()
    one, nought = torch.ones_like(d), torch.zeros_like(b)
    r = torch.where(oblong, torch.where(oblong, square, one).sqrt(), nought)
    angle = torch.atan2(torch.where(oblong, b, nought), torch.where(oblong, d, one)) / 2
    return torch.stack([half + r, half - r], -1), turn(angle)


def turn(angle: Tensor) -> Tensor:
    """The matrix [..., 2, 2] that turns x towards y by so many radians [...]."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)


def principal_root(covariance: Tensor) -> Tensor:
    """U S^(1/2) [..., 2, 2]: the root that a region's frame is made of (equation 4). It turns with the region."""
    spread, axes = eigen(covariance)
    return axes * (spread.clamp(min=0) + LEAST).sqrt()[..., None, :]


def symmetric_root(covariance: Tensor) -> Tensor:
    """Sigma^(1/2) = (Sigma + s I) / sqrt(trace + 2 s) with s = sqrt(det Sigma): smooth, round regions too.

    It has no axes to confuse; but U S^(1/2) U^T of a turned region is not the turn of its root, so that of two such
    roots no turn can be read.
    """
    eye = torch.eye(2, dtype=covariance.dtype, device=covariance.device)
    safe = covariance + LEAST * eye
    s = determinant(safe).sqrt()[..., None, None]
    trace = (safe[..., 0, 0] + safe[..., 1, 1])[..., None, None]
    return (safe + s * eye) / (trace + 2 * s).sqrt()


def determinant(m: Tensor) -> Tensor:
    """Of matrices [..., 2, 2]: [...]."""
    return m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] * m[..., 1, 0]


def inverse(m: Tensor) -> Tensor:
    """Of matrices [..., 2, 2], in closed form; NaN or infinite where there is none."""
    swapped = torch.stack([m[..., 1, 1], -m[..., 0, 1], -m[..., 1, 0], m[..., 0, 0]], -1).unflatten(-1, (2, 2))
    return swapped / determinant(m)[..., None, None]


# Affine maps


def affine(linear: Tensor, offset: Tensor) -> Tensor:
    """[A, m] of A [..., 2, 2] and m [..., 2]."""
    return torch.cat([linear, offset[..., None]], -1)


def identity(*leading: int, like: Tensor | None = None) -> Tensor:
    """Maps [*leading, 2, 3] that leave every place where it is."""
    like = torch.empty(0) if like is None else like
    return torch.eye(2, 3, dtype=like.dtype, device=like.device).expand(*leading, 2, 3)


def apply(map_: Tensor, z: Tensor) -> Tensor:
    """A z + m for places z [..., N, 2] of the maps' leading dimensions: [..., N, 2]."""
    return z @ map_[..., :2].mT + map_[..., None, :, 2]


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """z -> outer(inner(z)), [..., 2, 3]."""
    linear = outer[..., :2] @ inner
    return torch.cat([linear[..., :2], linear[..., 2:] + outer[..., 2:]], -1)


def invert(map_: Tensor) -> Tensor:
    """The map that leads back, [..., 2, 3]."""
    back = inverse(map_[..., :2])
    return torch.cat([back, -back @ map_[..., 2:]], -1)


def between(source: Tensor, driving: Tensor, turned: bool = True) -> Tensor:
    """T(z) = mu_S + A_S A_D^(-1) (z - mu_D): from places of the driving frame to those of the source (equation 5).

    ``source`` and ``driving`` are frames [..., 2, 3] of a region, [U S^(1/2), mu]. An axis may point either way, so
    A_S A_D^(-1) is known but for its sign: with ``turned`` that of the smaller turn is taken, whose trace is positive.
    The released code looks at the first entry alone, which errs where a region has grown much in one direction.
    """
    linear = source[..., :2] @ inverse(driving[..., :2])
    linear = smaller_turn(linear) if turned else linear
    return torch.cat([linear, source[..., 2:] - linear @ driving[..., 2:]], -1)


def smaller_turn(linear: Tensor) -> Tensor:
    """The matrix [..., 2, 2] or its negative, whichever has a trace that is not negative."""
    trace = linear[..., 0, 0] + linear[..., 1, 1]
    return torch.where((trace < 0)[..., None, None], -linear, linear)


def _check_heat(heat: Tensor) -> None:
    if heat.ndim < 2 or heat.numel() == 0 or not heat.is_floating_point():
        raise ValueError(f"heat: expected maps [..., H, W], got {heat.dtype} {list(heat.shape)}")
    total = heat.detach().sum((-2, -1))
    if not bool(((total - 1).abs() < 1e-3).all()) or bool((heat.detach() < 0).any()):
        raise ValueError(f"heat: maps that are not negative and add up to 1 are needed, got sums of {total.min():.4g} "
                         f"to {total.max():.4g}, least heat {heat.min():.4g}")  # fmt: skip
