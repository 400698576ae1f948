"""Images that are moved: warps, the flow that masks make of affine maps, and random smooth warps with their Jacobians.

Places and maps are those of :mod:`fedlib.planar`. A field [B, H, W, 2] says for each pixel of the *result* where in the
image it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fedlib import planar, require


def warp(image: Tensor, field: Tensor) -> Tensor:
    """The image [B, C, H, W] looked at where the field [B, h, w, 2] says, bilinear: [B, C, h, w].

    Beyond the border the nearest pixel stands. Corners are aligned, as in :func:`fedlib.planar.places`: with torch's
    other rule the identity would move the image by up to half a pixel. Raises ValueError for other shapes.
    """
    if image.ndim != 4 or field.ndim != 4 or field.shape[-1] != 2 or len(image) != len(field):
        raise ValueError(f"expected images [B, C, H, W] and fields [B, h, w, 2], "
                         f"got {list(image.shape)} and {list(field.shape)}")  # fmt: skip
    return F.grid_sample(image, field, mode="bilinear", padding_mode="border", align_corners=True)


def resized(image: Tensor, height: int, width: int) -> Tensor:
    """The image [B, C, H, W] at another size, corner on corner."""
    return F.interpolate(image, size=(height, width), mode="bilinear", align_corners=True)


def blobs(frames: Tensor, height: int, width: int) -> Tensor:
    """exp(-|A^(-1) (z - mu)|^2 / 2) for frames [..., 2, 3] of regions: [..., H, W], 1 at the middle."""
    z = planar.places(height, width, frames).flatten(0, 1)
    white = planar.apply(planar.invert(frames), z.expand(*frames.shape[:-2], *z.shape))
    return torch.exp(-white.square().sum(-1) / 2).unflatten(-1, (height, width))


def fields(maps: Tensor, height: int, width: int) -> Tensor:
    """Where each of the maps [..., 2, 3] takes the pixels: [..., H, W, 2]."""
    z = planar.places(height, width, maps).flatten(0, 1)
    return planar.apply(maps, z.expand(*maps.shape[:-2], *z.shape)).unflatten(-2, (height, width))


def flow(masks: Tensor, maps: Tensor) -> Tensor:
    """F(z) = sum_k W_k(z) T_k(z), a field [B, H, W, 2], of masks [B, K + 1, H, W] that add up to one and as many maps
    [B, K + 1, 2, 3], the background's first (equation 7). Raises ValueError for other numbers of the two.
    """
    if masks.shape[:2] != maps.shape[:2]:
        raise ValueError(f"as many masks as maps are needed, got {list(masks.shape)} and {list(maps.shape)}")
    return (masks[..., None] * fields(maps, *masks.shape[2:])).sum(1)


class Bend(NamedTuple):
    """A smooth warp of the plane for each of B images: an affine map and a thin-plate spline.

    T(z) = A z + m + sum_i w_i phi(|z - c_i|) with phi(r) = r^2 log r: ``maps`` [B, 2, 3], ``centres`` [P, 2],
    ``weights`` [B, P, 2].
    """

    maps: Tensor
    centres: Tensor
    weights: Tensor

    def at(self, z: Tensor) -> Tensor:
        """T(z) for places [B, N, 2]."""
        square = (z[:, :, None] - self.centres).square().sum(-1)
        return planar.apply(self.maps, z) + _spline(square) @ self.weights

    def jacobian(self, z: Tensor) -> Tensor:
        """dT/dz [B, N, 2, 2]: grad phi = (z - c)(log |z - c|^2 + 1)."""
        off = z[:, :, None] - self.centres
        square = off.square().sum(-1, keepdim=True)
        slope = off * (square.clamp(min=TINY).log() + 1)
        return self.maps[:, None, :, :2] + torch.einsum("bpi,bnpj->bnij", self.weights, slope)

    def image(self, x: Tensor) -> Tensor:
        """The image x o T: at a place of the result stands what was at T of it."""
        z = planar.places(x.shape[2], x.shape[3], x).flatten(0, 1).expand(len(x), -1, 2)
        return warp(x, self.at(z).unflatten(1, x.shape[2:]))


TINY = 1e-12  # of a squared distance, whose logarithm is taken


def _spline(square: Tensor) -> Tensor:
    return square * square.clamp(min=TINY).log() / 2


def bend(
    count: int, draws: torch.Generator, *, affine: float = 0.05, spline: float = 0.005, points: int = 5,
    like: Tensor | None = None,
) -> Bend:  # fmt: skip
    """Random warps near the identity: each number of the map moves by a Gaussian of deviation ``affine``, each weight
    on a grid of ``points`` x ``points`` centres is one of deviation ``spline``. Raises ValueError for deviations that
    are negative, or fewer than two points.
    """
    require.whole("count", count, 1)
    require.real("affine", affine, least=0)
    require.real("spline", spline, least=0)
    centres = planar.places(require.whole("points", points, 2), points).flatten(0, 1)
    noise, weights = torch.randn(count, 2, 3, generator=draws), torch.randn(count, points**2, 2, generator=draws)
    made = (planar.identity(count) + affine * noise, centres, spline * weights)
    return Bend(*(t if like is None else t.to(like) for t in made))


def equivariance(frames: Tensor, moved: Tensor, by: Bend) -> tuple[Tensor, Tensor]:
    """How far regions are from following a warp: |mu - T(mu')| and |I - A^(-1) J_T(mu') A'|, means over everything.

    ``frames`` [B, K, 2, 3] are those of an image, ``moved`` those of the image ``by.image`` gives of it (equations of
    section 3.4). The product has the sign of the smaller turn. A frame [A, mu] that turned with the warp has none.
    """
    centre = moved[..., 2]
    shift = (frames[..., 2] - by.at(centre)).abs().mean()
    product = planar.inverse(frames[..., :2]) @ by.jacobian(centre) @ moved[..., :2]
    eye = torch.eye(2, dtype=product.dtype, device=product.device)
    return shift, (eye - planar.smaller_turn(product)).abs().mean()


def pyramid(picture: Tensor, target: Tensor, scales: Sequence[int] = (1, 2, 4)) -> Tensor:
    """Mean absolute difference of images [B, C, H, W], and of their slopes, at each of some scales: a sum.

    In place of a trained network's features: every ``scale`` x ``scale`` pixels are one. Raises ValueError for shapes
    that differ, or no scale.
    """
    if picture.shape != target.shape or not scales:
        raise ValueError(f"images of one shape and a scale are needed, got {list(picture.shape)}, "
                         f"{list(target.shape)} and scales {tuple(scales)}")  # fmt: skip
    total = picture.new_zeros(())
    for s in scales:
        off = F.avg_pool2d(picture - target, s) if s > 1 else picture - target
        total = total + off.abs().mean() + off.diff(dim=-1).abs().mean() + off.diff(dim=-2).abs().mean()
    return total
