"""Text as bags of words: a generated corpus with Zipf's law in it, and real texts counted by a vocabulary.

Word counts are sparse and uneven: a few words stand in most documents, most words in very few. A coordinate of a linear
model then sees a gradient as often as its word is written.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import loading, packs
from .dataset import Dataset
from .registry import DataCorrupt, DataUnavailable

AG_NEWS = {
    "dev": "7a0811e0006080bf4de17752c5466450ff3db778be71bc5bcf3c4e99b5f0803d",
    "test": "e4217edd939f618f24a42b0988c56ec3cddf656d8dc279b9afa443dd1ab6a1c1",
}
"""The two files and their checksums; the first trains."""
Part = tuple[Tensor, Tensor]  # counts and labels
NEWS = ("World", "Sports", "Business", "Sci/Tech")


def zipf(
    train: int,
    test: int,
    *,
    rng: torch.Generator,
    vocabulary: int = 1000,
    classes: int = 10,
    words: int = 8,
    exponent: float = 1.1,
    tilt: float = 0.8,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """A generated corpus: documents of ``words`` words each, drawn from a distribution of their class.

    The word of rank r (from 1) has a probability proportional to r^-exponent, times a factor of its own in each class,
    drawn from Gamma(tilt, 1): a small ``tilt`` makes classes that differ much. Labels are uniform. x_train [train, V]
    and x_test [test, V] hold counts, words in order of rank; ``extra["probability"]`` [classes, V] is the truth.
    Everything follows from ``rng``. Raises ValueError unless sizes, exponent and tilt are positive.
    """
    sizes = {"train": train, "test": test, "vocabulary": vocabulary, "classes": classes, "words": words}
    if wrong := [n for n, v in (sizes | {"exponent": exponent, "tilt": tilt}).items() if not v > 0]:
        raise ValueError(f"a corpus needs positive sizes, exponent and tilt; not positive: {', '.join(wrong)}")
    draw = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
    chance = np.arange(1, vocabulary + 1) ** -exponent * draw.gamma(tilt, size=(classes, vocabulary))
    chance /= chance.sum(1, keepdims=True)
    y = draw.integers(classes, size=train + test)
    places = draw.random((train + test, words))
    ends = chance.cumsum(1)
    ends[:, -1] = 1.0
    written = np.stack([np.searchsorted(ends[c], row, side="right") for c, row in zip(y, places, strict=True)])
    x = torch.zeros(train + test, vocabulary, dtype=dtype)
    x.scatter_add_(1, torch.from_numpy(written), torch.ones(written.shape, dtype=dtype))
    labels, truth = torch.from_numpy(y), torch.from_numpy(chance)
    names = tuple(str(c) for c in range(classes))
    sha = hashlib.sha256(written.tobytes() + y.tobytes()).hexdigest()
    return _counted(
        "zipf", (x[:train], labels[:train]), (x[train:], labels[train:]), names, sha, {"probability": truth}
    )


def tokens(text: str) -> list[str]:
    """The words of a text, in small letters: runs of letters, digits and inner apostrophes."""
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)*", text.lower())


def vocabulary(texts: Sequence[str], size: int) -> tuple[str, ...]:
    """The ``size`` most frequent words of some texts (fewer if there are fewer), most frequent first, then by the
    alphabet.
    """
    counts = Counter(word for text in texts for word in tokens(text))
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:size])


def count(texts: Sequence[str], words: Sequence[str], dtype: torch.dtype = torch.float32) -> Tensor:
    """How often each of the ``words`` stands in each text: [len(texts), len(words)]. Other words count nothing."""
    place = {word: i for i, word in enumerate(words)}
    written = [[place[word] for word in tokens(text) if word in place] for text in texts]
    rows = torch.arange(len(texts)).repeat_interleave(torch.tensor([len(row) for row in written], dtype=torch.int64))
    columns = torch.tensor([i for row in written for i in row], dtype=torch.int64)
    x = torch.zeros(len(texts), len(words), dtype=dtype)
    return x.index_put_((rows, columns), torch.ones(len(rows), dtype=dtype), accumulate=True)


def ag_news(
    size: int = 2000, root: str | os.PathLike[str] | None = None, dtype: torch.dtype = torch.float32
) -> Dataset:
    """AG News descriptions (Zhang, Zhao and LeCun 2015) of four classes as counts of the ``size`` most frequent words.

    Reads ``text/ag_news/{dev,test}.tsv`` (text, tabulator, class) in $FEDLIB_DATA or fedlib's cache; ``dev``, without
    its few texts that stand in ``test`` as well, is the training part and gives the vocabulary, which
    ``extra["words"]`` holds. Raises DataUnavailable when a file is not there, DataCorrupt when it is another.
    """
    read = {part: _texts(part, root) for part in AG_NEWS}
    held_out = {text for text, _ in read["test"]}
    read["dev"] = [(text, label) for text, label in read["dev"] if text not in held_out]
    words = vocabulary([text for text, _ in read["dev"]], size)
    train, test = (
        (count([text for text, _ in rows], words, dtype), torch.tensor([NEWS.index(c) for _, c in rows]))
        for rows in (read["dev"], read["test"])
    )
    sha = hashlib.sha256("".join(AG_NEWS.values()).encode()).hexdigest()
    loading._used["ag_news"] = sha  # part of a run's provenance, like every other set
    return _counted("ag_news", train, test, NEWS, sha, {"words": words})


def _counted(name: str, train: Part, test: Part, classes: Sequence[str], sha: str, extra: dict[str, Any]) -> Dataset:
    dtype = train[0].dtype
    return Dataset(name, *train, *test, tuple(classes), sha, normalised=False, scale=1.0, dtype=dtype, extra=extra)


def _texts(part: str, root: str | os.PathLike[str] | None) -> list[tuple[str, str]]:
    paths = [folder / "text" / "ag_news" / f"{part}.tsv" for folder in packs.folders(root)]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        looked = "\n".join(f"  {p}" for p in paths)
        raise DataUnavailable(
            f"AG News has no automatic download and its {part} part was not found; looked for\n{looked}\n"
            "Put dev.tsv and test.tsv (one text, a tabulator and World, Sports, Business or Sci/Tech a line) there."
        )
    content = path.read_bytes()
    if (sha := hashlib.sha256(content).hexdigest()) != AG_NEWS[part]:
        raise DataCorrupt(f"{path} has sha256\n  {sha}\nexpected\n  {AG_NEWS[part]}\nIt was left as it is.")
    rows = [line.rsplit("\t", 1) for line in content.decode("utf-8").splitlines() if line.strip()]
    return [(text, label) for text, label in rows]
