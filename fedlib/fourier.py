"""Images in frequency space: amplitude and phase, and the style of one image with the structure of another.

F(x)(u, v) = sum_hw x(h, w) exp(-2 pi j (h u / H + w v / W)) has an amplitude |F| and a phase arg F. Frequencies are
*centred*: the mean of the image stands at (H // 2, W // 2), and the window of a whole number b is the (2 b + 1)^2
frequencies around it, the slowest ones. Of a real image the amplitude is the same at (u, v) and (-u, -v).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fft import fft2, fftshift, ifft2, ifftshift

from fedlib import require

PLANE = (-2, -1)


def amplitude(x: Tensor, window: int | None = None) -> Tensor:
    """Centred amplitudes of images [..., H, W]: [..., H, W], or those of a window [..., 2 b + 1, 2 b + 1].

    Raises ValueError for no image, NaN, or a window that does not fit.
    """
    check_images(x)
    size = spectrum(x).abs()
    return size if window is None else central(size, window)


def low_frequency_mix(x: Tensor, amplitude: Tensor, window: int, ratio: float | Tensor) -> Tensor:
    """Images x [..., H, W] with their own phase, and within the window of (2 window + 1)^2 centred frequencies with
    the amplitude (1 - ratio) |F(x)| + ratio ``amplitude``; outside it with their own (Liu et al. 2021, section 3.2).

    ``amplitude`` [..., h, w] is centred: a whole spectrum (:func:`amplitude`), or any window that is as large as this
    one. ``ratio`` in [0, 1] is one number, or one for each image, of a shape that broadcasts to x without its plane.
    ``window`` 0 exchanges the mean alone. Values may leave the range of the image. The mean keeps its *sign*: images
    are mixed as pixels from 0 on, before they are standardised, or a phase that is noise decides.

    Raises ValueError for windows that do not fit, ratios out of range, and an amplitude that is negative, not
    symmetric, or of another image size.
    """
    check_images(x)
    _check_mixing(x, amplitude, window, ratio)
    own = spectrum(x)
    size, phase = own.abs(), own.angle()
    share = torch.as_tensor(ratio, dtype=x.dtype, device=x.device)[..., None, None]
    inside = central(size, window)
    inside.copy_((1 - share) * inside + share * central(amplitude, window))
    return image(torch.polar(size, phase))


def phase_only(x: Tensor) -> Tensor:
    """Images [..., H, W] with their phase, and amplitude 1 everywhere."""
    check_images(x)
    own = spectrum(x)
    return image(torch.polar(torch.ones_like(own.abs()), own.angle()))


def amplitude_only(x: Tensor) -> Tensor:
    """Images [..., H, W] with their amplitude, and phase 0 everywhere: what a shared amplitude shows at once."""
    check_images(x)
    return image(torch.complex(size := spectrum(x).abs(), torch.zeros_like(size)))


def spectrum(x: Tensor) -> Tensor:
    """Centred Fourier coefficients [..., H, W] of images [..., H, W], complex."""
    return fftshift(fft2(x), PLANE)


def image(coefficients: Tensor) -> Tensor:
    """The real part of what has these centred Fourier coefficients [..., H, W]."""
    return ifft2(ifftshift(coefficients, PLANE)).real


def central(values: Tensor, window: int) -> Tensor:
    """A view of the centred window of [..., H, W]: [..., 2 b + 1, 2 b + 1]. Raises ValueError where it does not fit."""
    b = require.whole("window", window)
    height, width = values.shape[-2:]
    if 2 * b + 1 > min(height, width):
        raise ValueError(f"window: {2 * b + 1} x {2 * b + 1} frequencies do not fit into {height} x {width}")
    return values[..., height // 2 - b : height // 2 + b + 1, width // 2 - b : width // 2 + b + 1]


def check_images(x: Tensor) -> None:
    """Raises ValueError for what are no finite images [..., H, W] of a floating-point type."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or not x.numel():
        raise ValueError(f"images [..., H, W] of a floating-point type are needed, got {_form(x)}")
    if not require.all_finite([x]):
        raise ValueError(f"images are finite; {require.share_of_nonsense(x)}")


def _check_mixing(x: Tensor, size: Tensor, window: int, ratio: float | Tensor) -> None:
    if not isinstance(size, Tensor) or size.ndim < 2 or size.dtype != x.dtype:
        raise ValueError(f"amplitude: [..., h, w] of {x.dtype} is needed, got {_form(size)}")
    central(x, window)
    inside = central(size, window)
    whole = size.shape[-2:] == x.shape[-2:]
    if not whole and not (size.shape[-1] == size.shape[-2] and size.shape[-1] % 2):
        raise ValueError(
            f"amplitude: a whole spectrum {list(x.shape[-2:])} or a window of it, a square with an odd side, is "
            f"needed; got {list(size.shape)}"
        )
    if not require.all_finite([size]) or bool((inside < 0).any()):
        raise ValueError("amplitude: sizes are finite, and none is negative")
    if not torch.allclose(inside, inside.flip(PLANE), rtol=1e-3, atol=1e-4 * float(inside.abs().max())):
        raise ValueError("amplitude: that of a real image is the same at a frequency and at its opposite; centre it")
    shares = torch.as_tensor(ratio, dtype=torch.float64)
    if not bool(((shares >= 0) & (shares <= 1)).all()):
        raise ValueError(f"ratio must lie in [0, 1], got {ratio}")
    if shares.ndim and (shares.ndim > x.ndim - 2 or any(
        s not in (1, n) for s, n in zip(shares.shape[::-1], x.shape[:-2][::-1], strict=False)
    )):  # fmt: skip
        raise ValueError(f"ratio: one for each image of {list(x.shape)}, got {list(shares.shape)}")


def _form(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
