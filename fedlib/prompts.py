"""Soft prompts: vectors before the embedded input of a frozen network (Lester, Al-Rfou and Constant 2021).

How they begin, what they are made of, and how several of them vote. The network is a
:class:`~fedlib.models.reader.Reader`; :mod:`fedlib.frozen` trains what goes before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedlib import require
from fedlib.models.reader import Reader

REACH = 0.5  # the paper's: entries of a random prompt lie in [-REACH, REACH]


def uniform(count: int, width: int, draws: torch.Generator, reach: float = REACH) -> Tensor:
    """A prompt [count, width] of entries uniform in [-reach, reach], in float64."""
    require.whole("count", count)
    require.whole("width", width, 1)
    require.real("reach", reach, least=0)
    return (2 * torch.rand(count, width, generator=draws, dtype=torch.float64) - 1) * reach


def sampled(count: int, table: Tensor, among: Sequence[int], draws: torch.Generator) -> Tensor:
    """A prompt [count, width] of rows of the embedding table [words, width], drawn without putting back.

    ``among``: the numbers of words to draw from (the paper's are the 5,000 most frequent). Raises ValueError where they
    are too few, stand there twice, or are no rows.
    """
    require.whole("count", count)
    numbers = _rows("among", among, table)
    if len(numbers.unique()) < len(numbers):
        raise ValueError(f"among: each word stands there once; of {len(numbers)} only {len(numbers.unique())} differ")
    if count > len(numbers):
        raise ValueError(f"among: {count} different words are to be drawn, from {len(numbers)}")
    return table[numbers[torch.randperm(len(numbers), generator=draws)[:count]]].detach().clone()


def labelled(
    count: int, table: Tensor, labels: Sequence[Sequence[int]], among: Sequence[int], draws: torch.Generator
) -> Tensor:
    """A prompt whose first rows are the labels, and whose other rows are :func:`sampled`.

    ``labels``: the words of each class's label; several words are averaged into one row. Raises ValueError for no label
    or an empty one, and where the prompt is shorter than the labels are many: none may fall away unseen.
    """
    require.whole("count", count)
    if not len(labels) or not all(len(label) for label in labels):
        raise ValueError(f"labels: each class needs at least one word, and there is at least one class; got {labels}")
    if count < len(labels):
        raise ValueError(f"count: a prompt of {count} has no room for the labels of {len(labels)} classes")
    first = torch.stack([table[_rows("labels", label, table)].detach().mean(0) for label in labels])
    return torch.cat([first, sampled(count - len(labels), table, among, draws)])


def written(words: Sequence[int], table: Tensor) -> Tensor:
    """A hard prompt as vectors: the embeddings of some words, [count, width]. Raises ValueError for what is no row."""
    return table[_rows("words", words, table)].detach().clone()


def ensemble(network: Reader, prompts: Tensor, words: Tensor, rows: Tensor | None = None) -> Tensor:
    """Logits [N, B, words] of N prompts [N, p, width] in one pass: a batch of N copies of the texts [B, L]."""
    if prompts.ndim != 3 or not len(prompts):
        raise ValueError(f"prompts: expected at least one, stacked as [N, p, width]; got {list(prompts.shape)}")
    many, texts = len(prompts), len(words)
    copies = None if rows is None else rows.repeat(many, 1, 1)
    each = prompts.repeat_interleave(texts, 0)
    return network(words.repeat(many, 1), copies, prompt=each).unflatten(0, (many, texts))


def vote(answers: Tensor) -> Tensor:
    """The answer that most prompts give: [N, ...] -> [...]. Of answers with as many votes, that of the first prompt.

    Raises ValueError where nobody votes, and for what are no whole numbers.
    """
    kinds = answers.is_floating_point() or answers.is_complex() or answers.dtype == torch.bool
    if answers.ndim < 1 or not len(answers) or kinds:
        raise ValueError(f"answers: expected whole numbers [N, ...] of N > 0 voters; got {answers.dtype} "
                         f"{list(answers.shape)}")  # fmt: skip
    votes = (answers[:, None] == answers[None]).sum(1)  # [N, ...]: how many agree with each
    return answers.gather(0, votes.argmax(0, keepdim=True))[0]


def _rows(name: str, numbers: Sequence[int], table: Tensor) -> Tensor:
    """Numbers of words as a tensor. Raises ValueError for what is no row of the table, and for a table that is none."""
    if table.ndim != 2 or not bool(torch.isfinite(table).all()):
        raise ValueError(f"table: expected finite embeddings [words, width]; got {list(table.shape)}")
    found = torch.as_tensor([require.whole(name, n, None) for n in numbers], dtype=torch.long)
    if len(found) and not 0 <= int(found.min()) <= int(found.max()) < len(table):
        raise ValueError(f"{name}: words have numbers from 0 to {len(table) - 1}; got {found.tolist()}")
    return found
