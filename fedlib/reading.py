"""What small readers learn from: questions without end to pre-train on, and one task that is none of them.

The two sources: digits with questions about them, and texts with words that are missing. Word 0 is padding, and the
last word of a vocabulary asks (:class:`~fedlib.models.reader.Reader`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from fedlib import data, require, rng
from fedlib.data import bagofwords, corpus, tokens
from fedlib.frozen import Batch

YES, NO, DIGITS = 11, 12, 14  # words 1 to 10 are the digits, 13 asks; DIGITS: how many words that makes
TOPICS = ("world", "sports", "business", "technology")
WORDY = 6  # known words that a text needs, for some of them to be hidden


class Task(NamedTuple):
    """Texts that ask, the words that are right, and the images that stand behind the texts, if there are any."""

    words: Tensor  # [N, L]
    right: Tensor  # [N]
    rows: Tensor | None = None  # [N, 1, pixels]


class Source(NamedTuple):
    """What a seed learns from. ``questions`` of a number of texts gives batches of one network, without end."""

    questions: Callable[[int], Iterator[Batch]]
    labelled: Task
    held: Task  # judges where something is chosen
    test: Task
    labels: list[list[int]]  # the words of each class's label
    hard: list[int]  # the task, told in words
    shifted: Task | None = None  # the test, in another look


def digits(
    seed: int,
    samples: int = 900,
    labelled: int = 128,
    test: int = 500,
    naming: float = 0.3,
    noise: float = 0.7,
    dtype: torch.dtype = torch.float32,
) -> Source:
    """Is the digit on the image one of those that are listed, YES or NO? And, in a share ``naming``: which is it?

    Lists have one to four digits, in no order, with the image's own in half of them. The task has a list of *five*, and
    is never asked in pre-training; its texts have no list. The images of questions, labelled, held out and test are
    different ones. ``noise``: its standard deviation on the shifted test, where pixels go from -1 to 1. Raises
    ValueError for numbers that cannot work.
    """
    for name, number in {"samples": samples, "labelled": labelled, "test": test}.items():
        require.whole(name, number, 1)
    require.real("naming", naming, least=0, most=1)
    require.real("noise", noise, least=0)
    own = data.load("digits", dtype=dtype, normalise=False)
    x, y = torch.cat([own.x_train, own.x_test]), torch.cat([own.y_train, own.y_test])
    if samples + labelled + test >= len(y):
        raise ValueError(
            f"samples, labelled and test: {samples} + {labelled} + {test} leave nothing to hold out of {len(y)} images"
        )
    order = torch.randperm(len(y), generator=rng.stream(seed, "order"))
    x, y = 2 * x[order].flatten(1)[:, None] - 1, y[order]
    listed = torch.randperm(10, generator=rng.stream(seed, "task"))[:5]

    def questions(size: int) -> Iterator[Batch]:
        draws = rng.stream(seed, "questions")
        while True:
            some = torch.randint(samples, (size,), generator=draws)
            right = torch.rand(size, generator=draws) < 0.5
            rank = torch.rand(size, 10, generator=draws)
            rank.scatter_(1, y[some][:, None], torch.where(right, 2.0, -1.0)[:, None])  # first in the list, or last
            many = torch.randint(1, 5, (size, 1), generator=draws)
            name = torch.rand(size, 1, generator=draws) < naming
            words = 1 + rank.argsort(1, descending=True)[:, :4]
            words = words.where((torch.arange(4) < many) & ~name, 0)
            answer = torch.where(right, YES, NO).where(~name[:, 0], 1 + y[some])
            yield Batch(torch.cat([words, torch.full((size, 1), DIGITS - 1)], 1), answer, x[some])

    def part(first: int, last: int) -> Task:
        right = torch.where((y[first:last, None] == listed).any(1), YES, NO)
        return Task(torch.full((len(right), 1), DIGITS - 1), right, x[first:last])

    end = len(y) - test
    last = part(end, len(y))
    noisy = x[end:] + noise * torch.randn(x[end:].shape, generator=rng.stream(seed, "noise"), dtype=torch.float64)
    tasks = part(samples, samples + labelled), part(samples + labelled, end), last
    return Source(questions, *tasks, [[YES], [NO]], (1 + listed).tolist(), last._replace(rows=noisy.to(dtype)))


def reviews(seed: int, vocabulary: int = 3000, places: int = 24, labelled: int = 500) -> Source:
    """Which words are missing in a text, and what a report is about. The task: is a film review good or bad?

    Of three batches of questions two hide three words of news (AG News) and of film reviews (SST-2), and one has news
    with the question behind them, of :data:`TOPICS`. No review's class is ever told. Labelled and held-out phrases are
    of SST-2's dev part, which no question has; its test part is whole sentences. Raises ValueError for numbers that
    cannot work, and what :mod:`fedlib.data.corpus` raises.
    """
    require.whole("labelled", labelled, 1)
    require.whole("places", places, WORDY + 1)
    words, rows, news = _library(require.whole("vocabulary", vocabulary, 100), places)
    known = rows > tokens.UNKNOWN
    number = {word: i for i, word in enumerate(words, tokens.FIRST)}
    topics = torch.tensor([number[TOPICS[kind]] for kind in news])
    good, bad = number["good"], number["bad"]

    def questions(size: int) -> Iterator[Batch]:
        draws, wordy = rng.stream(seed, "questions"), (known.sum(1) >= WORDY).nonzero()[:, 0]
        for step in count():
            if step % 3 == 0:
                some = torch.randint(len(topics), (size,), generator=draws)
                yield Batch(_asked(rows[some], vocabulary - 1), topics[some])
                continue
            some = wordy[torch.randint(len(wordy), (size,), generator=draws)]
            text = rows[some]
            hidden = torch.rand(size, places - 1, generator=draws) * known[some]
            hidden = hidden.topk(3).indices  # three different words that are known
            yield Batch(text.scatter(1, hidden, vocabulary - 1), text.gather(1, hidden), places=hidden)

    def part(texts: Sequence[corpus.Text]) -> Task:
        written = tokens.numbered([text for text, _ in texts], words, places - 1).long()
        return Task(_asked(written, vocabulary - 1), torch.tensor([good if kind else bad for _, kind in texts]))

    other = corpus.sst2("dev")
    if labelled >= len(other):
        raise ValueError(f"labelled: {labelled} leave nothing to hold out of {len(other)} phrases")
    drawn = [other[i] for i in torch.randperm(len(other), generator=rng.stream(seed, "order")).tolist()]
    tasks = part(drawn[:labelled]), part(drawn[labelled:][-2000:]), part(corpus.sst2("test"))
    return Source(questions, *tasks, [[good], [bad]], [number[w] for w in ["is", "the", "film", "good", "or", "bad"]])


def _asked(rows: Tensor, ask: int) -> Tensor:
    """Texts [N, L - 1] with the word that asks behind the last word of each, [N, L]."""
    rows = torch.cat([rows, torch.zeros_like(rows[:, :1])], 1)
    return rows.scatter(1, (rows > 0).sum(1, keepdim=True), ask)


@lru_cache(maxsize=2)
def _library(vocabulary: int, places: int) -> tuple[tuple[str, ...], Tensor, list[int]]:
    """Words in order of frequency; texts as their numbers, news first; and the classes of the news."""
    news = corpus.ag_news("dev")
    texts = [text for text, _ in (*news, *corpus.sst2("train"))]
    words = bagofwords.vocabulary(texts, vocabulary - tokens.FIRST - 1)
    return words, tokens.numbered(texts, words, places - 1).long(), [kind for _, kind in news]
