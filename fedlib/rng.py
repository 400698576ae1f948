"""Randomness by key: every draw comes from a stream that is named by what it is for.

A stream depends only on its key, for example ``stream(seed, "batches", round, client)``, never on what was
drawn before. So the order in which clients are computed, or whether a method draws extra numbers, changes
nothing for anybody else.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def key(*parts: int | str) -> int:
    """A 63-bit seed from a sequence of integers and strings; different sequences give unrelated seeds."""
    text = "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def stream(*parts: int | str) -> torch.Generator:
    """A fresh CPU generator for the key ``parts``: same key, same numbers, on every device."""
    return torch.Generator().manual_seed(key(*parts))


@contextmanager
def isolated(*parts: int | str) -> Iterator[None]:
    """Run code that draws from torch's global generator (layer initialisation) on the stream of a key, leaving the
    global state as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(*parts))
        yield


def build(make: Callable[[], T], *parts: int | str) -> T:
    """``make()`` with torch's global generator on the stream of a key: a model with reproducible first weights."""
    with isolated(*parts):
        return make()


@dataclass(frozen=True)
class Several:
    """The streams of several batches laid end to end: ``counts[i]`` rows draw from ``generators[i]``.

    What takes it in place of one generator gives every row the numbers that its batch would have had alone, and so
    can work on the batches of many clients at once. Raises ValueError when the two lists do not belong together.
    """

    generators: Sequence[torch.Generator]
    counts: Sequence[int]

    def __post_init__(self) -> None:
        if not self.generators or len(self.generators) != len(self.counts) or min(self.counts) < 0:
            given = f"{len(self.generators)} generators and the counts {list(self.counts)}"
            raise ValueError(f"one count of 0 or more rows is needed for each generator, got {given}")


Source = torch.Generator | Several
"""Where draws for a batch come from."""


def integers(source: Source, below: int, shape: Sequence[int], rows: int = 0) -> Tensor:
    """Integers in [0, below) of the given shape, on the generator's device; ``rows`` is the batch dimension."""
    return _draw(lambda size, g: torch.randint(below, size, generator=g, device=g.device), source, shape, rows)


def uniform(source: Source, shape: Sequence[int], rows: int = 0) -> Tensor:
    """Numbers uniform in [0, 1) of the given shape, on the generator's device; ``rows`` is the batch dimension."""
    return _draw(lambda size, g: torch.rand(size, generator=g, device=g.device), source, shape, rows)


def _draw(
    draw: Callable[[Sequence[int], torch.Generator], Tensor], source: Source, shape: Sequence[int], rows: int
) -> Tensor:
    if isinstance(source, torch.Generator):
        return draw(shape, source)
    if sum(source.counts) != shape[rows]:
        raise ValueError(f"the generators are for {sum(source.counts)} rows, the batch has {shape[rows]}")
    sizes = [(*shape[:rows], count, *shape[rows + 1 :]) for count in source.counts]
    return torch.cat([draw(size, g) for size, g in zip(sizes, source.generators, strict=True)], rows)
