"""A small encoder of texts: words and their places, blocks of attention with normalisation first, a mean over words."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Attention between the words of a text, then a perceptron for each; both are added to what comes in, and see it
    normalised.
    """

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} cannot be shared out evenly among {heads} heads")
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, h: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """h [B, L, D] and who is a word [B, L]: what goes on [B, L, D], and who looked at whom, [B, heads, L, L]."""
        query, key, value = self.ask(self.before(h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        looks = scores.masked_fill(~seen[:, None, None], torch.finfo(scores.dtype).min).softmax(-1)
        h = h + self.mix((looks @ value).transpose(1, 2).flatten(2))
        return h + self.think(self.between(h)), looks


class Transformer(nn.Module):
    """Encoder of texts: word numbers [B, L] of any type, 0 where there is no word; logits [B, classes].

    ``words``: how many numbers there are, 0 included. Texts may be shorter than ``length``, not longer. ``positions``
    off: the order of words does not count. With ``features=True`` the output is the mean over words of the last hidden
    states [B, width], the input of ``head``; with ``attention=True`` a pair of that and the last block's attention
    [B, L, L], mean over heads, 0 in rows without a word. Raises ValueError where width is no multiple of ``heads``.
    """

    attends = True

    def __init__(
        self,
        words: int,
        length: int,
        classes: int,
        width: int = 64,
        heads: int = 4,
        layers: int = 2,
        hidden: int | None = None,
        positions: bool = True,
    ):
        super().__init__()
        self.word = nn.Embedding(words, width)
        self.place = nn.Embedding(length, width) if positions else None
        for table in (self.word, self.place):
            if table is not None:  # a sum of both should be about as large as what blocks add to it
                nn.init.normal_(table.weight, std=0.1)
        self.blocks = nn.ModuleList(Block(width, heads, hidden or 2 * width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor, features: bool = False, attention: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        numbers = x.long()
        seen = numbers != 0
        h = self.word(numbers)
        if self.place is not None:
            h = h + self.place(torch.arange(x.shape[1], device=x.device))
        looks = h.new_zeros(len(x), 1, x.shape[1], x.shape[1])
        for block in self.blocks:
            h, looks = block(h, seen)
        share = seen.to(h.dtype)
        pooled = (self.norm(h) * share[..., None]).sum(1) / share.sum(1, keepdim=True).clamp(min=1)
        if attention:
            return pooled, looks.mean(1) * share[..., None]
        return pooled if features else self.head(pooled)
