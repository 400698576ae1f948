"""A vision transformer in three pieces: patches become tokens, tokens look at each other, tokens become answers.

Head and tail are what a client of split learning keeps, the encoder is what its server has. The patch embedding
belongs to the head, the places of the tokens to the encoder, so all heads of one token count and width fit it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedlib import require
from fedlib.models.transformer import Block


class PatchHead(nn.Module):
    """Images [B, C, H, W] as tokens [B, T, D]: a perceptron for each patch of ``patch`` x ``patch`` pixels, that is a
    convolution whose stride is its width, and one of width 1.

    Raises ValueError where height or width is no multiple of ``patch``, and for other channels.
    """

    def __init__(self, channels: int, patch: int, width: int):
        super().__init__()
        self.patch = require.whole("patch", patch, 1)
        self.channels = require.whole("channels", channels, 1)
        pixels = channels * patch**2
        require.whole("width", width, 1)
        self.embed = nn.Sequential(nn.Linear(pixels, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        p = self.patch
        if x.ndim != 4 or x.shape[2] % p or x.shape[3] % p or x.shape[1] != self.channels:
            raise ValueError(
                f"images [B, {self.channels}, H, W] in whole patches of {p} x {p} are needed, got {list(x.shape)}"
            )
        cells = x.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # [B, C, rows, p, columns, p]
        return self.embed(cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))


class Open(Block):
    """A block in which every token counts, so that nothing is masked: the same numbers for less work."""

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """h [B, T, D]: what goes on [B, T, D], and who looked at whom, [B, heads, T, T]."""
        query, key, value = self.ask(self.before(h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        looks = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        h = h + self.mix((looks @ value).transpose(1, 2).flatten(2))
        return h + self.think(self.between(h)), looks


class Encoder(nn.Module):
    """Tokens [B, T, D] in, tokens [B, T, D] out: places are added, then blocks of attention with normalisation first.

    Raises ValueError for another number of tokens, and where ``width`` is no multiple of ``heads``.
    """

    def __init__(self, tokens: int, width: int, heads: int = 4, layers: int = 2):
        super().__init__()
        self.place = nn.Parameter(
            0.5 * torch.randn(require.whole("tokens", tokens, 1), require.whole("width", width, 1))
        )
        count = require.whole("layers", layers, 1)
        self.blocks = nn.ModuleList(Open(width, heads, 2 * width) for _ in range(count))
        self.norm = nn.LayerNorm(width)

    def forward(self, h: Tensor) -> Tensor:
        return self.norm(self._looked(h)[0])

    def looks(self, h: Tensor) -> Tensor:
        """Who looks at whom in the last block, mean over its attention heads: [B, T, T]."""
        return self._looked(h)[1].mean(1)

    def _looked(self, h: Tensor) -> tuple[Tensor, Tensor]:
        if h.shape[1:] != self.place.shape:
            raise ValueError(f"tokens [B, {', '.join(map(str, self.place.shape))}] are needed, got {list(h.shape)}")
        h, looks = h + self.place, h
        for block in self.blocks:
            h, looks = block(h)
        return h, looks


class FlatTail(nn.Module):
    """Tokens [B, T, D] as one answer [B, outputs]: a linear layer on all of them, laid end to end."""

    def __init__(self, tokens: int, width: int, outputs: int):
        super().__init__()
        numbers = require.whole("tokens", tokens, 1) * require.whole("width", width, 1)
        self.out = nn.Linear(numbers, require.whole("outputs", outputs, 1))

    def forward(self, h: Tensor) -> Tensor:
        if h.ndim != 3 or h[0].numel() != self.out.in_features:
            raise ValueError(f"tokens of {self.out.in_features} numbers in all are needed, got {list(h.shape)}")
        return self.out(h.flatten(1))


class DenseTail(nn.Module):
    """Tokens [B, T, D] as an answer for each pixel [B, H, W] of a square image: each token draws its own patch."""

    def __init__(self, width: int, patch: int):
        super().__init__()
        self.patch = require.whole("patch", patch, 1)
        self.out = nn.Linear(require.whole("width", width, 1), patch**2)

    def forward(self, h: Tensor) -> Tensor:
        side = round(h.shape[1] ** 0.5) if h.ndim == 3 else 0
        if h.ndim != 3 or side**2 != h.shape[1]:
            got = h.shape[1] if h.ndim == 3 else list(h.shape)
            raise ValueError(f"tokens of a square image are needed, got {got}")
        cells = self.out(h).unflatten(1, (side, side)).unflatten(3, (self.patch, self.patch))
        return cells.transpose(2, 3).flatten(3, 4).flatten(1, 2)
