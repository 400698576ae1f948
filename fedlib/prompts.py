"""Soft prompts: vectors before the embedded input of a frozen network (Lester, Al-Rfou and Constant 2021).

How they begin, what they are made of, and how several of them vote; and how a prefix begins, which stands before the
keys and values of every block instead (Li and Liang 2021: with words' activations, as they advise where samples are
few, and without the perceptron that makes them). The network is a
:class:`~fedlib.models.reader.Reader`; :mod:`fedlib.frozen` trains what goes before it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from fedlib import frozen, require
from fedlib.models.reader import Reader
from fedlib.models.transformer import Block

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


def activations(network: Reader, weights: frozen.Weights, prompts: Tensor) -> Tensor:
    """A prefix for each of S networks, [S, layers, 2, p, width]: the keys and values that every block makes of a prompt
    [S, p, width] alone, without a text behind it. Raises ValueError for prompts of another form.
    """
    width = network.word.embedding_dim
    if prompts.ndim != 3 or prompts.shape[-1] != width or {len(t) for t in weights.values()} != {len(prompts)}:
        raise ValueError(f"prompts: expected one for each network, [S, p, {width}]; got {list(prompts.shape)}")
    own, found = copy.deepcopy(network).to(prompts).requires_grad_(False), []
    for i, h in enumerate(prompts.unsqueeze(1)):
        own.load_state_dict({name: t[i] for name, t in weights.items()})
        for block in own.blocks:
            assert isinstance(block, Block)
            found.append(torch.stack(block.ask(block.before(h[0])).tensor_split(3, -1)[1:]))
            h = block(h, h.new_ones(h.shape[:2], dtype=torch.bool))[0]
    return torch.stack(found).unflatten(0, (len(prompts), -1))


def ensemble(
    network: Reader, weights: frozen.Weights, prompts: Tensor, words: Tensor, rows: Tensor | None = None
) -> Tensor:
    """Logits [S, N, B, words] of N prompts on each of S networks in one pass: a batch of N copies of the texts.

    ``prompts`` [S, N, p, width], ``words`` [S, B, L], ``rows`` of pixels [S, B, R, pixels]. Raises ValueError for no
    prompt, or for others; and what :func:`fedlib.frozen.answers` raises.
    """
    if prompts.ndim != 4 or not prompts.shape[1]:
        raise ValueError(f"prompts: expected at least one, stacked as [S, N, p, width]; got {list(prompts.shape)}")
    many, texts = prompts.shape[1], words.shape[1]
    copies = None if rows is None else rows.repeat(1, many, 1, 1)
    each = prompts.repeat_interleave(texts, 1)
    z = frozen.answers(network, weights, words.repeat(1, many, 1), copies, prompt=each)
    return z.unflatten(1, (many, texts))


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
