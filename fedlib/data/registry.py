"""What is known beforehand about each data set: where it comes from, its checksums, its pixel statistics.

The facts stand in `fedlib.data.sets`, one small module per set, so that an installed `fedlib` needs no file beside it.
The cards in the repository's `data/` folder say the same to people, with source and licence; a test holds the two
together.
"""

from __future__ import annotations

import difflib
import pkgutil
from dataclasses import dataclass
from importlib import import_module
from typing import Literal


class DataUnavailable(RuntimeError):
    """A data set that was asked for cannot be had; the message says what to put where."""


class DataCorrupt(DataUnavailable):
    """A file is there, but it is not the data set that its name says."""


@dataclass(frozen=True)
class Card:
    """One data set as known beforehand.

    `sha256` lists the content checksums (see `packs.content_sha256`) of every accepted pack, and `samples_sha256` those
    of their samples in any order (`packs.samples_sha256`), by which an original download is known. `mean` and `std`
    are per channel, over all pixels of the training part after division by `scale`.
    """

    name: str
    loader: Literal["embedded", "torchvision", "pack"]
    shape: tuple[int, int, int]  # channels, height, width
    sizes: tuple[int, int]  # training and test samples
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: tuple[str, ...]
    scale: float = 255.0
    samples_sha256: tuple[str, ...] = ()
    whole: tuple[int, int] | None = None  # sizes of the original set, where the known pack is a part of it
    reader: str | None = None  # torchvision's class
    archive_sha256: str | None = None  # of an archive whose files are pickles: nothing is unpickled before it matched


def names() -> list[str]:
    """All known data sets, sorted."""
    from . import sets

    return sorted(module.name for module in pkgutil.iter_modules(sets.__path__))


def card(name: str) -> Card:
    """The card of a data set; an unknown name raises `DataUnavailable` with the nearest known one."""
    known = names()
    if name in known:
        return import_module(f"{__package__}.sets.{name}").CARD
    near = difflib.get_close_matches(str(name).lower().replace("-", "_"), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise DataUnavailable(f"Unknown data set {name!r}.{hint} Known: {', '.join(known)}.")
