"""An encoder that answers with a word: what it is asked, and a prompt before it, come as words, images or vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from fedlib import require
from fedlib.models.transformer import Block


class Reader(nn.Module):
    """Words [B, L], maybe rows of pixels [B, R, pixels] behind them -> logits over the words, [B, words].

    Word 0 is padding: nobody looks at it. Word ``ask`` stands where an answer is wanted; the logits are read there, by
    an output layer of its own (not tied to the embeddings, so that new vectors at the input change no answer's row).
    ``length``: so many of the first words have places; the order of those behind, or of all where it is 0, does not
    count. ``image`` = (R, pixels): rows have places always. A prompt has no places: its order does not count. With
    ``places`` [B, K] there are several answers for each text, [B, K, words].

    What goes before the embedded input: ``prompt`` [p, width], or [B, p, width] with one for each text. And before what
    every attention looks at: ``prefix`` [layers, 2, p, width], p keys and p values for each block (Li and Liang 2021).
    Raises ValueError for sizes that are no whole numbers, a width that is no multiple of ``heads``, for texts shorter
    than ``length``, for images where none has a place, and for vectors of another shape.
    """

    def __init__(
        self,
        words: int,
        ask: int,
        width: int,
        heads: int = 4,
        layers: int = 2,
        length: int = 0,
        image: tuple[int, int] | None = None,
    ):
        super().__init__()
        sizes = {
            "words": (words, 2),
            "width": (width, 1),
            "heads": (heads, 1),
            "layers": (layers, 1),
            "length": (length, 0),
        }
        for name, (value, least) in sizes.items():
            require.whole(name, value, least)
        for value in image or ():
            require.whole("image", value, 1)
        if not 0 < require.whole("ask", ask) < words:
            raise ValueError(f"ask: the word that asks has a number from 1 to {words - 1}, not {ask}")
        self.ask, self.length = ask, length
        self.word = nn.Embedding(words, width)
        self.place = nn.Embedding(length, width) if length else None
        rows, pixels = image or (0, 0)
        self.row = nn.Linear(pixels, width) if image else None
        self.height = nn.Embedding(rows, width) if image else None
        for table in (self.word, self.place, self.height):
            if table is not None:  # as large as what blocks add to it, as in Transformer
                nn.init.normal_(table.weight, std=0.1)
        self.blocks = nn.ModuleList(Block(width, heads, 2 * width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words)

    def embed(self, words: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The input as vectors [B, L + R, width], and which of them are no padding, [B, L + R]."""
        h, seen = self.word(words), words != 0
        if self.place is not None:
            if words.shape[-1] < self.length:
                raise ValueError(
                    f"texts of {words.shape[-1]} words, padding included; all {self.length} places are needed"
                )
            h = h + pad(self.place.weight, (0, 0, 0, words.shape[-1] - self.length))
        if self.row is not None and self.height is not None:
            if rows is None:
                raise ValueError("rows: this reader expects an image behind the words, and there is none")
            if rows.shape[-2:] != (self.height.num_embeddings, self.row.in_features):
                wanted = [self.height.num_embeddings, self.row.in_features]
                raise ValueError(f"rows: this reader expects images {wanted}, got {list(rows.shape[-2:])}")
            image = self.row(rows) + self.height(torch.arange(rows.shape[-2], device=rows.device))
            h, seen = torch.cat([h, image], -2), torch.cat([seen, torch.ones_like(rows[..., 0], dtype=torch.bool)], -1)
        elif rows is not None:
            raise ValueError("rows: this reader has no place for an image; make it with image=(R, pixels)")
        return h, seen

    def hidden(self, h: Tensor, seen: Tensor, at: Tensor, prefix: Tensor | None = None) -> Tensor:
        """What the blocks make of embedded inputs [B, L, width] at the places ``at`` [B, K]: [B, K, width]."""
        if prefix is not None:
            form = (len(self.blocks), 2, h.shape[-1])
            if prefix.ndim != 4 or (*prefix.shape[:2], prefix.shape[-1]) != form:
                wanted = f"[{form[0]}, 2, p, {form[2]}], keys and values for each block"
                raise ValueError(f"prefix: expected {wanted}; got {list(prefix.shape)}")
            prefix = prefix if prefix.shape[2] else None  # of no rows: the network as it is, bit for bit
        everywhere = torch.arange(h.shape[-2], device=h.device).expand(h.shape[:-1])
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            if block is self.blocks[-1]:
                h = at_places(block, h, seen, at, None if prefix is None else prefix[i])
            elif prefix is None:
                h = block(h, seen)[0]
            else:
                h = at_places(block, h, seen, everywhere, prefix[i])
        return self.norm(h)

    def forward(
        self,
        words: Tensor,
        rows: Tensor | None = None,
        prompt: Tensor | None = None,
        prefix: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        at = (words == self.ask).to(torch.int8).argmax(-1, keepdim=True) if places is None else places
        h, seen = self.embed(words, rows)
        if prompt is not None:
            h, seen = prepend(prompt, h, seen)
            at = at + prompt.shape[-2]
        z = self.head(self.hidden(h, seen, at, prefix))
        return z.squeeze(-2) if places is None else z


def at_places(block: Block, h: Tensor, seen: Tensor, at: Tensor, prefix: Tensor | None = None) -> Tensor:
    """What a block makes of the places ``at`` [B, K] alone, [B, K, D]: as of all of h [B, L, D], but faster.

    All places look at a ``prefix`` [2, p, D], too: keys and values that stand before those of h, for all texts alike.
    """
    mine = h.gather(-2, at[..., None].expand(*at.shape, h.shape[-1]))
    weight, bias = (t.tensor_split([h.shape[-1]]) for t in (block.ask.weight, block.ask.bias))
    query = linear(block.before(mine), weight[0], bias[0]).unflatten(-1, (block.heads, -1)).transpose(1, 2)
    key, value = linear(block.before(h), weight[1], bias[1]).unflatten(-1, (2, block.heads, -1)).permute(2, 0, 3, 1, 4)
    if prefix is not None:
        own_key, own_value = prefix.unflatten(-1, (block.heads, -1)).transpose(1, 2)
        key = torch.cat([own_key.expand(len(h), *own_key.shape), key], -2)
        value = torch.cat([own_value.expand(len(h), *own_value.shape), value], -2)
        seen = torch.cat([seen[:, :1].new_ones(()).expand(len(h), prefix.shape[1]), seen], -1)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    looks = scores.masked_fill(~seen[:, None, None], torch.finfo(scores.dtype).min).softmax(-1)
    mine = mine + block.mix((looks @ value).transpose(1, 2).flatten(2))
    return mine + block.think(block.between(mine))


def prepend(prompt: Tensor, h: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """[P; X]: the prompt [p, D] or [B, p, D] before embedded inputs [B, L, D], and a mask that shows it to all.

    What was hidden as padding stays hidden. Raises ValueError for a prompt of another width or number.
    """
    if prompt.ndim not in (2, 3) or prompt.shape[-1] != h.shape[-1] or (prompt.ndim == 3 and len(prompt) != len(h)):
        raise ValueError(
            f"prompt: expected [p, {h.shape[-1]}], or one for each of {len(h)} texts; got {list(prompt.shape)}"
        )
    prompt = prompt.expand(h.shape[0], *prompt.shape[-2:])
    shown = seen[:, :1].new_ones(()).expand(h.shape[0], prompt.shape[-2])
    return torch.cat([prompt, h], -2), torch.cat([shown, seen], -1)
