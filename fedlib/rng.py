"""Randomness by key: every draw comes from a stream that is named by what it is for.

A stream depends only on its key, for example ``stream(seed, "batches", round, client)``, never on what was
drawn before. So the order in which clients are computed, or whether a method draws extra numbers, changes
nothing for anybody else.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

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
