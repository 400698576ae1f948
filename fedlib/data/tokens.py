"""Text as rows of word numbers, for networks that read: TREC questions and AG News, each text of one fixed length.

Numbers 0 and 1 are no words: :data:`PADDING` fills up short texts, :data:`UNKNOWN` stands for every word that the
vocabulary lacks. Word i of the vocabulary has the number i + 2. The vocabulary is that of the training part alone.
Rows are of a floating type, as every sample of a federation is; that holds whole numbers of this size exactly.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from . import bagofwords, loading, packs
from .dataset import Dataset
from .registry import DataCorrupt, DataUnavailable

PADDING, UNKNOWN, FIRST = 0, 1, 2  # FIRST: the number of the vocabulary's first word
TREC = {
    "train_5500": "8bd6e79493f43bbd22c364587366a1dced54e1e31259eaa92721a0f526031116",
    "TREC_10": "86ad53c8fc9d397ab2f4be7c967d8efb470b260140557d3e57afad69d1b88b76",
}
"""The two files and their checksums; the first trains."""
QUESTIONS = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
Text = tuple[str, str]  # a text and its class


def numbered(texts: Sequence[str], words: Sequence[str], length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The first ``length`` words of each text as numbers, padded at the end: [len(texts), length].

    Raises ValueError for a length below 1, or a type that cannot hold the numbers of so many words.
    """
    if length < 1:
        raise ValueError(f"length: a text has at least one place for a word, got {length}")
    if len(words) + FIRST > 2 / torch.finfo(dtype).eps:
        raise ValueError(f"{dtype} cannot hold the numbers of {len(words)} words exactly")
    place = {word: i for i, word in enumerate(words, FIRST)}
    x = torch.full((len(texts), length), PADDING, dtype=dtype)
    for row, text in zip(x, texts, strict=True):
        written = [place.get(word, UNKNOWN) for word in bagofwords.tokens(text)[:length]]
        row[: len(written)] = torch.tensor(written, dtype=dtype)
    return x


def trec(
    size: int = 2000,
    length: int = 16,
    root: str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """TREC questions (Li and Roth 2002) by the six kinds of answer that they ask for: 5,442 train, 500 test.

    Reads ``text/{train_5500,TREC_10}.label`` (class:subclass, a space, the question; Latin-1) in $FEDLIB_DATA or
    fedlib's cache; training questions that stand in the test part as well are left out. ``size`` words at most are
    known, the most frequent ones; ``extra["words"]`` holds them. Nineteen questions in twenty have at most 16 words.
    Raises DataUnavailable when a file is not there, DataCorrupt when it is another.
    """
    train, test = (_questions(part, root) for part in TREC)
    return _set("trec", train, test, QUESTIONS, TREC.values(), size, length, dtype)


def ag_news(
    size: int = 4000,
    length: int = 48,
    root: str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """AG News descriptions of four classes: the files, parts and errors of :func:`bagofwords.ag_news`, in rows of word
    numbers. ``extra["words"]`` holds the vocabulary of at most ``size`` words.
    """
    train, test = (bagofwords._texts(part, root) for part in bagofwords.AG_NEWS)
    return _set("ag_news", train, test, bagofwords.NEWS, bagofwords.AG_NEWS.values(), size, length, dtype)


def _set(
    name: str,
    train: Sequence[Text],
    test: Sequence[Text],
    classes: tuple[str, ...],
    sums: Iterable[str],
    size: int,
    length: int,
    dtype: torch.dtype,
) -> Dataset:
    held_out = {text for text, _ in test}
    train = [row for row in train if row[0] not in held_out]
    words = bagofwords.vocabulary([text for text, _ in train], size)
    (x, y), (x_test, y_test) = (
        (numbered([text for text, _ in rows], words, length, dtype), torch.tensor([classes.index(c) for _, c in rows]))
        for rows in (train, test)
    )
    sha = hashlib.sha256("".join(sums).encode()).hexdigest()
    loading._used[name] = sha  # part of a run's provenance, like every other set
    extra = {"words": words}
    return Dataset(name, x, y, x_test, y_test, classes, sha, normalised=False, scale=1.0, dtype=dtype, extra=extra)


def _questions(part: str, root: str | os.PathLike[str] | None) -> list[Text]:
    paths = [folder / "text" / f"{part}.label" for folder in packs.folders(root)]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        looked = "\n".join(f"  {p}" for p in paths)
        raise DataUnavailable(
            f"TREC has no automatic download and {part}.label was not found; looked for\n{looked}\n"
            "Put train_5500.label and TREC_10.label (class:subclass, a space and a question a line) there."
        )
    content = path.read_bytes()
    if (sha := hashlib.sha256(content).hexdigest()) != TREC[part]:
        raise DataCorrupt(f"{path} has sha256\n  {sha}\nexpected\n  {TREC[part]}\nIt was left as it is.")
    rows = [line.partition(" ") for line in content.decode("latin-1").split("\n") if line.strip()]
    return [(text.strip(), kind.partition(":")[0]) for kind, _, text in rows]
