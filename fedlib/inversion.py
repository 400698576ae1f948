"""Reconstruction of images from features: what a server that is sent features, and not images, could see all the same.

Gradient descent on the image (Mahendran and Vedaldi 2015, "Understanding deep image representations by inverting them",
here without a prior): find the input whose features are those that were sent.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedlib import require, rng
from fedlib.models.net import Net
from fedlib.optim import Adam, Memory


def invert(
    net: Net, state: Mapping[str, Tensor], features: Tensor, shape: tuple[int, ...], steps: int = 200, lr: float = 0.1
) -> Tensor:
    """Images [N, *shape] whose features under ``state`` come near to those given [N, ...], by ``steps`` of Adam on
    the mean square between features. All begin as one image of little noise: where all pixels are zero, a ReLU upon a
    convolution has no slope.

    The network answers with ``features=True``, in evaluation mode. The state is whoever's the attacker has: the
    client's own, or another's for want of it. Raises ValueError where such images have features of another shape
    or the network cannot read them, NotFinite for features that are none.
    """
    require.whole("steps", steps)
    require.real("lr", lr, above=0)
    require.finite("features", features)
    if features.ndim < 2 or len(features) == 0:
        raise ValueError(f"features must be [N, ...] with N >= 1, got {list(features.shape)}")
    if not shape:
        raise ValueError("shape: an image has one dimension at least, got none")
    for size in shape:
        require.whole("shape", size, 1)
    noise = 0.1 * torch.randn(shape, generator=rng.stream(0, "inversion"), dtype=torch.float64)
    images = noise.to(features).repeat(len(features), *[1] * len(shape))
    try:
        seen = net.predict(state, images[:1], features=True).shape[1:]
    except RuntimeError as error:
        raise ValueError(f"shape: the network cannot read an image of shape {list(shape)}: {error}") from error
    if seen != features.shape[1:]:
        raise ValueError(
            f"features: images of shape {list(shape)} have features {list(seen)}, got {list(features.shape[1:])}"
        )
    memory: Memory = {}
    for _ in range(steps):
        leaf = images.requires_grad_()
        gaps = (net(state, leaf, features=True) - features).flatten(1).square().mean(1)
        (grad,) = torch.autograd.grad(gaps.sum(), leaf)
        images = leaf.detach()
        Adam(lr).step({"images": images}, {"images": grad}, memory)
    return images


def explained(images: Tensor, guesses: Tensor) -> float:
    """Share of the images' variance that guesses explain: 1 - sum of squared errors / sum of squared distances to the
    mean image; both [N, ...], N >= 2.

    1 is a perfect copy, 0 as good as showing the mean image for all; it is below 0 for worse, without bound. Raises
    ValueError for shapes that differ or images that are all equal, NotFinite for numbers that are none.
    """
    if images.is_complex() or guesses.is_complex():
        raise ValueError(f"images and guesses must be real, got {images.dtype} and {guesses.dtype}")
    if images.shape != guesses.shape or images.ndim < 2 or len(images) < 2:
        shapes = f"{list(images.shape)} and {list(guesses.shape)}"
        raise ValueError(f"images and guesses must have one shape [N, ...] with N >= 2, got {shapes}")
    require.finite("images", images)
    require.finite("guesses", guesses)
    images, guesses = images.double(), guesses.to(images.device).double()
    spread = float((images - images.mean(0)).square().sum())
    if spread == 0:
        raise ValueError("images: all are equal, and have no variance to explain")
    return 1 - float((images - guesses).square().sum()) / spread
