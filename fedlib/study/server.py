"""Servers with images of their own, and what other server steps would make of the models they receive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from fedlib import data, metrics, rng
from fedlib.algorithms import FedAvg
from fedlib.federation import Federation, Observer, Round, weighted_mean
from fedlib.study.setting import Federated, Samples


@dataclass(frozen=True, kw_only=True)
class WithServer(Federated):
    """A federation whose server keeps images that no client has. The training part is put into an order of the seed's
    own: first come the server's images, then the clients'. The test set is the same for all seeds.
    """

    whole: ClassVar[tuple[str, ...]] = (*Federated.whole, "held_out")

    held_out: int  # images that the server keeps, without labels
    validation: int = 0  # and with labels
    images: str | None = None  # the set from which those without labels come; None: the clients' own

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flat or self.redraw or not self.normalise:
            raise ValueError("a federation whose server has images takes them standardised, unflattened and as dealt")

    def draw(self, seed: int) -> Samples:
        """The samples of a seed."""
        return self._parts(seed).clients

    def unlabelled(self, seed: int, images: str | None = None) -> Tensor:
        """The server's images [held_out, ...], or the first of another set's, in the form of this one's."""
        foreign = images or self.images
        return _foreign(self.data, foreign, self.held_out, self.dtype) if foreign else self._parts(seed).unlabelled

    def labelled(self, seed: int) -> tuple[Tensor, Tensor]:
        """The server's images with labels: x [validation, ...] and y [validation]."""
        return self._parts(seed).labelled

    def _parts(self, seed: int) -> _Parts:
        return _parted(self.data, self.held_out, self.validation, self.samples, self.test, self.dtype, seed)


class _Parts(NamedTuple):
    clients: Samples
    unlabelled: Tensor
    labelled: tuple[Tensor, Tensor]


@lru_cache(maxsize=8)
def _parted(
    name: str, held_out: int, validation: int, samples: int | None, test: int | None, dtype: torch.dtype, seed: int
) -> _Parts:
    own = data.load(name, dtype=dtype)
    order = torch.randperm(len(own.y_train), generator=rng.stream(seed, "held out"))
    unlabelled, labelled, train = order.tensor_split([held_out, held_out + validation])
    train = train[:samples]
    judge = torch.randperm(len(own.y_test), generator=rng.stream(0, "test"))[:test]
    clients = Samples(own.x_train[train], own.y_train[train], own.x_test[judge], own.y_test[judge])
    return _Parts(clients, own.x_train[unlabelled], (own.x_train[labelled], own.y_train[labelled]))


@lru_cache(maxsize=2)
def _foreign(name: str, foreign: str, count: int, dtype: torch.dtype) -> Tensor:
    pixels = data.load(foreign, dtype=dtype, normalise=False).x_train[:count]
    return data.load(name, dtype=dtype).standardise(pixels)


def received(samples: Samples) -> Observer:
    """For ``watch``: test accuracy of what the server received in a round, whatever it made of it: ``averaged``, the
    averaged model, and ``ensemble``, the averaged logits.
    """

    def observe(fed: Federation, seen: Round) -> dict[str, Any]:
        x, y = fed.input(samples.x_test), samples.y_test.to(fed.device)
        states = [{**fed.state, **upload} for upload in seen.uploads]
        average = weighted_mean(states, _shares(fed, seen, fed.algorithm))
        alone, together = fed.net.predict(average, x), fed.net.predict_all(states, x).mean(0)
        return {"averaged": metrics.accuracy(alone, y), "ensemble": metrics.accuracy(together, y)}

    return observe


def fusions(ways: Mapping[str, FedAvg], number: int) -> Callable[[Samples], Observer]:
    """For ``watch``: what other server steps would make of the models received in round ``number`` (from 1 on), while
    the federation goes on undisturbed. ``fused/<name>`` is the test accuracy, ``agreement/<name>`` the share of test
    samples on which the fused model and the ensemble of the received ones name the same class.
    """

    def observe(fed: Federation, seen: Round, samples: Samples) -> dict[str, Any]:
        x, y, found = fed.input(samples.x_test), samples.y_test.to(fed.device), {}
        ensemble = fed.net.predict_all([{**fed.state, **upload} for upload in seen.uploads], x).mean(0)
        for name, way in ways.items():
            state, memory = fed.state, dict(fed.memory)
            fed.aggregate(seen.uploads, _shares(fed, seen, way), way)
            logits = fed.net.predict(fed.state, x)
            fed.state, fed.memory = state, memory
            found[f"fused/{name}"] = metrics.accuracy(logits, y)
            found[f"agreement/{name}"] = metrics.agreement(logits, ensemble)
        return found

    def watch(samples: Samples) -> Observer:
        return lambda fed, seen: observe(fed, seen, samples) if seen.number + 1 == number else {}

    return watch


def _shares(fed: Federation, seen: Round, algorithm: FedAvg) -> Tensor:
    sizes = torch.tensor([len(fed.split[k]) for k in seen.clients], dtype=torch.float64)
    sizes = sizes if algorithm.weighting == "samples" else torch.ones_like(sizes)
    return sizes / sizes.sum()
