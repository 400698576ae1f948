"""CCVR (Luo et al. 2021, Algorithm 1): after training, the server re-trains the classifier on virtual features."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fedlib import rng
from fedlib.algorithms.fedavg import FedAvg
from fedlib.calibration import Calibration, Moments, class_moments, fit_head, pool, sample
from fedlib.federation import Federation, Job, Phase
from fedlib.ledger import payload_bytes
from fedlib.models.net import State

DEFAULT = Calibration()
HEAD = "head."


class CCVR(FedAvg):
    """Train as ``base`` does (FedAvg by default), then calibrate the server's head in one extra round.

    In that round *all* clients receive the model, and each uploads count, mean and covariance of every class of its
    features; the ledger gets an entry for it. It is played at the end of round ``rounds`` (counted from 1), before
    that round's observers look; without ``rounds``, whenever :meth:`calibrate` is called. Until then the bits are the
    base's.
    """

    def __init__(self, base: FedAvg | None = None, how: Calibration = DEFAULT, rounds: int | None = None):
        self.base, self.how, self.rounds = base or FedAvg(), how, rounds
        self.personal, self.weighting = self.base.personal, self.base.weighting
        plain = (f"{n}={v}" for n, v in vars(self.base).items() if isinstance(v, bool | int | float | str))
        self.of = " ".join([type(self.base).__name__, *plain])  # so that checkpoints tell bases apart

    def aggregate(self, fed: Federation, uploads: list[State], weights: Tensor) -> Iterator[Job]:
        yield from self.base.aggregate(fed, uploads, weights) or ()
        if fed.round + 1 == self.rounds:
            self.calibrate(fed, self.rounds)

    def calibrate(self, fed: Federation, number: int | None = None) -> None:
        """Play the extra round and put the calibrated head into ``fed.state``; nothing else in it changes.

        ``number`` of rounds played, part of the key of the draws: the federation's own by default.
        """
        fed.state = self._fitted(fed, self.collect(fed), number)

    def calibrated(self, fed: Federation, number: int | None = None) -> State:
        """The server's model as it would be if the extra round were played now: nothing is booked, nothing changes."""
        return self._fitted(fed, pool([Moments.received(payload) for payload in self._payloads(fed)]), number)

    def _fitted(self, fed: Federation, moments: Moments, number: int | None) -> State:
        number = fed.round if number is None else number
        z, y = sample(moments, [self.how.samples] * len(moments.count), fed.seed, "virtual features", number)
        head = {n.removeprefix(HEAD): t for n, t in fed.state.items() if n.startswith(HEAD)}
        fitted = fit_head(head, z, y, self.how, rng.stream(fed.seed, "calibration", number))
        return fed.state | {HEAD + n: t for n, t in fitted.items()}

    def collect(self, fed: Federation) -> Moments:
        """The extra round without its end: the pooled moments of all clients' features, booked in the ledger.

        Raises ValueError for a network without a common linear layer ``head``.
        """
        sent = self._payloads(fed)
        fed.ledger.down.append(payload_bytes(self.broadcast(fed)) * fed.clients)
        fed.ledger.up.append(sum(map(payload_bytes, sent)))
        return pool([Moments.received(payload) for payload in sent])

    def _payloads(self, fed: Federation) -> list[State]:
        if f"{HEAD}weight" not in fed.state or any(n.startswith(HEAD) for n in fed.personal):
            raise ValueError(
                "CCVR calibrates a linear classifier that all clients share: the network needs a layer named 'head', "
                f"and none of it may be personal; parameters {list(fed.net.parameters)}, personal {list(fed.personal)}"
            )
        return [self.moments(fed, k).payload(fed.dtype) for k in range(fed.clients)]

    def moments(self, fed: Federation, client: int) -> Moments:
        """A client's class moments: of the *received* model's features, in evaluation mode, without augmentation."""
        state, rows = fed.state | fed.own.get(client, {}), fed.split[client]
        parts = [fed.net.predict(state, fed.input(fed.x[some]), features=True) for some in rows.split(2048)]
        return class_moments(torch.cat(parts), fed.y[rows], len(fed.state[f"{HEAD}weight"]))

    # Everything else is the base's.

    def setup(self, fed: Federation) -> None:
        self.base.setup(fed)

    def broadcast(self, fed: Federation) -> State:
        return self.base.broadcast(fed)

    def context(self, fed: Federation, client: int) -> State:
        return self.base.context(fed, client)

    def phases(self, fed: Federation) -> list[Phase]:
        return self.base.phases(fed)

    def keep(self, fed: Federation, client: int, state: State) -> None:
        self.base.keep(fed, client, state)

    def upload(self, fed: Federation, client: int, state: State) -> State:
        return self.base.upload(fed, client, state)
