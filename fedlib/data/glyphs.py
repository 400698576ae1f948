"""Letters rendered with the fonts that matplotlib carries: labelled images of a domain that one can choose.

They serve as unlabelled or out-of-family data, and as a set with a controllable shift: font, colours,
background, blur, rotation and noise are the fields of a `Domain`. Everything follows from a seed.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .dataset import Dataset, from_arrays

CANVAS = 64  # pixels of a letter's master drawing; images are warped from it and area-averaged down
FONTS = {
    "sans": "DejaVuSans.ttf",
    "sans-bold": "DejaVuSans-Bold.ttf",
    "sans-oblique": "DejaVuSans-Oblique.ttf",
    "serif": "DejaVuSerif.ttf",
    "serif-bold": "DejaVuSerif-Bold.ttf",
    "mono": "DejaVuSansMono.ttf",
    "times": "STIXGeneral.ttf",
    "times-italic": "STIXGeneralItalic.ttf",
    "roman": "cmr10.ttf",
    "grotesque": "cmss10.ttf",
    "typewriter": "cmtt10.ttf",
}

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Domain:
    """How letters look. Ranges are uniform; colours are RGB in [0, 1], reduced to luminance in gray images."""

    fonts: tuple[str, ...] = tuple(FONTS)
    ink: Colour = (1.0, 1.0, 1.0)
    paper: Colour = (0.0, 0.0, 0.0)
    jitter: float = 0.0  # each colour channel of ink and paper moves by up to this much
    background: Literal["plain", "gradient", "texture"] = "plain"
    contrast: float = 0.5  # strength of gradient or texture, share of the range
    blur: tuple[float, float] = (
        0.0,
        0.6,
    )  # standard deviation of the Gaussian, in pixels of a 28-pixel image
    rotation: float = 12.0  # largest angle, degrees
    scale: tuple[float, float] = (0.9, 1.25)  # 1: a capital letter fills somewhat more than half of the height
    shift: float = 0.08  # largest displacement, share of the image
    noise: float = 0.0  # standard deviation of Gaussian pixel noise, share of the range

    def __post_init__(self) -> None:
        unknown = sorted(set(self.fonts) - set(FONTS))
        if unknown or not self.fonts:
            raise ValueError(f"Domain.fonts: {unknown or 'empty'}; choose from {', '.join(FONTS)}.")
        if self.background not in ("plain", "gradient", "texture"):
            raise ValueError(f"Domain.background is {self.background!r}; choose plain, gradient or texture.")
        for name, (low, high) in (("blur", self.blur), ("scale", self.scale)):
            if not 0 <= low <= high or (name == "scale" and low == 0):
                raise ValueError(f"Domain.{name} is {(low, high)}; expected 0 <= low <= high (scale: low > 0).")


def arrays(
    letters: str = "ABCDEFGHIJ",
    *,
    train: int = 2000,
    test: int = 500,
    size: int = 28,
    channels: int = 1,
    domain: Domain | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Raw arrays of a rendered set: x_* uint8 [N, size, size] (RGB: [N, size, size, 3]), y_* uint8, class_names."""
    rng = torch.Generator().manual_seed(seed)
    parts = {}
    for part, count in (("train", train), ("test", test)):
        pixels, labels = render(letters, count, size=size, channels=channels, domain=domain, rng=rng)
        raw = (pixels * 255).round_().to(torch.uint8)
        parts[f"x_{part}"] = (raw[:, 0] if channels == 1 else raw.permute(0, 2, 3, 1)).contiguous().numpy()
        parts[f"y_{part}"] = labels.to(torch.uint8).numpy()
    return {**parts, "class_names": np.array(list(letters))}


def dataset(
    letters: str = "ABCDEFGHIJ",
    *,
    train: int = 2000,
    test: int = 500,
    size: int = 28,
    channels: int = 1,
    domain: Domain | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    normalise: bool = True,
) -> Dataset:
    """A rendered set as a `Dataset`, normalised with the statistics of its own training part."""
    raw = arrays(letters, train=train, test=test, size=size, channels=channels, domain=domain, seed=seed)
    pixels = raw["x_train"].reshape(-1, channels) / 255.0
    mean, std = pixels.mean(0).tolist(), pixels.std(0).clip(min=1e-6).tolist()
    return from_arrays("glyphs", raw, fonts_sha256(domain), mean=mean, std=std, dtype=dtype, normalise=normalise)


def render(
    letters: str,
    count: int,
    *,
    size: int = 28,
    channels: int = 1,
    domain: Domain | None = None,
    rng: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draws `count` letters, all classes equally often (the first ones once more), in random order.

    Returns float32 pixels [count, channels, size, size] in [0, 1] and int64 labels [count] that index
    `letters`.
    Raises ValueError for repeated letters, a size outside 8..128 or channels other than 1 and 3.
    """
    if not letters or len(set(letters)) != len(letters) or any(c.isspace() for c in letters):
        raise ValueError(f"letters is {letters!r}; expected different visible characters, at least one.")
    if channels not in (1, 3) or not 8 <= size <= 128:
        raise ValueError(f"size {size}, channels {channels}; expected a size in 8..128 and 1 or 3 channels.")
    look = domain or Domain()
    labels = (torch.arange(count) % len(letters))[torch.randperm(count, generator=rng)]
    fonts = torch.randint(len(look.fonts), (count,), generator=rng)
    masters = _masters(letters, look.fonts)
    done = []
    for start in range(0, count, 512):  # in pieces, so that memory does not grow with the count
        piece = slice(start, start + 512)
        ink = _warp(masters[fonts[piece], labels[piece]], size, look, rng)
        done.append(_paint(ink, channels, look, rng))
    return torch.cat(done) if done else torch.zeros(0, channels, size, size), labels


def fonts_sha256(domain: Domain | None = None) -> str:
    """SHA-256 of the domain's font files, the only data that comes from outside fedlib's code."""
    digest = hashlib.sha256()
    for font in (domain or Domain()).fonts:
        digest.update(_font_file(font).read_bytes())
    return digest.hexdigest()


def checksum(raw: dict[str, np.ndarray]) -> str:
    """The checksum that a run records for the set of `load`: that of the fonts.

    The last bit of a pixel may differ between processors, and with it a checksum of the contents.
    """
    return fonts_sha256()


def _font_file(font: str) -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / FONTS[font]


def _masters(letters: str, fonts: tuple[str, ...]) -> Tensor:
    """White letters on black [fonts, letters, CANVAS, CANVAS], the ink of each centred."""
    from PIL import Image, ImageDraw, ImageFont

    sheets = np.zeros((len(fonts), len(letters), CANVAS, CANVAS), dtype=np.float32)
    for f, name in enumerate(fonts):
        font = ImageFont.truetype(str(_font_file(name)), 50, layout_engine=ImageFont.Layout.BASIC)
        for c, letter in enumerate(letters):
            draft = Image.new("L", (3 * CANVAS, 3 * CANVAS))
            ImageDraw.Draw(draft).text((CANVAS, CANVAS), letter, fill=255, font=font)
            ink = draft.crop(draft.getbbox())  # a font's own box has bearings: the ink would not be centred
            image = Image.new("L", (CANVAS, CANVAS))
            image.paste(ink, ((CANVAS - ink.width) // 2, (CANVAS - ink.height) // 2))
            sheets[f, c] = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(sheets)


def _uniform(rng: torch.Generator, count: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=rng)


def _warp(masters: Tensor, size: int, look: Domain, rng: torch.Generator) -> Tensor:
    """Turns, scales, shifts and blurs masters [B, CANVAS, CANVAS] into ink shares [B, 1, size, size] in [0, 1]."""
    count = len(masters)
    angle = _uniform(rng, count, -look.rotation, look.rotation) * (math.pi / 180)
    scale = _uniform(rng, count, *look.scale)
    # affine_grid counts in half images, hence the 2; theta maps image places to places on the master.
    shift = 2 * torch.stack([_uniform(rng, count, -look.shift, look.shift) for _ in range(2)], 1)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    linear = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    theta = torch.cat([linear, -linear @ shift[:, :, None]], 2)
    # As fine as the master at the smallest scale, so that no stroke falls between two samples.
    fine = size * max(1, math.ceil(CANVAS / size / look.scale[0]))
    grid = F.affine_grid(theta, [count, 1, fine, fine], align_corners=False)
    ink = F.grid_sample(masters[:, None], grid, align_corners=False)
    sigma = _uniform(rng, count, *look.blur) * (size / 28)
    return _blur(F.avg_pool2d(ink, fine // size), sigma).clamp_(0, 1)


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of [B, C, H, W], each image with its own standard deviation [B] in pixels; 0 changes nothing."""
    reach = min(math.ceil(3 * float(sigma.max())), min(images.shape[-2:]) - 1) if len(sigma) else 0
    if reach == 0:
        return images
    places = torch.arange(-reach, reach + 1, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (places / sigma.clamp(min=1e-3)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(images.shape[1], 0)
    stack = images.flatten(0, 1)[None]
    for shape, pad in (
        ((-1, 1, 1, 2 * reach + 1), (reach, reach, 0, 0)),
        ((-1, 1, 2 * reach + 1, 1), (0, 0, reach, reach)),
    ):
        stack = F.conv2d(F.pad(stack, pad, mode="replicate"), kernel.view(shape), groups=kernel.shape[0])
    return stack[0].unflatten(0, images.shape[:2])


def _paint(ink: Tensor, channels: int, look: Domain, rng: torch.Generator) -> Tensor:
    """Colours ink shares [B, 1, H, W] over the domain's background; pixels [B, channels, H, W] in [0, 1]."""
    count, _, height, width = ink.shape

    def colour(base: Colour) -> Tensor:
        moved = torch.tensor(base) + look.jitter * (2 * torch.rand(count, 3, generator=rng) - 1)
        return moved.clamp(0, 1)[:, :, None, None]

    pen, page = colour(look.ink), colour(look.paper).expand(-1, -1, height, width)
    if look.background == "gradient":
        turn = 2 * math.pi * torch.rand(count, 1, 1, generator=rng)
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        ramp = (turn.cos() * x + turn.sin() * y) / math.sqrt(2)
        page = page + look.contrast * 0.5 * (ramp[:, None] + 1) * (1 - 2 * page.round())
    elif look.background == "texture":
        coarse = torch.rand(count, 3, 5, 5, generator=rng)
        cloud = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)
        page = page + look.contrast * (cloud - page) if look.contrast < 1 else cloud
    image = page * (1 - ink) + pen * ink
    if channels == 1:
        image = (image * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    if look.noise:
        image = image + look.noise * torch.randn(image.shape, generator=rng)
    return image.clamp(0, 1)
