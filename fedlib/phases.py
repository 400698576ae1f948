"""Whether an image can be read out of its amplitude: phase retrieval, and how alike two images are.

The amplitude of an image alone belongs to many images of its size. That of the image *with a border of zeros* as wide
as itself is its autocorrelation's, and then, but for rare cases, to it alone, its mirror image and their shifts (Hayes
1982). :func:`retrieved` looks for it by alternating projections (Gerchberg and Saxton 1972; Fienup 1982).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from fedlib import require, rng
from fedlib.fourier import check_images, image, spectrum


def padded(x: Tensor, factor: int = 2) -> Tensor:
    """Images [..., H, W] in the corner of a canvas of zeros that is ``factor`` times as high and wide."""
    check_images(x)
    height, width = ((require.whole("factor", factor, 1) - 1) * n for n in x.shape[-2:])
    return pad(x, (0, width, 0, height))


def retrieved(
    size: Tensor,
    height: int,
    width: int,
    *,
    steps: int = 300,
    starts: int = 8,
    feedback: float = 0.9,
    draws: torch.Generator | None = None,
) -> Tensor:
    """An image [height, width] from 0 on, of a canvas whose centred amplitude is ``size`` [H, W]: of ``starts`` random
    starts the one that comes nearest to the amplitude.

    Each step gives the guess the amplitude that is known; then the last tenth of the steps sets what is negative or
    outside the image to zero, and the others take ``feedback`` times it off the guess before (hybrid input-output).
    Raises ValueError for an image larger than the canvas, and numbers that cannot work.
    """
    check_images(size)
    _check_retrieval(size, height, width, steps, starts, feedback)
    draws = draws or rng.stream("phase retrieval")
    inside = torch.zeros(size.shape, dtype=torch.bool, device=size.device)
    inside[:height, :width] = True
    guess = torch.rand(starts, *size.shape, generator=draws, dtype=size.dtype).to(size.device) * inside
    for step in range(steps):
        known = image(torch.polar(size.expand_as(guess), spectrum(guess).angle()))
        allowed = inside & (known >= 0)
        outside = guess - feedback * known if step < 0.9 * steps else torch.zeros_like(guess)
        guess = torch.where(allowed, known, outside)
    final = guess.clamp(min=0) * inside
    apart = (spectrum(final).abs() - size).square().sum((-2, -1))
    return final[int(apart.argmin()), :height, :width]


def likeness(found: Tensor, true: Tensor) -> float:
    """The largest correlation of two images [H, W], over all shifts that wrap around and the turn by 180 degrees: what
    an amplitude cannot tell apart. Raises ValueError for images of one grey, or of two sizes.
    """
    if found.ndim != 2 or found.shape != true.shape:
        raise ValueError(f"two images [H, W] of one size are needed, got {list(found.shape)} and {list(true.shape)}")
    check_images(torch.stack([found, true]))
    a, b = (t - t.mean() for t in (found, true))
    lengths = a.norm() * b.norm()
    if not lengths > 0:
        raise ValueError("an image of one grey has no correlation with any other")
    turns = torch.stack([a, a.flip((-2, -1))])
    products = torch.fft.ifft2(torch.fft.fft2(turns).conj() * torch.fft.fft2(b)).real
    return float(products.max() / lengths)


def correlation(found: Tensor, true: Tensor) -> float:
    """Correlation of two images [H, W] as they lie. Raises ValueError as :func:`likeness` does."""
    likeness(found, true)
    return float(torch.corrcoef(torch.stack([found.flatten(), true.flatten()]))[0, 1])


def _check_retrieval(size: Tensor, height: int, width: int, steps: int, starts: int, feedback: float) -> None:
    if size.ndim != 2 or bool((size < 0).any()):
        raise ValueError(f"size: the amplitude [H, W] of one canvas, from 0 on, is needed; got {list(size.shape)}")
    for name, value, most in (("height", height, size.shape[0]), ("width", width, size.shape[1])):
        if require.whole(name, value, 1) > most:
            raise ValueError(f"{name} must be at most {most}, that of the canvas, got {value}")
    require.whole("steps", steps, 1)
    require.whole("starts", starts, 1)
    require.real("feedback", feedback, least=0)
