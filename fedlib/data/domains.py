"""Digits 0 to 9 in several looks: one task whose inputs, not labels, differ from client to client.

A *domain* is a data set of its own (``mnist``, ``usps``, ``mnist_m``), scikit-learn's digits unchanged or changed by a
rule (``inverted``, ``faint``, ``striped``, ``speckled``), or digits rendered from fonts (``rendered``, ``printed``,
``signs``). All come in one size, one number of channels and one range of values: nothing is standardised domain by
domain, for that would take away most of the shift.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fedlib import rng

from . import glyphs, loading
from .glyphs import Domain

CLASSES = 10
Change = Callable[[Tensor, torch.Generator], Tensor]


def _unchanged(x: Tensor, generator: torch.Generator) -> Tensor:
    return x


def _inverted(x: Tensor, generator: torch.Generator) -> Tensor:
    return 1 - x


def _faint(x: Tensor, generator: torch.Generator) -> Tensor:
    return 0.55 + 0.3 * x


def _striped(x: Tensor, generator: torch.Generator) -> Tensor:
    """Every other column lighter by half of what is left to white."""
    lighter = x.clone()
    lighter[..., ::2] += 0.5 * (1 - lighter[..., ::2])
    return lighter


def _speckled(x: Tensor, generator: torch.Generator) -> Tensor:
    """Black or white, with a grey level of noise for each pixel."""
    return ((x > 0.5) + 0.3 * torch.randn(x.shape, generator=generator, dtype=x.dtype)).clamp(0, 1)


SETS: dict[str, tuple[str, Change]] = {
    "digits": ("digits", _unchanged),
    "inverted": ("digits", _inverted),
    "faint": ("digits", _faint),
    "striped": ("digits", _striped),
    "speckled": ("digits", _speckled),
    "mnist": ("mnist", _unchanged),
    "usps": ("usps", _unchanged),
    "mnist_m": ("mnist_m", _unchanged),
}
"""Domain -> the set that it is made of, and how its pixels in [0, 1] are changed."""

_FULL = Domain(jitter=0.1, rotation=10.0, scale=(1.2, 1.6), shift=0.04)  # as large in the image as cropped digits are

LOOKS: dict[str, Domain] = {
    "rendered": _FULL,
    "printed": replace(_FULL, ink=(0.1,) * 3, paper=(0.9,) * 3, background="texture", contrast=0.5),
    "colourful": replace(_FULL, ink=(0.8,) * 3, paper=(0.2,) * 3, jitter=0.3, blur=(0.0, 1.0)),
    "signs": replace(
        _FULL, ink=(0.75,) * 3, paper=(0.35,) * 3, jitter=0.2, background="gradient", contrast=0.3,
        blur=(0.5, 1.5), noise=0.03,
    ),
}  # fmt: skip
"""Rendered domain -> its look. ``signs`` stands where street numbers would: colours near each other, uneven light."""

NAMES = (*SETS, *LOOKS)


@dataclass(frozen=True, eq=False)
class Digits:
    """Samples of several domains: x [N, C, S, S] in [-1, 1], y [N] in 0..9; ``rows[d]`` are those of ``names[d]``."""

    names: tuple[str, ...]
    x: Tensor
    y: Tensor
    rows: list[Tensor]

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        """Images and labels of one domain."""
        own = self.rows[self.names.index(name)]
        return self.x[own], self.y[own]


def digits(
    names: Sequence[str],
    train: int,
    test: int,
    *,
    size: int = 28,
    channels: int = 3,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Digits, Digits]:
    """Training and test part: ``train`` and ``test`` samples of each domain, classes taking turns in random order.

    Domains that are made of the same set never share a training sample, and may share test samples. What a domain gets
    does not depend on which others stand beside it, but for the place among those of its own set. Pixels p are given
    as (p - 0.5) / 0.5. Raises ValueError for an unknown domain or when a set has too few samples.
    """
    if unknown := [n for n in names if n not in NAMES]:
        raise ValueError(f"no domain is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    parts: list[list[tuple[Tensor, Tensor]]] = [[], []]
    for place, name in enumerate(names):
        if name in LOOKS:
            pairs = [_rendered(name, n, size, channels, (seed, name, i)) for i, n in enumerate((train, test))]
        else:
            before = sum(SETS[n][0] == SETS[name][0] for n in names[:place] if n in SETS)
            pairs = _taken(name, (train, test), before, size, channels, seed)
        for part, pair in zip(parts, pairs, strict=True):
            part.append(pair)
    return _joined(names, parts[0], dtype), _joined(names, parts[1], dtype)


def _joined(names: Sequence[str], parts: list[tuple[Tensor, Tensor]], dtype: torch.dtype) -> Digits:
    x, y = (torch.cat(values) for values in zip(*parts, strict=True))
    each = torch.arange(len(y)).split([len(labels) for _, labels in parts])
    return Digits(tuple(names), (x.to(dtype) - 0.5) / 0.5, y, list(each))


def _rendered(name: str, count: int, size: int, channels: int, key: tuple[int | str, ...]) -> tuple[Tensor, Tensor]:
    x, y = glyphs.render("0123456789", count, size=size, channels=channels, domain=LOOKS[name], rng=rng.stream(*key))
    return (x * 255).round() / 255, y  # bytes: the last bit of a rendered pixel differs between processors


def _taken(
    name: str, counts: tuple[int, int], before: int, size: int, channels: int, seed: int
) -> list[tuple[Tensor, Tensor]]:
    source, change = SETS[name]
    whole = loading.load(source, raw=True, normalise=False)
    pairs = []
    for part, count, skipped in zip(("train", "test"), counts, (before, 0), strict=True):
        labels = getattr(whole, f"y_{part}")
        if (skipped + 1) * count > len(labels):
            raise ValueError(
                f"domain {name!r}: {(skipped + 1) * count} {part} samples of {source} are wanted for {skipped + 1} "
                f"domains, there are {len(labels)}"
            )
        rows = in_turns(labels, rng.stream(seed, source, part))[skipped * count : (skipped + 1) * count]
        x = _sized(whole.prepare(getattr(whole, f"x_{part}")[rows]), size, channels)
        pairs.append((change(x, rng.stream(seed, name, part)), labels[rows]))
    return pairs


def _sized(x: Tensor, size: int, channels: int) -> Tensor:
    if x.shape[-1] != size:
        x = interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
    if x.shape[1] == channels:
        return x
    return x.expand(-1, channels, -1, -1) if x.shape[1] == 1 else x.mean(1, keepdim=True)


def in_turns(labels: Tensor, generator: torch.Generator) -> Tensor:
    """All rows in an order in which the classes take turns, random within each class: every stretch is about balanced,
    while no class has run out. ``labels`` [N]; result int64 [N].
    """
    order = torch.randperm(len(labels), generator=generator)
    turn = torch.empty_like(order)
    for c in labels.unique():
        own = labels[order] == c
        turn[own] = torch.arange(int(own.sum()))
    return order[torch.argsort(turn, stable=True)]
