"""What small readers learn from: questions without end to pre-train on, and one task that is none of them.

The two sources: digits and texts, with questions about them. Word 0 is padding, and the
last word of a vocabulary asks (:class:`~fedlib.models.reader.Reader`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedlib import data, require, rng
from fedlib.data import bagofwords, corpus, tokens
from fedlib.frozen import Batch

YES, NO, DIGITS = 11, 12, 14  # words 1 to 10 are the digits, 13 asks; DIGITS: how many words that makes
KINDS = ("world", "sports", "business", "technology", "good", "bad")  # of news, and of film reviews


class Task(NamedTuple):
    """Texts that ask, the words that are right, and the images that stand behind the texts, if there are any."""

    words: Tensor  # [N, L]
    right: Tensor  # [N]
    rows: Tensor | None = None  # [N, 1, pixels]

    def batches(self, count: int, size: int, draws: torch.Generator) -> Iterator[Batch]:
        """So many batches of ``size`` samples, drawn with putting back. Raises ValueError for numbers below 1."""
        for _ in range(require.whole("count", count, 1)):
            some = torch.randint(len(self.right), (require.whole("size", size, 1),), generator=draws)
            yield Batch(self.words[some], self.right[some], None if self.rows is None else self.rows[some])

    def share(self, said: Tensor) -> float:
        """Which share of answers [..., N] is right; or of one that is given to every text, []. Raises ValueError for
        answers to another number of texts.
        """
        if (said.ndim and said.shape[-1] != len(self.right)) or not said.numel():
            raise ValueError(f"said: expected an answer to each of {len(self.right)} texts, got {list(said.shape)}")
        return float((said == self.right).double().mean())

    def commoner(self) -> float:
        """Which share of texts has the commonest right answer: what answers that know no text come to."""
        return self.share(self.right.mode()[0])


def beside(tasks: Sequence[Task]) -> tuple[Tensor, Tensor | None]:
    """The texts of several tasks, as many of each, and their images if there are any: [S, N, L] and [S, N, 1, pixels].

    Raises ValueError for no task, and where some have images and others have not.
    """
    if not tasks or len({task.rows is None for task in tasks}) > 1:
        raise ValueError(f"tasks: at least one is needed, all with images or all without; got {len(tasks)}")
    rows = [task.rows for task in tasks if task.rows is not None]
    return torch.stack([task.words for task in tasks]), torch.stack(rows) if rows else None


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
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, got {dtype}")
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
        draws, several = rng.stream(seed, "questions"), 20 * size  # batches are drawn by twenty, which is faster
        while True:
            some = torch.randint(samples, (several,), generator=draws)
            right = torch.rand(several, generator=draws) < 0.5
            rank = torch.rand(several, 10, generator=draws)
            rank.scatter_(1, y[some][:, None], torch.where(right, 2.0, -1.0)[:, None])  # first in the list, or last
            many = torch.randint(1, 5, (several, 1), generator=draws)
            name = torch.rand(several, 1, generator=draws) < naming
            words = 1 + rank.argsort(1, descending=True)[:, :4]
            words = words.where((torch.arange(4) < many) & ~name, 0)
            words = torch.cat([words, torch.full((several, 1), DIGITS - 1)], 1)
            answer = torch.where(right, YES, NO).where(~name[:, 0], 1 + y[some])
            for parts in zip(words.split(size), answer.split(size), some.split(size), strict=True):
                yield Batch(parts[0], parts[1], x[parts[2]])

    def part(first: int, last: int) -> Task:
        right = torch.where((y[first:last, None] == listed).any(1), YES, NO)
        return Task(torch.full((len(right), 1), DIGITS - 1), right, x[first:last])

    end = len(y) - test
    last = part(end, len(y))
    noisy = x[end:] + noise * torch.randn(x[end:].shape, generator=rng.stream(seed, "noise"), dtype=torch.float64)
    tasks = part(samples, samples + labelled), part(samples + labelled, end), last
    return Source(questions, *tasks, [[YES], [NO]], (1 + listed).tolist(), last._replace(rows=noisy.to(dtype)))


def reports(seed: int, vocabulary: int = 3000, places: int = 20, labelled: int = 500) -> Source:
    """Is the text of one of the kinds that are listed? And, in a share of 0.3: of which is it?

    Kinds are :data:`KINDS`: four of news (AG News), and good and bad film reviews (SST-2), as many of reviews as of
    news. Lists have one or two kinds, behind the ``places`` of the text and without places, the text's own in half of
    them. The task has a list of *three*, and is never asked; its texts have no list. Questions are about the first
    7,000 news and SST-2's training phrases; labelled and held-out texts are the other news and its dev part, test texts
    those of both test parts. Raises ValueError for numbers that cannot work, and what :mod:`fedlib.data.corpus` raises.
    """
    require.whole("labelled", labelled, 1)
    words, parts = _library(require.whole("vocabulary", vocabulary, 20), require.whole("places", places, 1))
    number = {word: i for i, word in enumerate(words, tokens.FIRST)}
    kinds = torch.tensor([number[word] for word in KINDS])
    yes, no, ask = number["yes"], number["no"], vocabulary - 1
    listed = torch.randperm(len(KINDS), generator=rng.stream(seed, "task"))[:3]

    def questions(size: int) -> Iterator[Batch]:
        if require.whole("size", size, 2) % 2:
            raise ValueError(f"size: as many questions are about news as about reviews, got {size}")
        draws, (news, films) = rng.stream(seed, "questions"), parts["questions"]
        while True:
            few = [torch.randint(len(y), (size // 2,), generator=draws) for _, y in (news, films)]
            text, y = (torch.cat([one[i][some] for one, some in zip((news, films), few, strict=True)]) for i in (0, 1))
            right = torch.rand(len(y), generator=draws) < 0.5
            rank = torch.rand(len(y), len(KINDS), generator=draws)
            rank.scatter_(1, y[:, None], torch.where(right, 2.0, -1.0)[:, None])
            many = torch.randint(1, 3, (len(y), 1), generator=draws)
            name = torch.rand(len(y), 1, generator=draws) < 0.3
            list_ = kinds[rank.argsort(1, descending=True)[:, :2]]
            list_ = list_.where((torch.arange(2) < many) & ~name, 0)
            answer = torch.where(right, yes, no).where(~name[:, 0], kinds[y])
            yield Batch(torch.cat([text, list_, torch.full((len(y), 1), ask)], 1), answer)

    def part(texts: Tensor, y: Tensor) -> Task:
        words = torch.cat([texts, torch.full((len(y), 1), ask)], 1)
        return Task(words, torch.where((y[:, None] == listed).any(1), yes, no))

    x, y = parts["task"]
    if labelled >= len(y):
        raise ValueError(f"labelled: {labelled} leave nothing to hold out of {len(y)} texts")
    order = torch.randperm(len(y), generator=rng.stream(seed, "order"))
    few, held = order[:labelled], order[labelled:][:1000]
    tasks = part(x[few], y[few]), part(x[held], y[held]), part(*parts["test"])
    return Source(questions, *tasks, [[yes], [no]], kinds[listed].tolist())


@lru_cache(maxsize=2)
def _library(vocabulary: int, places: int) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Words in order of frequency, the kinds and answers among them; and texts as numbers with the numbers of their
    kinds, for questions (news and reviews apart), for the task, and for its test.
    """
    dev, films = corpus.ag_news("dev"), corpus.sst2("train")
    asked, other = dev[:7000], dev[7000:]
    frequent = bagofwords.vocabulary([text for text, _ in (*asked, *films)], vocabulary - tokens.FIRST - 1)
    must = [word for word in (*KINDS, "yes", "no") if word not in frequent]
    words = (*frequent[: vocabulary - tokens.FIRST - 1 - len(must)], *must)

    def numbered(news: Sequence[corpus.Text], films: Sequence[corpus.Text]) -> tuple[Tensor, Tensor]:
        texts = [(text, kind) for text, kind in news] + [(text, 5 - kind) for text, kind in films]
        x = tokens.numbered([text for text, _ in texts], words, places).long()
        return x, torch.tensor([kind for _, kind in texts])

    phrases, sentences = corpus.sst2("dev"), corpus.sst2("test")
    few = min(len(other), len(phrases))
    task = numbered(other[:few], phrases[:few])
    test = numbered(corpus.ag_news("test")[: len(sentences)], sentences)
    return words, {"questions": (numbered(asked, []), numbered([], films)), "task": task, "test": test}
