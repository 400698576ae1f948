"""Settings: what an experiment is made of, in fields with names that are words.

A chapter subclasses :class:`Federated` (or :class:`Setting`, where nothing is federated) and adds its own fields; a
profile is a ``dataclasses.replace`` of another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from fedlib import data, observe, require, rng
from fedlib.federation import Federation, Local, Observer, together
from fedlib.study.splits import IID, Split

S = TypeVar("S", bound="Setting")


NOTHING = "a setting in which nothing trains: there is nothing to federate; take study.Federated or study.Central"


class Samples(NamedTuple):
    """Training samples of all clients together, x [N, ...] and y [N], and those to be judged by: by all of them or,
    where clients have models of their own, client k by ``rows[k]``.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    rows: Sequence[Tensor] = ()

    def held_out(self, share: float, draws: torch.Generator) -> Samples:
        """The training samples alone, of which a random ``share`` in (0, 1) stands for the test set."""
        require.real("share", share, above=0, below=1)
        count = max(1, int(share * len(self.y)))
        test, train = torch.randperm(len(self.y), generator=draws).split([count, len(self.y) - count])
        return Samples(self.x[train], self.y[train], self.x[test], self.y[test])


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every experiment has."""

    whole: ClassVar[tuple[str, ...]] = ("seeds",)  # fields that count something: whole numbers from 1 on

    seeds: int  # how many
    dtype: torch.dtype = torch.float32  # of weights and samples
    last: int = 1  # a run is judged by the mean of its last rounds or epochs
    at_once: int | None = None  # seeds trained side by side; None: all. One by one, a kill loses less

    def __post_init__(self) -> None:
        for name in self.whole:
            if getattr(self, name) is not None:
                require.whole(name, getattr(self, name), 1)

    def draw(self, seed: int) -> Samples:
        """The samples of a seed."""
        raise TypeError(f"{type(self).__name__}: {NOTHING}")

    def start(
        self,
        algorithm: Any,
        seed: int,
        *,
        samples: Samples | None = None,
        watch: Sequence[Callable[[Samples], Any]] = (),
        device: str = "auto",
    ) -> Any:
        """What trains one method for one seed, at its start; settings say which (:meth:`play` trains it)."""
        raise TypeError(f"{type(self).__name__}: {NOTHING}")

    def play(self, started: Sequence[Any]) -> None:
        """Train what was started, to the end."""
        raise TypeError(f"{type(self).__name__}: {NOTHING}")


@dataclass(frozen=True, kw_only=True)
class Federated(Setting):
    """What every experiment with a federation has."""

    whole: ClassVar[tuple[str, ...]] = ("seeds", "clients", "rounds", "last", "samples", "test")

    data: str  # a data set's name (:func:`fedlib.data.load`)
    model: Callable[[], nn.Module]  # makes the network
    clients: int
    rounds: int
    split: Split = field(default_factory=IID)  # who holds what
    local: Local = field(default_factory=Local)  # how a client trains
    participation: float = 1.0  # share of the clients sampled in each round
    samples: int | None = None  # training samples of all clients together; None: all of the set
    test: int | None = None  # test samples; None: all
    normalise: bool = True  # standardised channels; else pixels in [0, 1]
    flat: bool = False  # samples as rows [N, D]
    redraw: bool = False  # training and test part drawn anew for each seed from all samples of the set
    last: int = 5  # a run is judged by the mean of its last rounds: one round alone is noisy
    by_class: bool = False  # the accuracy of each class is looked at, too

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, example in {"split": "study.Dirichlet(0.1)", "model": "models.MLP, which makes a network"}.items():
            if not callable(value := getattr(self, name)):
                raise ValueError(f"{name}: expected something to call, such as {example}; got {value!r}")
        if not isinstance(self.local, Local):
            raise ValueError(f"local: expected how a client trains, such as Local(epochs=5); got {self.local!r}")
        require.whole("epochs", self.local.epochs, 1)
        require.real("participation", self.participation, above=0, most=1)

    def draw(self, seed: int) -> Samples:
        """The samples of a seed."""
        return drawn(self, seed)

    def parts(self, samples: Samples, seed: int) -> list[Tensor]:
        """Rows of each client."""
        return self.split(samples.y, self.clients, rng.stream(seed, "split"))

    def observers(self, samples: Samples) -> Sequence[Observer]:
        """What is looked at every round: ``accuracy`` of the server's model, ``class_accuracy`` if ``by_class``."""
        return [observe.server_accuracy(samples.x_test, samples.y_test, self.by_class)]

    def late(self, observer: Observer) -> Observer:
        """The observer in the last rounds only, those that judge: for what takes long to look at."""
        return lambda fed, seen: observer(fed, seen) if seen.number >= self.rounds - self.last else {}

    def federation(
        self,
        algorithm: Any,
        seed: int,
        *,
        samples: Samples | None = None,
        watch: Sequence[Callable[[Samples], Observer]] = (),
        **options: Any,
    ) -> Federation:
        """The federation of one seed: same samples, split, batches and first weights for every algorithm.

        ``samples`` stand for those of the seed; ``watch`` makes further observers of them; ``options`` go to
        :class:`~fedlib.federation.Federation`.
        """
        samples = self.draw(seed) if samples is None else samples
        watching = [*self.observers(samples), *(make(samples) for make in watch)]
        given: dict[str, Any] = {"local": self.local, "participation": self.participation, "dtype": self.dtype}
        given |= {"seed": seed, "observers": watching} | options
        return Federation(self.model, samples.x, samples.y, self.parts(samples, seed), algorithm, **given)

    def start(
        self,
        algorithm: Any,
        seed: int,
        *,
        samples: Samples | None = None,
        watch: Sequence[Callable[[Samples], Any]] = (),
        device: str = "auto",
    ) -> Federation:
        """:meth:`federation`."""
        return self.federation(algorithm, seed, samples=samples, watch=watch, device=device)

    def play(self, federations: Sequence[Federation]) -> None:
        """Train federations of several seeds side by side: all rounds, unless a chapter's setting stops earlier."""
        together(federations, self.rounds)


def drawn(setting: Any, seed: int) -> Samples:
    """The samples of a seed, by the fields data, samples, test, normalise, flat, redraw and dtype of a setting."""
    part = (setting.samples, setting.test)
    anew = setting.redraw or any(part) or setting.data == "mnist1d"
    form = (setting.normalise, setting.flat, setting.redraw, setting.dtype)
    return _drawn(setting.data, *part, *form, seed if anew else None)


@lru_cache(maxsize=8)
def _drawn(
    name: str,
    train: int | None,
    test: int | None,
    normalise: bool,
    flat: bool,
    redraw: bool,
    dtype: torch.dtype,
    seed: int | None,
) -> Samples:
    if name == "mnist1d":
        from fedlib.data import mnist1d

        own = mnist1d.dataset(train or 4000, test or 1000, seed or 0, dtype=dtype)
        data.load(name)  # its checksum is part of the provenance
    else:
        own = data.load(name, dtype=dtype, normalise=normalise)
        if seed is not None:
            own = own.redraw(rng.stream(seed, "redraw")) if redraw else own
            test = min(test, len(own.y_test)) if test else None
            own = own.subset(train, test, rng=rng.stream(seed, "subset"), balanced=False)
    own = own.flat() if flat else own
    return Samples(own.x_train, own.y_train, own.x_test, own.y_test)


def vary(setting: S, **changes: Any) -> S:
    """The setting with other values, None leaving what is there. A name is a field of the setting, or of one of its
    parts: ``vary(setting, alpha=0.1, epochs=1)`` reaches ``setting.split.alpha`` and ``setting.local.epochs``.

    Raises ValueError for a name that neither has, or that two parts have.
    """
    for name, value in changes.items():
        if value is None:
            continue
        if name in {f.name for f in fields(setting)}:
            setting = replace(setting, **{name: value})
            continue
        homes = [part for part, names in _parts(setting).items() if name in names]
        if len(homes) != 1:
            known = sorted({f.name for f in fields(setting)}.union(*_parts(setting).values()))
            raise ValueError(
                f"{name} = {value!r}: the setting has {'two of that name' if homes else 'no such field'}; "
                f"it has {', '.join(known)}"
            )
        setting = replace(setting, **{homes[0]: replace(getattr(setting, homes[0]), **{name: value})})
    return setting


def described(setting: Setting) -> dict[str, Any]:
    """The setting as names and plain values, JSON-able, for the evidence and for the prose that quotes it.

    Fields of its parts stand under their own names, or under ``part.name`` where that is taken.
    """
    plain: dict[str, Any] = {}
    for f in fields(setting):
        value = getattr(setting, f.name)
        if is_dataclass(value) and not isinstance(value, type):
            plain[f.name] = type(value).__name__
            for part in fields(value):
                name = part.name if part.name not in plain else f"{f.name}.{part.name}"
                plain[name] = _plain(getattr(value, part.name))
        else:
            plain[f.name] = _plain(value)
    return plain


def _parts(setting: Setting) -> dict[str, list[str]]:
    values = {f.name: getattr(setting, f.name) for f in fields(setting)}
    return {n: [f.name for f in fields(v)] for n, v in values.items() if is_dataclass(v) and not isinstance(v, type)}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(v) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, partial):
        return _plain(value.func)
    return getattr(value, "__name__", None) or str(value).removeprefix("torch.")
