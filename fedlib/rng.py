"""Randomness by key: every draw comes from a stream that is named by what it is for.

A stream depends only on its key, for example ``stream(seed, "batches", round, client)``, never on what was
drawn before. So the order in which clients are computed, or whether a method draws extra numbers, changes
nothing for anybody else.

Streams of two kinds: :func:`stream` is torch's generator, on the host. :class:`Rows` counts instead of remembering, so
that the draws of many batches are one piece of tensor arithmetic on their device. Its generator is SplitMix64 (Steele,
Lea and Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA): number n of the seed s is mix(s + (n + 1)
gamma) in 64 bits that wrap around.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

GAMMA, FIRST, SECOND = (v - (1 << 64) for v in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
BLOCK = 1 << 32  # numbers of a seed that one step, or one call, may take


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


def splitmix(seeds: Tensor, n: Tensor) -> Tensor:
    """Number n (from 0) that SplitMix64 gives for each seed: int64, of the shape that the two have together.

    All 64 bits are random, the sign, too. The same bits on every device.
    """
    z = seeds + (n + 1) * GAMMA
    z = (z ^ _right(z, 30)) * FIRST
    z = (z ^ _right(z, 27)) * SECOND
    return z ^ _right(z, 31)


def _right(z: Tensor, places: int) -> Tensor:
    """A shift to the right that brings in zeros, where that of int64 repeats the sign."""
    return (z >> places) & ((1 << (64 - places)) - 1)


def rows(keys: Tensor, step: int | Tensor, width: int) -> Tensor:
    """Keys [width, K] for :class:`Rows`: of each row of the batches that K clients take at a step.

    ``keys`` [K] are int64, one of :func:`key` for each client. ``step`` is at least 0 and less than 2^31: an int, or an
    int64 tensor with one element on the device of the keys, of which nothing comes to the host.
    """
    n = torch.arange(width, device=keys.device)[:, None] + step * BLOCK
    return splitmix(keys, n)


class Rows:
    """A source of draws with a key for each row of a batch: ``keys`` [rows], int64 (:func:`rows`).

    What a row draws depends on its own key, on how often this source was asked before, and on the place within the
    row: not on the other rows, nor on how many there are. Draws are made on the device of the keys, with the same bits
    on each. Raises ValueError for keys of another shape or type.
    """

    def __init__(self, keys: Tensor):
        if keys.ndim != 1 or keys.dtype != torch.int64:
            raise ValueError(f"one int64 key is needed for each row, got {keys.dtype} {list(keys.shape)}")
        self.keys, self.calls = keys, 0

    def bits(self, shape: Sequence[int], rows: int = 0) -> Tensor:
        """64 random bits for each entry, as int64. Raises ValueError unless dimension ``rows`` is as long as the keys
        are many.
        """
        if shape[rows] != len(self.keys):
            raise ValueError(f"the keys are for {len(self.keys)} rows, the batch has {shape[rows]}")
        one, all_ = [list(shape), [1] * len(shape)]
        one[rows], all_[rows] = 1, len(self.keys)
        places = torch.arange(math.prod(one), device=self.keys.device).reshape(one) + self.calls * BLOCK
        self.calls += 1
        return splitmix(self.keys.reshape(all_), places)


Source = torch.Generator | Rows
"""Where draws for a batch come from."""


def integers(source: Source, below: int, shape: Sequence[int], rows: int = 0) -> Tensor:
    """Integers in [0, below) of the given shape, on the source's device; ``rows`` is the batch dimension.

    :class:`Rows` scales 32 bits (Lemire 2019 without rejection): no value is more likely than another by more than
    2^-32. Raises ValueError where it is asked for none, or for more than 2^31.
    """
    if isinstance(source, torch.Generator):
        return torch.randint(below, tuple(shape), generator=source, device=source.device)
    if not 1 <= below <= 1 << 31:
        raise ValueError(f"integers below {below} were asked for; expected 1 to 2^31")
    return (_right(source.bits(shape, rows), 32) * below) >> 32


def uniform(source: Source, shape: Sequence[int], rows: int = 0) -> Tensor:
    """Numbers uniform in [0, 1) of the given shape, on the source's device; ``rows`` is the batch dimension.

    They are multiples of 2^-24, all of which float32 has.
    """
    if isinstance(source, torch.Generator):
        return torch.rand(tuple(shape), generator=source, device=source.device)
    return _right(source.bits(shape, rows), 40) * 2.0**-24
