"""Servers with images of their own, and a server step tried out without consequences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from fedlib import data, metrics, rng
from fedlib.algorithms import FedAvg
from fedlib.federation import Federation, Observer, Round, weighted_mean
from fedlib.models.net import State
from fedlib.study.setting import Federated, Samples


@dataclass(frozen=True, kw_only=True)
class WithServer(Federated):
    """A federation whose server keeps images that no client has. The training part is put into an order of the seed's
    own: first come the server's images, then the clients'. The test set is the same for all seeds.
    """

    whole: ClassVar[tuple[str, ...]] = (*Federated.whole, "held_out")

    held_out: int  # images that the server keeps, without labels
    validation: int = 0  # and with labels

    def draw(self, seed: int) -> Samples:
        """The samples of a seed."""
        return self._parts(seed).clients

    def unlabelled(self, seed: int) -> Tensor:
        """The server's images [held_out, ...]."""
        return self._parts(seed).unlabelled

    def labelled(self, seed: int) -> tuple[Tensor, Tensor]:
        """The server's images with labels: x [validation, ...] and y [validation]."""
        return self._parts(seed).labelled

    def _parts(self, seed: int) -> _Parts:
        return _parted(self.data, self.held_out, self.validation, self.samples, self.test, self.dtype, seed)


class _Parts(NamedTuple):
    clients: Samples
    unlabelled: Tensor
    labelled: tuple[Tensor, Tensor]


@lru_cache(maxsize=16)
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


def shares(fed: Federation, seen: Round, weighting: str = "samples") -> Tensor:
    """Weights [m] (float64, of sum 1) of a round's clients in the average: by their samples, or ``"uniform"``."""
    sizes = torch.tensor([len(fed.split[k]) for k in seen.clients], dtype=torch.float64)
    sizes = sizes if weighting == "samples" else torch.ones_like(sizes)
    return sizes / sizes.sum()


def fused(fed: Federation, uploads: list[State], weights: Tensor, algorithm: FedAvg) -> State:
    """What the server step of ``algorithm`` makes of the uploads; the federation stays as it is."""
    state, memory = fed.state, dict(fed.memory)
    fed.aggregate(uploads, weights, algorithm)
    made, fed.state, fed.memory = fed.state, state, memory
    return made


def received(samples: Samples) -> Observer:
    """For ``watch``: test accuracy of what the server received in a round, whatever it made of it: ``averaged``, the
    averaged model, and ``ensemble``, the averaged logits.
    """

    def observe(fed: Federation, seen: Round) -> dict[str, Any]:
        x, y = fed.input(samples.x_test), samples.y_test.to(fed.device)
        states = [{**fed.state, **upload} for upload in seen.uploads]
        average = weighted_mean(states, shares(fed, seen, fed.algorithm.weighting))
        together = fed.net.predict_all(states, x).mean(0)
        alone = fed.net.predict(average, x)
        return {"averaged": metrics.accuracy(alone, y), "ensemble": metrics.accuracy(together, y)}

    return observe
